//! The operators' webhook: tells it one thing, signed as
//! [Standard Webhooks](https://www.standardwebhooks.com) says.
//!
//! Only a 2xx in time counts as told. The address may hold a token, so that its host is all that is
//! ever shown of it.

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};

use super::SetupError;
use super::http::{Timeouts, client, no_answer};
use crate::signing::{SHORTEST_SECRET, Signer};

/// Where notices go.
pub struct Webhook {
    url: Url,
    signer: Signer,
    client: reqwest::Client,
}

/// Why somebody was not told: worth another try.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Untold(String);

impl Webhook {
    /// `url` and `secret` as `BACKSTOP_WEBHOOK_URL` and `BACKSTOP_WEBHOOK_SECRET` have them.
    ///
    /// # Errors
    /// When one of them cannot be used; names the setting and shows neither.
    pub fn new(url: &SecretString, secret: &SecretString) -> Result<Self, SetupError> {
        let url = Url::parse(url.expose_secret())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| {
                SetupError(
                    "BACKSTOP_WEBHOOK_URL must be an http or https URL without user".to_owned(),
                )
            })?;
        let signer = Signer::parse(secret).ok_or_else(|| {
            SetupError(format!(
                "BACKSTOP_WEBHOOK_SECRET is not `whsec_` followed by at least {SHORTEST_SECRET} \
                 bytes in base64"
            ))
        })?;
        let client = client("the webhook", &url, Timeouts::default())?;
        Ok(Self {
            url,
            signer,
            client,
        })
    }

    /// All that may be shown of the address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Sends a body under an id that is the same in every try, `now` being the unix time in
    /// seconds. Harmless to drop: it is sent again.
    ///
    /// # Errors
    /// [`Untold`] unless a 2xx was answered in time. It may have been told all the same.
    pub async fn tell(&self, id: &str, now: i64, body: Vec<u8>) -> Result<(), Untold> {
        let signature = self.signer.sign(id, now, &body);
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, id)
            .header(HEADER_WEBHOOK_TIMESTAMP, now)
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(body);
        let answer = request.send().await.map_err(|e| Untold(no_answer(&e)))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                Err(Untold(format!("{status}, a redirect, not followed")))
            }
            status => Err(Untold(status.to_string())),
        }
    }
}
