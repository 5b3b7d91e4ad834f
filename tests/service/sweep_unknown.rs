//! What carries our controller id and no provision knows: only said, unless a sweep is told to
//! delete; and then through the ledger, a few at a time, and by a database that may judge.

use std::time::Duration;

use backstop::domain::orphans::{MOST_UNKNOWN, Mandate};
use backstop::store::controller_id;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Run, Service, TAG, steps};
use crate::log;
use crate::sweep::{found, over};

const LONG_ENOUGH: Duration = Duration::from_secs(2 * 3600);

/// A server with all five labels of an attempt that nobody ever told us of.
async fn stranger(service: &Service, id: Uuid, attempt: i32, run: &str) -> u64 {
    let controller = controller_id(service.app.pool()).await.unwrap();
    service.sim.add_server(
        &format!("agent-{}-a{attempt}", id.simple()),
        [
            ("managed-by", "backstop".to_owned()),
            ("backstop-controller", controller.to_string()),
            ("backstop-provision", id.to_string()),
            ("backstop-attempt", attempt.to_string()),
            ("backstop-run", run.to_owned()),
        ],
    )
}

#[tokio::test]
async fn an_unknown_server_is_reported_and_deleted_with_a_receipt_only_when_told_to() {
    let service = Service::start().await;
    over(&service).await;
    let id = Uuid::new_v4();
    let server = stranger(&service, id, 3, "77.2").await;
    service.advance(LONG_ENOUGH).await;

    service.sweep(Mandate::Reopen).await;
    assert_eq!(
        found(&service.orphans().await),
        [format!(
            "server {server} unknown_provision deleted_when_told"
        )]
    );
    let unknown = service.get(&format!("/v1/provisions/{id}")).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(log::deletes(&service.sim).len(), 0);

    service.sweep(Mandate::Delete).await;
    assert_eq!(
        found(&service.orphans().await),
        [format!("server {server} unknown_provision rolled_back")]
    );
    let provision = service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    assert_eq!(provision["status"], "destroyed");
    assert_eq!(provision["rollback"]["reason"], "destroyed");
    assert_eq!(
        (&provision["attempt"], &provision["run_id"]),
        (&json!(3), &json!(77))
    );
    assert_eq!(provision["run_attempt"], 2);
    let receipt = format!("3 server {server} gone deleted");
    assert!(
        steps(&provision).contains(&receipt),
        "{:#?}",
        steps(&provision)
    );
    let events = service.event_kinds(id).await;
    assert_eq!(events[..2], ["sweep.adopted", "destroy"], "{events:?}");
    assert_eq!(events.last().map(String::as_str), Some("rollback.done"));

    // Its workflow, should it live, is told so.
    let answer = service.callback("started", id, Run(77, 2), json!({})).await;
    assert_eq!(answer.code(), "already_destroyed");
}

#[tokio::test]
async fn all_attempts_of_an_unknown_provision_go_in_one_sweep() {
    let service = Service::start().await;
    over(&service).await;
    let id = Uuid::new_v4();
    for (attempt, run) in [(1, "77.1"), (2, "77.2"), (2, "77.2"), (4, "77.4")] {
        stranger(&service, id, attempt, run).await;
    }
    // The same run cannot own two attempts: whose it is, nobody knows.
    let odd = stranger(&service, id, 3, "77.4").await;
    service.advance(LONG_ENOUGH).await;
    service.sweep(Mandate::Delete).await;
    let provision = service.settled(id).await;
    assert_eq!(provision["attempt"], 4);
    let left = service.sim.servers();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].id, odd);
    service.sweep(Mandate::Delete).await;
    assert_eq!(
        found(&service.orphans().await),
        [format!("server {odd} unknown_provision reported")]
    );
    assert_eq!(service.sim.servers().len(), 1);
}

#[tokio::test]
async fn what_is_younger_than_an_hour_is_only_reported() {
    let service = Service::start().await;
    over(&service).await;
    let server = stranger(&service, Uuid::new_v4(), 1, "1.1").await;
    let reported = [format!("server {server} unknown_provision reported")];
    service.advance(Duration::from_secs(3500)).await;
    service.sweep(Mandate::Delete).await;
    assert_eq!(found(&service.orphans().await), reported);
    service.advance(Duration::from_secs(200)).await;
    service.sweep(Mandate::Report).await;
    assert_eq!(
        found(&service.orphans().await),
        [format!(
            "server {server} unknown_provision deleted_when_told"
        )]
    );
    assert_eq!(service.sim.servers().len(), 1);
}

