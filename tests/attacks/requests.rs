//! Requests that only an attacker would send, and that `tests/service/hostile*.rs` does not: tokens
//! that ask for trust, headers and fields that are there twice, requests within requests, hosts and
//! methods by hearsay.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::KeyPair as _;
use backstop::http::proof::ProofOfCaller;
use backstop::oidc::{Ours, Repository, Verifier, WorkflowFile};
use backstop::providers::Issuer;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::harness::issuer::{AUDIENCE, REPOSITORY, SigningKey, TestIssuer};
use crate::harness::{OPERATOR, Options, READER, Run, SECRET, Service, callback_body, sign};
use crate::liar::Elsewhere;
use crate::tables::{difference, whole};

const RUN: Run = Run(100, 1);

/// A live provision, and whether anything changed.
struct Target {
    service: Service,
    id: Uuid,
    before: Vec<String>,
}

impl Target {
    async fn start() -> Self {
        Self::at(Service::start().await).await
    }

    async fn at(service: Service) -> Self {
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        let before = whole(&service.pool).await;
        Self {
            service,
            id,
            before,
        }
    }

    async fn unchanged(&self, what: &str) {
        let changed = difference(&self.before, &whole(&self.service.pool).await);
        assert!(changed.is_empty(), "{what}: {changed:#?}");
    }

    fn path(&self, kind: &str) -> String {
        format!("/v1/provisions/{}/callbacks/{kind}", self.id)
    }

    fn failure(&self) -> String {
        callback_body("failure", self.id, RUN, json!({})).to_string()
    }

