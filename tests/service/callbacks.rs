//! What a callback takes, keeps, proves and answers.

use std::time::Duration;

use chrono::DateTime;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Run, Service, TAG, callback_body};
use crate::support::{face, said, step_names};

const RUN: Run = Run(100, 1);

/// A report that names everything.
pub fn everything(server: &str) -> Value {
    json!({"server_id": server, "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1",
           "tailscale_key_id": "kKEY", "tailscale_node_id": "nNODE"})
}

/// These fields, and more.
pub fn with(mut fields: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    fields.as_object_mut().unwrap().extend(more);
    fields
}

fn time(value: &Value) -> DateTime<chrono::FixedOffset> {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_callback_sent_again_after_others_changes_nothing() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let script = [
        (
            "started",
            json!({"agent_id": "web-1", "region": "fsn1"}),
            200,
        ),
        (
            "progress",
            json!({"step": "key_minted", "tailscale_key_id": "kKEY"}),
            200,
        ),
        (
            "progress",
            json!({"step": "vm_created", "server_id": "7"}),
            200,
        ),
        ("success", everything("7"), 200),
        ("progress", json!({"step": "after"}), 200),
        (
            "failure",
            with(
                everything("7"),
                json!({"error": "late", "failed_step": "smoke test"}),
            ),
            202,
        ),
        ("failure", json!({"conclusion": "cancelled"}), 202),
    ];
    for sent in 1..=script.len() {
        let (kind, fields, expected) = &script[sent - 1];
        let answer = service.callback(kind, id, RUN, fields.clone()).await;
        assert_eq!(answer.status, *expected, "{kind}: {answer:?}");
        // Everything so far, in another order, twice.
        let before = (face(&service.provision(id).await), said(&service, id).await);
        for _ in 0..2 {
            for (kind, fields, _) in script[..sent].iter().rev() {
                service.callback(kind, id, RUN, fields.clone()).await;
            }
        }
        let after = (face(&service.provision(id).await), said(&service, id).await);
        assert_eq!(before, after, "after {sent} messages");
    }
}

#[tokio::test]
async fn a_heartbeat_leaves_no_event_and_moves_its_time_only() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    for status in ["provisioning", "running"] {
        if status == "running" {
            service.callback("success", id, RUN, everything("7")).await;
        }
        for fields in [json!({}), json!({"step": ""}), json!({"step": null})] {
            let mut before = service.provision(id).await;
            let told = service.events(id).await;
            service.advance(Duration::from_secs(30)).await;
            let answer = service.callback("progress", id, RUN, fields).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body["status"], status);
            let after = service.provision(id).await;
            let moved = time(&after["last_heartbeat_at"]);
            if !before["last_heartbeat_at"].is_null() {
                let by = moved - time(&before["last_heartbeat_at"]);
                assert!(by.num_seconds() >= 30, "{by}");
            }
            before["last_heartbeat_at"] = after["last_heartbeat_at"].clone();
            assert_eq!(after, before, "{status}");
            assert_eq!(service.events(id).await, told);
        }
    }
}

#[tokio::test]
async fn an_empty_string_or_null_means_absent_in_every_field() {
    let service = Service::start().await;
    let fields = [
        "run_attempt",
        "agent_id",
        "region",
        "step",
        "server_id",
        "server_ip",
        "tailscale_ip",
        "tailscale_key_id",
        "tailscale_node_id",
        "error",
        "failed_step",
        "conclusion",
        "may_exist",
    ];
    for (kind, status) in [("started", 200), ("progress", 200), ("failure", 202)] {
        let mut faces = Vec::new();
        for nothing in [None, Some(json!("")), Some(Value::Null)] {
            let id = Uuid::new_v4();
            let mut body = callback_body(kind, id, RUN, json!({}));
            let body = body.as_object_mut().unwrap();
            body.remove("run_attempt");
            if let Some(nothing) = nothing {
                body.extend(fields.map(|field| (field.to_owned(), nothing.clone())));
            }
            let body = json!(body).to_string();
            let answer = service.send(service.signed(kind, id, &body)).await;
            assert_eq!(answer.status, status, "{body}: {answer:?}");
            let mut face = face(&service.provision(id).await);
            let data: Vec<Value> = said(&service, id)
                .await
                .iter()
                .map(|e| e["data"].clone())
                .collect();
            for field in [
                "id",
                "server_name",
                "created_at",
                "updated_at",
                "deadline_at",
                "finished_at",
                "last_heartbeat_at",
            ] {
                face.as_object_mut().unwrap().remove(field);
            }
            if let Some(rollback) = face["rollback"].as_object_mut() {
                rollback.remove("started_at");
            }
            faces.push((face, data));
        }
        assert_eq!(faces[0], faces[1], "{kind}");
        assert_eq!(faces[0], faces[2], "{kind}");
    }
}

