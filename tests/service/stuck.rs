//! Stuck is a flag: shown, noted once, and never the end of the tries.

use std::time::Duration;

use backstop::providers::Tailscale;
use backstop::providers::tailscale::TailscaleCredential;
use backstop::sim::{Fault, FaultKind, Tokens, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, Run, Service, TAG};
use crate::log;

const RUN: Run = Run(100, 1);

fn stuck_events(events: &[Value]) -> usize {
    events
        .iter()
        .filter(|event| event["kind"] == "step.stuck" && event["data"]["resource"] == "server")
        .count()
}

fn is_stuck(provision: &Value) -> bool {
    provision["rollback"]["state"] == "stuck"
}

fn steps_of<'a>(provision: &'a Value, resource: &'a str) -> impl Iterator<Item = &'a Value> {
    let steps = provision["rollback"]["steps"].as_array().unwrap().iter();
    steps.filter(move |step| step["resource"] == resource)
}

/// Fails with everything made, `wrong` being done to the server first.
async fn fail(service: &Service, wrong: impl Fn(u64)) -> Uuid {
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    wrong(made.server);
    service.callback("failure", id, RUN, made.ids()).await;
    id
}

fn on_delete(server: u64, kind: FaultKind) -> Fault {
    let path = format!("/servers/{server}");
    Fault::on(Vendor::Hetzner, "DELETE", &path, kind).always()
}

