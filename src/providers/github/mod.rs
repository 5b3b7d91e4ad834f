//! GitHub: starting a workflow, <https://docs.github.com/rest/actions/workflows>, and looking at its
//! runs.
//!
//! A 4xx is a refusal, and nothing was started; what is none of that (but a 200 or a 204) may have
//! started a run. Two kinds of 4xx are no refusals: 408, and whatever says that there were too many
//! requests, which GitHub also answers as 403.

mod abilities;
mod credential;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod runs;

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::HeaderName;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::http::{Answer, Call, Http, LONGEST_RETRY_AFTER, between};
use super::{SetupError, Timeouts, Vendor, VendorError};
use crate::metrics::Metrics;
use credential::Access;

pub use abilities::{Installation, SeenWorkflow};
pub use credential::GitHubCredential;
pub use runs::Look;

/// The version whose shapes these are. <https://docs.github.com/rest/about-the-rest-api/api-versions>
const VERSION: (&str, &str) = ("x-github-api-version", "2022-11-28");
/// The field that older servers do not know.
const RUN_DETAILS: &str = "return_run_details";
/// What to wait when a secondary limit does not say for how long.
/// <https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api>
const UNNAMED_WAIT: Duration = Duration::from_secs(60);

/// The longest link that is worth keeping.
const LONGEST_LINK: usize = 2000;

const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// A client for one workflow of one repository.
pub struct GitHub {
    http: Http,
    workflow: Workflow,
    access: Access,
}

/// Which workflow is started.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// Whose it is.
    pub repository: Repository,
    /// Its file name, such as `provision-agent.yml`, or its id.
    pub file: String,
    /// The branch or tag that it runs at.
    pub git_ref: String,
}

/// A repository by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    owner: String,
    name: String,
}

/// A run that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedRun {
    /// GitHub's id of it.
    pub id: i64,
    /// Its page; `None` if GitHub did not say.
    pub html_url: Option<String>,
}

