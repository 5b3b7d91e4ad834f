//! What the vendors' lists show of attempts that the database knows.

use std::time::Duration;

use backstop::domain::orphans::Mandate;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Made, Options, Run, Service, TAG, labels, steps};
use crate::log;

pub const RUN: Run = Run(100, 1);

/// The orphans as `kind id why action`.
pub fn found(orphans: &Value) -> Vec<String> {
    let mut found: Vec<String> = orphans["orphans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|orphan| {
            let text = |key: &str| orphan[key].as_str().unwrap();
            format!(
                "{} {} {} {}",
                text("kind"),
                text("id"),
                text("why"),
                text("action")
            )
        })
        .collect();
    found.sort();
    found
}

/// A provision that failed and whose rollback is done, and what its `started` told.
pub async fn over(service: &Service) -> (Uuid, Value) {
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let body = json!({"may_exist": []});
    service.callback("failure", id, RUN, body).await;
    service.settled(id).await;
    (id, started)
}

/// A provision that runs, with all that it made.
pub async fn running(service: &Service) -> (Uuid, Made) {
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let answer = service.callback("success", id, RUN, made.ids()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (id, made)
}

async fn count_of(service: &Service, id: Uuid, kind: &str) -> usize {
    let kinds = service.event_kinds(id).await;
    kinds.iter().filter(|it| *it == kind).count()
}

#[tokio::test]
async fn what_arrives_after_all_was_proven_gone_is_found_and_removed_by_the_next_sweep() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let made = service.make_all(&started);
    let (key, device) = (made.key.unwrap(), made.device.unwrap());

    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(
        found(&orphans),
        [
            format!("auth_key {key} attempt_over rolled_back"),
            format!("device {device} attempt_over rolled_back"),
            format!("server {} attempt_over rolled_back", made.server),
        ]
    );
    assert_eq!(orphans["complete"], true);
    assert_eq!(orphans["errors"], json!([]));
    let metrics = service.get("/metrics").await;
    let metrics = metrics.body.as_str().unwrap();
    for line in [
        "backstop_orphans{vendor=\"hetzner\"} 1\n",
        "backstop_orphans{vendor=\"tailscale\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    let server = &orphans["orphans"][2];
    assert_eq!(server["provision_id"], json!(id));
    assert_eq!(server["attempt"], 1);
    assert_eq!(server["vendor"], "hetzner");
    assert_eq!(server["name"], started["server_name"]);
    assert_eq!(server["since"], orphans["swept_at"]);

    let provision = service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    let gone = steps(&provision);
    for step in [
        format!("1 auth_key {key} gone deleted"),
        format!("1 server {} gone deleted", made.server),
        format!("1 device {device} gone deleted"),
    ] {
        assert!(gone.contains(&step), "{step}: {gone:#?}");
    }
    assert_eq!(count_of(&service, id, "sweep.found").await, 1);
    assert_eq!(count_of(&service, id, "rollback.done").await, 2);
    let events = service.events(id).await;
    let event = events
        .iter()
        .find(|it| it["kind"] == "sweep.found")
        .unwrap();
    assert_eq!(event["attempt"], 1);
    assert_eq!(event["data"]["things"].as_array().unwrap().len(), 3);

    service.sweep(Mandate::Reopen).await;
    assert_eq!(found(&service.orphans().await), Vec::<String>::new());
    assert_eq!(count_of(&service, id, "sweep.found").await, 1);
}

#[tokio::test]
async fn an_older_attempt_is_swept_beside_the_one_that_runs() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let first = service.started(id, Run(1, 1)).await;
    let second = service.started(id, Run(1, 2)).await;
    let current = service.make_all(&second);
    service
        .callback("success", id, Run(1, 2), current.ids())
        .await;
    service.advance(Duration::from_secs(601)).await;
    service.settled(id).await;
    let late = service.make_all(&first);

    service.sweep(Mandate::Reopen).await;
    let key = late.key.unwrap();
    let orphans = found(&service.orphans().await);
    assert_eq!(orphans.len(), 3, "{orphans:?}");
    assert!(
        orphans.contains(&format!("auth_key {key} older_attempt rolled_back")),
        "{orphans:?}"
    );
    let provision = service.settled(id).await;
    assert_eq!(provision["status"], "running");
    let name = second["server_name"].as_str().unwrap();
    let alive = service.alive();
    assert_eq!(alive.len(), 3, "{alive:?}");
    assert!(alive.contains(&format!("server {name}")), "{alive:?}");
}

