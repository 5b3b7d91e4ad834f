//! Waits until all is over, has everything checked, and says how it was.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backstop::providers::loopback_client;
use backstop::sim::Sim;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::ages::{maker, measure};
use crate::book::{Book, Record, Violation, now};
use crate::calls::{ANSWER_PATIENCE, OPERATOR};
use crate::chaos::Tally;
use crate::checks::{Checks, Shown, Vendors};
use crate::driver::Stage;
use crate::site::{CEILING, Site};
use crate::troubles::Troubles;

/// Most histories that are printed.
const MOST_HISTORIES: usize = 5;

/// One line that says how far it is.
pub fn progress(began: Instant, book: &Book, tally: &Tally, sim: &Sim) {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "  {:5.1} s  begun {}, played {}; killed: replicas {}, Postgres {}, backends {}; vendors' bouts {}; \
         servers there {}, devices {}",
        began.elapsed().as_secs_f64(),
        read(&book.begun),
        read(&book.played),
        read(&tally.replicas),
        read(&tally.postgres),
        read(&tally.backends),
        read(&tally.bouts),
        sim.servers().len(),
        sim.devices().len(),
    );
}

/// Waits until nothing is waited for and nothing is left that nobody needs.
pub async fn wait_until_settled(
    site: &Site,
    book: &Book,
    troubles: &Troubles,
) -> anyhow::Result<()> {
    let latest = book
        .records()
        .values()
        .filter_map(|it| it.latest_arrival)
        .max();
    let patience = CEILING.after_a_crash() * 2 + CEILING.late() * 2 + CEILING.unreported() * 2;
    let until = Instant::now() + patience;
    loop {
        site.resume_if_held(troubles, &book.holds).await?;
        let (unsettled, live): (i64, i64) = sqlx::query_as(
            "select (select count(*) from steps where settled_at is null),
                    (select count(*) from provisions where status in ('queued', 'provisioning'))",
        )
        .fetch_one(&site.pool)
        .await?;
        let running: Vec<(Uuid, i32)> =
            sqlx::query_as("select id, attempt from provisions where status = 'running'")
                .fetch_all(&site.pool)
                .await?;
        let foreign = book.foreign();
        let left = site
            .sim
            .lives()
            .into_iter()
            .filter(|life| life.ended.is_none() && !foreign.contains(&(life.kind, life.id.clone())))
            .filter_map(|life| maker(&life))
            .filter(|(id, attempt)| {
                !running
                    .iter()
                    .any(|(running, number)| running == id && i64::from(*number) == *attempt)
            })
            .count();
        let arrived = latest.is_none_or(|latest| latest < now());
        if unsettled == 0 && live == 0 && left == 0 && arrived {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{unsettled} steps are unsettled, {live} provisions live, {left} things left");
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Has everything checked and prints what came of it. Whether it is good.
pub async fn pass(
    site: &Site,
    stage: &Stage,
    troubles: &Troubles,
    tally: &Tally,
    seed: u64,
    began: Instant,
) -> anyhow::Result<bool> {
    let book = &stage.book;
    let mut records = book.records();
    let shown = ask_all(site, &records).await?;
    for (id, record) in &mut records {
        for (number, at) in shown.get(id).map(Shown::times_up).unwrap_or_default() {
            let attempt = record.attempts.iter_mut().find(|it| it.number == number);
            if let Some(attempt) = attempt {
                attempt.time_was_up(at);
            }
        }
    }
    let vendors = Vendors::new(stage.sim.lives(), stage.sim.history());
    let troubles = troubles.all();
    let checks = Checks {
        vendors: &vendors,
        records: &records,
        shown: &shown,
        troubles: &troubles,
        book,
    };
    checks.all();
    let ours = vendors.ours(book);
    let ages = measure(&ours, &records, &troubles, book);
    for panic in site.panics() {
        book.violation(None, panic);
    }

    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let acknowledged: usize = records.values().map(|it| it.acknowledged.len()).sum();
    let running = shown
        .values()
        .filter(|it| it.provision["status"] == "running")
        .count();
    println!(
        "\nafter {:.0} s, seed {seed}:",
        began.elapsed().as_secs_f64()
    );
    println!(
        "  {} provisions, {running} of them in use; {} callbacks, {acknowledged} acknowledged, {} \
         sent again for want of an answer, {} of them after {} s without any",
        records.len(),
        read(&book.callbacks),
        read(&book.repeated),
        read(&stage.caller.unanswered),
        ANSWER_PATIENCE.as_secs(),
    );
    println!(
        "  {} kills: replicas {}, Postgres {}, one of its processes {}; {} orderly stops; {} bouts \
         of vendors' faults with {} faults; held {} times",
        tally.kills(),
        read(&tally.replicas),
        read(&tally.postgres),
        read(&tally.backends),
        read(&tally.stops),
        read(&tally.bouts),
        read(&tally.faults),
        read(&book.holds),
    );
    println!(
        "  vendors: {} requests; {} things of ours made; {} foreign ones",
        vendors.requests(),
        ours.len(),
        book.foreign().len(),
    );
    ages.print();
    let violations = book.violations();
    if violations.is_empty() {
        println!(
            "\n  nothing left behind, nothing foreign touched, nothing acknowledged lost: good"
        );
        return Ok(true);
    }
    print_violations(&violations, &records, &shown, seed, site);
    Ok(false)
}

fn print_violations(
    violations: &[Violation],
    records: &HashMap<Uuid, Record>,
    shown: &HashMap<Uuid, Shown>,
    seed: u64,
    site: &Site,
) {
    println!("\n  {} violations, seed {seed}:", violations.len());
    for violation in violations.iter().take(50) {
        let of = violation.provision.map(|id| format!("{id}: "));
        println!("  - {}{}", of.unwrap_or_default(), violation.what);
    }
    let mut told = Vec::new();
    for id in violations.iter().filter_map(|it| it.provision) {
        if told.contains(&id) || told.len() >= MOST_HISTORIES {
            continue;
        }
        told.push(id);
        println!("\n  history of {id}, seed {seed}");
        if let Some(record) = records.get(&id) {
            println!(
                "  number {}, as its script has it: {:?}",
                record.plan.number, record.plan.acts
            );
            for line in &record.told {
                println!("    {line}");
            }
        }
        if let Some(shown) = shown.get(&id) {
            println!("  as the service has it:");
            for event in &shown.events {
                println!(
                    "    {} {} {} {}",
                    event["at"], event["attempt"], event["kind"], event["data"]
                );
            }
            println!("    {}", shown.provision);
        }
    }
    println!("\n  the replicas' logs: {}", site.folder().display());
}

/// What the status API says of every provision.
async fn ask_all(
    site: &Site,
    records: &HashMap<Uuid, Record>,
) -> anyhow::Result<HashMap<Uuid, Shown>> {
    let base = site
        .addresses
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .flatten()
        .next()
        .cloned()
        .context("a replica runs")?;
    let client = loopback_client()?;
    let ready = get(&client, &format!("{base}/readyz")).await?;
    if ready.is_none_or(|ready| !ready["hold"].is_null()) {
        bail!("the service is not ready, or held");
    }
    let asked = futures::stream::iter(records.keys().copied()).map(|id| {
        let (client, base) = (client.clone(), base.clone());
        async move {
            let url = format!("{base}/v1/provisions/{id}");
            let Some(provision) = get(&client, &url).await? else {
                return Ok(None);
            };
            let events = get(&client, &format!("{url}/events")).await?;
            let events = events.and_then(|it| it["events"].as_array().cloned());
            let events = events.unwrap_or_default();
            Ok::<_, anyhow::Error>(Some((id, Shown { provision, events })))
        }
    });
    let mut shown = HashMap::new();
    let mut answers = asked.buffer_unordered(8);
    while let Some(answer) = answers.next().await {
        shown.extend(answer?);
    }
    Ok(shown)
}

/// `None`: there is no such thing.
async fn get(client: &reqwest::Client, url: &str) -> anyhow::Result<Option<Value>> {
    let response = client.get(url).bearer_auth(OPERATOR).send().await?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    Ok(Some(response.error_for_status()?.json().await?))
}
