//! Secrets of [Standard Webhooks](https://www.standardwebhooks.com): callbacks come in signed with
//! one, notices go out signed with one.

use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;

/// Fewer bytes than this are no secret.
pub const SHORTEST_SECRET: usize = 16;

/// What a `whsec_…` secret signs and verifies with. `None` if it is none, or too short.
#[must_use]
pub fn parse_secret(secret: &SecretString) -> Option<Webhook> {
    let secret = secret.expose_secret();
    let encoded = secret.strip_prefix("whsec_")?;
    // Three bytes in four characters.
    if encoded.trim_end_matches('=').len() * 3 / 4 < SHORTEST_SECRET {
        return None;
    }
    Webhook::new(secret).ok()
}
