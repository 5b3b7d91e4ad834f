//! Operators are told once that a rollback settled or is stuck, and it never holds anything up.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use backstop::domain::step::Resource;
use backstop::sim::{Fault, FaultKind, Vendor};
use backstop::store::ledger::{Outcome, Reported, claim_due_steps, report};
use backstop::store::notices::{self, Kind, Subscriber};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Options, PATIENCE, Run, Service, database, labels};
use crate::sweep_periodic::{EVERY, every_ten_minutes, until_swept};
use crate::webhook_receiver::{Receiver, Told};

const RUN: Run = Run(100, 1);

/// Fails with everything made.
async fn fail(service: &Service, id: Uuid) {
    let made = service.make_all(&service.started(id, RUN).await);
    service.callback("failure", id, RUN, made.ids()).await;
}

/// Waits until nothing is left to be told.
async fn all_is_told(db: &mut PgConnection) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: i64 = sqlx::query_scalar("select count(*) from notices")
            .fetch_one(&mut *db)
            .await
            .unwrap();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{left} notices are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(service: &Service) -> PgConnection {
    service.database.connect().await.unwrap()
}

fn unauthorized() -> Fault {
    Fault::on(
        Vendor::Hetzner,
        "DELETE",
        "/servers/*",
        FaultKind::status(401),
    )
    .always()
}

#[tokio::test]
async fn a_rollback_that_settles_is_told_once_with_the_provision_as_the_status_api_shows_it() {
    let receiver = Receiver::start().await;
    let service = receiver.service().await;
    let replica = service.replica().await;
    let ids: Vec<Uuid> = (0..6).map(|_| Uuid::new_v4()).collect();
    for &id in &ids {
        fail(&service, id).await;
    }
    for &id in &ids {
        service.settled(id).await;
    }
    all_is_told(&mut connect(&service).await).await;

    let told = receiver.told();
    assert_eq!(told.len(), ids.len(), "{told:#?}");
    for id in ids {
        let of_this = |told: &&Told| told.body["data"]["id"] == json!(id);
        let told = told.iter().find(of_this).unwrap();
        assert_eq!(told.body["type"], "rollback.settled");
        assert_eq!(told.body["data"], service.provision(id).await);
        let settled_at = &told.body["data"]["rollback"]["settled_at"];
        assert_eq!(&told.body["timestamp"], settled_at);
        assert_eq!(told.body.as_object().unwrap().len(), 3);
    }
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_rollback_that_settles_again_is_told_again() {
    let receiver = Receiver::start().await;
    let service = receiver.service().await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let nothing = json!({"may_exist": []});
    service.callback("failure", id, RUN, nothing).await;
    service.settled(id).await;
    // Late, and named by its run.
    let made = service.make_all(&started);
    service.callback("failure", id, RUN, made.ids()).await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    all_is_told(&mut connect(&service).await).await;
    let done = service.event_kinds(id).await;
    let done = done.iter().filter(|kind| *kind == "rollback.done").count();
    assert!(done > 1);
    let ids: BTreeSet<String> = receiver.told().into_iter().map(|told| told.id).collect();
    assert_eq!(ids.len(), done);
    assert_eq!(receiver.types(), vec!["rollback.settled"; done]);
}

#[tokio::test]
async fn while_another_attempt_is_rolled_back_nothing_has_settled() {
    let receiver = Receiver::start().await;
    let service = receiver.service().await;
    let id = Uuid::new_v4();
    let first = service.make_all(&service.started(id, Run(100, 1)).await);
    let path = format!("/servers/{}", first.server);
    let fault = Fault::on(Vendor::Hetzner, "DELETE", &path, FaultKind::status(500));
    service.sim.fault(fault.always());
    let second = service.make_all(&service.started(id, Run(100, 2)).await);
    service
        .callback("failure", id, Run(100, 2), second.ids())
        .await;
    service
        .until(id, |provision| {
            let steps = provision["rollback"]["steps"].as_array().unwrap();
            let of_second = steps.iter().filter(|step| step["attempt"] == 2);
            of_second.into_iter().all(|step| step["state"] == "gone")
        })
        .await;
    service.sim.clear_faults();
    let provision = service.settled(id).await;
    all_is_told(&mut connect(&service).await).await;
    assert_eq!(receiver.types(), ["rollback.settled"]);
    assert_eq!(receiver.told()[0].body["data"], provision);
}

#[tokio::test]
async fn a_step_that_needs_a_person_is_told_once_and_then_that_it_settled() {
    let receiver = Receiver::start().await;
    let service = receiver.service().await;
    service.sim.fault(unauthorized());
    let id = Uuid::new_v4();
    fail(&service, id).await;
    let stuck = |provision: &Value| {
        let steps = provision["rollback"]["steps"].as_array().unwrap();
        let tries = |step: &Value| step["tries"].as_i64().unwrap();
        let stuck = steps.iter().find(|step| step["stuck"] == true);
        stuck.map(tries).unwrap_or_default()
    };
    // It is retried, and told once.
    service.until(id, |provision| stuck(provision) > 3).await;
    let mut db = connect(&service).await;
    all_is_told(&mut db).await;
    assert_eq!(receiver.types(), ["rollback.stuck"]);
    let data = &receiver.told()[0].body["data"];
    assert_eq!(data["rollback"]["state"], "stuck");
    let errors: Vec<&str> = data["rollback"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["stuck"] == true)
        .map(|step| step["last_error"].as_str().unwrap())
        .collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("401"), "{errors:?}");

    service.sim.clear_faults();
    service.settled(id).await;
    all_is_told(&mut db).await;
    assert_eq!(receiver.types(), ["rollback.stuck", "rollback.settled"]);
}