#[tokio::test]
async fn what_belongs_and_what_only_looks_like_ours_is_never_touched() {
    let service = Service::start_with(Options {
        provision_timeout: Duration::from_secs(24 * 3600),
        ..Options::default()
    })
    .await;
    running(&service).await;
    let at_work = Uuid::new_v4();
    service.make_all(&service.started(at_work, RUN).await);
    service
        .operate(
            "POST",
            "/v1/provisions",
            Some(json!({"agent_id": "queued"})),
        )
        .await;

    let (_, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let description = started["tailscale"]["key_description"].as_str().unwrap();
    let sim = &service.sim;
    let but = |key: &str, value: &str| -> Vec<(String, String)> {
        let mut labels = labels(&started);
        let label = labels.iter_mut().find(|(name, _)| name == key).unwrap();
        value.clone_into(&mut label.1);
        labels
    };
    let without = |key: &str| -> Vec<(String, String)> {
        let mut labels = labels(&started);
        labels.retain(|(name, _)| name != key);
        labels
    };
    let another = Uuid::new_v4().to_string();
    sim.add_server(name, [("team", "finance")]);
    sim.add_server("s1", but("backstop-controller", &another));
    sim.add_server("s2", without("backstop-controller"));
    sim.add_server("s3", but("managed-by", "terraform"));
    sim.add_server("s4", without("managed-by"));
    let incomplete = [
        sim.add_server("s5", without("backstop-run")),
        sim.add_server("s6", without("backstop-provision")),
        sim.add_server("s7", but("backstop-attempt", "01")),
        sim.add_server("s8", but("backstop-attempt", "0")),
    ];
    let no_attempt = [
        sim.add_server("s9", but("backstop-run", "100.2")),
        sim.add_server("s10", but("backstop-attempt", "2")),
    ];
    // The tag and a foreign name, the name and no tag, names that are almost ours.
    sim.add_device("agent-web", &[TAG]);
    sim.add_device(name, &["tag:other"]);
    sim.add_device(name, &[]);
    sim.add_device(&format!("{name}0"), &[]);
    sim.add_device(&format!("{name}-1"), &[TAG]);
    sim.add_device(&name.to_uppercase(), &[TAG]);
    sim.add_device(&name.replace("-a1", "-a01"), &[TAG]);
    sim.add_key("somebody else's", &[TAG]);
    sim.add_key(name, &[TAG]);
    sim.add_key(&format!("{description} "), &[TAG]);
    // Used up, and so nobody's way in any more.
    let (_, secret) = sim.mint_key(description, &[TAG]);
    let enrolled = sim.enrol_device(&secret, "agent-elsewhere");
    assert!(enrolled.is_some());

    let before = service.alive();
    let deletes = log::deletes(sim).len();
    for mandate in [Mandate::Reopen, Mandate::Delete] {
        service.pass(Duration::from_secs(2 * 3600)).await;
        service.sweep(mandate).await;
        let orphans = service.orphans().await;
        let mut expected: Vec<String> = incomplete
            .iter()
            .map(|id| format!("server {id} labels_incomplete reported"))
            .chain(
                no_attempt
                    .iter()
                    .map(|id| format!("server {id} unknown_attempt reported")),
            )
            .collect();
        expected.sort();
        assert_eq!(found(&orphans), expected, "{mandate:?}");
        assert_eq!(orphans["not_ours"], 2, "{orphans:#}");
    }
    assert_eq!(service.alive(), before);
    assert_eq!(log::deletes(sim).len(), deletes);
}

#[tokio::test]
async fn nothing_is_written_again_while_a_rollback_is_at_it_and_what_is_stuck_is_listed() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    service.sim.protect_server(server);
    service.sweep(Mandate::Reopen).await;
    let since = service.orphans().await["orphans"][0]["since"].clone();
    service
        .until(id, |it| it["rollback"]["state"] == "stuck")
        .await;

    service.advance(Duration::from_secs(60)).await;
    service.sweep(Mandate::Reopen).await;
    let orphans = service.orphans().await;
    assert_eq!(
        found(&orphans),
        [format!("server {server} rollback_stuck rolled_back")]
    );
    assert_eq!(orphans["orphans"][0]["since"], since);
    assert_eq!(count_of(&service, id, "sweep.found").await, 1);
    assert_eq!(count_of(&service, id, "step.found").await, 1);

    service.sim.unprotect_server(server);
    service
        .operate("POST", &format!("/v1/provisions/{id}/rollback"), None)
        .await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn sweeps_that_find_the_same_at_once_write_it_once() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    service.sim.protect_server(server);
    let begun = [
        service.begin_sweep().await,
        service.begin_sweep().await,
        service.begin_sweep().await,
    ];
    let ends = begun.map(|begun| service.end_sweep(begun, Mandate::Reopen));
    futures::future::join_all(ends).await;
    assert_eq!(count_of(&service, id, "sweep.found").await, 1);
    assert_eq!(count_of(&service, id, "step.found").await, 1);
}

#[tokio::test]
async fn an_ordinary_rollback_under_way_is_no_orphan_and_what_was_one_stays_listed() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    service.sim.lock_server(server, Duration::from_secs(3600));
    service.sweep(Mandate::Reopen).await;

    // Its server is locked as well; no sweep has ever listed it.
    let other = Uuid::new_v4();
    let started = service.started(other, RUN).await;
    let made = service.make_all(&started);
    service
        .sim
        .lock_server(made.server, Duration::from_secs(3600));
    service.callback("failure", other, RUN, made.ids()).await;
    for id in [id, other] {
        service
            .until(id, |it| {
                let mut steps = it["rollback"]["steps"].as_array().unwrap().iter();
                steps.any(|step| step["tries"].as_i64() > Some(1))
            })
            .await;
    }

    let findings = service.sweep(Mandate::Reopen).await;
    assert_eq!(findings.orphans, []);
    assert!(findings.under_way.len() >= 2, "{findings:?}");
    assert_eq!(
        found(&service.orphans().await),
        [format!("server {server} attempt_over rolled_back")]
    );
    assert_eq!(count_of(&service, other, "sweep.found").await, 0);
}

