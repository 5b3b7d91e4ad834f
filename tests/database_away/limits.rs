//! What the database has too little of is waited for within bounds: connections, locks, and replicas
//! that go on.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use sqlx::{ConnectOptions, Connection};
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{PATIENCE, Run, Service};

const RUN: Run = Run(100, 1);
/// What a caller waits at most for, with a margin for a slow machine.
const SECONDS: Duration = Duration::from_secs(20);

/// Nobody is answered but with 503, and that within seconds.
async fn unavailable(service: &Service, id: Uuid) {
    let began = Instant::now();
    let callbacks = (0..3).map(|_| service.callback("started", id, RUN, json!({})));
    for answer in join_all(callbacks).await {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert!(began.elapsed() < SECONDS, "took {:?}", began.elapsed());
}

#[tokio::test]
async fn when_every_connection_is_lent_callers_get_503_within_seconds_and_then_all_goes_on() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let mut lent = Vec::new();
    while lent.len() < service.pool.options().get_max_connections() as usize {
        // Workers have some for a moment.
        lent.push(service.pool.acquire().await.unwrap());
    }
    unavailable(&service, Uuid::new_v4()).await;
    drop(lent);
    let answer = service.callback("failure", id, RUN, made.ids()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    service.settled(id).await;
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_is_503_within_seconds() {
    let service = Service::start().await;
    let mut db = service.database.connect().await.unwrap();
    let mut transaction = db.begin().await.unwrap();
    // As a migration of a newer version might take it.
    sqlx::query("lock table provisions in access exclusive mode")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let id = Uuid::new_v4();
    unavailable(&service, id).await;
    transaction.commit().await.unwrap();
    service.started(id, RUN).await;
}

#[tokio::test]
async fn a_replica_that_freezes_in_mid_transaction_keeps_its_locks_for_seconds_only() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let frozen = backstop::store::connect(service.database.clone(), 1)
        .await
        .unwrap();
    let mut db = frozen.acquire().await.unwrap();
    let mut transaction = db.begin().await.unwrap();
    sqlx::query("select from provisions where id = $1 for update")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = service
            .callback("failure", id, RUN, json!({"may_exist": []}))
            .await;
        if answer.status == 202 {
            break;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(Instant::now() < deadline, "the lock is never given up");
    }
    assert!(
        transaction.commit().await.is_err(),
        "it was ended by the server"
    );
}
