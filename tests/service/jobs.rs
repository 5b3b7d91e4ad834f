//! Several jobs of one run: what one has begun is not another's to begin, nor to end by accident.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Run, Service};

const RUN: Run = Run(100, 1);

fn job(name: &str) -> Value {
    json!({"job": name})
}

#[tokio::test]
async fn a_second_job_of_the_same_run_opens_nothing_while_the_first_is_at_work_or_its_machine_runs()
{
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let first = service
        .callback("started", id, RUN, job("build github_1"))
        .await;
    assert_eq!(first.status, 200);

    let second = service
        .callback("started", id, RUN, job("build github_2"))
        .await;
    assert_eq!(
        (second.status, second.code()),
        (409, "already_provisioning")
    );
    // Said again by the job that opened it, or by one that does not say which it is, as older workflows do.
    for more in [job("build github_1"), json!({}), job("")] {
        let again = service.callback("started", id, RUN, more).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }

    let made = service.make_all(&first.body);
    assert_eq!(
        service
            .callback("success", id, RUN, made.ids())
            .await
            .status,
        200
    );
    let second = service
        .callback("started", id, RUN, job("build github_2"))
        .await;
    assert_eq!((second.status, second.code()), (409, "already_running"));
    assert_eq!(service.alive().len(), 3);
    let refused = service.events(id).await;
    assert!(
        refused
            .iter()
            .all(|event| event["data"]["job"] != "build github_2")
    );
}

#[tokio::test]
async fn another_job_of_the_run_may_report_what_the_first_has_begun() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.callback("started", id, RUN, job("provision")).await;
    let other = service
        .callback("progress", id, RUN, job("afterwards"))
        .await;
    assert_eq!(other.status, 200);
    let failure = service
        .callback("failure", id, RUN, job("afterwards"))
        .await;
    assert_eq!(failure.status, 202);
    let late = service
        .callback("started", id, RUN, job("afterwards"))
        .await;
    assert_eq!((late.status, late.code()), (409, "already_failed"));
}

#[tokio::test]
async fn an_attempt_whose_job_did_not_say_which_it_is_takes_any() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    for name in ["one", "other"] {
        assert_eq!(
            service.callback("started", id, RUN, job(name)).await.status,
            200
        );
    }
}

#[tokio::test]
async fn the_next_attempt_is_its_own_jobs() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.callback("started", id, RUN, job("one")).await;
    let next = service
        .callback("started", id, Run(100, 2), job("other"))
        .await;
    assert_eq!((next.status, &next.body["attempt"]), (200, &json!(2)));
    let one = service
        .callback("started", id, Run(100, 2), job("one"))
        .await;
    assert_eq!((one.status, one.code()), (409, "already_provisioning"));
}

#[tokio::test]
async fn whichever_callback_opens_the_attempt_says_whose_job_it_is() {
    let service = Service::start().await;
    for (kind, code) in [
        ("progress", "already_provisioning"),
        ("success", "already_running"),
    ] {
        let id = Uuid::new_v4();
        let opens = json!({"job": "one", "step": "x", "server_id": "7", "server_ip": "192.0.2.1",
                           "tailscale_ip": "100.64.0.1"});
        assert_eq!(service.callback(kind, id, RUN, opens).await.status, 200);
        let other = service.callback("started", id, RUN, job("other")).await;
        assert_eq!((other.status, other.code()), (409, code));
        let one = service.callback("started", id, RUN, job("one")).await;
        assert_eq!(one.status, 200, "{one:?}");
    }
    // What an operator asked for is nobody's before a run takes it.
    let id = Uuid::new_v4();
    let body = json!({"agent_id": "web-1", "id": id});
    let created = service.operate("POST", "/v1/provisions", Some(body)).await;
    assert_eq!(created.status, 201);
    for (name, status) in [("one", 200), ("other", 409)] {
        let answer = service.callback("started", id, RUN, job(name)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn of_two_jobs_that_start_at_once_one_gets_the_names() {
    let service = Service::start().await;
    for _ in 0..10 {
        let id = Uuid::new_v4();
        let (one, other) = tokio::join!(
            service.callback("started", id, RUN, job("one")),
            service.callback("started", id, RUN, job("other"))
        );
        let mut both = [one.status, other.status];
        both.sort_unstable();
        assert_eq!(both, [200, 409]);
    }
}
