//! What GitHub says of a run fails a provision at once, and only that says so.

use std::time::Duration;

use backstop::domain::names::ProvisionId;
use backstop::domain::step::Resource;
use backstop::domain::witness::{Ending, Source, Testimony, judge};
use backstop::providers::Timeouts;
use backstop::rollback::rollback_failed_provision;
use backstop::sim::{Fault, FaultKind, Vendor};
use backstop::store::provisions::{Written, write};
use backstop::store::witness;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Made, Options, Run, Service};
use crate::hold::{copy, resume};
use crate::support::{events, failed, is_held, is_waited_for, pulsed, secs, until};

pub fn with_github() -> Options {
    Options {
        github: Some(Timeouts::default()),
        ..Options::default()
    }
}

pub async fn start() -> Service {
    Service::start_with(with_github()).await
}

/// A provision whose run GitHub knows: it was started and made all it makes.
pub async fn under_way(service: &Service) -> (Uuid, Run, Made) {
    let run = Run(i64::try_from(service.sim.start_run()).unwrap(), 1);
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, run).await);
    (id, run, made)
}

pub fn end(service: &Service, run: Run, conclusion: &str) {
    assert!(service.sim.end_run(number(run), conclusion));
}

pub fn number(run: Run) -> u64 {
    u64::try_from(run.0).unwrap()
}

async fn heartbeat(service: &Service, id: Uuid, run: Run) -> u16 {
    let answer = service.callback("progress", id, run, json!({})).await;
    answer.status
}

/// How GitHub answered when it was asked about this run, so far.
fn answers(service: &Service, run: Run) -> Vec<Option<u16>> {
    let path = format!(
        "/repos/example/agents/actions/runs/{}/attempts/{}",
        run.0, run.1
    );
    let history = service.sim.history();
    history
        .iter()
        .filter(|entry| entry.vendor == Vendor::Github && entry.path == path)
        .map(|entry| entry.status)
        .collect()
}

/// Waits until GitHub was asked about this run so often, and nobody is asking any more: a claim
/// lasts longer than the pause after an answer.
async fn asked(service: &Service, run: Run, times: usize) {
    until(async || (answers(service, run).len() >= times).then_some(())).await;
    let asking =
        "select exists (select from witness where next_at > backstop_now() + interval '80 s')";
    until(async || {
        let asking: bool = sqlx::query_scalar(asking)
            .fetch_one(&service.pool)
            .await
            .unwrap();
        (!asking).then_some(())
    })
    .await;
}

/// Asks about this provision in a row that told nothing; `None`: it was never asked about.
pub async fn failures(service: &Service, id: Uuid) -> Option<i32> {
    sqlx::query_scalar("select failures from witness where provision_id = $1")
        .bind(id)
        .fetch_optional(&service.pool)
        .await
        .unwrap()
}

async fn under_way_at(service: &Service, id: Uuid) -> Option<chrono::DateTime<chrono::Utc>> {
    sqlx::query_scalar("select under_way_at from witness where provision_id = $1")
        .bind(id)
        .fetch_optional(&service.pool)
        .await
        .unwrap()
        .flatten()
}

