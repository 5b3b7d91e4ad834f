//! Rules of Hetzner Cloud.

use std::time::{Duration, Instant};

use backstop::sim::{ServerStatus, SimOptions, Tokens};
use serde_json::{Value, json};

use crate::support::{Bench, quick};

#[tokio::test]
async fn an_unknown_route_is_answered_before_the_token_is_looked_at() {
    let bench = Bench::start();
    let answer = bench
        .hetzner_with_token("wrong", "GET", "/nope", None)
        .await;
    assert_eq!((answer.status, answer.code()), (404, "not_found"));
    let answer = bench
        .hetzner_with_token("wrong", "GET", "/servers", None)
        .await;
    assert_eq!((answer.status, answer.code()), (401, "unauthorized"));
    let answer = bench.hetzner("GET", "/servers/", None).await;
    assert_eq!((answer.status, answer.code()), (404, "not_found"));
    let answer = bench.hetzner("PATCH", "/servers", None).await;
    assert_eq!((answer.status, answer.code()), (405, "method_not_allowed"));
}

#[tokio::test]
async fn a_rotated_token_answers_401_and_the_new_one_works() {
    let bench = Bench::start();
    let old = bench.sim.options().hcloud_token;
    bench.sim.change_tokens(Tokens {
        hcloud_token: Some("another".to_owned()),
        ..Tokens::default()
    });
    let answer = bench
        .hetzner_with_token(&old, "GET", "/servers", None)
        .await;
    assert_eq!(answer.code(), "unauthorized");
    let answer = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn lists_are_filtered_by_selector_name_and_status() {
    let bench = Bench::start();
    bench
        .sim
        .add_server("web-1", [("env", "prod"), ("type", "web")]);
    bench
        .sim
        .add_server("web-2", [("env", "test"), ("type", "web")]);
    bench.sim.add_server("bare", [("type", "")]);
    for (query, expected) in [
        ("label_selector=env%3Dprod", vec!["web-1"]),
        ("label_selector=env%3D%3Dprod", vec!["web-1"]),
        ("label_selector=env!%3Dprod", vec!["web-2", "bare"]),
        ("label_selector=env", vec!["web-1", "web-2"]),
        ("label_selector=!env", vec!["bare"]),
        ("label_selector=env+in+(prod,test)", vec!["web-1", "web-2"]),
        ("label_selector=env+notin+(prod,test)", vec!["bare"]),
        (
            "label_selector=env+in+(prod,test),type%3Dweb,env!%3Dprod",
            vec!["web-2"],
        ),
        ("name=web-2", vec!["web-2"]),
        ("name=web", vec![]),
        ("status=running", vec!["web-1", "web-2", "bare"]),
        ("status=off&status=deleting", vec![]),
        ("sort=name:desc", vec!["web-2", "web-1", "bare"]),
        ("sort=name", vec!["bare", "web-1", "web-2"]),
    ] {
        let answer = bench
            .hetzner("GET", &format!("/servers?{query}"), None)
            .await;
        assert_eq!(answer.names("servers"), expected, "{query}");
    }
    let answer = bench
        .hetzner("GET", "/servers?label_selector=k+in+v", None)
        .await;
    assert_eq!((answer.status, answer.code()), (422, "invalid_input"));
}

#[tokio::test]
async fn pages_hold_at_most_fifty_and_say_how_many_there_are() {
    let bench = Bench::start();
    for number in 0..120 {
        bench.sim.add_server(&format!("s{number:03}"), [("k", "v")]);
    }
    let page = bench
        .hetzner("GET", "/servers?per_page=200&page=2", None)
        .await;
    assert_eq!(page.body["servers"].as_array().unwrap().len(), 50);
    assert_eq!(
        page.body["meta"]["pagination"],
        json!({"page": 2, "per_page": 50, "previous_page": 1, "next_page": 3, "last_page": 3, "total_entries": 120})
    );
    assert!(page.header("link").contains("page=3"));
    let page = bench
        .hetzner("GET", "/servers?per_page=50&page=3", None)
        .await;
    assert_eq!(page.body["servers"].as_array().unwrap().len(), 20);
    assert_eq!(page.body["meta"]["pagination"]["next_page"], Value::Null);
    let page = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(page.body["servers"].as_array().unwrap().len(), 25);
    let page = bench.hetzner("GET", "/servers?page=0", None).await;
    assert_eq!(page.code(), "invalid_input");
}

#[tokio::test]
async fn a_server_is_locked_until_its_creation_and_start_have_ended() {
    let bench = Bench::with(quick());
    let created = bench.create("agent-1").await;
    assert_eq!(created.status, 201);
    assert_eq!(created.body["server"]["status"], "initializing");
    assert_eq!(created.body["server"]["locked"], true);
    assert_eq!(created.body["next_actions"][0]["command"], "start_server");
    let id = created.body["server"]["id"].as_u64().unwrap();

    let refused = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    assert_eq!((refused.status, refused.code()), (423, "locked"));
    bench.until_running(id).await;
    let server = bench.hetzner("GET", &format!("/servers/{id}"), None).await;
    assert_eq!(server.body["server"]["locked"], false);
    assert_eq!(server.body["server"].get("datacenter"), None);
    let deleted = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    assert_eq!(deleted.body["action"]["command"], "delete_server");
}

#[tokio::test]
async fn a_name_is_taken_until_the_delete_action_has_succeeded() {
    let bench = Bench::with(quick());
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    assert_eq!(bench.create("agent-1").await.code(), "uniqueness_error");

    let deleted = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    let action = deleted.body["action"]["id"].as_u64().unwrap();
    assert_eq!(deleted.body["action"]["status"], "running");
    assert_eq!(deleted.body["action"]["finished"], Value::Null);
    let server = bench.hetzner("GET", &format!("/servers/{id}"), None).await;
    assert_eq!(server.body["server"]["status"], "deleting");
    let taken = bench.create("agent-1").await;
    assert_eq!((taken.status, taken.code()), (409, "uniqueness_error"));

    let ended = bench.until_ended(action).await;
    assert_eq!(ended["status"], "success");
    assert_eq!(ended["progress"], 100);
    let gone = bench.hetzner("GET", &format!("/servers/{id}"), None).await;
    assert_eq!((gone.status, gone.code()), (404, "not_found"));
    assert_eq!(bench.create("agent-1").await.status, 201);
}

#[tokio::test]
async fn a_protected_server_is_not_deleted_until_protection_is_lifted() {
    let bench = Bench::with(quick());
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    let path = format!("/servers/{id}/actions/change_protection");
    let half = bench
        .hetzner("POST", &path, Some(json!({"delete": true})))
        .await;
    assert_eq!(half.code(), "invalid_input");
    let on = json!({"delete": true, "rebuild": true});
    let protected = bench.hetzner("POST", &path, Some(on)).await;
    assert_eq!(
        (protected.status, &protected.body["action"]["status"]),
        (201, &json!("success"))
    );
    let refused = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    assert_eq!((refused.status, refused.code()), (423, "protected"));
    bench.sim.unprotect_server(id);
    let deleted = bench
        .hetzner("DELETE", &format!("/servers/{id}"), None)
        .await;
    assert_eq!(deleted.status, 200);
}

#[tokio::test]
async fn labels_and_names_must_be_valid() {
    let bench = Bench::start();
    for (field, value) in [
        ("labels", json!({"hetzner.cloud/mine": "x"})),
        ("labels", json!({"k": "-x"})),
        ("name", json!("under_score")),
        ("server_type", json!("no-such-type")),
        ("image", json!("no-such-image")),
        ("ssh_keys", json!(["no-such-key"])),
    ] {
        let mut body = json!({"name": "a", "server_type": "cx22", "image": "ubuntu-24.04"});
        body[field] = value;
        let answer = bench.hetzner("POST", "/servers", Some(body)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, "invalid_input"),
            "{field}"
        );
    }
    let answer = bench.hetzner_raw("POST", "/servers", "{\"name\":").await;
    assert_eq!((answer.status, answer.code()), (400, "json_error"));
    assert!(bench.sim.servers().is_empty());
}

