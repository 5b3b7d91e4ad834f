//! The service as others meet it: over HTTP, with a real Postgres and simulated vendors.
//!
//! One private Postgres a test process, one database a test, copied from a migrated template. Time
//! is moved, not slept: [`Service::advance`] moves the database's.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::missing_panics_doc,
    clippy::needless_pass_by_value,
    clippy::unwrap_used
)]

pub mod app_key;
pub mod issuer;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use backstop::app::App;
use backstop::config::{Config, Database};
use backstop::domain::backoff::Backoff;
use backstop::domain::budget::Reserve;
use backstop::domain::orphans::Mandate;
use backstop::domain::overdue::Patience;
use backstop::http::cors::Origins;
use backstop::http::failures::Rate;
use backstop::http::github::Webhooks;
use backstop::http::page;
use backstop::http::proof::ProofOfCaller;
use backstop::http::serve::Limits;
use backstop::http::tokens::Tokens;
use backstop::oidc;
use backstop::postgres::{Durability, PrivatePostgres};
use backstop::providers::github::{GitHubCredential, Repository, Workflow};
use backstop::providers::tailscale::TailscaleCredential;
use backstop::providers::{GitHub, Hetzner, Tailscale, Timeouts, Webhook, loopback_client};
use backstop::rollback::worker;
use backstop::sim::{Sim, SimOptions};
use backstop::store;
use backstop::store::sweeps::{self, Findings, Sweep};
use backstop::sweep::{Vendors, periodic};
use backstop::watch;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions};
use uuid::Uuid;

pub const SECRET: &str = "whsec_dGVzdC1zZWNyZXQtb25lLXRlc3Qtc2VjcmV0LW9uZQ==";
pub const OLDER_SECRET: &str = "whsec_dGVzdC1zZWNyZXQtdHdvLXRlc3Qtc2VjcmV0LXR3bw==";
pub const WEBHOOK_SECRET: &str = "a-secret-of-webhooks";
pub const READER: &str = "reader-token";
pub const OPERATOR: &str = "operator-token";
pub const TAG: &str = "tag:agent";
/// How long anything that happens by itself may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One server for the whole process, in a runtime of its own: a test's runtime ends with the test.
static POSTGRES: LazyLock<PgConnectOptions> = LazyLock::new(|| {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let postgres = PrivatePostgres::start_temporary().await.unwrap();
            let pool = store::connect(postgres.options(), 2).await.unwrap();
            store::migrate(&pool).await.unwrap();
            pool.close().await;
            sender.send(postgres.options()).unwrap();
            // Ends with the process.
            std::future::pending::<()>().await;
            drop(postgres);
        });
    });
    receiver.recv().expect("the private Postgres starts")
});

/// A database of its own with nothing in it.
pub async fn empty_database() -> PgConnectOptions {
    create_database("template template0").await
}

/// A migrated database of its own, in which a sweep has just ended.
pub async fn database() -> PgConnectOptions {
    let options = unswept_database().await;
    let mut db = options.connect().await.unwrap();
    sqlx::query("insert into sweeps (started_at, finished_at) values (now(), now())")
        .execute(&mut db)
        .await
        .unwrap();
    options
}

/// A migrated database of its own.
pub async fn unswept_database() -> PgConnectOptions {
    let options = create_database("template backstop strategy file_copy").await;
    // Copies of a database share its id; each of ours is another installation.
    let mut db = options.connect().await.unwrap();
    sqlx::query("update controller set id = gen_random_uuid()")
        .execute(&mut db)
        .await
        .unwrap();
    options
}

async fn create_database(how: &str) -> PgConnectOptions {
    let server = tokio::task::spawn_blocking(|| POSTGRES.clone())
        .await
        .unwrap();
    let name = format!("test_{}", Uuid::new_v4().simple());
    let mut admin = server.clone().database("postgres").connect().await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {name} {how}")))
        .execute(&mut admin)
        .await
        .unwrap();
    server.database(&name)
}

