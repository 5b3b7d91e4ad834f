//! Rules of Tailscale.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Bench, quick};

#[tokio::test]
async fn an_oauth_token_works_until_it_ends() {
    let mut options = quick();
    options.oauth_token_lifetime = Duration::from_millis(300);
    let bench = Bench::with(options);
    let wrong = bench.oauth_token("wrong").await;
    assert_eq!(wrong.status, 401);
    let secret = bench.sim.options().oauth_client_secret;
    let issued = bench.oauth_token(&secret).await;
    assert_eq!(issued.body["token_type"], "Bearer");
    let token = issued.body["access_token"].as_str().unwrap().to_owned();
    let path = "/tailnet/-/devices";
    let devices = bench.tailscale_with_token(&token, "GET", path, None).await;
    assert_eq!(
        (devices.status, &devices.body["devices"]),
        (200, &json!([]))
    );
    tokio::time::sleep(Duration::from_millis(350)).await;
    let ended = bench.tailscale_with_token(&token, "GET", path, None).await;
    assert_eq!(
        (ended.status, &ended.body["message"]),
        (401, &json!("API token invalid"))
    );
}

#[tokio::test]
async fn the_api_key_also_works_as_a_user_name() {
    let bench = Bench::start();
    let key = bench.sim.options().tailscale_api_key;
    let url = format!("{}/api/v2/tailnet/-/devices", bench.sim.tailscale_url());
    let answer = bench
        .http
        .get(&url)
        .basic_auth(key, Some(""))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let other = bench
        .tailscale("GET", "/tailnet/other.example/devices", None)
        .await;
    assert_eq!(other.status, 404);
    let unknown = bench.tailscale("GET", "/nope", None).await;
    assert_eq!(unknown.body["message"], "404 page not found");
}

#[tokio::test]
async fn devices_are_found_by_exact_filters_and_deleted_by_either_id() {
    let bench = Bench::start();
    let first = bench.sim.add_device("agent-1", &["tag:agent", "tag:x"]);
    let second = bench.sim.add_device("agent-1", &["tag:agent"]);
    let devices = bench.sim.devices();
    assert!(devices[0].name.starts_with("agent-1.") && devices[1].name.starts_with("agent-1-1."));
    for (query, expected) in [
        ("hostname=agent-1", vec![&first, &second]),
        ("hostname=agent", vec![]),
        ("tags=tag:agent&tags=tag:x", vec![&first]),
        ("tags=tag:agent&isEphemeral=true", vec![]),
        ("fields=all", vec![&first, &second]),
    ] {
        let path = format!("/tailnet/-/devices?{query}");
        let answer = bench.tailscale("GET", &path, None).await;
        let found = answer.body["devices"].as_array().unwrap();
        let ids: Vec<_> = found
            .iter()
            .map(|it| it["nodeId"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }
    let legacy = format!("/device/{}", devices[0].id);
    let deleted = bench.tailscale("DELETE", &legacy, None).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (200, ""));
    let again = bench.tailscale("DELETE", &legacy, None).await;
    assert_eq!(
        (again.status, &again.body["message"]),
        (404, &json!("no manageable device matching this ID found"))
    );
    let deleted = bench
        .tailscale("DELETE", &format!("/device/{second}"), None)
        .await;
    assert_eq!(deleted.status, 200);
    assert!(bench.sim.devices().is_empty());
}

#[tokio::test]
async fn a_one_off_key_lets_one_device_in_and_stays_readable_once_revoked() {
    let bench = Bench::start();
    let body = json!({
        "capabilities": {"devices": {"create": {"ephemeral": true, "preauthorized": true, "tags": ["tag:agent"]}}},
        "expirySeconds": 3600,
        "description": "backstop 0-a1",
    });
    let minted = bench.tailscale("POST", "/tailnet/-/keys", Some(body)).await;
    let (id, key) = (
        minted.body["id"].as_str().unwrap(),
        minted.body["key"].as_str().unwrap(),
    );
    assert!(id.starts_with('k') && key.starts_with("tskey-auth-"));
    let path = format!("/tailnet/-/keys/{id}");

    let node = bench.sim.enrol_device(key, "agent-1").unwrap();
    assert_eq!(bench.sim.enrol_device(key, "agent-2"), None);
    let device = &bench.sim.devices()[0];
    assert_eq!(
        (&device.node_id, &device.tags),
        (&node, &vec!["tag:agent".to_owned()])
    );
    assert!(device.ephemeral);

    assert_eq!(bench.tailscale("DELETE", &path, None).await.status, 200);
    let revoked = bench.tailscale("GET", &path, None).await;
    assert_eq!(
        (revoked.status, &revoked.body["invalid"]),
        (200, &json!(true))
    );
    assert_eq!(revoked.body.get("key"), None);
    assert_eq!(bench.tailscale("DELETE", &path, None).await.status, 404);
    assert_eq!(
        bench.sim.devices().len(),
        1,
        "revoking a key leaves its device"
    );
}

#[tokio::test]
async fn keys_of_the_oauth_client_are_left_out_unless_all_are_asked_for() {
    let bench = Bench::start();
    let id = bench.sim.add_key("backstop 0-a1", &["tag:agent"]);
    let listed = |answer: &Value| {
        let keys = answer["keys"].as_array().unwrap();
        keys.iter().any(|key| key["id"] == *id)
    };
    let some = bench.tailscale("GET", "/tailnet/-/keys", None).await;
    assert!(!listed(&some.body));
    let all = bench
        .tailscale("GET", "/tailnet/-/keys?all=true", None)
        .await;
    assert!(listed(&all.body));
    bench
        .tailscale("DELETE", &format!("/tailnet/-/keys/{id}"), None)
        .await;
    let all = bench
        .tailscale("GET", "/tailnet/-/keys?all=true", None)
        .await;
    assert!(!listed(&all.body));
}

#[tokio::test]
async fn a_key_is_refused_when_its_tags_or_description_are_not_allowed() {
    let bench = Bench::start();
    let secret = bench.sim.options().oauth_client_secret;
    let token = bench.oauth_token(&secret).await;
    let token = token.body["access_token"].as_str().unwrap();
    let long = "x".repeat(51);
    for (tags, description, status) in [
        (json!(["tag:agent"]), "backstop 0-a1", 200),
        (json!(["tag:other"]), "backstop 0-a1", 400),
        (json!([]), "backstop 0-a1", 400),
        (json!(["agent"]), "backstop 0-a1", 400),
        (json!(["tag:agent"]), "under_score", 400),
        (json!(["tag:agent"]), &long, 400),
    ] {
        let capabilities = json!({"devices": {"create": {"tags": tags}}});
        let body = json!({"capabilities": capabilities, "description": description});
        let path = "/tailnet/-/keys";
        let answer = bench
            .tailscale_with_token(token, "POST", path, Some(body))
            .await;
        assert_eq!(
            answer.status, status,
            "{tags} {description}: {}",
            answer.text
        );
    }
    assert_eq!(bench.sim.keys().len(), 1);
}
