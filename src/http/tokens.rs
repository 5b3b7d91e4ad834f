//! The bearer tokens of the status API.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::Problem;
use super::session::{self, Role};

/// The tokens that read, and that may also change things.
#[derive(Debug)]
pub struct Tokens {
    /// May look.
    pub read: Option<SecretString>,
    /// May look and change.
    pub operator: Option<SecretString>,
}

impl Tokens {
    /// Whose token this is. `None`: nobody's.
    pub(super) fn role_of(&self, given: &[u8]) -> Option<Role> {
        let reads = matches(self.read.as_ref(), given);
        let operates = matches(self.operator.as_ref(), given);
        match (operates, reads) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }

    /// Lets readers and operators pass, and whoever is signed in to the page.
    pub(super) fn require_reader(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !headers.contains_key(AUTHORIZATION) && session::role(self, headers).is_some() {
            return Ok(());
        }
        let token = bearer(headers).ok_or_else(unknown)?;
        if matches(self.read.as_ref(), token) | matches(self.operator.as_ref(), token) {
            Ok(())
        } else {
            Err(unknown())
        }
    }

    /// Lets operators pass. A session of the page changes nothing here: the page has forms for that.
    pub(super) fn require_operator(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let token = bearer(headers).ok_or_else(unknown)?;
        if matches(self.operator.as_ref(), token) {
            Ok(())
        } else if matches(self.read.as_ref(), token) {
            Err(Problem::forbidden())
        } else {
            Err(unknown())
        }
    }
}

/// The token of `Authorization: Bearer`, if there is one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token),
        _ => None,
    }
}

fn matches(token: Option<&SecretString>, given: &[u8]) -> bool {
    token.is_some_and(|token| token.expose_secret().as_bytes().ct_eq(given).into())
}

fn unknown() -> Problem {
    Problem::unauthenticated(
        "this call needs `Authorization: Bearer` with the read or operator token",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn the_read_token_reads_and_the_operators_does_both() {
        let tokens = Tokens {
            read: Some("reader".into()),
            operator: Some("operator".into()),
        };
        for (value, reads, operates) in [
            ("Bearer reader", true, false),
            ("bearer operator", true, true),
            ("Bearer readers", false, false),
            ("Bearer ", false, false),
            ("Bearer", false, false),
            ("Basic reader", false, false),
        ] {
            assert_eq!(
                tokens.require_reader(&headers(value)).is_ok(),
                reads,
                "{value}"
            );
            assert_eq!(
                tokens.require_operator(&headers(value)).is_ok(),
                operates,
                "{value}"
            );
        }
    }

    #[test]
    fn a_token_that_is_not_set_lets_nobody_pass() {
        let tokens = Tokens {
            read: None,
            operator: Some("operator".into()),
        };
        assert!(tokens.require_reader(&headers("Bearer ")).is_err());
    }
}
