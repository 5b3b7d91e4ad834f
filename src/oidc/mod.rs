//! Tokens that GitHub Actions issues to a job, as proof of which run speaks.
//!
//! [`Verifier::verify`] is all of it: the signature by a key of the issuer's ([`keys`]), the times,
//! and whether the run is one of ours ([`claims`]). What is wrong with a token goes to the log; the
//! caller learns only that it is refused. `sub` is never looked at: its form is the customer's choice
//! and changes.
//!
//! See <https://docs.github.com/actions/reference/security/oidc>.

mod claims;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keys;

use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, get_current_timestamp};

use crate::domain::names::Run;
use crate::providers::Issuer;
use claims::Claims;
use keys::{Keys, NoKey};

pub use claims::{Ours, Repository, WorkflowFile};

/// How far the issuer's clock and ours may be apart, in seconds.
const LEEWAY: u64 = 60;
/// GitHub's tokens have about 2 KiB.
const LONGEST: usize = 8 * 1024;

/// Settles whether a token is that of a run of ours.
pub struct Verifier {
    keys: Keys,
    validation: Validation,
    ours: Ours,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It is no token of a run of ours. Sending it again is of no use.
    #[error("{0}")]
    Refused(String),
    /// Nobody can tell at present: the issuer's keys cannot be had, or were had before this one was heard
    /// of. Try again after this.
    #[error("the issuer's keys cannot be had")]
    Undecided(Duration),
}

impl Verifier {
    /// For tokens that `issuer` issued to one of `audiences`.
    #[must_use]
    pub fn new(issuer: Issuer, audiences: &[String], ours: Ours) -> Self {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud"]);
        // With a slash at its end it is the same issuer.
        validation.set_issuer(&[issuer.name().to_owned(), format!("{}/", issuer.name())]);
        validation.set_audience(audiences);
        Self {
            keys: Keys::new(issuer),
            validation,
            ours,
        }
    }

    /// The same, but asking the issuer for its keys that often at most instead of once a minute.
    #[must_use]
    pub fn asking_at_most_every(self, pause: Duration) -> Self {
        Self {
            keys: self.keys.asking_at_most_every(pause),
            ..self
        }
    }

    /// Who issues the tokens.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        self.keys.issuer()
    }

    /// The run that `token` was issued to.
    ///
    /// # Errors
    /// [`Unproven`].
    pub async fn verify(&self, token: &str) -> Result<Run, Unproven> {
        let refused = |why: String| Unproven::Refused(why);
        if token.len() > LONGEST {
            return Err(refused("longer than any token".to_owned()));
        }
        let header = decode_header(token).map_err(|e| refused(format!("its header: {e}")))?;
        // Before keys are fetched for it.
        if header.alg != Algorithm::RS256 {
            return Err(refused(format!("signed by {:?}", header.alg)));
        }
        let Some(kid) = header.kid.filter(|kid| !kid.is_empty()) else {
            return Err(refused("it names no key".to_owned()));
        };
        let key = self.keys.find(&kid).await.map_err(|error| match error {
            NoKey::Unknown => refused("signed by a key that the issuer does not have".to_owned()),
            NoKey::NotYet(wait) => Unproven::Undecided(wait),
        })?;
        let claims = decode::<Claims>(token, &key, &self.validation)
            .map_err(|error| refused(error.to_string()))?
            .claims;
        claims
            .run_of(&self.ours, get_current_timestamp(), LEEWAY)
            .map_err(|why| refused(why.to_string()))
    }
}
