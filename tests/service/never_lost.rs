//! A proven failure is never lost for what it says, and no machine in use for how an address is spelled.

use backstop::store::running;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Run, Service, callback_body};
use crate::hostile::{KINDS, Target, odd_bodies, valid};

const RUN: Run = Run(100, 1);

/// What the history keeps of the last callback of this kind.
async fn last_event(service: &Service, id: Uuid, kind: &str) -> Value {
    let events = service.events(id).await;
    let of_kind = |event: &&Value| event["kind"] == format!("callback.{kind}");
    events.iter().rfind(of_kind).expect("it is kept")["data"].clone()
}

/// Each field of a failure with values that it cannot have.
fn unreadable() -> Vec<(&'static str, Vec<Value>)> {
    let texts = |texts: &[&str]| -> Vec<Value> { texts.iter().map(|it| json!(it)).collect() };
    let mut server = texts(&["null", " 42 ", "42.0", "042", "../1", "0"]);
    server.extend([json!(42.0), json!(0), json!(true), json!([42]), json!({})]);
    let mut tailscale = texts(&["null", " n1", "a/b", "é"]);
    tailscale.extend([json!("x".repeat(65)), json!(1.5), json!(["n1"])]);
    let mut address = texts(&["null", "1.2.3", "1.2.3.4/33", " 1.2.3.4", "localhost"]);
    address.extend([json!(1), json!({})]);
    let mut conclusion = texts(&["skipped", "FAILURE", "failure ", "success", "timed-out"]);
    conclusion.push(json!(1));
    vec![
        ("server_id", server),
        ("tailscale_key_id", tailscale.clone()),
        ("tailscale_node_id", tailscale),
        ("server_ip", address.clone()),
        ("tailscale_ip", address),
        ("conclusion", conclusion),
        (
            "failed_step",
            vec![json!(7), json!("x".repeat(256)), json!("a\0b")],
        ),
        (
            "error",
            vec![json!(7), json!(["x"]), json!({"message": "x"})],
        ),
        (
            "may_exist",
            vec![
                json!(["server", "volume"]),
                json!("server"),
                json!([null]),
                json!(1),
            ],
        ),
        ("job", vec![json!(7), json!("x".repeat(256))]),
    ]
}

#[tokio::test]
async fn a_failure_is_taken_whatever_its_fields_say_and_names_what_it_could_not_read() {
    let service = Service::start().await;
    for (field, values) in unreadable() {
        for value in values {
            let id = Uuid::new_v4();
            service.started(id, RUN).await;
            let answer = service
                .callback("failure", id, RUN, json!({field: value}))
                .await;
            let what = format!("{field}={value:.100}: {answer:?}");
            assert_eq!(answer.status, 202, "{what}");
            assert_eq!(answer.body["unreadable"], json!([field]), "{what}");
            assert_eq!(answer.body["rollback"]["reason"], "failure", "{what}");
            let kept = last_event(&service, id, "failure").await;
            assert_eq!(kept["unreadable"], json!([field]), "{what}");
            assert_eq!(
                kept["may_exist"],
                json!(["auth_key", "server", "device"]),
                "{what}"
            );
            // How it ended nobody can tell, but that it failed.
            let ended = (field == "conclusion").then_some("failure");
            assert_eq!(kept["conclusion"], json!(ended), "{what}");
            let provision = service.provision(id).await;
            assert_eq!(provision["conclusion"], json!(ended), "{what}");
        }
    }
}

#[tokio::test]
async fn what_the_attempt_made_goes_at_once_whatever_its_failure_says() {
    let service = Service::start().await;
    for (field, values) in unreadable() {
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        let more = json!({field: values[0]});
        service.callback("failure", id, RUN, more).await;
        let settled = service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new(), "{field}");
        let steps = settled["rollback"]["steps"].as_array().unwrap();
        let server = json!(made.server.to_string());
        assert!(steps.iter().any(|step| step["vendor_id"] == server));
    }
}

