//! A database that is held sweeps nothing, and what was disowned is never swept.

use backstop::domain::orphans::Mandate;
use backstop::store::hold::Renewed;
use backstop::sweep;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::controller::renew;
use crate::harness::{Service, labels, vendors};
use crate::hold::{copy, resume};
use crate::support::{RUN, is_held, secs};

/// A provision that failed and was rolled back, and what its `started` told.
pub async fn over(service: &Service) -> (Uuid, Value) {
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let body = json!({"may_exist": []});
    service.callback("failure", id, RUN, body).await;
    service.settled(id).await;
    (id, started)
}

fn judged(orphans: &Value) -> Vec<String> {
    let mut judged: Vec<String> = orphans["orphans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap();
            format!("{} {} {}", text("kind"), text("why"), text("action"))
        })
        .collect();
    judged.sort();
    judged
}

#[tokio::test]
async fn a_copied_database_only_reports_until_somebody_says_that_it_may_go_on() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    crate::support::pulsed(&service.pool).await;
    let stopped = service.stop().await;
    stopped.advance(secs(2 * 3600)).await;
    let copy = copy(&stopped).await;
    let name = started["server_name"].as_str().unwrap();
    stopped.sim.add_server(name, labels(&started));
    stopped.sim.add_device(name, &["tag:agent"]);
    let mut unknown = labels(&started);
    for (key, value) in &mut unknown {
        if key == "backstop-provision" {
            *value = Uuid::new_v4().to_string();
        }
    }
    stopped.sim.add_server("unknown", unknown);
    let reported = [
        "device attempt_over reported",
        "server attempt_over reported",
        "server unknown_provision reported",
    ];

    // As `backstop sweep --delete` would, before any service has seen that it is another database.
    let pool = backstop::store::connect(copy.clone(), 3).await.unwrap();
    let vendors = vendors(&stopped.options, &copy, &stopped.sim).await;
    let mut db = pool.acquire().await.unwrap();
    let begun = backstop::store::sweeps::begin(&mut db).await.unwrap();
    drop(db);
    let swept = sweep::sweep(&pool, &vendors, &begun, Mandate::Delete)
        .await
        .unwrap();
    assert_eq!(swept.reopened, []);
    pool.close().await;

    let service = Service::start_on(copy, stopped.sim, stopped.options).await;
    is_held(&service, "other_database").await;
    assert_eq!(judged(&service.orphans().await), reported);
    service.sweep(Mandate::Delete).await;
    assert_eq!(judged(&service.orphans().await), reported);
    assert_eq!(service.alive().len(), 3);
    assert_eq!(service.provision(id).await["rollback"]["state"], "done");

    resume(&service).await;
    service.sweep(Mandate::Reopen).await;
    service.settled(id).await;
    assert_eq!(service.alive(), ["server unknown"]);
}

#[tokio::test]
async fn what_a_renewed_copy_has_given_up_is_another_controllers_by_name_as_well() {
    let service = Service::start().await;
    let (id, started) = over(&service).await;
    let stopped = service.stop().await;
    stopped.advance(secs(31)).await;
    assert!(matches!(renew(&stopped.pool).await, Renewed::Yes { .. }));
    let service = stopped.start().await;
    let name = started["server_name"].as_str().unwrap();
    let description = started["tailscale"]["key_description"].as_str().unwrap();
    service.sim.add_server(name, labels(&started));
    service.sim.add_device(name, &["tag:agent"]);
    service.sim.add_key(description, &["tag:agent"]);
    over(&service).await;

    service.sweep(Mandate::Delete).await;
    let orphans = service.orphans().await;
    assert_eq!(judged(&orphans), Vec::<String>::new());
    assert_eq!(orphans["not_ours"], 3);
    assert_eq!(service.alive().len(), 3);
    let kinds = service.event_kinds(id).await;
    assert!(!kinds.iter().any(|kind| kind.starts_with("sweep.")));
}
