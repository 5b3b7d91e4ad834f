//! GitHub's webhooks that somebody captured. Their signature covers the body, without a time, an id or
//! the event: whoever has one can send it for ever, with other headers.

use backstop::sim::Delivery;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Run, Service, WEBHOOK_SECRET};
use crate::tables::{difference, whole};

async fn send(service: &Service, delivery: &Delivery, event: &str, id: &str) -> (u16, String) {
    let request = service
        .request("POST", "/v1/github/webhook")
        .header("content-type", "application/json")
        .header("x-github-event", event)
        .header("x-github-delivery", id)
        .header("x-hub-signature-256", &delivery.signature)
        .body(delivery.body.clone());
    let answer = service.send(request).await;
    let said = answer.body["result"]
        .as_str()
        .or(answer.body["code"].as_str());
    (answer.status, said.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_captured_webhook_changes_nothing_under_any_event_or_id_at_any_later_time() {
    let service = Service::start().await;
    let number = service.sim.start_run();
    let run = Run(i64::try_from(number).unwrap(), 1);
    let id = Uuid::new_v4();
    service.make_all(&service.started(id, run).await);
    let of_job = service
        .sim
        .webhook_of_job(number, "failure", WEBHOOK_SECRET)
        .unwrap();
    assert!(service.sim.end_run(number, "failure"));
    let of_run = service.sim.webhook_of_run(number, WEBHOOK_SECRET).unwrap();
    assert!(service.sim.end_run(number, "success"));
    let of_success = service.sim.webhook_of_run(number, WEBHOOK_SECRET).unwrap();

    let events = [
        "workflow_run",
        "workflow_job",
        "workflow_dispatch",
        "check_run",
        "check_suite",
        "deployment_status",
        "push",
        "ping",
        "repository_dispatch",
        "WORKFLOW_RUN",
        "workflow_run ",
        "workflow_run,workflow_job",
    ];
    let mut failures = Vec::new();
    let go_through = async |when: &str, failures: &mut Vec<String>| {
        for (what, delivery) in [
            ("a run's failure", &of_run),
            ("a job's failure", &of_job),
            ("a run's success", &of_success),
        ] {
            for event in events {
                // What it says of the run that is still under way is no replay.
                if when == "under way"
                    && event.trim() == delivery.event
                    && what != "a job's failure"
                {
                    continue;
                }
                for fresh in [true, false] {
                    let fresh_id = Uuid::new_v4().to_string();
                    let delivery_id = if fresh { &fresh_id } else { &delivery.id };
                    let before = whole(&service.pool).await;
                    let (status, said) = send(&service, delivery, event, delivery_id).await;
                    let changed = difference(&before, &whole(&service.pool).await);
                    if !changed.is_empty() || !matches!(status, 200 | 422) || said == "recorded" {
                        failures.push(format!(
                            "{when}: {what} as {event:?}: {status} {said}, {changed:#?}"
                        ));
                    }
                }
            }
        }
    };
    // Under another event than its own it says nothing, to begin with.
    go_through("under way", &mut failures).await;
    assert_eq!(service.provision(id).await["status"], "provisioning");
    assert_eq!(
        send(&service, &of_run, "workflow_run", &of_run.id).await,
        (200, "recorded".to_owned())
    );
    service.settled(id).await;
    go_through("failed", &mut failures).await;
    let next = Run(run.0, 2);
    let made = service.make_all(&service.started(id, next).await);
    go_through("in its second attempt", &mut failures).await;
    service.callback("success", id, next, made.ids()).await;
    go_through("running", &mut failures).await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(service.provision(id).await["status"], "running");
    assert_eq!(service.alive().len(), 3);

    // Nor does it prove a callback, or let anybody in.
    for path in [
        format!("/v1/provisions/{id}/callbacks/failure"),
        "/v1/provisions".to_owned(),
        format!("/v1/provisions/{id}/rollback"),
    ] {
        let request = service
            .request("POST", &path)
            .header("content-type", "application/json")
            .header("x-hub-signature-256", &of_run.signature)
            .header("webhook-id", "1")
            .header("webhook-timestamp", "1")
            .header("webhook-signature", &of_run.signature)
            .body(of_run.body.clone());
        assert_eq!(service.send(request).await.status, 401, "{path}");
    }
    assert_eq!(json!(service.provision(id).await["status"]), "running");
}
