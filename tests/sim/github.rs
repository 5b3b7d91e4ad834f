//! Rules of GitHub.

use std::time::Duration;

use backstop::sim::{Effect, Fault, FaultKind, GithubApp, SimOptions, Vendor};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};

use crate::app_key::{APP_ID, APP_KEY};
use crate::support::{Answer, Bench, quick};

const DISPATCHES: &str = "/repos/example/agents/actions/workflows/provision-agent.yml/dispatches";

fn body(more: &Value) -> Value {
    let mut body = json!({"ref": "main", "inputs": {"agent_id": "web-1"}});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

fn said(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body["message"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn a_dispatched_run_can_be_looked_at() {
    let bench = Bench::start();
    let wanted = body(&json!({"return_run_details": true}));
    let answer = bench.github("POST", DISPATCHES, Some(wanted)).await;
    assert_eq!(answer.status, 200);
    let runs = bench.sim.runs();
    let id = runs[0].id;
    assert_eq!(answer.body["workflow_run_id"], id);
    let html_url = format!("https://github.com/example/agents/actions/runs/{id}");
    assert_eq!(answer.body["html_url"], html_url);
    assert_eq!(runs[0].inputs["agent_id"], "web-1");

    let path = format!("/repos/example/agents/actions/runs/{id}");
    for path in [path.clone(), format!("{path}/attempts/1")] {
        let run = bench.github("GET", &path, None).await;
        assert_eq!(run.status, 200, "{path}");
        assert_eq!(
            (
                &run.body["id"],
                &run.body["status"],
                &run.body["conclusion"]
            ),
            (&json!(id), &json!("queued"), &Value::Null)
        );
        assert_eq!(
            (&run.body["run_number"], &run.body["run_attempt"]),
            (&json!(1), &json!(1))
        );
    }
    for path in [
        format!("{path}/attempts/2"),
        format!("{path}0"),
        format!("/repos/example/other/actions/runs/{id}"),
    ] {
        assert_eq!(bench.github("GET", &path, None).await.status, 404, "{path}");
    }
    let state = bench.control("GET", "/sim/state", Value::Null).await;
    assert_eq!(state.body["runs"][0]["inputs"]["agent_id"], "web-1");
    let effect = bench.sim.history()[0].effect.clone();
    assert!(matches!(effect, Some(Effect::RunDispatched { id: of, .. }) if of == id));
}

#[tokio::test]
async fn run_details_are_told_when_asked_for_and_always_by_the_newer_version() {
    let bench = Bench::start();
    for (version, details, status) in [
        (None, None, 204),
        (None, Some(true), 200),
        (Some("2022-11-28"), None, 204),
        (Some("2022-11-28"), Some(false), 204),
        (Some("2022-11-28"), Some(true), 200),
        (Some("2026-03-10"), None, 200),
        (Some("1999-01-01"), None, 400),
    ] {
        let more = details.map_or_else(|| json!({}), |told| json!({"return_run_details": told}));
        let url = format!("{}{DISPATCHES}", bench.sim.github_url());
        let mut request = bench.http.post(url).json(&body(&more));
        if let Some(version) = version {
            request = request.header("x-github-api-version", version);
        }
        let token = bench.sim.options().github_token;
        let answer = request.bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), status, "{version:?} {details:?}");
        let text = answer.text().await.unwrap();
        assert_eq!(text.is_empty(), status == 204, "{text}");
    }
    assert_eq!(bench.sim.runs().len(), 6);
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_in_githubs_words_and_starts_nothing() {
    let bench = Bench::start();
    let other_repository = DISPATCHES.replace("agents", "other");
    let other_workflow = DISPATCHES.replace("provision-agent", "other");
    let inputs = json!({"inputs": {"agent_id": "web-1", "size": "cx22"}});
    let many: serde_json::Map<String, Value> = (0..26)
        .map(|n| (format!("input-{n}"), json!("x")))
        .collect();
    for (path, more, status, message) in [
        (other_repository.as_str(), json!({}), 404, "Not Found"),
        (other_workflow.as_str(), json!({}), 404, "Not Found"),
        ("/repos/example/agents", json!({}), 404, "Not Found"),
        (
            DISPATCHES,
            json!({"ref": "gone"}),
            422,
            "No ref found for: gone",
        ),
        (
            DISPATCHES,
            inputs,
            422,
            "Unexpected inputs provided: [\"size\"]",
        ),
        (
            DISPATCHES,
            json!({"inputs": many}),
            422,
            "Invalid request.\n\nMore than 25 inputs.",
        ),
        (DISPATCHES, json!({"ref": null}), 422, "Invalid request."),
    ] {
        let answer = bench.github("POST", path, Some(body(&more))).await;
        assert_eq!(answer.status, status, "{path} {more}: {}", answer.text);
        assert!(said(&answer).1.starts_with(message), "{}", answer.text);
        assert!(answer.body["documentation_url"].is_string());
        assert_eq!(answer.body["status"], status.to_string());
    }
    for token in ["wrong", ""] {
        let answer = bench
            .github_with_token(token, "POST", DISPATCHES, Some(body(&json!({}))))
            .await;
        assert_eq!(said(&answer), (401, "Bad credentials"));
    }
    assert_eq!(bench.sim.runs(), []);
}

#[tokio::test]
async fn faults_hit_github_in_its_own_words() {
    let bench = Bench::start();
    let fault = |kind| {
        bench
            .sim
            .fault(Fault::on(Vendor::Github, "POST", "/repos/**", kind));
    };
    fault(FaultKind::status(429));
    let limited = bench
        .github("POST", DISPATCHES, Some(body(&json!({}))))
        .await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, "60"));
    fault(FaultKind::status(401));
    let refused = bench
        .github("POST", DISPATCHES, Some(body(&json!({}))))
        .await;
    assert_eq!(said(&refused), (401, "Bad credentials"));
    fault(FaultKind::status(500));
    assert_eq!(
        bench
            .github("POST", DISPATCHES, Some(body(&json!({}))))
            .await
            .status,
        500
    );
    assert_eq!(bench.sim.runs(), []);
    fault(FaultKind::Late {
        after_ms: 50,
        status: 504,
        code: None,
    });
    let late = bench
        .github("POST", DISPATCHES, Some(body(&json!({}))))
        .await;
    assert_eq!((late.status, bench.sim.runs().len()), (504, 0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.sim.runs().len(), 1);
}

fn with_app() -> SimOptions {
    SimOptions {
        github_app: Some(GithubApp {
            id: APP_ID.to_owned(),
            public_key: APP_KEY.public.clone(),
        }),
        github_app_token_lifetime: Duration::from_secs(1),
        ..quick()
    }
}

fn proof(issuer: &str, since_now: i64, until_now: i64) -> String {
    let now = i64::try_from(get_current_timestamp()).unwrap();
    let claims = json!({"iss": issuer, "iat": now + since_now, "exp": now + until_now});
    let key = EncodingKey::from_rsa_pem(APP_KEY.private.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap()
}

#[tokio::test]
async fn an_app_proves_itself_and_gets_a_token_that_ends() {
    let bench = Bench::with(with_app());
    let proof = proof(APP_ID, -60, 500);
    let path = "/repos/example/agents/installation";
    let found = bench.github_with_token(&proof, "GET", path, None).await;
    assert_eq!(found.status, 200, "{}", found.text);
    let other = bench
        .github_with_token(&proof, "GET", "/repos/example/other/installation", None)
        .await;
    assert_eq!(said(&other), (404, "Not Found"));

    let path = format!("/app/installations/{}/access_tokens", found.body["id"]);
    let ask = async |body| {
        bench
            .github_with_token(&proof, "POST", &path, Some(body))
            .await
    };
    for (body, status) in [
        (json!({"repositories": ["other"]}), 422),
        (json!({"permissions": {"contents": "write"}}), 422),
    ] {
        assert_eq!(ask(body).await.status, status);
    }
    let readable = ask(json!({"permissions": {"actions": "read"}})).await;
    let token = readable.body["token"].as_str().unwrap();
    let refused = bench
        .github_with_token(token, "POST", DISPATCHES, Some(body(&json!({}))))
        .await;
    assert_eq!(
        said(&refused),
        (403, "Resource not accessible by integration")
    );

    let narrow = json!({"repositories": ["agents"], "permissions": {"actions": "write"}});
    let issued = ask(narrow).await;
    assert_eq!(issued.status, 201, "{}", issued.text);
    assert!(issued.body["expires_at"].is_string());
    let token = issued.body["token"].as_str().unwrap();
    let again = async || {
        bench
            .github_with_token(token, "POST", DISPATCHES, Some(body(&json!({}))))
            .await
    };
    assert_eq!(again().await.status, 204);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(said(&again().await), (401, "Bad credentials"));
}

#[tokio::test]
async fn a_proof_must_be_the_apps_and_of_this_moment() {
    let path = "/repos/example/agents/installation";
    let bench = Bench::with(with_app());
    for (proof, status) in [
        (proof(APP_ID, -60, 590), 200),
        (proof(APP_ID, -60, 700), 401),
        (proof(APP_ID, 60, 590), 401),
        (proof(APP_ID, -600, -1), 401),
        (proof("271828", -60, 590), 404),
        ("no.proof.atall".to_owned(), 401),
        (bench.sim.options().github_token, 401),
    ] {
        let answer = bench.github_with_token(&proof, "GET", path, None).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    let without = Bench::with(quick());
    let answer = without
        .github_with_token(&proof(APP_ID, -60, 590), "GET", path, None)
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_run_goes_its_way_and_each_attempt_keeps_how_it_ended() {
    let bench = Bench::start();
    let id = bench.sim.start_run();
    let path = format!("/repos/example/agents/actions/runs/{id}");
    let stands = async |attempt: u32| {
        let answer = bench
            .github("GET", &format!("{path}/attempts/{attempt}"), None)
            .await;
        (
            answer.body["status"].clone(),
            answer.body["conclusion"].clone(),
        )
    };
    assert_eq!(stands(1).await, (json!("in_progress"), Value::Null));
    assert!(bench.sim.end_run(id, "timed_out"));
    assert!(bench.sim.rerun(id));
    assert_eq!(stands(1).await, (json!("completed"), json!("timed_out")));
    assert_eq!(stands(2).await, (json!("queued"), Value::Null));
    assert!(bench.sim.end_run(id, "success"));
    assert_eq!(stands(1).await, (json!("completed"), json!("timed_out")));
    let latest = bench.github("GET", &path, None).await;
    assert_eq!(
        (&latest.body["run_attempt"], &latest.body["conclusion"]),
        (&json!(2), &json!("success"))
    );
    for attempt in ["0", "3", "-1", "x"] {
        let answer = bench
            .github("GET", &format!("{path}/attempts/{attempt}"), None)
            .await;
        assert_eq!(said(&answer), (404, "Not Found"), "{attempt}");
    }
    assert!(!bench.sim.end_run(id + 1, "success"));

    let started = bench.control("POST", "/sim/runs", json!({})).await;
    assert_eq!(started.status, 201);
    let other = started.body["id"].as_u64().unwrap();
    let ends = json!({"status": "completed", "conclusion": "cancelled"});
    let changed = bench
        .control("PUT", &format!("/sim/runs/{other}"), ends)
        .await;
    assert_eq!(changed.status, 204);
    let attempts = &bench.sim.runs()[1].attempts;
    assert_eq!(attempts[0].conclusion.as_deref(), Some("cancelled"));
}

#[tokio::test]
async fn what_the_caller_has_already_is_not_said_again() {
    let bench = Bench::start();
    let id = bench.sim.start_run();
    let url = format!(
        "{}/repos/example/agents/actions/runs/{id}/attempts/1",
        bench.sim.github_url()
    );
    let ask = async |etag: &str| {
        let request = bench.http.get(&url).header("if-none-match", etag);
        let token = bench.sim.options().github_token;
        let answer = request.bearer_auth(token).send().await.unwrap();
        let status = answer.status().as_u16();
        let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
        (status, etag, answer.text().await.unwrap().is_empty())
    };
    let (status, etag, empty) = ask("W/\"0\"").await;
    assert_eq!((status, empty), (200, false));
    assert_eq!(ask(&etag).await, (304, etag.clone(), true));
    assert!(bench.sim.end_run(id, "failure"));
    let (status, other, empty) = ask(&etag).await;
    assert_eq!((status, empty), (200, false));
    assert_ne!(other, etag);
}

#[tokio::test]
async fn webhooks_say_what_changed_and_are_signed() {
    use aws_lc_rs::hmac;
    let bench = Bench::start();
    let id = bench.sim.start_run();
    let begun = bench.sim.webhook_of_run(id, "a secret").unwrap();
    assert!(bench.sim.end_run(id, "failure"));
    let ended = bench.sim.webhook_of_run(id, "a secret").unwrap();
    let job = bench.sim.webhook_of_job(id, "failure", "a secret").unwrap();
    for (delivery, event, action) in [
        (&begun, "workflow_run", "in_progress"),
        (&ended, "workflow_run", "completed"),
        (&job, "workflow_job", "completed"),
    ] {
        assert_eq!(delivery.event, event);
        let body: Value = serde_json::from_str(&delivery.body).unwrap();
        assert_eq!(body["action"], action);
        assert_eq!(body["repository"]["full_name"], "example/agents");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret");
        let tag = hmac::sign(&key, delivery.body.as_bytes());
        let hex = |text, byte: &u8| format!("{text}{byte:02x}");
        let digits = tag.as_ref().iter().fold(String::new(), hex);
        assert_eq!(delivery.signature, format!("sha256={digits}"));
    }
    assert_ne!(begun.id, ended.id);
    let body: Value = serde_json::from_str(&ended.body).unwrap();
    let run = &body["workflow_run"];
    assert_eq!(
        (&run["id"], &run["run_attempt"], &run["conclusion"]),
        (&json!(id), &json!(1), &json!("failure"))
    );
    let body: Value = serde_json::from_str(&job.body).unwrap();
    assert_eq!(body["workflow_job"]["run_id"], id);
    assert!(bench.sim.webhook_of_run(id + 1, "a secret").is_none());
}
