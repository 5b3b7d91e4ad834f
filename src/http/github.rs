//! Webhooks of GitHub: how a run ended, without having been asked.
//! <https://docs.github.com/webhooks/webhook-events-and-payloads#workflow_run>
//!
//! Proven over the raw body, parsed, decided, committed, answered, as callbacks are. GitHub does not
//! send one again by itself, and needs not: what is missed here is asked for.
//!
//! `workflow_run` says how a run attempt ended. A job that ended says nothing of its run, for another
//! may clean up after it; it is a reason to ask.

use std::fmt;

use aws_lc_rs::hmac;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Connection as _;
use utoipa::ToSchema;

use super::body;
use super::client::Client;
use super::{Api, Problem, openapi};
use crate::domain::names::Run;
use crate::domain::witness::{RunState, Source, Testimony};
use crate::oidc::Repository;
use crate::store::StoreError;
use crate::store::witness::{Delivery, job_ended, take_down, waiting_for};
use crate::witness::{tell, testify};

/// The largest body that is read, in bytes. These events have some tens of thousands.
const BODY_LIMIT: usize = 1024 * 1024;
/// Fewer bytes than this are no secret.
const SHORTEST_SECRET: usize = 16;
/// GitHub's are UUIDs.
const LONGEST_DELIVERY_ID: usize = 64;

pub(super) const SIGNATURE: &str = "x-hub-signature-256";
const EVENT: &str = "x-github-event";
const DELIVERY: &str = "x-github-delivery";

/// Settles whether a webhook is GitHub's, and about our repository.
pub struct Webhooks {
    /// Boxed: it is large, and settings are moved about.
    key: Box<hmac::Key>,
    repository: Repository,
}

/// A secret that is none.
#[derive(Debug, thiserror::Error)]
#[error("at least {SHORTEST_SECRET} bytes are needed; make one with: openssl rand -hex 32")]
pub struct ShortSecret;

impl Webhooks {
    /// Takes webhooks that are signed with `secret` and are about `repository`.
    ///
    /// # Errors
    /// [`ShortSecret`] for one that is too short.
    pub fn new(secret: &SecretString, repository: Repository) -> Result<Self, ShortSecret> {
        let secret = secret.expose_secret().as_bytes();
        if secret.len() < SHORTEST_SECRET {
            return Err(ShortSecret);
        }
        Ok(Self {
            key: Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)),
            repository,
        })
    }

    /// Whether the signature is of this body. In constant time.
    pub(super) fn is_signed(&self, signature: &[u8], body: &[u8]) -> bool {
        signature
            .strip_prefix(b"sha256=")
            .and_then(unhex)
            .is_some_and(|tag| hmac::verify(&self.key, body, &tag).is_ok())
    }

    /// What a webhook about an `event` says, if it is ours to hear.
    pub(super) fn read(&self, event: &str, bytes: &[u8]) -> Result<Said, Problem> {
        if !matches!(event, "workflow_run" | "workflow_job") {
            return Ok(Said::Nothing(Outcome::Ignored));
        }
        let payload = parse(bytes)?;
        if !self.is_ours(&payload.repository) {
            return Ok(Said::Nothing(Outcome::OtherRepository));
        }
        // What begins or goes on says nothing by the time it is read.
        if payload.action != "completed" {
            return Ok(Said::Nothing(Outcome::Ignored));
        }
        let missing = || Problem::invalid_body(format!("{event} is required"));
        if event == "workflow_job" {
            let job = payload.workflow_job.ok_or_else(missing)?;
            return Ok(Said::JobEnded(run(job.run_id, job.run_attempt)?));
        }
        let ended = payload.workflow_run.ok_or_else(missing)?;
        let run = run(ended.id, ended.run_attempt)?;
        Ok(
            match RunState::parse(ended.status.as_deref(), ended.conclusion.as_deref()) {
                RunState::Ended(ending) => Said::RunEnded(Testimony {
                    run,
                    ending,
                    source: Source::Webhook,
                }),
                RunState::UnderWay | RunState::Unclear => Said::Nothing(Outcome::Ignored),
            },
        )
    }

    fn is_ours(&self, repository: &RepositoryField) -> bool {
        match &self.repository {
            Repository::Id(id) => repository.id == *id,
            Repository::Name(name) => repository.full_name.eq_ignore_ascii_case(name),
        }
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

/// Lower-case digits, as GitHub writes them.
fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// What became of a webhook, for whoever looks at it in GitHub's list of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WebhookOutcome)]
pub(super) enum Outcome {
    /// Not about what we listen for.
    Ignored,
    /// About a repository that is not the one in `BACKSTOP_GITHUB_REPOSITORY`.
    OtherRepository,
    /// No provision waits for that run attempt, or it means nothing for those that do.
    Nothing,
    /// It was heard before.
    Repeated,
    /// A provision has failed by it, or has a discrepancy in its history.
    Recorded,
    /// GitHub is asked about the run.
    Asking,
}

/// What a webhook says.
pub(super) enum Said {
    /// Nothing that is heard here.
    Nothing(Outcome),
    /// How a run attempt ended.
    RunEnded(Testimony),
    /// That a job of this run attempt ended.
    JobEnded(Run),
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookReceived)]
pub(super) struct Received {
    /// What became of it.
    result: Outcome,
}

