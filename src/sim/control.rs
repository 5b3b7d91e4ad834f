//! `/sim/…`: what tests and people do behind the vendors' backs, over HTTP.
//!
//! Needs no token, does not count as a vendor request and is not in the history. Every call has a
//! method of [`Sim`](super::Sim) that does the same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get, post, put},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BelongingKind, Shared, Tokens, faults::Fault, snapshot::HistoryEntry};

type Control = State<Arc<Shared>>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/sim/state", get(state))
        .route("/sim/history", get(history).delete(clear_history))
        .route("/sim/environment", get(environment))
        .route(
            "/sim/faults",
            get(faults).post(add_fault).delete(clear_faults),
        )
        .route("/sim/rate", put(set_rate))
        .route("/sim/tokens", put(change_tokens))
        .route("/sim/servers", post(add_server))
        .route("/sim/servers/{id}", delete(remove_server))
        .route("/sim/servers/{id}/labels", put(relabel_server))
        .route("/sim/servers/{id}/lock", post(lock_server))
        .route("/sim/servers/{id}/protect", post(protect_server))
        .route("/sim/belongings", post(add_belonging))
        .route("/sim/devices", post(add_device))
        .route("/sim/devices/{id}", delete(remove_device))
        .route("/sim/devices/{id}/hostname", put(rename_device))
        .route("/sim/keys", post(add_key))
        .route("/sim/enrol", post(enrol))
        .route("/sim/runs", post(start_run))
        .route("/sim/runs/{id}", put(change_run))
        .route("/sim/runs/{id}/rerun", post(rerun))
        .route("/sim/webhooks", put(send_webhooks))
}

