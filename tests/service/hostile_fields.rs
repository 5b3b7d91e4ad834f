//! Values that no field should have, and odd ones that it may.

use serde_json::json;
use uuid::Uuid;

use crate::hostile::{KINDS, Target, valid};

#[tokio::test]
async fn a_field_of_the_wrong_type_or_with_a_hostile_value_is_refused() {
    let target = Target::start().await;
    let long = "x".repeat(256);
    let name = json!([
        1,
        -1.5,
        true,
        [],
        {},
        ["x"],
        long,
        "é".repeat(256),
        "a\u{0}b",
        "\u{0}"
    ]);
    let server = json!([
        "../1",
        "1/2",
        "1/../2",
        "042",
        "0",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1\n",
        "1\u{0}",
        "1.0",
        "1e3",
        "0x10",
        "null",
        "\u{ff11}",
        "1%2f2",
        "1?x",
        "1#x",
        "9223372036854775808",
        "99999999999999999999999999",
        0,
        -1,
        1.5,
        1e30,
        u64::MAX,
        true,
        [],
        {},
        ["1"],
        "9".repeat(1000),
    ]);
    let tailscale = json!([
        "../x",
        "..",
        ".",
        "a/b",
        "a\\b",
        "a.b",
        "a b",
        " a",
        "a?b",
        "a#b",
        "a%2fb",
        "é",
        "a\u{0}",
        "a\n",
        "\u{200b}",
        "x".repeat(65),
        "x".repeat(50_000),
        true,
        [],
        {},
        ["x"],
        1.5,
    ]);
    let ip = json!([
        "300.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4/33",
        "1.2.3.4:80",
        "[::1]",
        "::1%eth0",
        "localhost",
        "0x7f.0.0.1",
        "01.2.3.4",
        " 1.2.3.4",
        "1.2.3.4\u{0}",
        ":::",
        1,
        16_909_060,
        true,
        [],
        {},
        "1".repeat(5000),
    ]);
    let positive = json!([
        0,
        -1,
        "0",
        "-1",
        "+1",
        "1.0",
        1.5,
        1.0,
        1e30,
        " 1",
        "1 ",
        "1\u{0}",
        "0x1",
        "1e3",
        "\u{0663}",
        "null",
        "one",
        true,
        [],
        {},
        [1],
        u64::MAX,
        "9223372036854775808",
        "9".repeat(100),
    ]);
    let run_attempt = json!([
        0,
        -1,
        "0",
        2_147_483_648_i64,
        "2147483648",
        i64::MAX,
        1.5,
        true,
        [],
        {},
        "x"
    ]);
    let kind = json!([
        1,
        true,
        [],
        {},
        "Started",
        "started ",
        " progress",
        "nothing",
        "failure\u{0}",
        long
    ]);
    let id = json!([
        1,
        true,
        [],
        {},
        "x",
        target.id.to_string().trim_end_matches(|_| true),
        Uuid::nil(),
        Uuid::new_v4(),
        format!("{} ", target.id),
        format!("{}\u{0}", target.id),
        "x".repeat(50_000),
    ]);
    let ids = ["progress", "success"].as_slice();
    let fields = [
        ("type", &kind, KINDS.as_slice()),
        ("provision_id", &id, &KINDS),
        ("run_id", &positive, &KINDS),
        ("run_attempt", &run_attempt, &KINDS),
        ("agent_id", &name, &["started"]),
        ("region", &name, &["started"]),
        ("step", &name, &["progress"]),
        ("server_id", &server, ids),
        ("tailscale_key_id", &tailscale, ids),
        ("tailscale_node_id", &tailscale, ids),
        ("server_ip", &ip, &["progress"]),
        ("tailscale_ip", &ip, &["progress"]),
    ];
    for (field, values, kinds) in fields {
        for kind in kinds {
            for value in values.as_array().unwrap() {
                let mut body = valid(kind, target.id);
                body[field] = value.clone();
                let answer = target.callback(kind, body.to_string().as_bytes()).await;
                let what = format!("{kind} {field}={value}");
                target.refused(&answer, (422, "invalid_body"), &what).await;
                let detail = answer.body["detail"].as_str().unwrap();
                assert!(
                    detail.contains(field) && detail.len() < 200,
                    "{what:.300}: {detail}"
                );
            }
        }
    }
    let names = [
        ("agent_id", &name),
        ("region", &name),
        ("id", &json!([1, true, [], {}, "x", "../", "\u{0}"])),
    ];
    for (field, values) in names {
        for value in values.as_array().unwrap() {
            let mut body = json!({"agent_id": "web-1"});
            body[field] = value.clone();
            let answer = target
                .service
                .operate("POST", "/v1/provisions", Some(body))
                .await;
            target
                .refused(&answer, (422, "invalid_body"), &format!("{field}={value}"))
                .await;
        }
    }
    for nothing in [
        json!({"agent_id": ""}),
        json!({"agent_id": null}),
        json!({"region": "x"}),
    ] {
        let answer = target
            .service
            .operate("POST", "/v1/provisions", Some(nothing))
            .await;
        target
            .refused(&answer, (422, "invalid_body"), "no agent_id")
            .await;
    }
}

#[tokio::test]
async fn odd_but_harmless_texts_are_kept_as_they_are() {
    let target = Target::start().await;
    for odd in [
        "\u{1}\u{1b}[31m\n\t\u{7f}",
        "\u{202e}\u{feff}\u{1f4a5}",
        "'; drop table steps; --",
        "<script>",
        "x\u{10ffff}",
    ] {
        let body = json!({"agent_id": odd, "region": "é".repeat(255)});
        let answer = target
            .service
            .operate("POST", "/v1/provisions", Some(body))
            .await;
        assert_eq!(
            (answer.status, &answer.body["agent_id"]),
            (201, &json!(odd))
        );
        let mut body = valid("progress", target.id);
        body["step"] = json!(odd);
        assert_eq!(
            target
                .callback("progress", body.to_string().as_bytes())
                .await
                .status,
            200
        );
        assert_eq!(target.service.provision(target.id).await["step"], odd);
    }
    // Of a field that is there twice the last counts.
    let body = valid("progress", target.id).to_string().replacen(
        '{',
        "{\"step\":\"a\",\"run_id\":9,\"step\":\"b\",",
        1,
    );
    assert_eq!(
        target.callback("progress", body.as_bytes()).await.status,
        200
    );
    assert_eq!(target.service.provision(target.id).await["step"], "b");
    assert!(target.service.sim.history().is_empty());
}
