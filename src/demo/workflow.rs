//! A pretended provision workflow: what it makes at the vendors, and what it tells us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::providers::loopback_client;
use crate::sim::Sim;

/// Where workflows run: the service, and the vendors.
pub(super) struct Stage {
    pub sim: Sim,
    base: String,
    client: reqwest::Client,
    signer: Webhook,
    token: &'static str,
    tag: &'static str,
    runs: AtomicI64,
    began: Instant,
}

/// One run of the workflow for one provision.
pub(super) struct Run<'a> {
    stage: &'a Stage,
    name: String,
    pub id: Uuid,
    github_id: i64,
    attempt: i32,
    names: Value,
}

/// What a run made.
#[derive(Debug, Clone, Default)]
pub(super) struct Made {
    pub server: Option<u64>,
    pub device: Option<String>,
    pub key: Option<String>,
}

/// How a provision stands once its rollback has settled, or has not in time.
pub(super) struct Outcome {
    pub status: String,
    pub settled: bool,
    pub proofs: BTreeMap<String, String>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Stage {
    pub(super) fn new(
        api: SocketAddr,
        sim: Sim,
        secret: &str,
        token: &'static str,
        tag: &'static str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            sim,
            base: format!("http://{api}"),
            client: loopback_client()?,
            signer: Webhook::new(secret)?,
            token,
            tag,
            runs: AtomicI64::new(1000),
            began: Instant::now(),
        })
    }

    /// A run that has sent `started`, and so knows what to call things.
    pub(super) async fn start(&self, name: &str, id: Uuid) -> anyhow::Result<Run<'_>> {
        let run_id = self.runs.fetch_add(1, Ordering::Relaxed);
        self.start_attempt(name, id, run_id, 1).await
    }

    async fn start_attempt(
        &self,
        name: &str,
        id: Uuid,
        run_id: i64,
        run_attempt: i32,
    ) -> anyhow::Result<Run<'_>> {
        let mut run = Run {
            stage: self,
            name: name.to_owned(),
            id,
            github_id: run_id,
            attempt: run_attempt,
            names: Value::Null,
        };
        let body = json!({"agent_id": name, "region": "fsn1"});
        run.names = run.callback("started", body).await?;
        self.say(name, &format!("started, attempt {}", run.names["attempt"]));
        Ok(run)
    }

    /// Says what happens, with the time.
    pub(super) fn say(&self, name: &str, what: &str) {
        println!(
            "  {:>5.1}s  {name:<16} {what}",
            self.began.elapsed().as_secs_f64()
        );
    }

    /// What a workflow's own cleanup does.
    pub(super) async fn clean_up(&self, made: &Made) -> anyhow::Result<()> {
        if let Some(server) = made.server {
            self.sim.remove_server(server);
        }
        if let Some(device) = &made.device {
            self.sim.remove_device(device);
        }
        if let Some(key) = &made.key {
            let url = format!("{}/api/v2/tailnet/-/keys/{key}", self.sim.tailscale_url());
            let api_key = self.sim.options().tailscale_api_key;
            let answer = self.client.delete(url).bearer_auth(api_key).send().await?;
            ensure!(answer.status().is_success(), "key {key} was not revoked");
        }
        Ok(())
    }

    /// Destroys a provision and waits for it.
    pub(super) async fn destroy(&self, name: &str, id: Uuid) {
        self.say(name, "destroyed by an operator");
        let destroyed = async {
            let url = format!("{}/v1/provisions/{id}", self.base);
            self.client
                .delete(url)
                .bearer_auth(self.token)
                .send()
                .await?;
            self.watch(name, id).await
        };
        if let Err(error) = destroyed.await {
            self.say(name, &format!("cannot be destroyed: {error:#}"));
        }
    }

    /// Tells of each step as it settles, until all have.
    pub(super) async fn watch(&self, name: &str, id: Uuid) -> anyhow::Result<Outcome> {
        let mut told = BTreeMap::new();
        let until = Instant::now() + PATIENCE;
        loop {
            let url = format!("{}/v1/provisions/{id}", self.base);
            let request = self.client.get(url).bearer_auth(self.token);
            let provision: Value = request.send().await?.json().await?;
            let rollback = &provision["rollback"];
            let mut proofs = BTreeMap::new();
            for step in rollback["steps"].as_array().into_iter().flatten() {
                let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
                let (resource, vendor_id) = (text("resource"), text("vendor_id"));
                let key = (
                    step["attempt"].to_string(),
                    resource.clone(),
                    vendor_id.clone(),
                );
                let result = match (step["state"].as_str(), step["last_error"].as_str()) {
                    (Some("gone"), _) => text("proof"),
                    (Some("refused"), _) => "refused".to_owned(),
                    (_, Some(error)) => format!("not yet: {error}"),
                    _ => continue,
                };
                if step["state"] == "gone" && step["vendor_id"].is_string() {
                    proofs.insert(resource.clone(), result.clone());
                } else if step["state"] == "gone" {
                    proofs
                        .entry(resource.clone())
                        .or_insert_with(|| result.clone());
                }
                // Of a search that found something, the found thing's own step tells.
                if told.insert(key, result.clone()).as_ref() != Some(&result) {
                    let thing = format!("{} {vendor_id}", resource.replace('_', " "));
                    self.say(name, &format!("  {}: {result}", thing.trim_end()));
                }
            }
            let settled = rollback["state"] == "done";
            if settled || rollback.is_null() || Instant::now() > until {
                return Ok(Outcome {
                    status: provision["status"].as_str().unwrap_or_default().to_owned(),
                    settled,
                    proofs,
                });
            }
            sleep(Duration::from_millis(150)).await;
        }
    }
}