#[tokio::test]
async fn the_run_is_an_integer_or_its_string_and_unknown_fields_are_ignored() {
    let service = Service::start().await;
    for (run_id, run_attempt, expected) in [
        (json!(123), json!(2), (123, 2)),
        (json!("123"), json!("2"), (123, 2)),
        (json!(i64::MAX), json!(i32::MAX), (i64::MAX, i32::MAX)),
        (json!(i64::MAX.to_string()), Value::Null, (i64::MAX, 1)),
    ] {
        let id = Uuid::new_v4();
        let body = json!({"type": "started", "provision_id": id.to_string().to_uppercase(),
                          "run_id": run_id, "run_attempt": run_attempt, "refused": "x",
                          "status": "destroyed", "attempt": 9, "nested": {"a": [1, {"b": null}]}});
        let answer = service
            .send(service.signed("started", id, &body.to_string()))
            .await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        assert_eq!(
            answer.body["labels"]["backstop-run"],
            format!("{}.{}", expected.0, expected.1)
        );
        let provision = service.provision(id).await;
        assert_eq!(provision["run_id"], expected.0);
        assert_eq!(provision["run_attempt"], expected.1);
        assert_eq!(provision["status"], "provisioning");
        // The same said with the other type is the same.
        let told = said(&service, id).await;
        let other = json!({"type": "started", "provision_id": id, "run_id": expected.0.to_string(),
                           "run_attempt": expected.1.to_string()});
        let again = service
            .send(service.signed("started", id, &other.to_string()))
            .await;
        assert_eq!(again.body, answer.body);
        assert_eq!(said(&service, id).await, told);
    }
}

