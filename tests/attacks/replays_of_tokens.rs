//! A job's token that somebody captured, with the callback that it proved: what it is good for within
//! its ten minutes, and what not.

use backstop::http::proof::ProofOfCaller;
use backstop::oidc::{Ours, Repository, Verifier, WorkflowFile};
use backstop::providers::Issuer;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::issuer::{AUDIENCE, REPOSITORY, TestIssuer};
use crate::harness::{Options, Run, SECRET, Service, callback_body};
use crate::replays::rows_but_when_heard;
use crate::tables::{difference, whole};

const RUN: Run = Run(100, 1);

async fn service(issuer: &TestIssuer) -> Service {
    let ours = Ours {
        repository: Repository::Name(REPOSITORY.to_owned()),
        repository_id: None,
        owner_id: None,
        workflow: WorkflowFile {
            file: "provision-agent.yml".to_owned(),
            git_ref: "main".to_owned(),
        },
        called: Vec::new(),
    };
    let at = Issuer::new("BACKSTOP_OIDC_ISSUER", &issuer.url).unwrap();
    let verifier = Verifier::new(at, &[AUDIENCE.to_owned()], ours);
    Service::start_changed(Options::default(), |config| {
        config.proof = ProofOfCaller::by_signature(&[SECRET.into()])
            .unwrap()
            .or_by_token(verifier);
    })
    .await
}

/// Where the token is shown.
#[derive(Clone, Copy)]
enum Shown {
    Bearer,
    Query,
    Cookie,
    Form,
    Hub,
}

