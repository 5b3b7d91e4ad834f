//! The page: what is running, what failed, what is being undone, what cannot be and what that costs.
//!
//! Rendered here, readable without a script; the script only keeps it live. It shows what the status
//! API shows and changes what that changes, by the same calls. Every way out of here sets the same
//! headers ([`layout`]), and all text of others goes through maud, which escapes it.
//!
//! - [`layout`]: the frame, headers, errors. [`parts`], [`chart`], [`plain`]: what pages are made of.
//! - [`overview`] with [`vendors`], [`list`], [`provision`] with [`timeline`], [`sign_in`]: the pages.
//! - [`assets`]: style and script, under names that change with them.

mod assets;
mod chart;
mod layout;
mod list;
mod overview;
mod parts;
mod plain;
mod provision;
mod sign_in;
mod timeline;
mod vendors;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::session;
use super::tokens::{Role, signed_in};
use super::{Api, Problem, body};
use crate::domain::budget::Reserve;
use crate::store::in_time;
use layout::Failure;

/// What the page has to know beside what the API does.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Our own URL as people see it; its scheme decides how the session's cookie is kept.
    pub public_url: Option<String>,
    /// Where GitHub shows runs, without the slash before a run's id. `None`: they are not linked.
    pub runs_url: Option<String>,
    /// What is left of a vendor's rate limit to others.
    pub reserve: Reserve,
}

/// The page's calls.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(overview::show))
        .route("/provisions", get(list::show))
        .route("/provisions/{id}", get(provision::show))
        .route("/provisions/{id}/rollback", post(provision::retry))
        .route(
            "/provisions/{id}/destroy",
            get(provision::ask).post(provision::destroy),
        )
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/assets/{name}", get(assets::show))
        .layer(DefaultBodyLimit::max(body::BODY_LIMIT))
        .layer(middleware::from_fn(answer_in_time))
}

/// Says so when the database leaves a page without an answer.
async fn answer_in_time(request: Request, next: Next) -> Result<Response, Failure> {
    in_time(async { Ok(next.run(request).await) }).await
}

/// The script asks with this header, and gets the part that changes without its frame.
const FRAGMENT: HeaderName = HeaderName::from_static("backstop-fragment");

/// Somebody who is signed in. Whoever is not is sent to sign in.
#[derive(Debug, Clone, Copy)]
struct Viewer {
    role: Role,
    asks_for: Extent,
}

/// How much of a page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Fragment,
}

impl Viewer {
    fn operates(self) -> bool {
        self.role == Role::Operator
    }
}

impl FromRequestParts<Api> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Response> {
        let asks_for = if parts.headers.contains_key(FRAGMENT) {
            Extent::Fragment
        } else {
            Extent::Whole
        };
        let holder = signed_in(api, parts).map_err(refused)?;
        if let Some(holder) = holder {
            let role = holder.role;
            return Ok(Self { role, asks_for });
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        Err(match asks_for {
            // The script says so, and keeps what it shows.
            Extent::Fragment => layout::bare(StatusCode::UNAUTHORIZED),
            Extent::Whole if session::comes_from_elsewhere(&parts.headers) => {
                layout::once_more(sign_in::local(path))
            }
            Extent::Whole => sign_in::redirect(path),
        })
    }
}

/// An operator whose form came from a page of ours, and as whom the history knows him.
struct Operator {
    by: String,
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Response> {
        let public_url = api.page.public_url.as_deref();
        session::require_our_own_page(&parts.headers, public_url).map_err(refused)?;
        let Some(holder) = signed_in(api, parts).map_err(refused)? else {
            return Err(sign_in::redirect("/"));
        };
        match holder.role {
            Role::Operator => Ok(Self {
                by: holder.to_string(),
            }),
            Role::Reader => Err(refused(Problem::forbidden())),
        }
    }
}

fn refused(problem: Problem) -> Response {
    Failure::from(problem).into_response()
}
