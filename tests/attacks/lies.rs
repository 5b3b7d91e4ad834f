//! What a lie leads to: a step that is refused or tried again, never a wrong deletion, never a secret
//! in other hands. When the vendor stops lying, all goes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Made, Options, Run, Service, TAG, labels};
use crate::liar::{Elsewhere, Liar, Lie};
use crate::tables::{listen, logged};

/// How long one line may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// The furthest that time is moved at once: less than a lease.
const FASTEST: Duration = Duration::from_secs(60);

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AuthKey,
    Server,
    Device,
}

/// What becomes of the kind's steps while the lie is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// They are tried again and again; one of them says this.
    Unsettled(&'static str),
    /// The id that was reported is refused, and its search goes on.
    Refused(&'static str),
    /// They settle: there is better evidence.
    Settled,
}

/// A line: its name, whose steps it is about, what is told, and what comes of it.
pub type Line = (&'static str, Kind, fn(&World) -> Vec<Lie>, Meanwhile);

/// A provision that fails, and what must outlive it.
pub struct World {
    pub id: Uuid,
    pub started: Value,
    pub made: Made,
    pub others: Made,
    /// Where nobody should ever call.
    pub elsewhere: String,
    /// What is shown to Hetzner.
    pub token: String,
}

impl World {
    pub fn server(&self) -> u64 {
        self.made.server
    }

    pub fn key(&self) -> &str {
        self.made.key.as_ref().unwrap()
    }

    pub fn device(&self) -> &str {
        self.made.device.as_ref().unwrap()
    }

    /// The host name, which is the server's name too.
    pub fn name(&self) -> &str {
        self.started["server_name"].as_str().unwrap()
    }

    pub fn description(&self) -> &str {
        self.started["tailscale"]["key_description"]
            .as_str()
            .unwrap()
    }

    fn ids(&self, kind: Kind) -> (String, String) {
        match kind {
            Kind::AuthKey => (self.key().to_owned(), self.others.key.clone().unwrap()),
            Kind::Server => (self.server().to_string(), self.others.server.to_string()),
            Kind::Device => (
                self.device().to_owned(),
                self.others.device.clone().unwrap(),
            ),
        }
    }
}

/// A service behind a vendor that lies, with a machine in use.
pub struct Bench {
    pub service: Service,
    pub liar: Liar,
    pub elsewhere: Elsewhere,
    options: Options,
    neighbour: Made,
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(mut options: Options) -> Self {
        listen();
        // It is not about the rate limit, and sends more than an hour's worth.
        options.sim.rate_limit = 36_000;
        let (liar, service) = Liar::start(options.clone(), |_| {}).await;
        let (id, run) = (Uuid::new_v4(), Run(7, 1));
        let neighbour = service.make_all(&service.started(id, run).await);
        let answer = service.callback("success", id, run, neighbour.ids()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self {
            elsewhere: Elsewhere::start().await,
            service,
            liar,
            options,
            neighbour,
        }
    }

    /// Whatever would be bad to find in a log.
    pub fn secrets(&self) -> Vec<String> {
        let vendors = &self.options.sim;
        let mut secrets = self.liar.shown();
        secrets.push(vendors.hcloud_token.clone());
        secrets.push(vendors.oauth_client_secret.clone());
        secrets.push(vendors.github_token.clone());
        secrets
    }

    pub async fn world(&self) -> World {
        let (id, run) = (Uuid::new_v4(), Run(100, 1));
        let started = self.service.started(id, run).await;
        let made = self.service.make_all(&started);
        let sim = &self.service.sim;
        let others = Made {
            key: Some(sim.add_key("for people", &[TAG])),
            server: sim.add_server(&format!("finance-{}", id.simple()), [("team", "finance")]),
            device: Some(sim.add_device("laptop", &["tag:people"])),
        };
        World {
            id,
            started,
            made,
            others,
            elsewhere: self.elsewhere.url.clone(),
            token: self.token(),
        }
    }

    /// Goes through a table, and names all of its lines that fail.
    pub async fn go_through(&self, lines: &[Line]) {
        let mut failures = Vec::new();
        for line in lines {
            let begun = Instant::now();
            if let Err(problem) = self.try_out(line).await {
                failures.push(format!("{}: {problem}", line.0));
            }
            println!("{} took {:?}", line.0, begun.elapsed());
        }
        let (count, all) = (failures.len(), lines.len());
        assert!(count == 0, "{count} of {all}:\n{}", failures.join("\n"));
    }

    async fn try_out(&self, (_, kind, lies, meanwhile): &Line) -> Result<(), String> {
        let world = self.world().await;
        let deleted_before = self.liar.asked_to_delete().len();
        let logged_before = logged().len();
        self.liar.tell(lies(&world));
        let failure = self
            .service
            .callback("failure", world.id, Run(100, 1), world.made.ids())
            .await;
        if failure.status != 202 {
            return Err(format!("the callback: {failure:?}"));
        }
        let told = self.while_it_lies(&world, *kind, *meanwhile).await;
        self.liar.tell(Vec::new());
        told?;
        self.settle(&world).await?;

        // Whatever was said, nothing but ours was asked for.
        let kinds = [Kind::AuthKey, Kind::Server, Kind::Device];
        let ours: BTreeSet<String> = kinds.map(|kind| world.ids(kind).0).into();
        let asked: BTreeSet<String> = self
            .liar
            .asked_to_delete()
            .drain(deleted_before..)
            .collect();
        if !asked.is_subset(&ours) {
            return Err(format!(
                "asked to delete {asked:?}, of which ours are {ours:?}"
            ));
        }
        for kind in kinds {
            let (own, other) = world.ids(kind);
            if self.is_alive(kind, &own) {
                return Err(format!("left its {kind:?}"));
            }
            let neighbours = match kind {
                Kind::AuthKey => self.neighbour.key.clone().unwrap(),
                Kind::Server => self.neighbour.server.to_string(),
                Kind::Device => self.neighbour.device.clone().unwrap(),
            };
            for id in [other, neighbours] {
                if !self.is_alive(kind, &id) {
                    return Err(format!("somebody else's {kind:?} {id} is gone"));
                }
            }
        }
        let shown = json!([
            self.service.provision(world.id).await,
            self.service.events(world.id).await,
        ]);
        no_text_is_odd(&shown)?;
        self.nothing_leaked(&shown.to_string(), logged_before)
    }

    async fn while_it_lies(
        &self,
        world: &World,
        kind: Kind,
        meanwhile: Meanwhile,
    ) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Before the look, which then shows what the last lie led to.
            let all_told = self.liar.has_told_all();
            let provision = self.service.provision(world.id).await;
            let steps = steps_of(&provision, kind);
            let own = world.ids(kind).0;
            let alive = self.is_alive(kind, &own);
            let is_gone = |step: &Value| step["state"] == "gone";
            let all_gone = steps.iter().all(is_gone);
            let of_its_own = |step: &&Value| step["vendor_id"] == own.as_str();
            // A search that a list has misled is not the end, while the id is not settled.
            if alive && (all_gone || steps.iter().filter(of_its_own).any(is_gone)) {
                return Err(format!("it is called gone, and is there: {steps:#?}"));
            }
            let says = |state: &str, error: &str| {
                steps.iter().any(|step| {
                    let said = step["last_error"].as_str().unwrap_or_default();
                    (state.is_empty() || step["state"] == state) && said.contains(error)
                })
            };
            let reached = match meanwhile {
                Meanwhile::Unsettled("") => {
                    let mut own_steps = steps.iter().filter(of_its_own);
                    let reported = own_steps.all(|step| step["state"] != "leased");
                    self.liar.has_told(3) && all_told && reported && !all_gone
                }
                Meanwhile::Unsettled(error) => says("", error) && !all_gone,
                Meanwhile::Refused(error) => says("refused", error),
                Meanwhile::Settled => all_gone && !alive,
            } && self.liar.has_told(1);
            if reached {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("is not {meanwhile:?}: {steps:#?}"));
            }
            if meanwhile == Meanwhile::Settled {
                self.pass_time(&provision, Duration::from_secs(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a worker has in hand must not lose its lease.
    async fn pass_time(&self, provision: &Value, by: Duration) {
        let steps = provision["rollback"]["steps"].as_array().unwrap();
        if !steps.iter().any(|step| step["state"] == "leased") {
            self.service.advance(by).await;
        }
    }

    /// Moves time, ever faster, until the rollback is done.
    async fn settle(&self, world: &World) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for look in 1_u64.. {
            let provision = self.service.provision(world.id).await;
            let rollback = &provision["rollback"];
            if rollback["state"] == "done" {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("did not settle by the truth: {rollback:#}"));
            }
            let by = Duration::from_millis(200 * look).min(FASTEST);
            self.pass_time(&provision, by).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether nothing went elsewhere, and no secret is in what is shown or logged since.
    pub fn nothing_leaked(&self, shown: &str, logged_before: usize) -> Result<(), String> {
        let heard = self.elsewhere.heard();
        if !heard.is_empty() {
            return Err(format!("called elsewhere: {heard:?}"));
        }
        let log = &logged()[logged_before..];
        if let Some(line) = log.lines().find(|line| line.len() > 2000) {
            return Err(format!(
                "logged a line of {} bytes: {line:.300}",
                line.len()
            ));
        }
        let forged = |line: &str| line.starts_with("2026-01-01") || line.starts_with("2026 forged");
        if log.contains('\u{1b}') || log.lines().any(forged) {
            return Err("logged a line that the vendor made up".to_owned());
        }
        let all = format!("{shown} {log}");
        match self.secrets().iter().find(|secret| all.contains(*secret)) {
            Some(secret) => Err(format!("told the secret {secret}")),
            None => Ok(()),
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is shown to Hetzner.
    pub fn token(&self) -> String {
        self.options.sim.hcloud_token.clone()
    }

    pub fn is_alive(&self, kind: Kind, id: &str) -> bool {
        let sim = &self.service.sim;
        match kind {
            Kind::AuthKey => sim.keys().iter().any(|key| key.id == id && !key.revoked),
            Kind::Server => sim.servers().iter().any(|it| it.id.to_string() == id),
            Kind::Device => sim.devices().iter().any(|device| device.node_id == id),
        }
    }
}

/// Texts that a vendor had a hand in are one line, and short.
pub fn no_text_is_odd(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) if text.chars().count() > 600 => {
            Err(format!("shows {} characters: {text:.200}", text.len()))
        }
        Value::String(text) if text.chars().any(|c| c.is_control() || c == '\u{202e}') => {
            Err(format!("shows {text:?}"))
        }
        Value::Array(items) => items.iter().try_for_each(no_text_is_odd),
        Value::Object(fields) => fields.values().try_for_each(no_text_is_odd),
        _ => Ok(()),
    }
}

fn steps_of(provision: &Value, kind: Kind) -> Vec<Value> {
    let resource = match kind {
        Kind::AuthKey => "auth_key",
        Kind::Server => "server",
        Kind::Device => "device",
    };
    let steps = provision["rollback"]["steps"].as_array().unwrap();
    let of_kind = steps.iter().filter(|step| step["resource"] == resource);
    of_kind.cloned().collect()
}

/// The labels of a provision's server, as JSON.
pub fn own_labels(world: &World) -> Value {
    labels(&world.started)
        .into_iter()
        .map(|(name, value)| (name, json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
