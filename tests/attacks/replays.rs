//! Signed callbacks that somebody captured, sent again within their time: to their own endpoint, to
//! every other, in every spelling, at every later moment. Nothing changes.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Made, Run, SECRET, Service, callback_body, sign};
use crate::tables::{difference, whole};

const FIRST: Run = Run(100, 1);
const SECOND: Run = Run(100, 2);

/// A callback as it went over the wire.
#[derive(Clone)]
struct Captured {
    what: &'static str,
    kind: &'static str,
    provision: Uuid,
    message: String,
    at: i64,
    signature: String,
    body: String,
}

impl Captured {
    fn new(
        (what, kind): (&'static str, &'static str),
        provision: Uuid,
        run: Run,
        more: Value,
    ) -> Self {
        let body = callback_body(kind, provision, run, more).to_string();
        let message = format!("msg_{}", Uuid::new_v4());
        let (at, signature) = sign(SECRET, &message, &body);
        Self {
            what,
            kind,
            provision,
            message,
            at,
            signature,
            body,
        }
    }

    fn endpoint(&self) -> String {
        format!("/v1/provisions/{}/callbacks/{}", self.provision, self.kind)
    }

    /// Sends it to somewhere.
    async fn send(&self, service: &Service, method: &str, path: &str) -> (u16, Value) {
        let request = service
            .request(method, path)
            .header("content-type", "application/json")
            .header("webhook-id", &self.message)
            .header("webhook-timestamp", self.at)
            .header("webhook-signature", &self.signature)
            // As if GitHub had sent it.
            .header("x-hub-signature-256", format!("sha256={}", "0".repeat(64)))
            .header("x-github-event", "workflow_run")
            .header("x-github-delivery", Uuid::new_v4().to_string())
            .body(self.body.clone());
        // Some of it is answered with a page.
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    /// The first time.
    async fn is_accepted(&self, service: &Service) {
        let (status, answer) = self.send(service, "POST", &self.endpoint()).await;
        assert!(status < 300, "{}: {status} {answer}", self.what);
    }

    fn is_heartbeat(&self) -> bool {
        self.what.contains("heartbeat")
    }
}

/// How far the provision has come when they are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    AtOnce,
    Later,
    Running,
    Failed,
    SecondAttempt,
    SecondRuns,
    Destroyed,
}

impl Moment {
    /// Whether the run of the current attempt is at work.
    fn is_at_work(self) -> bool {
        match self {
            Self::AtOnce | Self::Later | Self::SecondAttempt => true,
            Self::Running | Self::Failed | Self::SecondRuns | Self::Destroyed => false,
        }
    }
}

const MOMENTS: [Moment; 7] = [
    Moment::AtOnce,
    Moment::Later,
    Moment::Running,
    Moment::Failed,
    Moment::SecondAttempt,
    Moment::SecondRuns,
    Moment::Destroyed,
];