    /// Sends these bytes on a connection of their own; all that is answered until it ends.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.service.app.address())
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Whoever waits for the rest of a body is told so after some seconds.
        tokio::time::timeout(crate::harness::PATIENCE, read)
            .await
            .unwrap()
            .unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The headers of a signed callback as lines of a request's head.
fn proof(body: &str) -> String {
    let (at, signature) = sign(SECRET, "msg_raw", body);
    format!(
        "webhook-id: msg_raw\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n\
         content-type: application/json\r\n"
    )
}

fn statuses(answer: &str) -> Vec<&str> {
    let lines = answer.lines().filter(|line| line.starts_with("HTTP/1.1 "));
    lines.map(|line| &line[9..12]).collect()
}

#[tokio::test]
async fn a_token_that_says_where_its_key_is_or_that_it_needs_none_proves_nothing_and_nothing_is_fetched()
 {
    let (issuer, elsewhere) = (TestIssuer::start().await, Elsewhere::start().await);
    let ours = Ours {
        repository: Repository::Name(REPOSITORY.to_owned()),
        repository_id: None,
        owner_id: None,
        workflow: WorkflowFile {
            file: "provision-agent.yml".to_owned(),
            git_ref: "main".to_owned(),
        },
        called: Vec::new(),
    };
    let at = Issuer::new("BACKSTOP_OIDC_ISSUER", &issuer.url).unwrap();
    let verifier = Verifier::new(at, &[AUDIENCE.to_owned()], ours);
    let service = Service::start_changed(Options::default(), |config| {
        let signatures = ProofOfCaller::by_signature(&[SECRET.into()]).unwrap();
        config.proof = signatures.or_by_token(verifier);
    })
    .await;
    let target = Target::at(service).await;
    let claims = issuer.claims(RUN);
    // The attacker's own key pair, and the issuer's key as everybody can have it.
    let own = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: PublicKeyX509Der<'_> = own.public_key().as_der().unwrap();
    let mine = SigningKey::new("first");
    let public = issuer.key().public();
    let header = |more: Value| {
        let mut header = json!({"alg": "RS256", "typ": "JWT", "kid": "first"});
        header
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        header
    };
    // Signed by the attacker's key, whatever its header says.
    let signed = |header: &Value| {
        let said = [header, &claims].map(|it| BASE64.encode(it.to_string()));
        let message = said.join(".");
        let by = jsonwebtoken::crypto::sign(message.as_bytes(), &mine.private, Algorithm::RS256);
        format!("{message}.{}", by.unwrap())
    };
    let by_public_key = |key: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("first".to_owned());
        encode(&header, &claims, &EncodingKey::from_secret(key)).unwrap()
    };
    let url = format!("{}/keys", elsewhere.url);
    let jwk = json!({"kty": "RSA", "kid": "first", "n": "AQAB", "e": "AQAB"});
    let tokens = [
        (
            "HS256 by the public modulus",
            by_public_key(public["n"].as_str().unwrap().as_bytes()),
        ),
        (
            "HS256 by the public modulus, decoded",
            by_public_key(&BASE64.decode(public["n"].as_str().unwrap()).unwrap()),
        ),
        (
            "HS256 by the public key's JSON",
            by_public_key(public.to_string().as_bytes()),
        ),
        ("HS256 by nothing", by_public_key(b"")),
        ("a key of its own", signed(&header(json!({"jwk": jwk})))),
        ("keys elsewhere, jku", signed(&header(json!({"jku": url})))),
        ("keys elsewhere, x5u", signed(&header(json!({"x5u": url})))),
        (
            "a certificate of its own, x5c",
            signed(&header(
                json!({"x5c": [BASE64_STANDARD.encode(der.as_ref())]}),
            )),
        ),
        (
            "a critical extension",
            signed(&header(json!({"crit": ["b64"], "b64": false}))),
        ),
        (
            "a path for a key's name",
            signed(&header(json!({"kid": "../../../../dev/null"}))),
        ),
        (
            "an address for a key's name",
            signed(&header(json!({"kid": url}))),
        ),
        (
            "a query for a key's name",
            signed(&header(json!({"kid": "first' or '1'='1"}))),
        ),
        (
            "a key's name that is no text",
            signed(&header(json!({"kid": ["first"]}))),
        ),
        ("an empty key's name", signed(&header(json!({"kid": ""})))),
        (
            "a key's name without an end",
            signed(&header(json!({"kid": "k".repeat(8000)}))),
        ),
        ("none, in capitals", signed(&header(json!({"alg": "NONE"})))),
        ("none, in both", signed(&header(json!({"alg": "nOnE"})))),
        ("no algorithm", signed(&header(json!({"alg": null})))),
        (
            "several algorithms",
            signed(&header(json!({"alg": ["none", "RS256"]}))),
        ),
        (
            "encrypted",
            signed(&header(json!({"enc": "A256GCM", "zip": "DEF"}))),
        ),
    ];
    for (what, token) in tokens {
        let request = target
            .service
            .request("POST", &target.path("failure"))
            .header("content-type", "application/json")
            .bearer_auth(token)
            .body(target.failure());
        let answer = target.service.send(request).await;
        // Whether the issuer has a key that was never heard of nobody knows before it may be asked again.
        let right = if what.ends_with("for a key's name") {
            (503, "unavailable")
        } else {
            (401, "unauthenticated")
        };
        assert_eq!((answer.status, answer.code()), right, "{what}");
    }
    target.unchanged("tokens").await;
    assert_eq!(elsewhere.heard(), Vec::<String>::new());
    let known = ["/.well-known/openid-configuration", "/.well-known/jwks"];
    let asked = issuer.asked();
    assert!(
        asked.iter().all(|path| known.contains(&path.as_str())),
        "{asked:?}"
    );
}