#[tokio::test]
async fn one_sweep_takes_no_more_than_a_few_and_the_oldest_first() {
    let service = Service::start().await;
    over(&service).await;
    let mut servers = Vec::new();
    for _ in 0..MOST_UNKNOWN + 3 {
        servers.push(stranger(&service, Uuid::new_v4(), 1, "1.1").await);
        // The vendor tells when in whole seconds.
        if servers.len() == MOST_UNKNOWN {
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    }
    service.advance(LONG_ENOUGH).await;
    service.sweep(Mandate::Delete).await;
    let left = servers.split_off(MOST_UNKNOWN);
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while service.sim.servers().len() > left.len() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ids: Vec<u64> = service.sim.servers().iter().map(|it| it.id).collect();
    assert_eq!(ids, left);
    let actions = found(&service.orphans().await);
    let waiting = actions
        .iter()
        .filter(|it| it.ends_with("deleted_when_told"));
    assert_eq!(waiting.count(), left.len(), "{actions:#?}");
}

#[tokio::test]
async fn an_empty_database_and_one_younger_than_the_thing_judge_nobody() {
    let service = Service::start().await;
    let server = stranger(&service, Uuid::new_v4(), 1, "1.1").await;
    let reported = [format!("server {server} unknown_provision reported")];
    service.advance(LONG_ENOUGH).await;
    service.sweep(Mandate::Delete).await;
    assert_eq!(found(&service.orphans().await), reported, "empty");

    over(&service).await;
    sqlx::query("update controller set created_at = now() + interval '1 minute'")
        .execute(&service.pool)
        .await
        .unwrap();
    service.sweep(Mandate::Delete).await;
    assert_eq!(found(&service.orphans().await), reported, "younger");
    assert_eq!(service.sim.servers().len(), 1);
    assert_eq!(log::deletes(&service.sim).len(), 0);
}

#[tokio::test]
async fn an_attempt_that_the_database_has_not_come_to_is_only_reported() {
    let service = Service::start().await;
    let (id, _) = over(&service).await;
    let server = stranger(&service, id, 2, "100.2").await;
    service.advance(LONG_ENOUGH).await;
    service.sweep(Mandate::Delete).await;
    assert_eq!(
        found(&service.orphans().await),
        [format!("server {server} unknown_attempt reported")]
    );
    assert_eq!(service.sim.servers().len(), 1);
    assert_eq!(service.provision(id).await["attempt"], 1);
}

#[tokio::test]
async fn devices_and_keys_of_an_unknown_provision_are_never_deleted_for_they_name_no_controller() {
    let service = Service::start().await;
    over(&service).await;
    let hex = Uuid::new_v4().simple();
    let device = service.sim.add_device(&format!("agent-{hex}-a1"), &[TAG]);
    let key = service.sim.add_key(&format!("backstop {hex}-a1"), &[TAG]);
    service.advance(LONG_ENOUGH).await;
    service.sweep(Mandate::Delete).await;
    assert_eq!(
        found(&service.orphans().await),
        [
            format!("auth_key {key} unknown_provision reported"),
            format!("device {device} unknown_provision reported"),
        ]
    );
    assert_eq!(service.alive().len(), 2);
    assert_eq!(log::deletes(&service.sim).len(), 0);
}

#[tokio::test]
async fn labels_that_were_changed_before_the_worker_looked_save_the_server() {
    let service = Service::start().await;
    over(&service).await;
    let id = Uuid::new_v4();
    let server = stranger(&service, id, 1, "1.1").await;
    service.sim.lock_server(server, Duration::from_secs(3600));
    service.advance(LONG_ENOUGH).await;
    service.sweep(Mandate::Delete).await;
    service.sim.relabel_server(server, [("team", "finance")]);
    service
        .until(id, |it| it["rollback"]["state"] == "stuck")
        .await;
    assert_eq!(service.sim.servers().len(), 1);
}
