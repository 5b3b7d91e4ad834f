//! Who sends a callback is proven before anything of it is read, and holds for one endpoint.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::callbacks::{everything, with};
use crate::harness::{
    OLDER_SECRET, OPERATOR, READER, Run, SECRET, Service, callback_body, labels, sign,
};

const RUN: Run = Run(100, 1);

#[tokio::test]
async fn whoever_cannot_prove_it_gets_401_before_the_body_is_parsed() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let body = callback_body("started", id, RUN, json!({})).to_string();
    let stranger = "whsec_c29tZWJvZHktZWxzZXMtc2VjcmV0LXNlY3JldA==";
    let (now, valid) = sign(SECRET, "msg_1", &body);
    let webhook = standardwebhooks::Webhook::new(SECRET).unwrap();
    let signed_at = |at: i64| webhook.sign("msg_1", at, body.as_bytes()).unwrap();
    let (at, now_text) = (|by: i64| (now + by).to_string(), now.to_string());
    let by_stranger = sign(stranger, "msg_1", &body).1;
    let cases: Vec<(&str, [Option<String>; 3])> = vec![
        ("no header", [None, None, None]),
        ("no id", [None, Some(now_text.clone()), Some(valid.clone())]),
        (
            "no timestamp",
            [Some("msg_1".into()), None, Some(valid.clone())],
        ),
        (
            "no signature",
            [Some("msg_1".into()), Some(now_text.clone()), None],
        ),
        (
            "another id",
            [
                Some("msg_2".into()),
                Some(now_text.clone()),
                Some(valid.clone()),
            ],
        ),
        (
            "another secret",
            [
                Some("msg_1".into()),
                Some(now_text.clone()),
                Some(by_stranger),
            ],
        ),
        (
            "empty signature",
            [
                Some("msg_1".into()),
                Some(now_text.clone()),
                Some(String::new()),
            ],
        ),
        (
            "no version",
            [
                Some("msg_1".into()),
                Some(now_text.clone()),
                Some(valid[3..].into()),
            ],
        ),
        (
            "another version",
            [
                Some("msg_1".into()),
                Some(now_text.clone()),
                Some(format!("v2,{}", &valid[3..])),
            ],
        ),
        (
            "cut short",
            [
                Some("msg_1".into()),
                Some(now_text.clone()),
                Some(valid[..valid.len() - 4].into()),
            ],
        ),
        (
            "6 minutes old",
            [
                Some("msg_1".into()),
                Some(at(-360)),
                Some(signed_at(now - 360)),
            ],
        ),
        (
            "an hour ahead",
            [
                Some("msg_1".into()),
                Some(at(3600)),
                Some(signed_at(now + 3600)),
            ],
        ),
        (
            "another time",
            [Some("msg_1".into()), Some(at(1)), Some(valid.clone())],
        ),
    ];
    let bodies = [body.as_str(), "{not json", "", "[]", "\u{0}"];
    for (what, headers) in cases {
        for sent in bodies {
            for content_type in ["application/json", "text/plain"] {
                for path in [
                    format!("{id}/callbacks/started"),
                    "no-uuid/callbacks/nothing".into(),
                ] {
                    let mut request = service
                        .request("POST", &format!("/v1/provisions/{path}"))
                        .header("content-type", content_type)
                        .body(sent.to_owned());
                    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
                    for (name, value) in names.into_iter().zip(&headers) {
                        if let Some(value) = value {
                            request = request.header(name, value);
                        }
                    }
                    let answer = service.send(request).await;
                    assert_eq!(
                        (answer.status, answer.code()),
                        (401, "unauthenticated"),
                        "{what} {sent}"
                    );
                }
            }
        }
    }
    // Nor do the tokens of the status API prove it, nor a valid signature of another body.
    for token in [READER, OPERATOR] {
        let request = service.request("POST", &format!("/v1/provisions/{id}/callbacks/started"));
        let answer = service
            .send(request.bearer_auth(token).body(body.clone()))
            .await;
        assert_eq!(answer.status, 401);
    }
    for tampered in [
        body.replace("100", "101"),
        format!("{body} "),
        body[1..].to_owned(),
    ] {
        let answer = service
            .send(service.signed("started", id, &body).body(tampered))
            .await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(
        service.get(&format!("/v1/provisions/{id}")).await.status,
        404
    );

    let (now, valid) = sign(SECRET, "msg_1", &body);
    // Within 5 minutes, by either secret, or as one of several signatures, it counts.
    for (timestamp, signature) in [
        (now - 240, signed_at(now - 240)),
        (now + 240, signed_at(now + 240)),
        (now, sign(OLDER_SECRET, "msg_1", &body).1),
        (now, format!("v1,bm9uc2Vuc2U= v9,x {valid}")),
    ] {
        let request = service
            .request("POST", &format!("/v1/provisions/{id}/callbacks/started"))
            .header("content-type", "application/json; charset=utf-8")
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body.clone());
        assert_eq!(service.send(request).await.status, 200, "{timestamp}");
    }
}

#[tokio::test]
async fn a_signed_body_counts_at_its_own_endpoint_only() {
    let service = Service::start().await;
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let started = service.started(id, RUN).await;
    service.started(other, RUN).await;
    let server = service.sim.add_server("any", labels(&started));
    let see = async || {
        [
            service.provision(id).await,
            service.provision(other).await,
            json!(service.events(id).await),
            json!(service.events(other).await),
        ]
    };
    let before = see().await;
    let kinds = ["started", "progress", "success", "failure"];
    for said in kinds {
        let fields = with(everything(&server.to_string()), json!({"step": "x"}));
        let body = callback_body(said, id, RUN, fields);
        for sent_to in kinds {
            for target in [id, other] {
                if (sent_to, target) != (said, id) {
                    let answer = service
                        .send(service.signed(sent_to, target, &body.to_string()))
                        .await;
                    assert_eq!(
                        (answer.status, answer.code()),
                        (422, "invalid_body"),
                        "{said} to {sent_to}"
                    );
                }
            }
        }
        for missing in ["type", "provision_id", "run_id"] {
            for nothing in [Value::Null, json!("")] {
                let body = with(body.clone(), json!({missing: nothing})).to_string();
                let answer = service.send(service.signed(said, id, &body)).await;
                assert_eq!(
                    (answer.status, answer.code()),
                    (422, "invalid_body"),
                    "{missing}"
                );
            }
        }
    }
    assert_eq!(see().await, before);
    assert_eq!(service.alive().len(), 1);
}
