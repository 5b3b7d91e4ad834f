//! Rules of Hetzner Cloud about what hangs on servers and bills without them.

use backstop::sim::BelongingKind;
use serde_json::{Value, json};

use crate::support::{Bench, quick};

const KINDS: [(&str, &str, &str); 3] = [
    ("volumes", "volume", "server"),
    ("primary_ips", "primary_ip", "assignee_id"),
    ("floating_ips", "floating_ip", "server"),
];

fn new(kind: &str, name: &str) -> Value {
    let mut body = json!({"name": name, "labels": {"k": "v"}});
    match kind {
        "volumes" => body["size"] = json!(10),
        _ => body["type"] = json!("ipv4"),
    }
    body
}

fn place(kind: &str) -> &'static str {
    match kind {
        "floating_ips" => "home_location",
        _ => "location",
    }
}

#[tokio::test]
async fn each_is_created_listed_shown_and_deleted() {
    let bench = Bench::start();
    for (kind, one, attached_to) in KINDS {
        let path = format!("/{kind}");
        let mut body = new(kind, "data");
        body[place(kind)] = json!("nbg1");
        let created = bench.hetzner("POST", &path, Some(body.clone())).await;
        assert_eq!(created.status, 201, "{}", created.text);
        let id = created.body[one]["id"].as_u64().unwrap();
        assert_eq!(created.body[one][attached_to], Value::Null);
        assert_eq!(created.body[one][place(kind)]["name"], "nbg1");
        assert_eq!(created.body["action"]["status"], "success");

        let taken = bench.hetzner("POST", &path, Some(body)).await;
        assert_eq!((taken.status, taken.code()), (409, "uniqueness_error"));
        for (query, count) in [
            ("", 1),
            ("?label_selector=k%3Dv&sort=id:asc&per_page=50&page=1", 1),
            ("?label_selector=k%3Dother", 0),
            ("?name=data", 1),
            ("?name=dat", 0),
        ] {
            let listed = bench.hetzner("GET", &format!("{path}{query}"), None).await;
            assert_eq!(listed.names(kind).len(), count, "{kind}{query}");
            assert_eq!(listed.body["meta"]["pagination"]["total_entries"], count);
        }
        let path = format!("{path}/{id}");
        let shown = bench.hetzner("GET", &path, None).await;
        assert_eq!(shown.body[one]["labels"], json!({"k": "v"}));
        assert_eq!(bench.hetzner("DELETE", &path, None).await.status, 204);
        let gone = bench.hetzner("GET", &path, None).await;
        assert_eq!((gone.status, gone.code()), (404, "not_found"));
        let again = bench.hetzner("DELETE", &path, None).await;
        assert_eq!((again.status, again.code()), (404, "not_found"));
        let wrong = bench.hetzner("PATCH", &path, None).await;
        assert_eq!((wrong.status, wrong.code()), (405, "method_not_allowed"));
    }
}

#[tokio::test]
async fn what_is_attached_is_not_deleted_and_is_left_when_its_server_goes() {
    let bench = Bench::with(quick());
    let server = bench.sim.add_server("agent-1", [("k", "v")]);
    for (kind, one, attached_to) in KINDS {
        let mut body = new(kind, "data");
        body[attached_to] = json!(server);
        let created = bench.hetzner("POST", &format!("/{kind}"), Some(body)).await;
        assert_eq!(created.status, 201, "{}", created.text);
        assert_eq!(created.body[one][attached_to], server);
        let id = created.body[one]["id"].as_u64().unwrap();
        let refused = bench
            .hetzner("DELETE", &format!("/{kind}/{id}"), None)
            .await;
        let code = match kind {
            "volumes" => "conflict",
            _ => "must_be_unassigned",
        };
        assert_eq!(refused.code(), code, "{kind}");
    }
    let mut body = new("primary_ips", "goes-with-it");
    body["type"] = json!("ipv6");
    body["assignee_id"] = json!(server);
    body["auto_delete"] = json!(true);
    bench.hetzner("POST", "/primary_ips", Some(body)).await;
    let shown = bench
        .hetzner("GET", &format!("/servers/{server}"), None)
        .await;
    assert_eq!(shown.body["server"]["volumes"].as_array().unwrap().len(), 1);

    let deleted = bench
        .hetzner("DELETE", &format!("/servers/{server}"), None)
        .await;
    let action = deleted.body["action"]["id"].as_u64().unwrap();
    bench.until_ended(action).await;
    let left = bench.sim.belongings();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().all(|it| it.server.is_none()), "{left:?}");
}

