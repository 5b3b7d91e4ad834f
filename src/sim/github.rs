//! GitHub's API: starting a workflow and looking at its runs.
//!
//! What a caller may not see is not found; that is also the answer for a workflow that is not
//! there. See <https://docs.github.com/rest/actions/workflows> and
//! <https://docs.github.com/rest/actions/workflow-runs>.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    clock::{self, stamp},
    exchange::{Answer, Request},
    github_app::{self, NewToken},
    options::Permission,
    snapshot::{Effect, WorkflowRun},
    world::World,
};

const DISPATCH_DOCS: &str =
    "https://docs.github.com/rest/actions/workflows#create-a-workflow-dispatch-event";
const DOCS: &str = "https://docs.github.com/rest";
/// The version that answers dispatches without being asked for the run's details.
const NEWER_VERSION: &str = "2026-03-10";
const VERSIONS: [&str; 2] = ["2022-11-28", NEWER_VERSION];
const MOST_INPUTS: usize = 25;
const WORKFLOW_ID: u64 = 159_038;

/// An error: a status, the vendor's message, and where it is documented.
pub(super) struct Problem {
    status: StatusCode,
    message: String,
    docs: &'static str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Problem {
        Problem {
            status,
            message: message.into(),
            docs: DOCS,
        }
    }

    pub(super) fn not_found() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "Not Found")
    }

    fn of_dispatch(status: StatusCode, message: impl Into<String>) -> Problem {
        Problem {
            docs: DISPATCH_DOCS,
            ..Problem::new(status, message)
        }
    }

    fn into_answer(self) -> Answer {
        let mut answer = Answer::json(
            self.status,
            json!({
                "message": self.message,
                "documentation_url": self.docs,
                "status": self.status.as_u16().to_string(),
            }),
        );
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            answer.headers.push(("retry-after", "60".to_owned()));
            answer
                .headers
                .push(("x-ratelimit-remaining", "0".to_owned()));
        }
        answer
    }
}

/// A request that exists.
enum Route<'a> {
    GetWorkflow {
        repository: String,
        workflow: &'a str,
    },
    Dispatch {
        repository: String,
        workflow: &'a str,
    },
    GetRun {
        repository: String,
        id: &'a str,
    },
    GetAttempt {
        repository: String,
        id: &'a str,
        attempt: &'a str,
    },
    GetInstallation {
        repository: String,
    },
    IssueToken {
        installation: &'a str,
    },
}

fn route<'a>(method: &Method, segments: &[&'a str]) -> Option<Route<'a>> {
    let named = |owner: &str, name: &str| format!("{owner}/{name}");
    Some(match (method.as_str(), segments) {
        (
            "POST",
            [
                "repos",
                owner,
                name,
                "actions",
                "workflows",
                workflow,
                "dispatches",
            ],
        ) => Route::Dispatch {
            repository: named(owner, name),
            workflow,
        },
        ("GET", ["repos", owner, name, "actions", "workflows", workflow]) => Route::GetWorkflow {
            repository: named(owner, name),
            workflow,
        },
        ("GET", ["repos", owner, name, "actions", "runs", id]) => Route::GetRun {
            repository: named(owner, name),
            id,
        },
        (
            "GET",
            [
                "repos",
                owner,
                name,
                "actions",
                "runs",
                id,
                "attempts",
                attempt,
            ],
        ) => Route::GetAttempt {
            repository: named(owner, name),
            id,
            attempt,
        },
        ("GET", ["repos", owner, name, "installation"]) => Route::GetInstallation {
            repository: named(owner, name),
        },
        ("POST", ["app", "installations", installation, "access_tokens"]) => {
            Route::IssueToken { installation }
        }
        _ => return None,
    })
}

/// What GitHub does with a request and answers to it.
pub(super) fn answer(world: &mut World, request: &Request) -> Answer {
    act(world, request).unwrap_or_else(Problem::into_answer)
}

/// An error that a fault asks for.
pub(super) fn scripted_error(status: StatusCode, message: Option<String>) -> Answer {
    let message = message.unwrap_or_else(|| usual_message(status).to_owned());
    Problem::new(status, message).into_answer()
}

fn usual_message(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "Bad credentials",
        403 => "Resource not accessible by integration",
        422 => "Validation Failed",
        429 => {
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        }
        500 | 502 | 503 => "Server Error",
        _ => status.canonical_reason().unwrap_or("error"),
    }
}