#[tokio::test]
async fn started_tells_every_name_that_the_rollback_will_look_for() {
    for tailscale in [true, false] {
        let service = Service::start_with(Options {
            tailscale,
            ..Options::default()
        })
        .await;
        let id = Uuid::new_v4();
        let answer = service.started(id, Run(42, 3)).await;
        let (provision, hex) = (service.provision(id).await, id.simple());
        let controller: Uuid = answer["labels"]["backstop-controller"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let name = format!("agent-{hex}-a1");
        assert_eq!(
            answer,
            json!({
                "attempt": 1,
                "server_name": name,
                "labels": {"managed-by": "backstop", "backstop-controller": controller,
                           "backstop-provision": id, "backstop-attempt": "1",
                           "backstop-run": "42.3"},
                "tailscale": tailscale.then(|| json!({
                    "hostname": name, "tags": [TAG], "key_description": format!("backstop {hex}-a1"),
                })),
                "deadline_at": provision["deadline_at"],
            })
        );
        let given = time(&provision["deadline_at"]) - time(&provision["created_at"]);
        assert_eq!(given.num_seconds(), 1800);
    }
}

#[tokio::test]
async fn success_must_name_its_server_and_its_address_in_the_tailnet_if_there_is_one() {
    for tailscale in [true, false] {
        let service = Service::start_with(Options {
            tailscale,
            ..Options::default()
        })
        .await;
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        let before = (service.provision(id).await, service.events(id).await);
        let complete =
            json!({"server_id": "7", "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"});
        for field in ["server_id", "server_ip", "tailscale_ip"] {
            if field == "tailscale_ip" && !tailscale {
                continue;
            }
            for missing in [Value::Null, json!("")] {
                let fields = with(complete.clone(), json!({field: missing}));
                let answer = service.callback("success", id, RUN, fields).await;
                assert_eq!(
                    (answer.status, answer.code()),
                    (422, "invalid_body"),
                    "{field}"
                );
                let detail = answer.body["detail"].as_str().unwrap();
                assert!(detail.contains(field), "{detail}");
            }
        }
        assert_eq!(
            (service.provision(id).await, service.events(id).await),
            before
        );
        let fields = if tailscale {
            complete
        } else {
            json!({"server_id": 7, "server_ip": "2001:db8::1"})
        };
        let answer = service.callback("success", id, RUN, fields).await;
        assert_eq!(answer.body, json!({"status": "running"}));
        let provision = service.provision(id).await;
        assert_eq!(provision["server_id"], "7");
        assert!(provision["deadline_at"].is_null() && !provision["finished_at"].is_null());
        // Without Tailscale there is nothing of it to undo, whatever is named.
        service.callback("failure", id, RUN, everything("7")).await;
        let steps = step_names(&service.provision(id).await);
        if tailscale {
            assert_eq!(steps.len(), 6, "{steps:?}");
        } else {
            assert_eq!(steps, ["1 server -", "1 server 7"]);
        }
    }
}

#[tokio::test]
async fn may_exist_decides_what_is_waited_for() {
    let service = Service::start().await;
    for (may_exist, state) in [
        (json!([]), "done"),
        (json!(["auth_key"]), "done"),
        (json!(["device", "auth_key", "device"]), "done"),
        (json!(["server"]), "pending"),
        (json!(""), "pending"),
        (Value::Null, "pending"),
    ] {
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        service
            .callback("failure", id, RUN, json!({"may_exist": may_exist}))
            .await;
        let provision = service
            .until(id, |provision| {
                let steps = provision["rollback"]["steps"].as_array().unwrap();
                steps.iter().all(|step| {
                    step["tries"] != 0 && step["state"] != "leased" && step["state"] != "due"
                })
            })
            .await;
        if state == "done" {
            let provision = service.settled(id).await;
            for step in provision["rollback"]["steps"].as_array().unwrap() {
                assert_eq!(step["proof"], "never_appeared", "{may_exist}");
            }
        } else {
            assert_eq!(provision["rollback"]["state"], state, "{may_exist}");
        }
        // Another failure can add to it, never take away.
        service
            .callback(
                "failure",
                id,
                RUN,
                json!({"may_exist": [], "error": "again"}),
            )
            .await;
        if state == "pending" {
            service.advance(Duration::from_secs(590)).await;
            let provision = service.provision(id).await;
            assert_eq!(provision["rollback"]["state"], state, "{may_exist}");
            service.advance(Duration::from_secs(15)).await;
            service.settled(id).await;
        }
    }
}

#[tokio::test]
async fn the_conclusion_is_the_reason() {
    let service = Service::start().await;
    for (conclusion, reason) in [
        (Value::Null, "failure"),
        (json!("failure"), "failure"),
        (json!("cancelled"), "cancelled"),
        (json!("timed_out"), "timed_out"),
    ] {
        let id = Uuid::new_v4();
        let fields = json!({"conclusion": conclusion, "error": "a\u{0}b", "failed_step": "boot"});
        let answer = service.callback("failure", id, RUN, fields).await;
        assert_eq!(answer.body["status"], "failed");
        assert_eq!(answer.body["rollback"]["reason"], reason);
        let provision = service.provision(id).await;
        assert_eq!(provision["conclusion"], conclusion);
        assert_eq!(provision["error"], "a\u{fffd}b");
        assert_eq!(provision["failed_step"], "boot");
        assert_eq!(
            provision["rollback"]["started_at"],
            provision["finished_at"]
        );
    }
}

#[tokio::test]
async fn prefer_wait_waits_as_long_as_it_says_and_junk_is_ignored() {
    let service = Service::start().await;
    let settled = Uuid::new_v4();
    service
        .callback("failure", settled, RUN, json!({"may_exist": []}))
        .await;
    service.settled(settled).await;
    let open = Uuid::new_v4();
    service.callback("failure", open, RUN, json!({})).await;
    // Its server may still arrive, so this one cannot settle however long anybody waits.
    for (id, prefer, status, applied) in [
        (settled, None, 202, None),
        (settled, Some("wait=0"), 200, Some("wait=0")),
        (settled, Some("wait=20"), 200, Some("wait=20")),
        (settled, Some("respond-async, WAIT=5"), 200, Some("wait=5")),
        (settled, Some("wait=\"5\""), 200, Some("wait=5")),
        (settled, Some("wait=9999"), 200, Some("wait=60")),
        (settled, Some("wait"), 202, None),
        (settled, Some("wait="), 202, None),
        (settled, Some("wait=-1"), 202, None),
        (settled, Some("wait=soon"), 202, None),
        (settled, Some("wait=99999999999999999999999"), 202, None),
        (settled, Some("waiting=5"), 202, None),
        (settled, Some("=;,;=,"), 202, None),
        (open, None, 202, None),
        (open, Some("wait=0"), 202, Some("wait=0")),
        (open, Some("wait=1"), 202, Some("wait=1")),
    ] {
        let fields = if id == settled {
            json!({"may_exist": []})
        } else {
            json!({})
        };
        let body = callback_body("failure", id, RUN, fields).to_string();
        let mut request = service.signed("failure", id, &body);
        if let Some(prefer) = prefer {
            request = request.header("prefer", prefer);
        }
        let answer = service.send(request).await;
        assert_eq!(answer.status, status, "{prefer:?}: {answer:?}");
        let got = answer
            .headers
            .get("preference-applied")
            .map(|v| v.to_str().unwrap());
        assert_eq!(got, applied, "{prefer:?}");
        let state = if id == settled { "done" } else { "pending" };
        assert_eq!(answer.body["rollback"]["state"], state, "{prefer:?}");
    }
    // Other callbacks do not wait.
    let other = Uuid::new_v4();
    let body = callback_body("progress", other, RUN, json!({})).to_string();
    let request = service
        .signed("progress", other, &body)
        .header("prefer", "wait=60");
    assert_eq!(service.send(request).await.status, 200);
}
