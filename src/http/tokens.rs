//! The bearer tokens of the status API, and who shows one.
//!
//! There may be several of a kind, so that one can be replaced before the other goes. A token that is
//! wrong counts as a guess ([`failures`](super::failures)). What an operator changes is told with his
//! token's print, so that the history says which one it was.

use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::client::Client;
use super::failures::Wrong;
use super::session::{self, Session};
use super::{Api, Problem};

/// The tokens that read, and those that may also change things.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

#[derive(Debug)]
pub(super) struct Token {
    pub(super) holder: Holder,
    pub(super) secret: SecretString,
    /// What is compared: it has the same length whatever the token's is.
    digest: [u8; 32],
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Look.
    Reader,
    /// Look and change.
    Operator,
}

/// Who holds a token, as far as anybody but him may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) role: Role,
    print: Print,
}

/// Tells a token from others. Four hex digits, because it stands where a reader can see it: with a longer
/// one he could try at home what an operator's token might be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print(u16);

impl Tokens {
    /// Takes tokens that read, and tokens that also change. None is empty.
    #[must_use]
    pub fn new(
        read: impl IntoIterator<Item = SecretString>,
        operator: impl IntoIterator<Item = SecretString>,
    ) -> Self {
        // An operator's first: a token that is both is an operator's.
        let operators = operator
            .into_iter()
            .map(|it| Token::new(Role::Operator, it));
        let readers = read.into_iter().map(|it| Token::new(Role::Reader, it));
        Self(operators.chain(readers).collect())
    }

    /// Logs which tokens are taken.
    pub fn tell(&self) {
        let prints: Vec<String> = self.0.iter().map(|it| it.holder.to_string()).collect();
        tracing::info!("taken: {}", prints.join(", "));
    }

    /// The one that is given; `None`: it is none. All are compared, so that time does not tell which.
    pub(super) fn known(&self, given: &[u8]) -> Option<&Token> {
        let given = digest(given);
        self.find(|token| token.digest.ct_eq(&given))
    }

    /// The first that is said to be the one. All are asked.
    pub(super) fn find(&self, is_it: impl Fn(&Token) -> Choice) -> Option<&Token> {
        let said: Vec<bool> = self.0.iter().map(|token| is_it(token).into()).collect();
        let first = said.iter().position(|it| *it)?;
        self.0.get(first)
    }
}

impl Token {
    fn new(role: Role, secret: SecretString) -> Self {
        let print = Print::of(secret.expose_secret().as_bytes());
        Self {
            holder: Holder { role, print },
            digest: digest(secret.expose_secret().as_bytes()),
            secret,
        }
    }
}

impl Print {
    fn of(token: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update(b"backstop print of a token\0")
            .chain_update(token)
            .finalize();
        Self(u16::from_be_bytes([digest[0], digest[1]]))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} token {:04x}", self.role.name(), self.print.0)
    }
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reader => "read",
            Self::Operator => "operator",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Reader, Self::Operator]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// Somebody who may read: by either kind of token, or signed in to the page.
pub(super) struct Reader;

/// Somebody who may change things, and as whom the history knows him. A session of the page changes
/// nothing by the API: the page has forms for that.
pub(super) struct Operator {
    pub(super) by: String,
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        if !parts.headers.contains_key(AUTHORIZATION) && signed_in(api, parts)?.is_some() {
            return Ok(Self);
        }
        shown(api, parts).map(|_| Self)
    }
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let holder = shown(api, parts)?;
        match holder.role {
            Role::Operator => Ok(Self {
                by: holder.to_string(),
            }),
            Role::Reader => Err(Problem::forbidden()),
        }
    }
}

/// Who shows a token with this call.
fn shown(api: &Api, parts: &Parts) -> Result<Holder, Problem> {
    let client = Client::of(parts);
    match bearer(&parts.headers) {
        None => Err(api.unproven(client, unknown())),
        Some(token) => guess(api, client, || api.tokens.known(token))
            .map(|token| token.holder)
            .map_err(|problem| problem.unwrap_or_else(unknown)),
    }
}

/// Who is signed in to the page. `None`: nobody, or not any more.
pub(super) fn signed_in(api: &Api, parts: &Parts) -> Result<Option<Holder>, Problem> {
    if !session::has_one(&parts.headers) {
        return Ok(None);
    }
    // A cookie is made with the token, so whoever makes one up guesses at that.
    let look = || session::shown(&api.tokens, &parts.headers);
    match guess(api, Client::of(parts), look) {
        Ok(session) => Ok(Some(session).filter(Session::goes_on).map(|it| it.holder)),
        Err(None) => Ok(None),
        Err(Some(problem)) => Err(problem),
    }
}

/// Looks at what somebody shows. `Err(None)`: it is wrong; `Err(Some)`: there were too many of that.
pub(super) fn guess<T>(
    api: &Api,
    client: Client,
    look: impl FnOnce() -> Option<T>,
) -> Result<T, Option<Problem>> {
    api.failures
        .guess(client, look)
        .map_err(|wrong| match wrong {
            Wrong::Guess => None,
            Wrong::TooMany(wait) => {
                api.metrics.refused("guesses");
                Some(Problem::rate_limited(wait))
            }
        })
}

/// The token of `Authorization: Bearer`, if there is one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token),
        _ => None,
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn unknown() -> Problem {
    Problem::unauthenticated(
        "this call needs `Authorization: Bearer` with the read or operator token",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(read: &[&str], operator: &[&str]) -> Tokens {
        let secrets =
            |of: &[&str]| -> Vec<SecretString> { of.iter().map(|&it| it.into()).collect() };
        Tokens::new(secrets(read), secrets(operator))
    }

    #[test]
    fn each_of_several_tokens_counts_and_one_that_is_both_is_an_operators() {
        let ours = tokens(&["reader", "next", "both"], &["operator", "both", "other"]);
        for (given, role) in [
            ("reader", Some(Role::Reader)),
            ("next", Some(Role::Reader)),
            ("operator", Some(Role::Operator)),
            ("other", Some(Role::Operator)),
            ("both", Some(Role::Operator)),
            ("readers", None),
            ("reade", None),
            ("reader,next", None),
            ("", None),
        ] {
            let known = ours.known(given.as_bytes());
            assert_eq!(known.map(|it| it.holder.role), role, "{given}");
        }
        assert!(tokens(&[], &["operator"]).known(b"").is_none());
    }

    #[test]
    fn a_print_tells_tokens_apart_and_no_token_is_shown() {
        let ours = tokens(&["hunter2"], &["hunter3"]);
        let shown: Vec<String> = ["hunter2", "hunter3"]
            .map(|it| ours.known(it.as_bytes()).unwrap().holder.to_string())
            .into();
        // As `printf 'backstop print of a token\0%s' hunter2 | sha256sum | cut -c1-4` says.
        assert_eq!(shown, ["read token 7c66", "operator token af54"]);
        assert!(!format!("{ours:?}").contains("hunter"));
    }

    #[test]
    fn a_bearer_token_is_what_follows_the_scheme() {
        for (value, token) in [
            ("Bearer reader", Some(&b"reader"[..])),
            ("bearer reader", Some(b"reader")),
            ("Bearer  reader", Some(b" reader")),
            ("Bearer ", Some(b"")),
            ("Bearer", None),
            ("Basic reader", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), token, "{value}");
        }
    }
}
