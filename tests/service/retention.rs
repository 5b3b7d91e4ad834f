//! The history of what is long over may go; records and receipts stay.

use std::time::Duration;

use backstop::store::retention::forget_events;
use serde_json::json;
use uuid::Uuid;

use crate::callbacks::everything;
use crate::harness::{Run, Service};

const RUN: Run = Run(100, 1);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Walks over all of it, two events at a time.
async fn forget(service: &Service) -> u64 {
    let (mut after, mut forgotten) = (0, 0);
    loop {
        let mut db = service.app.pool().acquire().await.unwrap();
        let piece = forget_events(&mut db, after, 2, MONTH).await.unwrap();
        forgotten += piece.forgotten;
        match piece.go_on_after {
            Some(last) => after = last,
            None => return forgotten,
        }
    }
}

#[tokio::test]
async fn receipts_and_what_is_not_over_are_kept_and_the_rest_goes_by_age() {
    let service = Service::start().await;
    let (failed, running) = (Uuid::new_v4(), Uuid::new_v4());
    let mut server = 0;
    for id in [failed, running] {
        let started = service.callback("started", id, RUN, json!({})).await;
        // Without a machine that runs, no list would prove anything.
        server = service.make_all(&started.body).server;
        let progress = json!({"step": "vm_created"});
        service.callback("progress", id, RUN, progress).await;
    }
    let answer = service
        .callback("success", running, RUN, everything(&server.to_string()))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    service.callback("failure", failed, RUN, json!({})).await;
    service.settled(failed).await;
    let (record, kinds) = (
        service.provision(failed).await,
        service.event_kinds(failed).await,
    );
    assert!(kinds.contains(&"callback.progress".to_owned()), "{kinds:?}");

    service
        .advance(Duration::from_secs(29 * 24 * 60 * 60))
        .await;
    assert_eq!(forget(&service).await, 0, "younger than that");

    service.advance(Duration::from_secs(2 * 24 * 60 * 60)).await;
    let kept: Vec<String> = kinds
        .iter()
        .filter(|kind| ["created", "step.gone", "rollback.done"].contains(&kind.as_str()))
        .cloned()
        .collect();
    assert_eq!(forget(&service).await, (kinds.len() - kept.len()) as u64);
    assert_eq!(service.event_kinds(failed).await, kept);
    assert_eq!(service.provision(failed).await, record);
    assert_eq!(
        service.event_kinds(running).await,
        [
            "created",
            "callback.started",
            "callback.progress",
            "callback.success"
        ]
    );
    assert_eq!(forget(&service).await, 0, "nothing is left to go");

    // A callback that is repeated after all that time changes nothing all the same.
    let answer = service.callback("failure", failed, RUN, json!({})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.body["rollback"]["state"], "done");
}
