//! Proof of who sends a callback.
//!
//! One replaceable piece: [`ProofOfCaller::check`] sees the headers and the raw body, before
//! anything is parsed. It takes the token that GitHub Actions issued to a job, which speaks for its
//! run alone, and [Standard Webhooks](https://www.standardwebhooks.com) signatures by any of several
//! secrets, whose holders speak for every run.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};

use super::client::Client;
use super::{Problem, tokens};
use crate::domain::names::Run;
use crate::oidc::{Unproven, Verifier};
use crate::signing::{SHORTEST_SECRET, Signer};

/// Settles who sends a callback.
pub struct ProofOfCaller {
    signatures: Vec<Signer>,
    tokens: Option<Verifier>,
}

/// For whom a proven caller may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A holder of the secret.
    AnyRun,
    /// A job of this run.
    Run(Run),
}

impl Caller {
    /// By what, for the history.
    pub(super) fn proven_by(self) -> &'static str {
        match self {
            Self::AnyRun => "shared secret",
            Self::Run(_) => "job's token",
        }
    }

    /// Lets a caller pass who may speak for `run`.
    pub(super) fn require_voice_of(self, run: Run) -> Result<(), Problem> {
        match self {
            Self::AnyRun => Ok(()),
            Self::Run(own) if own == run => Ok(()),
            Self::Run(own) => {
                tracing::warn!(run.id = %run, token.run.id = %own, "a token of another run");
                Err(Problem::unauthenticated(
                    "run_id and run_attempt must be those of the run that the token was issued to",
                ))
            }
        }
    }
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
                Signer::parse(secret).ok_or(BadSecret {
                    position: index + 1,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            signatures,
            tokens: None,
        })
    }

    /// Takes tokens of jobs as well.
    #[must_use]
    pub fn or_by_token(mut self, tokens: Verifier) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Settles whose run a token is. `None`: tokens are not taken.
    #[must_use]
    pub fn tokens(&self) -> Option<&Verifier> {
        self.tokens.as_ref()
    }

    /// Whether there is anything to check at all, so that nobody's body is read for nothing.
    pub(super) fn require_credentials(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let with_token = self.tokens.is_some() && tokens::bearer(headers).is_some();
        if with_token || is_signed(headers) {
            Ok(())
        } else {
            Err(unproven())
        }
    }

    /// Checks the proof. Who shows a token is judged by it, signed or not.
    pub(super) async fn check(&self, headers: &HeaderMap, body: &[u8]) -> Result<Caller, NoProof> {
        match (&self.tokens, tokens::bearer(headers)) {
            (Some(verifier), Some(token)) => check_token(verifier, token).await,
            _ => self.check_signature(headers, body),
        }
    }

    pub(super) fn check_signature(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Caller, NoProof> {
        // The library computes with the timestamp; keep it to what can be one.
        let plausible = headers
            .get(HEADER_WEBHOOK_TIMESTAMP)
            .is_some_and(|at| at.len() <= 12 && at.as_bytes().iter().all(u8::is_ascii_digit));
        // Every secret is tried, so that timing does not tell which one matched.
        let matching = self
            .signatures
            .iter()
            .filter(|secret| plausible && secret.verifies(body, headers))
            .count();
        if matching > 0 {
            Ok(Caller::AnyRun)
        } else {
            Err(NoProof::Wrong(
                "its signature does not verify, or is older than 5 minutes".to_owned(),
            ))
        }
    }
}

/// Why a callback proves nothing.
#[derive(Debug)]
pub(super) enum NoProof {
    /// It is wrong, and how.
    Wrong(String),
    /// Nobody can tell before this has passed.
    Undecided(Duration),
}

impl NoProof {
    /// What is answered. What is wrong with the proof goes to the log, not to the caller; and not of
    /// each of those whose failures `count` finds too many.
    pub(super) fn told(
        self,
        client: Client,
        headers: &HeaderMap,
        count: impl FnOnce(Problem) -> Problem,
    ) -> Problem {
        let why = match self {
            Self::Wrong(why) => why,
            Self::Undecided(wait) => return Problem::keys_unknown(wait),
        };
        let problem = count(unproven());
        if problem.status() == StatusCode::UNAUTHORIZED {
            tracing::warn!(
                client.address = %client, why,
                webhook.id = ?headers.get(HEADER_WEBHOOK_ID),
                webhook.timestamp = ?headers.get(HEADER_WEBHOOK_TIMESTAMP),
                "a callback that proves nothing"
            );
        }
        problem
    }
}

fn is_signed(headers: &HeaderMap) -> bool {
    [
        HEADER_WEBHOOK_ID,
        HEADER_WEBHOOK_TIMESTAMP,
        HEADER_WEBHOOK_SIGNATURE,
    ]
    .iter()
    .all(|&name| headers.contains_key(name))
}

async fn check_token(verifier: &Verifier, token: &[u8]) -> Result<Caller, NoProof> {
    // A token is base64 and dots.
    let token = str::from_utf8(token).map_err(|_| NoProof::Wrong("it is no token".to_owned()))?;
    match verifier.verify(token).await {
        Ok(run) => Ok(Caller::Run(run)),
        Err(Unproven::Refused(why)) => Err(NoProof::Wrong(why)),
        Err(Unproven::Undecided(wait)) => Err(NoProof::Undecided(wait)),
    }
}

fn unproven() -> Problem {
    Problem::unauthenticated(
        "a callback needs the OIDC token of a job of the workflow (Authorization: Bearer), at most \
         10 minutes old, or a Standard Webhooks signature: webhook-id, webhook-timestamp (within \
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
