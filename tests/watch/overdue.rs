//! Each way of running out of time.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Run, Service, steps};
use crate::support::{
    RUN, events, failed, heartbeat, in_use, is_waited_for, secs, servers_only, under_way,
};

#[tokio::test]
async fn what_no_run_takes_has_never_started_and_can_still_be_taken() {
    let service = Service::start().await;
    let body = json!({"agent_id": "web-1"});
    let created = service.operate("POST", "/v1/provisions", Some(body)).await;
    let id: Uuid = created.body["id"].as_str().unwrap().parse().unwrap();
    service.pass(secs(1801)).await;

    let provision = failed(&service, id).await;
    assert_eq!(provision["rollback"]["reason"], "never_started");
    assert_eq!(provision["rollback"]["state"], "done");
    assert_eq!(provision["rollback"]["steps"], json!([]));
    assert_eq!(provision["attempt"], 0);
    assert_eq!(service.event_kinds(id).await, ["created", "deadline"]);

    // A run that was stuck in GitHub's queue for half an hour is as welcome as a new one.
    let started = service.started(id, RUN).await;
    assert_eq!(started["attempt"], 1);
    assert_eq!(service.provision(id).await["status"], "provisioning");
}

#[tokio::test]
async fn once_a_run_has_taken_it_only_the_runs_own_time_counts() {
    let service = Service::start().await;
    let body = json!({"agent_id": "web-1"});
    let created = service.operate("POST", "/v1/provisions", Some(body)).await;
    let id: Uuid = created.body["id"].as_str().unwrap().parse().unwrap();
    service.pass(secs(1700)).await;
    service.started(id, RUN).await;
    service.pass(secs(200)).await;
    // Nobody waits for it twice, and first for what is over.
    assert!(is_waited_for(&service, id).await > secs(1500));
    service.pass(secs(1500)).await;
    assert!(is_waited_for(&service, id).await > secs(0));
    service.pass(secs(101)).await;
    let provision = failed(&service, id).await;
    assert_eq!(provision["rollback"]["reason"], "deadline");
    assert_eq!(provision["attempt"], 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_failed_and_rolled_back() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    let told = service.provision(id).await["deadline_at"].clone();
    service.pass(secs(1795)).await;
    assert!(is_waited_for(&service, id).await > secs(0));
    service.pass(secs(6)).await;

    let provision = service.settled(id).await;
    assert_eq!(provision["status"], "failed");
    assert_eq!(provision["rollback"]["reason"], "deadline");
    assert_eq!(provision["deadline_at"], Value::Null);
    assert_eq!(service.alive(), Vec::<String>::new());
    let [event] = &events(&service, id, "deadline").await[..] else {
        panic!("one event");
    };
    assert_eq!(event["data"]["reason"], "deadline");
    assert_eq!(event["data"]["last_heartbeat_at"], Value::Null);
    let at = |time: &Value| {
        time.as_str()
            .unwrap()
            .parse::<chrono::DateTime<chrono::Utc>>()
    };
    assert_eq!(at(&event["data"]["deadline_at"]), at(&told));

    // Its workflow comes too late, and its own word on the failure counts for more than ours.
    let answer = service.callback("progress", id, RUN, json!({})).await;
    assert_eq!((answer.status, answer.code()), (409, "already_failed"));
    let cancelled = json!({"conclusion": "cancelled"});
    let answer = service.callback("failure", id, RUN, cancelled).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body["rollback"]["reason"], "cancelled");
}

#[tokio::test]
async fn without_a_credential_for_tailscale_only_the_server_must_go() {
    let service = Service::start_with(servers_only()).await;
    let (id, made) = under_way(&service).await;
    service.pass(secs(1801)).await;
    let provision = service.settled(id).await;
    let server = format!("1 server {} gone deleted", made.server);
    assert_eq!(steps(&provision), ["1 server search gone deleted", &server]);
}

#[tokio::test]
async fn who_has_sent_a_heartbeat_and_falls_silent_is_failed_and_nobody_else() {
    let service = Service::start().await;
    let (silent, _) = under_way(&service).await;
    let (quiet, _) = under_way(&service).await;
    let (talking, _) = under_way(&service).await;
    let (running, _) = in_use(&service).await;
    assert_eq!(heartbeat(&service, silent).await, 200);
    assert_eq!(heartbeat(&service, talking).await, 200);
    // That it still sends heartbeats is nothing to hold it to.
    assert_eq!(heartbeat(&service, running).await, 200);
    let step = json!({"step": "vm_created"});
    service.callback("progress", quiet, RUN, step.clone()).await;

    service.pass(secs(200)).await;
    // Any message will do.
    service.callback("progress", talking, RUN, step).await;
    service.pass(secs(101)).await;

    let provision = service.settled(silent).await;
    assert_eq!(provision["rollback"]["reason"], "silent");
    assert_ne!(provision["last_heartbeat_at"], Value::Null);
    for id in [quiet, talking] {
        assert_eq!(service.provision(id).await["status"], "provisioning");
    }
    service.pass(secs(200)).await;
    let provision = service.settled(talking).await;
    assert_eq!(provision["rollback"]["reason"], "silent");
    assert_eq!(service.provision(quiet).await["status"], "provisioning");
    assert_eq!(service.provision(running).await["status"], "running");
    assert_eq!(service.alive().len(), 6, "{:?}", service.alive());
}

#[tokio::test]
async fn who_says_the_same_again_and_again_is_heard() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    let (silent, _) = under_way(&service).await;
    let step = json!({"step": "configuring"});
    for (kind, more) in [("progress", step.clone()), ("started", json!({}))] {
        service.callback(kind, id, RUN, more).await;
    }
    assert_eq!(heartbeat(&service, id).await, 200);
    assert_eq!(heartbeat(&service, silent).await, 200);
    let before = service.events(id).await;
    for (kind, more) in [("progress", step), ("started", json!({}))] {
        service.pass(secs(200)).await;
        let again = service.callback(kind, id, RUN, more).await;
        assert_eq!(again.status, 200, "{again:?}");
    }
    assert_eq!(
        service.settled(silent).await["rollback"]["reason"],
        "silent"
    );
    assert_eq!(service.provision(id).await["status"], "provisioning");
    // It says nothing new, and so leaves nothing in the history.
    assert_eq!(service.events(id).await, before);
    service.pass(secs(301)).await;
    assert_eq!(service.settled(id).await["rollback"]["reason"], "silent");
}

#[tokio::test]
async fn a_machine_in_use_is_never_failed_for_its_time() {
    let service = Service::start().await;
    let (running, _) = in_use(&service).await;
    let (late, _) = under_way(&service).await;
    service.pass(secs(1_000_000)).await;
    service.settled(late).await;
    assert_eq!(service.provision(running).await["status"], "running");
    assert_eq!(service.alive().len(), 3);
}

#[tokio::test]
async fn a_rerun_of_what_was_failed_has_its_own_time() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    service.pass(secs(1801)).await;
    service.settled(id).await;
    let second = Run(100, 2);
    let made = service.make_all(&service.started(id, second).await);
    service.pass(secs(1700)).await;
    assert!(is_waited_for(&service, id).await > secs(0));
    service.callback("success", id, second, made.ids()).await;
    assert_eq!(service.provision(id).await["status"], "running");
    assert_eq!(service.alive().len(), 3);
    assert_eq!(events(&service, id, "deadline").await.len(), 1);
}
