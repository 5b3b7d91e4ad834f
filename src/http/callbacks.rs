//! Callbacks from workflows.
//!
//! Proven, parsed, decided, committed, answered, in this order: an answer is never sent before the
//! commit. A failure and the steps that undo it are in the same statement.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};

use super::answers::{Failed, Progressed, Started, Succeeded, TailscaleNames};
use super::body::{self, Fields, Forgiving, required};
use super::client::Client;
use super::proof::Caller;
use super::{Api, Problem, openapi};
use crate::domain::callback::{Accepted, Callback, Kind, Message, PROVEN_BY, decide};
use crate::domain::fields::{Address, Conclusion};
use crate::domain::names::{AttemptNumber, ProvisionId, Run};
use crate::domain::provision::{Failure, Reported};
use crate::domain::step::Resource;
use crate::domain::transition::Status;
use crate::rollback::rollback_failed_provision;
use crate::store::in_time;
use crate::store::provisions::{Written, read_for_callback, write};
use crate::store::views::{self, RollbackState, RollbackView};

/// How often a callback is decided anew because another was written first. Each time somebody got
/// on, so this is only reached when hundreds speak for one provision at once.
const ROUNDS: usize = 100;
/// The longest wait that a caller can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often a waiting caller's rollback is looked at without having heard that it changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type CallbackPath = Result<Path<(String, String)>, PathRejection>;

type IdInPath = Result<Path<String>, PathRejection>;

/// Opens an attempt
///
/// Sent before anything is created; everything created must carry the names of the answer.
#[utoipa::path(
    post, path = "/v1/provisions/{id}/callbacks/started", operation_id = "started",
    tag = openapi::CALLBACKS, params(("id" = Uuid, Path, description = "The provision")),
    responses((status = 200, description = "What everything created must carry", body = Started))
)]
pub(super) async fn started(
    State(api): State<Api>,
    client: Client,
    id: IdInPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    receive(&api, client, of(id, "started"), headers, body).await
}

/// Tells what was reached
///
/// Without `step` it is a heartbeat: it leaves no event, and its absence ends the attempt once there
/// was one.
#[utoipa::path(
    post, path = "/v1/provisions/{id}/callbacks/progress", operation_id = "progress",
    tag = openapi::CALLBACKS, params(("id" = Uuid, Path, description = "The provision")),
    responses((status = 200, description = "How the provision stands", body = Progressed))
)]
pub(super) async fn progress(
    State(api): State<Api>,
    client: Client,
    id: IdInPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    receive(&api, client, of(id, "progress"), headers, body).await
}

/// Hands the machine over
#[utoipa::path(
    post, path = "/v1/provisions/{id}/callbacks/success", operation_id = "success",
    tag = openapi::CALLBACKS, params(("id" = Uuid, Path, description = "The provision")),
    responses((status = 200, description = "The machine is in use", body = Succeeded))
)]
pub(super) async fn success(
    State(api): State<Api>,
    client: Client,
    id: IdInPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    receive(&api, client, of(id, "success"), headers, body).await
}

/// Ends the attempt; whatever it made is rolled back
#[utoipa::path(
    post, path = "/v1/provisions/{id}/callbacks/failure", operation_id = "failure",
    tag = openapi::CALLBACKS,
    params(
        ("id" = Uuid, Path, description = "The provision"),
        ("prefer" = Option<String>, Header, description = "`wait=20`: the answer waits for the \
            rollback to settle, for that many seconds and at most 60"),
    ),
    responses(
        (status = 200, description = "It was waited for, and all is proven gone", body = Failed,
         headers(("preference-applied" = String, description = "How long was waited for"))),
        (status = 202, description = "It is recorded, and so is what must go", body = Failed),
    )
)]
pub(super) async fn failure(
    State(api): State<Api>,
    client: Client,
    id: IdInPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    receive(&api, client, of(id, "failure"), headers, body).await
}

/// There are no others; who proves nothing is not told so.
pub(super) async fn other(
    State(api): State<Api>,
    client: Client,
    path: CallbackPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    receive(&api, client, path, headers, body).await
}

fn of(id: IdInPath, kind: &str) -> CallbackPath {
    id.map(|Path(id)| Path((id, kind.to_owned())))
}

async fn receive(
    api: &Api,
    client: Client,
    path: CallbackPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let kind = match &path {
        Ok(Path((_, kind))) => Kind::parse(kind).map_or("unknown", Kind::as_str),
        Err(_) => "unknown",
    };
    let answer = take(api, client, path, headers, body).await;
    let result = answer.as_ref().map_or_else(Problem::code, |_| "accepted");
    api.metrics.callback(kind, result);
    answer
}