/// What can be chosen about a service.
#[derive(Clone)]
pub struct Options {
    pub tailscale: bool,
    /// How long GitHub may take; `None`: it is not configured.
    pub github: Option<Timeouts>,
    pub sim: SimOptions,
    pub late_arrival_window: Duration,
    pub retry: Backoff,
    pub stuck_after: Duration,
    pub provision_timeout: Duration,
    pub sweep_interval: Duration,
    pub sweep_mandate: Mandate,
    pub heartbeat_timeout: Duration,
    pub public_url: Option<String>,
    /// Of real time, which is not moved.
    pub pulse_every: Duration,
    /// Where operators listen.
    pub webhook: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tailscale: true,
            github: None,
            sim: SimOptions {
                action_time: (Duration::from_millis(5), Duration::from_millis(20)),
                ..SimOptions::default()
            },
            late_arrival_window: Duration::from_secs(600),
            retry: Backoff {
                base: Duration::from_millis(20),
                cap: Duration::from_millis(200),
            },
            stuck_after: Duration::from_secs(3600),
            provision_timeout: Duration::from_secs(1800),
            // Tests of other things move time, and count what is asked of the vendors.
            sweep_interval: Duration::from_secs(10 * 365 * 24 * 60 * 60),
            sweep_mandate: Mandate::Reopen,
            heartbeat_timeout: Duration::from_secs(300),
            public_url: None,
            pulse_every: Duration::from_millis(50),
            webhook: None,
        }
    }
}

/// A running service with its vendors and its database.
pub struct Service {
    pub app: App,
    pub sim: Arc<Sim>,
    pub pool: PgPool,
    pub database: PgConnectOptions,
    options: Options,
    client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The problem's code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("no code")
    }
}

/// A run of a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(pub i64, pub i32);

pub fn config(options: &Options, database: &PgConnectOptions, sim: &Sim) -> Config {
    let vendors = sim.options();
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        database: Database::At(Box::new(database.clone())),
        database_connections: 6,
        hetzner: Hetzner::new(&sim.hetzner_url(), &vendors.hcloud_token.into()).unwrap(),
        tailscale: options.tailscale.then(|| {
            let credential = TailscaleCredential::OAuth {
                client_id: vendors.oauth_client_id.clone(),
                client_secret: vendors.oauth_client_secret.clone().into(),
            };
            let client = Tailscale::new(&sim.tailscale_url(), "-", credential).unwrap();
            (client, TAG.to_owned())
        }),
        github: options.github.map(|timeouts| github(sim, timeouts)),
        webhooks: Some(
            Webhooks::new(
                &WEBHOOK_SECRET.into(),
                oidc::Repository::Name(sim.options().github_repository),
            )
            .unwrap(),
        ),
        page: page::Settings {
            public_url: options.public_url.clone(),
            runs_url: Some("https://github.com/example/agents/actions/runs".to_owned()),
            ..page::Settings::default()
        },
        proof: ProofOfCaller::by_signature(&[
            SecretString::from(SECRET),
            SecretString::from(OLDER_SECRET),
        ])
        .unwrap(),
        tokens: Tokens::new([READER.into()], [OPERATOR.into()]),
        // Tests of other things fail as often as they like.
        failures: Rate {
            burst: 1_000_000,
            every: Duration::from_secs(1),
        },
        limits: Limits::default(),
        origins: Origins::default(),
        webhook: options
            .webhook
            .clone()
            .map(|url| Webhook::new(&url.into(), &SECRET.into()).unwrap()),
        provision_timeout: options.provision_timeout,
        rollback: worker::Settings {
            retry: options.retry,
            stuck_after: options.stuck_after,
            late_arrival_window: options.late_arrival_window,
            rate_reserve: Reserve::default(),
        },
        event_retention: None,
        sweep: periodic::Settings {
            every: options.sweep_interval,
            mandate: options.sweep_mandate,
        },
        watch: watch::Settings {
            patience: Patience {
                heartbeat_timeout: options.heartbeat_timeout,
                provision_timeout: options.provision_timeout,
            },
            public_url: options.public_url.clone(),
            pulse_every: options.pulse_every,
        },
    }
}

