//! Signing in with a token of the status API, and out again.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, Request, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{self, Failure};
use crate::http::client::Client;
use crate::http::session::{self, Transport};
use crate::http::tokens::{guess, signed_in};
use crate::http::{Api, Problem};

#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Given {
    #[serde(default)]
    token: String,
    #[serde(default)]
    next: String,
}

/// To the page on which people sign in, and from there to `path`.
pub(super) fn redirect(path: &str) -> Response {
    let mut to = "/sign-in".to_owned();
    if path != "/" {
        to.push_str("?next=");
        // What a path may hold and would end a parameter, or change what it says.
        for c in local(path).chars() {
            match c {
                '%' => to.push_str("%25"),
                '&' => to.push_str("%26"),
                '+' => to.push_str("%2B"),
                '#' => to.push_str("%23"),
                c => to.push(c),
            }
        }
    }
    see_other(&to)
}

pub(super) fn see_other(to: &str) -> Response {
    let mut response = layout::bare(StatusCode::SEE_OTHER);
    if let Ok(to) = to.parse() {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// `GET /sign-in`
pub(super) async fn show(
    State(api): State<Api>,
    query: Query<Next>,
    request: Request,
) -> Result<Response, Failure> {
    let next = local(&query.next);
    let (parts, _) = request.into_parts();
    if signed_in(&api, &parts)?.is_some() {
        return Ok(see_other(next));
    }
    Ok(layout::plain_page(
        StatusCode::OK,
        "Sign in",
        &form(next, None),
    ))
}

/// `POST /sign-in`
pub(super) async fn sign_in(
    State(api): State<Api>,
    client: Client,
    headers: HeaderMap,
    given: Result<Form<Given>, FormRejection>,
) -> Result<Response, Failure> {
    let public_url = api.page.public_url.as_deref();
    session::require_our_own_page(&headers, public_url)?;
    let Form(given) = given.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    let next = local(&given.next);
    let transport = Transport::of(&headers, public_url);
    let look = || api.tokens.known(given.token.trim().as_bytes());
    match guess(&api, client, look) {
        Ok(token) => {
            tracing::info!(client.address = %client, by = %token.holder, "signed in to the page");
            let mut response = see_other(next);
            if let Ok(cookie) = session::cookie(token, transport).parse() {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            Ok(response)
        }
        Err(None) => {
            tracing::warn!(
                client.address = %client,
                "somebody tried to sign in to the page with a token that is none"
            );
            let wrong = "That is neither the read token nor the operator token.";
            let page = form(next, Some(wrong));
            Ok(layout::plain_page(StatusCode::FORBIDDEN, "Sign in", &page))
        }
        Err(Some(problem)) => Err(problem.into()),
    }
}

/// `POST /sign-out`
pub(super) async fn sign_out(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let public_url = api.page.public_url.as_deref();
    session::require_our_own_page(&headers, public_url)?;
    let mut response = see_other("/sign-in");
    if let Ok(cookie) = session::no_cookie(Transport::of(&headers, public_url)).parse() {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// A path of ours, or the overview: never another host, however it is spelled.
pub(super) fn local(path: &str) -> &str {
    let ours = path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if ours { path } else { "/" }
}

fn form(next: &str, wrong: Option<&str>) -> Markup {
    html! {
        (layout::wordmark())
        h1 { "Sign in" }
        p.lead { "What CI left behind, and what becomes of it." }
        form.sign-in method="post" action="/sign-in" {
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input #token type="password" name="token" required autofocus autocomplete="current-password"
                spellcheck="false" aria-invalid=[wrong.map(|_| "true")]
                aria-describedby={ @if wrong.is_some() { "wrong " } "hint" };
            @if let Some(wrong) = wrong {
                p #wrong .wrong role="alert" { (wrong) }
            }
            button.primary { "Sign in" }
            p #hint .hint {
                "The value of " code { "BACKSTOP_READ_TOKEN" } " to look, of "
                code { "BACKSTOP_OPERATOR_TOKEN" } " to look and change. It lasts twelve hours."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_host() {
        for path in [
            "/",
            "/provisions?status=failed&q=web-1",
            "/provisions/x#y",
            "/a//b",
        ] {
            assert_eq!(local(path), path);
        }
        for path in [
            "",
            "provisions",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nb",
            "/\t/evil.example",
            "/ü",
        ] {
            assert_eq!(local(path), "/", "{path:?}");
        }
    }

    #[test]
    fn where_somebody_was_going_survives_the_way() {
        let response = redirect("/provisions?q=a%26b&status=failed");
        assert_eq!(
            response.headers()[LOCATION],
            "/sign-in?next=/provisions?q=a%2526b%26status=failed"
        );
    }
}
