//! When in doubt, nothing is failed for its time until somebody who knows says so.

use backstop::providers::Timeouts;
use backstop::store;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};
use uuid::Uuid;

use crate::harness::{Options, Service, Stopped};
use crate::support::{
    RUN, due_in, failed, heartbeat, hold, in_use, is_held, is_waited_for, pulsed, secs,
    servers_only, under_way,
};

/// Ends the hold as `backstop resume` does.
pub async fn resume(service: &Service) {
    let mut db = service.pool.acquire().await.unwrap();
    let held = store::hold::resume(&mut db).await.unwrap();
    assert!(held.is_some());
}

/// A copy of a stopped service's database, as `create database … template` makes it.
pub async fn copy(stopped: &Stopped) -> PgConnectOptions {
    let name = format!("test_{}", Uuid::new_v4().simple());
    let original = stopped.database.get_database().unwrap();
    stopped.pool.close().await;
    let maintenance = stopped.database.clone().database("postgres");
    let mut admin = maintenance.connect().await.unwrap();
    sqlx::query(AssertSqlSafe(format!(
        "create database {name} template {original}"
    )))
    .execute(&mut admin)
    .await
    .unwrap();
    stopped.database.clone().database(&name)
}

#[tokio::test]
async fn a_gap_longer_than_a_provision_may_take_holds_what_is_under_way_and_nothing_else() {
    let service = Service::start().await;
    let (late, _) = under_way(&service).await;
    let (fails, made) = under_way(&service).await;
    let stopped = service.stop().await;
    stopped.advance(secs(1801)).await;
    let service = stopped.start().await;
    is_held(&service, "long_gap").await;

    service.pass(secs(10_000)).await;
    pulsed(&service.pool).await;
    assert_eq!(due_in(&service.pool, late).await, None);
    // Callbacks and rollbacks go on.
    let answer = service.callback("failure", fails, RUN, made.ids()).await;
    assert_eq!(answer.status, 202);
    service.settled(fails).await;
    let (begun_since, _) = in_use(&service).await;
    assert_eq!(heartbeat(&service, late).await, 200);
    let stands = [(late, "provisioning"), (begun_since, "running")];
    for (id, status) in stands {
        assert_eq!(service.provision(id).await["status"], status);
    }

    // It survives a restart, and ends when somebody says so: with the same grace as after a gap.
    let service = service.stop().await.start().await;
    is_held(&service, "long_gap").await;
    resume(&service).await;
    assert_eq!(hold(&service).await, Value::Null);
    assert!(is_waited_for(&service, late).await > secs(290));
    service.pass(secs(301)).await;
    assert_ne!(failed(&service, late).await["rollback"], Value::Null);
    service.settled(late).await;
    assert_eq!(service.provision(begun_since).await["status"], "running");
    assert_eq!(service.alive().len(), 3);
}

#[tokio::test]
async fn a_long_gap_with_nothing_under_way_holds_nothing() {
    let service = Service::start().await;
    in_use(&service).await;
    let stopped = service.stop().await;
    stopped.advance(secs(1_000_000)).await;
    let service = stopped.start().await;
    pulsed(&service.pool).await;
    assert_eq!(hold(&service).await, Value::Null);
}

#[tokio::test]
async fn another_public_url_holds_until_it_is_accepted() {
    let url = |name: &str| Some(format!("https://{name}.example.com"));
    let with = |public_url| Options {
        public_url,
        ..Options::default()
    };
    let service = Service::start_with(with(url("backstop"))).await;
    let (id, _) = under_way(&service).await;
    pulsed(&service.pool).await;
    assert_eq!(hold(&service).await, Value::Null);

    let mut stopped = service.stop().await;
    stopped.options = with(url("staging"));
    let service = stopped.start().await;
    is_held(&service, "other_public_url").await;
    // The right one again does not end it by itself: nobody knows what was missed.
    let mut stopped = service.stop().await;
    stopped.options = with(url("backstop"));
    let service = stopped.start().await;
    pulsed(&service.pool).await;
    is_held(&service, "other_public_url").await;
    assert_eq!(due_in(&service.pool, id).await, None);

    let mut stopped = service.stop().await;
    stopped.options = with(url("staging"));
    let service = stopped.start().await;
    resume(&service).await;
    assert!(is_waited_for(&service, id).await > secs(0));
    pulsed(&service.pool).await;
    assert_eq!(hold(&service).await, Value::Null);
}

