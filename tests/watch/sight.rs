//! A credential that shows none of the machines that should be running proves nothing gone.

use std::sync::Arc;
use std::time::Duration;

use backstop::sim::{Fault, FaultKind, Sim, SimOptions, Vendor};
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{Made, Service, Stopped, TAG, steps};
use crate::support::{RUN, events, in_use, secs, servers_only, under_way, until};

/// What a token of another project and tailnet shows: nothing of ours, and somebody else's machine.
fn elsewhere() -> Sim {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let controller = Uuid::new_v4().to_string();
    let name = "agent-of-another";
    sim.add_server(
        name,
        [
            ("managed-by", "backstop"),
            ("backstop-controller", &controller),
        ],
    );
    sim.add_device(name, &[TAG]);
    sim
}

/// Starts again with the credential of another world; the one that is ours.
async fn with_the_wrong_credential(stopped: Stopped) -> (Service, Arc<Sim>) {
    let Stopped {
        sim,
        database,
        options,
        ..
    } = stopped;
    let service = Service::start_on(database, elsewhere(), options).await;
    (service, sim)
}

/// Waits until a step of each of these kinds is stuck for that reason. None of them is settled.
async fn stuck(service: &Service, id: Uuid, resources: &[&str]) {
    let is_stuck = |provision: &Value| {
        resources.iter().all(|resource| {
            let steps = provision["rollback"]["steps"].as_array().unwrap();
            let of_kind = || steps.iter().filter(|step| step["resource"] == *resource);
            assert!(
                of_kind().all(|step| step["settled_at"].is_null()),
                "{provision:#}"
            );
            of_kind().any(|step| {
                let error = step["last_error"].as_str().unwrap_or_default();
                let said = error.contains("none of the machines that should be running");
                step["stuck"] == true && said
            })
        })
    };
    service.until(id, is_stuck).await;
}

/// Fails while the vendors are not looked at.
async fn fail_and_stop(service: Service, id: Uuid, ids: &Value) -> Stopped {
    for vendor in [Vendor::Hetzner, Vendor::Tailscale] {
        let down = FaultKind::status(503);
        service
            .sim
            .fault(Fault::on(vendor, "*", "**", down).always());
    }
    service.callback("failure", id, RUN, ids.clone()).await;
    let stopped = service.stop().await;
    stopped.sim.clear_faults();
    stopped
}

#[tokio::test]
async fn a_credential_of_another_world_proves_nothing_gone_and_the_right_one_does() {
    let service = Service::start().await;
    let (running, _) = in_use(&service).await;
    let (id, made) = under_way(&service).await;
    let stopped = fail_and_stop(service, id, &made.ids()).await;

    let (service, ours) = with_the_wrong_credential(stopped).await;
    // Past the late-arrival window, beyond which an empty list would prove that nothing came.
    service.advance(secs(601)).await;
    stuck(&service, id, &["auth_key", "server"]).await;
    // Shown for what it is, and not settled however long it goes on.
    service.advance(secs(10_000)).await;
    stuck(&service, id, &["auth_key", "server"]).await;
    assert_eq!(service.provision(running).await["status"], "running");

    let stopped = service.stop().await;
    let service = Service::start_on(stopped.database, ours, stopped.options).await;
    let provision = service.settled(id).await;
    let proofs: Vec<String> = steps(&provision)
        .into_iter()
        .filter(|step| !step.contains("search"))
        .collect();
    assert_eq!(proofs.len(), 3);
    assert!(
        proofs.iter().all(|step| step.ends_with("gone deleted")),
        "{proofs:?}"
    );
    assert_eq!(service.alive().len(), 3, "{:?}", service.alive());
}

#[tokio::test]
async fn of_what_was_never_seen_it_proves_no_absence_either() {
    let service = Service::start().await;
    in_use(&service).await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let none = serde_json::json!({"may_exist": []});
    let stopped = fail_and_stop(service, id, &none).await;
    let (service, ours) = with_the_wrong_credential(stopped).await;
    stuck(&service, id, &["server"]).await;
    let stopped = service.stop().await;
    let service = Service::start_on(stopped.database, ours, stopped.options).await;
    let provision = service.settled(id).await;
    let never = |step: &String| step.ends_with("search gone never_appeared");
    assert!(
        steps(&provision).iter().all(never),
        "{:?}",
        steps(&provision)
    );
}

