//! Who is signed in to the page: a cookie that no replica has to remember.
//!
//! Its value is `version.role.expiry.mac`, and the key of the MAC is the role's own token: a token
//! that is replaced ends its sessions, and nobody makes a cookie without the token. The cookie reads
//! the status API as well, for the page's stream. It changes nothing there: whatever the page changes
//! goes through its own forms, each of which must prove by [`require_our_own_page`] that it comes from
//! a page of ours.

use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::Problem;
use super::tokens::Tokens;

/// What somebody who is signed in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Look.
    Reader,
    /// Look and change.
    Operator,
}

/// How long a session lasts: a shift.
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
const VERSION: &str = "1";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Reader => "read",
            Self::Operator => "operator",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Reader, Self::Operator]
            .into_iter()
            .find(|role| role.name() == name)
    }

    fn token(self, tokens: &Tokens) -> Option<&SecretString> {
        match self {
            Self::Reader => tokens.read.as_ref(),
            Self::Operator => tokens.operator.as_ref(),
        }
    }
}

/// What the header `Set-Cookie` says to sign somebody in. `None` if that role has no token.
pub(super) fn cookie(tokens: &Tokens, role: Role, transport: Transport) -> Option<String> {
    let expiry = now() + LASTS.as_secs();
    let value = value(tokens, role, expiry)?;
    Some(format!(
        "{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{}",
        transport.cookie_name(),
        LASTS.as_secs(),
        transport.attribute(),
    ))
}

/// What it says to sign out.
pub(super) fn no_cookie(transport: Transport) -> String {
    format!(
        "{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict{}",
        transport.cookie_name(),
        transport.attribute(),
    )
}

/// Who these headers say is signed in. `None`: nobody, or not any more.
pub(super) fn role(tokens: &Tokens, headers: &HeaderMap) -> Option<Role> {
    let now = now();
    cookies(headers).find_map(|given| {
        let mut parts = given.split('.');
        let (version, role, expiry) = (parts.next()?, parts.next()?, parts.next()?);
        let (role, expiry) = (Role::parse(role)?, expiry.parse::<u64>().ok()?);
        let ours = value(tokens, role, expiry)?;
        // All of it is compared, so that one session has one spelling.
        let same = bool::from(ours.as_bytes().ct_eq(given.as_bytes()));
        (version == VERSION && same && now < expiry).then_some(role)
    })
}

/// Whether people reach us by https.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// They do.
    Https,
    /// They do not, as on loopback.
    Http,
}

impl Transport {
    /// As our public URL says, but for whoever comes through a tunnel of their own, for browsers keep
    /// no cookie for https from there.
    pub(super) fn of(headers: &HeaderMap, public_url: Option<&str>) -> Self {
        let origin = headers.get(ORIGIN).and_then(|it| it.to_str().ok());
        let host = origin.and_then(|it| it.strip_prefix("http://"));
        let name = host.map(|it| it.rsplit_once(':').map_or(it, |(name, _)| name));
        let tunnel = matches!(name, Some("localhost" | "127.0.0.1" | "[::1]"));
        match public_url {
            Some(url) if url.starts_with("https://") && !tunnel => Self::Https,
            _ => Self::Http,
        }
    }

    /// With the prefix a browser takes it from nobody else: no neighbouring host, no plain http.
    fn cookie_name(self) -> &'static str {
        match self {
            Self::Https => "__Host-backstop",
            Self::Http => "backstop",
        }
    }

    fn attribute(self) -> &'static str {
        match self {
            Self::Https => "; Secure",
            Self::Http => "",
        }
    }
}

