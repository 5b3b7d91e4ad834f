//! What the client shows GitHub to be let in, and the hourly token of an app's installation.

use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::{Repository, refusal, versioned};
use crate::providers::http::{Answer, Call, Http, bearer, between};
use crate::providers::kept_token::{Fetched, KeptToken};
use crate::providers::{SetupError, VendorError};

/// What the vendor documents, and the longest we trust.
/// <https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-an-installation-access-token-for-a-github-app>
const ONE_HOUR: Duration = Duration::from_secs(3600);
/// How far back a proof is dated, in case this machine's clock is ahead of GitHub's. In seconds,
/// as the next. <https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
const DATED_BACK: u64 = 60;
/// How long a proof lasts from its date: the longest that GitHub takes.
const PROOF_LASTS: u64 = 600;

/// What gives access to a repository's workflows. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub enum GitHubCredential {
    /// `GITHUB_TOKEN`: somebody's token that may write actions.
    Token(SecretString),
    /// `GITHUB_APP_ID` and `GITHUB_APP_PRIVATE_KEY`: an app that is installed on the repository
    /// and may write actions.
    App {
        /// App id or client id. Public by itself.
        id: String,
        /// RSA, as PEM. A line break may be written as `\n`.
        private_key: SecretString,
    },
}

/// A credential that has been checked to fit into a request.
pub(super) enum Access {
    Token(HeaderValue),
    App(App),
}

impl Access {
    pub(super) fn new(credential: &GitHubCredential) -> Result<Self, SetupError> {
        match credential {
            GitHubCredential::Token(token) => Ok(Self::Token(bearer("GITHUB_TOKEN", token)?)),
            GitHubCredential::App { id, private_key } => {
                // Goes into a signed text, where a stray line break is another app.
                bearer("GITHUB_APP_ID", &id.as_str().into())?;
                let pem = private_key.expose_secret().replace("\\n", "\n");
                let unusable = |_| {
                    let problem = "GITHUB_APP_PRIVATE_KEY is not an RSA private key as PEM";
                    SetupError(problem.to_owned())
                };
                let app = App {
                    id: id.clone(),
                    key: EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(unusable)?,
                    token: KeptToken::default(),
                };
                // Not every PEM holds a key that can sign.
                app.proof().map_err(unusable)?;
                Ok(Self::App(app))
            }
        }
    }
}

/// A GitHub App and the token of its installation that it holds at the moment.
pub(super) struct App {
    id: String,
    key: EncodingKey,
    token: KeptToken,
}

impl App {
    /// Sends a call with the installation's token, fetched where there is none.
    pub(super) async fn send<'a>(
        &self,
        http: &Http,
        repository: &Repository,
        call: impl Fn() -> Call<'a>,
    ) -> Result<Answer, VendorError> {
        self.token.send(|| self.fetch(http, repository), call).await
    }

    /// Finds the installation on the repository and asks for a token that can do no more than start
    /// this one repository's workflows.
    async fn fetch(&self, http: &Http, repository: &Repository) -> Result<Fetched, VendorError> {
        let asked_at = Instant::now();
        let path = ["repos", &repository.owner, &repository.name, "installation"];
        let answer = self.prove(http.get(&path)).await?;
        let installation: Installation = read(&answer)?;

        let id = installation.id.to_string();
        let narrow = json!({
            "repositories": [repository.name],
            "permissions": {"actions": "write"},
        });
        let call = http.post(&["app", "installations", &id, "access_tokens"]);
        let answer = self.prove(call.json(&narrow)).await?;
        let body: InstallationToken = read(&answer)?;
        let header = bearer("token", &body.token.into())
            .map_err(|_| answer.unusable("a token that is no token"))?;
        // By GitHub's own clock, which its `Date` tells.
        let lasts = body
            .expires_at
            .zip(answer.date())
            .map_or(Some(ONE_HOUR), |(end, now)| between(now, end.timestamp()));
        Ok(Fetched {
            header,
            asked_at,
            lasts: lasts.unwrap_or_default().min(ONE_HOUR),
        })
    }

    /// What the app may do on the repository.
    pub(super) async fn installation(
        &self,
        http: &Http,
        repository: &Repository,
    ) -> Result<super::Installation, VendorError> {
        let path = ["repos", &repository.owner, &repository.name, "installation"];
        let answer = self.prove(http.get(&path)).await?;
        read(&answer)
    }

    async fn prove(&self, call: Call<'_>) -> Result<Answer, VendorError> {
        let proof = self
            .proof()
            .expect("it has signed before, when it was made");
        versioned(call).bearer(&proof).send().await
    }

    /// The app's own proof: a JSON web token, signed now. Its times are this machine's, like those
    /// of everything that is signed.
    fn proof(&self) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        let issued_at = get_current_timestamp().saturating_sub(DATED_BACK);
        let claims = Claims {
            iss: &self.id,
            iat: issued_at,
            exp: issued_at + PROOF_LASTS,
        };
        let token = encode(&Header::new(Algorithm::RS256), &claims, &self.key)?;
        Ok(bearer("proof", &token.into()).expect("base64 and dots fit into a header"))
    }
}

fn read<T: for<'de> Deserialize<'de>>(answer: &Answer) -> Result<T, VendorError> {
    if answer.status.is_success() {
        answer.json()
    } else {
        Err(refusal(answer))
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct InstallationToken {
    token: String,
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}
