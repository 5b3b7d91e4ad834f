//! The simulated vendors keep the vendors' rules, seen through HTTP.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../harness/app_key.rs"]
mod app_key;

mod faults;
mod github;
mod grants;
mod hetzner;
mod hetzner_belongings;
mod support;
mod tailscale;

use serde_json::{Value, json};

use support::{Bench, quick};

#[tokio::test]
async fn everything_can_be_scripted_over_http() {
    let bench = Bench::start();
    let server = bench
        .control(
            "POST",
            "/sim/servers",
            json!({"name": "a", "labels": {"k": "v"}}),
        )
        .await;
    let id = server.body["id"].as_u64().unwrap();
    let faults = json!([
        {"vendor": "hetzner", "method": "DELETE", "path": "/servers/*", "kind": "status", "status": 412, "code": "resource_unavailable"},
        {"vendor": "hetzner", "path": "/servers", "kind": "broken", "body": "html", "skip": 1, "times": null},
    ]);
    assert_eq!(
        bench.control("POST", "/sim/faults", faults).await.status,
        204
    );
    let listed = bench.control("GET", "/sim/faults", Value::Null).await;
    assert_eq!(listed.body[0]["times"], 1);
    assert_eq!(listed.body[1]["times"], Value::Null);
    let refused = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    assert_eq!(refused.code(), "resource_unavailable");
    assert_eq!(
        bench
            .control("DELETE", "/sim/faults", Value::Null)
            .await
            .status,
        204
    );

    let lock = bench
        .control(
            "POST",
            &format!("/sim/servers/{id}/lock"),
            json!({"for_ms": 60_000}),
        )
        .await;
    assert_eq!(lock.status, 204);
    let key = bench
        .control(
            "POST",
            "/sim/keys",
            json!({"description": "k", "tags": ["tag:agent"]}),
        )
        .await;
    let enrolment = json!({"auth_key": key.body["key"], "hostname": "a"});
    let enrolled = bench.control("POST", "/sim/enrol", enrolment.clone()).await;
    assert_eq!(enrolled.status, 201);
    assert_eq!(
        bench.control("POST", "/sim/enrol", enrolment).await.status,
        403
    );
    let state = bench.control("GET", "/sim/state", Value::Null).await.body;
    assert_eq!(state["servers"][0]["locked"], true);
    assert_eq!(state["devices"][0]["node_id"], enrolled.body["nodeId"]);
    assert_eq!(state["keys"][0]["used"], true);
    assert_eq!(state["runs"], json!([]));
    let history = bench.control("GET", "/sim/history", Value::Null).await.body;
    assert_eq!(
        history.as_array().unwrap().len(),
        1,
        "only the vendors' requests"
    );
    assert_eq!(
        (&history[0]["method"], &history[0]["status"]),
        (&json!("DELETE"), &json!(412))
    );
}

#[tokio::test]
async fn a_stopped_simulation_refuses_connections_and_frees_its_port() {
    let Bench { sim, http } = Bench::start();
    let url = format!("{}/servers", sim.hetzner_url());
    let address = sim.address();
    assert_eq!(http.get(&url).send().await.unwrap().status(), 401);
    sim.stop().await;
    assert!(http.get(&url).send().await.unwrap_err().is_connect());
    let again = backstop::sim::Sim::start(address, quick()).unwrap();
    assert_eq!(again.address(), address);
}
