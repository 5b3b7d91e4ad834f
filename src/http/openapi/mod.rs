//! The OpenAPI document, made from the routes.
//!
//! A route is registered together with its description, so none can be left out; the views and
//! answers describe themselves. What all calls have in common is added here: who may call, the
//! problems and the headers that come with them. [`bodies`] says what calls take, [`examples`] what
//! it looks like.

mod bodies;
mod examples;

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::problem::{Problem, ProblemBody};

/// Calls of workflows, by signature.
pub(super) const CALLBACKS: &str = "Callbacks";
/// Calls of GitHub.
pub(super) const GITHUB: &str = "GitHub";
/// Calls of readers and operators.
pub(super) const READ: &str = "Status";
/// Calls of operators.
pub(super) const OPERATE: &str = "Operation";
/// Calls that anybody may make.
pub(super) const OPEN: &str = "Service";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "backstop",
        description = "Second-layer rollback for VMs that CI provisions. Workflows report by \
                       callback; whatever a provision leaves behind is deleted and proven gone.",
        license(name = "MIT", identifier = "MIT")
    ),
    servers((url = "/")),
    tags(
        (name = CALLBACKS, description = "From the workflow, proven by its job's token or signed. \
                                          Sending the same again changes nothing and gets the \
                                          same answer."),
        (name = GITHUB, description = "From GitHub itself, signed."),
        (name = READ, description = "What dashboards read, with the read or the operator token. \
                                     The page's own session may read it, too."),
        (name = OPERATE, description = "What operators change, with the operator token."),
        (name = OPEN, description = "Open."),
    ),
    components(schemas(ProblemBody))
)]
struct Document;

/// Before any route is added.
pub(super) fn beginning() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The whole document, as JSON for people to read.
#[must_use]
pub fn document() -> &'static str {
    &DOCUMENT
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let document = super::routes().into_openapi();
    let mut document = serde_json::to_value(document).expect("a document is JSON");
    finish(&mut document);
    serde_json::to_string_pretty(&document).expect("a value is JSON") + "\n"
});

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = OPEN,
    responses((status = 200, description = "The document", body = Object))
)]
pub(super) async fn show() -> Response {
    ([(CONTENT_TYPE, "application/json")], document()).into_response()
}

/// The one field of answers that is not there when there is nothing to say.
const LEFT_OUT_IF_EMPTY: &str = "unreadable";

fn finish(document: &mut Value) {
    let mut schemas = Vec::new();
    for path in members(&mut document["paths"]) {
        for operation in members(path) {
            schemas.extend(complete(operation));
        }
    }
    let components = &mut document["components"];
    // Whatever is answered has all its fields, if only with null.
    for schema in members(&mut components["schemas"]) {
        let fields = schema["properties"].as_object();
        let fields: Vec<String> = fields
            .into_iter()
            .flat_map(|it| it.keys().cloned())
            .filter(|field| field != LEFT_OUT_IF_EMPTY)
            .collect();
        if !fields.is_empty() {
            schema["required"] = json!(fields);
        }
    }
    for (name, schema) in schemas {
        components["schemas"][name] = schema;
    }
    let mut codes = vec![json!(
        Problem::for_status(StatusCode::METHOD_NOT_ALLOWED).code()
    )];
    for (name, problems) in PROBLEMS {
        let problems = problems();
        codes.extend(problems.iter().map(|problem| json!(problem.code())));
        components["responses"][name] = problem(&problems);
    }
    components["schemas"]["Problem"]["properties"]["code"]["enum"] = json!(codes);
    components["securitySchemes"] = security_schemes();
}

/// Adds to an operation what its kind of call has; the schema of its body.
fn complete(operation: &mut Value) -> Option<(&'static str, Value)> {
    let id = operation["operationId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let tag = operation["tags"][0].as_str().unwrap_or_default().to_owned();
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        response["headers"]["x-request-id"] = request_id();
        for media in response.get_mut("content").into_iter().flat_map(members) {
            media["example"] = examples::answer(&id, status).unwrap_or_default();
        }
    }

    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if parameter["in"] == "query" {
            let mut schema = parameter["schema"].take();
            if parameter["name"] == "agent_id" {
                schema["pattern"] = json!(bodies::NO_NUL);
            }
            let empty = json!({"type": "string", "maxLength": 0, "description": "As if absent"});
            parameter["schema"] = json!({"anyOf": [schema, empty]});
        }
    }

    let body = bodies::of(&id);
    let mut problems = match &*tag {
        CALLBACKS => vec![("401", "Unauthenticated"), ("409", "Conflict")],
        READ => vec![("401", "Unauthenticated")],
        GITHUB => vec![("401", "Unauthenticated"), ("404", "NotFound")],
        OPERATE => vec![("401", "Unauthenticated"), ("403", "Forbidden")],
        _ => vec![],
    };
    if !problems.is_empty() {
        problems.push(("429", "TooManyFailures"));
    }
    if body.is_some() || operation["parameters"].is_array() {
        problems.push(("400", "BadRequest"));
    }
    if body.is_some() {
        problems.push(("413", "BodyTooLarge"));
        problems.push(("415", "UnsupportedMediaType"));
        problems.push(("422", "InvalidBody"));
    }
    let of_one = operation["parameters"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["in"] == "path"));
    if of_one && tag != CALLBACKS {
        problems.push(("404", "NotFound"));
    }
    if !matches!(&*id, "livez" | "openapi") {
        problems.push(("500", "Internal"));
        problems.push(("503", "Unavailable"));
    }
    for (status, name) in problems {
        operation["responses"][status] = json!({"$ref": format!("#/components/responses/{name}")});
    }
    operation["security"] = match &*tag {
        CALLBACKS => json!([
            {"actions_token": []},
            {"webhook_id": [], "webhook_timestamp": [], "webhook_signature": []},
        ]),
        GITHUB => json!([{"github_signature": []}]),
        READ => json!([{"read_token": []}, {"operator_token": []}]),
        OPERATE => json!([{"operator_token": []}]),
        _ => json!([]),
    };

    let body = body?;
    let schema = json!({"$ref": format!("#/components/schemas/{}", body.name)});
    operation["requestBody"] = json!({
        "required": true,
        "content": {"application/json": {"schema": schema, "example": body.example}},
    });
    Some((body.name, body.schema))
}

