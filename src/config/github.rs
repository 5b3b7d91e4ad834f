//! Which workflow provisions, and what lets us start it.

use clap::Args;
use secrecy::SecretString;

use super::{ConfigError, given, given_text};
use crate::http::github::Webhooks;
use crate::oidc;
use crate::providers::GitHub;
use crate::providers::github::{GitHubCredential, Repository, Workflow};

/// What is known of GitHub.
#[expect(clippy::struct_field_names, reason = "each is its flag's name")]
#[derive(Debug, Clone, Args)]
pub struct GitHubSettings {
    /// GitHub token that may write the repository's actions
    #[arg(long, env, value_name = "GITHUB_TOKEN", hide_env_values = true)]
    pub github_token: Option<SecretString>,

    /// GitHub App that is installed on the repository, instead of a token: its app id or client id
    #[arg(long, env, value_name = "GITHUB_APP_ID")]
    pub github_app_id: Option<String>,

    /// Its private key as PEM; line breaks may be written as \n
    #[arg(
        long,
        env,
        value_name = "GITHUB_APP_PRIVATE_KEY",
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    pub github_app_private_key: Option<SecretString>,

    /// Secret of GitHub's webhooks workflow_run and workflow_job; unset: none are taken
    #[arg(
        long,
        env = "BACKSTOP_GITHUB_WEBHOOK_SECRET",
        value_name = "BACKSTOP_GITHUB_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    pub github_webhook_secret: Option<SecretString>,

    /// GitHub's API
    #[arg(
        long,
        env,
        value_name = "GITHUB_API_URL",
        default_value = "https://api.github.com"
    )]
    pub github_api_url: String,

    /// The repository of the workflow, owner/name
    #[arg(
        long,
        env = "BACKSTOP_GITHUB_REPOSITORY",
        value_name = "BACKSTOP_GITHUB_REPOSITORY"
    )]
    pub github_repository: Option<String>,

    /// File name of the workflow that is dispatched for a provision
    #[arg(
        long,
        env = "BACKSTOP_GITHUB_WORKFLOW",
        value_name = "BACKSTOP_GITHUB_WORKFLOW",
        default_value = "provision-agent.yml"
    )]
    pub github_workflow: String,

    /// The branch or tag that it runs at
    #[arg(
        long,
        env = "BACKSTOP_GITHUB_REF",
        value_name = "BACKSTOP_GITHUB_REF",
        default_value = "main"
    )]
    pub github_ref: String,
}

/// How the repository is named. Its number tells whose runs call us, and starts none.
pub(super) enum Named {
    Nowhere,
    ByNumber(u64),
    ByName(Repository),
}

impl GitHubSettings {
    /// Checks the settings. `None`: without a credential nothing is dispatched.
    pub(super) fn check(&self) -> Result<Option<GitHub>, ConfigError> {
        let error = |text: String| Err(ConfigError(text));
        // Always looked at, so that a typing error does not wait for a credential.
        let repository = self.repository()?;
        let Some((variable, credential)) = self.credential()? else {
            return Ok(None);
        };
        let repository = match repository {
            Named::ByName(repository) => repository,
            Named::ByNumber(_) => {
                return error(format!(
                    "{variable} is set, and BACKSTOP_GITHUB_REPOSITORY is a number: to dispatch, \
                     it must be owner/name"
                ));
            }
            Named::Nowhere => {
                return error(format!(
                    "{variable} is set and BACKSTOP_GITHUB_REPOSITORY is not"
                ));
            }
        };
        let workflow = Workflow {
            repository,
            file: self.github_workflow.clone(),
            git_ref: self.github_ref.clone(),
        };
        GitHub::new(&self.github_api_url, workflow, &credential)
            .map(Some)
            .map_err(|e| ConfigError(e.to_string()))
    }

    /// Where people see the repository's runs: beside the API, as GitHub has it and as its own servers
    /// have it.
    pub(super) fn runs_url(&self) -> Option<String> {
        let repository =
            given_text(self.github_repository.as_deref()).filter(|it| it.contains('/'))?;
        let site = match self.github_api_url.trim_end_matches('/') {
            "https://api.github.com" => "https://github.com",
            api => api.strip_suffix("/api/v3")?,
        };
        Some(format!("{site}/{repository}/actions/runs"))
    }

    /// Checks who may send webhooks. `None`: nobody.
    pub(super) fn check_webhooks(&self) -> Result<Option<Webhooks>, ConfigError> {
        let Some(secret) = given(self.github_webhook_secret.as_ref()) else {
            return Ok(None);
        };
        let repository = match self.repository()? {
            Named::ByNumber(number) => oidc::Repository::Id(number),
            Named::ByName(repository) => oidc::Repository::Name(repository.to_string()),
            Named::Nowhere => {
                return Err(ConfigError(
                    "BACKSTOP_GITHUB_WEBHOOK_SECRET is set and BACKSTOP_GITHUB_REPOSITORY is not: \
                     whose runs would be ours?"
                        .to_owned(),
                ));
            }
        };
        Webhooks::new(secret, repository)
            .map(Some)
            .map_err(|e| ConfigError(format!("BACKSTOP_GITHUB_WEBHOOK_SECRET: {e}")))
    }

    pub(super) fn repository(&self) -> Result<Named, ConfigError> {
        match given_text(self.github_repository.as_deref()) {
            None => Ok(Named::Nowhere),
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                let number = text.parse();
                number.map(Named::ByNumber).map_err(|_| {
                    ConfigError("BACKSTOP_GITHUB_REPOSITORY is too long a number".to_owned())
                })
            }
            Some(text) => Repository::parse(text)
                .map(Named::ByName)
                .map_err(|e| ConfigError(e.to_string())),
        }
    }

    /// The credential, with the variable that it is known by.
    fn credential(&self) -> Result<Option<(&'static str, GitHubCredential)>, ConfigError> {
        let error = |text: &str| Err(ConfigError(text.to_owned()));
        let token = given(self.github_token.as_ref());
        let app_id = given_text(self.github_app_id.as_deref());
        let private_key = given(self.github_app_private_key.as_ref());
        match (token, app_id, private_key) {
            (None, None, None) => Ok(None),
            (Some(token), None, None) => Ok(Some((
                "GITHUB_TOKEN",
                GitHubCredential::Token(token.clone()),
            ))),
            (None, Some(id), Some(private_key)) => Ok(Some((
                "GITHUB_APP_ID",
                GitHubCredential::App {
                    id: id.to_owned(),
                    private_key: private_key.clone(),
                },
            ))),
            (_, Some(_), None) => error("GITHUB_APP_ID is set and GITHUB_APP_PRIVATE_KEY is not"),
            (_, None, Some(_)) => error("GITHUB_APP_PRIVATE_KEY is set and GITHUB_APP_ID is not"),
            (Some(_), Some(_), Some(_)) => {
                error("GITHUB_TOKEN and GITHUB_APP_ID are both set: use one")
            }
        }
    }
}
