//! The workflow of a provision that is asked for is dispatched: at least once, while it is queued.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop::providers::Timeouts;
use backstop::sim::{BrokenBody, Effect, Fault, FaultKind, GithubApp, SimOptions, Vendor};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use crate::harness::app_key::{APP_ID, APP_KEY};
use crate::harness::{Options, PATIENCE, Run, Service};
use crate::log;
use crate::status_api::{check_shape, create, id_of};

fn with_github() -> Options {
    Options {
        github: Some(Timeouts::default()),
        ..Options::default()
    }
}

pub async fn start() -> Service {
    Service::start_with(with_github()).await
}

pub async fn ask_for_one(service: &Service) -> Uuid {
    id_of(&create(service, json!({"agent_id": "web-1"})).await)
}

/// Waits until GitHub's run is known; its id.
pub async fn dispatched(service: &Service, id: Uuid) -> i64 {
    let provision = service
        .until(id, |provision| !provision["run_id"].is_null())
        .await;
    check_shape(&provision);
    provision["run_id"].as_i64().unwrap()
}

/// Waits until an event of this kind is in the history.
pub async fn happened(service: &Service, id: Uuid, kind: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !service.event_kinds(id).await.contains(&kind.to_owned()) {
        assert!(tokio::time::Instant::now() < deadline, "no {kind}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the outbox has the dispatch in this state.
pub async fn outbox_has(service: &Service, id: Uuid, state: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let row = sqlx::query("select state from dispatches where provision_id = $1")
            .bind(id)
            .fetch_one(&service.pool)
            .await
            .unwrap();
        let found: String = row.get("state");
        if found == state {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{found}, not {state}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn rows_in_outbox(service: &Service) -> i64 {
    sqlx::query_scalar("select count(*) from dispatches")
        .fetch_one(&service.pool)
        .await
        .unwrap()
}

pub fn fault(service: &Service, kind: FaultKind) {
    service.sim.fault(on_dispatch(kind));
}

pub fn on_dispatch(kind: FaultKind) -> Fault {
    let path = "/repos/*/*/actions/workflows/*/dispatches";
    Fault::on(Vendor::Github, "POST", path, kind)
}

/// How often GitHub was asked to start a run.
pub fn asked(service: &Service) -> usize {
    log::count(&service.sim, Vendor::Github, "POST", "/repos/")
}

pub fn runs(service: &Service) -> Vec<i64> {
    let runs = service.sim.runs();
    runs.iter()
        .map(|run| i64::try_from(run.id).unwrap())
        .collect()
}

#[tokio::test]
async fn a_provision_that_is_asked_for_is_dispatched_once_and_shows_its_run() {
    let service = start().await;
    let id = Uuid::new_v4();
    let body = json!({"id": id, "agent_id": "web-1", "region": "fsn1"});
    create(&service, body.clone()).await;
    let run = dispatched(&service, id).await;
    assert_eq!(runs(&service), [run]);
    let inputs = json!(service.sim.runs()[0].inputs);
    assert_eq!(
        inputs,
        json!({"provision_id": id.to_string(), "agent_id": "web-1", "region": "fsn1"})
    );
    let provision = service.provision(id).await;
    assert_eq!(
        (
            &provision["status"],
            &provision["attempt"],
            &provision["run_attempt"]
        ),
        (&json!("queued"), &json!(0), &Value::Null)
    );
    assert_eq!(service.event_kinds(id).await, ["created", "dispatch.sent"]);
    let html_url = format!("https://github.com/example/agents/actions/runs/{run}");
    assert_eq!(
        service.events(id).await[1]["data"],
        json!({"run_id": run, "html_url": html_url})
    );

    // Asked for again, also after the run has taken it: nothing more is started.
    for _ in 0..2 {
        let again = service
            .operate("POST", "/v1/provisions", Some(body.clone()))
            .await;
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.body["run_id"], run);
        service.started(id, Run(run, 1)).await;
    }
    // In which it could be heard: a gap would hold the next one back.
    service.pass(Duration::from_secs(3600)).await;
    let other = ask_for_one(&service).await;
    dispatched(&service, other).await;
    assert_eq!(runs(&service).len(), 2);
    let inputs = json!(service.sim.runs()[1].inputs);
    assert_eq!(
        inputs,
        json!({"provision_id": other.to_string(), "agent_id": "web-1"}),
        "a region that was not given is left out"
    );
}

#[tokio::test]
async fn without_github_the_outbox_stays_empty() {
    let service = Service::start().await;
    let id = ask_for_one(&service).await;
    assert_eq!(rows_in_outbox(&service).await, 0);
    assert_eq!(service.event_kinds(id).await, ["created"]);
    assert_eq!(service.provision(id).await["run_id"], Value::Null);
}

#[tokio::test]
async fn a_provision_that_a_run_brought_along_is_not_dispatched() {
    let service = start().await;
    let id = Uuid::new_v4();
    service.started(id, Run(7, 1)).await;
    assert_eq!(rows_in_outbox(&service).await, 0);
}

#[tokio::test]
async fn a_refusal_fails_the_provision_in_githubs_words() {
    let service = start().await;
    for (status, message) in [
        (400, "Problems parsing JSON"),
        (401, "Bad credentials"),
        (403, "Resource not accessible by integration"),
        (404, "Not Found"),
        (422, "Unexpected inputs provided: [\"region\"]"),
    ] {
        let kind = FaultKind::Status {
            status,
            code: None,
            message: Some(message.to_owned()),
        };
        // A 400 is asked once more, without the field that an older server does not know.
        let times = if status == 400 { 2 } else { 1 };
        service.sim.fault(on_dispatch(kind).times(times));
        let id = ask_for_one(&service).await;
        let provision = service
            .until(id, |provision| provision["status"] == "failed")
            .await;
        check_shape(&provision);
        let error = provision["error"].as_str().unwrap();
        assert!(error.ends_with(&format!("{status}, {message}")), "{error}");
        assert_eq!(provision["rollback"]["reason"], "dispatch_failed");
        assert_eq!(provision["rollback"]["state"], "done");
        assert_eq!(provision["rollback"]["steps"], json!([]));
        assert_eq!(provision["run_id"], Value::Null);
        assert_eq!(
            service.event_kinds(id).await,
            ["created", "dispatch.refused"]
        );
        assert_eq!(service.events(id).await[1]["data"], json!({"error": error}));

        let path = format!("/v1/provisions/{id}");
        let destroyed = service.operate("DELETE", &path, None).await;
        assert_eq!(
            (destroyed.status, &destroyed.body["status"]),
            (202, &json!("destroyed"))
        );
        assert_eq!(destroyed.body["rollback"]["reason"], "dispatch_failed");
    }
    assert_eq!(runs(&service), [] as [i64; 0]);
}

#[tokio::test]
async fn a_run_that_somebody_starts_by_hand_takes_a_provision_that_could_not_be_dispatched() {
    let mut options = with_github();
    options.sim.github_refs = BTreeSet::from(["trunk".to_owned()]);
    let service = Service::start_with(options).await;
    let id = ask_for_one(&service).await;
    let failed = service
        .until(id, |provision| provision["status"] == "failed")
        .await;
    let error = failed["error"].as_str().unwrap();
    assert!(error.ends_with("422, No ref found for: main"), "{error}");

    let made = service.make_all(&service.started(id, Run(7, 1)).await);
    let answer = service.callback("success", id, Run(7, 1), made.ids()).await;
    assert_eq!(answer.body, json!({"status": "running"}));
    let provision = service.provision(id).await;
    assert_eq!(
        (&provision["error"], &provision["run_id"]),
        (&Value::Null, &json!(7))
    );
    assert_eq!(service.alive().len(), 3);
}

#[tokio::test]
async fn whatever_is_no_refusal_leaves_it_queued_and_it_is_sent_again() {
    let service = start().await;
    let broken = |body| FaultKind::Broken { body, status: None };
    let late = FaultKind::Late {
        after_ms: 0,
        status: 504,
        code: None,
    };
    // What happens, and how many runs there are in the end.
    for (kind, started) in [
        (FaultKind::status(500), 1),
        (FaultKind::status(502), 1),
        (FaultKind::status(408), 1),
        (FaultKind::status(302), 1),
        (FaultKind::ResetBefore, 1),
        (FaultKind::ResetAfter, 2),
        (broken(BrokenBody::Truncated), 2),
        (broken(BrokenBody::Html), 2),
        (broken(BrokenBody::Empty), 2),
        (late, 2),
    ] {
        let before = runs(&service).len();
        fault(&service, kind.clone());
        let id = ask_for_one(&service).await;
        let run = dispatched(&service, id).await;
        let runs = runs(&service).split_off(before);
        assert_eq!((runs.len(), runs.last()), (started, Some(&run)), "{kind:?}");
        assert_eq!(service.provision(id).await["status"], "queued");
        assert_eq!(
            service.event_kinds(id).await,
            ["created", "dispatch.failed", "dispatch.sent"],
            "{kind:?}"
        );

        // Whichever run is the first to say so has it. The other is told before it creates anything.
        service.started(id, Run(runs[0], 1)).await;
        for second in &runs[1..] {
            let answer = service
                .callback("started", id, Run(*second, 1), json!({}))
                .await;
            assert_eq!(
                (answer.status, answer.code()),
                (409, "already_provisioning")
            );
        }
        assert_eq!(service.provision(id).await["run_id"], runs[0]);
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_leaves_it_queued_and_it_is_sent_again() {
    let service = Service::start_with(Options {
        github: Some(Timeouts {
            request: Duration::from_millis(400),
            ..Timeouts::default()
        }),
        ..Options::default()
    })
    .await;
    fault(&service, FaultKind::Delay { delay_ms: 1500 });
    let id = ask_for_one(&service).await;
    happened(&service, id, "dispatch.failed").await;
    assert_eq!(service.provision(id).await["status"], "queued");
    let run = dispatched(&service, id).await;
    assert!(runs(&service).contains(&run));
    let error = service.events(id).await[1]["data"]["error"].clone();
    assert!(error.as_str().unwrap().ends_with("timed out"), "{error}");
}

#[tokio::test]
async fn the_same_failure_again_and_again_is_one_line_of_the_history() {
    let service = start().await;
    let unavailable = |status, times| on_dispatch(FaultKind::status(status)).times(times);
    service.sim.fault(unavailable(503, 4));
    service.sim.fault(unavailable(500, 1));
    let id = ask_for_one(&service).await;
    dispatched(&service, id).await;
    assert_eq!(asked(&service), 6);
    assert_eq!(
        service.event_kinds(id).await,
        [
            "created",
            "dispatch.failed",
            "dispatch.failed",
            "dispatch.sent"
        ]
    );
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let service = start().await;
    fault(&service, FaultKind::status(429));
    let id = ask_for_one(&service).await;
    happened(&service, id, "dispatch.failed").await;
    assert_eq!(service.provision(id).await["status"], "queued");
    // Far longer than the longest back-off; GitHub said a minute.
    service.advance(Duration::from_secs(50)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked(&service), 1);
    service.advance(Duration::from_secs(11)).await;
    dispatched(&service, id).await;
}

#[tokio::test]
async fn a_server_that_does_not_say_which_run_it_started_is_not_asked_again() {
    let service = start().await;
    fault(&service, FaultKind::status(400));
    let id = ask_for_one(&service).await;
    happened(&service, id, "dispatch.sent").await;
    assert_eq!(service.event_kinds(id).await, ["created", "dispatch.sent"]);
    let provision = service.provision(id).await;
    assert_eq!(
        (&provision["status"], &provision["run_id"]),
        (&json!("queued"), &Value::Null)
    );
    service.advance(Duration::from_secs(3600)).await;
    assert_eq!(runs(&service).len(), 1);
    outbox_has(&service, id, "sent").await;
}

#[tokio::test]
async fn an_app_dispatches_with_its_installations_token() {
    let service = Service::start_with(Options {
        sim: SimOptions {
            github_app: Some(GithubApp {
                id: APP_ID.to_owned(),
                public_key: APP_KEY.public.clone(),
            }),
            // Only the app is let in.
            github_token: "nobody's".to_owned(),
            ..SimOptions::default()
        },
        ..with_github()
    })
    .await;
    let first = ask_for_one(&service).await;
    dispatched(&service, first).await;
    // The token is revoked, and a new one is good.
    fault(&service, FaultKind::status(401));
    let second = ask_for_one(&service).await;
    dispatched(&service, second).await;
    let tokens = service
        .sim
        .history()
        .into_iter()
        .filter(|entry| entry.effect == Some(Effect::TokenIssued))
        .count();
    assert_eq!((tokens, runs(&service).len()), (2, 2));

    // An app that was taken off the repository is refused, with GitHub's word for it.
    let path = "/repos/*/*/installation";
    let gone = Fault::on(Vendor::Github, "GET", path, FaultKind::status(404));
    service.sim.fault(gone.always());
    fault(&service, FaultKind::status(401));
    let third = ask_for_one(&service).await;
    let failed = service
        .until(third, |provision| provision["status"] == "failed")
        .await;
    let error = failed["error"].as_str().unwrap();
    assert!(error.ends_with("/installation: 404, Not Found"), "{error}");
}
