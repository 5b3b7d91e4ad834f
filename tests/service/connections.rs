//! Who waits holds no connection, and what is dropped in mid-flight leaves none behind on which nothing
//! is committed.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::harness::{PATIENCE, Run, Service, callback_body, database};

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

#[tokio::test]
async fn callers_that_wait_hold_no_connection_and_are_answered_when_the_service_stops() {
    let service = Service::start().await;
    // More than there are connections.
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let id = Uuid::new_v4();
            let body = callback_body("failure", id, Run(1, 1), json!({})).to_string();
            let request = service.signed("failure", id, &body);
            tokio::spawn(request.header("prefer", "wait=60").send())
        })
        .collect();
    let all_recorded = async || {
        let list = service.get("/v1/provisions?status=failed&limit=200").await;
        list.body["provisions"].as_array().unwrap().len() == waiting.len()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !all_recorded().await {
        assert!(tokio::time::Instant::now() < deadline);
    }
    // Others are served meanwhile.
    service.started(Uuid::new_v4(), Run(1, 1)).await;
    service.app.stop().await.unwrap();
    for answer in waiting {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 202);
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(body["rollback"]["state"], "pending");
    }
}