/// A provision at that moment, and all that was captured on the way there.
async fn come_to(service: &Service, moment: Moment) -> (Uuid, Vec<Captured>) {
    let id = Uuid::new_v4();
    let mut captured = Vec::new();
    let about = json!({"agent_id": "web-1", "region": "fsn1"});
    let started = Captured::new(("started", "started"), id, FIRST, about);
    let (_, names) = started.send(service, "POST", &started.endpoint()).await;
    captured.push(started);
    let made = service.make_all(&names);
    let ids = |more: Value| merged(&[made.ids(), more]);
    let step = json!({"step": "vm_created", "server_id": made.server, "server_ip": "192.0.2.1"});
    for one in [
        Captured::new(("progress", "progress"), id, FIRST, step),
        Captured::new(("heartbeat", "progress"), id, FIRST, json!({})),
        Captured::new(
            ("heartbeat with ids", "progress"),
            id,
            FIRST,
            json!({"server_id": made.server, "server_ip": "192.0.2.1"}),
        ),
    ] {
        one.is_accepted(service).await;
        captured.push(one);
    }
    if moment == Moment::AtOnce {
        return (id, captured);
    }
    // It goes on, and makes its server once more.
    let again = json!({"step": "configured", "server_id": "4711", "server_ip": "192.0.2.99"});
    let again = Captured::new(("later progress", "progress"), id, FIRST, again);
    again.is_accepted(service).await;
    captured.push(again);
    if moment == Moment::Later {
        return (id, captured);
    }
    let success = Captured::new(("success", "success"), id, FIRST, made.ids());
    if moment != Moment::Failed {
        success.is_accepted(service).await;
        captured.push(success);
    }
    if moment == Moment::Running {
        return (id, captured);
    }
    let error = ids(json!({"error": "ansible failed", "failed_step": "configure"}));
    let failure = Captured::new(("failure", "failure"), id, FIRST, error);
    failure.is_accepted(service).await;
    captured.push(failure);
    // What workers do must not be taken for what a replay does.
    settle(service, id).await;
    match moment {
        Moment::SecondAttempt | Moment::SecondRuns => {
            let second = second_attempt(service, id).await;
            if moment == Moment::SecondRuns {
                let answer = service.callback("success", id, SECOND, second.ids()).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
        Moment::Destroyed => {
            let path = format!("/v1/provisions/{id}");
            service.operate("DELETE", &path, None).await;
            settle(service, id).await;
        }
        _ => {}
    }
    (id, captured)
}

async fn second_attempt(service: &Service, id: Uuid) -> Made {
    let made = service.make_all(&service.started(id, SECOND).await);
    let step = json!({"step": "vm_created", "server_id": made.server});
    service.callback("progress", id, SECOND, step).await;
    made
}

/// Until nothing is left to do, for its search waits for what may come late.
async fn settle(service: &Service, id: Uuid) {
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while service.provision(id).await["rollback"]["state"] != "done" {
        assert!(std::time::Instant::now() < deadline);
        service.advance(Duration::from_secs(30)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn merged(parts: &[Value]) -> Value {
    let parts = parts.iter().filter_map(Value::as_object).cloned();
    Value::Object(parts.flatten().collect())
}

/// Where it is sent, and which answers are right there. No answers: those of its own endpoint.
fn targets(
    captured: &Captured,
    other: Uuid,
) -> Vec<(String, &'static str, String, &'static [u16])> {
    let (id, kind, own) = (captured.provision, captured.kind, captured.endpoint());
    let mut targets = Vec::new();
    let mut add = |what: &str, method, path: String, right: &'static [u16]| {
        targets.push((what.to_owned(), method, path, right));
    };
    add("its own endpoint", "POST", own.clone(), &[]);
    for of in ["started", "progress", "success", "failure"] {
        if of != kind {
            let path = format!("/v1/provisions/{id}/callbacks/{of}");
            add(&format!("the endpoint of {of}"), "POST", path, &[422]);
        }
        let path = format!("/v1/provisions/{other}/callbacks/{of}");
        add(&format!("another provision's {of}"), "POST", path, &[422]);
    }
    let never = Uuid::new_v4();
    let path = format!("/v1/provisions/{never}/callbacks/{kind}");
    add("a provision that never was", "POST", path, &[422]);
    add(
        "GitHub's webhook",
        "POST",
        "/v1/github/webhook".to_owned(),
        &[401],
    );
    add(
        "POST /v1/provisions",
        "POST",
        "/v1/provisions".to_owned(),
        &[401],
    );
    let path = format!("/v1/provisions/{id}");
    add("DELETE of the provision", "DELETE", path.clone(), &[401]);
    add("GET of the provision", "GET", path.clone(), &[401]);
    add("POST of the provision", "POST", path, &[405]);
    let path = format!("/v1/provisions/{id}/rollback");
    add("a retry", "POST", path, &[401]);
    add(
        "a retry as an operator's form",
        "POST",
        format!("/provisions/{id}/rollback"),
        &[403],
    );
    add(
        "a destroy as an operator's form",
        "POST",
        format!("/provisions/{id}/destroy"),
        &[403],
    );
    add("metrics", "GET", "/metrics".to_owned(), &[401]);
    add("its own endpoint, by PUT", "PUT", own.clone(), &[405]);
    add("its own endpoint, by DELETE", "DELETE", own.clone(), &[405]);
    add(
        "its own with a slash behind",
        "POST",
        format!("{own}/"),
        &[404],
    );
    add(
        "its own with two slashes",
        "POST",
        own.replace("/callbacks", "//callbacks"),
        &[404],
    );
    add(
        "its own with a dot segment",
        "POST",
        own.replace("/callbacks", "/%2e%2e/callbacks"),
        &[400, 404],
    );
    add("its own in capitals", "POST", own.to_uppercase(), &[404]);
    add(
        "the kind in capitals",
        "POST",
        own.replace(kind, &kind.to_uppercase()),
        &[404],
    );
    add(
        "the kind with a parameter",
        "POST",
        format!("{own};x"),
        &[404],
    );
    add(
        "the kind percent-encoded",
        "POST",
        own.replace(kind, &encoded(kind)),
        &[],
    );
    let upper = id.to_string().to_uppercase();
    add(
        "the id in capitals",
        "POST",
        own.replace(&id.to_string(), &upper),
        &[],
    );
    add(
        "the id percent-encoded",
        "POST",
        own.replace(&id.to_string(), &encoded(&id.to_string())),
        &[],
    );
    add(
        "a query behind",
        "POST",
        format!("{own}?provision_id={other}&type=failure"),
        &[],
    );
    targets
}

fn encoded(text: &str) -> String {
    let digits = text.bytes().map(|byte| format!("%{byte:02X}"));
    digits.collect::<Vec<_>>().concat()
}

/// The rows without what moves when somebody is heard, whatever he says.
pub async fn rows_but_when_heard(service: &Service) -> Vec<String> {
    whole(&service.pool)
        .await
        .into_iter()
        .map(|row| {
            let (table, row) = row.split_once(' ').unwrap();
            let mut row: Value = serde_json::from_str(row).unwrap();
            let moves: &[&str] = match table {
                "provisions" => &["version", "moved_by", "moved_from"],
                "attempts" => &["last_message_at", "last_heartbeat_at"],
                _ => &[],
            };
            for column in moves {
                row.as_object_mut().unwrap().remove(*column);
            }
            format!("{table} {row}")
        })
        .collect()
}

#[tokio::test]
async fn whatever_is_captured_changes_nothing_anywhere_when_it_is_sent_again() {
    let service = Service::start().await;
    let other = Uuid::new_v4();
    service.started(other, Run(300, 1)).await;
    let (mut lines, mut failures) = (0, Vec::new());
    for moment in MOMENTS {
        let (_, captured) = come_to(&service, moment).await;
        service.sim.clear_history();
        for captured in captured {
            let own = captured.send(&service, "POST", &captured.endpoint()).await;
            // The owner of a live attempt is heard however often he says the same.
            let is_heard = captured.is_heartbeat() || moment.is_at_work();
            let rows = async || {
                if is_heard {
                    rows_but_when_heard(&service).await
                } else {
                    whole(&service.pool).await
                }
            };
            let mut before = rows().await;
            for (target, method, path, right) in targets(&captured, other) {
                lines += 1;
                let (status, answer) = captured.send(&service, method, &path).await;
                let after = rows().await;
                let changed = difference(&before, &after);
                before = after;
                let mut problem = String::new();
                let is_right = if right.is_empty() {
                    same(&own, &(status, answer.clone()))
                } else {
                    right.contains(&status)
                };
                if !is_right {
                    problem = format!("answered {status} {answer}");
                }
                if !changed.is_empty() {
                    problem = format!("{problem} changed {changed:#?}");
                }
                if !problem.is_empty() {
                    failures.push(format!(
                        "{moment:?}: {} to {target}: {problem}",
                        captured.what
                    ));
                }
            }
        }
        let deleted = crate::log::asked_to_delete(&service.sim);
        assert!(deleted.is_empty(), "{moment:?}: {deleted:?}");
    }
    let count = failures.len();
    assert!(count == 0, "{count} of {lines}:\n{}", failures.join("\n"));
}

/// Problems differ in the id of their request.
fn same(one: &(u16, Value), other: &(u16, Value)) -> bool {
    let face = |(status, body): &(u16, Value)| {
        let mut body = body.clone();
        if let Some(problem) = body.as_object_mut() {
            problem.remove("request_id");
        }
        (*status, body)
    };
    face(one) == face(other)
}

#[tokio::test]
async fn a_heartbeat_that_is_sent_again_and_again_does_not_outlive_the_deadline() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, FIRST).await;
    let heartbeat = Captured::new(("heartbeat", "progress"), id, FIRST, json!({}));
    heartbeat.is_accepted(&service).await;
    let deadline = service.provision(id).await["deadline_at"].clone();
    // By the database's time; by the time that the signature counts by they are sent at once.
    for _ in 0..7 {
        service.pass(Duration::from_secs(240)).await;
        heartbeat.is_accepted(&service).await;
        assert_eq!(service.provision(id).await["deadline_at"], deadline);
    }
    service.pass(Duration::from_secs(240)).await;
    let provision = service.until(id, |it| it["status"] == "failed").await;
    assert_eq!(provision["rollback"]["reason"], "deadline");
}

/// What docs/security.md says of the bound: a message that was refused has changed nothing, and says
/// what its run could say now.
#[tokio::test]
async fn a_refused_start_that_is_sent_again_is_judged_anew_and_begins_only_its_own_runs_attempt() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    service.started(id, FIRST).await;
    let refused = Captured::new(("started", "started"), id, Run(200, 1), json!({}));
    let (status, answer) = refused.send(&service, "POST", &refused.endpoint()).await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("already_provisioning"))
    );
    let nothing = json!({"may_exist": []});
    service.callback("failure", id, FIRST, nothing).await;
    service.settled(id).await;

    refused.is_accepted(&service).await;
    let provision = service.provision(id).await;
    assert_eq!(
        (&provision["attempt"], &provision["run_id"]),
        (&json!(2), &json!(200))
    );
    // Nobody follows it up: its time ends it, and there is nothing to delete.
    service.pass(Duration::from_secs(1801)).await;
    service.until(id, |it| it["status"] == "failed").await;
    let deleted = crate::log::asked_to_delete(&service.sim);
    assert!(deleted.is_empty(), "{deleted:?}");
}

/// What docs/security.md says of two installations with one secret, and why they should not have it.
#[tokio::test]
async fn a_callback_of_another_installation_deletes_nothing_here() {
    let (here, there) = (Service::start().await, Service::start().await);
    let id = Uuid::new_v4();
    let made = there.make_all(&there.started(id, FIRST).await);
    // The same vendors' ids, by chance or because it is the same project.
    let own = here.sim.add_server("web", [("team", "finance")]);
    let ids = merged(&[made.ids(), json!({"server_id": own.to_string()})]);
    let failure = Captured::new(("failure", "failure"), id, FIRST, ids);
    failure.is_accepted(&here).await;
    here.until(id, |provision| {
        let steps = provision["rollback"]["steps"].as_array().unwrap();
        steps.iter().any(|step| step["state"] == "refused")
    })
    .await;
    assert_eq!(here.alive(), ["server web"]);
    assert!(crate::log::asked_to_delete(&here.sim).is_empty());
}