type Problems = fn() -> Vec<Problem>;

/// The problems that calls have in common.
const PROBLEMS: [(&str, Problems); 11] = [
    ("BadRequest", || {
        vec![
            Problem::invalid_parameter("limit must be from 1 to 200"),
            Problem::malformed_body("the body is not JSON: expected value at line 1 column 1"),
        ]
    }),
    ("Unauthenticated", || {
        vec![Problem::unauthenticated(
            "this call needs proof of who sends it",
        )]
    }),
    ("Forbidden", || vec![Problem::forbidden()]),
    ("NotFound", || {
        vec![Problem::not_found("there is no provision with this id")]
    }),
    ("Conflict", || {
        use crate::domain::callback::Refusal;
        [
            Refusal::AlreadyFailed,
            Refusal::AlreadyRunning,
            Refusal::AlreadyProvisioning,
            Refusal::AlreadyDestroyed,
            Refusal::StaleAttempt,
            Refusal::UnknownAttempt,
        ]
        .map(Problem::from)
        .into()
    }),
    ("BodyTooLarge", || {
        vec![Problem::body_too_large(super::body::BODY_LIMIT)]
    }),
    ("UnsupportedMediaType", || {
        vec![Problem::unsupported_media_type()]
    }),
    ("InvalidBody", || {
        vec![Problem::invalid_body("agent_id is required")]
    }),
    ("TooManyFailures", || {
        vec![Problem::rate_limited(Duration::from_secs(1))]
    }),
    ("Internal", || vec![Problem::internal()]),
    ("Unavailable", || vec![Problem::unavailable()]),
];

fn problem(problems: &[Problem]) -> Value {
    let mut headers = json!({"x-request-id": request_id()});
    let mut examples = json!({});
    let mut description = "";
    for problem in problems {
        let body = problem.body("0d0dd4b5-4a4b-4d5c-9f4e-0d6f0e0e7b1a");
        description = body.title;
        if let Some((name, text)) = problem.headers() {
            headers[name.as_str()] =
                json!({"schema": {"type": "string"}, "example": text.to_str().unwrap_or_default()});
        }
        examples[body.code] = json!({"summary": body.title, "value": body});
    }
    if problems.len() > 1 {
        description = "What `code` says";
    }
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    json!({
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    })
}

fn request_id() -> Value {
    json!({"description": "The id that the log has the request under: the caller's own, or a fresh \
                           one", "schema": {"type": "string"}})
}

fn security_schemes() -> Value {
    let token =
        |description: &str| json!({"type": "http", "scheme": "bearer", "description": description});
    let header = |name: &str, description: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": description});
    json!({
        "read_token": token("BACKSTOP_READ_TOKEN"),
        "operator_token": token("BACKSTOP_OPERATOR_TOKEN"),
        "actions_token": token("The OIDC token that GitHub Actions issued to a job, for its run alone"),
        "github_signature": header(
            "x-hub-signature-256",
            "`sha256=` and the HMAC of the body with BACKSTOP_GITHUB_WEBHOOK_SECRET, in hex",
        ),
        "webhook_id": header("webhook-id", "Standard Webhooks: the message's id"),
        "webhook_timestamp": header(
            "webhook-timestamp",
            "Standard Webhooks: unix seconds, at most five minutes off",
        ),
        "webhook_signature": header(
            "webhook-signature",
            "Standard Webhooks: `v1,` and the base64 of the HMAC-SHA256, with one of \
             BACKSTOP_CALLBACK_SECRETS, of `id.timestamp.body`",
        ),
    })
}

/// The values of an object; none of anything else.
fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value
        .as_object_mut()
        .into_iter()
        .flatten()
        .map(|(_, it)| it)
}
