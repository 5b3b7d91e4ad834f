//! Proof of who sends a callback.
//!
//! One replaceable piece: [`ProofOfCaller::check`] sees the headers and the raw body, before
//! anything is parsed. Today it takes [Standard Webhooks](https://www.standardwebhooks.com)
//! signatures by any of several secrets.

use axum::http::HeaderMap;
use secrecy::SecretString;
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
};

use super::Problem;
use crate::signing::{SHORTEST_SECRET, parse_secret};

/// Settles who sends a callback.
pub struct ProofOfCaller {
    signatures: Vec<Webhook>,
}

/// A secret that is none. Says which of several, never what.
#[derive(Debug, thiserror::Error)]
#[error(
    "secret {position} is not `whsec_` followed by at least {SHORTEST_SECRET} bytes in base64; \
     make one with: echo whsec_$(openssl rand -base64 32)"
)]
pub struct BadSecret {
    position: usize,
}

impl ProofOfCaller {
    /// Takes `whsec_…` secrets, any of which may have signed a callback.
    ///
    /// # Errors
    /// [`BadSecret`] for one that does not parse or is too short.
    pub fn by_signature(secrets: &[SecretString]) -> Result<Self, BadSecret> {
        let signatures = secrets
            .iter()
            .enumerate()
            .map(|(index, secret)| {
                parse_secret(secret).ok_or(BadSecret {
                    position: index + 1,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { signatures })
    }

    /// Whether there is anything to check at all, so that nobody's body is read for nothing.
    pub(super) fn require_credentials(headers: &HeaderMap) -> Result<(), Problem> {
        let signed = [
            HEADER_WEBHOOK_ID,
            HEADER_WEBHOOK_TIMESTAMP,
            HEADER_WEBHOOK_SIGNATURE,
        ]
        .iter()
        .all(|&name| headers.contains_key(name));
        if signed { Ok(()) } else { Err(unproven()) }
    }

    /// Checks the proof. What is wrong with it goes to the log, not to the caller.
    pub(super) fn check(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
        // The library computes with the timestamp; keep it to what can be one.
        let plausible = headers
            .get(HEADER_WEBHOOK_TIMESTAMP)
            .is_some_and(|at| at.len() <= 12 && at.as_bytes().iter().all(u8::is_ascii_digit));
        // Every secret is tried, so that timing does not tell which one matched.
        let matching = self
            .signatures
            .iter()
            .filter(|secret| plausible && secret.verify(body, headers).is_ok())
            .count();
        if matching > 0 {
            Ok(())
        } else {
            tracing::warn!(
                webhook.id = ?headers.get(HEADER_WEBHOOK_ID),
                webhook.timestamp = ?headers.get(HEADER_WEBHOOK_TIMESTAMP),
                "a callback whose signature does not verify, or is older than 5 minutes"
            );
            Err(unproven())
        }
    }
}

fn unproven() -> Problem {
    Problem::unauthenticated(
        "a callback needs a Standard Webhooks signature: webhook-id, webhook-timestamp (within \
         5 minutes) and webhook-signature",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_are_none_are_refused_without_being_shown() {
        for secret in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "hunter2hunter2hunter2hunter2",
            "whsec_%%%%%%%%%%%%%%%%%%%%%%%%%%%%",
        ] {
            let error = ProofOfCaller::by_signature(&[SecretString::from(secret)])
                .err()
                .expect(secret);
            assert!(error.to_string().contains("secret 1"));
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