#[tokio::test]
async fn a_failure_of_which_only_who_speaks_can_be_read_may_be_the_first_that_is_heard() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let mut more = json!({});
    for (field, _) in unreadable() {
        more[field] = json!({"": [field]});
    }
    let answer = service.callback("failure", id, RUN, more).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(
        answer.body["unreadable"].as_array().unwrap().len(),
        unreadable().len()
    );
    let steps = answer.body["rollback"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
}

#[tokio::test]
async fn what_a_failure_says_well_is_kept_beside_what_it_does_not() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let more = json!({
        "server_id": "null", "server_ip": "2a01:4f8:c0c:1234::/64", "conclusion": "cancelled",
        "error": "no space left", "failed_step": 7, "may_exist": ["server"],
    });
    let answer = service.callback("failure", id, RUN, more.clone()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.body["unreadable"],
        json!(["server_id", "failed_step"])
    );
    let again = service.callback("failure", id, RUN, more).await;
    assert_eq!(again.body["unreadable"], answer.body["unreadable"]);
    let provision = service.provision(id).await;
    assert_eq!(provision["rollback"]["reason"], "cancelled");
    assert_eq!(provision["error"], "no space left");
    assert_eq!(provision["server_ip"], "2a01:4f8:c0c:1234::/64");
    assert_eq!(provision["server_id"], Value::Null);
    let failures = service.event_kinds(id).await;
    assert_eq!(
        failures
            .iter()
            .filter(|it| *it == "callback.failure")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_failure_without_faults_says_nothing_of_them() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let answer = service
        .callback("failure", id, RUN, json!({"server_id": ""}))
        .await;
    assert_eq!(answer.body.get("unreadable"), None);
    assert_eq!(
        last_event(&service, id, "failure").await.get("unreadable"),
        None
    );
}

#[tokio::test]
async fn only_the_identity_of_a_failure_can_be_refused() {
    let target = Target::start().await;
    for (field, value) in [
        ("type", json!("progress")),
        ("provision_id", json!(Uuid::new_v4())),
        ("run_id", json!("null")),
        ("run_attempt", json!("x")),
    ] {
        let mut body = valid("failure", target.id);
        body[field] = value;
        let answer = target
            .callback("failure", body.to_string().as_bytes())
            .await;
        target.refused(&answer, (422, "invalid_body"), field).await;
    }
    let valid = valid("failure", target.id).to_string();
    for run_id in ["1e400", "\"\\ud800\"", "[[1]]"] {
        let body = valid.replacen("\"run_id\":100", &format!("\"run_id\":{run_id}"), 1);
        let answer = target.callback("failure", body.as_bytes()).await;
        target.refused(&answer, (422, "invalid_body"), run_id).await;
    }
}

