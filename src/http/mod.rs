//! The HTTP API: what comes in is checked, decided and committed here, and what is there is shown.
//!
//! - [`proof`]: who sends a callback. [`tokens`]: who reads and operates.
//! - [`body`]: parses what others wrote; [`problem`]: says what was wrong with it.
//! - [`callbacks`], [`provisions`], [`health`]: the calls.
//!
//! Nothing here calls a vendor or a worker; they meet in the database.

mod body;
mod callbacks;
mod health;
mod problem;
pub mod proof;
mod provisions;
pub mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use crate::domain::names::ControllerId;
use crate::domain::step::Resource;
use crate::store::changes::Changes;
use crate::store::{Pool, in_time};
use problem::Problem;
use proof::ProofOfCaller;
use tokens::Tokens;

/// What every call can use.
#[derive(Clone)]
pub struct Api {
    /// The database.
    pub pool: Pool,
    /// Announces and hears that the ledger changed.
    pub changes: Changes,
    /// Settles who sends a callback.
    pub proof: Arc<ProofOfCaller>,
    /// Settles who reads and operates.
    pub tokens: Arc<Tokens>,
    /// Who this database is to the vendors.
    pub controller: ControllerId,
    /// The tag that makes a device ours; `None` without Tailscale.
    pub tailscale_tag: Option<String>,
    /// From `started` to a terminal callback.
    pub provision_timeout: Duration,
    /// Unsettled for this long: stuck.
    pub stuck_after: Duration,
    /// Cancelled when the service stops: whoever waits is answered.
    pub stop: CancellationToken,
}

impl Api {
    /// The kinds of thing that this installation can delete.
    fn managed(&self) -> &'static [Resource] {
        match self.tailscale_tag {
            Some(_) => &Resource::ALL,
            None => &[Resource::Server],
        }
    }
}

/// The whole API.
pub fn router(api: Api) -> Router {
    Router::new()
        .route(
            "/v1/provisions",
            get(provisions::list).post(provisions::create),
        )
        .route(
            "/v1/provisions/{id}",
            get(provisions::show).delete(provisions::destroy),
        )
        .route("/v1/provisions/{id}/events", get(provisions::events))
        .route("/v1/provisions/{id}/rollback", post(provisions::retry))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .layer(middleware::from_fn(answer_in_time))
        // After that layer: it bounds what it does by itself, for its caller may ask it to wait.
        .route(
            "/v1/provisions/{id}/callbacks/{kind}",
            post(callbacks::receive),
        )
        .with_state(api)
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(identify))
}

/// Answers 503 when the database leaves a call without an answer.
async fn answer_in_time(request: Request, next: Next) -> Result<Response, Problem> {
    in_time(async { Ok(next.run(request).await) }).await
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

/// Gives every request an id, or keeps the caller's; logs it; writes problems with it.
async fn identify(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(X_REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.to_str().is_ok())
        .cloned()
        .unwrap_or_else(fresh_request_id);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let started = tokio::time::Instant::now();

    let mut response = problem::render(next.run(request).await, &id);
    let status = response.status();
    let elapsed_ms = started.elapsed().as_millis();
    if status.is_success() {
        tracing::debug!(
            http.method = %method, http.path = path, http.status = status.as_u16(),
            request.id = ?id, elapsed_ms, "answered"
        );
    } else {
        tracing::info!(
            http.method = %method, http.path = path, http.status = status.as_u16(),
            request.id = ?id, elapsed_ms, "answered with a problem"
        );
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

fn fresh_request_id() -> HeaderValue {
    HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is visible ASCII")
}