#[tokio::test]
async fn a_captured_token_is_good_for_its_own_run_alone() {
    let issuer = TestIssuer::start().await;
    let service = service(&issuer).await;
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let token = issuer.token(RUN);
    let body = |kind: &str, id: Uuid, run: Run| callback_body(kind, id, run, json!({})).to_string();
    let path = |id: Uuid, kind: &str| format!("/v1/provisions/{id}/callbacks/{kind}");
    let send = async |token: &str, method: &str, path: &str, body: &str, shown: Shown| {
        let request = match shown {
            Shown::Bearer => service.request(method, path).bearer_auth(token),
            Shown::Query => service.request(method, &format!("{path}?access_token={token}")),
            Shown::Cookie => service
                .request(method, path)
                .header("cookie", format!("backstop={token}")),
            Shown::Hub => service
                .request(method, path)
                .header("x-hub-signature-256", token)
                .header("x-github-event", "workflow_run")
                .header("x-github-delivery", "1"),
            Shown::Form => service
                .request(method, path)
                .header("sec-fetch-site", "same-origin")
                .header("content-type", "application/x-www-form-urlencoded"),
        };
        let request = match shown {
            Shown::Form => request.body(format!("token={token}")),
            _ => request
                .header("content-type", "application/json")
                .body(body.to_owned()),
        };
        service.app_send(request).await
    };
    let begun = body("started", id, RUN);
    assert_eq!(
        send(&token, "POST", &path(id, "started"), &begun, Shown::Bearer).await,
        200
    );
    let foreign = body("started", other, Run(300, 1));
    let theirs = issuer.token(Run(300, 1));
    assert_eq!(
        send(
            &theirs,
            "POST",
            &path(other, "started"),
            &foreign,
            Shown::Bearer
        )
        .await,
        200
    );

    let now = i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap();
    let old = issuer.token_with(RUN, json!({"iat": now - 661, "exp": now + 20_000}));
    let over = issuer.token_with(RUN, json!({"exp": now - 61}));
    let for_others = issuer.token_with(RUN, json!({"aud": "https://other.example"}));
    let failure = body("failure", id, RUN);
    let mine = |kind: &str| (path(id, kind), body(kind, id, RUN));
    let lines: Vec<(&str, &str, &str, (String, String), Shown, u16)> = vec![
        (
            "its own callback again",
            &token,
            "POST",
            (path(id, "started"), begun.clone()),
            Shown::Bearer,
            200,
        ),
        (
            "its own callback to another kind's endpoint",
            &token,
            "POST",
            (path(id, "failure"), begun.clone()),
            Shown::Bearer,
            422,
        ),
        (
            "its own callback to another provision",
            &token,
            "POST",
            (path(other, "started"), begun.clone()),
            Shown::Bearer,
            422,
        ),
        (
            "another provision's failure in its own name",
            &token,
            "POST",
            (path(other, "failure"), body("failure", other, RUN)),
            Shown::Bearer,
            409,
        ),
        (
            "another provision's failure in its owner's name",
            &token,
            "POST",
            (path(other, "failure"), body("failure", other, Run(300, 1))),
            Shown::Bearer,
            401,
        ),
        (
            "its own failure as the next attempt",
            &token,
            "POST",
            (path(id, "failure"), body("failure", id, Run(100, 2))),
            Shown::Bearer,
            401,
        ),
        (
            "eleven minutes later",
            &old,
            "POST",
            mine("failure"),
            Shown::Bearer,
            401,
        ),
        (
            "after its end",
            &over,
            "POST",
            mine("failure"),
            Shown::Bearer,
            401,
        ),
        (
            "one for another service",
            &for_others,
            "POST",
            mine("failure"),
            Shown::Bearer,
            401,
        ),
        (
            "in the query",
            &token,
            "POST",
            (path(id, "failure"), failure.clone()),
            Shown::Query,
            401,
        ),
        (
            "in a cookie",
            &token,
            "POST",
            (path(id, "failure"), failure.clone()),
            Shown::Cookie,
            401,
        ),
        (
            "as GitHub's signature",
            &token,
            "POST",
            ("/v1/github/webhook".to_owned(), failure.clone()),
            Shown::Hub,
            401,
        ),
        (
            "to sign in",
            &token,
            "POST",
            ("/sign-in".to_owned(), String::new()),
            Shown::Form,
            403,
        ),
        (
            "to read",
            &token,
            "GET",
            (format!("/v1/provisions/{id}"), String::new()),
            Shown::Bearer,
            401,
        ),
        (
            "to follow",
            &token,
            "GET",
            ("/v1/stream".to_owned(), String::new()),
            Shown::Bearer,
            401,
        ),
        (
            "to destroy",
            &token,
            "DELETE",
            (format!("/v1/provisions/{id}"), String::new()),
            Shown::Bearer,
            401,
        ),
        (
            "to retry",
            &token,
            "POST",
            (format!("/v1/provisions/{id}/rollback"), String::new()),
            Shown::Bearer,
            401,
        ),
        (
            "to dispatch",
            &token,
            "POST",
            (
                "/v1/provisions".to_owned(),
                json!({"agent_id": "x"}).to_string(),
            ),
            Shown::Bearer,
            401,
        ),
        (
            "to measure",
            &token,
            "GET",
            ("/metrics".to_owned(), String::new()),
            Shown::Bearer,
            401,
        ),
    ];
    let mut failures = Vec::new();
    for (what, token, method, (path, body), shown, right) in lines {
        // Its own run is heard, however often it says the same.
        let rows = async || {
            if right == 200 {
                rows_but_when_heard(&service).await
            } else {
                whole(&service.pool).await
            }
        };
        let before = rows().await;
        let status = send(token, method, &path, &body, shown).await;
        let changed = difference(&before, &rows().await);
        if status != right || !changed.is_empty() {
            failures.push(format!("{what}: {status}, changed {changed:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // What it is good for: whatever its own run could say, also with another body than was captured.
    assert_eq!(
        send(
            &token,
            "POST",
            &path(id, "failure"),
            &failure,
            Shown::Bearer
        )
        .await,
        202
    );
    let provision: Value = service.provision(other).await;
    assert_eq!(provision["status"], "provisioning");
}

impl Service {
    /// Sends a request to the API or the page; its status.
    async fn app_send(&self, request: reqwest::RequestBuilder) -> u16 {
        request.send().await.unwrap().status().as_u16()
    }
}
