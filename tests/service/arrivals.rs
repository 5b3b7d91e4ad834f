//! What comes late is found; what never comes is proven so, and no sooner.

use std::time::Duration;

use backstop::sim::{Fault, FaultKind, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, PATIENCE, Run, Service, labels, steps};
use crate::log;

const RUN: Run = Run(100, 1);

fn only_hetzner() -> Options {
    Options {
        tailscale: false,
        ..Options::default()
    }
}

/// How often servers were listed.
fn lists(service: &Service) -> usize {
    log::count(&service.sim, Vendor::Hetzner, "GET", "/servers?")
}

/// Waits until servers were listed once more and the step is back.
async fn looked_again(service: &Service, id: Uuid, before: usize) -> Value {
    service
        .until(id, |provision| {
            lists(service) > before && provision["rollback"]["steps"][0]["state"] != "leased"
        })
        .await
}

#[tokio::test]
async fn a_server_that_arrives_within_the_window_is_found_and_deleted() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    service.callback("failure", id, RUN, json!({})).await;
    looked_again(&service, id, 0).await;
    service.advance(Duration::from_secs(590)).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    service.advance(Duration::from_secs(9)).await;
    let provision = service.settled(id).await;
    assert_eq!(log::deleted(&service.sim), [server.to_string()]);
    assert!(
        steps(&provision).contains(&format!("1 server {server} gone deleted")),
        "{provision:#}"
    );
}

#[tokio::test]
async fn never_appeared_is_said_only_by_a_list_begun_after_the_window() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    service.callback("failure", id, RUN, json!({})).await;
    looked_again(&service, id, 0).await;
    let before = lists(&service);
    service.advance(Duration::from_secs(590)).await;
    let provision = looked_again(&service, id, before).await;
    assert_eq!(provision["rollback"]["state"], "pending", "{provision:#}");
    let before = lists(&service);
    service.advance(Duration::from_secs(11)).await;
    let provision = service.settled(id).await;
    assert_eq!(steps(&provision), ["1 server search gone never_appeared"]);
    assert!(lists(&service) > before);
    assert_eq!(log::deletes(&service.sim).len(), 0);
}

#[tokio::test]
async fn a_list_that_fails_at_the_end_of_the_window_proves_nothing() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    service.callback("failure", id, RUN, json!({})).await;
    looked_again(&service, id, 0).await;
    let name = started["server_name"].as_str().unwrap();
    service
        .sim
        .fault(Fault::on(Vendor::Hetzner, "GET", "/servers", FaultKind::status(500)).times(3));
    let server = service.sim.add_server(name, labels(&started));
    service.advance(Duration::from_secs(700)).await;
    service.settled(id).await;
    assert_eq!(log::deleted(&service.sim), [server.to_string()]);
}

#[tokio::test]
async fn a_message_of_the_failed_attempt_moves_the_window() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    service.callback("failure", id, RUN, json!({})).await;
    looked_again(&service, id, 0).await;
    service.advance(Duration::from_secs(500)).await;
    // It is told that it is over, and is heard all the same.
    let answer = service
        .callback("progress", id, RUN, json!({"step": "still_here"}))
        .await;
    assert_eq!((answer.status, answer.code()), (409, "already_failed"));
    let before = lists(&service);
    service.advance(Duration::from_secs(200)).await;
    let provision = looked_again(&service, id, before).await;
    assert_eq!(provision["rollback"]["state"], "pending", "{provision:#}");
    service.advance(Duration::from_secs(401)).await;
    let provision = service.settled(id).await;
    assert_eq!(steps(&provision), ["1 server search gone never_appeared"]);
}

#[tokio::test]
async fn what_was_not_begun_needs_no_window() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    service
        .callback("failure", id, RUN, json!({"may_exist": []}))
        .await;
    let provision = service.settled(id).await;
    assert_eq!(
        steps(&provision),
        [
            "1 auth_key search gone never_appeared",
            "1 server search gone never_appeared",
            "1 device search gone never_appeared",
        ]
    );
    assert_eq!(log::deletes(&service.sim).len(), 0);
}

