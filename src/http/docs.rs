//! `GET /docs`: the document for people. Swagger UI, from within the binary.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa_swagger_ui::Config;

use super::Problem;

/// Nothing from anywhere else. The page makes its styles by itself, and its icons are `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// To where the page's own links are right.
pub(super) async fn enter() -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, "/docs/")]).into_response()
}

/// The page.
pub(super) async fn index() -> Result<Response, Problem> {
    serve("index.html")
}

/// What the page loads.
pub(super) async fn file(Path(file): Path<String>) -> Result<Response, Problem> {
    serve(&file)
}

fn serve(file: &str) -> Result<Response, Problem> {
    let config = Config::new(["/openapi.json"])
        // It would ask somebody else whether our document is right.
        .validator_url("none")
        .try_it_out_enabled(true);
    let found = utoipa_swagger_ui::serve(file, Arc::new(config)).map_err(|error| {
        tracing::error!(%error, "the documentation cannot be shown");
        Problem::internal()
    })?;
    let found = found.ok_or_else(|| Problem::not_found("there is nothing at this path"))?;
    let content_type =
        HeaderValue::from_str(&found.content_type).map_err(|_| Problem::internal())?;
    let headers: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    Ok((headers, found.bytes.into_owned()).into_response())
}
