//! Where anything is sent or pointed to is the settings' matter: what a caller says of hosts has no effect.

use reqwest::RequestBuilder;
use reqwest::redirect::Policy;
use serde_json::json;

use crate::harness::{OPERATOR, Service};

const EVIL: &str = "evil.example";

/// Status, headers and text, without what differs each time.
#[expect(
    clippy::disallowed_methods,
    reason = "the service's clients follow redirects"
)]
async fn read(request: RequestBuilder) -> (u16, Vec<(String, String)>, String) {
    let client = reqwest::Client::builder().redirect(Policy::none());
    let client = client.no_proxy().build().unwrap();
    let answer = client.execute(request.build().unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let headers = answer.headers().iter();
    let headers = headers
        .filter(|(name, _)| !["x-request-id", "date", "set-cookie"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    (status, headers, answer.text().await.unwrap())
}

fn lying(request: RequestBuilder) -> RequestBuilder {
    request
        .header("host", EVIL)
        .header("x-forwarded-host", EVIL)
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-port", "4711")
        .header("x-forwarded-prefix", "/evil")
        .header("forwarded", format!("host={EVIL};proto=https"))
        .header("x-original-url", format!("https://{EVIL}/"))
        .header("x-rewrite-url", "/evil")
}

#[tokio::test]
async fn what_a_caller_says_of_hosts_changes_no_answer() {
    let service = Service::start().await;
    let id = "0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a";
    let asked = json!({"agent_id": "web-1", "id": id});
    let create = || {
        service
            .request("POST", "/v1/provisions")
            .bearer_auth(OPERATOR)
            .json(&asked)
    };
    let (status, headers, text) = read(lying(create())).await;
    assert_eq!(status, 201);
    assert!(headers.contains(&("location".to_owned(), format!("/v1/provisions/{id}"))));
    assert!(!text.contains(EVIL));

    let sign_in = |request: RequestBuilder| {
        request
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={OPERATOR}&next=/provisions"))
    };
    let get = |path: &str| service.request("GET", path);
    let signed_in = service.request("POST", "/sign-in");
    let lies = lying(service.request("POST", "/sign-in"));
    assert_eq!(read(sign_in(signed_in)).await, read(sign_in(lies)).await);
    for path in [
        "/",
        "/provisions",
        "/sign-in",
        "/docs",
        "/docs/",
        "/openapi.json",
        "/livez",
        "/nowhere",
    ] {
        let (truth, lie) = (read(get(path)).await, read(lying(get(path))).await);
        // A problem has the request's id.
        if truth.0 < 400 {
            assert_eq!(truth, lie, "{path}");
        }
        assert_eq!((truth.0, &truth.1), (lie.0, &lie.1), "{path}");
        let lie = format!("{lie:?}");
        assert!(
            !lie.contains(EVIL) && !lie.contains("4711"),
            "{path}: {lie}"
        );
    }
}
