//! What is dropped in mid-flight leaves no connection behind on which nothing is committed.

use std::task::Poll;

use sqlx::Connection;
use sqlx::postgres::PgPool;

use crate::harness::database;

/// A caller that hangs up, or a crash beside it, can drop a `begin` that was sent. Whoever gets the
/// connection next would write into that transaction and be told that it is done.
#[tokio::test]
async fn a_begin_that_is_dropped_in_mid_flight_takes_no_later_write_with_it() {
    let options = database().await;
    let pool = backstop::store::connect(options.clone(), 1).await.unwrap();
    let witness = PgPool::connect_with(options).await.unwrap();
    let mut dropped = 0;
    for round in 0..200 {
        let mut db = pool.acquire().await.unwrap();
        let mut begins = Box::pin(db.begin());
        // From before it is sent to after it is answered.
        let mut transaction = None;
        for _ in 0..round % 5 {
            if let Poll::Ready(answered) = futures::poll!(&mut begins) {
                transaction = Some(answered.unwrap());
                break;
            }
            tokio::task::yield_now().await;
        }
        dropped += u32::from(transaction.is_none());
        drop(transaction);
        drop(begins);
        drop(db);
        let mut db = pool.acquire().await.unwrap();
        sqlx::query("update controller set clock_offset = make_interval(secs => $1)")
            .bind(f64::from(round))
            .execute(&mut *db)
            .await
            .unwrap();
        let there: f64 =
            sqlx::query_scalar("select extract(epoch from clock_offset)::float8 from controller")
                .fetch_one(&witness)
                .await
                .unwrap();
        let written = f64::from(round);
        assert!((there - written).abs() < 0.5, "round {round}: {there}");
    }
    assert!(dropped > 0);
}