#[tokio::test]
async fn each_conclusion_that_says_failure_fails_what_is_silent_long_before_its_deadline() {
    let service = start().await;
    let mut ended = Vec::new();
    for (conclusion, reason) in [
        ("failure", "failure"),
        ("startup_failure", "failure"),
        ("stale", "failure"),
        ("cancelled", "cancelled"),
        ("timed_out", "timed_out"),
    ] {
        let (id, run, _) = under_way(&service).await;
        end(&service, run, conclusion);
        ended.push((id, run, conclusion, reason));
    }
    // One that has never sent a heartbeat is asked about after a whole heartbeat time-out.
    service.pass(secs(301)).await;
    for (id, run, conclusion, reason) in ended {
        let provision = service.settled(id).await;
        assert_eq!(provision["status"], "failed");
        assert_eq!(provision["rollback"]["reason"], reason);
        assert_eq!(provision["conclusion"], Value::Null);
        let [event] = &events(&service, id, "github.run_failed").await[..] else {
            panic!("one event");
        };
        assert_eq!(
            event["data"],
            json!({"run_id": run.0, "run_attempt": 1, "conclusion": conclusion, "source": "asked"})
        );
        assert_eq!(answers(&service, run), [Some(200)]);
    }
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn who_talks_is_not_asked_about_and_who_falls_silent_is_after_half_the_time_out() {
    let service = start().await;
    let (silent, run, _) = under_way(&service).await;
    let (talking, its_run, _) = under_way(&service).await;
    assert_eq!(heartbeat(&service, silent, run).await, 200);
    assert_eq!(heartbeat(&service, talking, its_run).await, 200);
    end(&service, run, "failure");
    service.pass(secs(100)).await;
    assert_eq!(heartbeat(&service, talking, its_run).await, 200);
    service.pass(secs(60)).await;
    let provision = failed(&service, silent).await;
    assert_eq!(provision["rollback"]["reason"], "failure");
    assert_eq!(answers(&service, its_run), []);
    assert_eq!(service.provision(talking).await["status"], "provisioning");
}

#[tokio::test]
async fn a_run_that_is_under_way_has_its_time_and_its_deadline_stands() {
    let service = start().await;
    let (id, run, _) = under_way(&service).await;
    assert_eq!(heartbeat(&service, id, run).await, 200);
    // Its heartbeats stop, and the run goes on.
    for round in 1..=8 {
        service.pass(secs(200)).await;
        asked(&service, run, round).await;
        assert_eq!(service.provision(id).await["status"], "provisioning");
    }
    assert!(under_way_at(&service, id).await.is_some());
    // Only the first answer was read in full: what has not changed costs nothing.
    let told: Vec<_> = answers(&service, run);
    assert_eq!(told[0], Some(200));
    assert!(
        told[1..].iter().all(|status| *status == Some(304)),
        "{told:?}"
    );
    service.pass(secs(201)).await;
    let provision = service.settled(id).await;
    assert_eq!(provision["rollback"]["reason"], "deadline");
}

#[tokio::test]
async fn what_cannot_be_asked_decides_nothing_and_the_silence_is_one_again() {
    let service = start().await;
    for status in [404, 403, 401, 500] {
        // GitHub does not know it, or does not let us look, or is away.
        let fault = Fault::on(
            Vendor::Github,
            "GET",
            "/repos/**",
            FaultKind::status(status),
        );
        service.sim.fault(fault.always());
        let (id, run, _) = under_way(&service).await;
        end(&service, run, "failure");
        assert_eq!(heartbeat(&service, id, run).await, 200);
        service.pass(secs(160)).await;
        until(async || (!answers(&service, run).is_empty()).then_some(())).await;
        assert_eq!(service.provision(id).await["status"], "provisioning");
        service.pass(secs(150)).await;
        let provision = failed(&service, id).await;
        assert_eq!(provision["rollback"]["reason"], "silent", "{status}");
        service.sim.clear_faults();
        // Whoever shut us out is left alone for some minutes.
        service.pass(secs(301)).await;
    }
}

#[tokio::test]
async fn while_github_asks_for_a_pause_nobody_asks() {
    let service = start().await;
    let other = service.replica().await;
    service.sim.fault(Fault::on(
        Vendor::Github,
        "GET",
        "/repos/**",
        FaultKind::status(429),
    ));
    let (first, run, _) = under_way(&service).await;
    end(&service, run, "cancelled");
    service.pass(secs(301)).await;
    until(async || (answers(&service, run) == [Some(429)]).then_some(())).await;
    let paused = "select exists (select from github_asking where paused_until > backstop_now())";
    until(async || {
        let paused: bool = sqlx::query_scalar(paused)
            .fetch_one(&service.pool)
            .await
            .unwrap();
        paused.then_some(())
    })
    .await;
    let (second, its_run, _) = under_way(&service).await;
    end(&service, its_run, "cancelled");
    // GitHub said a minute.
    service.pass(secs(30)).await;
    let mut db = service.pool.acquire().await.unwrap();
    let claimed = witness::claim_suspects(&mut db, &crate::support::PATIENCE, secs(120), 50).await;
    assert!(claimed.unwrap().is_empty());
    drop(db);
    assert_eq!(answers(&service, run).len(), 1);
    service.pass(secs(300)).await;
    for id in [first, second] {
        assert_eq!(
            failed(&service, id).await["rollback"]["reason"],
            "cancelled"
        );
    }
    other.stop().await.unwrap();
}

#[tokio::test]
async fn replicas_ask_once_and_together_no_more_than_sixty_times_a_minute() {
    let service = start().await;
    let others = [service.replica().await, service.replica().await];
    let mut all = Vec::new();
    for _ in 0..70 {
        let run = Run(i64::try_from(service.sim.start_run()).unwrap(), 1);
        let id = Uuid::new_v4();
        service.started(id, run).await;
        end(&service, run, "failure");
        all.push((id, run));
    }
    service.pass(secs(301)).await;
    let asked = || {
        all.iter()
            .filter(|(_, run)| !answers(&service, *run).is_empty())
            .count()
    };
    until(async || (asked() >= 60).then_some(())).await;
    // Nobody finds room for another one.
    let mut db = service.pool.acquire().await.unwrap();
    let claimed = witness::claim_suspects(&mut db, &crate::support::PATIENCE, secs(120), 50).await;
    assert!(claimed.unwrap().is_empty());
    drop(db);
    assert_eq!(asked(), 60);
    service.pass(secs(61)).await;
    for (id, run) in all {
        assert_eq!(failed(&service, id).await["rollback"]["reason"], "failure");
        assert_eq!(answers(&service, run), [Some(200)]);
        assert_eq!(events(&service, id, "github.run_failed").await.len(), 1);
    }
    for other in others {
        other.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_success_that_nobody_told_is_shown_once_and_left_to_time() {
    let service = start().await;
    let (id, run, made) = under_way(&service).await;
    let (other, its_run, _) = under_way(&service).await;
    end(&service, run, "success");
    end(&service, its_run, "skipped");
    service.pass(secs(301)).await;
    until(async || events(&service, id, "github.discrepancy").await.pop()).await;
    until(async || events(&service, other, "github.discrepancy").await.pop()).await;
    service.pass(secs(600)).await;
    assert_eq!(service.provision(id).await["status"], "provisioning");
    assert_eq!(events(&service, id, "github.discrepancy").await.len(), 1);
    // How a run attempt ended is final: it is not asked about again.
    assert_eq!(answers(&service, run), [Some(200)]);
    // Heard after all, it is as good as any.
    let answer = service.callback("success", id, run, made.ids()).await;
    assert_eq!(answer.status, 200);
    service.pass(secs(1000)).await;
    assert_eq!(
        failed(&service, other).await["rollback"]["reason"],
        "deadline"
    );
    assert_eq!(service.provision(id).await["status"], "running");
    let metrics = service.send(
        service
            .request("GET", "/metrics")
            .bearer_auth(crate::harness::READER),
    );
    let text = metrics.await.body;
    let sample = "backstop_github_verdicts_total{result=\"discrepancy\"} 2";
    assert!(text.as_str().unwrap().contains(sample), "{text}");
}

#[tokio::test]
async fn a_machine_in_use_is_not_asked_about_and_never_failed_by_its_run() {
    let service = start().await;
    let (id, run, made) = under_way(&service).await;
    let answer = service.callback("success", id, run, made.ids()).await;
    assert_eq!(answer.status, 200);
    end(&service, run, "failure");
    let testimony = Testimony {
        run: backstop::domain::names::Run {
            id: run.0,
            attempt: run.1,
        },
        ending: Ending::Failure,
        source: Source::Asked,
    };
    service.pass(secs(10_000)).await;
    let mut db = service.pool.acquire().await.unwrap();
    let written =
        backstop::witness::testify(&mut db, ProvisionId::new(id), &testimony, &Resource::ALL).await;
    assert_eq!(written.unwrap(), None);
    assert_eq!(answers(&service, run), []);
    assert_eq!(service.provision(id).await["status"], "running");
    assert_eq!(service.alive().len(), 3);
}

#[tokio::test]
async fn a_rerun_is_asked_about_by_its_own_number() {
    let service = start().await;
    let (id, first, _) = under_way(&service).await;
    end(&service, first, "failure");
    assert!(service.sim.rerun(number(first)));
    assert!(service.sim.set_run(number(first), "in_progress"));
    // The second attempt began before anybody noticed that the first one was over.
    let second = Run(first.0, 2);
    let made = service.make_all(&service.started(id, second).await);
    service.pass(secs(301)).await;
    asked(&service, second, 1).await;
    assert_eq!(answers(&service, first), []);
    let provision = service.provision(id).await;
    assert_eq!(
        (&provision["status"], &provision["attempt"]),
        (&json!("provisioning"), &json!(2))
    );
    let answer = service.callback("success", id, second, made.ids()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_dispatched_run_that_ended_before_it_began_fails_what_waits_for_it() {
    let service = start().await;
    let mut waiting = Vec::new();
    for (conclusion, reason) in [("startup_failure", "failure"), ("cancelled", "cancelled")] {
        let body = json!({"agent_id": "web-1"});
        let created = service.operate("POST", "/v1/provisions", Some(body)).await;
        let id: Uuid = created.body["id"].as_str().unwrap().parse().unwrap();
        let provision = service.until(id, |it| !it["run_id"].is_null()).await;
        let run = Run(provision["run_id"].as_i64().unwrap(), 1);
        end(&service, run, conclusion);
        waiting.push((id, run, reason));
    }
    service.pass(secs(301)).await;
    for (id, run, reason) in &waiting {
        let provision = failed(&service, *id).await;
        assert_eq!(provision["rollback"]["reason"], *reason);
        assert_eq!(provision["rollback"]["steps"], json!([]));
        assert_eq!(answers(&service, *run), [Some(200)]);
    }
    // Run again, it takes the provision as any run would.
    let (id, run, _) = waiting[0];
    assert_eq!(service.started(id, Run(run.0, 2)).await["attempt"], 1);
}

#[tokio::test]
async fn while_it_is_held_github_may_fail_a_provision_and_time_may_not() {
    let service = start().await;
    let (over, run, _) = under_way(&service).await;
    let (late, its_run, _) = under_way(&service).await;
    let stopped = service.stop().await;
    stopped.advance(secs(1801)).await;
    let service = stopped.start().await;
    is_held(&service, "long_gap").await;
    end(&service, run, "cancelled");
    service.pass(secs(10_000)).await;
    pulsed(&service.pool).await;
    let provision = service.settled(over).await;
    assert_eq!(provision["rollback"]["reason"], "cancelled");
    until(async || (!answers(&service, its_run).is_empty()).then_some(())).await;
    assert_eq!(service.provision(late).await["status"], "provisioning");
    resume(&service).await;
    is_waited_for(&service, late).await;
}

/// The success was heard after the dump was taken.
#[tokio::test]
async fn a_restored_database_that_lost_a_success_is_told_of_it_and_leaves_the_machine_alone() {
    let service = start().await;
    let (id, run, _) = under_way(&service).await;
    pulsed(&service.pool).await;
    let stopped = service.stop().await;
    let restored = copy(&stopped).await;
    let service = Service::start_on(restored, stopped.sim, stopped.options).await;
    is_held(&service, "other_database").await;
    end(&service, run, "success");
    service.pass(secs(10_000)).await;
    until(async || events(&service, id, "github.discrepancy").await.pop()).await;
    pulsed(&service.pool).await;
    assert_eq!(service.provision(id).await["status"], "provisioning");
    assert_eq!(service.alive().len(), 3);
}

/// Between the decision and the write stands the version alone, whoever wrote.
#[tokio::test]
async fn a_callback_between_the_decision_and_the_write_wins() {
    let service = start().await;
    for (kind, status) in [("success", "running"), ("failure", "failed")] {
        let (id, run, made) = under_way(&service).await;
        let mut db = service.pool.acquire().await.unwrap();
        let accused = witness::read(&mut db, ProvisionId::new(id))
            .await
            .unwrap()
            .unwrap();
        let testimony = Testimony {
            run: backstop::domain::names::Run {
                id: run.0,
                attempt: run.1,
            },
            ending: Ending::Cancelled,
            source: Source::Asked,
        };
        let mut change = judge(accused, &testimony)
            .unwrap()
            .expect("it is waited for");
        rollback_failed_provision(&mut change, &Resource::ALL);
        service.callback(kind, id, run, made.ids()).await;
        let written = write(&mut db, &change).await.unwrap();
        assert_eq!(written, Written::Outrun);
        // Decided anew it means nothing any more.
        let anew =
            backstop::witness::testify(&mut db, ProvisionId::new(id), &testimony, &Resource::ALL);
        assert_eq!(anew.await.unwrap(), None);
        assert_eq!(service.provision(id).await["status"], status);
        assert!(events(&service, id, "github.run_failed").await.is_empty());
    }
}

#[tokio::test]
async fn the_workflows_word_after_githubs_adds_its_ids_and_its_reason() {
    let service = start().await;
    let (id, run, made) = under_way(&service).await;
    end(&service, run, "failure");
    service.pass(secs(301)).await;
    failed(&service, id).await;
    let mut said = made.ids();
    said["conclusion"] = json!("timed_out");
    said["failed_step"] = json!("configure");
    let answer = service.callback("failure", id, run, said).await;
    assert_eq!(answer.status, 202);
    let provision = service.settled(id).await;
    assert_eq!(provision["rollback"]["reason"], "timed_out");
    assert_eq!(provision["failed_step"], "configure");
    assert_eq!(provision["server_id"], made.server.to_string());
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_slow_answer_holds_up_no_callback() {
    let service = Service::start_with(Options {
        github: Some(Timeouts {
            request: Duration::from_millis(300),
            ..Timeouts::default()
        }),
        ..Options::default()
    })
    .await;
    let slow = FaultKind::Delay { delay_ms: 2000 };
    service
        .sim
        .fault(Fault::on(Vendor::Github, "GET", "/repos/**", slow).always());
    let (id, run, made) = under_way(&service).await;
    end(&service, run, "failure");
    service.pass(secs(301)).await;
    until(async || failures(&service, id).await).await;
    // It is being asked about, and for a while.
    let answer = service.callback("success", id, run, made.ids()).await;
    assert_eq!(answer.status, 200);
    until(async || failures(&service, id).await.filter(|it| *it == 1)).await;
    until(async || (!answers(&service, run).is_empty()).then_some(())).await;
    assert_eq!(service.provision(id).await["status"], "running");
}
