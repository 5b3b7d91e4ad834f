//! Hetzner deletes by an action, and what the step makes of how that goes.

use std::time::Duration;

use backstop::sim::{Fault, FaultKind, SimOptions, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Made, Options, Run, Service};
use crate::log;

const RUN: Run = Run(100, 1);

/// A provision that has made a server, where each action takes so long.
async fn made(action_time: Duration) -> (Service, Uuid, Made) {
    let service = Service::start_with(Options {
        tailscale: false,
        sim: SimOptions {
            action_time: (action_time, action_time),
            ..SimOptions::default()
        },
        ..Options::default()
    })
    .await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    (service, id, made)
}

/// The server's own step, not the search that found it.
fn step_of<'a>(provision: &'a Value, made: &Made) -> &'a Value {
    let steps = provision["rollback"]["steps"].as_array().unwrap();
    let server = json!(made.server.to_string());
    steps
        .iter()
        .rfind(|step| step["vendor_id"] == server)
        .unwrap()
}

#[tokio::test]
async fn a_delete_under_way_is_asked_after_and_not_sent_again() {
    // Several looks long.
    let (service, id, made) = made(Duration::from_secs(8)).await;
    service.callback("failure", id, RUN, made.ids()).await;
    let provision = service.settled(id).await;
    assert_eq!(step_of(&provision, &made)["proof"], "deleted");
    let path = format!("/servers/{}", made.server);
    let deletes = log::count(&service.sim, Vendor::Hetzner, "DELETE", &path);
    assert_eq!(deletes, 1);

    // Nor is the list read, which has nothing to say of it until it is done.
    let history = service.sim.history();
    let is_poll = |path: &str| path.starts_with("/actions");
    let asked: Vec<&str> = history
        .iter()
        .map(|entry| entry.path.as_str())
        .skip_while(|path| !is_poll(path))
        .collect();
    let last = asked.iter().rposition(|path| is_poll(path)).unwrap();
    assert!(last > 0, "{asked:?}");
    assert!(asked[..last].iter().all(|path| is_poll(path)), "{asked:?}");
}

#[tokio::test]
async fn an_action_that_ended_in_error_is_shown_and_the_delete_is_begun_anew() {
    let (service, id, made) = made(Duration::from_millis(10)).await;
    let path = format!("/servers/{}", made.server);
    let code = "server_error".to_owned();
    let fails = FaultKind::ActionFails { code };
    let fault = Fault::on(Vendor::Hetzner, "DELETE", &path, fails);
    service.sim.fault(fault.always());
    service.callback("failure", id, RUN, made.ids()).await;
    let is_shown = |provision: &Value| {
        let error = step_of(provision, &made)["last_error"].as_str();
        error.is_some_and(|error| error.contains("ended in error server_error"))
    };
    service.until(id, is_shown).await;
    service.sim.clear_faults();
    let provision = service.settled(id).await;
    assert_eq!(step_of(&provision, &made)["proof"], "deleted");
    assert_eq!(service.alive(), Vec::<String>::new());
}
