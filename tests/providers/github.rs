//! Starting a workflow, and the token of an app's installation.

use std::collections::BTreeMap;
use std::sync::Mutex;

use backstop::providers::VendorError;
use backstop::providers::github::{GitHubCredential, StartedRun};
use futures::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::app_key::{APP_ID, APP_KEY};
use crate::canned::{Canned, GITHUB_TOKEN, json_answer, kind, script, serve, text};

const DISPATCHES: &str =
    "POST /repos/octo-org/agents/actions/workflows/provision-agent.yml/dispatches";
const INSTALLATION: &str = "GET /repos/octo-org/agents/installation";
const TOKENS: &str = "POST /app/installations/7/access_tokens";
/// The moment it is at the canned GitHub's.
const NOW: &str = "Tue, 21 Nov 2023 12:00:00 GMT";

fn inputs() -> BTreeMap<&'static str, String> {
    BTreeMap::from([("agent_id", "web-1".to_owned())])
}

fn started(id: u64) -> Canned {
    json_answer(
        200,
        &json!({
            "workflow_run_id": id,
            "run_url": format!("https://api.github.com/repos/octo-org/agents/actions/runs/{id}"),
            "html_url": format!("https://github.com/octo-org/agents/actions/runs/{id}"),
        }),
    )
}

fn refused(status: u16, message: &str) -> Canned {
    let docs = "https://docs.github.com/rest";
    let body = json!({"message": message, "documentation_url": docs, "status": status.to_string()});
    json_answer(status, &body)
}

#[tokio::test]
async fn a_started_run_is_told_with_its_page() {
    let vendor = script([started(17_402_115_001)]).await;
    let run = vendor.github().dispatch(&inputs()).await.unwrap();
    assert_eq!(
        run,
        Some(StartedRun {
            id: 17_402_115_001,
            html_url: Some(
                "https://github.com/octo-org/agents/actions/runs/17402115001".to_owned()
            ),
        })
    );
    assert_eq!(vendor.lines(), [DISPATCHES]);
    let seen = vendor.seen.lock().unwrap()[0].clone();
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    let inputs = json!({"agent_id": "web-1"});
    assert_eq!(
        body,
        json!({"ref": "main", "inputs": inputs, "return_run_details": true})
    );
    assert_eq!(seen.authorization, Some(format!("Bearer {GITHUB_TOKEN}")));
    assert_eq!(seen.api_version.as_deref(), Some("2022-11-28"));
}

#[tokio::test]
async fn a_page_that_is_no_link_is_left_out() {
    for page in [json!(null), json!("javascript:alert(1)"), json!("nowhere")] {
        let body = json!({"workflow_run_id": 5, "html_url": page});
        let vendor = script([json_answer(200, &body)]).await;
        let run = vendor.github().dispatch(&inputs()).await.unwrap();
        let html_url = None;
        assert_eq!(run, Some(StartedRun { id: 5, html_url }));
    }
}

