//! What browsers and caches rely on: tags of what they have, and which pages may call.

use serde_json::json;

use crate::harness::{Answer, OPERATOR, READER, Run, Service};
use crate::status_api::{create, id_of};

const PAGE: &str = "https://dash.example";

/// With one page of another origin that may call.
async fn with_a_page_elsewhere() -> Service {
    Service::start_changed(crate::harness::Options::default(), |config| {
        config.origins = PAGE.parse().unwrap();
    })
    .await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer
        .headers
        .get(name)
        .map_or("", |it| it.to_str().unwrap())
}

#[tokio::test]
async fn a_record_is_sent_again_only_if_anything_that_it_shows_has_changed() {
    let service = Service::start().await;
    let id = id_of(&create(&service, json!({"agent_id": "web-1"})).await);
    let path = format!("/v1/provisions/{id}");
    let ask = async |tag: &str| {
        let request = service.request("GET", &path).bearer_auth(READER);
        service.send(request.header("if-none-match", tag)).await
    };
    let first = service.get(&path).await;
    let mut tag = header(&first, "etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let same = ask(&tag).await;
    assert_eq!((same.status, header(&same, "etag")), (304, &*tag));
    assert_eq!(same.body, "");

    // Each of these changes something that is shown.
    let run = Run(100, 1);
    let mut changed = async |what: &str| {
        let answer = ask(&tag).await;
        assert_eq!(answer.status, 200, "{what}");
        header(&answer, "etag").clone_into(&mut tag);
    };
    service.started(id, run).await;
    changed("started").await;
    service.callback("progress", id, run, json!({})).await;
    changed("a heartbeat").await;
    service.callback("failure", id, run, json!({})).await;
    changed("failure").await;

    // Who may not see it is not told whether it changed.
    let request = service.request("GET", &path).header("if-none-match", "*");
    assert_eq!(service.send(request).await.status, 401);
}

#[tokio::test]
async fn a_page_of_another_origin_may_call_if_the_setting_says_so() {
    let service = with_a_page_elsewhere().await;
    let preflight = async |origin: &str| {
        let request = service
            .request("OPTIONS", "/v1/provisions")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            );
        service.send(request).await
    };
    let allowed = preflight(PAGE).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(header(&allowed, "access-control-allow-origin"), PAGE);
    assert_eq!(
        header(&allowed, "access-control-allow-methods"),
        "GET,POST,DELETE"
    );
    let headers = header(&allowed, "access-control-allow-headers");
    for name in [
        "authorization",
        "content-type",
        "if-none-match",
        "last-event-id",
    ] {
        assert!(headers.contains(name), "{headers}");
    }
    // The page sends its token itself.
    assert_eq!(header(&allowed, "access-control-allow-credentials"), "");
    let refused = preflight("https://dash.example.evil").await;
    assert_eq!(header(&refused, "access-control-allow-origin"), "");

    // Also a problem can be read, and told apart.
    for (token, status) in [(OPERATOR, 200), ("wrong", 401)] {
        let request = service
            .request("GET", "/v1/provisions")
            .header("origin", PAGE);
        let answer = service.send(request.bearer_auth(token)).await;
        assert_eq!(answer.status, status);
        assert_eq!(header(&answer, "access-control-allow-origin"), PAGE);
        let exposed = header(&answer, "access-control-expose-headers");
        assert!(exposed.contains("x-request-id") && exposed.contains("etag"));
    }
}

#[tokio::test]
async fn without_the_setting_no_page_of_another_origin_may_call() {
    let service = Service::start().await;
    for method in ["GET", "OPTIONS"] {
        let request = service
            .request(method, "/v1/provisions")
            .bearer_auth(READER);
        let answer = service.send(request.header("origin", PAGE)).await;
        assert_eq!(answer.status, if method == "GET" { 200 } else { 405 });
        assert_eq!(header(&answer, "access-control-allow-origin"), "");
    }
}