/// By the simulation's app if it has one, which then has the process's key.
fn github(sim: &Sim, timeouts: Timeouts) -> GitHub {
    let vendors = sim.options();
    let credential = match vendors.github_app {
        Some(app) => GitHubCredential::App {
            id: app.id,
            private_key: app_key::APP_KEY.private.clone().into(),
        },
        None => GitHubCredential::Token(vendors.github_token.into()),
    };
    let workflow = Workflow {
        repository: Repository::parse(&vendors.github_repository).unwrap(),
        file: vendors.github_workflow,
        git_ref: "main".to_owned(),
    };
    GitHub::new(&sim.github_url(), workflow, &credential)
        .unwrap()
        .with_timeouts(timeouts)
        .unwrap()
}

impl Service {
    /// With the defaults.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        Self::start_changed(options, |_| {}).await
    }

    /// With a configuration that no option gives.
    pub async fn start_changed(options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let database = database().await;
        Self::start_as(database, new_sim(&options), options, change).await
    }

    /// On this database, with vendors of its own.
    pub async fn start_at(options: Options, database: PgConnectOptions) -> Self {
        Self::start_on(database, new_sim(&options), options).await
    }

    /// On a database that is there, with vendors that are there.
    pub async fn start_on(
        database: PgConnectOptions,
        sim: impl Into<Arc<Sim>>,
        options: Options,
    ) -> Self {
        Self::start_as(database, sim.into(), options, |_| {}).await
    }

    async fn start_as(
        database: PgConnectOptions,
        sim: Arc<Sim>,
        options: Options,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = config(&options, &database, &sim);
        change(&mut config);
        // A whole configuration is too much for every test to carry about.
        let app = Box::pin(App::start(config, Durability::Disposable))
            .await
            .unwrap();
        let service = Self {
            pool: app.pool().unbounded().clone(),
            app,
            sim,
            database,
            options,
            client: loopback_client().unwrap(),
        };
        service.is_heard().await;
        service
    }

    /// Waits for a pulse: only from then on does time pass in which callbacks can be heard.
    async fn is_heard(&self) {
        let heard = "select coalesce(backstop_now() - last_pulse_at < interval '5 s', false)
                     from hearing";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !sqlx::query_scalar::<_, bool>(heard)
            .fetch_one(&self.pool)
            .await
            .unwrap()
        {
            assert!(tokio::time::Instant::now() < deadline, "there is no pulse");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Another process's worth of service on the same database and vendors.
    pub async fn replica(&self) -> App {
        App::start(
            config(&self.options, &self.database, &self.sim),
            Durability::Disposable,
        )
        .await
        .unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.address())
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let answer = Answer {
            status,
            headers,
            body,
        };
        assert!(
            answer.headers.contains_key("x-request-id"),
            "an answer without x-request-id: {answer:?}"
        );
        if status >= 400 {
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            for field in ["type", "title", "status", "detail", "code", "request_id"] {
                assert!(
                    !answer.body[field].is_null(),
                    "a problem without {field}: {answer:?}"
                );
            }
        }
        answer
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).bearer_auth(READER))
            .await
    }

    /// A call of the operator's.
    pub async fn operate(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path).bearer_auth(OPERATOR);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    pub async fn provision(&self, id: Uuid) -> Value {
        let answer = self.get(&format!("/v1/provisions/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    pub async fn events(&self, id: Uuid) -> Vec<Value> {
        let answer = self.get(&format!("/v1/provisions/{id}/events")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["events"].as_array().unwrap().clone()
    }

    /// The kinds of a provision's events, oldest first.
    pub async fn event_kinds(&self, id: Uuid) -> Vec<String> {
        let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
        self.events(id).await.iter().map(kind).collect()
    }

    /// A signed callback; `more` are its fields beside the common ones.
    pub async fn callback(&self, kind: &str, id: Uuid, run: Run, more: Value) -> Answer {
        let body = callback_body(kind, id, run, more);
        self.send(self.signed(kind, id, &body.to_string())).await
    }

    /// A request with a body that is signed as it is.
    pub fn signed(&self, kind: &str, id: Uuid, body: &str) -> reqwest::RequestBuilder {
        self.signed_by(SECRET, kind, id, body)
    }

    pub fn signed_by(
        &self,
        secret: &str,
        kind: &str,
        id: Uuid,
        body: &str,
    ) -> reqwest::RequestBuilder {
        let message_id = format!("msg_{}", Uuid::new_v4());
        let (at, signature) = sign(secret, &message_id, body);
        self.request("POST", &format!("/v1/provisions/{id}/callbacks/{kind}"))
            .header("content-type", "application/json")
            .header("webhook-id", message_id)
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .body(body.to_owned())
    }

    /// `started`, which must be accepted; the answer.
    pub async fn started(&self, id: Uuid, run: Run) -> Value {
        let answer = self
            .callback(
                "started",
                id,
                run,
                json!({"agent_id": "web-1", "region": "fsn1"}),
            )
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Makes what `started` told: a key, a server, a device. Their ids.
    pub fn make_all(&self, started: &Value) -> Made {
        let name = started["server_name"].as_str().unwrap();
        let description = started["tailscale"]["key_description"].as_str();
        Made {
            key: description.map(|description| self.sim.add_key(description, &[TAG])),
            server: self.sim.add_server(name, labels(started)),
            device: description.map(|_| self.sim.add_device(name, &[TAG])),
        }
    }

    /// Waits until the provision's rollback is done; the provision.
    pub async fn settled(&self, id: Uuid) -> Value {
        self.until(id, |provision| provision["rollback"]["state"] == "done")
            .await
    }

    /// Waits until the provision is as described; the provision.
    pub async fn until(&self, id: Uuid, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let provision = self.provision(id).await;
            if is(&provision) {
                return provision;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not in {PATIENCE:?}: {provision:#}\nevents: {:#?}",
                self.events(id).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Moves the database's time, and tells the workers to look. Nobody could have been heard
    /// meanwhile.
    pub async fn advance(&self, by: Duration) {
        advance(&self.pool, by).await;
        look(&self.pool).await;
    }

    /// Lets time pass in which callbacks can be heard.
    pub async fn pass(&self, by: Duration) {
        self.is_heard().await;
        let mut transaction = self.pool.begin().await.unwrap();
        // Before the clock: a pulse that waits for the row goes on with the new time.
        sqlx::query("update hearing set last_pulse_at = last_pulse_at + make_interval(secs => $1)")
            .bind(by.as_secs_f64())
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::query(MOVE_CLOCK)
            .bind(by.as_secs_f64())
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        look(&self.pool).await;
    }

    /// Stops the service; its database and vendors stay.
    pub async fn stop(self) -> Stopped {
        self.app.stop().await.unwrap();
        let pool = store::connect(self.database.clone(), 2).await.unwrap();
        Stopped {
            sim: self.sim,
            pool: pool.unbounded().clone(),
            database: self.database,
            options: self.options,
        }
    }

    /// The vendors, as a sweep of another process reaches them.
    pub async fn vendors(&self) -> Vendors {
        vendors(&self.options, &self.database, &self.sim).await
    }

    /// A whole sweep, as `backstop sweep` makes it; then the workers look.
    pub async fn sweep(&self, mandate: Mandate) -> Findings {
        let begun = self.begin_sweep().await;
        self.end_sweep(begun, mandate).await
    }

    pub async fn begin_sweep(&self) -> Sweep {
        let mut db = self.pool.acquire().await.unwrap();
        sweeps::begin(&mut db).await.unwrap()
    }

    pub async fn end_sweep(&self, begun: Sweep, mandate: Mandate) -> Findings {
        let vendors = self.vendors().await;
        let swept = backstop::sweep::sweep(self.app.pool(), &vendors, &begun, mandate);
        let findings = swept.await.unwrap().findings;
        self.advance(Duration::ZERO).await;
        findings
    }

    /// What the last sweep found.
    pub async fn orphans(&self) -> Value {
        let answer = self.get("/v1/orphans").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Everything at the vendors that could still be used, by name.
    pub fn alive(&self) -> Vec<String> {
        let servers = self.sim.servers();
        let devices = self.sim.devices();
        let keys = self.sim.keys();
        servers
            .iter()
            .map(|server| format!("server {}", server.name))
            .chain(
                devices
                    .iter()
                    .map(|device| format!("device {}", device.hostname)),
            )
            .chain(
                keys.iter()
                    .filter(|key| !key.revoked)
                    .map(|key| format!("auth_key {}", key.description)),
            )
            .collect()
    }
}

fn new_sim(options: &Options) -> Arc<Sim> {
    Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), options.sim.clone()).unwrap())
}

/// The vendors, as a sweep for this database reaches them.
pub async fn vendors(options: &Options, database: &PgConnectOptions, sim: &Sim) -> Vendors {
    let config = config(options, database, sim);
    let pool = store::connect(database.clone(), 1).await.unwrap();
    let controller = store::controller_id(&pool).await.unwrap();
    pool.close().await;
    Vendors {
        hetzner: Arc::new(config.hetzner),
        tailscale: config
            .tailscale
            .map(|(client, tag)| (Arc::new(client), tag)),
        controller,
    }
}

/// A service that was stopped.
pub struct Stopped {
    pub sim: Arc<Sim>,
    pub pool: PgPool,
    pub database: PgConnectOptions,
    pub options: Options,
}

impl Stopped {
    /// Moves the database's time.
    pub async fn advance(&self, by: Duration) {
        advance(&self.pool, by).await;
    }

    pub async fn start(self) -> Service {
        Service::start_on(self.database, self.sim, self.options).await
    }
}

const MOVE_CLOCK: &str =
    "update controller set clock_offset = clock_offset + make_interval(secs => $1)";

async fn advance(pool: &PgPool, by: Duration) {
    sqlx::query(MOVE_CLOCK)
        .bind(by.as_secs_f64())
        .execute(pool)
        .await
        .unwrap();
}

/// Tells workers and watchers of every replica to look.
async fn look(pool: &PgPool) {
    sqlx::query("select pg_notify('backstop_ledger', $1)")
        .bind(Uuid::nil().to_string())
        .execute(pool)
        .await
        .unwrap();
}

/// Ids of what a provision made.
#[derive(Debug, Clone)]
pub struct Made {
    pub key: Option<String>,
    pub server: u64,
    pub device: Option<String>,
}

impl Made {
    /// As a callback reports them.
    pub fn ids(&self) -> Value {
        json!({
            "server_id": self.server.to_string(),
            "server_ip": "192.0.2.7",
            "tailscale_ip": "100.64.0.7",
            "tailscale_key_id": self.key,
            "tailscale_node_id": self.device,
        })
    }
}

/// The labels that `started` told.
pub fn labels(started: &Value) -> Vec<(String, String)> {
    started["labels"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

pub fn callback_body(kind: &str, id: Uuid, run: Run, more: Value) -> Value {
    let mut body = json!({
        "type": kind, "provision_id": id, "run_id": run.0, "run_attempt": run.1,
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// The unix time and the signature.
#[allow(clippy::disallowed_methods)]
pub fn sign(secret: &str, message_id: &str, body: &str) -> (i64, String) {
    let at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let at = i64::try_from(at.as_secs()).unwrap();
    let signer = standardwebhooks::Webhook::new(secret).unwrap();
    (at, signer.sign(message_id, at, body.as_bytes()).unwrap())
}

/// The steps of a provision's rollback that stand for an id, as
/// `attempt resource vendor_id state proof`, and those that search without the id, for whether
/// they see a thing before its own step has deleted it is a matter of timing.
pub fn steps(provision: &Value) -> Vec<String> {
    let text = |step: &Value, key: &str| step[key].as_str().unwrap_or("-").to_owned();
    provision["rollback"]["steps"]
        .as_array()
        .map(|steps| {
            steps
                .iter()
                .enumerate()
                .map(|(index, step)| {
                    // Within a kind the one that searches was planned first.
                    let searches = index == 0
                        || (&steps[index - 1]["attempt"], &steps[index - 1]["resource"])
                            != (&step["attempt"], &step["resource"]);
                    let vendor_id = if searches {
                        "search".to_owned()
                    } else {
                        text(step, "vendor_id")
                    };
                    format!(
                        "{} {} {} {} {}",
                        step["attempt"],
                        text(step, "resource"),
                        vendor_id,
                        text(step, "state"),
                        text(step, "proof")
                    )
                })
                .collect()
        })
        .unwrap_or_default()
}
