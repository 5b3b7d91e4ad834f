//! A dispatch whose worker crashes.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop::providers::Timeouts;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::crash::{self, DISPATCH_ANSWERED, DISPATCH_CLAIMED, TURN};
use crate::fences::wait_for;
use crate::harness::{Options, Run, Service};

const LEASE_IS_OVER: Duration = Duration::from_secs(121);

async fn start() -> Service {
    Service::start_with(Options {
        github: Some(Timeouts::default()),
        ..Options::default()
    })
    .await
}

async fn ask_for_one(service: &Service) -> Uuid {
    let body = json!({"agent_id": "web-1"});
    let answer = service.operate("POST", "/v1/provisions", Some(body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["id"].as_str().unwrap().parse().unwrap()
}

fn runs(service: &Service) -> Vec<i64> {
    let runs = service.sim.runs();
    runs.iter()
        .map(|run| i64::try_from(run.id).unwrap())
        .collect()
}

async fn sent(service: &Service, id: Uuid) -> Value {
    service
        .until(id, |provision| !provision["run_id"].is_null())
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_call_is_made_good_once_the_lease_is_over() {
    let _turn = TURN.lock().await;
    let service = start().await;
    crash::arm(DISPATCH_CLAIMED, 1);
    let id = ask_for_one(&service).await;
    wait_for("the crash", || crash::count() == 1).await;
    assert_eq!(runs(&service), [] as [i64; 0]);
    service.advance(LEASE_IS_OVER).await;
    let provision = sent(&service, id).await;
    crash::disarm();
    assert_eq!(json!(runs(&service)), json!([provision["run_id"]]));
    assert_eq!(service.event_kinds(id).await, ["created", "dispatch.sent"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_the_call_sends_again_and_one_run_has_the_provision() {
    let _turn = TURN.lock().await;
    // Whichever of the two runs is the first to say so.
    for first in [0, 1] {
        let service = start().await;
        crash::arm(DISPATCH_ANSWERED, 1);
        let id = ask_for_one(&service).await;
        wait_for("the crash", || crash::count() == 1).await;
        assert_eq!(service.provision(id).await["status"], "queued");
        service.advance(LEASE_IS_OVER).await;
        let provision = sent(&service, id).await;
        crash::disarm();
        let runs = runs(&service);
        assert_eq!(runs.len(), 2);
        assert_eq!(provision["run_id"], runs[1]);
        assert_eq!(service.event_kinds(id).await, ["created", "dispatch.sent"]);

        let (owner, other) = (runs[first], runs[1 - first]);
        service.started(id, Run(owner, 1)).await;
        let late = service
            .callback("started", id, Run(other, 1), json!({}))
            .await;
        assert_eq!((late.status, late.code()), (409, "already_provisioning"));
        assert_eq!(service.provision(id).await["run_id"], owner);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_starts_after_the_crash_is_not_followed_by_another() {
    let _turn = TURN.lock().await;
    let service = start().await;
    crash::arm(DISPATCH_ANSWERED, 1);
    let id = ask_for_one(&service).await;
    wait_for("the crash", || crash::count() == 1).await;
    crash::disarm();
    let run = runs(&service)[0];
    service.started(id, Run(run, 1)).await;
    service.advance(LEASE_IS_OVER).await;
    // Another one comes through, so it was looked at.
    let other = ask_for_one(&service).await;
    sent(&service, other).await;
    let of: BTreeSet<String> = service
        .sim
        .runs()
        .iter()
        .map(|run| run.inputs["provision_id"].clone())
        .collect();
    assert_eq!(runs(&service).len(), 2);
    assert_eq!(of, BTreeSet::from([id.to_string(), other.to_string()]));
}
