//! Calls of a workflow and an operator: to replicas that come and go, and to the simulated vendors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use backstop::providers::loopback_client;
use backstop::sim::Sim;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use uuid::Uuid;

use crate::book::{Made, Names, now};
use crate::plan::Delivery;

pub const SECRET: &str = "whsec_dGhlLWNhbXBhaWduLXNlY3JldC1vZi10d28tZG96ZW4=";
pub const OPERATOR: &str = "operator-token-of-the-campaign";
pub const TAG: &str = "tag:agent";

/// How long one answer is waited for, as a workflow's `curl` would.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How long a message is repeated, while nothing is broken for nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The addresses of the replicas that run, by their number.
pub type Addresses = Arc<RwLock<Vec<Option<String>>>>;

/// What became of a message.
#[derive(Debug, Clone)]
pub enum Told {
    Accepted(Value),
    /// With this code.
    Refused(String),
    /// Nobody knows whether it was heard.
    Unknown,
    /// What no replica may ever answer.
    Broken(String),
}

/// Whoever calls.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    signer: Arc<Webhook>,
    addresses: Addresses,
    hetzner: String,
    tailscale: String,
    hcloud_token: String,
    tailscale_key: String,
    /// How many calls had no answer for [`ANSWER_PATIENCE`].
    pub unanswered: Arc<AtomicU64>,
}

impl Caller {
    pub fn new(sim: &Sim, addresses: Addresses) -> anyhow::Result<Self> {
        let options = sim.options();
        Ok(Self {
            client: loopback_client()?,
            signer: Arc::new(Webhook::new(SECRET)?),
            addresses,
            hetzner: sim.hetzner_url(),
            tailscale: sim.tailscale_url(),
            hcloud_token: options.hcloud_token,
            tailscale_key: options.tailscale_api_key,
            unanswered: Arc::default(),
        })
    }

    /// Sends a callback; how often it was repeated comes with what became of it.
    pub async fn callback(
        &self,
        rng: &mut StdRng,
        id: Uuid,
        kind: &str,
        body: &Value,
        delivery: Delivery,
    ) -> (Told, u64) {
        let path = format!("/v1/provisions/{id}/callbacks/{kind}");
        self.deliver(rng, delivery, |base| {
            let text = body.to_string();
            let message = format!("msg_{}", Uuid::new_v4());
            let at = now().timestamp();
            let signature = self
                .signer
                .sign(&message, at, text.as_bytes())
                .unwrap_or_default();
            self.client
                .post(format!("{base}{path}"))
                .header("content-type", "application/json")
                .header("webhook-id", message)
                .header("webhook-timestamp", at)
                .header("webhook-signature", signature)
                .body(text)
        })
        .await
    }

    /// A call of the operator's.
    pub async fn operate(
        &self,
        rng: &mut StdRng,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
        delivery: Delivery,
    ) -> (Told, u64) {
        self.deliver(rng, delivery, |base| {
            let request = self
                .client
                .request(method.clone(), format!("{base}{path}"))
                .bearer_auth(OPERATOR);
            match &body {
                Some(body) => request.json(body),
                None => request,
            }
        })
        .await
    }

