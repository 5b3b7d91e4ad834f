//! What the log says of the rate limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::sim::{Sim, SimOptions};
use sqlx::postgres::PgPool;
use tokio::sync::watch;

use crate::child::{Server, database_url, settings};
use crate::harness::PATIENCE;
use crate::workflows::{Book, Client, fail_many, settle_all};

fn count(server: &Server, text: &str) -> usize {
    server.log().matches(text).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reserve_is_logged_once_when_it_is_reached_and_once_when_that_is_over() {
    let (reached, over) = ("down to the reserve", "above the reserve");
    let options = SimOptions {
        action_time: (Duration::from_millis(5), Duration::from_millis(50)),
        rate_refill_per_second: 0.0,
        ..SimOptions::default()
    };
    let sim = Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), options).unwrap());
    let url = database_url().await;
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), url.clone()));
    let server = Server::start(&["serve"], &environment).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());

    sim.set_rate_remaining(700);
    fail_many(&client, &sim, &book, 6, 2).await;
    let deadline = Instant::now() + PATIENCE;
    while count(&server, reached) == 0 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..5 {
        sqlx::query("update controller set clock_offset = clock_offset + interval '3 s'")
            .execute(&pool)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((count(&server, reached), count(&server, over)), (1, 0));

    // Answers are dated by the second, and within one the least counts.
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.set_rate_remaining(3600);
    settle_all(&pool).await;
    fail_many(&client, &sim, &book, 1, 1).await;
    settle_all(&pool).await;
    assert_eq!((count(&server, reached), count(&server, over)), (1, 1));
    let log = server.log();
    assert!(
        log.contains("WARN") && log.contains("vendor=hetzner"),
        "{log}"
    );
}
