//! Looking at a run attempt.
//! <https://docs.github.com/rest/actions/workflow-runs#get-a-workflow-run-attempt>

use reqwest::StatusCode;
use reqwest::header::ETAG;
use serde::Deserialize;

use super::{GitHub, Repository, refusal, versioned};
use crate::domain::names::Run;
use crate::domain::witness::RunState;
use crate::providers::VendorError;

/// The longest tag that is worth keeping.
const LONGEST_ETAG: usize = 200;

/// What a look at a run attempt shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing has changed since the answer with that tag.
    Unchanged,
    /// It stands so.
    Seen {
        /// How.
        state: RunState,
        /// To ask with the next time; `None` if there is none that can be kept.
        etag: Option<String>,
    },
}

impl GitHub {
    /// Looks at one attempt of a run of the repository. With the tag of an earlier answer an answer
    /// that has not changed costs nothing of the rate limit.
    /// <https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api>
    ///
    /// # Errors
    /// Whatever it is, nothing is known: also a 404, which is the answer to whoever may not look.
    pub async fn run_attempt(&self, run: Run, etag: Option<&str>) -> Result<Look, VendorError> {
        let Repository { owner, name } = &self.workflow.repository;
        let (id, attempt) = (run.id.to_string(), run.attempt.to_string());
        let path = [
            "repos", owner, name, "actions", "runs", &id, "attempts", &attempt,
        ];
        let answer = self
            .send(|| {
                let call = versioned(self.http.get(&path));
                match etag {
                    Some(etag) => call.if_none_match(etag),
                    None => call,
                }
            })
            .await?;
        match answer.status {
            StatusCode::NOT_MODIFIED if etag.is_some() => Ok(Look::Unchanged),
            StatusCode::OK => {
                let body: RunAnswer = answer.json()?;
                if (body.id, body.run_attempt) != (run.id, Some(run.attempt)) {
                    return Err(answer.unusable("another run attempt than was asked about"));
                }
                Ok(Look::Seen {
                    state: RunState::parse(body.status.as_deref(), body.conclusion.as_deref()),
                    etag: answer
                        .header(&ETAG)
                        .filter(|etag| etag.len() <= LONGEST_ETAG)
                        .map(str::to_owned),
                })
            }
            _ => Err(refusal(&answer)),
        }
    }
}

#[derive(Deserialize)]
struct RunAnswer {
    id: i64,
    #[serde(default)]
    run_attempt: Option<i32>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    conclusion: Option<String>,
}