#[tokio::test]
async fn of_a_header_that_is_there_twice_no_second_one_lets_anybody_in() {
    let target = Target::start().await;
    let (id, body) = (target.id, target.failure());
    let close = "host: t\r\nconnection: close\r\n";
    let authorized = |tokens: [&str; 2]| {
        let lines = tokens.map(|token| format!("authorization: Bearer {token}\r\n"));
        format!(
            "DELETE /v1/provisions/{id} HTTP/1.1\r\n{close}{}\r\n",
            lines.concat()
        )
    };
    for (tokens, status) in [
        (["wrong", OPERATOR], "401"),
        ([READER, OPERATOR], "403"),
        (["", OPERATOR], "401"),
    ] {
        let answer = target.raw(&authorized(tokens)).await;
        assert_eq!(statuses(&answer), [status], "{tokens:?}");
    }
    let (at, signature) = sign(SECRET, "msg_1", &body);
    let bad = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let (now, old) = (at.to_string(), (at - 4000).to_string());
    for (ids, times, signatures) in [
        (
            ["msg_2", "msg_1"],
            [&now, &now],
            [signature.as_str(), &signature],
        ),
        (["msg_1", "msg_1"], [&old, &now], [&signature, &signature]),
        (["msg_1", "msg_1"], [&now, &now], [bad, &signature]),
    ] {
        let mut head = format!(
            "POST {} HTTP/1.1\r\n{close}content-type: application/json\r\n",
            target.path("failure")
        );
        for at in 0..2 {
            let lines = format!(
                "webhook-id: {}\r\nwebhook-timestamp: {}\r\nwebhook-signature: {}\r\n",
                ids[at], times[at], signatures[at]
            );
            head.push_str(&lines);
        }
        let answer = target
            .raw(&format!(
                "{head}content-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        assert_eq!(statuses(&answer), ["401"], "{ids:?} {times:?}");
    }
    target.unchanged("headers twice").await;
}

#[tokio::test]
async fn of_a_field_that_is_there_twice_the_last_counts_everywhere() {
    let target = Target::start().await;
    let other = Uuid::new_v4();
    target.service.started(other, Run(300, 1)).await;
    let before = whole(&target.service.pool).await;
    let body = target.failure();
    for (what, twice) in [
        (
            "provision_id",
            format!(
                "{},\"provision_id\":\"{other}\"}}",
                body.trim_end_matches('}')
            ),
        ),
        (
            "type",
            format!("{},\"type\":\"started\"}}", body.trim_end_matches('}')),
        ),
        (
            "provision_id, escaped",
            format!(
                "{},\"provision\\u005fid\":\"{other}\"}}",
                body.trim_end_matches('}')
            ),
        ),
    ] {
        let request = target.service.signed("failure", target.id, &twice);
        let answer = target.service.send(request).await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, "invalid_body"),
            "{what}"
        );
    }
    // The last run that is named is the one that speaks, and it owns nothing here.
    let twice = format!("{},\"run_id\":300}}", body.trim_end_matches('}'));
    let answer = target
        .service
        .send(target.service.signed("failure", target.id, &twice))
        .await;
    assert_eq!((answer.status, answer.code()), (409, "unknown_attempt"));
    let changed = difference(&before, &whole(&target.service.pool).await);
    assert!(changed.is_empty(), "{changed:#?}");
}

#[tokio::test]
async fn a_number_that_is_none_of_ours_is_refused_however_it_is_written() {
    let target = Target::start().await;
    for number in [
        "1e400",
        "-1e400",
        "1e-400",
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "100.0",
        "1e2",
        "100.00000000000000000000000001",
        "-0",
        "0x64",
        "1_00",
        "+100",
        "0100",
        "Infinity",
    ] {
        for field in ["run_id", "run_attempt", "server_id"] {
            // An id that cannot be read is no reason to lose a failure; who speaks is.
            let (kind, whole) = match field {
                "server_id" => ("progress", target.failure().replace("failure", "progress")),
                _ => ("failure", target.failure()),
            };
            let body = format!("{},\"{field}\":{number}}}", whole.trim_end_matches('}'));
            let answer = target
                .service
                .send(target.service.signed(kind, target.id, &body))
                .await;
            assert!(
                matches!(answer.status, 400 | 422),
                "{field} {number}: {answer:?}"
            );
        }
    }
    target.unchanged("numbers").await;
}

#[tokio::test]
async fn a_body_in_another_encoding_is_no_body() {
    let target = Target::start().await;
    let body = target.failure();
    let utf7 = body.replace('{', "+AHs-").replace('"', "+ACI-");
    for (charset, body) in [
        ("utf-7", utf7),
        ("utf-8", format!("\u{feff}{body}")),
        ("utf-16", body.chars().flat_map(|c| [c, '\0']).collect()),
        ("shift_jis", body.replace('"', "\u{201d}")),
    ] {
        let request = target.service.signed("failure", target.id, &body).header(
            "content-type",
            format!("application/json; charset={charset}"),
        );
        let answer = target.service.send(request).await;
        // The first of two content types counts.
        assert_eq!(
            (answer.status, answer.code()),
            (400, "invalid_body"),
            "{charset}"
        );
    }
    target.unchanged("encodings").await;
}

