//! One request to a vendor and its answer, and what happens in between.
//!
//! Every vendor request takes the same way: faults are claimed, delays waited for, then the vendor
//! carries it out in one step under the lock, and the history says what came of it. A request is
//! carried out in a task of its own, because a vendor that has got a request does not stop when the
//! client goes away.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Request as HttpRequest, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use serde_json::Value;

use super::{
    Shared, clock,
    connection::Fuse,
    emptiness::Emptiness,
    faults::{BrokenBody, FaultKind, Vendor},
    github, hetzner,
    snapshot::{Effect, HistoryEntry},
    tailscale,
    world::World,
};

/// Larger bodies are refused; the largest that makes sense is a server with 32 KiB of user data.
const BODY_LIMIT: usize = 1024 * 1024;

/// A request, with what the vendors look at.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Below the vendor's version prefix, beginning with `/`.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) authorization: Option<String>,
    /// `X-GitHub-Api-Version`.
    pub(super) api_version: Option<String>,
    /// `If-None-Match`.
    pub(super) if_none_match: Option<String>,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn segments(&self) -> Vec<&str> {
        let path = self.path.strip_prefix('/').unwrap_or(&self.path);
        path.split('/').collect()
    }

    /// The query's names and values, decoded.
    pub(super) fn query(&self) -> Vec<(String, String)> {
        pairs(self.query.as_deref().unwrap_or_default())
    }

    pub(super) fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// The names and values of a query or of a form.
pub(super) fn pairs(encoded: &str) -> Vec<(String, String)> {
    let mut url = reqwest::Url::parse("http://sim/").expect("the address is written right here");
    url.set_query(Some(encoded));
    url.query_pairs().into_owned().collect()
}

/// What a vendor answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    /// `None`: an empty body.
    pub(super) body: Option<Value>,
    pub(super) effect: Option<Effect>,
}

impl Answer {
    pub(super) fn json(status: StatusCode, body: Value) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Some(body),
            effect: None,
        }
    }

    pub(super) fn with_effect(self, effect: Effect) -> Answer {
        Answer {
            effect: Some(effect),
            ..self
        }
    }
}

/// How a fault bends what the vendor does with a request.
#[derive(Debug, Default)]
pub(super) struct Twist {
    /// The action that it starts ends in an error of this code.
    pub(super) action_error: Option<String>,
    /// The server that it names or creates is locked for so long.
    pub(super) lock_for: Option<Duration>,
    /// A list leaves out these ids and names; all, when there are none.
    pub(super) omit: Option<Vec<String>>,
    /// How a list tells what is empty.
    pub(super) emptiness: Emptiness,
}

impl Twist {
    /// Whether a list leaves out what has one of these ids or names.
    pub(super) fn omits(&self, names: &[&str]) -> bool {
        self.omit.as_ref().is_some_and(|omitted| {
            omitted.is_empty() || omitted.iter().any(|it| names.contains(&it.as_str()))
        })
    }
}

/// How an exchange ends for the client.
enum Outcome {
    Answered(Response),
    Reset,
}

/// Answers requests to Hetzner.
pub(super) async fn serve_hetzner(
    shared: State<Arc<Shared>>,
    fuse: ConnectInfo<Fuse>,
    request: HttpRequest,
) -> Response {
    serve(Vendor::Hetzner, "/hetzner/v1", shared.0, fuse.0, request).await
}

/// Answers requests to Tailscale.
pub(super) async fn serve_tailscale(
    shared: State<Arc<Shared>>,
    fuse: ConnectInfo<Fuse>,
    request: HttpRequest,
) -> Response {
    serve(
        Vendor::Tailscale,
        "/tailscale/api/v2",
        shared.0,
        fuse.0,
        request,
    )
    .await
}

/// Answers requests to GitHub.
pub(super) async fn serve_github(
    shared: State<Arc<Shared>>,
    fuse: ConnectInfo<Fuse>,
    request: HttpRequest,
) -> Response {
    serve(Vendor::Github, "/github", shared.0, fuse.0, request).await
}

