//! Who waits holds no connection, and what is dropped in mid-flight leaves none behind on which nothing
//! is committed.

use std::task::Poll;

use serde_json::{Value, json};
use sqlx::Connection;
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
