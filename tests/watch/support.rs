//! What several of these tests look at.

use std::time::Duration;

use backstop::domain::names::ProvisionId;
use backstop::domain::overdue::Patience;
use backstop::store;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::harness::{Made, Options, Run, Service};

pub const RUN: Run = Run(100, 1);

/// As [`Options::default`] says.
pub const PATIENCE: Patience = Patience {
    heartbeat_timeout: Duration::from_secs(300),
    provision_timeout: Duration::from_secs(1800),
};

/// Without Tailscale: one kind of thing is enough to see what becomes of it.
pub fn servers_only() -> Options {
    Options {
        tailscale: false,
        ..Options::default()
    }
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A provision that was started and made all it makes.
pub async fn under_way(service: &Service) -> (Uuid, Made) {
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    (id, made)
}

/// A provision that succeeded.
pub async fn in_use(service: &Service) -> (Uuid, Made) {
    let (id, made) = under_way(service).await;
    let answer = service.callback("success", id, RUN, made.ids()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (id, made)
}

pub async fn heartbeat(service: &Service, id: Uuid) -> u16 {
    service
        .callback("progress", id, RUN, json!({}))
        .await
        .status
}

/// How long the watcher would still wait for a provision; `None`: it does not wait for it.
pub async fn due_in(pool: &PgPool, id: Uuid) -> Option<Duration> {
    let mut db = pool.acquire().await.unwrap();
    let waited_for = store::overdue::soonest(&mut db, &PATIENCE, 1000)
        .await
        .unwrap();
    waited_for
        .into_iter()
        .find(|it| it.provision == ProvisionId::new(id))
        .map(|it| it.due_in)
}

/// Waits until the watcher waits for a provision at all, so until there was a pulse.
pub async fn is_waited_for(service: &Service, id: Uuid) -> Duration {
    until(async || due_in(&service.pool, id).await).await
}

/// Waits until there is something.
pub async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "it never was");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn failed(service: &Service, id: Uuid) -> Value {
    service
        .until(id, |provision| provision["status"] == "failed")
        .await
}

/// Those of a provision's events.
pub async fn events(service: &Service, id: Uuid, kind: &str) -> Vec<Value> {
    let mut events = service.events(id).await;
    events.retain(|event| event["kind"] == kind);
    events
}

/// The hold as `GET /readyz` shows it.
pub async fn hold(service: &Service) -> Value {
    let answer = service.send(service.request("GET", "/readyz")).await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (200, &json!("ready"))
    );
    answer.body["hold"].clone()
}

/// Waits until the database is held for this reason.
pub async fn is_held(service: &Service, reason: &str) {
    let held = until(async || Some(hold(service).await).filter(|hold| !hold.is_null())).await;
    assert_eq!(held["reason"], reason);
    assert!(held["since"].is_string(), "{held}");
}

/// Waits until the running replicas have pulsed twice more, so once for certain since now.
pub async fn pulsed(pool: &PgPool) {
    let pulses = async || -> i64 {
        sqlx::query_scalar("select pulses from hearing")
            .fetch_one(pool)
            .await
            .unwrap()
    };
    let before = pulses().await;
    until(async || (pulses().await >= before + 2).then_some(())).await;
}
