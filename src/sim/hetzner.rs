//! Hetzner Cloud's API: which requests there are, who may make them, and what they do.
//!
//! The order of refusals is the vendor's: an unknown route before the rate limit, the rate limit
//! before the token, the token before anything about the request itself.
//! See <https://docs.hetzner.cloud/reference/cloud>.

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::{
    belongings::BelongingKind,
    catalogue, clock,
    exchange::{Answer, Request, Twist},
    hetzner_belongings as belongings, hetzner_json as render, hetzner_pricing,
    hetzner_problem::Problem,
    hetzner_servers::{self as servers, find},
    options::Permission,
    paging::{Page, paged},
    project::Command,
    rate::RateBucket,
    tailnet::random_word,
    world::World,
};

/// A request that exists.
enum Route<'a> {
    ListServers,
    CreateServer,
    GetServer(u64),
    UpdateServer(u64),
    DeleteServer(u64),
    ListServerActions(u64),
    GetServerAction(u64, u64),
    Act(u64, Command),
    ChangeProtection(u64),
    ListActions,
    GetAction(u64),
    Belongings(BelongingKind),
    CreateBelonging(BelongingKind),
    GetBelonging(BelongingKind, u64),
    DeleteBelonging(BelongingKind, u64),
    Pricing,
    List(&'a str),
    Get(&'a str, u64),
}

fn route<'a>(method: &Method, segments: &[&'a str]) -> Result<Route<'a>, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "not_found", "api route not found");
    let wrong_method = || {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "the request method is not allowed",
        )
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| unknown());
    Ok(match (method.as_str(), segments) {
        ("GET", ["servers"]) => Route::ListServers,
        ("POST", ["servers"]) => Route::CreateServer,
        ("GET", ["servers", id]) => Route::GetServer(number(id)?),
        ("PUT", ["servers", id]) => Route::UpdateServer(number(id)?),
        ("DELETE", ["servers", id]) => Route::DeleteServer(number(id)?),
        ("GET", ["servers", id, "actions"]) => Route::ListServerActions(number(id)?),
        ("GET", ["servers", id, "actions", action]) => {
            Route::GetServerAction(number(id)?, number(action)?)
        }
        ("POST", ["servers", id, "actions", name]) => {
            let command = match *name {
                "poweron" => Command::Start,
                "poweroff" => Command::Stop,
                "shutdown" => Command::Shutdown,
                "reboot" => Command::Reboot,
                "reset" => Command::Reset,
                "change_protection" => return Ok(Route::ChangeProtection(number(id)?)),
                _ => return Err(unknown()),
            };
            Route::Act(number(id)?, command)
        }
        ("GET", ["actions"]) => Route::ListActions,
        ("GET", ["actions", id]) => Route::GetAction(number(id)?),
        ("GET", ["pricing"]) => Route::Pricing,
        (method, [kind, rest @ ..]) if BelongingKind::from_path(kind).is_some() => {
            let kind = BelongingKind::from_path(kind).ok_or_else(unknown)?;
            match (method, rest) {
                ("GET", []) => Route::Belongings(kind),
                ("POST", []) => Route::CreateBelonging(kind),
                ("GET", [id]) => Route::GetBelonging(kind, number(id)?),
                ("DELETE", [id]) => Route::DeleteBelonging(kind, number(id)?),
                (_, [] | [_]) => return Err(wrong_method()),
                _ => return Err(unknown()),
            }
        }
        (_, ["servers"] | ["servers", _] | ["servers", _, "actions", ..] | ["actions", ..]) => {
            return Err(wrong_method());
        }
        ("GET", [kind]) if catalogue::list(kind).is_some() => Route::List(kind),
        ("GET", [kind, id]) if catalogue::list(kind).is_some() => Route::Get(kind, number(id)?),
        _ => return Err(unknown()),
    })
}

/// What Hetzner does with a request and answers to it.
pub(super) fn answer(world: &mut World, request: &Request, twist: &Twist) -> Answer {
    let segments = request.segments();
    let answer = match route(&request.method, &segments) {
        Err(problem) => problem.into_answer(),
        Ok(route) => {
            let answered = admit(world, request).and_then(|()| act(world, &route, request, twist));
            let mut answer = answered.unwrap_or_else(Problem::into_answer);
            add_rate_headers(world, &mut answer);
            answer
        }
    };
    with_correlation_id(answer)
}

/// An error that a fault asks for.
pub(super) fn scripted_error(
    world: &mut World,
    status: StatusCode,
    code: Option<String>,
    message: Option<String>,
) -> Answer {
    let code = code.unwrap_or_else(|| usual_code(status).to_owned());
    let limit = world.options.rate_limit;
    let problem = match (code.as_str(), message) {
        ("rate_limit_exceeded", None) => Problem::rate_limited(limit),
        ("unauthorized", None) => Problem::unauthorized("the token you have provided is invalid"),
        (_, message) => {
            let message = message.unwrap_or_else(|| code.replace('_', " "));
            Problem::new(status, &code, message)
        }
    };
    let mut answer = problem.into_answer();
    if answer.status == StatusCode::TOO_MANY_REQUESTS {
        let now = clock::now();
        let mut empty = RateBucket::full(limit, world.options.rate_refill_per_second, now);
        empty.set_remaining(0, now);
        answer
            .headers
            .extend(render::rate_headers(empty.state(now)));
    } else {
        add_rate_headers(world, &mut answer);
    }
    with_correlation_id(answer)
}

