//! Pages of other origins that may call us: dashboards elsewhere, by setting.

use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER};
use axum::http::uri::Uri;
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::CorsLayer;

use super::X_REQUEST_ID;
use super::stream::LAST_EVENT_ID;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// How long a browser need not ask again what is allowed.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The origins whose pages may call us. None by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

/// A text that is no list of origins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an origin reads https://host or https://host:port, and several have commas between")]
pub struct NoOrigin;

impl FromStr for Origins {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        let origins = text.split(',').map(|origin| {
            // As browsers write it.
            let origin = origin.trim().to_ascii_lowercase();
            let uri: Uri = origin.parse().map_err(|_| NoOrigin)?;
            let host = uri.authority().ok_or(NoOrigin)?;
            let scheme = uri.scheme_str().ok_or(NoOrigin)?;
            let is_origin = matches!(scheme, "http" | "https")
                && !host.host().is_empty()
                && !host.as_str().contains('@')
                && origin == format!("{scheme}://{host}");
            let value = HeaderValue::from_str(&origin).map_err(|_| NoOrigin)?;
            is_origin.then_some(value).ok_or(NoOrigin)
        });
        origins.collect::<Result<_, _>>().map(Self)
    }
}

impl Origins {
    /// Answers browsers that ask; nothing without origins. Tokens are sent by the page itself, so no
    /// credentials of the browser's are allowed.
    pub(super) fn layer(&self) -> Option<CorsLayer> {
        (!self.0.is_empty()).then(|| {
            CorsLayer::new()
                .allow_origin(self.0.clone())
                .allow_methods([Method::GET, Method::POST, Method::DELETE])
                .allow_headers([
                    AUTHORIZATION,
                    CONTENT_TYPE,
                    IF_NONE_MATCH,
                    LAST_EVENT_ID,
                    PREFER,
                    X_REQUEST_ID,
                ])
                .expose_headers([
                    ETAG,
                    LOCATION,
                    PREFERENCE_APPLIED,
                    RETRY_AFTER,
                    X_REQUEST_ID,
                ])
                .max_age(MAX_AGE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        let origins: Origins = "https://a.example, HTTP://B.example:8080".parse().unwrap();
        assert_eq!(origins.0, ["https://a.example", "http://b.example:8080"]);
        for text in [
            "",
            "*",
            "null",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/page",
            "https://me@a.example",
            "https://a.example?x",
            "ftp://a.example",
            "https://a.example,",
            "https://a.example https://b.example",
        ] {
            assert_eq!(text.parse::<Origins>(), Err(NoOrigin), "{text}");
        }
    }
}