/// Lets only forms of our own pages pass. `SameSite=Strict` alone would take a neighbour on the same
/// site, such as another port of this host, for us; no token in the form is needed, because browsers
/// send one of these headers with every post and no page can write them.
pub(super) fn require_our_own_page(
    headers: &HeaderMap,
    public_url: Option<&str>,
) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Browsers send the first only to https and loopback.
    let ours = match (text(SEC_FETCH_SITE), text(ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            let rest = public_url.and_then(|url| url.strip_prefix(origin));
            (host.is_some() && host == text(HOST))
                || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (None, None) => false,
    };
    if ours {
        Ok(())
    } else {
        Err(Problem::cross_site())
    }
}

/// Whether a browser came here from another site's page, in which case it keeps the cookie back.
pub(super) fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| site.as_bytes() == b"cross-site")
}

/// Every cookie of ours, by either name: what counts is the MAC.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(name, _)| {
            [Transport::Https, Transport::Http]
                .iter()
                .any(|it| it.cookie_name() == *name)
        })
        .map(|(_, value)| value)
}

fn value(tokens: &Tokens, role: Role, expiry: u64) -> Option<String> {
    let key = role.token(tokens)?.expose_secret();
    let said = format!("{VERSION}.{}.{expiry}", role.name());
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mac = hmac::sign(&key, format!("backstop session {said}").as_bytes());
    Some(format!("{said}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac)))
}

/// By this process's clock, in unix seconds: a session is between a browser and us.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is decided by it but when somebody signs in again"
)]
fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(read: &str, operator: &str) -> Tokens {
        Tokens {
            read: Some(read.into()),
            operator: Some(operator.into()),
        }
    }

    fn signed_in(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, format!("a=b; backstop={value}").parse().unwrap())])
    }

    #[test]
    fn a_session_has_its_role_until_it_ends_or_its_token_is_replaced() {
        let ours = tokens("reader", "operator");
        for wanted in [Role::Reader, Role::Operator] {
            let later = value(&ours, wanted, now() + 60).unwrap();
            assert_eq!(role(&ours, &signed_in(&later)), Some(wanted));
            assert_eq!(
                role(&tokens("reader2", "operator2"), &signed_in(&later)),
                None
            );
            let over = value(&ours, wanted, now()).unwrap();
            assert_eq!(role(&ours, &signed_in(&over)), None);
        }
    }

    #[test]
    fn nothing_of_a_session_can_be_changed() {
        let ours = tokens("reader", "operator");
        let session = value(&ours, Role::Reader, now() + 60).unwrap();
        let mut parts: Vec<&str> = session.split('.').collect();
        let longer = (now() + 600).to_string();
        for (at, forged) in [(0, "2"), (1, "operator"), (2, longer.as_str()), (3, "")] {
            let kept = std::mem::replace(&mut parts[at], forged);
            assert_eq!(role(&ours, &signed_in(&parts.join("."))), None, "{parts:?}");
            parts[at] = kept;
        }
        assert_eq!(role(&ours, &signed_in(&format!("{session}."))), None);
        assert_eq!(role(&ours, &signed_in("")), None);
    }

    #[test]
    fn only_a_page_of_ours_may_post() {
        let allowed = |pairs: &[(&str, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            require_our_own_page(
                &HeaderMap::from_iter::<Vec<_>>(headers.collect()),
                Some("https://b.example"),
            )
            .is_ok()
        };
        assert!(allowed(&[("sec-fetch-site", "same-origin")]));
        assert!(allowed(&[
            ("host", "10.0.0.1:8080"),
            ("origin", "http://10.0.0.1:8080")
        ]));
        // Behind a proxy that names another host.
        assert!(allowed(&[
            ("host", "inner:8080"),
            ("origin", "https://b.example")
        ]));
        for refused in [
            &[][..],
            &[("host", "inner:8080")],
            &[
                ("sec-fetch-site", "same-site"),
                ("host", "h"),
                ("origin", "http://h"),
            ],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("host", "h"), ("origin", "http://h.example")],
            &[("host", "h"), ("origin", "http://h:81")],
            &[("host", "h"), ("origin", "null")],
            &[("origin", "null")],
        ] {
            assert!(!allowed(refused), "{refused:?}");
        }
    }
}
