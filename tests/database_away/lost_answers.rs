//! The connection breaks between a commit and its answer: what was committed is told when it is
//! asked again, and done once.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Run, Service, database};
use crate::proxy::Proxy;

const RUN: Run = Run(100, 1);

async fn service() -> (Service, Proxy) {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    // A pulse is a transaction of several statements as well, and would be the first to be lost.
    let options = Options {
        pulse_every: Duration::from_secs(3600),
        ..Options::default()
    };
    let service = Service::start_at(options, proxy.options(&database)).await;
    (service, proxy)
}

/// How a statement carries a text: its length, and then it.
fn as_bound(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

/// What every callback's answer says again when the callback is sent again.
fn stable(mut answer: Value) -> Value {
    if let Some(rollback) = answer["rollback"].as_object_mut() {
        rollback.retain(|key, _| ["reason", "started_at"].contains(&key.as_str()));
    }
    answer
}

#[tokio::test]
async fn a_callback_whose_commit_went_unanswered_is_503_and_the_same_again_is_its_answer() {
    let (service, proxy) = service().await;
    let id = Uuid::new_v4();
    let ids = json!({"server_id": "42", "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"});
    // The status is what only the write of a callback binds.
    for (kind, status, more) in [
        ("started", "provisioning", json!({"agent_id": "web-1"})),
        ("progress", "provisioning", json!({"step": "vm_created"})),
        ("success", "running", ids),
        ("failure", "failed", json!({"may_exist": []})),
    ] {
        proxy.lose_the_answer_to(&as_bound(status));
        let lost = service.callback(kind, id, RUN, more.clone()).await;
        assert_eq!(lost.status, 503, "{kind}: {lost:?}");
        assert!(lost.headers.contains_key("retry-after"));
        assert!(proxy.has_lost_it(), "{kind}");
        let event = format!("callback.{kind}");
        let kinds = service.event_kinds(id).await;
        assert_eq!(kinds.iter().filter(|kind| **kind == event).count(), 1);

        let first = service.callback(kind, id, RUN, more.clone()).await;
        let second = service.callback(kind, id, RUN, more).await;
        assert!(matches!(first.status, 200 | 202), "{kind}: {first:?}");
        assert_eq!(stable(first.body), stable(second.body), "{kind}");
        let kinds = service.event_kinds(id).await;
        assert_eq!(kinds.iter().filter(|kind| **kind == event).count(), 1);
    }
    service.settled(id).await;
}

#[tokio::test]
async fn a_destroy_whose_commit_went_unanswered_is_503_and_the_same_again_is_its_answer() {
    let (service, proxy) = service().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    proxy.lose_the_answer_to(&as_bound("destroyed"));
    let path = format!("/v1/provisions/{id}");
    let lost = service.operate("DELETE", &path, None).await;
    assert_eq!(lost.status, 503);
    assert!(proxy.has_lost_it());
    assert_eq!(service.provision(id).await["status"], "destroyed");
    let answer = service.operate("DELETE", &path, None).await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (202, &json!("destroyed"))
    );
    let kinds = service.event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "destroy").count(), 1);
}

#[tokio::test]
async fn a_step_whose_report_went_unanswered_is_settled_once() {
    let (service, proxy) = service().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    // Only reports and pulses are transactions of more than one statement.
    proxy.lose_the_answer_to(b"COMMIT");
    service.callback("failure", id, RUN, made.ids()).await;
    service.settled(id).await;
    assert!(proxy.has_lost_it());
    assert_eq!(service.alive(), Vec::<String>::new());
    let kinds = service.event_kinds(id).await;
    for (kind, times) in [("step.gone", 6), ("step.deleting", 3), ("rollback.done", 1)] {
        let found = kinds.iter().filter(|found| *found == kind).count();
        assert_eq!(found, times, "{kind}: {kinds:?}");
    }
}
