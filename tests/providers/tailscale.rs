//! Devices, keys, and the hourly token.

use std::sync::Mutex;

use backstop::providers::tailscale::Deletion;
use futures::future::join_all;
use serde_json::json;

use crate::canned::{CLIENT_SECRET, Canned, json_answer, kind, script, serve, text, token_answer};

fn message(status: u16, message: &str) -> Canned {
    json_answer(status, &json!({"message": message}))
}

fn no_devices() -> Canned {
    json_answer(200, &json!({"devices": []}))
}

#[tokio::test]
async fn the_whole_list_of_devices_is_read_as_it_is() {
    let devices = json!({"devices": [
        {"nodeId": "n2CNTRL", "id": "92960230385", "hostname": "agent", "name": "agent-1.tail.ts.net",
         "tags": ["tag:agent"], "addresses": ["100.87.74.78", "fd7a::1"], "isExternal": false,
         "created": "2022-12-01T05:23:30Z", "lastSeen": "2022-12-01T05:23:30Z", "new": {"field": 1}},
        {"nodeId": "n1CNTRL", "isExternal": true, "created": "", "tags": null},
        {"id": "17"},
    ]});
    let vendor = script([json_answer(200, &devices)]).await;
    let found = vendor.tailscale().devices().await.unwrap();
    assert_eq!(vendor.lines(), ["GET /api/v2/tailnet/-/devices"]);
    let [legacy, external, agent] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(
        (legacy.node_id.as_str(), legacy.id.as_deref()),
        ("17", Some("17"))
    );
    assert!(external.is_external && external.tags.is_empty() && external.created.is_none());
    assert_eq!(
        (agent.hostname.as_str(), agent.name.as_str()),
        ("agent", "agent-1.tail.ts.net")
    );
    assert_eq!(
        (agent.tags.as_slice(), agent.addresses.len()),
        (&["tag:agent".to_owned()][..], 2)
    );
    assert!(
        agent.answers_to("n2CNTRL")
            && agent.answers_to("92960230385")
            && !agent.answers_to("agent")
    );
    assert!(agent.created.is_some());
}

#[tokio::test]
async fn lists_of_another_shape_are_not_empty() {
    let bodies = [
        json!({}),
        json!([]),
        json!({"devices": null, "keys": null}),
        json!({"n292kg92CNTRL": {"nodeId": "n292kg92CNTRL"}}),
        json!({"devices": [{"hostname": "agent"}], "keys": [{"description": "agent"}]}),
        json!({"devices": [{"nodeId": "", "id": ""}], "keys": [{}]}),
    ];
    for body in bodies {
        let vendor = serve(move |_| json_answer(200, &body)).await;
        let error = vendor.tailscale().devices().await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable", "{error}");
        let error = vendor.tailscale().keys().await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable", "{error}");
    }
}

#[tokio::test]
async fn a_device_is_absent_only_when_its_vendor_says_so_of_it() {
    let vendor = serve(|_| message(404, "no manageable device matching this ID found")).await;
    let tailscale = vendor.tailscale();
    assert_eq!(tailscale.device("n1").await.unwrap(), None);
    assert_eq!(
        tailscale.delete_device("n1").await.unwrap(),
        Deletion::AlreadyGone
    );
    assert_eq!(tailscale.key("k1").await.unwrap(), None);
    assert_eq!(
        tailscale.delete_key("k1").await.unwrap(),
        Deletion::AlreadyGone
    );
    assert_eq!(
        vendor.lines(),
        [
            "GET /api/v2/device/n1",
            "DELETE /api/v2/device/n1",
            "GET /api/v2/tailnet/-/keys/k1",
            "DELETE /api/v2/tailnet/-/keys/k1",
        ]
    );
    let routes = [
        message(404, "404 page not found"),
        text(404, "404 page not found"),
        text(404, ""),
    ];
    for answer in routes {
        let vendor = serve(move |_| answer.clone()).await;
        let tailscale = vendor.tailscale();
        let errors = [
            tailscale.device("n1").await.unwrap_err(),
            tailscale.delete_device("n1").await.unwrap_err(),
            tailscale.key("k1").await.unwrap_err(),
            tailscale.delete_key("k1").await.unwrap_err(),
            tailscale.devices().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(kind(&error), "Unavailable");
            assert!(error.to_string().contains("TAILSCALE_BASE_URL"), "{error}");
        }
    }
    let other = json!({"nodeId": "n2", "id": "2"});
    let vendor = serve(move |_| json_answer(200, &other)).await;
    for error in [
        vendor.tailscale().device("n1").await.unwrap_err(),
        vendor.tailscale().key("k1").await.unwrap_err(),
    ] {
        assert_eq!(kind(&error), "Unavailable");
    }
}

