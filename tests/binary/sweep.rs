//! `backstop sweep`: what it prints, what it writes, and its exit codes.

use std::time::{Duration, Instant};

use backstop::sim::{Fault, FaultKind, Sim, SimOptions, Vendor};
use serde_json::json;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::child::{Ended, Server, command, database_url, run, settings};
use crate::harness::PATIENCE;
use crate::workflows::Client;

/// A database in which one provision failed and was rolled back, and the labels of its attempt. Nobody
/// serves it.
async fn settled(sim: &Sim) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let url = database_url().await;
    let mut environment = settings(sim);
    environment.push(("DATABASE_URL".to_owned(), url.clone()));
    let server = Server::start(&["serve"], &environment).await;
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let id = Uuid::new_v4();
    let more = json!({"may_exist": []});
    client.callback("failure", id, &more).await;
    let pool = PgPool::connect(&url).await.unwrap();
    until_settled(&pool).await;
    let (controller, run_id): (Uuid, i64) =
        sqlx::query_as("select c.id, a.run_id from controller c, attempts a where a.number = 1")
            .fetch_one(&pool)
            .await
            .unwrap();
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));
    let labels = [
        ("managed-by", "backstop".to_owned()),
        ("backstop-controller", controller.to_string()),
        ("backstop-provision", id.to_string()),
        ("backstop-attempt", "1".to_owned()),
        ("backstop-run", format!("{run_id}.1")),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value));
    (environment, labels.to_vec())
}

async fn until_settled(pool: &PgPool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let unsettled: i64 =
            sqlx::query_scalar("select count(*) from steps where settled_at is null")
                .fetch_one(pool)
                .await
                .unwrap();
        if unsettled == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{unsettled} are unsettled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn sweep(environment: &[(String, String)], arguments: &[&str]) -> Ended {
    run(command(&[&["sweep"], arguments].concat(), environment)).await
}

/// All that is in the database, but for the clock.
async fn dump(environment: &[(String, String)]) -> Vec<String> {
    let (_, url) = environment
        .iter()
        .find(|(name, _)| name == "DATABASE_URL")
        .unwrap();
    let pool = PgPool::connect(url).await.unwrap();
    let mut rows = Vec::new();
    for table in [
        "provisions",
        "attempts",
        "events",
        "steps",
        "sweeps",
        "orphans",
    ] {
        let query = format!("select row_to_json(t)::text from {table} t order by 1");
        let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_all(&pool)
            .await
            .unwrap();
        rows.extend(found);
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_is_there_and_delete_hands_it_to_the_service_that_runs_next() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let (environment, labels) = settled(&sim).await;
    let clean = sweep(&environment, &[]).await;
    assert_eq!(clean.code, Some(0), "{}", clean.stderr);
    assert_eq!(
        clean.stdout,
        "nothing found that should not be there\n\
         dry run: nothing was written, and no rollback was reopened\n"
    );

    let id = sim.add_server("agent-late", labels);
    let before = dump(&environment).await;
    for arguments in [&[][..], &["--dry-run"]] {
        let dry = sweep(&environment, arguments).await;
        assert_eq!(dry.code, Some(2), "{}", dry.stderr);
        let row = format!(
            "server  {id}  agent-late  0.0060 EUR    its attempt is over; a sweep reopens its \
             rollback\n"
        );
        assert!(dry.stdout.contains(&row), "{}", dry.stdout);
        assert!(dry.stdout.contains("1 orphan; 0.0060 EUR an hour\n"));
        assert!(dry.stdout.ends_with("and no rollback was reopened\n"));
    }
    assert_eq!(dump(&environment).await, before);

    let told = sweep(&environment, &["--delete"]).await;
    assert_eq!(told.code, Some(2), "{}", told.stderr);
    assert!(
        told.stdout
            .ends_with("is written down; the running service carries it out\n"),
        "{}",
        told.stdout
    );
    assert_eq!(sim.servers().len(), 1, "nobody has carried it out");

    let server = Server::start(&["serve"], &environment).await;
    let deadline = Instant::now() + PATIENCE;
    while !sim.servers().is_empty() {
        assert!(Instant::now() < deadline, "nobody carries it out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, url) = environment.last().unwrap();
    until_settled(&PgPool::connect(url).await.unwrap()).await;
    // Beside a service that runs, and finds nothing more.
    let clean = sweep(&environment, &["--delete"]).await;
    assert_eq!(clean.code, Some(0), "{}{}", clean.stdout, clean.stderr);
    assert_eq!(server.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_swept_is_one_sentence_and_what_was_found_is_printed_all_the_same() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let (environment, labels) = settled(&sim).await;
    let id = sim.add_server("agent-late", labels);
    let failing = |path: &str| {
        sim.fault(Fault::on(
            Vendor::Tailscale,
            "GET",
            path,
            FaultKind::status(403),
        ));
    };
    failing("/tailnet/*/devices");
    failing("/tailnet/*/keys");
    let ended = sweep(&environment, &[]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains(&id.to_string()), "{}", ended.stdout);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("backstop: the sweep is not complete: tailscale GET ")
            && lines[0].ends_with(": 403, and 1 more"),
        "{lines:?}"
    );

    for (name, value) in [
        ("HCLOUD_TOKEN", ""),
        ("TAILSCALE_OAUTH_CLIENT_SECRET", ""),
        ("DATABASE_URL", "postgres://127.0.0.1:1/x"),
    ] {
        let mut wrong = environment.clone();
        wrong.retain(|(known, _)| known != name);
        wrong.push((name.to_owned(), value.to_owned()));
        let ended = sweep(&wrong, &[]).await;
        assert_eq!(ended.code, Some(1), "{name}");
        assert_eq!(ended.stderr.lines().count(), 1, "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
    let both = sweep(&environment, &["--dry-run", "--delete"]).await;
    assert_eq!(both.code, Some(2));
    assert_eq!(both.stdout, "");
}
