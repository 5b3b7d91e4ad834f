//! Credentials that may do less.

use backstop::sim::{Permission, SimOptions};
use serde_json::json;

use crate::support::{Bench, quick};

fn bench(change: impl FnOnce(&mut SimOptions)) -> Bench {
    let mut options = quick();
    change(&mut options);
    Bench::with(options)
}

#[tokio::test]
async fn a_hetzner_token_that_reads_is_refused_whatever_else_before_anything_is_looked_for() {
    let bench = bench(|sim| sim.grants.hcloud = Permission::Read);
    let server = bench.sim.add_server("web-1", [("a", "b")]);
    let path = format!("/servers/{server}");
    assert_eq!(bench.hetzner("GET", &path, None).await.status, 200);
    for (method, path) in [
        ("PUT", path.as_str()),
        ("PUT", "/servers/9007199254740991"),
        ("DELETE", &path),
        ("POST", "/servers"),
    ] {
        let refused = bench.hetzner(method, path, Some(json!({}))).await;
        assert_eq!(
            (refused.status, refused.code()),
            (401, "token_readonly"),
            "{method} {path}"
        );
    }
    assert_eq!(bench.sim.servers().len(), 1);
}

#[tokio::test]
async fn an_update_of_a_server_that_is_not_there_is_not_found() {
    let bench = Bench::start();
    let path = "/servers/9007199254740991";
    let absent = bench.hetzner("PUT", path, Some(json!({}))).await;
    assert_eq!((absent.status, absent.code()), (404, "not_found"));
}

#[tokio::test]
async fn an_oauth_client_does_what_its_scopes_say_and_may_look_at_itself() {
    let bench = bench(|sim| {
        sim.grants.oauth_scopes = vec!["devices:core:read".to_owned()];
        sim.oauth_tags = vec!["tag:other".to_owned()];
    });
    let device = bench.sim.add_device("web-1", &["tag:other"]);
    let key = bench.sim.add_key("one", &["tag:other"]);
    let options = bench.sim.options();
    let issued = bench.oauth_token(&options.oauth_client_secret).await;
    assert_eq!(issued.body["scope"], "devices:core:read");
    let token = issued.body["access_token"].as_str().unwrap();

    let device = format!("/device/{device}");
    let key = format!("/tailnet/-/keys/{key}");
    for (method, path, status) in [
        ("GET", "/tailnet/-/devices", 200),
        ("GET", &device, 200),
        ("DELETE", &device, 403),
        ("GET", &key, 403),
        ("DELETE", &key, 403),
        ("POST", "/tailnet/-/keys", 403),
    ] {
        let answer = bench.tailscale_with_token(token, method, path, None).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    let all = bench
        .tailscale_with_token(token, "GET", "/tailnet/-/keys?all=true", None)
        .await;
    let listed = all.body["keys"].as_array().unwrap();
    assert!(
        listed.iter().all(|it| it["keyType"] == "client"),
        "{listed:?}"
    );
    let own = format!("/tailnet/-/keys/{}", options.oauth_client_id);
    let own = bench.tailscale_with_token(token, "GET", &own, None).await;
    assert_eq!(own.body["scopes"], json!(["devices:core:read"]));
    assert_eq!(own.body["tags"], json!(["tag:other"]));
}

#[tokio::test]
async fn a_workflow_is_shown_to_who_may_look_and_started_by_who_may_write() {
    let bench = bench(|sim| sim.grants.github = Permission::Read);
    let path = "/repos/example/agents/actions/workflows/provision-agent.yml";
    let seen = bench.github("GET", path, None).await;
    assert_eq!((seen.status, &seen.body["state"]), (200, &json!("active")));
    assert_eq!(seen.header("x-oauth-scopes"), "");
    let other = path.replace("provision-agent", "other");
    assert_eq!(bench.github("GET", &other, None).await.status, 404);
    let body = json!({"ref": "no..where"});
    let refused = bench
        .github("POST", &format!("{path}/dispatches"), Some(body))
        .await;
    assert_eq!(refused.status, 403);
}