#[tokio::test]
async fn each_step_that_is_unsettled_for_too_long_is_told_once() {
    let receiver = Receiver::start().await;
    let service = receiver.service().await;
    let fault = Fault::on(
        Vendor::Hetzner,
        "DELETE",
        "/servers/*",
        FaultKind::status(500),
    );
    service.sim.fault(fault.always());
    let id = Uuid::new_v4();
    fail(&service, id).await;
    service
        .until(id, |provision| {
            let steps = provision["rollback"]["steps"].as_array().unwrap();
            steps.iter().any(|step| !step["last_error"].is_null())
        })
        .await;
    service.advance(Duration::from_secs(3601)).await;
    receiver.until_told(1).await;
    service.sim.clear_faults();
    service.settled(id).await;
    all_is_told(&mut connect(&service).await).await;
    let flagged = service.event_kinds(id).await;
    let flagged = flagged.iter().filter(|kind| *kind == "step.stuck").count();
    let types = receiver.types();
    let stuck = types.iter().filter(|kind| *kind == "rollback.stuck");
    assert_eq!(stuck.count(), flagged);
    assert!(flagged > 0);
}

/// Their vendor was taken out of the settings, so that no worker comes to them.
#[tokio::test]
async fn steps_that_nobody_carries_out_any_more_are_told_when_they_are_stuck() {
    let service = Service::start().await;
    let fault = Fault::on(Vendor::Tailscale, "DELETE", "/**", FaultKind::status(500));
    service.sim.fault(fault.always());
    let id = Uuid::new_v4();
    fail(&service, id).await;
    let is_left = |step: &Value| step["settled_at"].is_null();
    let provision = service
        .until(id, |provision| {
            let steps = provision["rollback"]["steps"].as_array().unwrap();
            let mut left = steps.iter().filter(|step| is_left(step));
            left.all(|step| step["resource"] != "server" && step["tries"] != 0)
        })
        .await;
    let steps = provision["rollback"]["steps"].as_array().unwrap();
    let left = steps.iter().filter(|step| is_left(step)).count();
    assert!(left > 1);

    let receiver = Receiver::start().await;
    let mut stopped = service.stop().await;
    stopped.options = Options {
        tailscale: false,
        ..receiver.told_in(stopped.options)
    };
    let service = stopped.start().await;
    service.advance(Duration::from_secs(3600)).await;
    receiver.until_told(left).await;
    all_is_told(&mut connect(&service).await).await;
    assert_eq!(receiver.types(), vec!["rollback.stuck"; left]);
    let kinds = service.event_kinds(id).await;
    let flagged = kinds.iter().filter(|kind| *kind == "step.stuck").count();
    assert_eq!(flagged, left);
}

#[tokio::test]
async fn a_stuck_step_that_is_given_back_untried_is_not_told_again() {
    let service = Service::start().await;
    service.sim.fault(unauthorized());
    let id = Uuid::new_v4();
    fail(&service, id).await;
    service
        .until(id, |provision| provision["rollback"]["state"] == "stuck")
        .await;
    let mut db = connect(&service).await;
    let Service { app, .. } = service;
    app.stop().await.unwrap();

    let failed = Outcome::Failed {
        error: "hetzner DELETE /servers: 401 unauthorized".to_owned(),
        retry_in: Duration::ZERO,
        needs_person: true,
    };
    for outcome in [Outcome::Released, failed] {
        sqlx::query("update steps set next_at = backstop_now() where next_at is not null")
            .execute(&mut db)
            .await
            .unwrap();
        let minute = Duration::from_secs(60);
        let steps = claim_due_steps(&mut db, &[Resource::Server], 50, minute, minute)
            .await
            .unwrap();
        for step in steps {
            let mut transaction = db.begin().await.unwrap();
            let hour = Duration::from_secs(3600);
            // The one that searches has nothing to say.
            let outcome = match step.subject {
                backstop::store::ledger::Subject::Search => &Outcome::Released,
                backstop::store::ledger::Subject::Id(_) => &outcome,
            };
            let reported = report(&mut transaction, &step, outcome, hour, Subscriber::Webhook);
            assert_eq!(reported.await.unwrap(), Reported::Yes);
            transaction.commit().await.unwrap();
        }
        let stuck: i64 =
            sqlx::query_scalar("select count(*) from steps where stuck_at is not null")
                .fetch_one(&mut db)
                .await
                .unwrap();
        assert_eq!(stuck, 1, "{outcome:?}");
    }
    let notices: i64 = sqlx::query_scalar("select count(*) from notices")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(notices, 0);
}

