//! What the client shows Tailscale to be let in, and the hourly token of an OAuth client.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::providers::http::{Answer, Call, Http, bearer};
use crate::providers::kept_token::{Fetched, KeptToken};
use crate::providers::{SetupError, VendorError};

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
                    token: KeptToken::default(),
                }))
            }
        }
    }
}

/// An OAuth client and the token it holds at the moment.
pub(super) struct OAuth {
    client_id: String,
    client_secret: SecretString,
    token: KeptToken,
}

impl OAuth {
    /// Also what the vendor calls the client among the tailnet's keys.
    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Sends a call with the client's token, fetched where there is none.
    pub(super) async fn send<'a>(
        &self,
        http: &Http,
        call: impl Fn() -> Call<'a>,
    ) -> Result<Answer, VendorError> {
        self.token.send(|| self.fetch(http), call).await
    }

    async fn fetch(&self, http: &Http) -> Result<Fetched, VendorError> {
        let asked_at = Instant::now();
        let form = TokenRequest {
            client_id: &self.client_id,
            client_secret: self.client_secret.expose_secret(),
            grant_type: "client_credentials",
        };

        let call = http
            .post(&["api", "v2", "oauth", "token"])
            .form(&form, &self.client_secret);
        let answer = call.send().await?;
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        let body: TokenAnswer = answer.json()?;
        let is_bearer = body
            .token_type
            .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        let header = bearer("access_token", &body.access_token.into())
            .ok()
            .filter(|_| is_bearer)
            .ok_or_else(|| answer.unusable("a token that is no token"))?;
        Ok(Fetched {
            header,
            asked_at,
            lasts: Duration::from_secs(body.expires_in.unwrap_or(ONE_HOUR).min(ONE_HOUR)),
        })
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
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
}