#[tokio::test]
async fn it_is_asked_again_only_after_the_longest_pause() {
    let service = Service::start().await;
    in_use(&service).await;
    let (id, made) = under_way(&service).await;
    let mut stopped = fail_and_stop(service, id, &made.ids()).await;
    stopped.options.retry.cap = secs(60);
    let (service, _ours) = with_the_wrong_credential(stopped).await;
    stuck(&service, id, &["server"]).await;
    let server = made.server.to_string();
    let pause = until(async || -> Option<f64> {
        let waits = "select extract(epoch from next_at - backstop_now())::float8 from steps
                     where vendor_id = $1 and state <> 'leased'";
        let waits = sqlx::query_scalar(waits).bind(&server);
        waits.fetch_optional(&service.pool).await.unwrap()
    })
    .await;
    // Half of it at least, but for the time that looking took.
    assert!((15.0..=60.0).contains(&pause), "{pause}");
}

#[tokio::test]
async fn a_wrong_tailnet_alone_keeps_only_its_own_steps() {
    let service = Service::start().await;
    let (_, running) = in_use(&service).await;
    let (id, made) = under_way(&service).await;
    let stopped = fail_and_stop(service, id, &made.ids()).await;
    // Gone at this tailnet, there at that project: as if only one token were of another.
    for device in [&running.device, &made.device] {
        stopped.sim.remove_device(device.as_ref().unwrap());
    }
    let service = stopped.start().await;
    stuck(&service, id, &["device"]).await;
    let server = format!("1 server {} gone deleted", made.server);
    service
        .until(id, |provision| steps(provision).contains(&server))
        .await;
    stuck(&service, id, &["device"]).await;
}

/// Nobody can tell an empty project from another one: what is stuck is seen, and a machine that was
/// deleted by hand can be said to be gone.
#[tokio::test]
async fn when_all_machines_were_deleted_by_hand_destroying_their_provisions_settles_the_rest() {
    let service = Service::start_with(servers_only()).await;
    let (running, machine) = in_use(&service).await;
    let (id, made) = under_way(&service).await;
    service.sim.remove_server(machine.server);
    service.callback("failure", id, RUN, made.ids()).await;
    // What the vendor says itself needs no other evidence; what only an empty list says does.
    let id_step = format!("1 server {} gone deleted", made.server);
    let is_half_done = |provision: &Value| {
        provision["rollback"]["state"] == "stuck" && steps(provision).contains(&id_step)
    };
    service.until(id, is_half_done).await;

    let path = format!("/v1/provisions/{running}");
    service.operate("DELETE", &path, None).await;
    service.settled(id).await;
    // It never saw that machine itself, so something might still arrive.
    service.advance(secs(601)).await;
    let gone = service.settled(running).await;
    assert!(steps(&gone).iter().all(|step| step.contains(" gone ")));
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn one_of_many_machines_is_evidence_enough() {
    let service = Service::start_with(servers_only()).await;
    let mut machines: Vec<Made> = Vec::new();
    for _ in 0..30 {
        machines.push(in_use(&service).await.1);
    }
    // All but the oldest, more than are looked for at first.
    for made in &machines[1..] {
        service.sim.remove_server(made.server);
    }
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let none = serde_json::json!({"may_exist": []});
    service.callback("failure", id, RUN, none).await;
    service.settled(id).await;
}

#[tokio::test]
async fn a_machine_that_stops_running_while_it_is_looked_for_casts_no_suspicion() {
    let service = Service::start_with(servers_only()).await;
    let (running, machine) = in_use(&service).await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    service.sim.remove_server(machine.server);
    // After the search's own list come those that look for what should be running.
    let slow = Fault::on(
        Vendor::Hetzner,
        "GET",
        "/servers",
        FaultKind::Delay { delay_ms: 1500 },
    );
    service.sim.fault(slow.after(1));
    let none = serde_json::json!({"may_exist": []});
    service.callback("failure", id, RUN, none).await;
    until(async || (!service.sim.history().is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let path = format!("/v1/provisions/{running}");
    service.operate("DELETE", &path, None).await;

    service.settled(id).await;
    assert_eq!(events(&service, id, "step.stuck").await.len(), 0);
}
