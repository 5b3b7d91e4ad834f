//! Whose jobs may send callbacks by their own tokens.

use clap::Args;

use super::github::{GitHubSettings, Named};
use super::{ConfigError, given_text};
use crate::oidc::{Ours, Repository, Verifier, WorkflowFile};
use crate::providers::Issuer;

const GITHUB: &str = "https://token.actions.githubusercontent.com";

/// What is known of the tokens.
#[derive(Debug, Clone, Args)]
pub struct OidcSettings {
    /// Who issues the tokens of jobs [default: GitHub, where the repository and the audience are set]
    #[arg(
        long,
        env = "BACKSTOP_OIDC_ISSUER",
        value_name = "BACKSTOP_OIDC_ISSUER"
    )]
    pub oidc_issuer: Option<String>,

    /// For whom they must have been issued [default: BACKSTOP_PUBLIC_URL]
    #[arg(
        long,
        env = "BACKSTOP_OIDC_AUDIENCE",
        value_name = "BACKSTOP_OIDC_AUDIENCE"
    )]
    pub oidc_audience: Option<String>,

    /// Reusable workflows that ours calls and whose jobs send callbacks, as GitHub's job_workflow_ref,
    /// comma separated
    #[arg(
        long,
        env = "BACKSTOP_OIDC_CALLED_WORKFLOWS",
        value_name = "BACKSTOP_OIDC_CALLED_WORKFLOWS"
    )]
    pub oidc_called_workflows: Option<String>,

    /// The repository's id, besides its name: a name can pass to somebody else
    #[arg(
        long,
        env = "BACKSTOP_GITHUB_REPOSITORY_ID",
        value_name = "BACKSTOP_GITHUB_REPOSITORY_ID"
    )]
    pub github_repository_id: Option<String>,

    /// The id of the repository's owner
    #[arg(
        long,
        env = "BACKSTOP_GITHUB_OWNER_ID",
        value_name = "BACKSTOP_GITHUB_OWNER_ID"
    )]
    pub github_owner_id: Option<String>,
}

impl OidcSettings {
    /// Checks the settings. `None`: tokens are not taken.
    pub(super) fn check(
        &self,
        github: &GitHubSettings,
        public_url: Option<&str>,
    ) -> Result<Option<Verifier>, ConfigError> {
        let (issuer, audience) = (
            given_text(self.oidc_issuer.as_deref()),
            given_text(self.oidc_audience.as_deref()),
        );
        let asked_for = [
            ("BACKSTOP_OIDC_ISSUER", &self.oidc_issuer),
            ("BACKSTOP_OIDC_AUDIENCE", &self.oidc_audience),
            (
                "BACKSTOP_OIDC_CALLED_WORKFLOWS",
                &self.oidc_called_workflows,
            ),
            ("BACKSTOP_GITHUB_REPOSITORY_ID", &self.github_repository_id),
            ("BACKSTOP_GITHUB_OWNER_ID", &self.github_owner_id),
        ]
        .into_iter()
        .find(|(_, value)| given_text(value.as_deref()).is_some())
        .map(|(name, _)| name);
        let without = |what: &str| match asked_for {
            Some(name) => Err(ConfigError(format!("{name} is set and {what}"))),
            None => Ok(None),
        };

        let ids = (
            id(
                "BACKSTOP_GITHUB_REPOSITORY_ID",
                self.github_repository_id.as_deref(),
            )?,
            id("BACKSTOP_GITHUB_OWNER_ID", self.github_owner_id.as_deref())?,
        );
        let repository = match github.repository()? {
            Named::Nowhere => return without("BACKSTOP_GITHUB_REPOSITORY is not"),
            Named::ByName(repository) => Repository::Name(repository.to_string()),
            Named::ByNumber(id) => Repository::Id(id),
        };
        let audiences = match (audience, public_url) {
            (Some(audience), _) => vec![audience.to_owned()],
            // Workflows may know it with a slash at its end.
            (None, Some(url)) => vec![url.to_owned(), format!("{url}/")],
            (None, None) => {
                return without("neither BACKSTOP_OIDC_AUDIENCE nor BACKSTOP_PUBLIC_URL is");
            }
        };
        let issuer = Issuer::new("BACKSTOP_OIDC_ISSUER", issuer.unwrap_or(GITHUB))
            .map_err(|e| ConfigError(e.to_string()))?;
        let ours = Ours {
            repository,
            repository_id: ids.0,
            owner_id: ids.1,
            workflow: WorkflowFile {
                file: github.github_workflow.clone(),
                git_ref: github.github_ref.clone(),
            },
            called: self.called()?,
        };
        Ok(Some(Verifier::new(issuer, &audiences, ours)))
    }

    fn called(&self) -> Result<Vec<String>, ConfigError> {
        let text = self.oidc_called_workflows.as_deref().unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .map(|it| {
                let whole =
                    it.split_once("/.github/workflows/")
                        .is_some_and(|(repository, rest)| {
                            repository.contains('/') && rest.contains('@')
                        });
                whole.then(|| it.to_owned()).ok_or_else(|| {
                    ConfigError(
                        "BACKSTOP_OIDC_CALLED_WORKFLOWS: each reads \
                         owner/name/.github/workflows/file.yml@REF, where REF is refs/tags/v1 or a commit"
                            .to_owned(),
                    )
                })
            })
            .collect()
    }
}

fn id(name: &str, value: Option<&str>) -> Result<Option<u64>, ConfigError> {
    given_text(value)
        .map(str::parse)
        .transpose()
        .map_err(|_| ConfigError(format!("{name} must be a number")))
}
