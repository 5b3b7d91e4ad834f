//! Secrets of [Standard Webhooks](https://www.standardwebhooks.com): callbacks come in signed with
//! one, notices go out signed with one.

use aws_lc_rs::hmac;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook, WebhookError,
};

/// Fewer bytes than this are no secret.
pub const SHORTEST_SECRET: usize = 16;

/// What a `whsec_…` secret signs and verifies with.
pub struct Signer {
    /// Takes text alone, but knows about headers and time.
    library: Webhook,
    key: hmac::Key,
}

impl Signer {
    /// The secret of this text. `None` if it is none, or too short.
    #[must_use]
    pub fn parse(secret: &SecretString) -> Option<Self> {
        let secret = secret.expose_secret();
        let encoded = secret.strip_prefix("whsec_")?;
        let key = STANDARD.decode(encoded).ok()?;
        if key.len() < SHORTEST_SECRET {
            return None;
        }
        Some(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            library: Webhook::from_bytes(key).ok()?,
        })
    }

    /// The signature of a body under that id, at that unix time in seconds.
    #[must_use]
    pub fn sign(&self, id: &str, at: i64, body: &[u8]) -> String {
        let signed = signed(id, &at.to_string(), body);
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.key, &signed)))
    }

    /// Whether one of the signatures in the headers is this secret's, of this body and of now.
    #[must_use]
    pub fn verifies(&self, body: &[u8], headers: &HeaderMap) -> bool {
        if str::from_utf8(body).is_ok() {
            return self.library.verify(body, headers).is_ok();
        }
        // All that the library can say of bytes: it has looked at the headers and the time before it
        // compares a signature.
        let of_nothing = self.library.verify(b"", headers);
        matches!(of_nothing, Err(WebhookError::InvalidSignature))
            && self.signed_bytes(body, headers).unwrap_or(false)
    }

    fn signed_bytes(&self, body: &[u8], headers: &HeaderMap) -> Option<bool> {
        let text = |name| headers.get(name)?.to_str().ok();
        let (id, at) = (text(HEADER_WEBHOOK_ID)?, text(HEADER_WEBHOOK_TIMESTAMP)?);
        let signed = signed(id, at, body);
        let is_ours = |signature: &str| {
            let tag = signature
                .strip_prefix("v1,")
                .map(|tag| STANDARD.decode(tag));
            matches!(tag, Some(Ok(tag)) if hmac::verify(&self.key, &signed, &tag).is_ok())
        };
        Some(text(HEADER_WEBHOOK_SIGNATURE)?.split(' ').any(is_ours))
    }
}

/// What a signature is of.
fn signed(id: &str, at: &str, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{at}.").as_bytes(), body].concat()
}
