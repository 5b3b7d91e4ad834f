//! Key, server, device: in this order, but nothing waits for what does not come.

use std::time::Duration;

use backstop::sim::{Fault, FaultKind, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Run, Service, steps};
use crate::log;

const RUN: Run = Run(100, 1);

fn everything(vendor: Vendor, kind: FaultKind) -> Fault {
    Fault::on(vendor, "*", "**", kind).always()
}

#[tokio::test]
async fn the_key_goes_first_then_the_server_then_the_device() {
    for ids in [true, false] {
        let service = Service::start().await;
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        let more = if ids { made.ids() } else { json!({}) };
        service.callback("failure", id, RUN, more).await;
        service.settled(id).await;
        let first_requests: Vec<String> = log::deletes(&service.sim)
            .iter()
            .map(|entry| entry.path.clone())
            .collect();
        let (key, device) = (made.key.unwrap(), made.device.unwrap());
        assert_eq!(
            first_requests,
            [
                format!("/tailnet/-/keys/{key}"),
                format!("/servers/{}", made.server),
                format!("/device/{device}"),
            ]
        );
    }
}

#[tokio::test]
async fn tailscale_being_down_does_not_keep_the_server_alive() {
    for kind in [FaultKind::status(503), FaultKind::ResetBefore] {
        let service = Service::start().await;
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        service.sim.fault(everything(Vendor::Tailscale, kind));
        service.callback("failure", id, RUN, made.ids()).await;
        service
            .until(id, |_| service.sim.servers().is_empty())
            .await;
        assert_eq!(service.alive().len(), 2);
        service.sim.clear_faults();
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn hetzner_being_down_does_not_keep_the_key_and_the_device_alive() {
    for kind in [FaultKind::status(503), FaultKind::ResetBefore] {
        let service = Service::start().await;
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        service.sim.fault(everything(Vendor::Hetzner, kind));
        service.callback("failure", id, RUN, made.ids()).await;
        service.until(id, |_| service.alive().len() == 1).await;
        assert_eq!(service.sim.servers().len(), 1);
        service.sim.clear_faults();
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_device_that_comes_back_while_its_server_lives_is_deleted_once_that_is_gone() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let made = service.make_all(&started);
    service
        .sim
        .fault(everything(Vendor::Hetzner, FaultKind::status(503)));
    service.callback("failure", id, RUN, made.ids()).await;
    service
        .until(id, |_| service.sim.devices().is_empty())
        .await;
    // The machine is still up and enrols again, under another id and name.
    let name = started["server_name"].as_str().unwrap();
    let again = service.sim.add_device(name, &[crate::harness::TAG]);
    service.sim.clear_faults();
    let provision = service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    let expected = format!("1 device {again} gone deleted");
    assert!(steps(&provision).contains(&expected), "{provision:#}");
}

#[tokio::test]
async fn a_thing_that_was_seen_to_be_ours_is_not_forgotten_when_it_loses_its_name() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let device = made.device.clone().unwrap();
    service.sim.fault(
        Fault::on(
            Vendor::Tailscale,
            "DELETE",
            &format!("/device/{device}"),
            FaultKind::status(500),
        )
        .always(),
    );
    service.callback("failure", id, RUN, made.ids()).await;
    service
        .until(id, |provision| {
            let steps = provision["rollback"]["steps"].as_array().unwrap();
            let found = |step: &&Value| step["resource"] == "device" && step["vendor_id"] == device;
            steps.iter().filter(found).count() == 2
                && steps
                    .iter()
                    .filter(found)
                    .any(|step| step["last_error"].is_string())
        })
        .await;
    service.sim.rename_device(&device, "localhost");
    service.sim.clear_faults();
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_that_nobody_can_try_any_more_does_not_keep_the_server_alive() {
    // The credential was taken out of the settings before the key's first try.
    let service = Service::start_with(Options {
        tailscale: false,
        ..Options::default()
    })
    .await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    service
        .sim
        .fault(everything(Vendor::Hetzner, FaultKind::status(503)));
    service.callback("failure", id, RUN, made.ids()).await;
    sqlx::query(
        "insert into steps (provision_id, attempt, resource, searches, state, moved_by, next_at,
                            unsettled_since)
         values ($1, 1, 'auth_key', true, 'due', 'planned', backstop_now(), backstop_now())",
    )
    .bind(id)
    .execute(&service.pool)
    .await
    .unwrap();
    service.sim.clear_faults();
    service.advance(Duration::from_secs(200)).await;
    service
        .until(id, |_| service.sim.servers().is_empty())
        .await;
}