#[tokio::test]
async fn who_does_not_take_it_is_told_again_under_the_same_id_and_redirects_are_not_followed() {
    let receiver = Receiver::start().await;
    let refusals = [500, 302, 307, 401, 410, 429];
    receiver.answer(refusals.map(|status| StatusCode::from_u16(status).ok()));
    let service = receiver.service().await;
    let id = Uuid::new_v4();
    fail(&service, id).await;
    service.settled(id).await;
    receiver.until_retried(&service, refusals.len() + 1).await;
    all_is_told(&mut connect(&service).await).await;
    let told = receiver.told();
    assert_eq!(told.len(), refusals.len() + 1);
    assert!(
        told.iter()
            .all(|it| (&it.id, &it.body) == (&told[0].id, &told[0].body))
    );
    assert_eq!(receiver.types(), ["rollback.settled"]);
    assert!(!receiver.has_strayed());
}

#[tokio::test]
async fn who_never_answers_holds_up_no_rollback_and_no_stop() {
    let receiver = Receiver::start().await;
    receiver.answer([None; 100]);
    let service = receiver.service().await;
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    fail(&service, first).await;
    receiver.until_told(1).await;
    fail(&service, second).await;
    service.settled(second).await;
    let mut db = connect(&service).await;
    let Service { app, .. } = service;
    app.stop().await.unwrap();
    // They are there for the next start, and in nobody's hand.
    let free: i64 = sqlx::query_scalar(
        "select count(*) from notices where next_at < backstop_now() + interval '30 s'",
    )
    .fetch_one(&mut db)
    .await
    .unwrap();
    assert_eq!(free, 2);
}

#[tokio::test]
async fn what_its_sender_died_over_is_told_by_another() {
    let receiver = Receiver::start().await;
    let database = database().await;
    let mut db = database.connect().await.unwrap();
    let data = json!({"id": Uuid::new_v4()});
    notices::add(&mut db, Kind::RollbackStuck, &data)
        .await
        .unwrap();
    let lease = Duration::from_secs(60);
    let taken = notices::claim_due_notices(&mut db, 8, lease).await.unwrap();
    assert_eq!(taken.len(), 1);
    let service = receiver.service_at(database).await;
    service.advance(lease).await;
    all_is_told(&mut db).await;
    let told = receiver.told();
    assert_eq!(told[0].id, taken[0].id.to_string());
    assert_eq!(told[0].body["type"], "rollback.stuck");
    assert_eq!(told[0].body["data"], data);
}

#[tokio::test]
async fn what_a_sweep_is_the_first_to_find_is_told_as_the_status_api_lists_it() {
    let receiver = Receiver::start().await;
    let options = receiver.told_in(every_ten_minutes());
    let service = Service::start_with(options).await;
    let started = service.started(Uuid::new_v4(), RUN).await;
    let mut of_ours = labels(&started);
    of_ours.retain(|(key, _)| key != "backstop-run");
    let mut db = connect(&service).await;
    // The second sweep finds nothing new, the third one thing.
    for (sweeps, new) in [(2, 2), (3, 0), (4, 1)] {
        for index in 0..new {
            service
                .sim
                .add_server(&format!("{sweeps}-{index}"), of_ours.clone());
        }
        service.advance(EVERY).await;
        until_swept(&service, sweeps).await;
        all_is_told(&mut db).await;
        let told = receiver.told();
        if new == 0 {
            assert_eq!(told.len(), 1);
            continue;
        }
        let told = &told.last().unwrap().body;
        assert_eq!(told["type"], "orphans.found");
        let mut listed = service.orphans().await;
        let since = listed["swept_at"].clone();
        let orphans = listed["orphans"].as_array_mut().unwrap();
        orphans.retain(|orphan| orphan["since"] == since);
        assert_eq!(orphans.len(), new);
        let cost: f64 = orphans
            .iter()
            .map(|it| it["hourly_cost"].as_f64().unwrap())
            .sum();
        listed["hourly_cost"] = json!(cost);
        assert_eq!(told["data"], listed);
    }
}

#[tokio::test]
async fn what_cannot_be_told_for_three_days_is_given_up() {
    let receiver = Receiver::start().await;
    receiver.answer([Some(StatusCode::BAD_GATEWAY); 1000]);
    let service = receiver.service().await;
    let id = Uuid::new_v4();
    fail(&service, id).await;
    service.settled(id).await;
    receiver.until_retried(&service, 2).await;
    let mut db = connect(&service).await;
    let kept: i64 = sqlx::query_scalar("select count(*) from notices")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(kept, 1);
    service.advance(Duration::from_secs(72 * 60 * 60)).await;
    all_is_told(&mut db).await;
    assert_eq!(receiver.types(), Vec::<String>::new());
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_kept() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    fail(&service, id).await;
    service.settled(id).await;
    let kept: i64 = sqlx::query_scalar("select count(*) from notices")
        .fetch_one(&service.pool)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}
