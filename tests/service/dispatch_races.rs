//! What happens to a provision while its dispatch is under way.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop::sim::FaultKind;
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use crate::dispatch::{
    ask_for_one, asked, dispatched, fault, happened, on_dispatch, outbox_has, runs, start,
};
use crate::harness::{PATIENCE, Run, Service};

/// A dispatch that GitHub has got, and that goes as `kind` says in a while.
async fn under_way(service: &Service, kind: Option<FaultKind>) -> Uuid {
    fault(service, FaultKind::Delay { delay_ms: 3000 });
    if let Some(kind) = kind {
        fault(service, kind);
    }
    let id = ask_for_one(service).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !service.sim.faults().is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "GitHub was not asked"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    id
}

#[tokio::test]
async fn a_run_that_starts_before_the_answer_keeps_its_provision() {
    let service = start().await;
    let mut started = Vec::new();
    // Whatever the answer is.
    for (kind, state, event) in [
        (None, "sent", "dispatch.sent"),
        (Some(FaultKind::ResetAfter), "dropped", "dispatch.failed"),
        (Some(FaultKind::status(500)), "dropped", "dispatch.failed"),
        (Some(FaultKind::status(422)), "refused", "dispatch.refused"),
    ] {
        let id = under_way(&service, kind).await;
        service.started(id, Run(7, 1)).await;
        started.push((id, state, event));
    }
    for (id, state, event) in started {
        outbox_has(&service, id, state).await;
        let provision = service.provision(id).await;
        assert_eq!(
            (
                &provision["status"],
                &provision["run_id"],
                &provision["rollback"]
            ),
            (&json!("provisioning"), &json!(7), &Value::Null)
        );
        let kinds = service.event_kinds(id).await;
        assert_eq!(kinds, ["created", "callback.started", event]);
    }
    assert_eq!(asked(&service), 4, "none was sent twice");
}

#[tokio::test]
async fn a_provision_that_is_destroyed_before_it_was_sent_is_never_sent() {
    let service = start().await;
    service
        .sim
        .fault(on_dispatch(FaultKind::status(503)).always());
    let id = ask_for_one(&service).await;
    happened(&service, id, "dispatch.failed").await;
    let path = format!("/v1/provisions/{id}");
    assert_eq!(service.operate("DELETE", &path, None).await.status, 202);
    outbox_has(&service, id, "dropped").await;
    service.sim.clear_faults();
    service.advance(Duration::from_secs(3600)).await;
    // Another one comes through, so it was looked at.
    let other = ask_for_one(&service).await;
    dispatched(&service, other).await;
    assert_eq!(runs(&service).len(), 1);
    assert_eq!(service.provision(id).await["status"], "destroyed");
}

#[tokio::test]
async fn one_that_is_destroyed_while_it_is_sent_keeps_the_run_and_refuses_it() {
    let service = start().await;
    let id = under_way(&service, None).await;
    let path = format!("/v1/provisions/{id}");
    assert_eq!(service.operate("DELETE", &path, None).await.status, 202);
    let run = dispatched(&service, id).await;
    let answer = service
        .callback("started", id, Run(run, 1), json!({}))
        .await;
    assert_eq!((answer.status, answer.code()), (409, "already_destroyed"));
}

#[tokio::test]
async fn a_worker_whose_lease_ran_out_writes_nothing_down_when_it_comes_back() {
    let service = start().await;
    let id = under_way(&service, None).await;
    service.advance(Duration::from_secs(121)).await;
    // Somebody else sends it, and is answered first.
    let run = dispatched(&service, id).await;
    assert_eq!(runs(&service), [run]);
    // Stopping waits for the first.
    let (sim, database) = (service.sim, service.database);
    service.app.stop().await.unwrap();
    assert_eq!(sim.runs().len(), 2);
    let pool = backstop::store::connect(database, 2).await.unwrap();
    let row = sqlx::query(
        "select run_id, (select count(*) from events where kind = 'dispatch.sent') as told
         from dispatches",
    )
    .fetch_one(pool.unbounded())
    .await
    .unwrap();
    assert_eq!(
        (row.get::<i64, _>("run_id"), row.get::<i64, _>("told")),
        (run, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_replicas_send_each_dispatch_once() {
    let service = start().await;
    let replica = service.replica().await;
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        ids.insert(ask_for_one(&service).await.to_string());
    }
    for id in &ids {
        dispatched(&service, id.parse().unwrap()).await;
    }
    let runs = service.sim.runs();
    let of: BTreeSet<String> = runs
        .iter()
        .map(|run| run.inputs["provision_id"].clone())
        .collect();
    assert_eq!((runs.len(), of), (20, ids));
    replica.stop().await.unwrap();
}