#[tokio::test]
async fn each_status_of_tailscale_has_its_meaning() {
    let table = [
        (400, "Rejected"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (409, "Locked"),
        (429, "RateLimited"),
        (500, "Unavailable"),
        (501, "Rejected"),
        (502, "Unavailable"),
        (504, "Unavailable"),
    ];
    for (status, expected) in table {
        let vendor = serve(move |_| message(status, "secret words")).await;
        let tailscale = vendor.tailscale();
        let errors = [
            tailscale.delete_device("n1").await.unwrap_err(),
            tailscale.delete_key("k1").await.unwrap_err(),
            tailscale.device("n1").await.unwrap_err(),
            tailscale.devices().await.unwrap_err(),
            tailscale.keys().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(kind(&error), expected, "{error}");
        }
    }
    let vendor = script([text(200, ""), text(200, "null")]).await;
    let tailscale = vendor.tailscale();
    assert_eq!(
        tailscale.delete_device("n1").await.unwrap(),
        Deletion::Deleted
    );
    assert_eq!(tailscale.delete_key("k1").await.unwrap(), Deletion::Deleted);
}

#[tokio::test]
async fn no_id_alters_the_path() {
    let vendor = serve(|_| text(200, "")).await;
    let tailscale = vendor.tailscale();
    let long = "a".repeat(129);
    for id in [
        "",
        ".",
        "..",
        "a/b",
        "../tailnet",
        "a%2Fb",
        "a?b",
        "a#b",
        "a b",
        "ä",
        "a\n",
        &long,
    ] {
        let errors = [
            tailscale.device(id).await.unwrap_err(),
            tailscale.delete_device(id).await.unwrap_err(),
            tailscale.key(id).await.unwrap_err(),
            tailscale.delete_key(id).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(kind(&error), "Rejected", "{id}");
            assert_eq!(error.call().status(), None);
        }
    }
    assert_eq!(vendor.lines(), [""; 0]);
}

#[tokio::test]
async fn keys_tell_what_they_are_and_whether_they_live() {
    let devices = json!({"devices": {"create": {"reusable": false, "tags": ["tag:agent"]}}});
    let listed = json!({"keys": [
        {"id": "k1", "keyType": "auth", "description": "backstop p1", "capabilities": devices,
         "created": "2026-01-30T23:55:00Z", "expires": "2026-01-31T00:55:00Z"},
        {"id": "k2", "keyType": "client", "description": "backstop p1", "scopes": ["all"], "tags": ["tag:ci"]},
        {"id": "k3", "capabilities": devices, "invalid": true, "expires": ""},
        {"id": "k4", "keyType": "auth", "revoked": "2026-01-30T23:55:00Z"},
        {"id": "k5", "keyType": "auth", "revoked": "0001-01-01T00:00:00Z"},
        {"id": "k6"},
    ]});
    let vendor = script([json_answer(200, &listed)]).await;
    let keys = vendor.tailscale().keys().await.unwrap();
    assert_eq!(vendor.lines(), ["GET /api/v2/tailnet/-/keys?all=true"]);
    let told: Vec<_> = keys
        .iter()
        .map(|key| (key.id.as_str(), key.is_auth_key(), key.is_live()))
        .collect();
    let expected = [
        ("k1", true, true),
        ("k2", false, true),
        ("k3", true, false),
        ("k4", true, false),
        ("k5", true, true),
        ("k6", false, true),
    ];
    assert_eq!(told, expected);
    assert_eq!(
        (keys[0].description.as_str(), keys[0].tags.as_slice()),
        ("backstop p1", &["tag:agent".to_owned()][..])
    );
    assert!(keys[0].expires.is_some() && keys[2].expires.is_none());
}

#[tokio::test]
async fn one_oauth_token_serves_many_callers() {
    let vendor = serve(|seen| match seen.line.as_str() {
        "POST /api/v2/oauth/token" => token_answer("minted", 3600),
        _ => no_devices(),
    })
    .await;
    let tailscale = vendor.tailscale_by_oauth();
    for result in join_all((0..10).map(|_| tailscale.devices())).await {
        assert_eq!(result.unwrap(), []);
    }
    let lines = vendor.lines();
    assert_eq!(lines.len(), 11);
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("POST")).count(),
        1
    );
    let seen = vendor.seen.lock().unwrap();
    assert_eq!(seen[0].authorization, None);
    let form =
        format!("client_id=client&client_secret={CLIENT_SECRET}&grant_type=client_credentials");
    assert_eq!(seen[0].body, form);
    assert_eq!(seen[1].authorization.as_deref(), Some("Bearer minted"));
}

