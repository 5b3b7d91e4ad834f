//! The OpenAPI document, and the page that shows it.

use std::collections::BTreeSet;

use backstop::http::openapi::document;
use serde_json::Value;
use uuid::Uuid;

use crate::harness::Service;

/// Every call of the contract.
const CALLS: &[&str] = &[
    "delete /v1/provisions/{id}",
    "get /livez",
    "get /metrics",
    "get /openapi.json",
    "get /readyz",
    "get /v1/orphans",
    "get /v1/provisions",
    "get /v1/provisions/{id}",
    "get /v1/provisions/{id}/events",
    "get /v1/stream",
    "post /v1/github/webhook",
    "post /v1/provisions",
    "post /v1/provisions/{id}/callbacks/failure",
    "post /v1/provisions/{id}/callbacks/progress",
    "post /v1/provisions/{id}/callbacks/started",
    "post /v1/provisions/{id}/callbacks/success",
    "post /v1/provisions/{id}/rollback",
];

fn parsed() -> Value {
    serde_json::from_str(document()).unwrap()
}

/// Each operation with its method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            all.push((format!("{method} {path}"), operation));
        }
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

/// What a reference points to.
fn followed<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect(reference),
        None => value,
    }
}

#[test]
fn the_document_has_every_call_of_the_contract_and_no_other() {
    let document = parsed();
    assert_eq!(document["openapi"], "3.1.0");
    let calls: Vec<String> = operations(&document)
        .into_iter()
        .map(|(call, _)| call)
        .collect();
    assert_eq!(calls, CALLS);
}

/// What is described is served because both are one; this is the other way round.
#[test]
fn no_call_is_served_beside_the_document_but_these() {
    let source = include_str!("../../src/http/mod.rs");
    let beside: Vec<&str> = source
        .split(".route(")
        .skip(1)
        .filter_map(|rest| rest.split('"').nth(1))
        .collect();
    assert_eq!(
        beside,
        [
            // Answers 404, to whoever proves who it is.
            "/v1/provisions/{id}/callbacks/{kind}",
            "/docs",
            "/docs/",
            "/docs/{file}",
        ]
    );
}

#[tokio::test]
async fn every_call_of_the_document_is_there_and_refuses_who_may_not_call() {
    let service = Service::start().await;
    let document = parsed();
    for (call, operation) in operations(&document) {
        let (method, path) = call.split_once(' ').unwrap();
        let path = path.replace("{id}", &Uuid::new_v4().to_string());
        let answer = service
            .send(service.request(&method.to_uppercase(), &path))
            .await;
        let open = operation["security"] == serde_json::json!([]);
        assert_eq!(answer.status, if open { 200 } else { 401 }, "{call}");
        assert!(!operation["responses"][answer.status.to_string()].is_null());
    }
}

#[test]
fn every_operation_says_what_it_does_and_shows_what_it_takes_and_answers() {
    let document = parsed();
    let mut ids = BTreeSet::new();
    for (call, operation) in operations(&document) {
        assert!(operation["summary"].is_string(), "{call}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()));
        let body = &operation["requestBody"]["content"]["application/json"];
        if !body.is_null() {
            check_example(&document, &call, body);
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = followed(&document, response);
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|it| !it.is_empty())
            );
            assert!(
                !response["headers"]["x-request-id"].is_null(),
                "{call} {status}"
            );
            let content = response.get("content").map(|it| it.as_object().unwrap());
            assert_eq!(content.is_some(), status != "304", "{call} {status}");
            for (kind, media) in content.into_iter().flatten() {
                if kind == "application/problem+json" {
                    let examples = media["examples"].as_object().unwrap();
                    for (code, example) in examples {
                        assert_eq!(example["value"]["code"], **code);
                        assert_eq!(example["value"]["status"].to_string(), *status);
                    }
                } else {
                    check_example(&document, &format!("{call} {status}"), media);
                }
            }
        }
    }
}

/// The example has whatever its schema requires, and nothing that it does not have.
fn check_example(document: &Value, place: &str, media: &Value) {
    let schema = followed(document, &media["schema"]);
    let example = &media["example"];
    assert!(!example.is_null(), "{place} has no example");
    let Some(fields) = schema["properties"].as_object() else {
        return;
    };
    for field in schema["required"].as_array().into_iter().flatten() {
        let field = field.as_str().unwrap();
        assert!(example.get(field).is_some(), "{place}: no {field}");
    }
    for field in example.as_object().unwrap().keys() {
        assert!(fields.contains_key(field), "{place}: {field}");
    }
}

#[test]
fn every_schema_that_is_named_is_there() {
    let text = document();
    let document = parsed();
    let references = text.split("\"$ref\": \"").skip(1);
    for reference in references.map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_page_comes_whole_from_the_service_and_takes_nothing_from_elsewhere() {
    let service = Service::start().await;
    let page = service.send(service.request("GET", "/docs")).await;
    assert_eq!(page.status, 200);
    assert!(
        page.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    let html = page.body.as_str().unwrap();
    assert!(!html.contains("://"), "{html}");
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for link in html.split(attribute).skip(1) {
            let link = link.split('"').next().unwrap().trim_start_matches("./");
            let file = service
                .send(service.request("GET", &format!("/docs/{link}")))
                .await;
            assert_eq!(file.status, 200, "{link}");
            files += 1;
        }
    }
    assert!(files >= 4);
    let settings = service
        .send(service.request("GET", "/docs/swagger-initializer.js"))
        .await;
    assert!(settings.body.as_str().unwrap().contains("/openapi.json"));
    let none = service.send(service.request("GET", "/docs/none.js")).await;
    assert_eq!((none.status, none.code()), (404, "not_found"));
}
