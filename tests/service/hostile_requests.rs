//! Paths, queries, headers and transfer codings that nobody should send.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::json;
use standardwebhooks::Webhook;

use crate::harness::{OPERATOR, READER, SECRET, sign};
use crate::hostile::{Target, recorded, valid};
use crate::support::{exchange, proof_lines, raw};

#[tokio::test]
async fn a_path_that_names_no_provision_is_refused_whatever_its_spelling() {
    let target = Target::start().await;
    let (id, long) = (target.id, "a".repeat(12_000));
    let body = valid("started", id).to_string();
    let bearer = format!("authorization: Bearer {OPERATOR}");
    let bad_ids = [
        "no-uuid",
        "0",
        "..%2f",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "%00",
        "%0d%0a",
        "%ff",
        "%c0%af",
        "%",
        "%zz",
        "%u0041",
        "*",
        "'",
        "{id}",
        "%7Bid%7D",
        &long,
        &format!("{id}%00"),
        &format!("{id}%2f"),
        &format!("{id}%20"),
        &format!("%20{id}"),
        &format!("{id}%2fevents"),
        &id.to_string()[1..],
        &format!("{id}0"),
        &format!("{id};x"),
    ];
    for bad in bad_ids {
        for (head, proof, body) in [
            (
                format!("POST /v1/provisions/{bad}/callbacks/started"),
                proof_lines(&body),
                body.as_str(),
            ),
            (format!("GET /v1/provisions/{bad}"), bearer.clone(), ""),
            (
                format!("GET /v1/provisions/{bad}/events"),
                bearer.clone(),
                "",
            ),
            (format!("DELETE /v1/provisions/{bad}"), bearer.clone(), ""),
            (
                format!("POST /v1/provisions/{bad}/rollback"),
                bearer.clone(),
                "",
            ),
        ] {
            let (status, answer) = raw(
                &target.service,
                &format!("{head} HTTP/1.1\r\n{proof}"),
                body.as_bytes(),
            )
            .await;
            assert_eq!(
                (status, &answer["code"]),
                (400, &json!("invalid_parameter")),
                "{head:.300}: {answer}"
            );
        }
    }
    for nowhere in [
        format!("POST /v1/provisions/{id}/callbacks/nothing"),
        format!("POST /v1/provisions/{id}/callbacks/STARTED"),
        format!("POST /v1/provisions/{id}/callbacks/started%00"),
        format!("POST /v1/provisions/{id}/callbacks/..%2fstarted"),
        format!("POST /v1/provisions/{id}/callbacks/started/"),
        format!("POST /v1/provisions/{id}/callbacks/{long}"),
        format!("POST /v1/provisions/{id}/callbacks/"),
        format!("POST /v1/provisions/../provisions/{id}/callbacks/started"),
        format!("POST //v1/provisions/{id}/callbacks/started"),
        format!("POST /V1/provisions/{id}/callbacks/started"),
        format!("GET /v1/provisions/../provisions/{id}"),
        format!("DELETE /v1/provisions/x/../{id}"),
        format!("GET /v1/provisions/{id}/../../../etc/passwd"),
    ] {
        let proof = if nowhere.starts_with("POST") {
            proof_lines(&body)
        } else {
            bearer.clone()
        };
        let (status, answer) = raw(
            &target.service,
            &format!("{nowhere} HTTP/1.1\r\n{proof}"),
            body.as_bytes(),
        )
        .await;
        assert_eq!(
            (status, &answer["code"]),
            (404, &json!("not_found")),
            "{nowhere:.300}: {answer}"
        );
    }
    assert_eq!(recorded(&target.service).await, target.before);
    assert!(target.service.sim.history().is_empty());
}

