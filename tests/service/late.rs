//! What comes late for an attempt that is over is undone, and no other attempt is touched.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::harness::{Run, Service, callback_body, labels, steps};

const WINDOW: Duration = Duration::from_secs(601);

#[tokio::test]
async fn a_superseded_attempt_is_rolled_back_and_its_successor_is_left_alone() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.make_all(&service.started(id, Run(1, 1)).await);
    let second = service.started(id, Run(1, 2)).await;
    let made = service.make_all(&second);
    let provision = service.settled(id).await;
    assert_eq!(provision["status"], "provisioning");
    assert_eq!(provision["rollback"]["reason"], "superseded");
    assert_eq!(service.alive().len(), 3, "{:?}", service.alive());

    // The late failure of attempt 1 names attempt 2's machine. It is refused, and stays.
    let answer = service.callback("failure", id, Run(1, 1), made.ids()).await;
    assert_eq!(answer.status, 202);
    service.settled(id).await;
    let name = second["server_name"].as_str().unwrap();
    let alive = service.alive();
    assert_eq!(alive.len(), 3, "{alive:?}");
    assert!(alive.contains(&format!("server {name}")), "{alive:?}");
    let answer = service.callback("success", id, Run(1, 2), made.ids()).await;
    assert_eq!(answer.body, json!({"status": "running"}));

    // Nor does a re-run of what is healthy.
    let answer = service.callback("started", id, Run(1, 3), json!({})).await;
    assert_eq!((answer.status, answer.code()), (409, "already_running"));
    assert_eq!(service.alive(), alive);
}

#[tokio::test]
async fn a_late_success_gets_409_and_reopens_the_rollback_for_what_it_names() {
    let service = Service::start().await;
    for (owner, code) in [(Run(1, 1), "already_failed"), (Run(1, 2), "stale_attempt")] {
        let id = Uuid::new_v4();
        let started = service.started(id, Run(1, 1)).await;
        service.callback("failure", id, Run(1, 1), json!({})).await;
        service.advance(WINDOW).await;
        service.settled(id).await;
        if owner != Run(1, 1) {
            service.started(id, owner).await;
        }
        // Later than the window that anybody watched for it.
        let made = service.make_all(&started);
        let answer = service.callback("success", id, Run(1, 1), made.ids()).await;
        assert_eq!((answer.status, answer.code()), (409, code));
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new(), "{code}");
        let done = service.event_kinds(id).await;
        let done = done.iter().filter(|kind| *kind == "rollback.done").count();
        assert!(done >= 2, "{done}");
    }
}

#[tokio::test]
async fn a_failure_for_an_older_attempt_waits_for_that_attempt_only() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let started = service.started(id, Run(1, 1)).await;
    service
        .callback("failure", id, Run(1, 1), json!({"may_exist": []}))
        .await;
    service.settled(id).await;
    // Attempt 2 fails as well and cannot settle: its server may still arrive.
    service.started(id, Run(2, 1)).await;
    service.callback("failure", id, Run(2, 1), json!({})).await;
    let server = service.sim.add_server("any-name", labels(&started));
    let body = json!({"server_id": server, "may_exist": []});
    let body = callback_body("failure", id, Run(1, 1), body).to_string();
    let request = service
        .signed("failure", id, &body)
        .header("prefer", "wait=60");
    let answer = service.send(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["rollback"]["state"], "done");
    assert_eq!(service.provision(id).await["rollback"]["state"], "pending");
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn an_id_that_was_refused_is_looked_at_again_when_it_is_named_again() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let started = service.started(id, Run(1, 1)).await;
    let name = started["server_name"].as_str().unwrap();
    // Not ours yet: the workflow has not labelled it.
    let server = service.sim.add_server(name, [("team", "finance")]);
    let early = json!({"server_id": server, "may_exist": []});
    service.callback("failure", id, Run(1, 1), early).await;
    let provision = service.settled(id).await;
    assert!(
        steps(&provision).contains(&format!("1 server {server} refused -")),
        "{:#?}",
        steps(&provision)
    );

    service.sim.relabel_server(server, labels(&started));
    let late = json!({"server_id": server, "server_ip": "192.0.2.7", "tailscale_ip": "100.64.0.7"});
    let answer = service.callback("success", id, Run(1, 1), late).await;
    assert_eq!((answer.status, answer.code()), (409, "already_failed"));
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}
