//! What GitHub could say that is not so, when it is asked to start a workflow.

use backstop::providers::Timeouts;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Options;
use crate::liar::{Lie, Told, changed, made_up};
use crate::lies::{Bench, no_text_is_odd};
use crate::tables::logged;

const DISPATCHES: &str = "/dispatches";

/// What becomes of the provision while the lie is told.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    /// It waits, and its history says this.
    Queued(&'static str),
    /// It has failed, and says this.
    Failed(&'static str),
    /// It has its run.
    Sent,
}

type Line = (&'static str, fn(&Bench) -> Lie, Meanwhile);

fn says(told: Told) -> Lie {
    made_up("POST", DISPATCHES, move |_| told.clone())
}

fn moved(bench: &Bench, status: u16) -> Lie {
    says(Told::text(status, "").header("location", format!("{}/x", bench.elsewhere.url)))
}

fn run_is(name: &'static str, value: Value) -> Lie {
    changed("POST", DISPATCHES, move |_, told| {
        told.changed(|body| body[name] = value.clone())
    })
}

const LINES: &[Line] = &[
    (
        "it moves, 301",
        |bench| moved(bench, 301),
        Meanwhile::Queued("a redirect"),
    ),
    (
        "it moves, 307",
        |bench| moved(bench, 307),
        Meanwhile::Queued("a redirect"),
    ),
    (
        "it moves, 308",
        |bench| moved(bench, 308),
        Meanwhile::Queued("a redirect"),
    ),
    (
        "a refusal with a mess and our token",
        |bench| {
            let token = &bench.options().sim.github_token;
            let message = format!(
                "<script>{token}\n2026 forged\r\u{1b}[31m\u{202e}\u{2028}{}",
                "x".repeat(60_000),
            );
            says(Told::json(404, &json!({"message": message})))
        },
        Meanwhile::Failed("<script>"),
    ),
    (
        "a refusal longer than is read",
        |_| says(Told::json(404, &json!({"message": "x".repeat(1_000_000)}))),
        Meanwhile::Failed("404"),
    ),
    (
        "200 with an error",
        |_| says(Told::json(200, &json!({"message": "later"}))),
        Meanwhile::Queued("broken body"),
    ),
    (
        "200 with a page of a proxy",
        |_| says(Told::text(200, "<html>")),
        Meanwhile::Queued("broken body"),
    ),
    (
        "a run with a negative id",
        |_| run_is("workflow_run_id", json!(-1)),
        Meanwhile::Queued("without an id"),
    ),
    (
        "a run with too large an id",
        |_| run_is("workflow_run_id", json!(u64::MAX)),
        Meanwhile::Queued("broken body"),
    ),
    (
        "a run whose page is a script",
        |_| run_is("html_url", json!("javascript:alert(1)")),
        Meanwhile::Sent,
    ),
    (
        "a run whose page has a user",
        |_| run_is("html_url", json!("https://github.com@evil.example/x")),
        Meanwhile::Sent,
    ),
    (
        "a run whose page has no end",
        |_| {
            run_is(
                "html_url",
                json!(format!("https://github.com/{}", "x".repeat(1_000_000))),
            )
        },
        Meanwhile::Sent,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_of_github_is_more_than_a_run_that_does_not_come() {
    let bench = Bench::start_with(Options {
        github: Some(Timeouts::default()),
        ..Options::default()
    })
    .await;
    let mut failures = Vec::new();
    for (name, lie, meanwhile) in LINES {
        if let Err(problem) = try_out(&bench, *lie, *meanwhile).await {
            failures.push(format!("{name}: {problem}"));
        }
    }
    let (count, all) = (failures.len(), LINES.len());
    assert!(count == 0, "{count} of {all}:\n{}", failures.join("\n"));
}

async fn try_out(bench: &Bench, lie: fn(&Bench) -> Lie, is: Meanwhile) -> Result<(), String> {
    let (service, logged_before) = (&bench.service, logged().len());
    bench.liar.tell(vec![lie(bench)]);
    let body = json!({"agent_id": "web-1"});
    let answer = service.operate("POST", "/v1/provisions", Some(body)).await;
    let id: Uuid = answer.body["id"].as_str().unwrap().parse().unwrap();
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        let provision = service.provision(id).await;
        let events = json!(service.events(id).await).to_string();
        let error = provision["error"].as_str().unwrap_or_default();
        let has = |what: Value| provision["status"] == what;
        if match is {
            Meanwhile::Queued(why) => has(json!("queued")) && events.contains(why),
            Meanwhile::Failed(why) => has(json!("failed")) && error.contains(why),
            Meanwhile::Sent => !provision["run_id"].is_null(),
        } {
            break;
        }
        if std::time::Instant::now() > deadline {
            return Err(format!("is not {is:?}: {provision:#} {events}"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    bench.liar.tell(Vec::new());
    if let Meanwhile::Queued(_) = is {
        service.advance(std::time::Duration::from_secs(60)).await;
        service.until(id, |it| !it["run_id"].is_null()).await;
    }
    let shown = json!([service.provision(id).await, service.events(id).await]);
    no_text_is_odd(&shown)?;
    if shown.to_string().contains("evil.example") {
        return Err("shows a link to elsewhere".to_owned());
    }
    bench.nothing_leaked(&shown.to_string(), logged_before)
}