fn act(world: &mut World, request: &Request) -> Result<Answer, Problem> {
    let version = request.api_version.as_deref().unwrap_or(VERSIONS[0]);
    if !VERSIONS.contains(&version) {
        let message = format!("{version} is not a supported API version");
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }
    let segments = request.segments();
    match route(&request.method, &segments).ok_or_else(Problem::not_found)? {
        Route::GetInstallation { repository } => {
            github_app::authenticate(world, request)?;
            check_repository(world, &repository)?;
            Ok(github_app::installation(world))
        }
        Route::IssueToken { installation } => {
            github_app::authenticate(world, request)?;
            let wanted = NewToken::parse(installation, &request.body)?;
            github_app::issue_token(world, &wanted)
        }
        Route::GetWorkflow {
            repository,
            workflow,
        } => {
            authorize(world, request)?;
            check_repository(world, &repository)?;
            get_workflow(world, workflow)
        }
        Route::Dispatch {
            repository,
            workflow,
        } => {
            let may = authorize(world, request)?;
            check_repository(world, &repository)?;
            if may == Permission::Read {
                let message = "Resource not accessible by integration";
                return Err(Problem::of_dispatch(StatusCode::FORBIDDEN, message));
            }
            dispatch(world, request, workflow, version == NEWER_VERSION)
        }
        Route::GetRun { repository, id } => run(world, request, &repository, id, None),
        Route::GetAttempt {
            repository,
            id,
            attempt,
        } => run(world, request, &repository, id, Some(attempt)),
    }
}

/// `Bearer` or `token`, a user's or an installation's.
fn authorize(world: &World, request: &Request) -> Result<Permission, Problem> {
    let refused = |message| Problem::new(StatusCode::UNAUTHORIZED, message);
    let header = request
        .authorization
        .as_deref()
        .ok_or_else(|| refused("Requires authentication"))?;
    let token = header
        .strip_prefix("Bearer ")
        .or_else(|| header.strip_prefix("token "))
        .ok_or_else(|| refused("Bad credentials"))?
        .trim();
    if token == world.options.github_token {
        return Ok(world.options.grants.github);
    }
    world
        .actions
        .permission(token, clock::now())
        .ok_or_else(|| refused("Bad credentials"))
}

fn check_repository(world: &World, repository: &str) -> Result<(), Problem> {
    if repository.eq_ignore_ascii_case(&world.options.github_repository) {
        Ok(())
    } else {
        Err(Problem::not_found())
    }
}

/// <https://docs.github.com/rest/actions/workflows#get-a-workflow>. By its file name or by its id.
fn get_workflow(world: &World, workflow: &str) -> Result<Answer, Problem> {
    let file = &world.options.github_workflow;
    if workflow != file && workflow != WORKFLOW_ID.to_string() {
        return Err(Problem::not_found());
    }
    let repository = &world.options.github_repository;
    let mut answer = Answer::json(
        StatusCode::OK,
        json!({
            "id": WORKFLOW_ID,
            "node_id": "MDg6V29ya2Zsb3cxNTkwMzg=",
            "name": file,
            "path": format!(".github/workflows/{file}"),
            "state": world.options.github_workflow_state,
            "created_at": "2026-01-08T23:48:37Z",
            "updated_at": "2026-01-08T23:50:21Z",
            "url": format!(
                "https://api.github.com/repos/{repository}/actions/workflows/{WORKFLOW_ID}"
            ),
            "html_url":
                format!("https://github.com/{repository}/blob/main/.github/workflows/{file}"),
        }),
    );
    // Of classic tokens alone, on every answer:
    // https://docs.github.com/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps
    if let Some(scopes) = &world.options.grants.github_classic_scopes {
        answer.headers.push(("x-oauth-scopes", scopes.clone()));
    }
    Ok(answer)
}

/// The fields of a request to start a workflow.
#[derive(Deserialize)]
struct DispatchBody {
    r#ref: String,
    #[serde(default)]
    inputs: BTreeMap<String, Value>,
    #[serde(default)]
    return_run_details: bool,
}