#[tokio::test]
async fn nothing_is_dispatched_while_held() {
    let with = |public_url: &str| Options {
        public_url: Some(public_url.to_owned()),
        github: Some(Timeouts::default()),
        ..Options::default()
    };
    let service = Service::start_with(with("https://backstop.example.com")).await;
    pulsed(&service.pool).await;
    let mut stopped = service.stop().await;
    stopped.options = with("https://staging.example.com");
    let service = stopped.start().await;
    is_held(&service, "other_public_url").await;

    let agent = json!({"agent_id": "web-1"});
    let asked = service.operate("POST", "/v1/provisions", Some(agent)).await;
    assert_eq!(asked.status, 201, "{asked:?}");
    let id = asked.body["id"].as_str().unwrap().parse().unwrap();
    pulsed(&service.pool).await;
    let mut db = service.pool.acquire().await.unwrap();
    let claimed = store::dispatches::claim_due_dispatch(&mut db, secs(60)).await;
    assert!(claimed.unwrap().is_none());
    assert!(service.sim.runs().is_empty());

    resume(&service).await;
    service.until(id, |it| !it["run_id"].is_null()).await;
    assert_eq!(service.sim.runs().len(), 1);
}

#[tokio::test]
async fn a_copied_database_is_held_and_the_original_is_not() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    pulsed(&service.pool).await;
    let stopped = service.stop().await;
    let copy = copy(&stopped).await;
    let (database, options) = (stopped.database.clone(), stopped.options.clone());

    let on_copy = Service::start_on(copy, stopped.sim, options.clone()).await;
    is_held(&on_copy, "other_database").await;
    on_copy.pass(secs(10_000)).await;
    pulsed(&on_copy.pool).await;
    assert_eq!(on_copy.provision(id).await["status"], "provisioning");
    assert_eq!(on_copy.alive().len(), 3);

    let stopped = on_copy.stop().await;
    let original = Service::start_on(database, stopped.sim, options).await;
    pulsed(&original.pool).await;
    assert_eq!(hold(&original).await, Value::Null);
}

#[tokio::test]
async fn a_database_that_has_forgotten_what_it_confirmed_is_held() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    pulsed(&service.pool).await;
    // As a backup of some seconds ago that took its place, behind the same address.
    sqlx::query("update hearing set pulses = pulses - 2")
        .execute(&service.pool)
        .await
        .unwrap();
    is_held(&service, "lost_writes").await;
    service.pass(secs(10_000)).await;
    pulsed(&service.pool).await;
    assert_eq!(service.provision(id).await["status"], "provisioning");
    resume(&service).await;
    assert!(is_waited_for(&service, id).await > secs(290));
}

#[tokio::test]
async fn resuming_what_is_not_held_changes_nothing() {
    let service = Service::start().await;
    pulsed(&service.pool).await;
    let since = async || -> chrono::DateTime<chrono::Utc> {
        sqlx::query_scalar("select since from hearing")
            .fetch_one(&service.pool)
            .await
            .unwrap()
    };
    let before = since().await;
    let mut db = service.pool.acquire().await.unwrap();
    assert_eq!(store::hold::resume(&mut db).await.unwrap(), None);
    pulsed(&service.pool).await;
    assert_eq!(since().await, before);
    assert_eq!(hold(&service).await, json!(null));
}

#[tokio::test]
async fn what_is_asked_for_right_after_a_long_gap_was_not_under_way_in_it() {
    let service = Service::start_with(servers_only()).await;
    pulsed(&service.pool).await;
    let stopped = service.stop().await;
    stopped.advance(secs(24 * 3600)).await;
    // Before the first pulse that notices the gap.
    let service = stopped.start().await;
    let (id, _) = under_way(&service).await;
    pulsed(&service.pool).await;
    assert_eq!(hold(&service).await, Value::Null);
    assert!(is_waited_for(&service, id).await > secs(0));
}
