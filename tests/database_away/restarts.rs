//! Postgres ends and starts again while callbacks come in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::harness::{Options, PATIENCE, Run, Service};
use crate::postgres::{End, Postgres};
use crate::workflows::{Book, Client, Foreign, check_acknowledged, fail_many, settle_all};

const RUN: Run = Run(100, 1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_ends_and_starts_again_under_load_and_nothing_acknowledged_is_lost() {
    let mut postgres = Postgres::start().await;
    let service = Service::start_at(Options::default(), postgres.options()).await;
    let sim = service.sim.clone();
    let foreign = Foreign::add(&sim);
    let (_urls, seen) = watch::channel(vec![service.url("")]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    let goes_on = Arc::new(AtomicBool::new(true));
    let load = tokio::spawn({
        let (client, sim, book) = (client.clone(), sim.clone(), book.clone());
        let goes_on = goes_on.clone();
        async move {
            while goes_on.load(Ordering::Acquire) {
                fail_many(&client, &sim, &book, 6, 3).await;
            }
        }
    });
    for how in [
        End::Killed,
        End::Immediate,
        End::Fast,
        End::Immediate,
        End::Killed,
    ] {
        // In the middle of it: some more have just been taken.
        more_are_taken(&book).await;
        postgres.end(how).await;
        let (answer, read, livez) = tokio::join!(
            service.callback("started", Uuid::new_v4(), RUN, json!({})),
            service.get("/v1/provisions"),
            service.get("/livez"),
        );
        assert_eq!(answer.status, 503, "{how:?}: {answer:?}");
        assert_eq!(answer.code(), "unavailable");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        assert_eq!((read.status, livez.status), (503, 200), "{how:?}");
        postgres.start_again().await;
    }
    more_are_taken(&book).await;
    goes_on.store(false, Ordering::Release);
    load.await.unwrap();

    // Another's connection: what is looked at is what is there, not what the service says.
    let pool = PgPool::connect_with(postgres.options()).await.unwrap();
    check_acknowledged(&pool, &book).await;
    settle_all(&pool).await;
    foreign.check_they_are_all_that_is_left(&sim);
    assert_eq!(service.get("/readyz").await.status, 200);
}

async fn more_are_taken(book: &Book) {
    let taken = || book.acknowledged.lock().unwrap().len();
    let (before, deadline) = (taken(), Instant::now() + PATIENCE);
    while taken() < before + 4 {
        assert!(Instant::now() < deadline, "nobody is taken any more");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