#[tokio::test]
async fn a_token_in_its_last_minute_is_renewed() {
    let vendor = script([
        token_answer("first", 60),
        no_devices(),
        token_answer("second", 3600),
        no_devices(),
        no_devices(),
    ])
    .await;
    let tailscale = vendor.tailscale_by_oauth();
    for _ in 0..3 {
        tailscale.devices().await.unwrap();
    }
    let seen = vendor.seen.lock().unwrap();
    assert_eq!(seen[3].authorization.as_deref(), Some("Bearer second"));
}

#[tokio::test]
async fn a_kept_token_that_is_refused_is_renewed_once() {
    let invalid = || message(401, "API token invalid");
    let vendor = script([
        token_answer("first", 3600),
        no_devices(),
        // Revoked, and the next one is good.
        invalid(),
        token_answer("second", 3600),
        no_devices(),
        // Revoked, and so is the next one.
        invalid(),
        token_answer("third", 3600),
        invalid(),
        // A fresh token that is refused is refused.
        token_answer("fourth", 3600),
        invalid(),
    ])
    .await;
    let tailscale = vendor.tailscale_by_oauth();
    tailscale.devices().await.unwrap();
    tailscale.devices().await.unwrap();
    for _ in 0..2 {
        let error = tailscale.devices().await.unwrap_err();
        assert_eq!(kind(&error), "Unauthorized");
    }
    assert_eq!(vendor.lines().len(), 10);
}

#[tokio::test]
async fn many_callers_whose_token_was_revoked_fetch_one_new_one() {
    let minted = Mutex::new(0);
    let vendor = serve(move |seen| {
        let mut minted = minted.lock().unwrap();
        match (seen.line.as_str(), seen.authorization.as_deref()) {
            ("POST /api/v2/oauth/token", _) => {
                *minted += 1;
                token_answer(&format!("token-{minted}"), 3600)
            }
            (_, Some("Bearer token-2")) => no_devices(),
            // The first token works once, for the call that fetched it.
            _ if seen.line.ends_with("/n1") => message(404, "no manageable device"),
            _ => message(401, "API token invalid"),
        }
    })
    .await;
    let tailscale = vendor.tailscale_by_oauth();
    tailscale.device("n1").await.unwrap();
    for result in join_all((0..10).map(|_| tailscale.devices())).await {
        assert_eq!(result.unwrap(), []);
    }
    let lines = vendor.lines();
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("POST")).count(),
        2
    );
}

#[tokio::test]
async fn callers_that_waited_for_a_failed_fetch_share_its_failure() {
    let vendor = serve(|_| message(503, "later")).await;
    let tailscale = vendor.tailscale_by_oauth();
    for result in join_all((0..10).map(|_| tailscale.devices())).await {
        assert_eq!(kind(&result.unwrap_err()), "Unavailable");
    }
    assert_eq!(vendor.lines().len(), 1);
    // Who comes later tries again.
    tailscale.devices().await.unwrap_err();
    assert_eq!(vendor.lines().len(), 2);
}

#[tokio::test]
async fn a_wrong_oauth_client_needs_a_person() {
    let table = [
        (
            json_answer(400, &json!({"error": "invalid_client"})),
            "Unauthorized",
        ),
        (
            json_answer(401, &json!({"error": "invalid_client"})),
            "Unauthorized",
        ),
        (message(401, "API token invalid"), "Unauthorized"),
        (message(403, "forbidden"), "Forbidden"),
        (
            json_answer(400, &json!({"error": "invalid_request"})),
            "Rejected",
        ),
        (
            message(429, "too many requests").header("retry-after", &3),
            "RateLimited",
        ),
        (message(404, "404 page not found"), "Unavailable"),
        (
            json_answer(200, &json!({"token_type": "Bearer"})),
            "Unavailable",
        ),
        (
            json_answer(200, &json!({"access_token": "a\nb"})),
            "Unavailable",
        ),
    ];
    for (answer, expected) in table {
        let vendor = script([answer]).await;
        let error = vendor.tailscale_by_oauth().devices().await.unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("tailscale POST /api/v2/oauth/token:"),
            "{error}"
        );
    }
}