#[tokio::test]
async fn actions_are_listed_by_id_only() {
    let bench = Bench::with(quick());
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    let off = bench
        .hetzner("POST", &format!("/servers/{id}/actions/poweroff"), None)
        .await;
    let action = off.body["action"]["id"].as_u64().unwrap();
    let listed = bench
        .hetzner("GET", &format!("/actions?id={action}&id=1"), None)
        .await;
    assert_eq!(listed.body["actions"].as_array().unwrap().len(), 1);
    assert_eq!(
        listed.body["actions"][0]["resources"][0],
        json!({"id": id, "type": "server"})
    );
    let all = bench.hetzner("GET", "/actions", None).await;
    assert_eq!((all.status, all.code()), (410, "deprecated_api_endpoint"));
    bench.until_ended(action).await;
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Off);
    let of_server = bench
        .hetzner(
            "GET",
            &format!("/servers/{id}/actions?status=running"),
            None,
        )
        .await;
    assert_eq!(of_server.body["actions"], json!([]));
}

#[tokio::test]
async fn the_rate_limit_is_counted_down_and_refills() {
    let mut options = quick();
    options.rate_limit = 100;
    options.rate_refill_per_second = 4.0;
    let bench = Bench::with(options);
    let first = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(first.header("ratelimit-limit"), "100");
    assert_eq!(first.header("ratelimit-remaining"), "99");
    assert!(!first.header("x-correlation-id").is_empty());

    bench.sim.set_rate_remaining(1);
    let last = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(
        (last.status, last.header("ratelimit-remaining")),
        (200, "0")
    );
    let refused = bench.hetzner("GET", "/servers", None).await;
    assert_eq!(
        (refused.status, refused.code()),
        (429, "rate_limit_exceeded")
    );
    assert_eq!(
        refused.body["error"]["message"],
        "limit of 100 requests per hour reached"
    );
    assert!(refused.header("ratelimit-reset").parse::<u64>().unwrap() > 0);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(bench.hetzner("GET", "/servers", None).await.status, 200);
}