impl Repository {
    /// Parses `owner/name`.
    ///
    /// # Errors
    /// When it is none; the message names `BACKSTOP_GITHUB_REPOSITORY`.
    pub fn parse(text: &str) -> Result<Self, SetupError> {
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        match text.split_once('/') {
            Some((owner, name)) if plain(owner) && plain(name) => Ok(Self {
                owner: owner.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(SetupError(
                "BACKSTOP_GITHUB_REPOSITORY must be owner/name".to_owned(),
            )),
        }
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl GitHub {
    /// `api_url` is `GITHUB_API_URL`.
    ///
    /// # Errors
    /// When something can't be used; the message names the setting and shows no secret.
    pub fn new(
        api_url: &str,
        workflow: Workflow,
        credential: &GitHubCredential,
    ) -> Result<Self, SetupError> {
        let odd = |text: &str| text.is_empty() || text.contains(|c: char| c <= ' ' || c > '~');
        if odd(&workflow.file) || workflow.file.contains('/') || workflow.file.starts_with('.') {
            let problem =
                "BACKSTOP_GITHUB_WORKFLOW must be a workflow's file name, without its path";
            return Err(SetupError(problem.to_owned()));
        }
        if odd(&workflow.git_ref) {
            let problem = "BACKSTOP_GITHUB_REF must be a branch or a tag";
            return Err(SetupError(problem.to_owned()));
        }
        let timeouts = Timeouts::default();
        Ok(Self {
            http: Http::new(Vendor::GitHub, "GITHUB_API_URL", api_url, timeouts)?,
            workflow,
            access: Access::new(credential)?,
        })
    }

    /// The same client with other time-outs.
    ///
    /// # Errors
    /// When the machine has no usable TLS roots.
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Result<Self, SetupError> {
        self.http.set_timeouts(timeouts)?;
        Ok(self)
    }

    /// The same client, whose requests count in `metrics`.
    #[must_use]
    pub fn counted_in(mut self, metrics: &Metrics) -> Self {
        self.http.count_in(metrics);
        self
    }

    /// Starts the workflow. `None`: it was started, and the server is too old to say which run it
    /// is. <https://docs.github.com/rest/actions/workflows#create-a-workflow-dispatch-event>
    ///
    /// # Errors
    /// [`VendorError::is_refusal`]: nothing was started, nor would be by asking again. Otherwise a
    /// run may have been started all the same.
    pub async fn dispatch(
        &self,
        inputs: &BTreeMap<&str, String>,
    ) -> Result<Option<StartedRun>, VendorError> {
        let mut answer = self.ask_for_run(inputs, Some(true)).await?;
        if does_not_know_run_details(&answer) {
            answer = self.ask_for_run(inputs, None).await?;
        }
        match answer.status {
            StatusCode::NO_CONTENT => Ok(None),
            status if status.is_success() => started_run(&answer).map(Some),
            _ => Err(refusal(&answer)),
        }
    }

    async fn ask_for_run(
        &self,
        inputs: &BTreeMap<&str, String>,
        return_run_details: Option<bool>,
    ) -> Result<Answer, VendorError> {
        let Repository { owner, name } = &self.workflow.repository;
        let file = &self.workflow.file;
        let path = [
            "repos",
            owner,
            name,
            "actions",
            "workflows",
            file,
            "dispatches",
        ];
        let body = DispatchRequest {
            git_ref: &self.workflow.git_ref,
            inputs,
            return_run_details,
        };
        self.send(|| versioned(self.http.post(&path)).json(&body))
            .await
    }

    async fn send<'a>(&self, call: impl Fn() -> Call<'a>) -> Result<Answer, VendorError> {
        match &self.access {
            Access::Token(token) => call().bearer(token).send().await,
            Access::App(app) => app.send(&self.http, &self.workflow.repository, call).await,
        }
    }
}

impl std::fmt::Debug for GitHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitHub")
            .field("api_url", &self.http.base().as_str())
            .field("workflow", &self.workflow)
            .finish_non_exhaustive()
    }
}

fn versioned(call: Call<'_>) -> Call<'_> {
    let (name, version) = VERSION;
    call.header(name, version)
        .header("accept", "application/vnd.github+json")
}

/// Whether a server refuses the request only because it is older than the field. GitHub Enterprise
/// Server before 3.20 says `"return_run_details" is not a permitted key`.
fn does_not_know_run_details(answer: &Answer) -> bool {
    match answer.status {
        StatusCode::BAD_REQUEST => true,
        StatusCode::UNPROCESSABLE_ENTITY => message(answer).contains(RUN_DETAILS),
        _ => false,
    }
}

fn started_run(answer: &Answer) -> Result<StartedRun, VendorError> {
    let body: DispatchAnswer = answer.json()?;
    if body.workflow_run_id <= 0 {
        return Err(answer.unusable("a run without an id"));
    }
    // A link that people will follow.
    let page = body.html_url.and_then(|url| Url::parse(&url).ok());
    let html_url = page
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        // Whoever reads `https://github.com@…` goes somewhere else.
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .filter(|url| url.as_str().len() <= LONGEST_LINK)
        .map(String::from);
    Ok(StartedRun {
        id: body.workflow_run_id,
        html_url,
    })
}

/// <https://docs.github.com/rest/using-the-rest-api/troubleshooting-the-rest-api>
fn refusal(answer: &Answer) -> VendorError {
    let message = message(answer);
    let call = || answer.failed(None, &message);
    match answer.status.as_u16() {
        300..=399 => {
            let why = "a redirect, not followed: was the repository renamed?";
            VendorError::Unavailable(answer.failed(None, why))
        }
        429 => too_many_requests(answer, &message),
        403 if is_about_rate(answer, &message) => too_many_requests(answer, &message),
        401 => VendorError::Unauthorized(call()),
        403 => VendorError::Forbidden(call()),
        408 => VendorError::Unavailable(call()),
        400..=499 => VendorError::Rejected(call()),
        _ => VendorError::Unavailable(call()),
    }
}

/// Secondary limits may come without any header.
fn is_about_rate(answer: &Answer, message: &str) -> bool {
    answer.retry_after().is_some()
        || answer.header(&REMAINING) == Some("0")
        || message.contains("rate limit")
}

fn too_many_requests(answer: &Answer, message: &str) -> VendorError {
    let reset = || {
        (answer.header(&REMAINING)? == "0").then_some(())?;
        let wait = between(answer.date()?, answer.header(&RESET)?.parse().ok()?)?;
        // The limit is one of an hour: what lies beyond is no reset of it.
        Some(wait.min(LONGEST_RETRY_AFTER))
    };
    VendorError::RateLimited {
        call: answer.failed(None, message),
        retry_after: answer.retry_after().or_else(reset).or(Some(UNNAMED_WAIT)),
    }
}

/// What GitHub says about a refusal; empty if it is not GitHub's.
fn message(answer: &Answer) -> String {
    answer
        .refusal()
        .map_or_else(String::new, |body: Refusal| body.message)
}

#[derive(Serialize)]
struct DispatchRequest<'a> {
    #[serde(rename = "ref")]
    git_ref: &'a str,
    inputs: &'a BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_run_details: Option<bool>,
}

#[derive(Deserialize)]
struct DispatchAnswer {
    workflow_run_id: i64,
    #[serde(default)]
    html_url: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}
