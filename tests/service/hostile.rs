//! What nobody should send. Each gets a problem with a stable code; nothing is recorded, nothing
//! is asked of a vendor, and nothing breaks.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, OPERATOR, Run, SECRET, Service, callback_body, sign};

const RUN: Run = Run(100, 1);
pub const KINDS: [&str; 4] = ["started", "progress", "success", "failure"];
const KIB64: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;

/// A service with one live provision, and whether anything there changed.
pub struct Target {
    pub service: Service,
    pub id: Uuid,
    pub before: String,
}

impl Target {
    pub async fn start() -> Self {
        let service = Service::start().await;
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        let before = recorded(&service).await;
        service.sim.clear_history();
        Self {
            service,
            id,
            before,
        }
    }

    /// Sends a body with a valid signature.
    pub async fn callback(&self, kind: &str, body: &[u8]) -> Answer {
        self.service.send(self.signed(kind, body)).await
    }

    pub fn signed(&self, kind: &str, body: &[u8]) -> reqwest::RequestBuilder {
        let (at, _) = sign(SECRET, "msg_1", "");
        let secret = STANDARD
            .decode(SECRET.trim_start_matches("whsec_"))
            .unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let tag = hmac::sign(&key, &[format!("msg_1.{at}.").as_bytes(), body].concat());
        let signature = format!("v1,{}", STANDARD.encode(tag));
        self.service
            .request(
                "POST",
                &format!("/v1/provisions/{}/callbacks/{kind}", self.id),
            )
            .header("content-type", "application/json")
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .body(body.to_vec())
    }

    pub async fn refused(&self, answer: &Answer, expected: (u16, &str), what: &str) {
        assert_eq!(
            (answer.status, answer.code()),
            expected,
            "{what:.300}: {answer:?}"
        );
        assert_eq!(recorded(&self.service).await, self.before, "{what:.300}");
        assert!(self.service.sim.history().is_empty(), "{what:.300}");
    }
}

/// Changes with anything that is written.
pub async fn recorded(service: &Service) -> String {
    sqlx::query_scalar(
        "select concat_ws(' ', (select count(*) from provisions), (select sum(version) from provisions),
                          (select count(*) from attempts), (select count(*) from events),
                          (select count(*) from steps))",
    )
    .fetch_one(&service.pool)
    .await
    .unwrap()
}

/// A callback that would be accepted.
pub fn valid(kind: &str, id: Uuid) -> Value {
    let more = json!({"server_id": "7", "server_ip": "192.0.2.1", "tailscale_ip": "100.64.0.1"});
    callback_body(kind, id, RUN, more)
}

/// Bodies that no call takes, with the status that says so.
fn bad_bodies(valid: &str) -> Vec<(Vec<u8>, u16)> {
    let (begin, end) = (valid.trim_end_matches('}'), "}");
    let inside = |more: &str| format!("{begin},{more}{end}").into_bytes();
    vec![
        (b"".to_vec(), 400),
        (b" \n".to_vec(), 400),
        (b"{".to_vec(), 400),
        (begin.into(), 400),
        (format!("{valid}x").into(), 400),
        (format!("{valid}{valid}").into(), 400),
        (format!("\u{feff}{valid}").into(), 400),
        (valid.replace('"', "'").into(), 400),
        (inside("\"x\":NaN"), 400),
        (inside("\"x\":01"), 400),
        (inside("\"x\":\"a\nb\""), 400),
        (inside("\"x\":\"\0\""), 400),
        (inside(""), 400),
        (b"[".repeat(KIB64), 400),
        (valid.bytes().flat_map(|byte| [byte, 0]).collect(), 400),
        (b"null".to_vec(), 422),
        (b"[]".to_vec(), 422),
        (format!("[{valid}]").into(), 422),
        (json!(valid).to_string().into(), 422),
        (b"1".to_vec(), 422),
        (b"true".to_vec(), 422),
        (b"{}".to_vec(), 422),
    ]
}

/// Bodies that are too large for a call that takes `limit` bytes.
fn large_bodies(valid: &str, limit: usize) -> [Vec<u8>; 2] {
    [
        b" ".repeat(limit + 1),
        [valid.as_bytes(), &b" ".repeat(limit + 1 - valid.len())].concat(),
    ]
}

