//! Killed and stopped at any moment, it loses nothing that it acknowledged.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backstop::postgres::PrivatePostgres;
use backstop::sim::{Sim, SimOptions};
use serde_json::json;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::child::{Server, database_url, settings};
use crate::harness::PATIENCE;
use crate::log;
use crate::workflows::{
    Book, Client, Foreign, check_acknowledged, fail_many, make_all, settle_all,
};

const KILLS: u32 = 20;

fn start_sim() -> Arc<Sim> {
    let options = SimOptions {
        action_time: (Duration::from_millis(5), Duration::from_millis(50)),
        ..SimOptions::default()
    };
    Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), options).unwrap())
}

fn with(mut settings: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    settings.push((name.to_owned(), value.to_owned()));
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_no_acknowledged_failure_and_leaves_nothing() {
    let sim = start_sim();
    let foreign = Foreign::add(&sim);
    let url = database_url().await;
    let environment = with(settings(&sim), "DATABASE_URL", &url);
    let mut server = Server::start(&["serve"], &environment).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    let more_kills = Arc::new(AtomicBool::new(true));

    let load = tokio::spawn({
        let (client, sim, book) = (client.clone(), sim.clone(), book.clone());
        let more_kills = more_kills.clone();
        async move {
            while more_kills.load(Ordering::Acquire) {
                fail_many(&client, &sim, &book, 8, 4).await;
            }
        }
    });
    for kill in 0..KILLS {
        // Some moment: while callbacks come in, while leases run, while actions are under way.
        let moment = u64::from(Uuid::new_v4().as_bytes()[0]);
        tokio::time::sleep(Duration::from_millis(10 + moment)).await;
        server.kill();
        check_acknowledged(&pool, &book).await;
        if kill % 4 == 3 {
            // Leases of the dead run out while others are at work.
            sqlx::query("update controller set clock_offset = clock_offset + interval '121 s'")
                .execute(&pool)
                .await
                .unwrap();
        }
        server = Server::start(&["serve"], &environment).await;
        urls.send(vec![server.url.clone()]).unwrap();
    }
    more_kills.store(false, Ordering::Release);
    load.await.unwrap();

    check_acknowledged(&pool, &book).await;
    settle_all(&pool).await;
    foreign.check_they_are_all_that_is_left(&sim);
    let failed = book.acknowledged.lock().unwrap().len();
    println!("{failed} provisions failed during {KILLS} kills");
    // A server whose deletion had begun was never deleted twice.
    let mut deleted = log::deleted(&sim);
    let times = deleted.len();
    deleted.sort();
    deleted.dedup();
    assert_eq!(deleted.len(), times, "a DELETE took effect twice");
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_database_share_the_work_and_survive_each_other() {
    let sim = start_sim();
    let foreign = Foreign::add(&sim);
    let url = database_url().await;
    let environment = with(settings(&sim), "DATABASE_URL", &url);
    // Both at once, on a database that nobody has migrated.
    let (one, other) = tokio::join!(
        Server::start(&["serve"], &environment),
        Server::start(&["serve"], &environment)
    );
    let pool = PgPool::connect(&url).await.unwrap();
    let (urls, seen) = watch::channel(vec![one.url.clone(), other.url.clone()]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    fail_many(&client, &sim, &book, 20, 4).await;
    one.kill();
    urls.send(vec![other.url.clone()]).unwrap();
    fail_many(&client, &sim, &book, 10, 4).await;
    check_acknowledged(&pool, &book).await;
    settle_all(&pool).await;
    foreign.check_they_are_all_that_is_left(&sim);
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_under_load_it_ends_well_within_seconds_and_loses_nothing() {
    let sim = start_sim();
    let foreign = Foreign::add(&sim);
    let url = database_url().await;
    let environment = with(settings(&sim), "DATABASE_URL", &url);
    let server = Server::start(&["serve"], &environment).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    let load = tokio::spawn({
        let (client, sim, book) = (client.clone(), sim.clone(), book.clone());
        async move { fail_many(&client, &sim, &book, 40, 8).await }
    });
    let deadline = Instant::now() + PATIENCE;
    while book.acknowledged.lock().unwrap().len() < 8 {
        assert!(Instant::now() < deadline, "no load");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(8), "took {took:?}");
    check_acknowledged(&pool, &book).await;
    // It released what it had: no lease is left behind.
    let leased: i64 = sqlx::query_scalar("select count(*) from steps where state = 'leased'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(leased, 0);

    let server = Server::start(&["serve"], &environment).await;
    urls.send(vec![server.url.clone()]).unwrap();
    load.await.unwrap();
    settle_all(&pool).await;
    foreign.check_they_are_all_that_is_left(&sim);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_postgres_of_its_own_it_survives_kill_9_with_its_data() {
    let sim = start_sim();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let environment = with(settings(&sim), "BACKSTOP_DATA_DIR", path.to_str().unwrap());
    let mut server = Server::start(&["serve"], &environment).await;
    let (urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let mut failed = Vec::new();
    for _ in 0..3 {
        let id = Uuid::new_v4();
        let started = client.callback("started", id, &json!({})).await;
        let made = make_all(&sim, &started);
        client.callback("failure", id, &made.ids()).await;
        failed.push(id);
        server.kill();
        server = Server::start(&["serve"], &environment).await;
        urls.send(vec![server.url.clone()]).unwrap();
        for id in &failed {
            let provision = client.provision(*id).await.unwrap();
            assert_eq!(provision["status"], "failed", "{provision:#}");
            assert_ne!(provision["rollback"]["steps"], json!([]));
        }
    }
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0), "after {took:?}");
}

/// It does not start it again by itself: whatever keeps backstop running starts both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_its_own_postgres_dies_it_ends_with_an_error_and_the_next_start_finds_everything() {
    let sim = start_sim();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let environment = with(settings(&sim), "BACKSTOP_DATA_DIR", path.to_str().unwrap());
    let mut server = Server::start(&["serve"], &environment).await;
    let (urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    fail_many(&client, &sim, &book, 4, 2).await;

    let options = PrivatePostgres::running_in(&path).unwrap();
    let postmaster = std::fs::read_dir(&path)
        .unwrap()
        .find_map(|entry| {
            std::fs::read_to_string(entry.unwrap().path().join("postmaster.pid")).ok()
        })
        .unwrap();
    let pid = postmaster.lines().next().unwrap();
    let sent = Command::new("kill").args(["-KILL", pid]).status().unwrap();
    assert!(sent.success());
    assert_eq!(server.ends(), Some(1));
    let log = server.log();
    let last = log.lines().find(|line| line.starts_with("backstop: "));
    assert!(
        last.is_some_and(|it| it.contains("ended by itself")),
        "{log}"
    );

    let server = Server::start(&["serve"], &environment).await;
    urls.send(vec![server.url.clone()]).unwrap();
    let pool = PgPool::connect_with(options).await.unwrap();
    check_acknowledged(&pool, &book).await;
    settle_all(&pool).await;
    pool.close().await;
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0), "after {took:?}");
}