#[derive(Deserialize)]
struct Payload {
    action: String,
    repository: RepositoryField,
    #[serde(default)]
    workflow_run: Option<RunField>,
    #[serde(default)]
    workflow_job: Option<JobField>,
}

#[derive(Deserialize)]
struct RepositoryField {
    id: u64,
    full_name: String,
}

#[derive(Deserialize)]
struct RunField {
    id: i64,
    run_attempt: i32,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    conclusion: Option<String>,
}

#[derive(Deserialize)]
struct JobField {
    run_id: i64,
    run_attempt: i32,
}

/// Hears how a run ended, from GitHub
///
/// 404 where no secret is set for it.
#[utoipa::path(
    post, path = "/v1/github/webhook", operation_id = "github_webhook", tag = openapi::GITHUB,
    params(
        ("x-github-event" = String, Header, description = "What it is about"),
        ("x-github-delivery" = String, Header, description = "Its id; heard once"),
    ),
    responses((status = 200, description = "What became of it", body = Received))
)]
pub(super) async fn receive(
    State(api): State<Api>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Received>, Problem> {
    let Some(webhooks) = api.webhooks.clone() else {
        return Err(Problem::not_found("no webhooks are taken here"));
    };
    // Nobody's body is read for nothing.
    let signature = headers
        .get(SIGNATURE)
        .ok_or_else(|| api.unproven(client, unproven()))?;
    let bytes = body::read_at_most(BODY_LIMIT, &headers, body).await?;
    if !webhooks.is_signed(signature.as_bytes(), &bytes) {
        let problem = api.unproven(client, unproven());
        if problem.status() == StatusCode::UNAUTHORIZED {
            tracing::warn!(
                client.address = %client, delivery = ?headers.get(DELIVERY),
                "a webhook whose signature does not verify"
            );
        }
        return Err(problem);
    }
    let (event, delivery) = about(&headers)?;
    body::require_json(&headers)?;
    let result = match webhooks.read(event, &bytes)? {
        Said::Nothing(outcome) => outcome,
        Said::RunEnded(testimony) => hear_of_run(&api, delivery, &testimony).await?,
        Said::JobEnded(run) => hear_of_job(&api, delivery, run).await?,
    };
    tracing::info!(event, delivery, ?result, "webhook");
    Ok(Json(Received { result }))
}

/// All that follows is one commit, with the webhook's id. What changes nothing leaves nothing.
async fn hear_of_run(
    api: &Api,
    delivery: &str,
    testimony: &Testimony,
) -> Result<Outcome, StoreError> {
    let mut db = api.pool.acquire().await?;
    let mut transaction = db.begin().await?;
    if take_down(&mut transaction, delivery).await? == Delivery::Repeated {
        return Ok(Outcome::Repeated);
    }
    let mut written = Vec::new();
    for id in waiting_for(&mut transaction, testimony.run).await? {
        written.extend(testify(&mut transaction, id, testimony, api.managed).await?);
    }
    if written.is_empty() {
        return Ok(Outcome::Nothing);
    }
    transaction.commit().await?;
    for change in &written {
        tell(change, testimony, &api.changes, &api.metrics);
    }
    Ok(Outcome::Recorded)
}

async fn hear_of_job(api: &Api, delivery: &str, run: Run) -> Result<Outcome, Problem> {
    // Without a credential there is nobody to ask; its run's own end will say.
    if !api.dispatches {
        return Ok(Outcome::Ignored);
    }
    let mut db = api.pool.acquire().await?;
    let mut transaction = db.begin().await?;
    if take_down(&mut transaction, delivery).await? == Delivery::Repeated {
        return Ok(Outcome::Repeated);
    }
    let concerned = job_ended(&mut transaction, run).await?;
    if concerned.is_empty() {
        return Ok(Outcome::Nothing);
    }
    transaction.commit().await?;
    for id in concerned {
        api.changes.announce(id);
    }
    Ok(Outcome::Asking)
}

/// The event that a webhook is about, and its id.
pub(super) fn about(headers: &HeaderMap) -> Result<(&str, &str), Problem> {
    let event = text(headers, EVENT)?;
    let delivery = text(headers, DELIVERY)?;
    let plausible = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if delivery.len() > LONGEST_DELIVERY_ID || !delivery.chars().all(plausible) {
        return Err(Problem::invalid_parameter(format!("{DELIVERY} is no UUID")));
    }
    Ok((event, delivery))
}

fn parse(bytes: &[u8]) -> Result<Payload, Problem> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Problem::malformed_body(format!("the body is not JSON: {error}")))?;
    Payload::deserialize(value).map_err(|error| {
        Problem::invalid_body(format!("the body is not what GitHub sends: {error}"))
    })
}