#[tokio::test]
async fn extreme_webhook_headers_prove_nothing() {
    let target = Target::start().await;
    let body = valid("started", target.id).to_string();
    let (now, _) = sign(SECRET, "msg_1", &body);
    let webhook = Webhook::new(SECRET).unwrap();
    let right = webhook.sign("msg_1", now, body.as_bytes()).unwrap();
    let sent = async |name: &str, value: &[u8], signature: &str| {
        let mut request = target.signed("started", body.as_bytes()).build().unwrap();
        let headers = request.headers_mut();
        headers.insert("webhook-timestamp", now.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        let given = reqwest::header::HeaderValue::from_bytes(value).unwrap();
        let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
        let what = format!("{name}: {given:?}");
        headers.insert(name, given);
        let client = backstop::providers::loopback_client().unwrap();
        let answer = target
            .service
            .send(reqwest::RequestBuilder::from_parts(client, request))
            .await;
        target
            .refused(&answer, (401, "unauthenticated"), &what)
            .await;
    };
    for at in [
        i64::MIN,
        i64::MIN + 1,
        -1,
        0,
        1,
        now - 301,
        now + 3600,
        now * 1000,
        i64::MAX - 1,
        i64::MAX,
    ] {
        // Signed for just that time.
        if let Ok(signature) = webhook.sign("msg_1", at, body.as_bytes()) {
            sent("webhook-timestamp", at.to_string().as_bytes(), &signature).await;
        }
        sent("webhook-timestamp", at.to_string().as_bytes(), &right).await;
    }
    for at in [
        String::new(),
        format!("+{now}"),
        format!("-{now}"),
        format!("{now}.0"),
        format!("{now}e0"),
        format!("0x{now:x}"),
        format!("{now} {now}"),
        format!("{now},"),
        "9223372036854775808".into(),
        "9".repeat(4000),
        "NaN".into(),
        "2026-01-01T00:00:00Z".into(),
    ] {
        sent("webhook-timestamp", at.as_bytes(), &right).await;
    }
    for (name, value) in [
        ("webhook-timestamp", b"\xff\xfe".to_vec()),
        ("webhook-id", Vec::new()),
        ("webhook-id", b"\xff".to_vec()),
        ("webhook-id", b"x".repeat(4000)),
        ("webhook-signature", b"\xff".to_vec()),
        ("webhook-signature", b"v1,".repeat(4000)),
        ("webhook-signature", b"v1,AAAA ".repeat(1000)),
        ("webhook-signature", b",,,, , v1 v1, v1,%%% =".to_vec()),
        (
            "webhook-signature",
            right.replace("v1,", "v1a,").into_bytes(),
        ),
        (
            "webhook-signature",
            right.replace("v1,", "v1,,").into_bytes(),
        ),
    ] {
        sent(name, &value, &right).await;
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_meant_is_refused() {
    let target = Target::start().await;
    let id = target.id;
    let cursor = |text: &str| format!("cursor={}", BASE64.encode(text));
    let mut queries: Vec<String> = [
        "0",
        "201",
        "-1",
        "1.5",
        "abc",
        "4294967297",
        "99999999999999999999",
        "1e2",
        "%00",
        "%201",
        "1%20",
        "50;",
        "٣",
    ]
    .map(|limit| format!("limit={limit}"))
    .into();
    queries.extend(
        [
            "Queued",
            "nothing",
            "queued,failed",
            "%00",
            "queued%20",
            "null",
        ]
        .map(|s| format!("status={s}")),
    );
    queries.extend(["DONE", "none", "%00", "due", "pending,done"].map(|s| format!("rollback={s}")));
    queries.extend(
        [
            "status=queued&status=failed",
            "limit=1&limit=1",
            "agent_id=a&agent_id=b",
            "agent_id=a%00b",
        ]
        .map(Into::into),
    );
    queries.extend(
        [
            "x",
            "1",
            "%00",
            "%ff",
            "....",
            "MQ",
            "MQ==",
            "%2e%2e%2f",
            "a%20b",
        ]
        .map(|c| format!("cursor={c}")),
    );
    queries.push(format!("cursor={}", "A".repeat(12_000)));
    queries.push(format!("cursor={}", BASE64.encode(b"\xff\xfe.\xff")));
    queries.extend([
        cursor("1.2"),
        cursor(&format!("x.{id}")),
        cursor(&format!("-1.{id}")),
        cursor(&format!(".{id}")),
        cursor(&format!("{}.{id}", i64::MAX)),
        cursor(&format!("{}.{id}", u64::MAX)),
        cursor(&format!("1.5.{id}")),
        cursor(&format!("1.{id}.{id}")),
        cursor(&format!("1 .{id}")),
        cursor("1."),
        cursor(&format!("1.{id}\0")),
        cursor(&format!("1.{id}' or '1'='1")),
    ]);
    for query in queries {
        let answer = target.service.get(&format!("/v1/provisions?{query}")).await;
        target
            .refused(&answer, (400, "invalid_parameter"), &query)
            .await;
    }
    // What means nothing is ignored, and what cannot be found is not there.
    for (query, found) in [
        ("%", 1),
        ("&&==&=%zz", 1),
        ("limit[]=1&nothing=%ff", 1),
        ("agent_id=%ff", 0),
        ("agent_id='%20or%20''='", 0),
        (cursor(&format!("0.{id}")).as_str(), 0),
        (cursor(&format!("8000000000000000000.{id}")).as_str(), 1),
    ] {
        let head = format!("GET /v1/provisions?{query} HTTP/1.1\r\nauthorization: Bearer {READER}");
        let (status, body) = raw(&target.service, &head, b"").await;
        assert_eq!(status, 200, "{query}");
        assert_eq!(
            body["provisions"].as_array().unwrap().len(),
            found,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_chunked_body_without_a_length_is_cut_off_at_64_kib() {
    let target = Target::start().await;
    let body = valid("progress", target.id).to_string();
    let lines = proof_lines(&body);
    let head = format!(
        "POST /v1/provisions/{}/callbacks/progress HTTP/1.1\r\n{lines}",
        target.id
    );
    let (status, _) = raw(&target.service, &head, body.as_bytes()).await;
    assert_eq!(status, 200);
    let chunk = format!("{:x}\r\n{}\r\n", 1024, " ".repeat(1024));
    let chunked = format!("{}0\r\n\r\n", chunk.repeat(65));
    for (path, proof) in [
        (
            format!("/v1/provisions/{}/callbacks/progress", target.id),
            lines,
        ),
        (
            "/v1/provisions".to_owned(),
            format!("authorization: Bearer {OPERATOR}"),
        ),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{proof}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let (status, answer) =
            exchange(&target.service, format!("{head}{chunked}").as_bytes()).await;
        assert_eq!(
            (status, &answer["code"]),
            (413, &json!("body_too_large")),
            "{path}"
        );
    }
}
