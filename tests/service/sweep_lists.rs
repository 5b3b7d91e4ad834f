//! Lists that cannot be read, things that outlive their server, and what it all costs.

use std::time::Duration;

use backstop::domain::orphans::Mandate;
use backstop::sim::{BelongingKind, BrokenBody, Fault, FaultKind, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Service, labels};
use crate::log;
use crate::sweep::{RUN, found, over, running};

#[tokio::test]
async fn a_list_that_fails_keeps_what_was_found_of_its_kind_and_says_so() {
    let service = Service::start().await;
    let (_, started) = over(&service).await;
    let incomplete = |name: &str| {
        let mut labels = labels(&started);
        labels.retain(|(key, _)| key != "backstop-run");
        service.sim.add_server(name, labels)
    };
    let unknown = format!("agent-{}-a1", Uuid::new_v4().simple());
    let device = service.sim.add_device(&unknown, &["tag:agent"]);
    let server = incomplete("first");
    service.sweep(Mandate::Reopen).await;
    let device = format!("device {device} unknown_provision reported");
    let labels_incomplete = |id: u64| format!("server {id} labels_incomplete reported");
    assert_eq!(
        found(&service.orphans().await),
        [device.clone(), labels_incomplete(server)]
    );

    // Both are gone, and another is there; the devices cannot be listed.
    service.advance(Duration::from_secs(60)).await;
    service.sim.remove_server(server);
    for it in service.sim.devices() {
        service.sim.remove_device(&it.node_id);
    }
    let second = incomplete("second");
    service.sim.fault(Fault::on(
        Vendor::Tailscale,
        "GET",
        "/tailnet/*/devices",
        FaultKind::status(503),
    ));
    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(found(&orphans), [device.clone(), labels_incomplete(second)]);
    assert_eq!(orphans["complete"], false);
    let errors = orphans["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].as_str().unwrap().starts_with("tailscale GET "),
        "{errors:?}"
    );

    // The same with the servers: half a list is no list.
    service.advance(Duration::from_secs(60)).await;
    service.sim.remove_server(second);
    let (_, made) = running(&service).await;
    service.sim.remove_server(made.server);
    let broken = FaultKind::Broken {
        body: BrokenBody::Truncated,
        status: None,
    };
    service
        .sim
        .fault(Fault::on(Vendor::Hetzner, "GET", "/servers", broken));
    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(found(&orphans), [labels_incomplete(second)], "{orphans:#}");
    assert_eq!(orphans["complete"], false);

    service.advance(Duration::from_secs(60)).await;
    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(
        found(&orphans),
        [format!(
            "server {} running_without_server reported",
            made.server
        )]
    );
    assert_eq!(orphans["complete"], true);
    assert_eq!(orphans["errors"], json!([]));
}

#[tokio::test]
async fn volumes_and_ips_that_outlived_their_server_are_reported_with_what_they_cost() {
    let service = Service::start_with(Options {
        provision_timeout: Duration::from_secs(24 * 3600),
        ..Options::default()
    })
    .await;
    let (_, started) = over(&service).await;
    let sim = &service.sim;
    let kinds = [
        BelongingKind::Volume,
        BelongingKind::PrimaryIp,
        BelongingKind::FloatingIp,
    ];
    let at_work = service.started(Uuid::new_v4(), RUN).await;
    let somebodys = sim.add_server("somebody", [("team", "finance")]);
    let mut expected = Vec::new();
    for (kind, name) in kinds
        .into_iter()
        .zip(["volume", "primary_ip", "floating_ip"])
    {
        let left = sim.add_belonging(kind, "left", labels(&started), None);
        expected.push(format!("{name} {left} outlived_server reported"));
        let mut another = labels(&started);
        another.retain(|(key, _)| key != "backstop-controller");
        sim.add_belonging(kind, "another-controllers", another, None);
        sim.add_belonging(kind, "nobodys", [("team", "finance")], None);
        sim.add_belonging(kind, "in-use", labels(&started), Some(somebodys));
        sim.add_belonging(kind, "of-one-at-work", labels(&at_work), None);
    }
    expected.sort();
    service.pass(Duration::from_secs(2 * 3600)).await;
    service.sweep(Mandate::Delete).await;
    let orphans = service.orphans().await;
    assert_eq!(found(&orphans), expected);
    assert_eq!(orphans["currency"], "EUR");
    let cost = |kind: &str| {
        let all = orphans["orphans"].as_array().unwrap();
        let orphan = all.iter().find(|it| it["kind"] == kind).unwrap();
        orphan["hourly_cost"].as_f64().unwrap()
    };
    // As the simulated vendor charges: 10 GB at 0.044 a month, 0.0008 an hour, 3.00 a month.
    for (kind, expected) in [
        ("volume", 10.0 * 0.044 / 730.0),
        ("primary_ip", 0.0008),
        ("floating_ip", 3.0 / 730.0),
    ] {
        assert!(
            (cost(kind) - expected).abs() < 1e-9,
            "{kind}: {}",
            cost(kind)
        );
    }
    let sum = cost("volume") + cost("primary_ip") + cost("floating_ip");
    assert!((orphans["hourly_cost"].as_f64().unwrap() - sum).abs() < 1e-9);
    assert_eq!(sim.belongings().len(), 15);
    assert_eq!(log::deletes(sim).len(), 0);
}

#[tokio::test]
async fn a_server_costs_what_the_price_list_says_and_an_unknown_price_is_no_error() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    service.sim.protect_server(server);
    let pricing = || log::count(&service.sim, Vendor::Hetzner, "GET", "/pricing");
    service.sim.fault(Fault::on(
        Vendor::Hetzner,
        "GET",
        "/pricing",
        FaultKind::status(503),
    ));
    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(orphans["orphans"][0]["hourly_cost"], Value::Null);
    assert_eq!(orphans["hourly_cost"], 0.0);
    assert_eq!(orphans["currency"], Value::Null);
    assert_eq!(orphans["complete"], true);
    assert_eq!(pricing(), 1);
    service
        .until(id, |it| it["rollback"]["state"] == "stuck")
        .await;

    // The same client asks once for any number of sweeps.
    let vendors = service.vendors().await;
    for _ in 0..3 {
        let begun = service.begin_sweep().await;
        backstop::sweep::sweep(service.app.pool(), &vendors, &begun, Mandate::Reopen)
            .await
            .unwrap();
    }
    assert_eq!(pricing(), 2);
    let orphans = service.orphans().await;
    assert_eq!(orphans["orphans"][0]["hourly_cost"], 0.006);
    assert_eq!(orphans["hourly_cost"], 0.006);
    assert_eq!(orphans["currency"], "EUR");

    service.sim.remove_server(server);
    service.sweep(Mandate::Reopen).await;
    assert_eq!(pricing(), 2, "nothing costs, nothing is asked");
}

#[tokio::test]
async fn without_tailscale_only_hetzner_is_swept() {
    let service = Service::start_with(Options {
        tailscale: false,
        ..Options::default()
    })
    .await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    service.sim.add_server(name, labels(&started));
    service.sim.add_device(name, &["tag:agent"]);
    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(orphans["complete"], true);
    assert_eq!(orphans["orphans"].as_array().unwrap().len(), 1);
    service.settled(id).await;
    assert_eq!(service.alive(), [format!("device {name}")]);
    assert_eq!(log::count(&service.sim, Vendor::Tailscale, "GET", "/"), 0);
}
