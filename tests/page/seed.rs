//! A service on a bad night: what the pictures show and the browser finds.

use std::time::Duration;

use backstop::domain::backoff::Backoff;
use backstop::domain::orphans::Mandate;
use backstop::sim::{Fault, FaultKind, SimOptions, Vendor};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Made, Options, Run, Service};

/// As in earnest, where a step that needs a person is tried again after minutes.
pub fn options() -> Options {
    Options {
        sim: SimOptions {
            action_time: (Duration::from_millis(200), Duration::from_millis(600)),
            ..SimOptions::default()
        },
        retry: Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(900),
        },
        ..Options::default()
    }
}

/// One provision after the other, each with its own run.
struct Night<'a> {
    service: &'a Service,
    next_run: i64,
}

pub async fn seed(service: &Service) {
    yesterday(service).await;
    let mut night = Night {
        service,
        next_run: 17_482_003_100,
    };
    for agent in [
        "web-1",
        "web-2",
        "runner-arm-3",
        "runner-x86-7",
        "preview-412",
    ] {
        night.running(agent).await;
    }
    night.stuck(service).await;
    service.pass(Duration::from_secs(23 * 60)).await;
    night.rerun("runner-arm-5").await;
    service.pass(Duration::from_secs(4 * 60)).await;
    night.undone(service).await;
    for (agent, step) in [("runner-x86-12", "vm_created"), ("preview-415", "enrolled")] {
        let (id, run, _) = night.made(agent).await;
        let progress = json!({"step": step});
        service.callback("progress", id, run, progress).await;
    }
    let queued = json!({"agent_id": "preview-416", "region": "nbg1"});
    service
        .operate("POST", "/v1/provisions", Some(queued))
        .await;
    orphans(service).await;
    service.pass(Duration::from_secs(40)).await;
}

impl Night<'_> {
    async fn started(&mut self, agent: &str) -> (Uuid, Run, Value) {
        self.next_run += 137;
        let (id, run) = (Uuid::new_v4(), Run(self.next_run, 1));
        (id, run, self.start(id, run, agent).await)
    }

    async fn start(&self, id: Uuid, run: Run, agent: &str) -> Value {
        let about = json!({"agent_id": agent, "region": "fsn1"});
        let answer = self.service.callback("started", id, run, about).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    async fn made(&mut self, agent: &str) -> (Uuid, Run, Made) {
        let (id, run, started) = self.started(agent).await;
        let made = self.service.make_all(&started);
        let mut ids = made.ids();
        ids["step"] = json!("vm_created");
        self.service.callback("progress", id, run, ids).await;
        (id, run, made)
    }

    async fn running(&mut self, agent: &str) {
        let (id, run, made) = self.made(agent).await;
        let answer = self.service.callback("success", id, run, made.ids()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    async fn fails(&self, (id, run): (Uuid, Run), step: &str, error: &str, mut ids: Value) {
        ids["failed_step"] = json!(step);
        ids["error"] = json!(error);
        let answer = self.service.callback("failure", id, run, ids).await;
        assert!(answer.status == 202, "{answer:?}");
    }

    /// What needs a person, each for another reason.
    async fn stuck(&mut self, service: &Service) {
        let (id, run, made) = self.made("db-migrate-88").await;
        assert!(service.sim.protect_server(made.server));
        self.fails((id, run), "configure", "ansible: task failed", made.ids())
            .await;
        service.until(id, is_stuck).await;

        let (id, run, made) = self.made("runner-arm-4").await;
        let path = format!("/device/{}", made.device.clone().unwrap());
        service
            .sim
            .fault(Fault::on(Vendor::Tailscale, "DELETE", &path, FaultKind::status(403)).always());
        self.fails((id, run), "enrol", "tailscale up: timed out", made.ids())
            .await;
        service.until(id, is_stuck).await;
    }

    /// What goes by itself, and is not there yet.
    async fn undone(&mut self, service: &Service) {
        let (id, run, made) = self.made("runner-x86-9").await;
        assert!(
            service
                .sim
                .lock_server(made.server, Duration::from_secs(3600))
        );
        self.fails(
            (id, run),
            "configure",
            "ansible: host unreachable",
            made.ids(),
        )
        .await;

        let (id, run, started) = self.started("preview-409").await;
        drop(started);
        self.fails((id, run), "runner", "the runner was lost", json!({}))
            .await;
    }

    /// A first attempt that is undone beside the second, which runs.
    async fn rerun(&mut self, agent: &str) {
        let (id, run, made) = self.made(agent).await;
        self.fails(
            (id, run),
            "configure",
            "apt: could not get lock",
            made.ids(),
        )
        .await;
        let again = Run(run.0, 2);
        let started = self.start(id, again, agent).await;
        let made = self.service.make_all(&started);
        let answer = self
            .service
            .callback("success", id, again, made.ids())
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.service.settled(id).await;
    }
}

fn is_stuck(provision: &Value) -> bool {
    provision["rollback"]["state"] == "stuck"
}

/// What a sweep finds: a server that no provision knows, and what the stuck ones cost.
async fn orphans(service: &Service) {
    let controller: Uuid = sqlx::query_scalar("select id from controller")
        .fetch_one(&service.pool)
        .await
        .unwrap();
    let id = Uuid::new_v4();
    let labels = [
        ("managed-by".to_owned(), "backstop".to_owned()),
        ("backstop-controller".to_owned(), controller.to_string()),
        ("backstop-provision".to_owned(), id.to_string()),
        ("backstop-attempt".to_owned(), "1".to_owned()),
        ("backstop-run".to_owned(), "17482001004.1".to_owned()),
    ];
    service
        .sim
        .add_server(&format!("agent-{}-a1", id.simple()), labels);
    service.sweep(Mandate::Reopen).await;
}

/// Two dozen hours of failures that were undone, as they would stand in the database.
async fn yesterday(service: &Service) {
    sqlx::raw_sql(include_str!("yesterday.sql"))
        .execute(&service.pool)
        .await
        .unwrap();
}