fn found(found: bool) -> StatusCode {
    if found {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

async fn state(shared: Control) -> Json<Value> {
    Json(json!({
        "servers": shared.servers(),
        "belongings": shared.belongings(),
        "devices": shared.devices(),
        "keys": shared.keys(),
        "runs": shared.runs(),
    }))
}

async fn history(shared: Control) -> Json<Vec<HistoryEntry>> {
    Json(shared.world().history())
}

async fn clear_history(shared: Control) -> StatusCode {
    shared.world().clear_history();
    StatusCode::NO_CONTENT
}

async fn environment(shared: Control) -> Json<BTreeMap<&'static str, String>> {
    Json(shared.environment().into_iter().collect())
}

async fn faults(shared: Control) -> Json<Vec<Fault>> {
    Json(shared.world().faults.list())
}

/// One fault, or several that are scripted together.
#[derive(Deserialize)]
#[serde(untagged)]
enum Faults {
    Several(Vec<Fault>),
    One(Fault),
}

async fn add_fault(shared: Control, Json(faults): Json<Faults>) -> StatusCode {
    let faults = match faults {
        Faults::Several(faults) => faults,
        Faults::One(fault) => vec![fault],
    };
    let mut world = shared.world();
    for fault in faults {
        world.faults.add(fault);
    }
    StatusCode::NO_CONTENT
}

async fn clear_faults(shared: Control) -> StatusCode {
    shared.world().faults.clear();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Rate {
    remaining: u32,
}

async fn set_rate(shared: Control, Json(rate): Json<Rate>) -> StatusCode {
    shared.set_rate_remaining(rate.remaining);
    StatusCode::NO_CONTENT
}

async fn change_tokens(shared: Control, Json(tokens): Json<Tokens>) -> StatusCode {
    shared.change_tokens(tokens);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct NewServer {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    after_ms: Option<u64>,
}

async fn add_server(shared: Control, Json(new): Json<NewServer>) -> (StatusCode, Json<Value>) {
    if let Some(after) = new.after_ms {
        shared.schedule_server(Duration::from_millis(after), &new.name, new.labels);
        return (StatusCode::ACCEPTED, Json(Value::Null));
    }
    let id = shared.add_server(&new.name, new.labels);
    (StatusCode::CREATED, Json(json!({"id": id})))
}

async fn remove_server(shared: Control, Path(id): Path<u64>) -> StatusCode {
    found(shared.world().project.remove(id))
}

async fn relabel_server(
    shared: Control,
    Path(id): Path<u64>,
    Json(labels): Json<BTreeMap<String, String>>,
) -> StatusCode {
    found(shared.relabel_server(id, labels))
}

#[derive(Deserialize)]
struct Lock {
    for_ms: u64,
}

async fn lock_server(shared: Control, Path(id): Path<u64>, Json(lock): Json<Lock>) -> StatusCode {
    found(shared.lock_server(id, Duration::from_millis(lock.for_ms)))
}

#[derive(Deserialize)]
struct Protection {
    delete: bool,
}

async fn protect_server(
    shared: Control,
    Path(id): Path<u64>,
    Json(protection): Json<Protection>,
) -> StatusCode {
    found(shared.set_protected(id, protection.delete))
}

#[derive(Deserialize)]
struct NewBelonging {
    kind: BelongingKind,
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    server: Option<u64>,
}

async fn add_belonging(
    shared: Control,
    Json(new): Json<NewBelonging>,
) -> (StatusCode, Json<Value>) {
    let id = shared.add_belonging(new.kind, &new.name, new.labels, new.server);
    (StatusCode::CREATED, Json(json!({"id": id})))
}

#[derive(Deserialize)]
struct NewDevice {
    hostname: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    after_ms: Option<u64>,
}

async fn add_device(shared: Control, Json(new): Json<NewDevice>) -> (StatusCode, Json<Value>) {
    if let Some(after) = new.after_ms {
        shared.schedule_device(Duration::from_millis(after), &new.hostname, new.tags);
        return (StatusCode::ACCEPTED, Json(Value::Null));
    }
    let node_id = shared.add_device(&new.hostname, &new.tags);
    (StatusCode::CREATED, Json(json!({"nodeId": node_id})))
}

async fn remove_device(shared: Control, Path(id): Path<String>) -> StatusCode {
    found(shared.world().tailnet.remove_device(&id).is_some())
}

#[derive(Deserialize)]
struct Hostname {
    hostname: String,
}

async fn rename_device(
    shared: Control,
    Path(id): Path<String>,
    Json(new): Json<Hostname>,
) -> StatusCode {
    found(shared.world().tailnet.rename_device(&id, &new.hostname))
}

#[derive(Deserialize)]
struct NewKey {
    description: String,
    #[serde(default)]
    tags: Vec<String>,
}

async fn add_key(shared: Control, Json(new): Json<NewKey>) -> (StatusCode, Json<Value>) {
    let (id, key) = shared.mint_key(&new.description, &new.tags);
    (StatusCode::CREATED, Json(json!({"id": id, "key": key})))
}

#[derive(Deserialize)]
struct Enrolment {
    auth_key: String,
    hostname: String,
}

async fn enrol(shared: Control, Json(new): Json<Enrolment>) -> (StatusCode, Json<Value>) {
    match shared.enrol(&new.auth_key, &new.hostname) {
        Some(node_id) => (StatusCode::CREATED, Json(json!({"nodeId": node_id}))),
        None => (
            StatusCode::FORBIDDEN,
            Json(json!({"message": "the auth key is unknown, revoked, expired or used up"})),
        ),
    }
}

async fn start_run(shared: Control) -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({"id": shared.start_run()})))
}

#[derive(Deserialize)]
struct RunChange {
    status: String,
    #[serde(default)]
    conclusion: Option<String>,
}

async fn change_run(
    shared: Control,
    Path(id): Path<u64>,
    Json(change): Json<RunChange>,
) -> StatusCode {
    found(shared.change_run(id, &change.status, change.conclusion.as_deref()))
}

async fn rerun(shared: Control, Path(id): Path<u64>) -> StatusCode {
    found(shared.rerun(id))
}

#[derive(Deserialize)]
struct Webhooks {
    url: String,
    secret: String,
}

async fn send_webhooks(shared: Control, Json(to): Json<Webhooks>) -> StatusCode {
    if shared.send_webhooks_to(&to.url, &to.secret) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}