#[tokio::test]
async fn a_server_that_a_second_failure_says_may_exist_is_watched_for_after_all() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let nothing = json!({"may_exist": []});
    service.callback("failure", id, RUN, nothing).await;
    service.settled(id).await;
    // One that knows no more changes nothing, one that does opens the window.
    for (more, state) in [
        (json!({"may_exist": [], "error": "again"}), "done"),
        (json!({"may_exist": ["server"]}), "pending"),
    ] {
        let answer = service.callback("failure", id, RUN, more).await;
        assert_eq!(answer.body["rollback"]["state"], state, "{answer:?}");
    }
    looked_again(&service, id, lists(&service)).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    service.advance(Duration::from_secs(500)).await;
    service.settled(id).await;
    assert_eq!(log::deleted(&service.sim), [server.to_string()]);
}

#[tokio::test]
async fn an_attempt_that_its_run_did_not_end_is_watched_from_its_end_on() {
    for superseded in [true, false] {
        let service = Service::start_with(only_hetzner()).await;
        let id = Uuid::new_v4();
        let started = service.started(id, RUN).await;
        // Silent for longer than the window, and perhaps creating all the while.
        service.advance(Duration::from_secs(1200)).await;
        if superseded {
            service.started(id, Run(100, 2)).await;
        } else {
            let path = format!("/v1/provisions/{id}");
            let answer = service.operate("DELETE", &path, None).await;
            assert_eq!(answer.status, 202);
        }
        looked_again(&service, id, 0).await;
        let name = started["server_name"].as_str().unwrap();
        let server = service.sim.add_server(name, labels(&started));
        service.advance(Duration::from_secs(590)).await;
        service.settled(id).await;
        assert_eq!(log::deleted(&service.sim), [server.to_string()]);
    }
}

#[tokio::test]
async fn an_id_that_comes_after_the_end_reopens_the_rollback_if_it_is_ours() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    service
        .callback("failure", id, RUN, json!({"may_exist": []}))
        .await;
    service.settled(id).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    let named = json!({"server_id": server, "step": "vm_created"});
    let answer = service.callback("progress", id, RUN, named).await;
    assert_eq!((answer.status, answer.code()), (409, "already_failed"));
    service
        .until(id, |provision| {
            service.sim.servers().is_empty() && provision["rollback"]["state"] == "done"
        })
        .await;
    assert_eq!(log::deleted(&service.sim), [server.to_string()]);
}

#[tokio::test]
async fn an_id_that_is_named_again_after_it_counted_as_gone_is_looked_at_again() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    // For a while the vendor does not know its own server.
    let path = format!("/servers/{server}");
    let hidden = FaultKind::Omit {
        only: vec![server.to_string()],
    };
    service
        .sim
        .fault(Fault::on(Vendor::Hetzner, "GET", &path, FaultKind::status(404)).always());
    service
        .sim
        .fault(Fault::on(Vendor::Hetzner, "GET", "/servers", hidden).always());
    let named = json!({"server_id": server, "may_exist": []});
    service.callback("failure", id, RUN, named).await;
    service.settled(id).await;
    service.sim.clear_faults();
    let named = json!({"server_id": server, "step": "still_here"});
    service.callback("progress", id, RUN, named).await;
    service
        .until(id, |provision| {
            service.sim.servers().is_empty() && provision["rollback"]["state"] == "done"
        })
        .await;
}

#[tokio::test]
async fn a_delete_that_outlasts_the_clients_patience_is_looked_at_again() {
    let service = Service::start_with(only_hetzner()).await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    // Longer than the ten seconds of a request; then it is carried out all the same.
    let path = format!("/servers/{}", made.server);
    let slow = FaultKind::Delay { delay_ms: 10_500 };
    service
        .sim
        .fault(Fault::on(Vendor::Hetzner, "DELETE", &path, slow));
    service.callback("failure", id, RUN, made.ids()).await;
    let began = tokio::time::Instant::now();
    let provision = service.settled(id).await;
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(service.alive(), Vec::<String>::new());
    let error = provision["rollback"]["steps"][1]["last_error"].as_str();
    assert!(
        error.is_some_and(|error| error.contains("timed out")),
        "{provision:#}"
    );
}