#[tokio::test]
async fn a_server_that_is_older_than_run_details_is_asked_without_them() {
    for refusal in [
        refused(400, "Invalid request."),
        refused(
            422,
            "Invalid request.\n\n\"return_run_details\" is not a permitted key.",
        ),
    ] {
        let vendor = script([refusal, text(204, "")]).await;
        let run = vendor.github().dispatch(&inputs()).await.unwrap();
        assert_eq!(run, None);
        assert_eq!(vendor.lines(), [DISPATCHES; 2]);
        let second = vendor.seen.lock().unwrap()[1].body.clone();
        let body: Value = serde_json::from_str(&second).unwrap();
        assert_eq!(
            body,
            json!({"ref": "main", "inputs": {"agent_id": "web-1"}})
        );
    }
    // But only once, and not for what has nothing to do with it.
    let vendor = script([refused(400, "Problems parsing JSON"), refused(400, "again")]).await;
    let error = vendor.github().dispatch(&inputs()).await.unwrap_err();
    assert!(
        error.is_refusal() && error.to_string().ends_with("400, again"),
        "{error}"
    );
    let vendor = script([refused(422, "No ref found for: main")]).await;
    vendor.github().dispatch(&inputs()).await.unwrap_err();
    assert_eq!(vendor.lines().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_what_may_have_started_a_run() {
    let exhausted =
        |status| refused(status, "API rate limit exceeded").header("x-ratelimit-remaining", &0);
    let secondary = "You have exceeded a secondary rate limit.";
    for (answer, expected) in [
        (refused(400, "Problems parsing JSON"), "Rejected"),
        (refused(401, "Bad credentials"), "Unauthorized"),
        (
            refused(403, "Resource not accessible by integration"),
            "Forbidden",
        ),
        (refused(404, "Not Found"), "Rejected"),
        (text(404, "<html>"), "Rejected"),
        (refused(409, "Conflict"), "Rejected"),
        (
            refused(422, "Unexpected inputs provided: [\"x\"]"),
            "Rejected",
        ),
        // Not now, and nothing was started; but asking again is worth it.
        (refused(429, "too many"), "RateLimited"),
        (exhausted(403), "RateLimited"),
        (exhausted(429), "RateLimited"),
        (refused(403, secondary), "RateLimited"),
        (
            refused(403, "wait").header("retry-after", &7),
            "RateLimited",
        ),
        (refused(408, "Request Timeout"), "Unavailable"),
        // A run may exist.
        (text(200, "{\"workflow_run_id\": 17"), "Unavailable"),
        (text(200, ""), "Unavailable"),
        (text(200, "<html>"), "Unavailable"),
        (
            json_answer(200, &json!({"workflow_run_id": 0})),
            "Unavailable",
        ),
        (refused(500, "Server Error"), "Unavailable"),
        (text(502, "<html>"), "Unavailable"),
        (refused(503, ""), "Unavailable"),
        (refused(501, ""), "Unavailable"),
        (
            text(307, "").header("location", &"https://example.com"),
            "Unavailable",
        ),
    ] {
        let status = answer.status;
        let vendor = serve(move |_| answer.clone()).await;
        let error = vendor.github().dispatch(&inputs()).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
        let is_refusal = !matches!(expected, "RateLimited" | "Unavailable");
        assert_eq!(error.is_refusal(), is_refusal, "{error}");
        assert_eq!(error.call().status(), Some(status));
    }
}

#[tokio::test]
async fn a_refusal_says_what_github_said() {
    let vendor = script([refused(422, "No ref found for: main\u{0}")]).await;
    let error = vendor.github().dispatch(&inputs()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "github POST /repos/octo-org/agents/actions/workflows/provision-agent.yml/dispatches: \
         422, No ref found for: main "
    );
}

#[tokio::test]
async fn a_limit_says_how_long_to_wait() {
    let limited = |headers: &[(&'static str, &str)]| {
        let mut answer = refused(403, "You have exceeded a secondary rate limit.");
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        answer.header("date", &NOW)
    };
    let (used_up, reset) = (
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "1700568090"),
    );
    for (answer, seconds) in [
        (limited(&[("retry-after", "7")]), 7),
        (limited(&[("retry-after", "7"), used_up, reset]), 7),
        (limited(&[used_up, reset]), 90),
        (limited(&[("x-ratelimit-remaining", "4999"), reset]), 60),
        (limited(&[]), 60),
    ] {
        let vendor = script([answer]).await;
        let error = vendor.github().dispatch(&inputs()).await.unwrap_err();
        let VendorError::RateLimited { retry_after, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(retry_after.unwrap().as_secs(), seconds);
    }
}

/// A GitHub that hands out `ghs_1`, `ghs_2`, … and answers dispatches by the token's number.
async fn with_installation(
    expires_at: &'static str,
    dispatched: impl Fn(usize) -> Canned + Send + Sync + 'static,
) -> crate::canned::Server {
    let issued = Mutex::new(0_usize);
    serve(move |seen| match seen.line.as_str() {
        INSTALLATION => json_answer(200, &json!({"id": 7, "suspended_at": null})),
        TOKENS => {
            let mut issued = issued.lock().unwrap();
            *issued += 1;
            let body = json!({"token": format!("ghs_{issued}"), "expires_at": expires_at});
            json_answer(201, &body).header("date", &NOW)
        }
        _ => {
            let token = seen.authorization.as_deref().unwrap();
            dispatched(token.strip_prefix("Bearer ghs_").unwrap().parse().unwrap())
        }
    })
    .await
}

#[tokio::test]
async fn an_app_proves_itself_and_asks_for_no_more_than_it_needs() {
    let vendor = with_installation("2023-11-21T13:00:00Z", |_| started(1)).await;
    let github = vendor.github_by_app();
    github.dispatch(&inputs()).await.unwrap();
    github.dispatch(&inputs()).await.unwrap();
    assert_eq!(
        vendor.lines(),
        [INSTALLATION, TOKENS, DISPATCHES, DISPATCHES],
        "the token is kept"
    );
    let seen = vendor.seen.lock().unwrap().clone();
    let asked: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!(
        asked,
        json!({"repositories": ["agents"], "permissions": {"actions": "write"}})
    );
    let key = DecodingKey::from_rsa_pem(APP_KEY.public.as_bytes()).unwrap();
    for seen in &seen[..2] {
        assert_eq!(seen.api_version.as_deref(), Some("2022-11-28"));
        let proof = seen.authorization.as_deref().unwrap();
        let proof = proof.strip_prefix("Bearer ").unwrap();
        let validation = Validation::new(Algorithm::RS256);
        let claims = jsonwebtoken::decode::<Value>(proof, &key, &validation)
            .unwrap()
            .claims;
        assert_eq!(claims["iss"], APP_ID);
        let (iat, exp) = (
            claims["iat"].as_u64().unwrap(),
            claims["exp"].as_u64().unwrap(),
        );
        let now = jsonwebtoken::get_current_timestamp();
        assert!((now - 120..=now - 60).contains(&iat), "{iat} at {now}");
        assert!(exp > now + 400 && exp <= iat + 600, "{exp} at {now}");
    }
    let last = seen[3].authorization.as_deref();
    assert_eq!(last, Some("Bearer ghs_1"));
}

#[tokio::test]
async fn a_token_that_is_about_to_expire_is_renewed() {
    // By GitHub's own clock it has 50 seconds left, or none.
    for expires_at in ["2023-11-21T12:00:50Z", "2023-11-21T11:59:00Z"] {
        let vendor = with_installation(expires_at, |_| started(1)).await;
        let github = vendor.github_by_app();
        github.dispatch(&inputs()).await.unwrap();
        github.dispatch(&inputs()).await.unwrap();
        let fetched = vendor.lines().iter().filter(|line| *line == TOKENS).count();
        assert_eq!(fetched, 2, "{expires_at}");
    }
}

#[tokio::test]
async fn a_kept_token_that_is_refused_is_renewed_once() {
    let first_is_revoked = Mutex::new(false);
    let vendor = with_installation("2023-11-21T13:00:00Z", move |number| {
        let mut revoked = first_is_revoked.lock().unwrap();
        if std::mem::replace(&mut *revoked, true) && number == 1 {
            return refused(401, "Bad credentials");
        }
        started(1)
    })
    .await;
    let github = vendor.github_by_app();
    github.dispatch(&inputs()).await.unwrap();
    github.dispatch(&inputs()).await.unwrap();
    let fetched = vendor.lines().iter().filter(|line| *line == TOKENS).count();
    assert_eq!((fetched, vendor.lines().len()), (2, 7));

    // One that is refused when it is new is not: nothing would change.
    let vendor = with_installation("2023-11-21T13:00:00Z", |_| refused(401, "Bad credentials"));
    let vendor = vendor.await;
    let error = vendor
        .github_by_app()
        .dispatch(&inputs())
        .await
        .unwrap_err();
    assert_eq!(kind(&error), "Unauthorized");
    assert_eq!(vendor.lines(), [INSTALLATION, TOKENS, DISPATCHES]);
}

#[tokio::test]
async fn many_calls_at_once_fetch_one_token() {
    let vendor = with_installation("2023-11-21T13:00:00Z", |_| started(1)).await;
    let github = vendor.github_by_app();
    let inputs = inputs();
    let dispatches = (0..10).map(|_| github.dispatch(&inputs));
    for dispatched in join_all(dispatches).await {
        dispatched.unwrap();
    }
    let fetched = vendor.lines().iter().filter(|line| *line == TOKENS).count();
    assert_eq!((fetched, vendor.lines().len()), (1, 12));
}

#[tokio::test]
async fn an_app_that_is_let_in_nowhere_is_refused_and_a_github_that_is_away_is_not() {
    for (answer, expected) in [
        (refused(404, "Not Found"), "Rejected"),
        (
            refused(401, "A JSON web token could not be decoded"),
            "Unauthorized",
        ),
        (
            refused(422, "The permissions requested are not granted"),
            "Rejected",
        ),
        (refused(500, ""), "Unavailable"),
        (refused(429, ""), "RateLimited"),
        (text(200, "{}"), "Unavailable"),
        (text(200, "<html>"), "Unavailable"),
    ] {
        let canned = answer.clone();
        let first = serve(move |_| canned.clone()).await;
        let second = serve(move |seen| match seen.line.as_str() {
            INSTALLATION => json_answer(200, &json!({"id": 7})),
            _ => answer.clone(),
        })
        .await;
        for vendor in [first, second] {
            let error = vendor
                .github_by_app()
                .dispatch(&inputs())
                .await
                .unwrap_err();
            assert_eq!(kind(&error), expected, "{error}");
            assert!(!vendor.lines().contains(&DISPATCHES.to_owned()));
        }
    }
}

#[tokio::test]
async fn a_private_key_may_have_its_line_breaks_spelled_out() {
    let vendor = with_installation("2023-11-21T13:00:00Z", |_| started(1)).await;
    let one_line = APP_KEY.private.replace('\n', "\\n");
    let github = vendor.github_with(&GitHubCredential::App {
        id: APP_ID.to_owned(),
        private_key: one_line.into(),
    });
    github.dispatch(&inputs()).await.unwrap();
}