#[tokio::test]
async fn a_request_within_a_request_is_none() {
    let target = Target::start().await;
    let (path, body) = (target.path("failure"), target.failure());
    let inner = format!(
        "DELETE /v1/provisions/{} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {OPERATOR}\r\n\r\n",
        target.id
    );
    let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\n{}", proof(&body));
    let (of_body, of_both) = (body.len(), body.len() + inner.len());
    // Each is a request that one reader may take for one, and another for two.
    let shapes = [
        (
            "a length and chunks",
            format!(
                "{head}content-length: {of_both}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "chunks and a length",
            format!(
                "{head}transfer-encoding: chunked\r\ncontent-length: {of_both}\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "two lengths",
            format!("{head}content-length: 0\r\ncontent-length: {of_body}\r\n\r\n{body}"),
        ),
        (
            "a list of lengths",
            format!("{head}content-length: 0, {of_body}\r\n\r\n{body}"),
        ),
        (
            "a length with a sign",
            format!("{head}content-length: +{of_body}\r\n\r\n{body}"),
        ),
        (
            "a negative length",
            format!("{head}content-length: -1\r\n\r\n{body}"),
        ),
        (
            "a length with a space before the colon",
            format!("{head}content-length : {of_body}\r\n\r\n{body}"),
        ),
        (
            "a folded line",
            format!("{head}content-length:\r\n {of_body}\r\n\r\n{body}"),
        ),
        (
            "chunks by another name",
            format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "chunks and identity",
            format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "chunks after a tab",
            format!("{head}transfer-encoding:\u{b}chunked\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "a chunk's length with a sign",
            format!("{head}transfer-encoding: chunked\r\n\r\n-1\r\n{body}\r\n0\r\n\r\n"),
        ),
        (
            "a chunk's length too large",
            format!(
                "{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}\r\n0\r\n\r\n"
            ),
        ),
        (
            "a bare line feed in a header",
            format!(
                "{head}x-odd: a\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n{body}"
            ),
        ),
        (
            "a carriage return in a header",
            format!("{head}x-odd: a\rcontent-length: 0\r\n\r\n{body}"),
        ),
        (
            "a nul in a header",
            format!("{head}x-odd: a\0b\r\ncontent-length: 0\r\n\r\n{body}"),
        ),
        (
            "a body behind a GET",
            format!(
                "GET /livez HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{inner}",
                inner.len()
            ),
        ),
        (
            "an upgrade",
            "GET /livez HTTP/1.1\r\nhost: t\r\nconnection: upgrade, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n".to_owned(),
        ),
        ("HTTP/0.9", "GET /v1/provisions\r\n\r\n".to_owned()),
        (
            "HTTP/2 without having been asked",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ),
        (
            "a proxy's request",
            "CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
                .to_owned(),
        ),
    ];
    for (what, request) in shapes {
        // What is left of it would be answered as well, for the connection stays open.
        let closing = request.replacen("host: t\r\n", "host: t\r\nconnection: close\r\n", 1);
        for request in [&request, &closing] {
            if request.contains("\"type\"") || request.contains("connection: close") {
                let answer = target.raw(request).await;
                let accepted = statuses(&answer)
                    .iter()
                    .any(|it| ["202", "200"].contains(it));
                let harmless = request.starts_with("GET /livez");
                assert!(!accepted || harmless, "{what}: {answer}");
                assert!(statuses(&answer).len() <= 1, "{what}: {answer}");
            }
        }
    }
    target.unchanged("requests within requests").await;
}

#[tokio::test]
async fn what_a_request_says_of_its_method_host_or_address_by_hearsay_has_no_effect() {
    let target = Target::start().await;
    let id = target.id;
    let path = format!("/v1/provisions/{id}");
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-url", "/livez"),
        ("x-rewrite-url", "/livez"),
        ("x-forwarded-uri", "/livez"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=127.0.0.1;host=evil.example;proto=https"),
        ("host", "evil.example"),
        ("x-remote-user", "admin"),
        ("x-forwarded-user", "admin"),
        ("x-client-cert", "admin"),
        ("via", "1.1 evil"),
    ] {
        let known = target
            .service
            .request("GET", &path)
            .bearer_auth(READER)
            .header(name, value);
        assert_eq!(target.service.send(known).await.status, 200, "{name}");
        for (method, path) in [
            ("GET", path.clone()),
            ("DELETE", path.clone()),
            ("POST", format!("{path}/rollback")),
        ] {
            let unknown = target.service.request(method, &path).header(name, value);
            assert_eq!(
                target.service.send(unknown).await.status,
                401,
                "{method} {name}"
            );
        }
        let reader = target
            .service
            .request("POST", &format!("{path}/rollback?_method=DELETE"));
        let reader = reader.bearer_auth(READER).header(name, value);
        assert_eq!(target.service.send(reader).await.status, 403, "{name}");
        let html = target.service.request("GET", "/docs/").header(name, value);
        let page = html.send().await.unwrap().text().await.unwrap();
        assert!(!page.contains("evil.example"), "{name}");
    }
    target.unchanged("hearsay").await;
}
