//! What a failure leaves is deleted and proven gone, and nothing else is.

use serde_json::json;
use uuid::Uuid;

use crate::harness::{Run, Service, TAG, labels, steps};

const RUN: Run = Run(100, 1);

#[tokio::test]
async fn what_a_failure_leaves_is_deleted_and_proven_gone() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let answer = service.callback("failure", id, RUN, made.ids()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body["status"], "failed");
    assert_eq!(answer.body["rollback"]["state"], "pending");

    let provision = service.settled(id).await;
    let (key, device) = (made.key.unwrap(), made.device.unwrap());
    assert_eq!(
        steps(&provision),
        [
            "1 auth_key search gone deleted".to_owned(),
            format!("1 auth_key {key} gone deleted"),
            "1 server search gone deleted".to_owned(),
            format!("1 server {} gone deleted", made.server),
            "1 device search gone deleted".to_owned(),
            format!("1 device {device} gone deleted"),
        ]
    );
    assert_eq!(service.alive(), Vec::<String>::new());
    assert_eq!(provision["rollback"]["reason"], "failure");
    assert_eq!(
        service.event_kinds(id).await.last().map(String::as_str),
        Some("rollback.done")
    );
}

#[tokio::test]
async fn without_any_id_everything_is_found_by_its_names() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.make_all(&service.started(id, RUN).await);
    let empty =
        json!({"server_id": "", "tailscale_key_id": "", "tailscale_node_id": "", "error": ""});
    service.callback("failure", id, RUN, empty).await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn prefer_wait_answers_200_once_all_is_gone() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let body = crate::harness::callback_body("failure", id, RUN, made.ids()).to_string();
    let answer = service
        .send(
            service
                .signed("failure", id, &body)
                .header("prefer", "wait=60"),
        )
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["preference-applied"], "wait=60");
    assert_eq!(answer.body["rollback"]["state"], "done");
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn look_alikes_are_left_alone_whatever_ids_are_named() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let name = started["server_name"].as_str().unwrap();
    let mut four = labels(&started);
    let run = four
        .iter()
        .position(|(key, _)| key == "backstop-run")
        .unwrap();
    four[run].1 = "100.2".to_owned();
    // Our name without our labels, and our labels but one.
    let namesake = service.sim.add_server(name, [("team", "finance")]);
    let nearly = service.sim.add_server("nearly", four);
    // Our host name without our tag, and our tag without our host name.
    let untagged = service.sim.add_device(name, &["tag:other"]);
    let other = service.sim.add_device("agent-other", &[TAG]);
    let key = service.sim.add_key("somebody else's", &[TAG]);
    for (server, device) in [(namesake, &untagged), (nearly, &other)] {
        let ids = json!({"server_id": server, "tailscale_node_id": device, "tailscale_key_id": key,
                         "may_exist": []});
        service.callback("failure", id, RUN, ids).await;
    }
    let provision = service.settled(id).await;
    assert_eq!(service.alive().len(), 5, "{:?}", service.alive());
    let refused = steps(&provision)
        .iter()
        .filter(|step| step.contains("refused"))
        .count();
    assert_eq!(refused, 5, "{:#?}", steps(&provision));
}