async fn serve(
    vendor: Vendor,
    prefix: &str,
    shared: Arc<Shared>,
    fuse: Fuse,
    request: HttpRequest,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return status_only(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let path = parts.uri.path();
    let request = Request {
        method: parts.method,
        // What lies outside the version prefix keeps its whole path, which no vendor knows.
        path: path
            .strip_prefix(prefix)
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path)
            .to_owned(),
        query: parts.uri.query().map(str::to_owned),
        authorization: header(&parts.headers, header::AUTHORIZATION.as_str()),
        api_version: header(&parts.headers, "x-github-api-version"),
        if_none_match: header(&parts.headers, header::IF_NONE_MATCH.as_str()),
        body,
    };
    let work = tokio::spawn(async move { exchange(&shared, vendor, request).await });
    match work.await {
        Ok(Outcome::Answered(response)) => response,
        Ok(Outcome::Reset) => {
            fuse.blow();
            status_only(StatusCode::BAD_GATEWAY)
        }
        Err(_) => status_only(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    value.to_str().ok().map(str::to_owned)
}

async fn exchange(shared: &Shared, vendor: Vendor, request: Request) -> Outcome {
    let method = request.method.as_str();
    let trouble = shared.world().faults.claim(vendor, method, &request.path);
    if !trouble.delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(trouble.delay) => {}
            () = shared.stopping.cancelled() => {}
        }
    }
    if shared.stopping.is_cancelled() {
        return Outcome::Reset;
    }
    let mut world = shared.world();
    let mut twist = Twist::default();
    let mut broken = None;
    let mut reset = false;
    match trouble.kind {
        None | Some(FaultKind::Delay { .. }) => {}
        Some(FaultKind::Status {
            status,
            code,
            message,
        }) => {
            let answer = error(&mut world, vendor, status, code, message);
            return finish(&mut world, vendor, &request, answer, None);
        }
        Some(FaultKind::Late {
            after_ms,
            status,
            code,
        }) => {
            world.defer(vendor, request.clone(), Duration::from_millis(after_ms));
            let answer = error(&mut world, vendor, status, code, None);
            return finish(&mut world, vendor, &request, answer, None);
        }
        Some(FaultKind::ResetBefore) => {
            world.record(entry(vendor, &request, None, None));
            return Outcome::Reset;
        }
        Some(FaultKind::ResetAfter) => reset = true,
        Some(FaultKind::Broken { body, status }) => broken = Some((body, status)),
        Some(FaultKind::ActionFails { code }) => twist.action_error = Some(code),
        Some(FaultKind::Locked { for_ms }) => {
            twist.lock_for = Some(Duration::from_millis(for_ms));
        }
        Some(FaultKind::Nulls) => twist.emptiness = Emptiness::Null,
        Some(FaultKind::Omit { only }) => twist.omit = Some(only),
    }
    let answer = carry_out(&mut world, vendor, &request, &twist);
    if reset {
        world.record(entry(vendor, &request, None, answer.effect));
        return Outcome::Reset;
    }
    finish(&mut world, vendor, &request, answer, broken)
}

/// Lets the vendor do what it was asked.
pub(super) fn carry_out(
    world: &mut World,
    vendor: Vendor,
    request: &Request,
    twist: &Twist,
) -> Answer {
    match vendor {
        Vendor::Hetzner => hetzner::answer(world, request, twist),
        Vendor::Tailscale => tailscale::answer(world, request, twist),
        Vendor::Github => github::answer(world, request),
    }
}

/// What the history says of a request.
pub(super) fn entry(
    vendor: Vendor,
    request: &Request,
    status: Option<u16>,
    effect: Option<Effect>,
) -> HistoryEntry {
    HistoryEntry {
        at: clock::now(),
        vendor,
        method: request.method.to_string(),
        path: request.path_and_query(),
        status,
        late: false,
        effect,
    }
}

fn error(
    world: &mut World,
    vendor: Vendor,
    status: u16,
    code: Option<String>,
    message: Option<String>,
) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match vendor {
        Vendor::Hetzner => hetzner::scripted_error(world, status, code, message),
        Vendor::Tailscale => tailscale::scripted_error(status, message),
        Vendor::Github => github::scripted_error(status, message),
    }
}

fn finish(
    world: &mut World,
    vendor: Vendor,
    request: &Request,
    answer: Answer,
    broken: Option<(BrokenBody, Option<u16>)>,
) -> Outcome {
    let mut status = answer.status;
    let mut body = answer.body.as_ref().map(Value::to_string);
    let mut content_type = "application/json";
    if let Some((shape, instead)) = broken {
        status = instead
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(status);
        (body, content_type) = match shape {
            BrokenBody::Empty => (None, content_type),
            BrokenBody::Html => (Some(HTML.to_owned()), "text/html"),
            BrokenBody::Truncated => {
                let whole = body.unwrap_or_else(|| "{\"message\":\"ok\"}".to_owned());
                let half: String = whole.chars().take(whole.chars().count() / 2).collect();
                (Some(half), content_type)
            }
        };
    }
    world.record(entry(vendor, request, Some(status.as_u16()), answer.effect));

    let mut response = status_only(status);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some(body) = body {
        *response.body_mut() = Body::from(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    Outcome::Answered(response)
}

fn status_only(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// What a proxy in front of the vendor says.
const HTML: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
    <center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";