/// Bodies with something odd in a field that nobody asks for.
pub fn odd_bodies(valid: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (valid.trim_end_matches('}'), "}");
    let inside = |more: &str| format!("{begin},{more}{end}").into_bytes();
    let nested = |open: &str, close: &str| {
        let (open, close) = (open.repeat(10_000), close.repeat(10_000));
        inside(&format!("\"x\":{open}1{close}"))
    };
    vec![
        inside("\"x\":1e999"),
        inside("\"x\":\"\\ud800\""),
        inside("\"x\":\"\\udc00\\ud800\""),
        inside("\"\\ud800\":1"),
        nested("[", "]"),
        nested("{\"x\":", "}"),
        [b"{\"x\":\"\xff\xfe\",", &valid.as_bytes()[1..]].concat(),
        [b"{\"\xc0\x80\":1,", &valid.as_bytes()[1..]].concat(),
    ]
}

fn code(status: u16) -> &'static str {
    match status {
        413 => "body_too_large",
        415 => "unsupported_media_type",
        _ => "invalid_body",
    }
}

#[tokio::test]
async fn a_body_that_is_not_a_json_object_or_too_large_is_refused() {
    let target = Target::start().await;
    for kind in KINDS {
        for (body, status) in bad_bodies(&valid(kind, target.id).to_string()) {
            let answer = target.callback(kind, &body).await;
            let what = format!("{kind} {}", String::from_utf8_lossy(&body));
            target.refused(&answer, (status, code(status)), &what).await;
        }
        let limit = if kind == "failure" { MIB } else { KIB64 };
        for body in large_bodies(&valid(kind, target.id).to_string(), limit) {
            let answer = target.callback(kind, &body).await;
            target.refused(&answer, (413, code(413)), kind).await;
        }
    }
    let agent = json!({"agent_id": "web-1"}).to_string();
    let not_text = [b"{\"x\":\"\xff\xfe\",", &agent.as_bytes()[1..]].concat();
    let large = large_bodies(&agent, KIB64).map(|body| (body, 413));
    for (body, status) in bad_bodies(&agent)
        .into_iter()
        .chain(large)
        .chain([(not_text, 400)])
    {
        let what = String::from_utf8_lossy(&body).into_owned();
        let request = target
            .service
            .request("POST", "/v1/provisions")
            .bearer_auth(OPERATOR);
        let request = request
            .header("content-type", "application/json")
            .body(body);
        let answer = target.service.send(request).await;
        target.refused(&answer, (status, code(status)), &what).await;
    }
}

#[tokio::test]
async fn a_body_of_exactly_64_kib_is_taken_whole() {
    let target = Target::start().await;
    let body = valid("progress", target.id).to_string();
    let padded = format!("{body}{}", " ".repeat(KIB64 - body.len()));
    assert_eq!(
        target.callback("progress", padded.as_bytes()).await.status,
        200
    );
    let mut body = valid("failure", target.id);
    body["error"] = json!("");
    let room = KIB64 - body.to_string().len();
    let error = "\u{1}\u{7f}\u{202e}é\u{1f4a5}".repeat(room / 20);
    body["error"] = json!(error);
    let body = body.to_string();
    assert!(body.len() <= KIB64);
    assert_eq!(
        target.callback("failure", body.as_bytes()).await.status,
        202
    );
    assert_eq!(target.service.provision(target.id).await["error"], error);
}

#[tokio::test]
async fn a_body_that_does_not_say_json_is_refused() {
    let target = Target::start().await;
    let types: [&[u8]; 11] = [
        b"",
        b"text/plain",
        b"text/json",
        b"application/x-www-form-urlencoded",
        b"application/jsonp",
        b"application/json/x",
        b"application/problem+json",
        b"text/html; application/json",
        b"application",
        b"application/json\xff",
        b"\"application/json\"",
    ];
    for given in types.into_iter().map(Some).chain([None]) {
        let what = format!("{:?}", given.map(String::from_utf8_lossy));
        let body = valid("progress", target.id).to_string();
        for (mut request, body) in [
            (target.signed("progress", body.as_bytes()), body),
            (
                target
                    .service
                    .request("POST", "/v1/provisions")
                    .bearer_auth(OPERATOR),
                json!({"agent_id": "x"}).to_string(),
            ),
        ] {
            request = request.body(body);
            let mut request = request.build().unwrap();
            request.headers_mut().remove("content-type");
            if let Some(given) = given {
                let given = reqwest::header::HeaderValue::from_bytes(given).unwrap();
                request.headers_mut().insert("content-type", given);
            }
            let client = backstop::providers::loopback_client().unwrap();
            let request = reqwest::RequestBuilder::from_parts(client, request);
            let answer = target.service.send(request).await;
            target
                .refused(&answer, (415, "unsupported_media_type"), &what)
                .await;
        }
    }
}
