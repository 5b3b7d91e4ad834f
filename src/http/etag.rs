//! Answers that a client may have already.
//!
//! The tag is of the bytes that are sent, so that it changes with whatever is shown, also with what
//! time alone changes.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// This as JSON with its tag, or 304 for one who has it ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#name-if-none-match)).
pub(super) fn answer(asked: &HeaderMap, shown: &impl Serialize) -> Response {
    let body = serde_json::to_vec(shown).expect("what is shown is JSON");
    let tag = tag_of(&body);
    let mut response = if has_it(asked, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
    };
    let headers = response.headers_mut();
    let tag = HeaderValue::from_str(&tag).expect("base64 in quotes is visible ASCII");
    headers.insert(ETAG, tag);
    // May be kept, by this client alone, and must be asked about each time.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

fn tag_of(body: &[u8]) -> String {
    let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(body));
    format!("\"{digest}\"")
}

/// `If-None-Match` compares weakly: a proxy that compresses makes strong tags weak.
fn has_it(asked: &HeaderMap, tag: &str) -> bool {
    asked
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_it_is_not_sent_it_again() {
        let tag = answer(&HeaderMap::new(), &1).headers()[ETAG].clone();
        let tag = tag.to_str().unwrap();
        for (known, status) in [
            (tag.to_owned(), 304),
            (format!("W/{tag}"), 304),
            (format!("\"other\", {tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
            (tag.trim_matches('"').to_owned(), 200),
            (String::new(), 200),
        ] {
            let asked = HeaderMap::from_iter([(IF_NONE_MATCH, known.parse().unwrap())]);
            assert_eq!(answer(&asked, &1).status(), status, "{known}");
            assert_eq!(answer(&asked, &1).headers()[ETAG], tag);
        }
        assert_ne!(answer(&HeaderMap::new(), &2).headers()[ETAG], tag);
    }
}
