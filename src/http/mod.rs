//! The HTTP API: what comes in is checked, decided and committed here, and what is there is shown.
//!
//! - [`serve`]: connections. [`client`]: whose they are. [`failures`]: how often somebody may fail.
//! - [`proof`]: who sends a callback. [`tokens`]: who reads and operates. [`github`]: what GitHub
//!   sends.
//! - [`openapi`]: says all this for programs; [`docs`]: for people. [`answers`]: what is answered.
//! - [`body`]: parses what others wrote; [`problem`]: says what was wrong with it.
//! - [`page`]: all of it for people. [`session`]: who is signed in there.
//! - [`etag`]: what a client has already. [`cors`]: which pages may call.
//! - [`callbacks`], [`provisions`], [`orphans`], [`health`], [`metrics`]: the calls.
//! - [`stream`]: tells readers what changes. [`feed`]: follows it, once for all of them.
//!
//! Nothing here calls a vendor or a worker; they meet in the database.

mod answers;
mod body;
mod callbacks;
pub mod client;
pub mod cors;
mod docs;
mod etag;
pub mod failures;
pub mod feed;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod github;
mod health;
pub mod metrics;
pub mod openapi;
mod orphans;
pub mod page;
mod problem;
pub mod proof;
mod provisions;
pub mod serve;
mod session;
mod stream;
pub mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::domain::names::ControllerId;
use crate::domain::step::Resource;
use crate::metrics::Metrics;
use crate::store::changes::Changes;
use crate::store::{Pool, in_time};
use client::Client;
use cors::Origins;
use failures::Failures;
use feed::Feed;
use github::Webhooks;
use metrics::Counted;
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
    /// Follows what changes of what is shown.
    pub feed: Feed,
    /// Settles who sends a callback.
    pub proof: Arc<ProofOfCaller>,
    /// Settles who reads and operates.
    pub tokens: Arc<Tokens>,
    /// Who failed to prove it of late.
    pub failures: Arc<Failures>,
    /// Pages of other origins that may call.
    pub origins: Origins,
    /// Settles what is GitHub's; `None`: no webhooks are taken.
    pub webhooks: Option<Arc<Webhooks>>,
    /// Who this database is to the vendors.
    pub controller: ControllerId,
    /// The tag that makes a device ours; `None` without Tailscale.
    pub tailscale_tag: Option<String>,
    /// The kinds of thing that this installation can delete.
    pub managed: &'static [Resource],
    /// Whether a provision that is asked for has its workflow dispatched, and GitHub is asked about
    /// runs.
    pub dispatches: bool,
    /// From `started` to a terminal callback.
    pub provision_timeout: Duration,
    /// Unsettled for this long: stuck.
    pub stuck_after: Duration,
    /// What the page has to know besides.
    pub page: page::Settings,
    /// What is counted and measured.
    pub metrics: Metrics,
    /// What was counted for it in the database.
    pub counted: Arc<Counted>,
    /// Cancelled when the service stops: whoever waits is answered.
    pub stop: CancellationToken,
}

impl Api {
    /// What is answered to somebody who proved nothing: that, or that he fails too often.
    fn unproven(&self, client: Client, problem: Problem) -> Problem {
        match self.failures.unproven(client) {
            None => problem,
            Some(wait) => {
                self.metrics.refused("unproven");
                Problem::rate_limited(wait)
            }
        }
    }
}

/// Every call that the document describes, with its description.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::beginning())
        .routes(routes!(provisions::list, provisions::create))
        .routes(routes!(provisions::show, provisions::destroy))
        .routes(routes!(provisions::events))
        .routes(routes!(provisions::retry))
        .routes(routes!(stream::stream))
        .routes(routes!(orphans::list))
        .routes(routes!(github::receive))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::show))
        .layer(middleware::from_fn(answer_in_time))
        // After that layer, for each bounds what it asks of the database by itself: a caller may ask
        // to wait, and there are metrics without a database.
        .routes(routes!(callbacks::started))
        .routes(routes!(callbacks::progress))
        .routes(routes!(callbacks::success))
        .routes(routes!(callbacks::failure))
        .routes(routes!(metrics::show))
}

/// The whole API.
pub fn router(api: Api) -> Router {
    let metrics = api.metrics.clone();
    let cors = api.origins.layer();
    let router = Router::from(routes())
        .route(
            "/v1/provisions/{id}/callbacks/{kind}",
            post(callbacks::other),
        )
        .route("/docs", get(docs::enter))
        .route("/docs/", get(docs::index))
        .route("/docs/{file}", get(docs::file))
        .merge(page::routes())
        .with_state(api)
        .layer(CatchPanicLayer::new());
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
    .layer(middleware::from_fn_with_state(metrics, identify))
}

/// Answers 503 when the database leaves a call without an answer.
async fn answer_in_time(request: Request, next: Next) -> Result<Response, Problem> {
    in_time(async { Ok(next.run(request).await) }).await
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

/// Gives every request an id, or keeps the caller's; logs and counts it; writes problems with it.
async fn identify(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(X_REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.to_str().is_ok())
        .cloned()
        .unwrap_or_else(fresh_request_id);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let client = request.extensions().get::<Client>().copied();
    let client = client.as_ref().map(tracing::field::display);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let started = tokio::time::Instant::now();

    // What is logged on the way, above all the cause of a 500, is found by the request's id.
    let span = tracing::error_span!("request", request.id = ?id);
    let mut response = problem::render(next.run(request).instrument(span).await, &id);
    let status = response.status();
    let elapsed = started.elapsed();
    let elapsed_ms = elapsed.as_millis();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    metrics.http_request(name(&method), route, status.as_u16(), elapsed);
    // Of those who fail too often, one line in a while is enough.
    let fails = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
    if fails || status.is_server_error() {
        tracing::info!(
            http.method = %method, http.path = path, http.status = status.as_u16(),
            client.address = client, request.id = ?id, elapsed_ms, "answered with a problem"
        );
    } else {
        tracing::debug!(
            http.method = %method, http.path = path, http.status = status.as_u16(),
            request.id = ?id, elapsed_ms, "answered"
        );
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// A caller can make up methods; metrics know these.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn fresh_request_id() -> HeaderValue {
    HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is visible ASCII")
}
