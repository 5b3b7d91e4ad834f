//! Told to stop, it ends well and in time, whoever holds it up, and nothing is lost by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backstop::providers::loopback_client;
use backstop::sim::{Fault, FaultKind, Sim, SimOptions, Vendor};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use uuid::Uuid;

use crate::child::{Server, database_url, settings};
use crate::harness::{PATIENCE, SECRET, callback_body, sign};
use crate::proxy::Proxy;
use crate::workflows::{
    Book, Client, Foreign, RUN, check_acknowledged, fail_many, make_all, settle_all,
};

const STOPS: usize = 20;
/// What it promises for what is in hand and for the database, and a margin for a slow machine.
const SECONDS: Duration = Duration::from_secs(20 + 5 + 10);

const LEASED: &str = "select count(*) from steps where state = 'leased'";

const FAILED: &str = "select count(*) from steps where failures > 0";

async fn start(sim: &Sim, database_url: &str) -> Server {
    let mut environment = settings(sim);
    environment.push(("DATABASE_URL".to_owned(), database_url.to_owned()));
    Server::start(&["serve"], &environment).await
}

fn start_sim() -> Arc<Sim> {
    Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap())
}

async fn ends_well(server: Server) -> Duration {
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0), "after {took:?}");
    assert!(took < SECONDS, "took {took:?}");
    took
}

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_stopped_in_turn_at_any_moment_under_load_lose_nothing_and_leave_no_lease() {
    let sim = start_sim();
    let foreign = Foreign::add(&sim);
    let url = database_url().await;
    let mut replicas = vec![start(&sim, &url).await, start(&sim, &url).await];
    let addresses = |replicas: &[Server]| replicas.iter().map(|it| it.url.clone()).collect();
    let pool = PgPool::connect(&url).await.unwrap();
    let (urls, seen) = watch::channel(addresses(&replicas));
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    let goes_on = Arc::new(AtomicBool::new(true));
    let load = tokio::spawn({
        let (client, sim, book) = (client.clone(), sim.clone(), book.clone());
        let goes_on = goes_on.clone();
        async move {
            while goes_on.load(Ordering::Acquire) {
                fail_many(&client, &sim, &book, 8, 4).await;
            }
        }
    });
    for _ in 0..STOPS {
        // Some moment: while callbacks come in, while leases run, while actions are under way.
        let moment = u64::from(Uuid::new_v4().as_bytes()[0]);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        // Callers go on to knock at it, as behind a balancer that does not know yet.
        ends_well(replicas.remove(0)).await;
        check_acknowledged(&pool, &book).await;
        replicas.push(start(&sim, &url).await);
        urls.send(addresses(&replicas)).unwrap();
    }
    for replica in replicas {
        ends_well(replica).await;
    }
    // Nobody is left who could hold one.
    assert_eq!(count(&pool, LEASED).await, 0);

    let last = start(&sim, &url).await;
    urls.send(vec![last.url.clone()]).unwrap();
    goes_on.store(false, Ordering::Release);
    load.await.unwrap();
    check_acknowledged(&pool, &book).await;
    settle_all(&pool).await;
    foreign.check_they_are_all_that_is_left(&sim);
    let failed = book.acknowledged.lock().unwrap().len();
    println!("{failed} provisions failed during {STOPS} stops");
    ends_well(last).await;
}