fn usual_code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "json_error",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        405 => "method_not_allowed",
        409 => "conflict",
        410 => "deprecated_api_endpoint",
        412 => "resource_unavailable",
        422 => "service_error",
        423 => "locked",
        429 => "rate_limit_exceeded",
        502 => "bad_gateway",
        503 => "unavailable",
        504 => "timeout",
        _ => "server_error",
    }
}

fn add_rate_headers(world: &mut World, answer: &mut Answer) {
    let state = world.rate.state(clock::now());
    answer.headers.extend(render::rate_headers(state));
}

fn with_correlation_id(mut answer: Answer) -> Answer {
    let id = random_word(16).to_lowercase();
    answer.headers.push(("x-correlation-id", id));
    answer
}

/// Counts the request and looks at its token.
fn admit(world: &mut World, request: &Request) -> Result<(), Problem> {
    if !world.rate.take(clock::now()) {
        return Err(Problem::rate_limited(world.options.rate_limit));
    }
    let token = request
        .authorization
        .as_deref()
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| Problem::unauthorized("token is required"))?;
    if token.trim() != world.options.hcloud_token {
        return Err(Problem::unauthorized(
            "the token you have provided is invalid",
        ));
    }
    // By the vendor's list of errors a 401, before anything is looked for.
    if world.options.grants.hcloud == Permission::Read && request.method != Method::GET {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "token_readonly",
            "token is only allowed to perform GET requests",
        ));
    }
    Ok(())
}

fn act(
    world: &mut World,
    route: &Route<'_>,
    request: &Request,
    twist: &Twist,
) -> Result<Answer, Problem> {
    let now = clock::now();
    match *route {
        Route::ListServers => servers::list_servers(world, request, twist),
        Route::CreateServer => servers::create_server(world, request, twist),
        Route::GetServer(id) => {
            let server = render::server(find(world, id)?, world.project.belongings(), now);
            Ok(Answer::json(StatusCode::OK, json!({"server": server})))
        }
        Route::UpdateServer(id) => servers::update_server(world, id, request),
        Route::DeleteServer(id) => servers::delete_server(world, id, twist),
        Route::Act(id, command) => servers::start_action(world, id, command, twist),
        Route::ChangeProtection(id) => servers::change_protection(world, id, request, twist),
        Route::GetAction(id) => get_action(world, id, None),
        Route::GetServerAction(server, id) => get_action(world, id, Some(server)),
        Route::ListServerActions(id) => list_server_actions(world, id, request),
        Route::ListActions => list_actions(world, request),
        Route::Belongings(kind) => belongings::list(world, kind, request, twist),
        Route::CreateBelonging(kind) => belongings::create(world, kind, request),
        Route::GetBelonging(kind, id) => belongings::get(world, kind, id),
        Route::DeleteBelonging(kind, id) => belongings::delete(world, kind, id),
        Route::Pricing => Ok(hetzner_pricing::answer()),
        Route::List(kind) => list_catalogue(kind, request),
        Route::Get(kind, id) => catalogue::list(kind)
            .into_iter()
            .flatten()
            .find(|item| item["id"] == id)
            .map(|item| Answer::json(StatusCode::OK, json!({catalogue::singular(kind): item})))
            .ok_or_else(|| Problem::not_found(catalogue::singular(kind), id)),
    }
}

fn get_action(world: &World, id: u64, server: Option<u64>) -> Result<Answer, Problem> {
    let action = world
        .project
        .action(id)
        .filter(|action| server.is_none_or(|server| action.server == server))
        .ok_or_else(|| Problem::not_found("action", id))?;
    let action = render::action(action, clock::now());
    Ok(Answer::json(StatusCode::OK, json!({"action": action})))
}

fn list_server_actions(world: &World, id: u64, request: &Request) -> Result<Answer, Problem> {
    find(world, id)?;
    let query = request.query();
    let page = Page::from_query(&query)?;
    let statuses: Vec<_> = query.iter().filter(|(key, _)| key == "status").collect();
    let actions: Vec<_> = world
        .project
        .actions()
        .filter(|action| action.server == id)
        .filter(|action| {
            statuses.is_empty() || statuses.iter().any(|(_, it)| it == action.status())
        })
        .map(|action| render::action(action, clock::now()))
        .collect();
    Ok(paged("actions", &actions, page, request))
}

fn list_actions(world: &World, request: &Request) -> Result<Answer, Problem> {
    let query = request.query();
    let page = Page::from_query(&query)?;
    let mut actions = Vec::new();
    let mut ids = 0;
    for (_, id) in query.iter().filter(|(key, _)| key == "id") {
        ids += 1;
        let id: u64 = id
            .parse()
            .map_err(|_| Problem::invalid_input("id", "is not a number"))?;
        actions.extend(
            world
                .project
                .action(id)
                .map(|it| render::action(it, clock::now())),
        );
    }
    if ids == 0 {
        let announcement = "https://docs.hetzner.cloud/changelog#2025-01-30-listing-arbitrary-actions-in-the-actions-list-endpoint-is-removed";
        let problem = Problem::new(
            StatusCode::GONE,
            "deprecated_api_endpoint",
            "API functionality was removed",
        );
        return Err(problem.with_details(json!({"announcement": announcement})));
    }
    Ok(paged("actions", &actions, page, request))
}

fn list_catalogue(kind: &str, request: &Request) -> Result<Answer, Problem> {
    let query = request.query();
    let page = Page::from_query(&query)?;
    let mut items = catalogue::list(kind).unwrap_or_default();
    for field in ["name", "architecture", "type"] {
        let wanted: Vec<_> = query.iter().filter(|(key, _)| key == field).collect();
        items.retain(|item| wanted.is_empty() || wanted.iter().any(|(_, it)| item[field] == *it));
    }
    Ok(paged(kind, &items, page, request))
}
