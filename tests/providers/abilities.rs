//! What a credential may do, found out without doing it.

use backstop::providers::tailscale::Grant;
use serde_json::{Value, json};

use crate::canned::{json_answer, kind, script, text, token_answer};

fn error(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "details": null}})
}

#[tokio::test]
async fn a_hetzner_token_that_writes_is_told_by_a_server_that_cannot_be() {
    let absent = error("not_found", "server with ID '9007199254740991' not found");
    let vendor = script([json_answer(404, &absent)]).await;
    vendor.hetzner().may_write().await.unwrap();
    assert_eq!(vendor.lines(), ["PUT /v1/servers/9007199254740991"]);
    assert_eq!(vendor.seen.lock().unwrap()[0].body, "{}");
}

#[tokio::test]
async fn a_hetzner_token_that_reads_is_refused_for_its_method() {
    for (status, code, expected) in [
        (401, "token_readonly", "Forbidden"),
        (403, "token_readonly", "Forbidden"),
        (403, "forbidden", "Forbidden"),
        (401, "unauthorized", "Unauthorized"),
        (429, "rate_limit_exceeded", "RateLimited"),
        // Not the server, but the route.
        (404, "not_found", "Unavailable"),
    ] {
        let body = error(code, "api route not found");
        let vendor = script([json_answer(status, &body)]).await;
        let refused = vendor.hetzner().may_write().await.unwrap_err();
        assert_eq!(kind(&refused), expected, "{status} {code}");
    }
}

#[tokio::test]
async fn a_project_tells_how_many_servers_it_has() {
    let page = |total: Value| {
        let pagination = json!({"page": 1, "per_page": 1, "next_page": 2, "total_entries": total});
        json_answer(
            200,
            &json!({"servers": [], "meta": {"pagination": pagination}}),
        )
    };
    let vendor = script([page(json!(12)), page(Value::Null)]).await;
    let hetzner = vendor.hetzner();
    assert_eq!(hetzner.count_servers().await.unwrap(), Some(12));
    assert_eq!(hetzner.count_servers().await.unwrap(), None);
    assert_eq!(vendor.lines()[0], "GET /v1/servers?per_page=1");
}

#[tokio::test]
async fn an_oauth_client_looks_at_itself() {
    let client = json!({
        "id": "client", "keyType": "client", "created": "2026-01-01T00:00:00Z",
        "scopes": ["auth_keys", "devices:core"], "tags": ["tag:agent"],
    });
    let vendor = script([token_answer("tskey-1", 3600), json_answer(200, &client)]).await;
    let grant = vendor.tailscale_by_oauth().grant().await.unwrap();
    let scopes = ["auth_keys", "devices:core"].map(str::to_owned).into();
    let tags = vec!["tag:agent".to_owned()];
    assert_eq!(grant, Grant::Scoped { scopes, tags });
    assert_eq!(vendor.lines()[1], "GET /api/v2/tailnet/-/keys/client");
}

#[tokio::test]
async fn an_oauth_client_that_may_not_look_at_itself_is_unknown() {
    for status in [403, 404] {
        let refused = json_answer(status, &json!({"message": "not for you"}));
        let vendor = script([token_answer("tskey-1", 3600), refused]).await;
        let grant = vendor.tailscale_by_oauth().grant().await.unwrap();
        assert_eq!(grant, Grant::Unknown, "{status}");
    }
}

#[tokio::test]
async fn an_access_token_is_not_asked_about() {
    let vendor = script([]).await;
    let grant = vendor.tailscale().grant().await.unwrap();
    assert_eq!(grant, Grant::AsItsUser);
    assert!(vendor.lines().is_empty());
}

#[tokio::test]
async fn a_dispatch_is_tried_at_a_ref_that_git_does_not_take() {
    let refusal = |message: &str| json!({"message": message});
    for (status, expected) in [
        (422, None),
        (403, Some("Forbidden")),
        (401, Some("Unauthorized")),
        (404, Some("Rejected")),
        (503, Some("Unavailable")),
        // Then nobody knows what it did.
        (204, Some("Unavailable")),
        (200, Some("Unavailable")),
    ] {
        let vendor = script([json_answer(status, &refusal("No ref found"))]).await;
        let told = vendor.github().may_dispatch().await.err();
        assert_eq!(told.as_ref().map(kind), expected, "{status}");
        let seen = vendor.seen.lock().unwrap();
        let body: Value = serde_json::from_str(&seen[0].body).unwrap();
        assert_eq!(body, json!({"ref": "backstop..check", "inputs": {}}));
    }
}

#[tokio::test]
async fn a_workflow_tells_its_state_and_a_classic_token_its_scopes() {
    let body = json!({"id": 159_038, "path": ".github/workflows/a.yml", "state": "active"});
    let vendor = script([
        json_answer(200, &body),
        json_answer(200, &body).header("x-oauth-scopes", &"repo, workflow"),
        json_answer(200, &body).header("x-oauth-scopes", &""),
        text(200, "<html>"),
    ])
    .await;
    let github = vendor.github();
    let seen = github.workflow().await.unwrap();
    assert_eq!((seen.state.as_str(), seen.classic_scopes), ("active", None));
    let classic = github.workflow().await.unwrap().classic_scopes.unwrap();
    assert_eq!(classic, ["repo", "workflow"]);
    let none = github.workflow().await.unwrap().classic_scopes.unwrap();
    assert!(none.is_empty());
    assert_eq!(kind(&github.workflow().await.unwrap_err()), "Unavailable");
    assert_eq!(
        vendor.lines()[0],
        "GET /repos/octo-org/agents/actions/workflows/provision-agent.yml"
    );
}

#[tokio::test]
async fn an_installation_tells_its_permissions_and_how_far_it_reaches() {
    let body = json!({
        "id": 7, "repository_selection": "all",
        "permissions": {"actions": "write", "metadata": "read"},
    });
    let vendor = script([json_answer(200, &body)]).await;
    let installation = vendor.github_by_app().installation().await.unwrap();
    let installation = installation.unwrap();
    assert_eq!(installation.repository_selection, "all");
    assert_eq!(installation.permissions["actions"], "write");
    let token = vendor.github().installation().await.unwrap();
    assert_eq!((token, vendor.lines().len()), (None, 1));
}