    async fn deliver(
        &self,
        rng: &mut StdRng,
        delivery: Delivery,
        request: impl Fn(&str) -> reqwest::RequestBuilder,
    ) -> (Told, u64) {
        let began = Instant::now();
        let mut repeated = 0;
        loop {
            let base = self.any(rng);
            let told = match (&base, delivery) {
                (None, _) => None,
                (Some(base), Delivery::Certain) => self.answer(request(base)).await,
                (Some(base), Delivery::Twice) => {
                    let other = self.any(rng).unwrap_or_else(|| base.clone());
                    let both =
                        tokio::join!(self.answer(request(base)), self.answer(request(&other)));
                    both.0.or(both.1)
                }
                (Some(base), Delivery::Hasty(ms)) => {
                    let hung_up = Duration::from_millis(ms);
                    let heard = tokio::time::timeout(hung_up, self.answer(request(base))).await;
                    return (heard.ok().flatten().unwrap_or(Told::Unknown), 0);
                }
            };
            if let Some(told) = told {
                return (told, repeated);
            }
            if began.elapsed() > PATIENCE {
                let what = format!("no replica answered for {PATIENCE:?}");
                return (Told::Broken(what), repeated);
            }
            repeated += 1;
            let pause = rng.random_range(50..400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Option<Told> {
        answer(request, &self.unanswered).await
    }

    fn any(&self, rng: &mut StdRng) -> Option<String> {
        let addresses = self
            .addresses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.iter().flatten().choose(rng).cloned()
    }

    /// Mints an auth key: its id and its secret. `None`: the vendor said no, or nothing.
    pub async fn mint_key(&self, names: &Names) -> Option<(String, String)> {
        let answer = self
            .client
            .post(format!("{}/api/v2/tailnet/-/keys", self.tailscale))
            .bearer_auth(&self.tailscale_key)
            .json(&json!({
                "capabilities": {"devices": {"create": {
                    "reusable": false, "ephemeral": true, "preauthorized": true, "tags": [TAG],
                }}},
                "expirySeconds": 3600,
                "description": names.description,
            }));
        let body = vendor(answer).await?;
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        text("id").zip(text("key"))
    }

    /// Creates the server, which joins the tailnet at its first boot; its id. `None`: the vendor said
    /// no, or nothing.
    pub async fn create_server(&self, names: &Names, made: &Made) -> Option<String> {
        let labels: serde_json::Map<String, Value> = names
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let user_data = made.key.as_ref().map_or(String::new(), |(_, secret)| {
            let hostname = &names.hostname;
            format!("#!/bin/sh\ntailscale up --auth-key={secret} --hostname={hostname}\n")
        });
        let answer = self
            .client
            .post(format!("{}/servers", self.hetzner))
            .bearer_auth(&self.hcloud_token)
            .json(&json!({
                "name": names.server, "server_type": "cx22", "image": "ubuntu-24.04",
                "location": "fsn1", "labels": labels, "user_data": user_data,
            }));
        let body = vendor(answer).await?;
        body["server"]["id"].as_u64().map(|id| id.to_string())
    }

    /// What a workflow's own cleanup does: it tries each once.
    pub async fn clean_up(&self, made: &Made) {
        let hetzner = made.server.iter().map(|id| {
            let url = format!("{}/servers/{id}", self.hetzner);
            self.client.delete(url).bearer_auth(&self.hcloud_token)
        });
        let tailnet = format!("{}/api/v2", self.tailscale);
        let device = made
            .device
            .iter()
            .map(|id| format!("{tailnet}/device/{id}"));
        let key = made.key.iter();
        let key = key.map(|(id, _)| format!("{tailnet}/tailnet/-/keys/{id}"));
        let tailscale = device.chain(key).map(|url| {
            let request = self.client.delete(url);
            request.bearer_auth(&self.tailscale_key)
        });
        for request in hetzner.chain(tailscale) {
            let _ = request.send().await;
        }
    }
}

/// `None`: nothing that the sender could go by, so it is sent again.
async fn answer(request: reqwest::RequestBuilder, unanswered: &AtomicU64) -> Option<Told> {
    let sent = request.timeout(ANSWER_PATIENCE).send().await;
    if sent.as_ref().is_err_and(reqwest::Error::is_timeout) {
        unanswered.fetch_add(1, Ordering::Relaxed);
    }
    let response = sent.ok()?;
    let status = response.status().as_u16();
    let text = response.text().await.ok()?;
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let code = || body["code"].as_str().unwrap_or("no code").to_owned();
    match status {
        200..=299 => Some(Told::Accepted(body)),
        404 | 409 => Some(Told::Refused(code())),
        503 => None,
        500 if body["code"] == "internal" => Some(Told::Broken(format!("500 {text}"))),
        502 | 504 | 429 => None,
        _ => Some(Told::Broken(format!("{status} {text}"))),
    }
}

async fn vendor(request: reqwest::RequestBuilder) -> Option<Value> {
    let response = request.send().await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    response.json().await.ok()
}
