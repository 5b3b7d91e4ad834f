//! What is scripted to go wrong goes wrong, and nothing else.

use std::time::Duration;

use backstop::sim::{BrokenBody, Effect, Fault, FaultKind, ServerStatus, Vendor};
use serde_json::{Value, json};

use crate::support::{Bench, quick};

const HETZNER: Vendor = Vendor::Hetzner;
const TAILSCALE: Vendor = Vendor::Tailscale;

#[tokio::test]
async fn faults_hit_tailscale_in_its_own_words() {
    let bench = Bench::start();
    let node = bench.sim.add_device("agent-1", &["tag:agent"]);
    let path = format!("/device/{node}");
    let fault = |kind| {
        let fault = Fault::on(TAILSCALE, "DELETE", "/device/*", kind);
        bench.sim.fault(fault);
    };
    fault(FaultKind::status(404));
    let hidden = bench.tailscale("DELETE", &path, None).await;
    assert_eq!(
        (hidden.status, &hidden.body["message"]),
        (404, &json!("no manageable device matching this ID found"))
    );
    assert_eq!(bench.sim.devices().len(), 1);
    fault(FaultKind::Late {
        after_ms: 100,
        status: 504,
        code: None,
    });
    assert_eq!(bench.tailscale("DELETE", &path, None).await.status, 504);
    assert_eq!(bench.sim.devices().len(), 1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(bench.sim.devices().is_empty());

    bench.sim.add_device("agent-2", &["tag:agent"]);
    let only = vec!["agent-2".to_owned()];
    let omit = FaultKind::Omit { only };
    bench
        .sim
        .fault(Fault::on(TAILSCALE, "GET", "/tailnet/*/devices", omit));
    for expected in [0, 1] {
        let list = bench.tailscale("GET", "/tailnet/-/devices", None).await;
        assert_eq!(list.body["devices"].as_array().unwrap().len(), expected);
    }
}

#[tokio::test]
async fn a_scripted_status_changes_nothing_and_passes() {
    let bench = Bench::start();
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    let path = format!("/servers/{id}");
    let fault = Fault::on(HETZNER, "DELETE", "/servers/*", FaultKind::status(503));
    bench.sim.fault(fault.after(1).times(1));
    bench.sim.lock_server(id, Duration::from_secs(60));
    assert_eq!(bench.hetzner("DELETE", &path, None).await.code(), "locked");
    assert_eq!(
        bench.hetzner("DELETE", &path, None).await.code(),
        "unavailable"
    );
    assert_eq!(bench.hetzner("DELETE", &path, None).await.code(), "locked");
    assert!(bench.sim.faults().is_empty());

    bench
        .sim
        .fault(Fault::on(HETZNER, "*", "/**", FaultKind::status(429)));
    let limited = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(
        (limited.status, limited.header("ratelimit-remaining")),
        (429, "0")
    );
    bench.sim.fault(Fault::on(
        TAILSCALE,
        "GET",
        "/tailnet/*/devices",
        FaultKind::status(403),
    ));
    let denied = bench.tailscale("GET", "/tailnet/-/devices", None).await;
    assert_eq!(denied.status, 403);
    let gone = FaultKind::error(404, "not_found");
    bench
        .sim
        .fault(Fault::on(HETZNER, "GET", &path, gone).always());
    assert_eq!(bench.hetzner("GET", &path, None).await.status, 404);
    let list = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(
        list.names("servers"),
        ["agent-1"],
        "answers 404 while it is still listed"
    );
}

#[tokio::test]
async fn a_reset_before_the_effect_changes_nothing() {
    let bench = Bench::start();
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    bench.sim.fault(Fault::on(
        HETZNER,
        "DELETE",
        "/servers/*",
        FaultKind::ResetBefore,
    ));
    bench
        .assert_reset("DELETE", &format!("/servers/{id}"))
        .await;
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Running);
    assert_eq!(bench.sim.history()[0].status, None);
    assert_eq!(bench.sim.history()[0].effect, None);
}

#[tokio::test]
async fn a_reset_after_the_effect_leaves_the_effect() {
    let bench = Bench::start();
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    // On a connection that has been used before, a reset must not look like an idle close.
    assert_eq!(bench.hetzner("GET", "/servers", None).await.status, 200);
    bench.sim.fault(Fault::on(
        HETZNER,
        "DELETE",
        "/servers/*",
        FaultKind::ResetAfter,
    ));
    bench
        .assert_reset("DELETE", &format!("/servers/{id}"))
        .await;
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Deleting);
    let history = bench.sim.history();
    assert_eq!(history.len(), 2, "the client must not have tried again");
    assert!(
        matches!(&history[1].effect, Some(Effect::ServerDeleted { id: of, labels, .. })
        if *of == id && labels["k"] == "v")
    );
}

