//! The vendors' answers, for `fuzz/`: see [`crate::fuzzing`]. Clients are the product's own, down to the
//! request that they make; a [`Script`] answers it.

#![expect(clippy::missing_panics_doc, reason = "a panic is what is looked for")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonwebtoken::DecodingKey;
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde_json::{Value, json};

use super::http::Exchange;
use super::{Issuer, VendorError};
use crate::fuzzing::{block_on, first_line, headers_and_body};

pub use super::github::fuzzing::github_answers;

/// What stands before an answer in an input: a line `%% 200`, then headers, an empty line, a body.
const ANSWER: &[u8] = b"\n%% ";

/// What a vendor answers, one request after the other; then nothing at all.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<Played>>);

#[derive(Default)]
struct Played {
    ahead: VecDeque<(StatusCode, HeaderMap, Vec<u8>)>,
    played: Vec<(StatusCode, Vec<u8>)>,
}

impl Script {
    /// The first line of an input, which says what is asked, and the answers after it.
    pub(crate) fn read(input: &[u8]) -> (&str, Self) {
        let mut rest = input;
        let mut pieces = Vec::new();
        while let Some(at) = rest.windows(ANSWER.len()).position(|it| it == ANSWER) {
            pieces.push(&rest[..at]);
            rest = &rest[at + ANSWER.len()..];
        }
        pieces.push(rest);
        let (asked, _) = first_line(pieces[0]);
        let script = Self::default();
        for piece in &pieces[1..] {
            let (status, rest) = first_line(piece);
            let status = status.parse().unwrap_or(StatusCode::OK);
            let (headers, body) = headers_and_body(rest);
            script.add(status, headers, body);
        }
        (asked, script)
    }

    fn add(&self, status: StatusCode, headers: HeaderMap, body: &[u8]) {
        self.lock()
            .ahead
            .push_back((status, headers, body.to_vec()));
    }

    fn lock(&self) -> MutexGuard<'_, Played> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request, which must be one, and to whom it is meant.
    pub(super) fn play(&self, base: &Url, request: RequestBuilder, most: usize) -> Exchange {
        let request = request.build().expect("every request can be made");
        let url = request.url();
        assert_eq!(url.origin(), base.origin());
        assert_eq!((url.username(), url.password()), ("", None), "{url}");
        assert!(!url.path().contains("/../"), "{url}");
        let mut script = self.lock();
        let Some((status, headers, body)) = script.ahead.pop_front() else {
            return Err((None, "connection broke: the script is over".to_owned()));
        };
        script.played.push((status, body.clone()));
        if status.is_success() && body.len() > most {
            return Err((Some(status), "too large".to_owned()));
        }
        Ok((status, headers, body))
    }

    /// The status of the last answer.
    pub(super) fn last_status(&self) -> Option<StatusCode> {
        self.lock().played.last().map(|(status, _)| *status)
    }

    /// The answers so far, all of their JSON; `None` for one that is none. What is passed over where an
    /// answer is read may be nested deeper, or hold numbers and escapes, than there are values for.
    pub(super) fn played(&self) -> Vec<(StatusCode, Option<Value>)> {
        let script = self.lock();
        let json = |body: &Vec<u8>| serde_json::from_slice(body).ok();
        script
            .played
            .iter()
            .map(|(status, body)| (*status, json(body)))
            .collect()
    }
}

/// An error is one short line for a table, and asks for no more patience than an hour.
pub(crate) fn is_told(error: &VendorError) {
    let line = error.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(line.len() < 2000, "{line}");
    assert!(error.retry_after().unwrap_or_default().as_secs() <= 3600);
    assert!(!(error.is_refusal() && matches!(error, VendorError::Unavailable(_))));
    assert!(error.call().code().is_none_or(|code| code.len() <= 64));
}

/// An issuer that tells these keys.
pub(crate) fn issuer_with_keys(name: &str, keys: &[u8]) -> Issuer {
    let script = Script::default();
    let discovery = json!({"issuer": name, "jwks_uri": format!("{name}/jwks")}).to_string();
    script.add(StatusCode::OK, HeaderMap::new(), discovery.as_bytes());
    script.add(StatusCode::OK, HeaderMap::new(), keys);
    Issuer::scripted(name, &script)
}

/// What an issuer says of its keys: only keys for RS256, not too many, each of which may be one.
pub fn issuer_answers(input: &[u8]) {
    let (_, script) = Script::read(input);
    let issuer = Issuer::scripted("https://issuer.example/tenant", &script);
    match block_on(issuer.keys()) {
        Ok(keys) => {
            assert!(!keys.rs256.is_empty() && keys.rs256.len() + keys.others.len() <= 100);
            for key in keys.rs256 {
                assert!(!key.id.is_empty());
                // What is no key is left out by whoever asked.
                let _ = DecodingKey::from_rsa_components(&key.modulus, &key.exponent);
            }
            assert!(
                script
                    .played()
                    .iter()
                    .all(|(status, _)| status.is_success())
            );
        }
        Err(error) => is_told(&error),
    }
}
