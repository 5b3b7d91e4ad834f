//! GitHub's webhooks say the same without being asked.

use backstop::sim::{Delivery, Fault, FaultKind, Vendor};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Answer, Run, Service, WEBHOOK_SECRET};
use crate::support::{events, failed, secs, until};
use crate::witness::{end, failures, number, start, under_way};

const PATH: &str = "/v1/github/webhook";

fn request(service: &Service, delivery: &Delivery) -> reqwest::RequestBuilder {
    service
        .request("POST", PATH)
        .header("content-type", "application/json")
        .header("x-github-event", delivery.event)
        .header("x-github-delivery", &delivery.id)
        .header("x-hub-signature-256", &delivery.signature)
        .body(delivery.body.clone())
}

async fn send(service: &Service, delivery: &Delivery) -> Answer {
    service.send(request(service, delivery)).await
}

fn of_run(service: &Service, run: Run) -> Delivery {
    let delivery = service.sim.webhook_of_run(number(run), WEBHOOK_SECRET);
    delivery.unwrap()
}

/// What was done with a webhook that was taken.
async fn result_of(service: &Service, delivery: &Delivery) -> String {
    let answer = send(service, delivery).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["result"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_run_that_failed_fails_its_provision_within_the_answer_and_once() {
    // Without a credential: nobody asks.
    let service = Service::start().await;
    let (id, run, _) = under_way(&service).await;
    let under_way = of_run(&service, run);
    assert_eq!(result_of(&service, &under_way).await, "ignored");
    end(&service, run, "cancelled");
    let delivery = of_run(&service, run);
    assert_eq!(result_of(&service, &delivery).await, "recorded");
    let provision = service.provision(id).await;
    assert_eq!(provision["status"], "failed");
    assert_eq!(provision["rollback"]["reason"], "cancelled");
    assert_eq!(result_of(&service, &delivery).await, "repeated");
    // The same in a delivery of its own.
    assert_eq!(result_of(&service, &of_run(&service, run)).await, "nothing");
    let [event] = &events(&service, id, "github.run_failed").await[..] else {
        panic!("one event");
    };
    assert_eq!(event["data"]["source"], "webhook");
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn all_provisions_of_a_run_that_failed_go_and_those_that_succeeded_stay() {
    let service = Service::start().await;
    let (first, run, _) = under_way(&service).await;
    let second = Uuid::new_v4();
    service.started(second, run).await;
    let third = Uuid::new_v4();
    let made = service.make_all(&service.started(third, run).await);
    service.callback("success", third, run, made.ids()).await;
    let (other, _, _) = under_way(&service).await;
    end(&service, run, "failure");
    assert_eq!(
        result_of(&service, &of_run(&service, run)).await,
        "recorded"
    );
    for (id, status) in [
        (first, "failed"),
        (second, "failed"),
        (third, "running"),
        (other, "provisioning"),
    ] {
        assert_eq!(service.provision(id).await["status"], status);
    }
}

#[tokio::test]
async fn the_same_webhook_twice_at_once_counts_once() {
    let service = Service::start().await;
    let (id, run, _) = under_way(&service).await;
    end(&service, run, "failure");
    let delivery = of_run(&service, run);
    let (one, two) = tokio::join!(
        result_of(&service, &delivery),
        result_of(&service, &delivery)
    );
    let mut results = [one, two];
    results.sort();
    assert_eq!(results, ["recorded", "repeated"]);
    assert_eq!(events(&service, id, "github.run_failed").await.len(), 1);
}

#[tokio::test]
async fn a_success_that_nobody_told_is_a_discrepancy() {
    let service = Service::start().await;
    let (id, run, _) = under_way(&service).await;
    end(&service, run, "success");
    assert_eq!(
        result_of(&service, &of_run(&service, run)).await,
        "recorded"
    );
    assert_eq!(service.provision(id).await["status"], "provisioning");
    assert_eq!(result_of(&service, &of_run(&service, run)).await, "nothing");
    assert_eq!(events(&service, id, "github.discrepancy").await.len(), 1);
}

#[tokio::test]
async fn only_the_run_attempt_that_is_named_and_only_in_our_repository() {
    let service = Service::start().await;
    let (id, run, _) = under_way(&service).await;
    end(&service, run, "failure");
    let others = [
        ("\"run_attempt\":1", "\"run_attempt\":2", "nothing"),
        (
            "\"full_name\":\"example/agents\"",
            "\"full_name\":\"example/other\"",
            "other_repository",
        ),
    ];
    for (ours, theirs, result) in others {
        let mut delivery = of_run(&service, run);
        assert!(delivery.body.contains(ours), "{}", delivery.body);
        delivery.body = delivery.body.replace(ours, theirs);
        assert_eq!(result_of(&service, &resigned(delivery)).await, result);
        assert_eq!(service.provision(id).await["status"], "provisioning");
    }
}

/// As GitHub would have signed it.
fn resigned(delivery: Delivery) -> Delivery {
    use aws_lc_rs::hmac;
    let key = hmac::Key::new(hmac::HMAC_SHA256, WEBHOOK_SECRET.as_bytes());
    let tag = hmac::sign(&key, delivery.body.as_bytes());
    let hex = |text, byte: &u8| format!("{text}{byte:02x}");
    let digits = tag.as_ref().iter().fold(String::new(), hex);
    Delivery {
        signature: format!("sha256={digits}"),
        ..delivery
    }
}

#[tokio::test]
async fn a_job_that_ended_makes_github_be_asked_and_decides_nothing_itself() {
    let service = start().await;
    let (id, run, _) = under_way(&service).await;
    let of_job = |service: &Service| {
        let delivery = service
            .sim
            .webhook_of_job(number(run), "failure", WEBHOOK_SECRET);
        delivery.unwrap()
    };
    // Another job still cleans up.
    let delivery = of_job(&service);
    assert_eq!(result_of(&service, &delivery).await, "asking");
    assert_eq!(result_of(&service, &delivery).await, "repeated");
    let asked = || {
        let history = service.sim.history();
        let asked = |entry: &&backstop::sim::HistoryEntry| entry.path.ends_with("/attempts/1");
        history.iter().filter(asked).count()
    };
    until(async || (asked() == 1).then_some(())).await;
    assert_eq!(service.provision(id).await["status"], "provisioning");
    end(&service, run, "failure");
    // It is asked again although it never fell silent.
    service.pass(secs(76)).await;
    assert_eq!(failed(&service, id).await["rollback"]["reason"], "failure");
    assert_eq!(result_of(&service, &of_job(&service)).await, "nothing");

    // Where nobody can ask, there is nothing to note.
    let alone = Service::start().await;
    let (_, run, _) = under_way(&alone).await;
    let delivery = alone
        .sim
        .webhook_of_job(number(run), "failure", WEBHOOK_SECRET);
    assert_eq!(result_of(&alone, &delivery.unwrap()).await, "ignored");
}

#[tokio::test]
async fn what_is_not_proven_is_not_read() {
    let service = Service::start().await;
    let (id, run, _) = under_way(&service).await;
    end(&service, run, "failure");
    let good = of_run(&service, run);
    let wrong = service
        .sim
        .webhook_of_run(number(run), "another-secret-of-webhooks");
    let forged = Delivery {
        signature: wrong.unwrap().signature,
        ..good.clone()
    };
    let altered = Delivery {
        body: good.body.replace("failure", "cancelled"),
        ..good.clone()
    };
    let nonsense = Delivery {
        signature: "sha256=zz".to_owned(),
        body: "{".to_owned(),
        ..good.clone()
    };
    for delivery in [forged, altered, nonsense] {
        let answer = send(&service, &delivery).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated"));
    }
    let unsigned = service.request("POST", PATH).body(good.body.clone());
    assert_eq!(service.send(unsigned).await.status, 401);
    assert_eq!(service.provision(id).await["status"], "provisioning");

    // Nothing is taken where no secret is set.
    let closed = Service::start_changed(crate::harness::Options::default(), |config| {
        config.webhooks = None;
    })
    .await;
    let answer = send(&closed, &good).await;
    assert_eq!((answer.status, answer.code()), (404, "not_found"));
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_what_is_not_ours_is_taken() {
    let service = Service::start().await;
    let delivery = |event, body: String| {
        resigned(Delivery {
            id: Uuid::new_v4().to_string(),
            event,
            signature: String::new(),
            body,
        })
    };
    let repository = json!({"id": 1_296_269, "full_name": "Example/Agents"});
    let run = |id: i64, attempt: i64| {
        json!({
            "action": "completed", "repository": repository,
            "workflow_run": {"id": id, "run_attempt": attempt, "status": "completed",
                             "conclusion": "failure"},
        })
    };
    let without_run = json!({"action": "completed", "repository": repository});
    let new_word = json!({
        "action": "completed", "repository": repository,
        "workflow_run": {"id": 1, "run_attempt": 1, "status": "completed", "conclusion": "exploded"},
    });
    for (event, body, status, says) in [
        (
            "ping",
            "{\"zen\":\"Keep it logically awesome.\"}".to_owned(),
            200,
            "ignored",
        ),
        ("push", "{}".to_owned(), 200, "ignored"),
        ("workflow_run", run(1, 1).to_string(), 200, "nothing"),
        ("workflow_run", new_word.to_string(), 200, "ignored"),
        ("workflow_run", "{".to_owned(), 400, "invalid_body"),
        ("workflow_run", "[]".to_owned(), 422, "invalid_body"),
        ("workflow_run", without_run.to_string(), 422, "invalid_body"),
        ("workflow_job", run(1, 1).to_string(), 422, "invalid_body"),
        ("workflow_run", run(0, 1).to_string(), 422, "invalid_body"),
        ("workflow_run", run(1, -1).to_string(), 422, "invalid_body"),
        (
            "workflow_run",
            " ".repeat(1024 * 1024 + 1),
            413,
            "body_too_large",
        ),
    ] {
        let answer = send(&service, &delivery(event, body)).await;
        let said = answer.body["result"]
            .as_str()
            .unwrap_or_else(|| answer.code());
        assert_eq!((answer.status, said), (status, says), "{event}");
    }
    let ping = delivery("ping", "{}".to_owned());
    let bare = || {
        service
            .request("POST", PATH)
            .header("x-hub-signature-256", &ping.signature)
            .body(ping.body.clone())
    };
    let named = bare().header("x-github-event", "ping");
    for (request, status) in [
        (bare(), 400),
        (
            named
                .try_clone()
                .unwrap()
                .header("x-github-delivery", "no id"),
            400,
        ),
        (named.header("x-github-delivery", &ping.id), 415),
    ] {
        assert_eq!(service.send(request).await.status, status);
    }
}

#[tokio::test]
async fn a_simulated_github_sends_them_by_itself() {
    let service = Service::start().await;
    assert!(
        service
            .sim
            .send_webhooks_to(&service.url(PATH), WEBHOOK_SECRET)
    );
    assert!(
        !service
            .sim
            .send_webhooks_to("http://192.0.2.1/", WEBHOOK_SECRET)
    );
    let (id, run, _) = under_way(&service).await;
    end(&service, run, "timed_out");
    let provision = service.settled(id).await;
    assert_eq!(provision["rollback"]["reason"], "timed_out");
}

#[tokio::test]
async fn a_webhook_that_was_missed_is_asked_for() {
    let service = start().await;
    let away = FaultKind::status(502);
    service
        .sim
        .fault(Fault::on(Vendor::Github, "GET", "/repos/**", away));
    let (id, run, _) = under_way(&service).await;
    end(&service, run, "failure");
    service.pass(secs(301)).await;
    // The first answer was none; the next one comes after the back-off.
    until(async || failures(&service, id).await.filter(|it| *it == 1)).await;
    service.pass(secs(80)).await;
    assert_eq!(failed(&service, id).await["rollback"]["reason"], "failure");
}