#[tokio::test]
async fn a_field_that_nobody_asks_for_is_ignored_whatever_is_in_it() {
    let target = Target::start().await;
    for kind in KINDS {
        let body = valid(kind, target.id).to_string();
        for odd in odd_bodies(&body) {
            let answer = target.callback(kind, &odd).await;
            let what = String::from_utf8_lossy(&odd).into_owned();
            assert!(
                matches!(answer.status, 200 | 202),
                "{what:.300}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_long_or_garbled_error_is_cut_and_mended_and_never_lost() {
    let service = Service::start().await;
    for (error, begins) in [
        ("x".repeat(70 * 1024), "xxx"),
        ("é".repeat(400 * 1024), "ééé"),
    ] {
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        let answer = service
            .callback("failure", id, RUN, json!({"error": error}))
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let kept = service.provision(id).await["error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(kept.starts_with(begins) && kept.ends_with(" […]"));
        assert!(
            (60 * 1024..=64 * 1024).contains(&kept.len()),
            "{}",
            kept.len()
        );
    }

    let target = Target::start().await;
    let begin = valid("failure", target.id).to_string();
    let begin = begin.trim_end_matches('}');
    let body = [
        begin.as_bytes(),
        b",\"error\":\"no \xff such \\ud800 file\"}",
    ]
    .concat();
    let answer = target.callback("failure", &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let kept = target.service.provision(target.id).await["error"].clone();
    let kept = kept.as_str().unwrap();
    assert!(
        kept.starts_with("no \u{fffd} such ") && kept.ends_with(" file"),
        "{kept}"
    );
}

#[tokio::test]
async fn a_signature_of_bytes_that_are_no_text_must_be_right_too() {
    let target = Target::start().await;
    let valid = valid("failure", target.id).to_string();
    let body = [b"{\"x\":\"\xff\",", &valid.as_bytes()[1..]].concat();
    let mut forged = body.clone();
    *forged.last_mut().unwrap() = b' ';
    forged.push(b'}');
    let request = target.signed("failure", &body).body(forged);
    let answer = target.service.send(request).await;
    target
        .refused(&answer, (401, "unauthenticated"), "another body")
        .await;
}

#[tokio::test]
async fn a_machine_in_use_is_not_lost_for_how_its_addresses_are_spelled() {
    let service = Service::start().await;
    for (server_ip, tailscale_ip, unreadable) in [
        ("2a01:4f8:c0c:1234::/64", "100.64.0.1", json!(null)),
        ("2a01:4f8:c0c:1234::1", "fd7a:115c:a1e0::1", json!(null)),
        ("null", "100.64.0.1", json!(["server_ip"])),
        ("192.0.2.1", "100.64.0.1/99", json!(["tailscale_ip"])),
        ("-", "-", json!(["server_ip", "tailscale_ip"])),
    ] {
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        let more = json!({"server_id": 7, "server_ip": server_ip, "tailscale_ip": tailscale_ip});
        let answer = service.callback("success", id, RUN, more.clone()).await;
        assert_eq!(answer.status, 200, "{server_ip}: {answer:?}");
        assert_eq!(answer.body["unreadable"], unreadable);
        assert_eq!(service.provision(id).await["status"], "running");
        let again = service.callback("success", id, RUN, more).await;
        assert_eq!(again.body, answer.body);
    }
    // What is not there at all is still asked for.
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    for more in [
        json!({"server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"}),
        json!({"server_id": 7, "tailscale_ip": "100.64.0.1"}),
        json!({"server_id": 7, "server_ip": "192.0.2.1", "tailscale_ip": ""}),
        json!({"server_id": "null", "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"}),
    ] {
        let answer = service.callback("success", id, RUN, more.clone()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, "invalid_body"),
            "{more}"
        );
    }
}

#[tokio::test]
async fn a_machine_whose_tailnet_address_could_not_be_read_is_evidence_all_the_same() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let more = json!({"server_id": 7, "server_ip": "192.0.2.1", "tailscale_ip": "-",
                      "tailscale_node_id": "nNODE"});
    assert_eq!(service.callback("success", id, RUN, more).await.status, 200);
    let mut db = service.pool.acquire().await.unwrap();
    let devices = running::devices(&mut db).await.unwrap();
    let nodes: Vec<_> = devices.iter().map(|it| it.node_id.as_deref()).collect();
    assert_eq!(nodes, [Some("nNODE")]);
}

#[tokio::test]
async fn the_nil_uuid_is_refused_everywhere() {
    let service = Service::start().await;
    let nil = Uuid::nil();
    for kind in KINDS {
        let body = callback_body(kind, nil, RUN, json!({})).to_string();
        let answer = service.send(service.signed(kind, nil, &body)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "invalid_parameter"),
            "{kind}"
        );
    }
    for (method, path) in [
        ("GET", ""),
        ("GET", "/events"),
        ("DELETE", ""),
        ("POST", "/rollback"),
    ] {
        let answer = service
            .operate(method, &format!("/v1/provisions/{nil}{path}"), None)
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "invalid_parameter"),
            "{method} {path}"
        );
    }
    let body = json!({"agent_id": "web-1", "id": nil});
    let answer = service.operate("POST", "/v1/provisions", Some(body)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
}