#[tokio::test]
async fn a_broken_body_comes_after_the_effect() {
    let bench = Bench::start();
    for (number, (body, status)) in [
        (BrokenBody::Truncated, None),
        (BrokenBody::Html, Some(502)),
        (BrokenBody::Empty, None),
    ]
    .into_iter()
    .enumerate()
    {
        let id = bench
            .sim
            .add_server(&format!("agent-{number}"), [("k", "v")]);
        let kind = FaultKind::Broken { body, status };
        bench
            .sim
            .fault(Fault::on(HETZNER, "DELETE", "/servers/*", kind));
        let answer = bench
            .hetzner("DELETE", &format!("/servers/{id}"), None)
            .await;
        assert_eq!(answer.status, status.unwrap_or(200));
        assert_eq!(answer.body, Value::Null, "{}", answer.text);
        let servers = bench.sim.servers();
        let server = servers.iter().find(|it| it.id == id).unwrap();
        assert_eq!(server.status, ServerStatus::Deleting);
    }
}

#[tokio::test]
async fn a_failing_action_leaves_the_server_as_it_was() {
    let bench = Bench::with(quick());
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    let code = "server_error".to_owned();
    bench.sim.fault(Fault::on(
        HETZNER,
        "DELETE",
        "/servers/*",
        FaultKind::ActionFails { code },
    ));
    let deleted = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    assert_eq!(
        deleted.body["action"]["error"],
        Value::Null,
        "not known yet"
    );
    let action = bench
        .until_ended(deleted.body["action"]["id"].as_u64().unwrap())
        .await;
    assert_eq!(
        (&action["status"], &action["error"]["code"]),
        (&json!("error"), &json!("server_error"))
    );
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Running);
}

#[tokio::test]
async fn a_scripted_lock_passes_after_its_time() {
    let bench = Bench::start();
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    bench.sim.fault(Fault::on(
        HETZNER,
        "DELETE",
        "/servers/*",
        FaultKind::Locked { for_ms: 150 },
    ));
    let path = format!("/servers/{id}");
    assert_eq!(bench.hetzner("DELETE", &path, None).await.code(), "locked");
    assert_eq!(bench.hetzner("DELETE", &path, None).await.code(), "locked");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.hetzner("DELETE", &path, None).await.status, 200);
}

#[tokio::test]
async fn a_create_that_failed_can_still_arrive() {
    let bench = Bench::with(quick());
    let kind = FaultKind::Late {
        after_ms: 200,
        status: 504,
        code: None,
    };
    bench
        .sim
        .fault(Fault::on(HETZNER, "POST", "/servers", kind));
    let failed = bench.create("agent-1").await;
    assert_eq!((failed.status, failed.code()), (504, "timeout"));
    assert!(bench.sim.servers().is_empty());
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(bench.sim.servers()[0].name, "agent-1");
    let late = bench.sim.history().pop().unwrap();
    assert!(late.late && matches!(late.effect, Some(Effect::ServerCreated { .. })));

    bench
        .sim
        .schedule_server(Duration::from_millis(100), "agent-2", [("k", "v")]);
    bench
        .sim
        .schedule_device(Duration::from_millis(100), "agent-2", &["tag:agent"]);
    assert_eq!(
        (bench.sim.servers().len(), bench.sim.devices().len()),
        (1, 0)
    );
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(
        (bench.sim.servers().len(), bench.sim.devices().len()),
        (2, 1)
    );
}

#[tokio::test]
async fn a_stale_list_leaves_out_what_is_there() {
    let bench = Bench::start();
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    bench.sim.add_server("agent-2", [("k", "v")]);
    let only = vec![id.to_string()];
    bench.sim.fault(Fault::on(
        HETZNER,
        "GET",
        "/servers",
        FaultKind::Omit { only },
    ));
    let omit_all = FaultKind::Omit { only: Vec::new() };
    bench
        .sim
        .fault(Fault::on(HETZNER, "GET", "/servers", omit_all));
    let lists = ["agent-2", "", "agent-1 agent-2"];
    for expected in lists {
        let list = bench.hetzner("GET", "/servers", None).await;
        assert_eq!(list.names("servers").join(" "), expected);
    }
}

#[tokio::test]
async fn a_delayed_request_is_carried_out_also_when_its_client_has_left() {
    let bench = Bench::start();
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    bench.sim.fault(Fault::on(
        HETZNER,
        "DELETE",
        "/servers/*",
        FaultKind::Delay { delay_ms: 200 },
    ));
    let url = format!("{}/servers/{id}", bench.sim.hetzner_url());
    let token = bench.sim.options().hcloud_token;
    let request = bench.http.delete(url).bearer_auth(token);
    let error = request
        .timeout(Duration::from_millis(50))
        .send()
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Running);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Deleting);
}
