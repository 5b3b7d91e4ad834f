//! Whoever fails too often to prove who he is has to wait, and nobody else has.

use std::net::IpAddr;
use std::time::Duration;

use backstop::http::failures::Rate;
use backstop::http::tokens::Tokens;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    Answer, OPERATOR, Options, READER, Run, Service, WEBHOOK_SECRET, callback_body,
};

const RUN: Run = Run(100, 1);
const BURST: u32 = 5;

/// With no time in which anything comes back.
async fn strict(proxies: &str) -> Service {
    Service::start_changed(Options::default(), |config| {
        config.failures = Rate {
            burst: BURST,
            every: Duration::from_secs(3600),
        };
        if !proxies.is_empty() {
            config.limits.proxies = proxies.parse().unwrap();
        }
    })
    .await
}

/// A client at this address of the loopback's many.
#[expect(
    clippy::disallowed_methods,
    reason = "the service's clients have no address of their own"
)]
fn at(address: &str) -> Client {
    let address: IpAddr = address.parse().unwrap();
    let client = Client::builder().local_address(address).no_proxy();
    client.redirect(Policy::none()).build().unwrap()
}

/// Sent from there.
async fn from(service: &Service, address: &str, request: RequestBuilder) -> Answer {
    let request = request.build().unwrap();
    let client = at(address);
    service
        .send(RequestBuilder::from_parts(client, request))
        .await
}

async fn list(service: &Service, address: &str, token: &str) -> u16 {
    let request = service.request("GET", "/v1/provisions").bearer_auth(token);
    from(service, address, request).await.status
}

fn sign_in(service: &Service, token: &str) -> RequestBuilder {
    service
        .request("POST", "/sign-in")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(format!("token={token}"))
}

/// A page's status, and what its header of this name says.
async fn page(address: &str, request: RequestBuilder, header: &str) -> (u16, String) {
    let answer = at(address).execute(request.build().unwrap()).await.unwrap();
    let header = answer.headers().get(header);
    let header = header.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
    (answer.status().as_u16(), header)
}

fn cookie(set: &str) -> String {
    set.split(';').next().unwrap().to_owned()
}

async fn started(service: &Service, address: &str) -> Answer {
    let id = Uuid::new_v4();
    let body = callback_body("started", id, RUN, json!({})).to_string();
    from(service, address, service.signed("started", id, &body)).await
}

fn is_too_many(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (429, "rate_limited"));
    is_an_hour(answer.headers["retry-after"].to_str().unwrap());
}