#[tokio::test]
async fn what_went_after_the_list_was_begun_is_not_seen_again() {
    let service = Service::start().await;
    let begun = service.begin_sweep().await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, labels(&started));
    // Deleted by the rollback, and then put back: what the old list would have shown.
    let hint = json!({"server_id": server, "may_exist": []});
    service.callback("failure", id, RUN, hint).await;
    service.settled(id).await;
    let gone = service.provision(id).await;
    service.sim.add_server(name, labels(&started));
    sqlx::query("update steps set vendor_id = $1 where vendor_id = $2")
        .bind(service.sim.servers()[0].id.to_string())
        .bind(server.to_string())
        .execute(&service.pool)
        .await
        .unwrap();

    let findings = service.end_sweep(begun, Mandate::Reopen).await;
    assert_eq!(findings.orphans, []);
    assert_eq!(
        steps(&service.provision(id).await).len(),
        steps(&gone).len()
    );
    assert_eq!(count_of(&service, id, "sweep.found").await, 0);
    // The next list shows that it is there all the same.
    let findings = service.sweep(Mandate::Reopen).await;
    assert_eq!(findings.orphans.len(), 1);
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_hint_that_was_refused_and_carries_the_labels_by_now_is_rolled_back() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    let server = service.sim.add_server(name, [("team", "finance")]);
    let hint = json!({"server_id": server, "may_exist": []});
    service.callback("failure", id, RUN, hint).await;
    let provision = service.settled(id).await;
    assert!(
        steps(&provision).contains(&format!("1 server {server} refused -")),
        "{:#?}",
        steps(&provision)
    );
    service.sim.relabel_server(server, labels(&started));
    service.sweep(Mandate::Reopen).await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_provision_that_runs_without_its_server_is_reported_and_left_as_it_is() {
    let service = Service::start().await;
    let (id, made) = running(&service).await;
    let (other, relabelled) = running(&service).await;
    running(&service).await;
    service.sim.remove_server(made.server);
    service
        .sim
        .relabel_server(relabelled.server, [("team", "finance")]);
    for mandate in [Mandate::Reopen, Mandate::Delete] {
        service.sweep(mandate).await;
        let orphans = service.orphans().await;
        let mut expected = [
            format!("server {} running_without_server reported", made.server),
            format!(
                "server {} running_without_server reported",
                relabelled.server
            ),
        ];
        expected.sort();
        assert_eq!(found(&orphans), expected);
        assert_eq!(orphans["hourly_cost"], 0.0);
    }
    for id in [id, other] {
        let provision = service.provision(id).await;
        assert_eq!(provision["status"], "running");
        assert_eq!(provision["rollback"], Value::Null);
    }
    assert_eq!(log::deletes(&service.sim).len(), 0);
}

#[tokio::test]
async fn a_server_that_is_missing_for_several_reasons_is_told_of_for_each() {
    let service = Service::start().await;
    let (_, made) = running(&service).await;
    // It has lost one label; and another provision says that the same server is its own.
    let mut labels = service.sim.servers()[0].labels.clone();
    labels.remove("backstop-run");
    service.sim.relabel_server(made.server, labels);
    let other = Uuid::new_v4();
    service.started(other, RUN).await;
    service.callback("success", other, RUN, made.ids()).await;
    for _ in 0..2 {
        service.sweep(Mandate::Reopen).await;
        assert_eq!(
            found(&service.orphans().await),
            [
                format!("server {} labels_incomplete reported", made.server),
                format!("server {} running_without_server reported", made.server),
                format!("server {} running_without_server reported", made.server),
            ]
        );
    }
}

#[tokio::test]
async fn a_provision_that_starts_after_the_list_was_begun_is_not_missed_in_it() {
    let service = Service::start().await;
    let begun = service.begin_sweep().await;
    let (_, made) = running(&service).await;
    // As if it had been made after the list was read.
    service.sim.remove_server(made.server);
    let findings = service.end_sweep(begun, Mandate::Reopen).await;
    assert_eq!(findings.orphans, []);
    let findings = service.sweep(Mandate::Reopen).await;
    assert_eq!(findings.orphans.len(), 1);
}

#[tokio::test]
async fn a_dry_look_writes_nothing() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    service.make_all(&started);
    let before = (service.provision(id).await, service.events(id).await);
    let orphans = service.orphans().await;
    let vendors = service.vendors().await;
    let now = service.begin_sweep().await.started_at;
    let findings = backstop::sweep::look(service.app.pool(), &vendors, None, now)
        .await
        .unwrap();
    assert_eq!(findings.orphans.len(), 3);
    assert_eq!(
        (service.provision(id).await, service.events(id).await),
        before
    );
    assert_eq!(service.orphans().await, orphans);
    assert_eq!(service.alive().len(), 3);
}
