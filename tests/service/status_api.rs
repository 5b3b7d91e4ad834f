//! What dashboards read and operators change.

use std::collections::BTreeSet;

use chrono::DateTime;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Run, Service};
use crate::support::{face, step_names};

const RUN: Run = Run(100, 1);

/// Every key of a provision, as the contract has them.
const KEYS: [&str; 21] = [
    "id",
    "agent_id",
    "region",
    "status",
    "attempt",
    "run_id",
    "run_attempt",
    "step",
    "server_name",
    "server_id",
    "server_ip",
    "tailscale_ip",
    "error",
    "failed_step",
    "conclusion",
    "created_at",
    "updated_at",
    "last_heartbeat_at",
    "deadline_at",
    "finished_at",
    "rollback",
];
const ROLLBACK_KEYS: [&str; 5] = ["state", "reason", "started_at", "settled_at", "steps"];
const STEP_KEYS: [&str; 10] = [
    "attempt",
    "resource",
    "vendor_id",
    "state",
    "stuck",
    "proof",
    "tries",
    "next_try_at",
    "last_error",
    "settled_at",
];

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

fn sorted<const N: usize>(mut keys: [&'static str; N]) -> Vec<&'static str> {
    keys.sort_unstable();
    keys.to_vec()
}

/// Holds a provision against the contract's shape.
pub fn check_shape(provision: &Value) {
    assert_eq!(keys(provision), sorted(KEYS), "{provision}");
    for field in ["created_at", "updated_at"] {
        DateTime::parse_from_rfc3339(provision[field].as_str().unwrap()).unwrap();
    }
    let live = ["queued", "provisioning"].contains(&provision["status"].as_str().unwrap());
    assert_eq!(provision["deadline_at"].is_string(), live, "{provision}");
    assert_eq!(provision["finished_at"].is_null(), live, "{provision}");
    assert_eq!(
        provision["run_attempt"].is_null(),
        provision["attempt"] == 0,
        "{provision}"
    );
    // Before any run took it, the one that was dispatched, if one was.
    assert!(
        provision["run_id"].is_u64() || provision["attempt"] == 0,
        "{provision}"
    );
    assert_eq!(
        provision["server_name"].is_null(),
        provision["attempt"] == 0,
        "{provision}"
    );
    if !provision["rollback"].is_null() {
        assert_eq!(keys(&provision["rollback"]), sorted(ROLLBACK_KEYS));
        let done = provision["rollback"]["state"] == "done";
        assert_eq!(
            provision["rollback"]["settled_at"].is_string(),
            done,
            "{provision}"
        );
        for step in provision["rollback"]["steps"].as_array().unwrap() {
            assert_eq!(keys(step), sorted(STEP_KEYS));
            let settled = step["state"] == "gone" || step["state"] == "refused";
            assert_eq!(step["settled_at"].is_string(), settled, "{step}");
            assert_eq!(step["proof"].is_string(), step["state"] == "gone", "{step}");
            let has_next = step["state"] == "due" || step["state"] == "waiting";
            assert_eq!(step["next_try_at"].is_string(), has_next, "{step}");
            assert!(
                step["stuck"].is_boolean() && step["tries"].is_u64(),
                "{step}"
            );
        }
    }
}

/// Asks for a provision; it.
pub async fn create(service: &Service, body: Value) -> Value {
    let answer = service.operate("POST", "/v1/provisions", Some(body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    check_shape(&answer.body);
    answer.body
}

pub fn id_of(provision: &Value) -> Uuid {
    provision["id"].as_str().unwrap().parse().unwrap()
}

/// A provision in this status.
pub async fn in_status(service: &Service, status: &str) -> Uuid {
    if status == "queued" {
        return id_of(&create(service, json!({"agent_id": "web-1"})).await);
    }
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let all = json!({"server_id": "7", "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"});
    match status {
        "running" => drop(service.callback("success", id, RUN, all).await),
        "failed" => drop(
            service
                .callback("failure", id, RUN, json!({"conclusion": "timed_out"}))
                .await,
        ),
        "destroyed" => drop(
            service
                .operate("DELETE", &format!("/v1/provisions/{id}"), None)
                .await,
        ),
        _ => {}
    }
    assert_eq!(service.provision(id).await["status"], status);
    id
}

pub const STATUSES: [&str; 5] = ["queued", "provisioning", "running", "failed", "destroyed"];

#[tokio::test]
async fn a_provision_that_is_asked_for_is_queued_and_asking_again_changes_nothing() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let body = json!({"agent_id": "web-1", "region": "", "id": id, "unknown": 1});
    let answer = service.operate("POST", "/v1/provisions", Some(body)).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["location"], format!("/v1/provisions/{id}"));
    check_shape(&answer.body);
    let mut expected = json!({"id": id, "agent_id": "web-1", "status": "queued", "attempt": 0});
    for key in sorted(KEYS) {
        if key.ends_with("_at") && key != "finished_at" && key != "last_heartbeat_at" {
            expected[key] = answer.body[key].clone();
        } else if expected.get(key).is_none() {
            expected[key] = Value::Null;
        }
    }
    assert_eq!(answer.body, expected);
    assert_eq!(
        service
            .get(answer.headers["location"].to_str().unwrap())
            .await
            .body,
        answer.body
    );

    let other = json!({"agent_id": "web-2", "region": "hel1", "id": id});
    let again = service
        .operate("POST", "/v1/provisions", Some(other.clone()))
        .await;
    assert_eq!((again.status, &again.body), (200, &answer.body));
    assert_eq!(service.event_kinds(id).await, ["created"]);

    // What was said here wins over what `started` says; what was not said is filled in.
    service.started(id, RUN).await;
    let told = json!({"agent_id": "web-9", "region": "nbg1"});
    service.callback("started", id, RUN, told).await;
    let provision = service.provision(id).await;
    assert_eq!(provision["agent_id"], "web-1");
    assert_eq!(provision["region"], "fsn1");
    let again = service.operate("POST", "/v1/provisions", Some(other)).await;
    assert_eq!((again.status, again.body), (200, provision));

    // Without an id one is made; agent ids need not be unique.
    let one = create(&service, json!({"agent_id": "web-1"})).await;
    let two = create(
        &service,
        json!({"agent_id": "web-1", "id": null, "region": "fsn1"}),
    )
    .await;
    assert_ne!(one["id"], two["id"]);
}

#[tokio::test]
async fn the_history_of_a_whole_life_is_complete_and_in_order() {
    let service = Service::start().await;
    let id = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    let made = service.make_all(&service.started(id, RUN).await);
    for step in ["key_minted", "vm_created", "", "joined"] {
        service
            .callback("progress", id, RUN, json!({"step": step}))
            .await;
    }
    service.callback("success", id, RUN, made.ids()).await;
    service
        .operate("POST", &format!("/v1/provisions/{id}/rollback"), None)
        .await;
    service
        .operate("DELETE", &format!("/v1/provisions/{id}"), None)
        .await;
    service.settled(id).await;
    service
        .callback("failure", id, RUN, json!({"error": "too late"}))
        .await;

    let events = service.events(id).await;
    let mut of_workers = Vec::new();
    let mut of_others = Vec::new();
    // The ids are the order. The times agree with it for what was sent one after another; workers
    // of several steps write side by side, so theirs may cross by a moment.
    let mut last_of_others = None;
    for pair in events.windows(2) {
        assert!(pair[0]["id"].as_i64() < pair[1]["id"].as_i64());
    }
    for event in &events {
        assert_eq!(keys(event), ["at", "attempt", "data", "id", "kind"]);
        let kind = event["kind"].as_str().unwrap();
        assert_eq!(event["attempt"], i32::from(kind != "created"), "{event}");
        assert!(event["data"].is_object());
        if kind.starts_with("step.") || kind == "rollback.done" {
            of_workers.push(kind);
        } else {
            of_others.push(kind);
            let at = DateTime::parse_from_rfc3339(event["at"].as_str().unwrap()).unwrap();
            assert!(last_of_others <= Some(at), "{event}");
            last_of_others = Some(at);
        }
    }
    assert_eq!(
        of_others,
        [
            "created",
            "callback.started",
            "callback.progress",
            "callback.progress",
            "callback.progress",
            "callback.success",
            "retry",
            "destroy",
            "callback.failure"
        ]
    );
    // A search may look again, so that it is gone more than once.
    let gone: BTreeSet<String> = events
        .iter()
        .filter(|event| event["kind"] == "step.gone")
        .map(|event| {
            format!(
                "{} {}",
                event["data"]["resource"], event["data"]["vendor_id"]
            )
        })
        .collect();
    assert_eq!(gone.len(), 6, "{gone:?}");
    assert_eq!(of_workers.last(), Some(&"rollback.done"));
    let server = made.server.to_string();
    let gone = events.iter().find(|event| {
        event["kind"] == "step.gone" && event["data"]["vendor_id"] == server.as_str()
    });
    assert_eq!(gone.unwrap()["data"]["proof"], "deleted");
    let success = events
        .iter()
        .find(|event| event["kind"] == "callback.success")
        .unwrap();
    let mut said = made.ids();
    said["run_id"] = json!(RUN.0);
    said["run_attempt"] = json!(RUN.1);
    said["proven_by"] = json!("shared secret");
    assert_eq!(success["data"], said);
}

#[tokio::test]
async fn destroy_works_in_every_status_once_and_keeps_an_earlier_reason() {
    let service = Service::start().await;
    for status in STATUSES {
        let id = in_status(&service, status).await;
        let before = service.provision(id).await;
        let path = format!("/v1/provisions/{id}");
        let answer = service.operate("DELETE", &path, None).await;
        assert_eq!(answer.status, 202, "{status}");
        check_shape(&answer.body);
        assert_eq!(answer.body["status"], "destroyed");
        let rollback = &answer.body["rollback"];
        match status {
            "queued" => {
                assert_eq!(rollback["state"], "done");
                assert_eq!(rollback["reason"], "destroyed");
                assert_eq!(rollback["steps"], json!([]));
            }
            "failed" => {
                assert_eq!(rollback["reason"], "timed_out");
                assert_eq!(rollback["started_at"], before["rollback"]["started_at"]);
                assert_eq!(step_names(&answer.body), step_names(&before));
            }
            _ => {
                assert_eq!(rollback["reason"], "destroyed");
                let named = if status == "running" { 4 } else { 3 };
                assert_eq!(step_names(&answer.body).len(), named, "{status}");
            }
        }
        let events = service.event_kinds(id).await;
        assert_eq!(
            events.iter().filter(|kind| *kind == "destroy").count(),
            1,
            "{status}"
        );
        let again = service.operate("DELETE", &path, None).await;
        assert_eq!(
            (again.status, face(&again.body)),
            (202, face(&answer.body)),
            "{status}"
        );
        let events = service.event_kinds(id).await;
        assert_eq!(
            events.iter().filter(|kind| *kind == "destroy").count(),
            1,
            "{status}"
        );
    }
    // A healthy machine goes with all that belongs to it.
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    service.callback("success", id, RUN, made.ids()).await;
    service
        .operate("DELETE", &format!("/v1/provisions/{id}"), None)
        .await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operator_makes_unsettled_steps_due_now_in_any_status() {
    let service = Service::start().await;
    for status in STATUSES {
        let id = in_status(&service, status).await;
        let before = service.provision(id).await;
        let path = format!("/v1/provisions/{id}/rollback");
        let answer = service.operate("POST", &path, None).await;
        assert_eq!(answer.status, 202, "{status}: {answer:?}");
        check_shape(&answer.body);
        assert_eq!(answer.body["status"], status);
        assert_eq!(
            answer.body["rollback"].is_null(),
            before["rollback"].is_null(),
            "{status}"
        );
    }
    // A search that waits for the window is looked at again at once.
    let id = in_status(&service, "failed").await;
    let server = async || {
        let is_server = |step: &&Value| step["resource"] == "server";
        let provision = service.provision(id).await;
        provision["rollback"]["steps"]
            .as_array()
            .unwrap()
            .iter()
            .find(is_server)
            .unwrap()
            .clone()
    };
    service
        .until(id, |provision| {
            provision["rollback"]["steps"]
                .as_array()
                .unwrap()
                .iter()
                .all(|step| step["state"] == "waiting")
        })
        .await;
    let looks = || {
        let history = service.sim.history();
        history
            .iter()
            .filter(|entry| entry.path.contains(&id.to_string()))
            .count()
    };
    let (waiting, looked) = (server().await, looks());
    assert_eq!(waiting["state"], "waiting");
    let answer = service
        .operate("POST", &format!("/v1/provisions/{id}/rollback"), None)
        .await;
    let at =
        |step: &Value| DateTime::parse_from_rfc3339(step["next_try_at"].as_str().unwrap()).unwrap();
    for step in answer.body["rollback"]["steps"].as_array().unwrap() {
        if step["state"] == "due" {
            assert!(at(step) < at(&waiting), "{step}");
        }
    }
    service.until(id, |_| looks() > looked).await;
    assert_eq!(service.provision(id).await["rollback"]["state"], "pending");
}
