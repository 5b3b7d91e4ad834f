//! Errors as the caller sees them: RFC 9457 problems with a stable code.
//!
//! A problem says what the caller can do. Causes that are ours go to the log, once, here.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::callback::Refusal;
use crate::store::StoreError;

/// Why a call is not answered as asked.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<u64>,
}

/// Why a call is not answered as asked (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// `urn:backstop:problem:` and the code.
    pub r#type: String,
    /// What kind of problem it is.
    pub title: &'static str,
    /// The answer's status.
    pub status: u16,
    /// What is wrong with this call.
    pub detail: String,
    /// For programs; stable.
    pub code: &'static str,
    /// The log has the request under it.
    pub request_id: String,
}

/// How long a caller should leave us alone while the database is away.
const RETRY_AFTER_SECONDS: u64 = 5;

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECONDS),
        }
    }

    /// Too many failures came from that address; one more may after `wait`.
    pub(super) fn rate_limited(wait: Duration) -> Self {
        let seconds = in_seconds(wait);
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            format!("too many failures from this address: wait {seconds} s"),
        );
        problem.retry_after = Some(seconds);
        problem
    }

    /// The body is not JSON at all.
    pub(super) fn malformed_body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
    }

    /// The body is JSON and does not say what it should.
    pub(super) fn invalid_body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", detail)
    }

    pub(super) fn invalid_parameter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail)
    }

    pub(super) fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    pub(super) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this call needs the operator token",
        )
    }

    /// A form that did not come from a page of ours.
    pub(super) fn cross_site() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this did not come from a page of ours, so nothing was done",
        )
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is larger than {limit} bytes"),
        )
    }

    pub(super) fn body_too_slow(patience: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            format!("the body did not arrive within {} s", patience.as_secs()),
        )
    }

    pub(super) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must be application/json, and Content-Type must say so",
        )
    }

    pub(super) fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the database cannot be reached; sending the same again is safe",
        )
    }

    /// The issuer may be asked for its keys after `wait`; until then nobody can tell whose a token is.
    pub(super) fn keys_unknown(wait: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the keys of the token's issuer cannot be had at present; sending the same again is safe",
        );
        problem.retry_after = Some(in_seconds(wait));
        problem
    }

    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong here; the log has it under the request id",
        )
    }

    /// A problem for an answer that came without one, such as the router's own.
    pub(super) fn for_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found("there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                status,
                "method_not_allowed",
                "this path does not take that method",
            ),
            status if status.is_client_error() => Self::new(
                status,
                "invalid_parameter",
                "the request cannot be understood",
            ),
            _ => Self::internal(),
        }
    }

    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// What the caller can do.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// As it is sent.
    pub(super) fn body(&self, request_id: &str) -> ProblemBody {
        ProblemBody {
            r#type: format!("urn:backstop:problem:{}", self.code),
            title: self.title(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            code: self.code,
            request_id: request_id.to_owned(),
        }
    }

    /// The headers that are sent with it.
    pub(super) fn headers(&self) -> Option<(HeaderName, HeaderValue)> {
        if let Some(seconds) = self.retry_after {
            return Some((RETRY_AFTER, HeaderValue::from(seconds)));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            _ => None,
        }
    }

    pub(super) fn title(&self) -> &'static str {
        match self.code {
            "invalid_body" => "The body is not what this call takes",
            "invalid_parameter" => "A parameter is not what this call takes",
            "unauthenticated" => "Who sends this is not proven",
            "forbidden" => "Not with this token",
            "not_found" => "Not found",
            "already_failed" => "This attempt has failed already",
            "already_running" => "This provision runs already",
            "already_provisioning" => "Another run is provisioning this",
            "already_destroyed" => "This provision was destroyed",
            "stale_attempt" => "A later attempt has taken over",
            "unknown_attempt" => "This run owns no attempt of this provision",
            "body_too_large" => "The body is too large",
            "body_too_slow" => "The body took too long",
            "unsupported_media_type" => "The body is not JSON",
            "rate_limited" => "Too many failures",
            "unavailable" => "Not available now",
            "method_not_allowed" => "Method not allowed",
            _ => "Internal error",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = match refusal {
            Refusal::AlreadyFailed => {
                "the attempt that this run owns is over and being rolled back; \
                 stop, clean up, send failure"
            }
            Refusal::AlreadyRunning => {
                "the provision runs; destroy it before it is provisioned anew"
            }
            Refusal::AlreadyProvisioning => "another run is at work on this provision",
            Refusal::AlreadyDestroyed => "the provision was destroyed; use a new id",
            Refusal::StaleAttempt => "a later attempt has taken over this provision; stop",
            Refusal::UnknownAttempt => {
                "this run and run attempt own no attempt of this provision; send started first"
            }
        };
        Self::new(StatusCode::CONFLICT, refusal.code(), detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(error) => {
                tracing::warn!(%error, "the database is away");
                Self::unavailable()
            }
            StoreError::Corrupt { .. }
            | StoreError::Refused(_)
            | StoreError::IllegalEvent(_)
            | StoreError::IllegalMove(_) => {
                tracing::error!(%error, "a call failed");
                Self::internal()
            }
        }
    }
}

/// Rounded up, or whoever comes then comes too soon.
fn in_seconds(wait: Duration) -> u64 {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    u64::try_from(seconds).unwrap_or(u64::MAX)
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl IntoResponse for Problem {
    /// Without a body: [`render`] writes it, with the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of an error. Answers that are none pass, and so do pages.
pub(super) fn render(response: Response, request_id: &HeaderValue) -> Response {
    let status = response.status();
    let is_page = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|it| it.as_bytes().starts_with(b"text/html"));
    if is_page || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let problem = parts
        .extensions
        .remove::<Problem>()
        .unwrap_or_else(|| Problem::for_status(status));
    let body = problem.body(&String::from_utf8_lossy(request_id.as_bytes()));
    let body = serde_json::to_vec(&body).expect("a problem is JSON");
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    parts.headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    parts.headers.extend(problem.headers());
    Response::from_parts(parts, Body::from(body))
}