async fn take(
    api: &Api,
    client: Client,
    path: CallbackPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    api.proof
        .require_credentials(&headers)
        .map_err(|problem| api.unproven(client, problem))?;
    let limit = match &path {
        Ok(Path((_, kind))) if Kind::parse(kind) == Some(Kind::Failure) => body::FAILURE_LIMIT,
        _ => body::BODY_LIMIT,
    };
    let body = body::read_at_most(limit, &headers, body).await?;
    let proven = api.proof.check(&headers, &body).await;
    let caller = proven.map_err(|why| why.told(client, &headers, |it| api.unproven(client, it)))?;

    let (id, kind) = parse_path(path)?;
    body::require_json(&headers)?;
    let callback = parse(&Fields::parse_lossy(&body)?, id, kind, api.managed)?;
    caller.require_voice_of(callback.run)?;

    let accepted = in_time(record(api, &callback, caller)).await?;
    answer(api, &callback, &accepted, wait_asked_for(&headers)).await
}

/// Decides and writes, until the decision rests on what is there.
async fn record(api: &Api, callback: &Callback, caller: Caller) -> Result<Accepted, Problem> {
    let mut db = api.pool.acquire().await?;
    for _ in 0..ROUNDS {
        let snapshot = read_for_callback(&mut db, callback).await?;
        let decision = decide(snapshot, callback, api.provision_timeout)
            .map_err(crate::store::StoreError::from)?;
        if let Some(mut change) = decision.change {
            let event = callback.message.kind().event();
            change.note(event, PROVEN_BY, caller.proven_by());
            rollback_failed_provision(&mut change, api.managed);
            if write(&mut db, &change).await? == Written::Outrun {
                continue;
            }
            api.feed.look();
            if change.over().next().is_some() {
                api.changes.announce(callback.provision);
            }
        }
        let kind = callback.message.kind().as_str();
        let code = decision
            .answer
            .as_ref()
            .map_or_else(|r| r.code(), |_| "accepted");
        tracing::info!(
            provision.id = %callback.provision, run.id = %callback.run, callback = kind,
            result = code, "callback"
        );
        return decision.answer.map_err(Problem::from);
    }
    tracing::warn!(provision.id = %callback.provision, "too many callbacks at once");
    Err(Problem::unavailable())
}

async fn answer(
    api: &Api,
    callback: &Callback,
    accepted: &Accepted,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let provision = &accepted.provision;
    match callback.message {
        Message::Started { .. } => Ok(Json(names(api, callback, accepted)).into_response()),
        Message::Progress { .. } => Ok(Json(Progressed {
            status: provision.status,
            deadline_at: provision.deadline_at(),
        })
        .into_response()),
        Message::Success { .. } => Ok(Json(Succeeded {
            status: provision.status,
            unreadable: callback.unreadable.clone(),
        })
        .into_response()),
        Message::Failure(_) => rolled_back(api, callback, accepted.attempt, wait).await,
    }
}

fn names(api: &Api, callback: &Callback, accepted: &Accepted) -> Started {
    let attempt = &accepted.provision.attempt;
    let names = attempt.names(callback.provision);
    Started {
        attempt: attempt.number.as_i32(),
        server_name: names.server_name(),
        labels: names.labels(api.controller, callback.run),
        tailscale: api.tailscale_tag.clone().map(|tag| TailscaleNames {
            hostname: names.server_name(),
            tags: vec![tag],
            key_description: names.key_description(),
        }),
        deadline_at: attempt.deadline_at,
    }
}

/// The rollback as it stands, after waiting for it to settle for as long as the caller asked.
async fn rolled_back(
    api: &Api,
    callback: &Callback,
    attempt: AttemptNumber,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let id = callback.provision;
    let until = Instant::now() + wait.unwrap_or_default();
    // Before the first look, or a change right after it would go unheard.
    let mut changes = api.changes.subscribe();
    loop {
        let (status, rollback) = in_time(rollback_of(api, id, attempt)).await?;
        let settled = rollback
            .as_ref()
            .is_some_and(|rollback| rollback.state == RollbackState::Done);
        let waited_enough = Instant::now() >= until || api.stop.is_cancelled();
        if settled || waited_enough {
            let code = if settled && wait.is_some() {
                StatusCode::OK
            } else {
                StatusCode::ACCEPTED
            };
            let answer = Failed {
                status,
                rollback,
                unreadable: callback.unreadable.clone(),
            };
            let mut response = (code, Json(answer)).into_response();
            if let Some(wait) = wait {
                let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()))
                    .expect("digits are visible ASCII");
                response.headers_mut().insert("preference-applied", applied);
            }
            return Ok(response);
        }
        let look_at = until.min(Instant::now() + LOOK_EVERY);
        tokio::select! {
            () = api.stop.cancelled() => {}
            // Heard, or time to look anyway: look.
            _ = timeout_at(look_at, changes.changed_of(id)) => {}
        }
    }
}

async fn rollback_of(
    api: &Api,
    id: ProvisionId,
    attempt: AttemptNumber,
) -> Result<(Status, Option<RollbackView>), Problem> {
    let mut db = api.pool.acquire().await?;
    views::rollback_of_attempt(&mut db, id, attempt, api.stuck_after)
        .await?
        .ok_or_else(Problem::internal)
}

