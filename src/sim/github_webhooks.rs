//! The webhooks that GitHub sends about runs and jobs.
//!
//! See <https://docs.github.com/webhooks/webhook-events-and-payloads>. Sent once, to loopback only,
//! and whatever is answered to it: GitHub does not send one again by itself.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

use super::{
    clock::stamp,
    github::{repository_json, run_json},
    snapshot::WorkflowRun,
    world::World,
};

/// How long GitHub waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where webhooks are sent.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    pub(super) address: SocketAddr,
    pub(super) path: String,
    pub(super) secret: String,
}

/// A webhook as it is sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `X-GitHub-Delivery`; the same when it is sent again.
    pub id: String,
    /// `X-GitHub-Event`.
    pub event: &'static str,
    /// `X-Hub-Signature-256`.
    pub signature: String,
    /// The body.
    pub body: String,
}

impl Delivery {
    fn new(event: &'static str, body: &Value, secret: &str) -> Delivery {
        let body = body.to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let mut signature = "sha256=".to_owned();
        for byte in hmac::sign(&key, body.as_bytes()).as_ref() {
            let _ = write!(signature, "{byte:02x}");
        }
        Delivery {
            id: Uuid::new_v4().to_string(),
            event,
            signature,
            body,
        }
    }
}

/// What is sent when the latest attempt of a run has changed. `None`: there is no such run.
pub(super) fn of_run(world: &World, id: u64, secret: &str) -> Option<Delivery> {
    let (number, run) = world.actions.run(id)?;
    let action = match run.attempts.last()?.status.as_str() {
        "completed" => "completed",
        "in_progress" => "in_progress",
        _ => "requested",
    };
    let body = json!({
        "action": action,
        "workflow_run": run_json(world, number, run, run.attempts.len())?,
        "workflow": {"id": 159_038, "name": world.options.github_workflow},
        "repository": repository_json(world),
        "sender": {"login": "octocat", "id": 1, "type": "User"},
    });
    Some(Delivery::new("workflow_run", &body, secret))
}

/// What is sent when a job of the latest attempt of a run has ended. `None`: there is no such run.
pub(super) fn of_job(world: &World, id: u64, conclusion: &str, secret: &str) -> Option<Delivery> {
    let (_, run) = world.actions.run(id)?;
    let body = json!({
        "action": "completed",
        "workflow_job": job_json(world, run, conclusion),
        "repository": repository_json(world),
        "sender": {"login": "octocat", "id": 1, "type": "User"},
    });
    Some(Delivery::new("workflow_job", &body, secret))
}

fn job_json(world: &World, run: &WorkflowRun, conclusion: &str) -> Value {
    let repository = &world.options.github_repository;
    let run_url = format!(
        "https://api.github.com/repos/{repository}/actions/runs/{}",
        run.id
    );
    json!({
        "id": 29_679_449,
        "run_id": run.id,
        "run_url": run_url,
        "run_attempt": run.attempts.len(),
        "node_id": "CR_29679449",
        "head_sha": "acb5820ced9479c074f688cc328bf03f341a511d",
        "head_branch": run.git_ref,
        "name": "provision",
        "workflow_name": world.options.github_workflow,
        "status": "completed",
        "conclusion": conclusion,
        "created_at": stamp(run.created),
        "started_at": stamp(run.created),
        "completed_at": stamp(run.created),
        "steps": [],
        "labels": ["ubuntu-latest"],
        "runner_id": 1,
        "runner_name": "GitHub Actions 1",
        "runner_group_id": 2,
        "runner_group_name": "GitHub Actions",
    })
}

/// Sends a webhook, and does not care what becomes of it.
pub(super) async fn send(hook: Hook, delivery: Delivery) {
    let _ = tokio::time::timeout(PATIENCE, try_to_send(&hook, &delivery)).await;
}

async fn try_to_send(hook: &Hook, delivery: &Delivery) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(hook.address).await?;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nuser-agent: GitHub-Hookshot/sim\r\nx-github-event: {}\r\n\
         x-github-delivery: {}\r\nx-hub-signature-256: {}\r\n\r\n",
        hook.path,
        hook.address,
        delivery.body.len(),
        delivery.event,
        delivery.id,
        delivery.signature,
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(delivery.body.as_bytes()).await?;
    // Closed before the answer is there, it might not be read at all.
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