fn run(id: i64, attempt: i32) -> Result<Run, Problem> {
    if id > 0 && attempt > 0 {
        Ok(Run { id, attempt })
    } else {
        Err(Problem::invalid_body("a run's id and attempt are positive"))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Problem> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Problem::invalid_parameter(format!("{name} is required")))
}

fn unproven() -> Problem {
    Problem::unauthenticated("a webhook needs GitHub's X-Hub-Signature-256 by the secret set here")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// <https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation>
    const DOCUMENTED: &str =
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn webhooks(repository: Repository) -> Webhooks {
        Webhooks::new(&"It's a Secret to Everybody".into(), repository).unwrap()
    }

    #[test]
    fn the_documented_signature_verifies_and_nothing_like_it() {
        let webhooks = webhooks(Repository::Id(1));
        let body = b"Hello, World!";
        assert!(webhooks.is_signed(DOCUMENTED.as_bytes(), body));
        assert!(!webhooks.is_signed(DOCUMENTED.as_bytes(), b"Hello, World?"));
        for signature in [
            "",
            "sha256=",
            "sha256=7",
            &DOCUMENTED[7..],
            &DOCUMENTED[..DOCUMENTED.len() - 2],
            &DOCUMENTED.replace("sha256", "sha1"),
            &DOCUMENTED.replace('7', "g"),
            &format!("{DOCUMENTED}00"),
        ] {
            assert!(
                !webhooks.is_signed(signature.as_bytes(), body),
                "{signature}"
            );
        }
    }

    #[test]
    fn a_repository_is_ours_by_its_number_or_by_its_name_in_any_case() {
        let field = RepositoryField {
            id: 7,
            full_name: "Example/Agents".to_owned(),
        };
        for (ours, is) in [
            (Repository::Id(7), true),
            (Repository::Id(8), false),
            (Repository::Name("example/agents".to_owned()), true),
            (Repository::Name("example/agents2".to_owned()), false),
        ] {
            assert_eq!(webhooks(ours.clone()).is_ours(&field), is, "{ours:?}");
        }
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_shown() {
        let repository = || Repository::Id(1);
        assert!(Webhooks::new(&"hunter2".into(), repository()).is_err());
        let shown = format!("{:?}", webhooks(repository()));
        assert!(!shown.contains("Secret"), "{shown}");
    }
}