fn dispatch(
    world: &mut World,
    request: &Request,
    workflow: &str,
    always_tells: bool,
) -> Result<Answer, Problem> {
    let options = &world.options;
    let refused = |message: String| Problem::of_dispatch(StatusCode::UNPROCESSABLE_ENTITY, message);
    if workflow != options.github_workflow {
        return Err(Problem {
            docs: DISPATCH_DOCS,
            ..Problem::not_found()
        });
    }
    let body: Value = serde_json::from_slice(&request.body)
        .map_err(|_| Problem::of_dispatch(StatusCode::BAD_REQUEST, "Problems parsing JSON"))?;
    let body: DispatchBody = serde_json::from_value(body)
        .map_err(|error| refused(format!("Invalid request.\n\n{error}")))?;
    if body.inputs.len() > MOST_INPUTS {
        return Err(refused(format!(
            "Invalid request.\n\nMore than {MOST_INPUTS} inputs."
        )));
    }
    let git_ref = body
        .r#ref
        .strip_prefix("refs/heads/")
        .unwrap_or(&body.r#ref);
    if !options.github_refs.contains(git_ref) {
        return Err(refused(format!("No ref found for: {}", body.r#ref)));
    }
    let unexpected: Vec<&String> = body
        .inputs
        .keys()
        .filter(|name| !options.github_inputs.contains(*name))
        .collect();
    if !unexpected.is_empty() {
        return Err(refused(format!(
            "Unexpected inputs provided: {unexpected:?}"
        )));
    }
    let inputs: BTreeMap<String, String> = body
        .inputs
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => (name, text),
            other => (name, other.to_string()),
        })
        .collect();

    let id = world
        .actions
        .dispatch(git_ref, inputs.clone(), clock::now());
    let answer = if always_tells || body.return_run_details {
        let repository = &world.options.github_repository;
        Answer::json(
            StatusCode::OK,
            json!({
                "workflow_run_id": id,
                "run_url": format!("https://api.github.com/repos/{repository}/actions/runs/{id}"),
                "html_url": format!("https://github.com/{repository}/actions/runs/{id}"),
            }),
        )
    } else {
        Answer {
            status: StatusCode::NO_CONTENT,
            headers: Vec::new(),
            body: None,
            effect: None,
        }
    };
    Ok(answer.with_effect(Effect::RunDispatched { id, inputs }))
}

/// A run as it stands after one of its attempts; `None`: after the latest. What the caller has
/// already, by its tag, is not said again:
/// <https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api>
fn run(
    world: &World,
    request: &Request,
    repository: &str,
    id: &str,
    attempt: Option<&str>,
) -> Result<Answer, Problem> {
    authorize(world, request)?;
    check_repository(world, repository)?;
    let id: u64 = id.parse().map_err(|_| Problem::not_found())?;
    let (number, run) = world.actions.run(id).ok_or_else(Problem::not_found)?;
    let attempt = match attempt {
        None => run.attempts.len(),
        Some(text) => text.parse().map_err(|_| Problem::not_found())?,
    };
    let body = run_json(world, number, run, attempt).ok_or_else(Problem::not_found)?;
    let etag = format!("W/\"{:x}\"", Sha256::digest(body.to_string()));
    let mut answer = Answer::json(StatusCode::OK, body);
    if request.if_none_match.as_ref() == Some(&etag) {
        answer.status = StatusCode::NOT_MODIFIED;
        answer.body = None;
    }
    answer.headers.push(("etag", etag));
    Ok(answer)
}

/// The repository, as runs and webhooks have it.
pub(super) fn repository_json(world: &World) -> Value {
    let repository = &world.options.github_repository;
    let (owner, name) = repository.split_once('/').unwrap_or((repository, ""));
    json!({
        "id": 1_296_269,
        "name": name,
        "full_name": repository,
        "owner": {"login": owner, "id": 1, "type": "Organization"},
        "private": true,
    })
}

/// A run with one of its attempts, counted from 1. `None`: there is no such attempt.
pub(super) fn run_json(
    world: &World,
    number: usize,
    run: &WorkflowRun,
    attempt: usize,
) -> Option<Value> {
    let stands = run.attempts.get(attempt.checked_sub(1)?)?;
    let options = &world.options;
    let (repository, id) = (&options.github_repository, run.id);
    let repository_json = repository_json(world);
    let url = format!("https://api.github.com/repos/{repository}/actions/runs/{id}");
    let previous = (attempt > 1).then(|| format!("{url}/attempts/{}", attempt - 1));
    Some(json!({
        "id": id,
        "name": options.github_workflow,
        "node_id": format!("WFR_{id}"),
        "head_branch": run.git_ref,
        "head_sha": "acb5820ced9479c074f688cc328bf03f341a511d",
        "path": format!(".github/workflows/{}", options.github_workflow),
        "display_title": options.github_workflow,
        "run_number": number,
        "run_attempt": attempt,
        "event": "workflow_dispatch",
        "status": stands.status,
        "conclusion": stands.conclusion,
        "previous_attempt_url": previous,
        "workflow_id": WORKFLOW_ID,
        "url": url,
        "html_url": format!("https://github.com/{repository}/actions/runs/{id}"),
        "jobs_url": format!("{url}/jobs"),
        "logs_url": format!("{url}/logs"),
        "cancel_url": format!("{url}/cancel"),
        "rerun_url": format!("{url}/rerun"),
        "pull_requests": [],
        "created_at": stamp(run.created),
        "updated_at": stamp(stands.updated),
        "run_started_at": stamp(run.created),
        "repository": repository_json,
        "head_repository": repository_json,
    }))
}