/// But for what has passed since.
fn is_an_hour(retry_after: &str) {
    let seconds: u64 = retry_after.parse().unwrap();
    assert!((3400..=3600).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn guesses_of_a_token_are_counted_by_address_and_over_the_rate_not_looked_at() {
    let service = strict("").await;
    let (status, set) = page("127.0.0.2", sign_in(&service, OPERATOR), "set-cookie").await;
    assert_eq!(status, 303);
    let session = cookie(&set);
    // By whatever way.
    for token in ["wrong", "WRONG", "reader-toke"] {
        assert_eq!(list(&service, "127.0.0.2", token).await, 401);
    }
    let wrong = page("127.0.0.2", sign_in(&service, "wrong"), "retry-after").await;
    assert_eq!(wrong, (403, String::new()));
    let overview = |cookie: &str| service.request("GET", "/").header("cookie", cookie);
    let forged = overview("backstop=1.operator.99999999999.x");
    assert_eq!(page("127.0.0.2", forged, "location").await.0, 303);

    let request = service
        .request("GET", "/v1/provisions")
        .bearer_auth("wrong");
    is_too_many(&from(&service, "127.0.0.2", request).await);
    // Or somebody who guesses would see by the answer which was right.
    for token in [READER, OPERATOR] {
        assert_eq!(list(&service, "127.0.0.2", token).await, 429);
        let (status, wait) = page("127.0.0.2", sign_in(&service, token), "retry-after").await;
        assert_eq!(status, 429);
        is_an_hour(&wait);
    }
    let (status, wait) = page("127.0.0.2", overview(&session), "retry-after").await;
    assert_eq!(status, 429);
    is_an_hour(&wait);

    // What needs no token of ours goes on there, and everything does elsewhere.
    for open in ["/livez", "/readyz", "/openapi.json"] {
        let answer = from(&service, "127.0.0.2", service.request("GET", open)).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(started(&service, "127.0.0.2").await.status, 200);
    assert_eq!(list(&service, "127.0.0.3", READER).await, 200);
    assert_eq!(page("127.0.0.3", overview(&session), "").await.0, 200);
    assert_eq!(list(&service, "127.0.0.3", "wrong").await, 401);
    let Value::String(metrics) = service.get("/metrics").await.body else {
        panic!("no text")
    };
    assert!(metrics.contains("backstop_http_refused_total{reason=\"guesses\"} 6"));
    assert!(metrics.contains("backstop_http_refused_total{reason=\"unproven\"} 0"));
}

#[tokio::test]
async fn who_has_a_proof_is_heard_whatever_else_came_from_its_address() {
    let service = strict("").await;
    let id = Uuid::new_v4();
    let body = callback_body("started", id, RUN, json!({})).to_string();
    let stranger = "whsec_c29tZWJvZHktZWxzZXMtc2VjcmV0LXNlY3JldA==";
    let forged = || service.signed_by(stranger, "started", id, &body);
    for _ in 0..BURST {
        let answer = from(&service, "127.0.0.2", forged()).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated"));
    }
    let webhook = |signature: &str| {
        service
            .request("POST", "/v1/github/webhook")
            .header("content-type", "application/json")
            .header("x-github-event", "ping")
            .header("x-github-delivery", Uuid::new_v4().to_string())
            .header("x-hub-signature-256", signature)
            .body("{}")
    };
    for unproven in [
        forged(),
        service.request("POST", &format!("/v1/provisions/{id}/callbacks/started")),
        service.request("POST", "/v1/github/webhook"),
        webhook("sha256=00"),
        service.request("GET", "/v1/provisions"),
        service.request("DELETE", &format!("/v1/provisions/{id}")),
    ] {
        is_too_many(&from(&service, "127.0.0.2", unproven).await);
    }
    // Runners share addresses with strangers.
    assert_eq!(started(&service, "127.0.0.2").await.status, 200);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, WEBHOOK_SECRET.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, b"{}");
    let hex: Vec<String> = tag.as_ref().iter().map(|it| format!("{it:02x}")).collect();
    let answer = from(
        &service,
        "127.0.0.2",
        webhook(&format!("sha256={}", hex.concat())),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Nobody who needs no secret to fail keeps out somebody who has one.
    assert_eq!(list(&service, "127.0.0.2", READER).await, 200);
    assert_eq!(list(&service, "127.0.0.2", "wrong").await, 401);
}

#[tokio::test]
async fn a_trusted_proxy_says_whose_failure_it_is_and_nobody_else_does() {
    let service = strict("127.0.0.9").await;
    let through = async |proxy: &str, client: &str| {
        let request = service.request("GET", "/v1/provisions");
        let request = request
            .bearer_auth("wrong")
            .header("x-forwarded-for", client);
        from(&service, proxy, request).await.status
    };
    for n in 0..BURST {
        // What stands before its own word was written by the client.
        let client = format!("203.0.113.{n}, 198.51.100.1");
        assert_eq!(through("127.0.0.9", &client).await, 401);
    }
    assert_eq!(through("127.0.0.9", "198.51.100.1").await, 429);
    assert_eq!(through("127.0.0.9", "198.51.100.2").await, 401);
    assert_eq!(through("127.0.0.2", "198.51.100.1").await, 401);
    for n in 1..BURST {
        assert_eq!(through("127.0.0.2", &format!("203.0.113.{n}")).await, 401);
    }
    assert_eq!(through("127.0.0.2", "203.0.113.200").await, 429);
    let junk = "\u{fe}".repeat(2000);
    assert_eq!(through("127.0.0.9", &junk).await, 401);
}

fn tokens(read: &[&str], operator: &[&str]) -> Tokens {
    let secrets = |of: &[&str]| -> Vec<SecretString> { of.iter().map(|&it| it.into()).collect() };
    Tokens::new(secrets(read), secrets(operator))
}

async fn with(tokens: Tokens) -> Service {
    Service::start_changed(Options::default(), |config| config.tokens = tokens).await
}

#[tokio::test]
async fn a_token_is_replaced_without_a_moment_in_which_neither_counts() {
    let before = with(tokens(&["old-reader"], &["old"])).await;
    let (_, set) = page("127.0.0.1", sign_in(&before, "old"), "set-cookie").await;
    let old = cookie(&set);
    let during = with(tokens(&["new-reader", "old-reader"], &["new", "old"])).await;
    for token in ["old-reader", "new-reader", "old", "new"] {
        assert_eq!(list(&during, "127.0.0.1", token).await, 200);
    }
    let (_, set) = page("127.0.0.1", sign_in(&during, "new"), "set-cookie").await;
    let new = cookie(&set);
    let after = with(tokens(&["new-reader"], &["new"])).await;
    for (service, session, status) in [
        (&before, &old, 200),
        (&before, &new, 303),
        (&during, &old, 200),
        (&during, &new, 200),
        (&after, &old, 303),
        (&after, &new, 200),
    ] {
        let request = service.request("GET", "/").header("cookie", session);
        assert_eq!(page("127.0.0.1", request, "").await.0, status);
    }
}

/// What the last event of this kind says of this.
async fn said(service: &Service, id: Uuid, kind: &str, key: &str) -> Value {
    let request = service.request("GET", &format!("/v1/provisions/{id}/events"));
    let answer = service.send(request.bearer_auth("one")).await;
    let events = answer.body["events"].as_array().unwrap().clone();
    let last = events.iter().rfind(|event| event["kind"] == kind).unwrap();
    last["data"][key].clone()
}

#[tokio::test]
async fn the_history_says_which_token_asked_and_how_a_callback_was_proven() {
    let service = with(tokens(&[], &["one", "two"])).await;
    let mut asked = Vec::new();
    for token in ["one", "two"] {
        let request = service.request("POST", "/v1/provisions").bearer_auth(token);
        let made = service
            .send(request.json(&json!({"agent_id": "web-1"})))
            .await;
        let id: Uuid = made.body["id"].as_str().unwrap().parse().unwrap();
        let created = said(&service, id, "created", "by").await;
        let print = created
            .as_str()
            .unwrap()
            .strip_prefix("operator token ")
            .unwrap();
        assert!(print.len() == 4 && print.bytes().all(|it| it.is_ascii_hexdigit()));

        assert_eq!(
            service.callback("started", id, RUN, json!({})).await.status,
            200
        );
        let proven_by = said(&service, id, "callback.started", "proven_by").await;
        assert_eq!(proven_by, "shared secret");
        let path = format!("/v1/provisions/{id}");
        let request = service.request("DELETE", &path).bearer_auth(token);
        assert_eq!(service.send(request).await.status, 202);
        assert_eq!(said(&service, id, "destroy", "by").await, created);
        // The page's forms, by the session that the same token began.
        let (_, set) = page("127.0.0.1", sign_in(&service, token), "set-cookie").await;
        let retry = service
            .request("POST", &format!("/provisions/{id}/rollback"))
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", cookie(&set));
        assert_eq!(page("127.0.0.1", retry, "").await.0, 303);
        assert_eq!(said(&service, id, "retry", "by").await, created);
        let look = service
            .request("GET", &format!("/provisions/{id}"))
            .header("cookie", cookie(&set));
        let text = at("127.0.0.1")
            .execute(look.build().unwrap())
            .await
            .unwrap();
        let text = text.text().await.unwrap();
        let line = format!("Asked to destroy it, by {}.", created.as_str().unwrap());
        assert!(text.contains(&line), "{text}");
        asked.push(created);
    }
    assert_ne!(asked[0], asked[1]);
}
