//! The frame around every page, the headers of every answer, and what an error looks like.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::assets;
use super::parts::{self, Icon, icon};
use super::{Extent, Viewer};
use crate::http::Problem;
use crate::http::tokens::Role;
use crate::store::StoreError;

/// Nothing is loaded but our own style, script and icon; nobody frames us; forms come back to us.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A page for somebody who is signed in.
pub(super) struct Page<'a> {
    pub viewer: Viewer,
    /// What the browser's tab says.
    pub title: &'a str,
    /// Which entry of the navigation this is.
    pub here: Here,
    /// What has changed, in one sentence: read out when it differs from what it was.
    pub says: &'a str,
    /// Whether something needs a person.
    pub alarm: bool,
    /// The database's time at which all of it was so.
    pub now: DateTime<Utc>,
    /// What stays as it is while the page is open.
    pub frame: Markup,
    /// What is fetched anew when something changes.
    pub live: Markup,
}

/// The entries of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    Overview,
    Provisions,
    Elsewhere,
}

impl Page<'_> {
    pub(super) fn answer(self) -> Response {
        let title = if self.alarm {
            format!("▲ {}", self.title)
        } else {
            self.title.to_owned()
        };
        let live = html! {
            div #live data-title=(title) data-says=(self.says) data-alarm[self.alarm]
                data-now=(self.now.to_rfc3339_opts(SecondsFormat::Millis, true)) {
                (self.live)
            }
        };
        match self.viewer.asks_for {
            Extent::Fragment => html_answer(StatusCode::OK, live),
            Extent::Whole => {
                let body = html! {
                    (header(self.viewer, self.here, self.now))
                    p #away .away role="alert" hidden {}
                    main #main tabindex="-1" { (self.frame) (live) }
                    p #said .unseen role="status" {}
                };
                html_answer(StatusCode::OK, document(&title, Scripted::Yes, &body))
            }
        }
    }
}

/// A page without navigation, for whoever is not signed in.
pub(super) fn plain_page(status: StatusCode, title: &str, body: &Markup) -> Response {
    let body = html! { main #main .alone tabindex="-1" { (body) } };
    html_answer(status, document(title, Scripted::No, &body))
}

/// What went wrong, as a page.
#[derive(Debug)]
pub(super) struct Failure(Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let (title, text) = match problem.status() {
            StatusCode::NOT_FOUND => (
                "There is nothing here",
                "No provision has this id. Was all of it copied?".to_owned(),
            ),
            StatusCode::SERVICE_UNAVAILABLE => (
                "The database cannot be reached",
                "What must go is written down there and goes on when it is back. Load this page again \
                 in a moment."
                    .to_owned(),
            ),
            StatusCode::FORBIDDEN => ("That is not allowed", problem.detail().to_owned()),
            _ => (problem.title(), problem.detail().to_owned()),
        };
        let mut page = plain_page(
            problem.status(),
            title,
            &html! {
                (wordmark())
                h1 { (title) }
                p { (text) }
                p { a.button href="/" { "To the overview" } }
            },
        );
        page.headers_mut().extend(problem.headers());
        page
    }
}

/// An answer with the headers and nothing else.
pub(super) fn bare(status: StatusCode) -> Response {
    html_answer(status, Markup::default())
}

/// For somebody who followed a link from another site: browsers keep our cookie back from that, and
/// send it when a page of ours asks again. Whoever has none comes to sign in by this.
pub(super) fn once_more(path: &str) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content={ "0;url=" (path) };
                title { "backstop" }
            }
            body { p { a href=(path) { "Go on" } } }
        }
    };
    html_answer(StatusCode::OK, page)
}

fn html_answer(status: StatusCode, body: Markup) -> Response {
    let mut response = (status, body.into_string()).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "same-origin"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scripted {
    Yes,
    No,
}

fn document(title: &str, scripted: Scripted, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · backstop" }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.path());
                link rel="stylesheet" href=(assets::STYLE.path());
                @if scripted == Scripted::Yes {
                    script src=(assets::SCRIPT.path()) defer {}
                }
            }
            body {
                a.skip href="#main" { "Skip to what matters" }
                (body)
            }
        }
    }
}

fn header(viewer: Viewer, here: Here, now: DateTime<Utc>) -> Markup {
    let link = |to: &str, entry: Here, name: &str| {
        html! { a href=(to) aria-current=[(entry == here).then_some("page")] { (name) } }
    };
    html! {
        header.top {
            div.inner {
                (wordmark())
                nav aria-label="Pages" {
                    (link("/", Here::Overview, "Overview"))
                    (link("/provisions", Here::Provisions, "Provisions"))
                }
                p #state .state data-state="connecting" title={ "as of " (parts::exact(now)) } {
                    span.dot {}
                    span.words { "as of " (now.format("%H:%M:%S UTC").to_string()) }
                }
                @if viewer.role == Role::Reader {
                    span.role { "read-only" }
                }
                form method="post" action="/sign-out" {
                    button.quiet { "Sign out" }
                }
            }
        }
    }
}

pub(super) fn wordmark() -> Markup {
    html! {
        a.wordmark href="/" {
            svg viewBox="0 0 20 20" aria-hidden="true" focusable="false" {
                (PreEscaped(r#"<path class="wall" d="M4 3v14"/><path d="M17 5.5a7 7 0 01-7.5 7.5"/><path d="M12.3 9.8L9 13l3.3 3.2"/>"#))
            }
            "backstop"
        }
    }
}

/// Something that is said above all else.
pub(super) fn notice(class: &str, shape: Icon, what: &Markup) -> Markup {
    html! { div class={ "notice " (class) } { (icon(shape)) div { (what) } } }
}
