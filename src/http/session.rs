//! Who is signed in to the page: a cookie that no replica has to remember.
//!
//! Its value is `version.role.expiry.mac`, and the key of the MAC is the token that it was made with:
//! when that token is no longer set its sessions end, and nobody makes a cookie without a token. The
//! cookie reads the status API as well, for the page's stream. It changes nothing there: whatever the
//! page changes goes through its own forms, each of which must prove by [`require_our_own_page`] that it
//! comes from a page of ours.

use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use subtle::{Choice, ConstantTimeEq};

use super::Problem;
use super::tokens::{Holder, Role, Token, Tokens};

/// That somebody signed in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    /// With which token.
    pub(super) holder: Holder,
    /// Until when it lasts, in unix seconds.
    expiry: u64,
}

/// How long a session lasts: a shift.
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
const VERSION: &str = "1";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Session {
    /// Whether it lasts still.
    pub(super) fn goes_on(&self) -> bool {
        now() < self.expiry
    }
}

/// What the header `Set-Cookie` says to sign somebody in with this token.
pub(super) fn cookie(token: &Token, transport: Transport) -> String {
    let expiry = now() + LASTS.as_secs();
    let value = value(token, expiry);
    format!(
        "{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{}",
        transport.cookie_name(),
        LASTS.as_secs(),
        transport.attribute(),
    )
}

/// What it says to sign out.
pub(super) fn no_cookie(transport: Transport) -> String {
    format!(
        "{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict{}",
        transport.cookie_name(),
        transport.attribute(),
    )
}

/// Whether there is a cookie of ours, whatever it says. Signing out leaves an empty one at most.
pub(super) fn has_one(headers: &HeaderMap) -> bool {
    cookies(headers).any(|given| !given.is_empty())
}

/// The session that these headers show; of several, the one that lasts longest. `None`: what they show
/// was not made with a token that is taken.
pub(super) fn shown(tokens: &Tokens, headers: &HeaderMap) -> Option<Session> {
    cookies(headers)
        .filter_map(|given| proven(tokens, given))
        .max_by_key(|session| session.expiry)
}

fn proven(tokens: &Tokens, given: &str) -> Option<Session> {
    let mut parts = given.split('.');
    let (_, role, expiry) = (parts.next()?, parts.next()?, parts.next()?);
    let (role, expiry) = (Role::parse(role)?, expiry.parse::<u64>().ok()?);
    // All of it is compared, so that one session has one spelling.
    let token = tokens.find(|token| {
        let same = value(token, expiry).as_bytes().ct_eq(given.as_bytes());
        same & Choice::from(u8::from(token.holder.role == role))
    })?;
    Some(Session {
        holder: token.holder,
        expiry,
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

fn value(token: &Token, expiry: u64) -> String {
    let said = format!("{VERSION}.{}.{expiry}", token.holder.role.name());
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret.expose_secret().as_bytes());
    let mac = hmac::sign(&key, format!("backstop session {said}").as_bytes());
    format!("{said}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac))
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

    fn tokens(read: &[&str], operator: &[&str]) -> Tokens {
        let secrets = |of: &[&str]| -> Vec<_> { of.iter().map(|&it| it.into()).collect() };
        Tokens::new(secrets(read), secrets(operator))
    }

    fn made(tokens: &Tokens, token: &str, expiry: u64) -> String {
        value(tokens.known(token.as_bytes()).unwrap(), expiry)
    }

    fn signed_in(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, format!("a=b; backstop={value}").parse().unwrap())])
    }

    fn role(tokens: &Tokens, value: &str) -> Option<Role> {
        let session = shown(tokens, &signed_in(value)).filter(Session::goes_on);
        session.map(|it| it.holder.role)
    }

    #[test]
    fn a_session_has_its_role_until_it_ends_or_its_token_goes() {
        let ours = tokens(&["reader"], &["operator"]);
        for (token, wanted) in [("reader", Role::Reader), ("operator", Role::Operator)] {
            let later = made(&ours, token, now() + 60);
            assert_eq!(role(&ours, &later), Some(wanted));
            // While it is replaced both are set, in whatever order.
            let both = tokens(&["reader2", "reader"], &["operator2", "operator"]);
            assert_eq!(role(&both, &later), Some(wanted));
            assert_eq!(role(&both, &made(&both, token, now() + 60)), Some(wanted));
            assert_eq!(role(&tokens(&["reader2"], &["operator2"]), &later), None);
            // What was a reader's is none of an operator's, though the token is.
            assert_eq!(role(&tokens(&["operator"], &["reader"]), &later), None);
            let over = made(&ours, token, now());
            assert_eq!(role(&ours, &over), None);
            assert!(shown(&ours, &signed_in(&over)).is_some(), "it is no guess");
        }
    }

    #[test]
    fn of_several_cookies_the_one_counts_that_lasts_longest() {
        let ours = tokens(&["reader"], &["operator"]);
        let over = made(&ours, "operator", now());
        let lasts = made(&ours, "reader", now() + 60);
        for pair in [[&over, &lasts], [&lasts, &over]] {
            let cookies = format!(
                "backstop={}; __Host-backstop={}; backstop=x",
                pair[0], pair[1]
            );
            let headers = HeaderMap::from_iter([(COOKIE, cookies.parse().unwrap())]);
            let session = shown(&ours, &headers).unwrap();
            assert!(session.goes_on());
            assert_eq!(session.holder.role, Role::Reader);
        }
    }

    #[test]
    fn nothing_of_a_session_can_be_changed() {
        let ours = tokens(&["reader"], &["operator"]);
        let session = made(&ours, "reader", now() + 60);
        let mut parts: Vec<&str> = session.split('.').collect();
        let longer = (now() + 600).to_string();
        for (at, forged) in [(0, "2"), (1, "operator"), (2, longer.as_str()), (3, "")] {
            let kept = std::mem::replace(&mut parts[at], forged);
            assert_eq!(role(&ours, &parts.join(".")), None, "{parts:?}");
            parts[at] = kept;
        }
        assert_eq!(role(&ours, &format!("{session}.")), None);
        assert_eq!(role(&ours, ""), None);
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