impl Run<'_> {
    /// The name that all it makes carries.
    pub(super) fn server_name(&self) -> String {
        self.names["server_name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The same run once more, as after "Re-run failed jobs".
    pub(super) async fn again(&self) -> anyhow::Result<Self> {
        self.stage
            .start_attempt(&self.name, self.id, self.github_id, self.attempt + 1)
            .await
    }

    /// Mints a key, makes a server, enrols it. The key is used up.
    pub(super) async fn make_all(&self) -> anyhow::Result<Made> {
        self.make(Sim::enrol_device).await
    }

    /// The same, but the device joined some other way and the key can still be used.
    pub(super) async fn make_all_and_leave_key(&self) -> anyhow::Result<Made> {
        let tag = self.stage.tag;
        self.make(|sim, _, hostname| Some(sim.add_device(hostname, &[tag])))
            .await
    }

    async fn make(
        &self,
        enrol: impl FnOnce(&Sim, &str, &str) -> Option<String>,
    ) -> anyhow::Result<Made> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let description = text(&self.names["tailscale"]["key_description"]);
        let (key_id, secret) = self.stage.sim.mint_key(&description, &[self.stage.tag]);
        self.callback(
            "progress",
            json!({"step": "key_minted", "tailscale_key_id": key_id}),
        )
        .await?;
        sleep(Duration::from_millis(300)).await;
        let labels: BTreeMap<String, String> =
            serde_json::from_value(self.names["labels"].clone())?;
        let server = self.stage.sim.add_server(&self.server_name(), labels);
        let device = enrol(&self.stage.sim, &secret, &self.server_name())
            .context("the device could not join")?;
        self.say(&format!(
            "made server {server}, device {device}, auth key {key_id}"
        ));
        Ok(Made {
            server: Some(server),
            device: Some(device),
            key: Some(key_id),
        })
    }

    pub(super) async fn progress(&self, step: &str, made: &Made) -> anyhow::Result<()> {
        let mut body = ids(made);
        body["step"] = json!(step);
        self.callback("progress", body).await.map(|_| ())
    }

    pub(super) async fn succeed(&self, made: &Made) -> anyhow::Result<()> {
        let mut body = ids(made);
        body["server_ip"] = json!("192.0.2.10");
        body["tailscale_ip"] = json!("100.64.0.10");
        self.callback("success", body).await?;
        self.say("success: the machine is in use");
        Ok(())
    }

    pub(super) async fn fail(
        &self,
        failed_step: &str,
        error: &str,
        made: &Made,
    ) -> anyhow::Result<()> {
        let mut body = ids(made);
        body["failed_step"] = json!(failed_step);
        body["error"] = json!(error);
        body["conclusion"] = json!("failure");
        self.callback("failure", body).await?;
        self.say(&format!("failure in {failed_step}: {error}"));
        Ok(())
    }

    pub(super) fn say(&self, what: &str) {
        self.stage.say(&self.name, what);
    }

    /// Sends a signed callback, as `curl` and `openssl` would.
    #[expect(
        clippy::disallowed_methods,
        reason = "a workflow signs by its own clock"
    )]
    async fn callback(&self, kind: &str, mut body: Value) -> anyhow::Result<Value> {
        body["type"] = json!(kind);
        body["provision_id"] = json!(self.id);
        body["run_id"] = json!(self.github_id);
        body["run_attempt"] = json!(self.attempt);
        let body = body.to_string();
        let message_id = format!("msg_{}", Uuid::new_v4());
        let at = chrono::Utc::now().timestamp();
        let signature = self.stage.signer.sign(&message_id, at, body.as_bytes())?;
        let url = format!(
            "{}/v1/provisions/{}/callbacks/{kind}",
            self.stage.base, self.id
        );
        let answer = self
            .stage
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", message_id)
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await
            .with_context(|| format!("the {kind} callback was not answered"))?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        ensure!(
            status.is_success(),
            "the {kind} callback was refused: {answer}"
        );
        Ok(answer)
    }
}

fn ids(made: &Made) -> Value {
    // An output that was never set is an empty string.
    json!({
        "server_id": made.server.map_or(String::new(), |id| id.to_string()),
        "tailscale_node_id": made.device.clone().unwrap_or_default(),
        "tailscale_key_id": made.key.clone().unwrap_or_default(),
    })
}