#[tokio::test]
async fn what_is_incomplete_is_refused() {
    let bench = Bench::start();
    let server = bench.sim.add_server("agent-1", [("k", "v")]);
    for (path, body, field) in [
        ("/volumes", json!({"name": "a", "location": "fsn1"}), "size"),
        (
            "/volumes",
            json!({"name": "a", "size": 9, "location": "fsn1"}),
            "size",
        ),
        ("/volumes", json!({"size": 10, "location": "fsn1"}), "name"),
        ("/volumes", json!({"name": "a", "size": 10}), "location"),
        (
            "/volumes",
            json!({"name": "a", "size": 10, "location": "fsn1", "server": server}),
            "location",
        ),
        (
            "/volumes",
            json!({"name": "a", "size": 10, "location": "mars"}),
            "location",
        ),
        (
            "/primary_ips",
            json!({"name": "a", "location": "fsn1"}),
            "type",
        ),
        (
            "/floating_ips",
            json!({"type": "ipv5", "home_location": "fsn1"}),
            "type",
        ),
        ("/floating_ips", json!({"type": "ipv4"}), "home_location"),
        (
            "/floating_ips",
            json!({"type": "ipv4", "home_location": "fsn1", "labels": {"k": "-"}}),
            "labels",
        ),
    ] {
        let answer = bench.hetzner("POST", path, Some(body.clone())).await;
        assert_eq!(answer.code(), "invalid_input", "{path} {body}");
        let named = &answer.body["error"]["details"]["fields"][0]["name"];
        assert_eq!(named, field, "{path} {body}");
    }
    let nowhere = json!({"name": "a", "size": 10, "server": 1});
    let answer = bench.hetzner("POST", "/volumes", Some(nowhere)).await;
    assert_eq!(answer.code(), "not_found");
    assert_eq!(bench.sim.belongings(), []);
}

#[tokio::test]
async fn the_price_list_has_a_price_for_everything_in_every_location() {
    let bench = Bench::start();
    let pricing = bench.hetzner("GET", "/pricing", None).await.body["pricing"].clone();
    assert_eq!(pricing["currency"], "EUR");
    let locations = bench.hetzner("GET", "/locations", None).await;
    let locations = locations.names("locations").len();
    for list in ["server_types", "primary_ips", "floating_ips"] {
        for item in pricing[list].as_array().unwrap() {
            assert_eq!(item["prices"].as_array().unwrap().len(), locations);
            for price in item["prices"].as_array().unwrap() {
                let monthly = price["price_monthly"]["net"].as_str().unwrap();
                assert!(monthly.parse::<f64>().unwrap() >= 0.0);
                assert_eq!(price["price_hourly"].is_null(), list == "floating_ips");
            }
        }
    }
    // As the list of server types says it.
    let types = bench.hetzner("GET", "/server_types", None).await;
    let cx22 = |list: &Value| -> Value {
        let all = list.as_array().unwrap();
        all.iter().find(|it| it["name"] == "cx22").unwrap()["prices"].clone()
    };
    assert_eq!(
        cx22(&pricing["server_types"]),
        cx22(&types.body["server_types"])
    );
}

#[tokio::test]
async fn they_can_be_put_there_over_http() {
    let bench = Bench::start();
    let put = json!({"kind": "volume", "name": "data", "labels": {"k": "v"}});
    let answer = bench.control("POST", "/sim/belongings", put).await;
    assert_eq!(answer.status, 201);
    let state = bench.control("GET", "/sim/state", Value::Null).await;
    assert_eq!(state.body["belongings"][0]["kind"], "volume");
    assert_eq!(bench.sim.belongings()[0].kind, BelongingKind::Volume);
    let listed = bench.hetzner("GET", "/volumes", None).await;
    assert_eq!(listed.names("volumes"), ["data"]);
}