#[tokio::test]
async fn what_only_a_person_can_clear_is_stuck_at_once_and_settles_when_it_is_cleared() {
    for status in [401, 403] {
        let service = Service::start().await;
        let sim = &service.sim;
        let id = fail(&service, |server| {
            sim.fault(on_delete(server, FaultKind::status(status)));
        })
        .await;
        service.until(id, is_stuck).await;
        assert_eq!(stuck_events(&service.events(id).await), 1, "{status}");
        service.sim.clear_faults();
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_protected_server_is_stuck_at_once_and_goes_when_the_protection_does() {
    let service = Service::start().await;
    let id = fail(&service, |server| {
        assert!(service.sim.protect_server(server));
    })
    .await;
    let provision = service.until(id, is_stuck).await;
    let tries = provision["rollback"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|step| step["stuck"] == true)
        .map(|step| step["tries"].as_i64().unwrap())
        .unwrap();
    // It is retried, and noted once.
    service
        .until(id, |provision| {
            provision["rollback"]["steps"]
                .as_array()
                .unwrap()
                .iter()
                .any(|step| step["stuck"] == true && step["tries"].as_i64().unwrap() > tries + 2)
        })
        .await;
    assert_eq!(stuck_events(&service.events(id).await), 1);
    let server = service.sim.servers()[0].id;
    assert!(service.sim.unprotect_server(server));
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

/// What the search of what is stuck sees again and again must not wake the searches that are done,
/// which would wake it in turn, as fast as the vendors answer.
#[tokio::test]
async fn what_is_stuck_is_looked_at_again_without_reopening_what_is_done() {
    for resource in ["auth_key", "device"] {
        let service = Service::start().await;
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        let (path, list) = match resource {
            "auth_key" => (
                format!("/tailnet/-/keys/{}", made.key.clone().unwrap()),
                "keys?",
            ),
            _ => (
                format!("/device/{}", made.device.clone().unwrap()),
                "devices",
            ),
        };
        let forbidden = FaultKind::status(403);
        let fault = Fault::on(Vendor::Tailscale, "DELETE", &path, forbidden).always();
        service.sim.fault(fault);
        service.callback("failure", id, RUN, made.ids()).await;
        let rest_is_done = |provision: &Value| {
            steps_of(provision, resource).any(|step| step["stuck"] == true)
                && steps_of(provision, resource).any(|step| step["state"] == "waiting")
                && steps_of(provision, "server").all(|step| step["state"] == "gone")
        };
        service.until(id, rest_is_done).await;
        let reopened = async || {
            let kinds = service.event_kinds(id).await;
            kinds.iter().filter(|kind| *kind == "step.reopened").count()
        };
        let looks = || {
            log::count(
                &service.sim,
                Vendor::Tailscale,
                "GET",
                &format!("/tailnet/-/{list}"),
            )
        };
        let before = reopened().await;
        for _ in 0..3 {
            let looked = looks();
            // Longer than a search waits for the step of what it found.
            service.advance(Duration::from_secs(31)).await;
            service
                .until(id, |provision| looks() > looked && rest_is_done(provision))
                .await;
        }
        assert_eq!(reopened().await, before, "{resource}");
        service.sim.clear_faults();
        service.settled(id).await;
        assert_eq!(service.alive(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_revoked_token_is_no_proof_of_anything() {
    let service = Service::start().await;
    let good = service.sim.options().hcloud_token;
    service.sim.change_tokens(Tokens {
        hcloud_token: Some("another".to_owned()),
        ..Tokens::default()
    });
    let id = fail(&service, |_| {}).await;
    service.until(id, is_stuck).await;
    // Not even by the end of the window.
    service.advance(Duration::from_secs(700)).await;
    service
        .until(id, |_| service.sim.devices().is_empty())
        .await;
    assert_eq!(service.sim.servers().len(), 1);
    assert!(is_stuck(&service.provision(id).await));
    service.sim.change_tokens(Tokens {
        hcloud_token: Some(good),
        ..Tokens::default()
    });
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_step_is_stuck_after_its_time_and_not_before_and_is_still_retried() {
    let service = Service::start_with(Options {
        stuck_after: Duration::from_secs(3600),
        ..Options::default()
    })
    .await;
    let sim = &service.sim;
    let id = fail(&service, |server| {
        sim.fault(on_delete(server, FaultKind::status(500)));
    })
    .await;
    let failed = |provision: &Value| {
        provision["rollback"]["steps"]
            .as_array()
            .unwrap()
            .iter()
            .any(|step| step["resource"] == "server" && step["last_error"].is_string())
    };
    service.until(id, failed).await;
    service.advance(Duration::from_secs(3500)).await;
    let provision = service.provision(id).await;
    assert_eq!(provision["rollback"]["state"], "pending", "{provision:#}");
    service.advance(Duration::from_secs(101)).await;
    service.until(id, is_stuck).await;
    let list = service.get("/v1/provisions?rollback=stuck").await;
    assert_eq!(list.body["provisions"][0]["id"], json!(id));
    service.until(id, |_| true).await;
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while stuck_events(&service.events(id).await) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "no step.stuck");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    service.sim.clear_faults();
    let provision = service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    // The search and the id's own step, each noted once.
    assert!(stuck_events(&service.events(id).await) <= 2);
    assert!(
        provision["rollback"]["steps"]
            .as_array()
            .unwrap()
            .iter()
            .all(|step| step["stuck"] == false)
    );
}

#[tokio::test]
async fn an_oauth_token_that_ends_in_mid_rollback_is_renewed() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let first = service.make_all(&service.started(id, RUN).await);
    service.callback("failure", id, RUN, first.ids()).await;
    service.settled(id).await;
    // The vendor forgets the token that we keep.
    let again = service.sim.options().oauth_client_secret;
    service.sim.change_tokens(Tokens {
        oauth_client_secret: Some(again),
        ..Tokens::default()
    });
    let id = fail(&service, |_| {}).await;
    let provision = service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    for step in provision["rollback"]["steps"].as_array().unwrap() {
        assert_eq!(step["last_error"], Value::Null, "{step:#}");
    }
}

#[tokio::test]
async fn a_rotated_oauth_secret_is_stuck_until_it_is_back_and_the_server_goes_meanwhile() {
    let service = Service::start().await;
    let good = service.sim.options().oauth_client_secret;
    service.sim.change_tokens(Tokens {
        oauth_client_secret: Some("rotated".to_owned()),
        ..Tokens::default()
    });
    let id = fail(&service, |_| {}).await;
    service
        .until(id, |provision| {
            is_stuck(provision) && service.sim.servers().is_empty()
        })
        .await;
    assert_eq!(service.alive().len(), 2);
    service.sim.change_tokens(Tokens {
        oauth_client_secret: Some(good),
        ..Tokens::default()
    });
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_row_that_nobody_can_read_does_not_keep_the_others() {
    // Without keys that go first, so that one claim takes both.
    let service = Service::start_with(Options {
        tailscale: false,
        ..Options::default()
    })
    .await;
    let (broken, whole) = (Uuid::new_v4(), Uuid::new_v4());
    for id in [broken, whole] {
        service.make_all(&service.started(id, RUN).await);
    }
    // What no version of the program writes: an id that is none.
    sqlx::query(
        "with over as (
             update attempts set reason = 'failure', rollback_started_at = now(),
                                 finished_at = now(), may_exist = '[\"server\"]'
             where provision_id = $1
             returning provision_id
         )
         insert into steps (provision_id, attempt, resource, searches, vendor_id, state, moved_by,
                            next_at, unsettled_since)
         select provision_id, 1, 'server', false, '../42', 'due', 'planned', now(), now()
         from over",
    )
    .bind(broken)
    .execute(&service.pool)
    .await
    .unwrap();
    service.callback("failure", whole, RUN, json!({})).await;
    service.settled(whole).await;
}

#[tokio::test]
async fn a_delete_without_effect_is_not_sent_again_before_the_list_had_time_to_follow() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let (key, device) = (made.key.clone().unwrap(), made.device.clone().unwrap());
    let paths = [
        format!("/tailnet/-/keys/{key}"),
        format!("/device/{device}"),
    ];
    for path in &paths {
        // It says that it is done, and nothing is.
        let fault = Fault::on(Vendor::Tailscale, "DELETE", path, FaultKind::status(200));
        service.sim.fault(fault.always());
    }
    service.callback("failure", id, RUN, made.ids()).await;
    let deletes = || {
        paths
            .clone()
            .map(|path| log::count(&service.sim, Vendor::Tailscale, "DELETE", &path))
    };
    let looks = || log::count(&service.sim, Vendor::Tailscale, "GET", "/tailnet/-/devices");
    service.until(id, |_| deletes() == [1, 1]).await;
    let looked = looks();
    service.until(id, |_| looks() > looked + 3).await;
    assert_eq!(deletes(), [1, 1]);
    service.advance(Duration::from_secs(61)).await;
    service.until(id, |_| deletes() == [2, 2]).await;
    assert_eq!(service.provision(id).await["rollback"]["state"], "pending");
    service.sim.clear_faults();
    service.advance(Duration::from_secs(61)).await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_404_to_the_delete_of_what_is_listed_is_an_error_that_is_shown_and_backed_off_from() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    // As for what a credential may see and not delete.
    let things = [
        (
            Vendor::Tailscale,
            "auth_key",
            format!("/tailnet/-/keys/{}", made.key.clone().unwrap()),
        ),
        (
            Vendor::Hetzner,
            "server",
            format!("/servers/{}", made.server),
        ),
        (
            Vendor::Tailscale,
            "device",
            format!("/device/{}", made.device.clone().unwrap()),
        ),
    ];
    for (vendor, _, path) in &things {
        let fault = Fault::on(*vendor, "DELETE", path, FaultKind::status(404));
        service.sim.fault(fault.always());
    }
    service.callback("failure", id, RUN, made.ids()).await;
    for (_, resource, _) in &things {
        service
            .until(id, |provision| {
                steps_of(provision, resource).any(|step| {
                    step["tries"].as_i64() > Some(2)
                        && step["last_error"]
                            .as_str()
                            .is_some_and(|error| error.contains("404"))
                })
            })
            .await;
    }
    service.sim.clear_faults();
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_thing_of_ours_under_an_id_that_cannot_be_kept_is_no_absence() {
    // A tailnet with one device, which has the host name that is asked for and an endless id.
    let hostname = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let told = hostname.clone();
    let device = move || {
        let device = json!({"nodeId": "n".repeat(65), "hostname": told.get(), "tags": [TAG]});
        async move { axum::Json(json!({"devices": [device]})) }
    };
    let router = axum::Router::new()
        .route("/api/v2/tailnet/-/devices", axum::routing::get(device))
        .route(
            "/api/v2/tailnet/-/keys",
            axum::routing::get(|| async { axum::Json(json!({"keys": []})) }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let service = Service::start_changed(Options::default(), |config| {
        let key = TailscaleCredential::ApiKey("tskey-api-secret".into());
        let client = Tailscale::new(&url, "-", key).unwrap();
        config.tailscale = Some((client, TAG.to_owned()));
    })
    .await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    hostname
        .set(started["server_name"].as_str().unwrap().to_owned())
        .unwrap();
    service
        .callback("failure", id, RUN, json!({"may_exist": []}))
        .await;
    let provision = service.until(id, is_stuck).await;
    let device = steps_of(&provision, "device").next().unwrap();
    let error = device["last_error"].as_str().unwrap();
    assert!(
        error.contains("nnn") && error.contains("no device's id"),
        "{error}"
    );
}
