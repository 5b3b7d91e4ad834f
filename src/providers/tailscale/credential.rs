//! What the client shows Tailscale to be let in, and the hourly token of an OAuth client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::providers::http::{Answer, Http, bearer};
use crate::providers::{SetupError, VendorError};

/// A token is not used in its last minute: it must not expire on its way.
const MARGIN: Duration = Duration::from_secs(60);
/// What the vendor documents, and the longest we trust.
/// <https://tailscale.com/kb/1215/oauth-clients>
const ONE_HOUR: u64 = 3600;

/// What gives access to a tailnet. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub enum TailscaleCredential {
    /// `TAILSCALE_API_KEY`: an access token that somebody replaces every 90 days at the latest.
    ApiKey(SecretString),
    /// `TAILSCALE_OAUTH_CLIENT_ID` and `TAILSCALE_OAUTH_CLIENT_SECRET`: a client that doesn't
    /// expire. Its scopes must be `devices:core` and `auth_keys`.
    OAuth {
        /// Public by itself.
        client_id: String,
        /// `tskey-client-…`.
        client_secret: SecretString,
    },
}

/// A credential that has been checked to fit into a request.
pub(super) enum Access {
    ApiKey(HeaderValue),
    OAuth(OAuth),
}

impl Access {
    pub(super) fn new(credential: TailscaleCredential) -> Result<Self, SetupError> {
        match credential {
            TailscaleCredential::ApiKey(key) => {
                Ok(Self::ApiKey(bearer("TAILSCALE_API_KEY", &key)?))
            }
            TailscaleCredential::OAuth {
                client_id,
                client_secret,
            } => {
                // Sent in a form, where a stray line break is a wrong secret instead of an error.
                bearer("TAILSCALE_OAUTH_CLIENT_ID", &client_id.as_str().into())?;
                bearer("TAILSCALE_OAUTH_CLIENT_SECRET", &client_secret)?;
                Ok(Self::OAuth(OAuth {
                    client_id,
                    client_secret,
                    failures: AtomicU64::new(0),
                    state: Mutex::default(),
                }))
            }
        }
    }
}

/// An OAuth client and the token it holds at the moment.
pub(super) struct OAuth {
    client_id: String,
    client_secret: SecretString,
    /// Counts failed fetches, readable without waiting for the one that runs.
    failures: AtomicU64,
    /// Held while a token is fetched, so that many callers fetch one.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    fetched: u64,
    last_failure: Option<VendorError>,
}

#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// Whether an earlier call fetched it, so that a 401 may only mean that it is old.
    pub(super) kept: bool,
    number: u64,
    renew_at: Instant,
}

impl OAuth {
    /// The token, fetched if there is none or it is about to expire. Callers that waited for a
    /// fetch share its end, also its failure: at a vendor that does not answer, a queue of callers
    /// would otherwise time out one after the other.
    pub(super) async fn token(&self, http: &Http) -> Result<Token, VendorError> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        if let Some(token) = &state.token
            && Instant::now() < token.renew_at
        {
            return Ok(token.clone());
        }
        if failures != self.failures.load(Ordering::Acquire)
            && let Some(failure) = &state.last_failure
        {
            return Err(failure.clone());
        }
        match self.fetch(http).await {
            Ok((header, renew_at)) => {
                state.fetched += 1;
                let token = Token {
                    header,
                    kept: false,
                    number: state.fetched,
                    renew_at,
                };
                state.token = Some(Token {
                    kept: true,
                    ..token.clone()
                });
                Ok(token)
            }
            Err(error) => {
                state.token = None;
                state.last_failure = Some(error.clone());
                self.failures.fetch_add(1, Ordering::AcqRel);
                Err(error)
            }
        }
    }

    /// Drops a token that was refused, unless another caller has renewed it already.
    pub(super) async fn forget(&self, refused: &Token) {
        let mut state = self.state.lock().await;
        if state.token.as_ref().map(|token| token.number) == Some(refused.number) {
            state.token = None;
        }
    }

    async fn fetch(&self, http: &Http) -> Result<(HeaderValue, Instant), VendorError> {
        // Counted from before the request: the vendor's hour starts no earlier.
        let asked_at = Instant::now();
        let form = TokenRequest {
            client_id: &self.client_id,
            client_secret: self.client_secret.expose_secret(),
            grant_type: "client_credentials",
        };

        let call = http.post(&["api", "v2", "oauth", "token"]).form(&form);
        let answer = call.send().await?;
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        let body: TokenAnswer = answer.json()?;
        let header = bearer("access_token", &body.access_token.into())
            .map_err(|_| answer.unusable("a token that is no token"))?;
        let lasts = Duration::from_secs(body.expires_in.unwrap_or(ONE_HOUR).min(ONE_HOUR));
        Ok((header, asked_at + lasts.saturating_sub(MARGIN)))
    }
}

/// The endpoint may answer as RFC 6749, section 5.2, has it: a wrong client is 400 or 401 with an
/// `error`.
fn refusal(answer: &Answer) -> VendorError {
    let code = answer.refusal::<TokenRefusal>().map(|body| body.error);
    let wrong_client = matches!(
        code.as_deref(),
        Some("invalid_client" | "unauthorized_client" | "invalid_grant")
    );
    if answer.status == StatusCode::BAD_REQUEST && wrong_client {
        return VendorError::Unauthorized(answer.failed(code.as_deref(), ""));
    }
    answer.refused(code.as_deref())
}

#[derive(Serialize)]
struct TokenRequest<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    grant_type: &'static str,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
}