/// `Prefer: wait=20` ([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240)), at most
/// [`LONGEST_WAIT`]. Other preferences and what does not parse are ignored, as the RFC says.
pub(super) fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn parse_path(path: CallbackPath) -> Result<(ProvisionId, Kind), Problem> {
    let Path((id, kind)) = path.map_err(|_| Problem::invalid_parameter("the path is not UTF-8"))?;
    let kind = Kind::parse(&kind).ok_or_else(|| {
        Problem::not_found("the callbacks are started, progress, success and failure")
    })?;
    Ok((super::provisions::parse_id(&id)?, kind))
}

/// What an installation that deletes `managed` kinds of thing takes as a callback.
pub(super) fn parse(
    fields: &Fields,
    id: ProvisionId,
    kind: Kind,
    managed: &[Resource],
) -> Result<Callback, Problem> {
    // The signature covers the body only: these two bind it to its endpoint.
    let named_kind = required("type", fields.name("type")?)?;
    if named_kind != kind.as_str() {
        return Err(Problem::invalid_body(format!(
            "type must be {}, as in the path",
            kind.as_str()
        )));
    }
    let named_id: ProvisionId = required(
        "provision_id",
        fields.value("provision_id", "the UUID of the path")?,
    )?;
    if named_id != id {
        return Err(Problem::invalid_body(
            "provision_id must be the one in the path",
        ));
    }
    let run = Run {
        id: required("run_id", fields.positive("run_id")?)?,
        attempt: fields.positive("run_attempt")?.unwrap_or(1),
    };
    let mut forgiving = Forgiving::new(fields);
    let message = match kind {
        Kind::Started => Message::Started {
            agent_id: fields.name("agent_id")?,
            region: fields.name("region")?,
        },
        Kind::Progress => Message::Progress {
            step: fields.name("step")?,
            reported: Reported {
                server_ip: fields.address("server_ip")?,
                tailscale_ip: fields.address("tailscale_ip")?,
                ..reported_ids(fields)?
            },
        },
        Kind::Success => {
            // The addresses are for people, and a machine in use is not deleted for their spelling.
            let reported = Reported {
                server_ip: forgiving.take("server_ip", Fields::address),
                tailscale_ip: forgiving.take("tailscale_ip", Fields::address),
                ..reported_ids(fields)?
            };
            let is_there = |name, ip: Option<Address>| {
                required(
                    name,
                    ip.map(|_| ())
                        .or_else(|| forgiving.unreadable.contains(&name).then_some(())),
                )
            };
            required("server_id", reported.server_id.as_ref())?;
            is_there("server_ip", reported.server_ip)?;
            if managed.contains(&Resource::Device) {
                is_there("tailscale_ip", reported.tailscale_ip)?;
            }
            Message::Success { reported }
        }
        // From here on nothing is refused.
        Kind::Failure => Message::Failure(Failure {
            reported: Reported {
                server_id: forgiving.vendor_id("server_id", Resource::Server),
                server_ip: forgiving.take("server_ip", Fields::address),
                tailscale_ip: forgiving.take("tailscale_ip", Fields::address),
                tailscale_key_id: forgiving.vendor_id("tailscale_key_id", Resource::AuthKey),
                tailscale_node_id: forgiving.vendor_id("tailscale_node_id", Resource::Device),
            },
            error: forgiving.take("error", Fields::text),
            failed_step: forgiving.take("failed_step", Fields::name),
            conclusion: conclusion(&mut forgiving),
            may_exist: forgiving
                .take("may_exist", Fields::resources)
                .unwrap_or_else(|| Resource::ALL.into()),
        }),
    };
    let job = forgiving.take("job", Fields::name);
    Ok(Callback {
        provision: id,
        run,
        job,
        message,
        unreadable: forgiving.unreadable,
    })
}

/// How a failure says that its run ended. What it says and nobody can read is a failure.
fn conclusion(forgiving: &mut Forgiving<'_>) -> Option<Conclusion> {
    const NAME: &str = "conclusion";
    let said = forgiving.take(NAME, |fields, name| {
        fields.value(name, "failure, cancelled or timed_out")
    });
    let unreadable = forgiving.unreadable.contains(&NAME);
    said.or(unreadable.then_some(Conclusion::Failure))
}

/// The ids that a callback reports, and no addresses.
fn reported_ids(fields: &Fields) -> Result<Reported, Problem> {
    Ok(Reported {
        server_id: fields.vendor_id("server_id", Resource::Server)?,
        tailscale_key_id: fields.vendor_id("tailscale_key_id", Resource::AuthKey)?,
        tailscale_node_id: fields.vendor_id("tailscale_node_id", Resource::Device)?,
        ..Reported::default()
    })
}