#[tokio::test]
async fn a_full_project_takes_no_more_servers() {
    let mut options = quick();
    options.server_limit = 1;
    let bench = Bench::with(options);
    let id = bench.create("agent-1").await.body["server"]["id"]
        .as_u64()
        .unwrap();
    let refused = bench.create("agent-2").await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "resource_limit_exceeded")
    );
    bench.sim.remove_server(id);
    assert_eq!(bench.create("agent-2").await.status, 201);
}

#[tokio::test]
async fn a_shutdown_succeeds_before_the_server_is_off() {
    let bench = Bench::with(quick());
    let id = bench.sim.add_server("agent-1", [("k", "v")]);
    let path = format!("/servers/{id}/actions/shutdown");
    let action = bench.hetzner("POST", &path, None).await.body["action"]["id"].as_u64();
    let ended = bench.until_ended(action.unwrap()).await;
    assert_eq!(ended["status"], "success");
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Running);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(bench.sim.servers()[0].status, ServerStatus::Off);
}

#[tokio::test]
async fn a_machine_joins_the_tailnet_at_its_first_boot_if_its_key_lets_it_in() {
    let bench = Bench::with(SimOptions {
        boot_time: Duration::from_millis(50),
        ..quick()
    });
    let (_, secret) = bench.sim.mint_key("for agent-1", &["tag:agent"]);
    for (name, key) in [("agent-1", secret.as_str()), ("agent-2", "tskey-auth-no")] {
        let created = bench
            .hetzner(
                "POST",
                "/servers",
                Some(json!({
                    "name": name, "server_type": "cx22", "image": "debian-12",
                    "user_data": format!("#!/bin/sh\ntailscale up --auth-key={key} --hostname={name}\n"),
                })),
            )
            .await;
        assert_eq!(created.status, 201, "{}", created.text);
        assert!(bench.sim.devices().is_empty(), "it has not booted yet");
        let patience = if name == "agent-1" { 10_000 } else { 500 };
        let booted = Instant::now() + Duration::from_millis(patience);
        while bench.sim.devices().is_empty() && Instant::now() < booted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let joined: Vec<_> = bench.sim.devices();
        let names: Vec<_> = joined.iter().map(|it| it.hostname.as_str()).collect();
        assert_eq!(
            names,
            if name == "agent-1" {
                vec!["agent-1"]
            } else {
                vec![]
            }
        );
        for device in joined {
            assert_eq!(device.tags, ["tag:agent"]);
            bench.sim.remove_device(&device.node_id);
        }
    }
}
