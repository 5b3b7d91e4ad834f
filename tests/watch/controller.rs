//! A copy that lives beside the original becomes another controller, and touches nothing of the
//! original's, whatever it is told.

use backstop::sim::{Fault, FaultKind, Vendor};
use backstop::store::hold::{Renewed, renew_controller};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Run, Service};
use crate::support::{RUN, events, hold, in_use, is_waited_for, pulsed, secs, under_way};

pub async fn renew(pool: &sqlx::PgPool) -> Renewed {
    let mut db = pool.acquire().await.unwrap();
    renew_controller(&mut db).await.unwrap()
}

#[tokio::test]
async fn a_controller_is_not_renewed_under_the_feet_of_a_replica() {
    let service = Service::start().await;
    pulsed(&service.pool).await;
    assert_eq!(renew(&service.pool).await, Renewed::InUse);
    let stopped = service.stop().await;
    assert_eq!(renew(&stopped.pool).await, Renewed::InUse);
    stopped.advance(secs(31)).await;
    assert!(matches!(
        renew(&stopped.pool).await,
        Renewed::Yes { disowned: 0, .. }
    ));
}

#[tokio::test]
async fn a_replica_that_finds_another_controller_stops() {
    let service = Service::start().await;
    pulsed(&service.pool).await;
    // As one that had been suspended meanwhile.
    sqlx::query("update controller set id = gen_random_uuid()")
        .execute(&service.pool)
        .await
        .unwrap();
    let error = service.app.run_until(std::future::pending()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another controller"), "{error}");
}

#[tokio::test]
async fn a_renewed_copy_touches_nothing_of_the_originals_whatever_it_is_told() {
    let service = Service::start().await;
    let queued: Uuid = {
        let body = json!({"agent_id": "web-1"});
        let created = service.operate("POST", "/v1/provisions", Some(body)).await;
        created.body["id"].as_str().unwrap().parse().unwrap()
    };
    let (provisioning, made_by_it) = under_way(&service).await;
    let (running, made_by_running) = in_use(&service).await;
    // One whose rollback has not come far: every step of it is unsettled.
    let down = FaultKind::status(503);
    for vendor in [Vendor::Hetzner, Vendor::Tailscale] {
        service
            .sim
            .fault(Fault::on(vendor, "*", "**", down.clone()).always());
    }
    let (failing, made_by_failing) = under_way(&service).await;
    service
        .callback("failure", failing, RUN, made_by_failing.ids())
        .await;
    let stopped = service.stop().await;
    stopped.sim.clear_faults();
    stopped.advance(secs(31)).await;

    let Renewed::Yes { disowned, .. } = renew(&stopped.pool).await else {
        panic!("nobody is at work");
    };
    assert_eq!(disowned, 4);
    let service = stopped.start().await;
    let alive = service.alive();
    assert_eq!(alive.len(), 9);

    let all = [
        (queued, json!({})),
        (provisioning, made_by_it.ids()),
        (running, made_by_running.ids()),
        (failing, made_by_failing.ids()),
    ];
    for (id, ids) in &all {
        let provision = service.provision(*id).await;
        assert_eq!(provision["status"], "destroyed");
        assert_eq!(provision["rollback"]["state"], "done", "{provision:#}");
        assert_eq!(events(&service, *id, "disowned").await.len(), 1);
        let history = service.events(*id).await;

        // Whoever speaks to the copy about it, and whatever is asked of it.
        for run in [RUN, Run(100, 2), Run(7, 1)] {
            for kind in ["started", "progress", "success", "failure"] {
                let answer = service.callback(kind, *id, run, ids.clone()).await;
                let own = run == RUN && *id != queued;
                let expected = if kind == "failure" && own { 202 } else { 409 };
                let complete = kind != "success" || !ids["server_id"].is_null();
                if complete {
                    assert_eq!(answer.status, expected, "{kind} of {run:?}: {answer:?}");
                }
            }
        }
        for (method, path) in [("POST", "/rollback"), ("DELETE", "")] {
            let path = format!("/v1/provisions/{id}{path}");
            assert_eq!(service.operate(method, &path, None).await.status, 202);
        }
        assert_eq!(service.events(*id).await, history);
        assert_eq!(service.provision(*id).await, provision);
    }
    service.pass(secs(1_000_000)).await;
    assert_eq!(service.alive(), alive);
    assert_eq!(hold(&service).await, Value::Null);

    // What it makes itself is its own, beside the original's.
    let (own, made) = under_way(&service).await;
    service.callback("failure", own, RUN, made.ids()).await;
    service.settled(own).await;
    assert_eq!(service.alive(), alive);
    let (late, _) = under_way(&service).await;
    assert!(is_waited_for(&service, late).await > secs(1000));
    let steps = service.provision(failing).await["rollback"]["steps"].clone();
    for step in steps.as_array().unwrap() {
        assert_eq!(step["state"], "refused");
        let error = step["last_error"].as_str().unwrap();
        assert!(error.contains("belongs to the controller"), "{error}");
    }
}
