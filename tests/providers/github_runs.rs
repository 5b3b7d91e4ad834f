//! Looking at a run attempt.

use std::time::Duration;

use backstop::domain::names::Run;
use backstop::domain::witness::{Ending, RunState};
use backstop::providers::github::Look;
use serde_json::{Value, json};

use crate::canned::{Canned, GITHUB_TOKEN, json_answer, kind, script, text};

const RUN: Run = Run {
    id: 17_402_115_001,
    attempt: 2,
};
const PATH: &str = "GET /repos/octo-org/agents/actions/runs/17402115001/attempts/2";
const ETAG: &str = "W/\"5f1c0d\"";

fn run(status: &str, conclusion: &Value) -> Canned {
    let body = json!({
        "id": RUN.id, "run_attempt": 2, "status": status, "conclusion": conclusion,
        "event": "workflow_dispatch", "pull_requests": [],
    });
    json_answer(200, &body).header("etag", &ETAG)
}

#[tokio::test]
async fn a_run_attempt_is_asked_for_by_its_number_and_with_the_tag_of_the_last_answer() {
    let vendor = script([
        run("in_progress", &Value::Null),
        text(304, "").header("etag", &ETAG),
        run("completed", &json!("startup_failure")),
    ])
    .await;
    let github = vendor.github();
    let etag = Some(ETAG.to_owned());
    let seen = |state| Look::Seen {
        state,
        etag: etag.clone(),
    };
    let first = github.run_attempt(RUN, None).await.unwrap();
    assert_eq!(first, seen(RunState::UnderWay));
    let second = github.run_attempt(RUN, Some(ETAG)).await.unwrap();
    assert_eq!(second, Look::Unchanged);
    let third = github.run_attempt(RUN, Some(ETAG)).await.unwrap();
    assert_eq!(third, seen(RunState::Ended(Ending::StartupFailure)));

    assert_eq!(vendor.lines(), [PATH; 3]);
    let asked = vendor.seen.lock().unwrap().clone();
    let tags: Vec<_> = asked.iter().map(|it| it.if_none_match.as_deref()).collect();
    assert_eq!(tags, [None, Some(ETAG), Some(ETAG)]);
    for request in asked {
        assert_eq!(request.api_version.as_deref(), Some("2022-11-28"));
        let token = format!("Bearer {GITHUB_TOKEN}");
        assert_eq!(request.authorization, Some(token));
    }
}

#[tokio::test]
async fn what_is_no_answer_about_that_run_attempt_is_an_error() {
    let refused = |status| json_answer(status, &json!({"message": "No"}));
    let other = |id: i64, attempt: i32| {
        let body = json!({"id": id, "run_attempt": attempt, "status": "completed", "conclusion": "failure"});
        json_answer(200, &body)
    };
    for (answer, expected) in [
        (refused(401), "Unauthorized"),
        (refused(403), "Forbidden"),
        (refused(404), "Rejected"),
        (refused(429), "RateLimited"),
        (
            refused(403).header("x-ratelimit-remaining", &0),
            "RateLimited",
        ),
        (refused(500), "Unavailable"),
        (refused(301), "Unavailable"),
        // Not modified since what?
        (text(304, ""), "Unavailable"),
        (other(RUN.id, 1), "Unavailable"),
        (other(RUN.id + 1, 2), "Unavailable"),
        (json_answer(200, &json!({"id": RUN.id})), "Unavailable"),
        (text(200, "<html>"), "Unavailable"),
        (text(200, ""), "Unavailable"),
    ] {
        let vendor = script([answer]).await;
        let error = vendor.github().run_attempt(RUN, None).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
    }
}

#[tokio::test]
async fn a_pause_that_github_asks_for_is_told_and_a_tag_that_is_none_is_not_kept() {
    let limited = json_answer(429, &json!({"message": "secondary rate limit"}));
    let long = "W/\"".to_owned() + &"0".repeat(500) + "\"";
    let tagged = |etag: &str| {
        let body = json!({"id": RUN.id, "run_attempt": 2, "status": "queued", "conclusion": null});
        json_answer(200, &body).header("etag", &etag)
    };
    let vendor = script([limited.header("retry-after", &17), tagged(&long)]).await;
    let github = vendor.github();
    let error = github.run_attempt(RUN, None).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
    let seen = github.run_attempt(RUN, None).await.unwrap();
    let state = RunState::UnderWay;
    assert_eq!(seen, Look::Seen { state, etag: None });
}