/// Stops it while it waits for an answer to such a request, and for the rest of a slow client's;
/// gives how long that took, and the database that it leaves.
async fn stopped_while_a_vendor_hangs(
    vendor: Vendor,
    method: &str,
    path: &str,
) -> (Duration, PgPool) {
    let sim = start_sim();
    let url = database_url().await;
    let server = start(&sim, &url).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let hang = FaultKind::Delay { delay_ms: 600_000 };
    sim.fault(Fault::on(vendor, method, path, hang).always());
    for _ in 0..3 {
        let id = Uuid::new_v4();
        let started = client.callback("started", id, &json!({})).await;
        let made = make_all(&sim, &started);
        client.callback("failure", id, &made.ids()).await;
    }
    let slow = half_a_head(&server).await;
    // For longer than anything takes that is answered.
    let deadline = Instant::now() + PATIENCE;
    let mut in_hand = (0, Instant::now());
    while in_hand.0 == 0 || in_hand.1.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < deadline, "nothing is in hand");
        let leased = count(&pool, LEASED).await;
        if in_hand.0 != leased {
            in_hand = (leased, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = ends_well(server).await;
    assert_eq!(count(&pool, LEASED).await, 0);
    drop(slow);
    (took, pool)
}

/// A client that never says what it wants.
async fn half_a_head(server: &Server) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = b"POST /v1/provisions HTTP/1.1\r\nhost: ";
    client.write_all(head).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_hangs_is_given_up_when_it_is_told_to_stop() {
    let (took, pool) = stopped_while_a_vendor_hangs(Vendor::Hetzner, "GET", "/servers").await;
    assert_eq!(count(&pool, FAILED).await, 0);
    // Its own time-out is further away.
    assert!(took < Duration::from_secs(7), "took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_that_hangs_is_waited_for_within_bounds_and_written_down() {
    let path = "/tailnet/*/keys/*";
    let (_, pool) = stopped_while_a_vendor_hangs(Vendor::Tailscale, "DELETE", path).await;
    assert_eq!(count(&pool, FAILED).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_say_nothing_or_half_of_it_do_not_hold_it_up_and_who_waits_is_answered() {
    let sim = start_sim();
    let url = database_url().await;
    let server = start(&sim, &url).await;
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let pool = PgPool::connect(&url).await.unwrap();
    let connect = || async { TcpStream::connect(&address).await.unwrap() };

    let id = Uuid::new_v4();
    let path = format!("/v1/provisions/{id}/callbacks/failure");
    let body = callback_body("failure", id, RUN, json!({})).to_string();
    let (at, signature) = sign(SECRET, "msg_1", &body);
    // Kept alive with nothing asked; nothing said; half a head; half a body.
    let idle = loopback_client().unwrap();
    let livez = idle.get(format!("{}/livez", server.url)).send().await;
    assert_eq!(livez.unwrap().status(), 200);
    let silent = connect().await;
    let half_a_head = half_a_head(&server).await;
    let mut half_a_body = connect().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         webhook-id: msg_1\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n\
         content-length: {}\r\n\r\n{{",
        body.len()
    );
    half_a_body.write_all(head.as_bytes()).await.unwrap();
    // Nothing was made, so that nothing settles for minutes.
    let waits = loopback_client()
        .unwrap()
        .post(format!("{}{path}", server.url))
        .header("content-type", "application/json")
        .header("prefer", "wait=60")
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", at)
        .header("webhook-signature", signature)
        .body(body)
        .send();
    let waits = tokio::spawn(waits);
    let deadline = Instant::now() + PATIENCE;
    while count(&pool, "select count(*) from steps").await == 0 {
        assert!(Instant::now() < deadline, "the failure is not taken");
    }

    ends_well(server).await;
    let answer = waits.await.unwrap().unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["preference-applied"], "wait=60");
    // Who was too slow is told so, and nothing of it was taken.
    let mut told = String::new();
    half_a_body.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    assert!(told.contains("body_too_slow"), "{told}");
    assert_eq!(
        count(
            &pool,
            "select count(*) from events where kind = 'callback.failure'"
        )
        .await,
        1
    );
    drop((silent, half_a_head, idle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_silent_does_not_hold_it_up() {
    let sim = start_sim();
    let database: PgConnectOptions = database_url().await.parse().unwrap();
    let proxy = Proxy::to(&database).await;
    let server = start(&sim, &proxy.url(&database)).await;
    proxy.go_silent();
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let asks = tokio::spawn(async move {
        let id = Uuid::new_v4();
        client.callback_once("started", id, &json!({})).await
    });
    tokio::task::yield_now().await;
    ends_well(server).await;
    // It came too late, or it was told to come again.
    let answer = asks.await.unwrap();
    assert!(answer.is_none_or(|(status, _)| status == 503));
}
