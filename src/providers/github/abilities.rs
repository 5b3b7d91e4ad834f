//! What the credential may do, found out without doing it.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use reqwest::header::HeaderName;
use serde::Deserialize;

use super::credential::Access;
use super::{DispatchRequest, GitHub, Repository, Workflow, refusal, versioned};
use crate::providers::VendorError;

/// What a classic token may do, on every answer to it. Other credentials get none.
/// <https://docs.github.com/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps>
const SCOPES: HeaderName = HeaderName::from_static("x-oauth-scopes");
/// No branch or tag can be called so: git does not take two dots in a name.
/// <https://git-scm.com/docs/git-check-ref-format>
const NO_REF: &str = "backstop..check";

/// The workflow that is dispatched, as GitHub shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenWorkflow {
    /// `active`, or why it does not run, such as `disabled_manually`.
    pub state: String,
    /// The scopes of a classic token; `None` for any other credential.
    pub classic_scopes: Option<Vec<String>>,
}

/// An app's installation on the repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Installation {
    /// What it may do, such as `actions`: `write`.
    #[serde(default)]
    pub permissions: BTreeMap<String, String>,
    /// `selected` repositories, or `all` of the owner's.
    #[serde(default)]
    pub repository_selection: String,
}

impl GitHub {
    /// The workflow. Seeing it takes what seeing its runs takes.
    /// <https://docs.github.com/rest/actions/workflows#get-a-workflow>
    ///
    /// # Errors
    /// `Rejected` (404) if it is not there, the repository is not, or the credential may not look.
    pub async fn workflow(&self) -> Result<SeenWorkflow, VendorError> {
        let Workflow {
            repository: Repository { owner, name },
            file,
            ..
        } = &self.workflow;
        let path = ["repos", owner, name, "actions", "workflows", file];
        let answer = self.send(|| versioned(self.http.get(&path))).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let body: WorkflowAnswer = answer.json()?;
        let scopes = answer.header(&SCOPES);
        Ok(SeenWorkflow {
            state: body.state,
            classic_scopes: scopes.map(|text| {
                let scopes = text.split(',').map(str::trim);
                scopes
                    .filter(|scope| !scope.is_empty())
                    .map(str::to_owned)
                    .collect()
            }),
        })
    }

    /// The app's installation on the repository; `None` if the credential is no app.
    /// <https://docs.github.com/rest/apps/apps#get-a-repository-installation-for-the-authenticated-app>
    ///
    /// # Errors
    /// `Rejected` (404) if the app is not installed there.
    pub async fn installation(&self) -> Result<Option<Installation>, VendorError> {
        match &self.access {
            Access::Token(_) => Ok(None),
            Access::App(app) => {
                let (http, repository) = (&self.http, &self.workflow.repository);
                app.installation(http, repository).await.map(Some)
            }
        }
    }

    /// Whether the workflow may be dispatched. For a token that is not a classic one no call says so.
    /// So it is dispatched at a ref that cannot be: whoever may not is told so (403), and whoever may
    /// is told that there is no such ref (422). No run is made of either.
    ///
    /// # Errors
    /// `Forbidden` if it may not.
    pub async fn may_dispatch(&self) -> Result<(), VendorError> {
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
            git_ref: NO_REF,
            inputs: &BTreeMap::new(),
            return_run_details: None,
        };
        let answer = self
            .send(|| versioned(self.http.post(&path)).json(&body))
            .await?;
        match answer.status {
            StatusCode::UNPROCESSABLE_ENTITY => Ok(()),
            status if status.is_success() => {
                Err(answer.unusable("a dispatch at a ref that cannot be was accepted"))
            }
            _ => Err(refusal(&answer)),
        }
    }
}

#[derive(Deserialize)]
struct WorkflowAnswer {
    state: String,
}
