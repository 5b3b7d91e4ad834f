//! Who may say what, when: the whole table of callers, statuses and callbacks, and that attempts
//! never touch each other's machines.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, Run, Service};
use crate::support::{face, kinds, named, said, step_names};

/// The owner of attempt 1 where attempt 2 superseded it, and where it failed first.
const OLDER: [Run; 2] = [Run(100, 1), Run(300, 5)];
/// The owner of attempt 2.
const OWNER: Run = Run(100, 3);
const HIGHER: Run = Run(100, 4);
const LOWER: Run = Run(100, 2);
const OTHER: Run = Run(200, 9);

const KINDS: [&str; 4] = ["started", "progress", "success", "failure"];

/// A caller's answers to the four callbacks, by the provision's status.
type Row = (&'static str, &'static str, [&'static str; 4]);

const UNKNOWN: &str = "409 unknown_attempt";
const STALE: [&str; 4] = [
    "409 stale_attempt",
    "409 stale_attempt",
    "409 stale_attempt",
    "202 adds",
];

/// As the contract has it. `n+1`: opens the next attempt; `adds`: to an attempt that is over.
#[rustfmt::skip]
const TABLE: [Row; 20] = [
    ("owner", "provisioning", ["200 same", "200 learns", "200 runs", "202 fails"]),
    ("owner", "running", ["200 same", "200 stands", "200 stands", "202 fails"]),
    ("owner", "failed", ["409 already_failed", "409 already_failed", "409 already_failed", "202 adds"]),
    ("owner", "destroyed", ["409 already_destroyed", "409 already_failed", "409 already_failed", "202 adds"]),
    ("older", "provisioning", STALE),
    ("older", "running", STALE),
    ("older", "failed", STALE),
    ("older", "destroyed", STALE),
    ("higher", "provisioning", ["200 n+1", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("higher", "running", ["409 already_running", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("higher", "failed", ["200 n+1", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("higher", "destroyed", ["409 already_destroyed", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("lower", "provisioning", ["409 stale_attempt", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("lower", "running", ["409 stale_attempt", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("lower", "failed", ["409 stale_attempt", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("lower", "destroyed", ["409 already_destroyed", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("other", "provisioning", ["409 already_provisioning", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("other", "running", ["409 already_running", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("other", "failed", ["200 n+1", UNKNOWN, UNKNOWN, UNKNOWN]),
    ("other", "destroyed", ["409 already_destroyed", UNKNOWN, UNKNOWN, UNKNOWN]),
];

/// What every caller says in the cells: ids that nobody named before, but the same `started`.
fn message(kind: &str) -> Value {
    match kind {
        "started" => json!({"agent_id": "web-1", "region": "fsn1"}),
        "progress" => json!({"step": "booted", "server_id": "4242"}),
        "heartbeat" => json!({"server_id": "4242"}),
        "success" => json!({"server_id": "4242", "server_ip": "198.51.100.9",
                            "tailscale_ip": "100.64.0.9", "tailscale_node_id": "nNEW"}),
        _ => json!({"server_id": "4242", "error": "second", "conclusion": "cancelled"}),
    }
}

/// A provision whose second attempt is in this status; the answer to its owner's `started`.
async fn second_attempt(service: &Service, status: &str, older: Run) -> (Uuid, Value) {
    let id = Uuid::new_v4();
    service.started(id, older).await;
    if older.0 != OWNER.0 {
        let answer = service.callback("failure", id, older, json!({})).await;
        assert_eq!(answer.status, 202);
    }
    let started = service.started(id, OWNER).await;
    assert_eq!(started["attempt"], 2);
    let first =
        json!({"server_id": "1111", "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"});
    match status {
        "provisioning" => {}
        "running" | "destroyed" => {
            let answer = service.callback("success", id, OWNER, first).await;
            assert_eq!(answer.status, 200);
        }
        _ => {
            let first = json!({"server_id": "1111", "error": "first"});
            let answer = service.callback("failure", id, OWNER, first).await;
            assert_eq!(answer.status, 202);
        }
    }
    if status == "destroyed" {
        let path = format!("/v1/provisions/{id}");
        assert_eq!(service.operate("DELETE", &path, None).await.status, 202);
    }
    assert_eq!(service.provision(id).await["status"], status);
    (id, started)
}

fn run_of(caller: &str, older: Run) -> Run {
    match caller {
        "owner" => OWNER,
        "older" => older,
        "higher" => HIGHER,
        "lower" => LOWER,
        _ => OTHER,
    }
}

/// A provision and what was said about it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    face: Value,
    said: Vec<Value>,
}

async fn see(service: &Service, id: Uuid) -> Seen {
    Seen {
        face: face(&service.provision(id).await),
        said: said(service, id).await,
    }
}

/// All that the contract says of one cell.
struct Cell<'a> {
    name: String,
    kind: &'a str,
    caller: &'a str,
    run: Run,
    started: &'a Value,
    answer: &'a Answer,
    before: &'a Seen,
    after: &'a Seen,
}

impl Cell<'_> {
    fn check(&self, expected: &str) {
        let (http, what) = expected.split_once(' ').unwrap();
        let name = format!("{}: {:?}", self.name, self.answer);
        assert_eq!(self.answer.status.to_string(), http, "{name}");
        if http == "409" {
            assert_eq!(self.answer.code(), what, "{name}");
            // What the owner of an attempt that is over names must go; its `started` says nothing
            // that was not said before.
            if ["owner", "older"].contains(&self.caller) && self.kind != "started" {
                self.added();
                if self.kind != "heartbeat" {
                    let event = self.after.said.last().unwrap();
                    assert_eq!(event["data"]["refused"], what, "{name}");
                }
            } else {
                assert_eq!(self.before, self.after, "{name}");
            }
            return;
        }
        match what {
            "same" => {
                assert_eq!(self.answer.body, *self.started, "{name}");
                assert_eq!(self.before, self.after, "{name}");
            }
            "learns" | "stands" | "runs" => self.lives(what),
            "fails" => {
                assert_eq!(self.after.face["status"], "failed", "{name}");
                assert_eq!(self.after.face["rollback"]["reason"], "cancelled", "{name}");
                assert_eq!(self.after.face["error"], "second", "{name}");
                self.changed(&["callback.failure"]);
                self.answers_with_the_rollback_of(2);
                let steps = step_names(&self.after.face_with_steps());
                for step in ["auth_key -", "server -", "device -", "server 4242"] {
                    assert!(steps.contains(&format!("2 {step}")), "{name}: {steps:?}");
                }
            }
            "adds" => {
                self.added();
                self.answers_with_the_rollback_of(if self.caller == "owner" { 2 } else { 1 });
            }
            "n+1" => {
                assert_eq!(self.answer.body["attempt"], 3, "{name}");
                let new = &self.after.face;
                assert_eq!(new["status"], "provisioning", "{name}");
                assert_eq!(new["attempt"], 3, "{name}");
                assert_eq!(new["run_id"], self.run.0, "{name}");
                assert_eq!(new["run_attempt"], self.run.1, "{name}");
                assert_eq!(new["server_id"], Value::Null, "{name}");
                assert_eq!(new["error"], Value::Null, "{name}");
                let (live, reason) = (
                    self.before.face["status"] == "provisioning",
                    &new["rollback"]["reason"],
                );
                if live {
                    assert_eq!(reason, "superseded", "{name}");
                    self.changed(&["superseded", "callback.started"]);
                } else {
                    assert_eq!(*reason, self.before.face["rollback"]["reason"], "{name}");
                    self.changed(&["callback.started"]);
                }
                let steps = step_names(&self.after.face_with_steps());
                for step in ["auth_key -", "server -", "device -"] {
                    assert!(steps.contains(&format!("2 {step}")), "{name}: {steps:?}");
                }
                assert!(!steps.iter().any(|step| step.starts_with('3')), "{name}");
            }
            other => panic!("{other}"),
        }
    }

    fn lives(&self, what: &str) {
        let status = if what == "learns" {
            "provisioning"
        } else {
            "running"
        };
        let (name, new) = (&self.name, &self.after.face);
        assert_eq!(self.answer.body["status"], status, "{name}");
        assert_eq!(new["status"], status, "{name}");
        assert_eq!(new["attempt"], 2, "{name}");
        let first = if what == "stands" { "1111" } else { "4242" };
        assert_eq!(new["server_id"], first, "{name}");
        assert_eq!(new["rollback"], self.before.face["rollback"], "{name}");
        match self.kind {
            "heartbeat" => self.changed(&[]),
            kind => self.changed(&[&format!("callback.{kind}")]),
        }
        if self.kind == "progress" || self.kind == "heartbeat" {
            let deadline = &self.answer.body["deadline_at"];
            assert_eq!(*deadline, new["deadline_at"], "{name}");
            assert_eq!(deadline.is_null(), status == "running", "{name}");
        }
    }

    /// The named id has a step in the caller's attempt; nothing else changed but that.
    fn added(&self) {
        let (name, attempt) = (&self.name, if self.caller == "owner" { 2 } else { 1 });
        let mut steps = step_names(&self.before.face_with_steps());
        steps.push(format!("{attempt} server 4242"));
        if self.kind == "success" {
            steps.push(format!("{attempt} device nNEW"));
        }
        steps.sort();
        assert_eq!(step_names(&self.after.face_with_steps()), steps, "{name}");
        match self.kind {
            "heartbeat" => self.changed(&[]),
            kind => self.changed(&[&format!("callback.{kind}")]),
        }
        for field in [
            "status",
            "attempt",
            "run_id",
            "run_attempt",
            "step",
            "created_at",
        ] {
            assert_eq!(self.after.face[field], self.before.face[field], "{name}");
        }
        for field in ["reason", "started_at"] {
            let of = |seen: &Seen| seen.face["rollback"][field].clone();
            assert_eq!(of(self.after), of(self.before), "{name}");
        }
        if self.caller == "older" {
            let without = |seen: &Seen| {
                let mut face = seen.face.clone();
                face.as_object_mut()
                    .unwrap()
                    .retain(|key, _| key != "updated_at" && key != "rollback");
                face
            };
            assert_eq!(without(self.after), without(self.before), "{name}");
        }
    }

    fn answers_with_the_rollback_of(&self, attempt: i32) {
        let name = &self.name;
        assert_eq!(
            self.answer.body["status"], self.after.face["status"],
            "{name}"
        );
        let answered = named(self.answer.body["rollback"]["steps"].as_array());
        let own: Vec<String> = step_names(&self.after.face_with_steps())
            .into_iter()
            .filter(|step| step.starts_with(&format!("{attempt} ")))
            .collect();
        assert_eq!(answered, own, "{name}");
    }

    /// These and no others were added to what was said.
    fn changed(&self, added: &[&str]) {
        let (old, new) = self.after.said.split_at(self.before.said.len());
        assert_eq!(old, self.before.said, "{}", self.name);
        assert_eq!(kinds(new), added, "{}", self.name);
    }
}

impl Seen {
    fn face_with_steps(&self) -> Value {
        // `face` wrote the steps as names; as steps again.
        let steps = self.face["rollback"]["steps"].as_array();
        let steps: Vec<Value> = steps
            .into_iter()
            .flatten()
            .map(|name| {
                let mut words = name.as_str().unwrap().split(' ');
                let attempt: i32 = words.next().unwrap().parse().unwrap();
                let resource = words.next().unwrap();
                let id = words.next().filter(|&id| id != "-");
                json!({"attempt": attempt, "resource": resource, "vendor_id": id})
            })
            .collect();
        json!({"rollback": {"steps": steps}})
    }
}

async fn every_cell_of(status: &str) {
    let service = Service::start().await;
    for older in OLDER {
        for (caller, _, row) in TABLE.iter().filter(|row| row.1 == status) {
            let cells = KINDS.into_iter().zip(*row).chain([("heartbeat", row[1])]);
            for (kind, expected) in cells {
                let (id, started) = second_attempt(&service, status, older).await;
                let run = run_of(caller, older);
                let before = see(&service, id).await;
                let path = if kind == "heartbeat" {
                    "progress"
                } else {
                    kind
                };
                let answer = service.callback(path, id, run, message(kind)).await;
                let after = see(&service, id).await;
                let cell = Cell {
                    name: format!("{kind} from {caller} {run:?} on {status} after {older:?}"),
                    kind,
                    caller,
                    run,
                    started: &started,
                    answer: &answer,
                    before: &before,
                    after: &after,
                };
                cell.check(expected);

                // And again: the same answer, and nothing changes.
                let again = service.callback(path, id, run, message(kind)).await;
                assert_eq!(again.status, answer.status, "{}", cell.name);
                if answer.status == 200 {
                    assert_eq!(again.body, answer.body, "{}", cell.name);
                }
                assert_eq!(again.code(), answer.code(), "{}", cell.name);
                let mut unchanged = see(&service, id).await;
                if kind == "heartbeat" {
                    unchanged.face["last_heartbeat_at"] = after.face["last_heartbeat_at"].clone();
                }
                assert_eq!(unchanged, after, "{} again", cell.name);
            }
        }
    }
}

#[tokio::test]
async fn every_callback_on_provisioning_does_what_the_table_says() {
    every_cell_of("provisioning").await;
}

#[tokio::test]
async fn every_callback_on_running_does_what_the_table_says() {
    every_cell_of("running").await;
}

#[tokio::test]
async fn every_callback_on_failed_does_what_the_table_says() {
    every_cell_of("failed").await;
}

#[tokio::test]
async fn every_callback_on_destroyed_does_what_the_table_says() {
    every_cell_of("destroyed").await;
}

#[tokio::test]
async fn any_callback_on_a_queued_or_unknown_id_takes_attempt_1_and_is_then_the_owners() {
    let service = Service::start().await;
    for run in [OWNER, HIGHER, LOWER, OTHER, OLDER[0]] {
        for queued in [true, false] {
            for (kind, http, status) in [
                ("started", 200, "provisioning"),
                ("progress", 200, "provisioning"),
                ("heartbeat", 200, "provisioning"),
                ("success", 200, "running"),
                ("failure", 202, "failed"),
            ] {
                let name = format!("{kind} from {run:?}, queued: {queued}");
                let id = Uuid::new_v4();
                if queued {
                    let body = json!({"agent_id": "web-1", "id": id});
                    let answer = service.operate("POST", "/v1/provisions", Some(body)).await;
                    assert_eq!(
                        (answer.status, &answer.body["status"]),
                        (201, &json!("queued"))
                    );
                }
                let path = if kind == "heartbeat" {
                    "progress"
                } else {
                    kind
                };
                let answer = service.callback(path, id, run, message(kind)).await;
                assert_eq!(answer.status, http, "{name}: {answer:?}");
                let provision = service.provision(id).await;
                assert_eq!(provision["status"], status, "{name}");
                assert_eq!(provision["attempt"], 1, "{name}");
                assert_eq!(provision["run_id"], run.0, "{name}");
                assert_eq!(provision["run_attempt"], run.1, "{name}");
                let told = said(&service, id).await;
                match kind {
                    "heartbeat" => assert_eq!(kinds(&told), ["created"], "{name}"),
                    _ => assert_eq!(kinds(&told), ["created", &format!("callback.{kind}")]),
                }
                // The late `started` of the same run is the owner's.
                let answer = service.callback("started", id, run, json!({})).await;
                match status {
                    "failed" => assert_eq!(answer.code(), "already_failed", "{name}"),
                    _ => assert_eq!(answer.body["attempt"], 1, "{name}: {answer:?}"),
                }
            }
        }
    }
}
