//! What is dropped in mid-flight leaves no connection behind on which nothing is committed.

use std::time::Duration;

use sqlx::postgres::PgPool;

use crate::harness::database;

/// A caller that hangs up, or a crash beside it, can drop a `begin` that was sent. Whoever gets the
/// connection next would write into that transaction and be told that it is done.
#[tokio::test]
async fn a_begin_that_is_dropped_in_mid_flight_takes_no_later_write_with_it() {
    let options = database().await;
    let pool = backstop::store::connect(options.clone(), 1).await.unwrap();
    let witness = PgPool::connect_with(options).await.unwrap();
    let (mut dropped, mut begun) = (0, 0);
    for round in 0..400 {
        // From before it is sent to after it is answered.
        let patience = Duration::from_micros(round * 5);
        match tokio::time::timeout(patience, pool.begin()).await {
            Ok(transaction) => {
                begun += 1;
                drop(transaction.unwrap());
            }
            Err(_) => dropped += 1,
        }
        sqlx::query("update controller set clock_offset = make_interval(secs => $1)")
            .bind(f64::from(u32::try_from(round).unwrap()))
            .execute(&pool)
            .await
            .unwrap();
        let there: f64 =
            sqlx::query_scalar("select extract(epoch from clock_offset)::float8 from controller")
                .fetch_one(&witness)
                .await
                .unwrap();
        let written = f64::from(u32::try_from(round).unwrap());
        assert!((there - written).abs() < 0.5, "round {round}: {there}");
    }
    println!("{dropped} dropped, {begun} begun");
    assert!(dropped > 0);
}
