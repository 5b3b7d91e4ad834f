//! Workflows that fail, against a server that comes and goes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backstop::providers::loopback_client;
use backstop::sim::Sim;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::harness::{Made, OPERATOR, PATIENCE, Run, SECRET, TAG, callback_body, labels, sign};
use crate::log;

pub const RUN: Run = Run(100, 1);

/// A client that finds the server again after it moved.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    urls: watch::Receiver<Vec<String>>,
}

impl Client {
    pub fn new(urls: watch::Receiver<Vec<String>>) -> Self {
        Self {
            http: loopback_client().unwrap(),
            urls,
        }
    }

    fn url(&self) -> Option<String> {
        let urls = self.urls.borrow();
        let any = usize::from(Uuid::new_v4().as_bytes()[0]);
        urls.get(any % urls.len().max(1)).cloned()
    }

    /// A callback, sent once. `None`: nobody answered.
    pub async fn callback_once(&self, kind: &str, id: Uuid, more: &Value) -> Option<(u16, Value)> {
        let body = callback_body(kind, id, RUN, more.clone()).to_string();
        let message = format!("msg_{}", Uuid::new_v4());
        let (at, signature) = sign(SECRET, &message, &body);
        let path = format!("/v1/provisions/{id}/callbacks/{kind}");
        let request = self
            .http
            .post(self.url()? + &path)
            .header("content-type", "application/json")
            .header("webhook-id", message)
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .body(body);
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.unwrap_or_default()))
    }

    /// A callback, sent until it is accepted, as the workflow does.
    pub async fn callback(&self, kind: &str, id: Uuid, more: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.callback_once(kind, id, more).await {
                Some((200 | 202, body)) => return body,
                Some((503, _)) | None => {}
                Some(other) => panic!("{kind} of {id}: {other:?}"),
            }
            assert!(Instant::now() < deadline, "{kind} of {id} was never taken");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks for a provision; its id.
    pub async fn ask_for_one(&self) -> Option<Uuid> {
        let request = self.http.post(self.url()? + "/v1/provisions");
        let request = request.json(&json!({"agent_id": "web-1"}));
        let response = request.bearer_auth(OPERATOR).send().await.ok()?;
        let body: Value = response.error_for_status().ok()?.json().await.ok()?;
        body["id"].as_str()?.parse().ok()
    }

    pub async fn provision(&self, id: Uuid) -> Option<Value> {
        let request = self.http.get(format!("{}/v1/provisions/{id}", self.url()?));
        let response = request.bearer_auth(OPERATOR).send().await.ok()?;
        let found = response.status().is_success();
        let body = response.json().await.ok()?;
        found.then_some(body)
    }
}

/// What was made, and which failures were acknowledged.
#[derive(Default)]
pub struct Book {
    pub made: Mutex<Vec<Made>>,
    pub acknowledged: Mutex<Vec<Uuid>>,
}

/// One provision that makes everything and fails; every third one forgets its ids.
pub async fn fail(client: &Client, sim: &Sim, book: &Book, number: usize) {
    let id = Uuid::new_v4();
    let started = client
        .callback("started", id, &json!({"agent_id": "a"}))
        .await;
    let made = make_all(sim, &started);
    let ids = if number.is_multiple_of(3) {
        json!({})
    } else {
        made.ids()
    };
    book.made.lock().unwrap().push(made);
    client.callback("failure", id, &ids).await;
    book.acknowledged.lock().unwrap().push(id);
}

pub fn make_all(sim: &Sim, started: &Value) -> Made {
    let name = started["server_name"].as_str().unwrap();
    let description = started["tailscale"]["key_description"].as_str().unwrap();
    Made {
        key: Some(sim.add_key(description, &[TAG])),
        server: sim.add_server(name, labels(started)),
        device: Some(sim.add_device(name, &[TAG])),
    }
}

/// Fails `provisions` of them, `at_once` at a time.
pub async fn fail_many(
    client: &Client,
    sim: &Arc<Sim>,
    book: &Arc<Book>,
    provisions: usize,
    at_once: usize,
) {
    let tasks = (0..at_once).map(|lane| {
        let (client, sim, book) = (client.clone(), sim.clone(), book.clone());
        tokio::spawn(async move {
            for number in (lane..provisions).step_by(at_once) {
                fail(&client, &sim, &book, number).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Every acknowledged failure is in the database with its three searches.
pub async fn check_acknowledged(pool: &PgPool, book: &Book) {
    let acknowledged = book.acknowledged.lock().unwrap().clone();
    let there: i64 = sqlx::query_scalar(
        "select count(*) from provisions p
         where id = any($1) and status = 'failed'
           and 3 = (select count(*) from steps where provision_id = p.id and searches)
           and exists (select from events
                       where provision_id = p.id and kind = 'callback.failure')",
    )
    .bind(&acknowledged)
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(usize::try_from(there).unwrap(), acknowledged.len());
}

/// Moves time past leases until no step is unsettled, at most so often.
pub async fn settle_all(pool: &PgPool) {
    let deadline = Instant::now() + PATIENCE;
    let mut look = 0;
    loop {
        let unsettled: i64 =
            sqlx::query_scalar("select count(*) from steps where settled_at is null")
                .fetch_one(pool)
                .await
                .unwrap();
        if unsettled == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{unsettled} steps are unsettled");
        look += 1;
        // A lease at first, then little by little up to the end of the late-arrival window.
        let by = if look == 1 { 121.0 } else { 2.0 };
        sqlx::query(
            "update controller set clock_offset = clock_offset + make_interval(secs => $1)",
        )
        .bind(by)
        .execute(pool)
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Things that look like ours and are not.
pub struct Foreign(Vec<String>);

impl Foreign {
    pub fn add(sim: &Sim) -> Self {
        let controller = Uuid::new_v4().to_string();
        let server = sim.add_server(
            "agent-of-another",
            [
                ("managed-by", "backstop"),
                ("backstop-controller", &controller),
            ],
        );
        Self(vec![
            server.to_string(),
            sim.add_server("database", [("team", "finance")])
                .to_string(),
            sim.add_device("agent-of-another", &[TAG]),
            sim.add_key("somebody else's", &[TAG]),
        ])
    }

    /// They are all that is left, and nobody ever asked to delete them.
    pub fn check_they_are_all_that_is_left(&self, sim: &Sim) {
        let servers = sim
            .servers()
            .into_iter()
            .map(|server| server.id.to_string());
        let devices = sim.devices().into_iter().map(|device| device.node_id);
        let keys = sim.keys().into_iter().filter(|key| !key.revoked);
        let left: Vec<String> = servers
            .chain(devices)
            .chain(keys.map(|key| key.id))
            .collect();
        assert_eq!(left, self.0);
        let asked = log::asked_to_delete(sim);
        assert!(self.0.iter().all(|id| !asked.contains(id)));
    }
}
