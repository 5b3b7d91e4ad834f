//! Whoever opens connections and says nothing costs little and keeps nobody out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::providers::loopback_client;
use backstop::sim::{Sim, SimOptions};
use futures::future::join_all;
use serde_json::json;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::child::{Server, database_url, settings};
use crate::harness::{READER, SECRET, callback_body, sign};
use crate::workflows::RUN;

/// As many as `BACKSTOP_SILENT_CONNECTIONS` says: 10,000 of them are for whoever may open so many files.
fn how_many() -> usize {
    std::env::var("BACKSTOP_SILENT_CONNECTIONS").map_or(1000, |number| number.parse().unwrap())
}

/// What the process has in memory, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.unwrap().split_whitespace();
    words.rev().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_cost_little_and_the_service_goes_on() {
    let sim = Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap());
    let url = database_url().await;
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), url));
    let server = Server::start(&["serve"], &environment).await;
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let client = loopback_client().unwrap();
    let slowest = async || {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let id = Uuid::new_v4();
            let body = callback_body("started", id, RUN, json!({})).to_string();
            let (at, signature) = sign(SECRET, "msg_1", &body);
            let began = Instant::now();
            let answer = client
                .post(format!(
                    "{}/v1/provisions/{id}/callbacks/started",
                    server.url
                ))
                .header("content-type", "application/json")
                .header("webhook-id", "msg_1")
                .header("webhook-timestamp", at)
                .header("webhook-signature", signature)
                .body(body);
            assert_eq!(answer.send().await.unwrap().status(), 200);
            let answer = client.get(format!("{}/v1/provisions", server.url));
            let answer = answer.bearer_auth(READER).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let calm = slowest().await;
    let before = resident(server.pid());

    let mut silent = Vec::new();
    let began = Instant::now();
    while silent.len() < how_many() {
        let connect = (0..100).map(|_| TcpStream::connect(&address));
        for stream in join_all(connect).await {
            silent.push(stream.unwrap());
        }
    }
    let opened = began.elapsed();
    let after = resident(server.pid());
    let beset = slowest().await;
    println!(
        "{} silent connections, opened in {opened:?}: {before} KiB before, {after} KiB with them; \
         the slowest of 20 callbacks and lists {calm:?} before, {beset:?} with them",
        silent.len()
    );
    // A task and a socket each.
    let each = (after.saturating_sub(before)) * 1024 / silent.len() as u64;
    assert!(each < 16 * 1024, "{each} bytes each");
    assert!(!server.log().contains("no connection can be taken"));
    // It can be stopped with them.
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0), "after {took:?}");
    drop(silent);
}
