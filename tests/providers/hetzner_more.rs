//! Volumes, IPs and prices.

use backstop::providers::hetzner::Priced;
use serde_json::{Value, json};

use crate::canned::{Canned, json_answer, kind, script};

fn list(of: &str, things: &Value) -> Canned {
    let pagination = json!({"page": 1, "per_page": 50, "previous_page": null, "next_page": null,
                            "last_page": 1, "total_entries": things.as_array().map(Vec::len)});
    json_answer(
        200,
        &json!({of: things, "meta": {"pagination": pagination}}),
    )
}

fn thing(more: &Value) -> Value {
    let mut thing = json!({
        "id": 42, "name": "data", "labels": {"managed-by": "backstop"},
        "created": "2026-01-30T23:55:00Z", "some_new_field": 1,
    });
    let object = thing.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    thing
}

#[tokio::test]
async fn volumes_tell_which_server_has_them() {
    let location = json!({"id": 1, "name": "fsn1"});
    let volumes = json!([
        thing(&json!({"server": 7, "size": 10, "location": location})),
        thing(&json!({"id": 43, "server": null, "size": 20.5, "created": null})),
    ]);
    let vendor = script([list("volumes", &volumes)]).await;
    let found = vendor.hetzner().volumes_by_label("a=b").await.unwrap();
    assert_eq!(
        vendor.lines(),
        ["GET /v1/volumes?label_selector=a%3Db&sort=id%3Aasc&per_page=50&page=1"]
    );
    assert_eq!((found[0].id, found[0].server), (42, Some(7)));
    assert_eq!((found[1].server, found[1].created), (None, None));
    assert!((found[1].gigabytes - 20.5).abs() < 1e-9);
    assert_eq!(found[0].labels["managed-by"], "backstop");
}

#[tokio::test]
async fn ips_tell_which_server_has_them() {
    let primary = json!([
        thing(
            &json!({"assignee_id": 7, "assignee_type": "server", "type": "ipv6",
                      "location": {"name": "hel1"}})
        ),
        thing(&json!({"id": 43, "assignee_id": null, "type": "ipv4"})),
    ]);
    let vendor = script([list("primary_ips", &primary)]).await;
    let found = vendor.hetzner().primary_ips_by_label("a").await.unwrap();
    assert_eq!((found[0].server, found[1].server), (Some(7), None));
    assert_eq!(
        (found[0].version.as_str(), found[0].location.as_str()),
        ("ipv6", "hel1")
    );

    let floating = json!([thing(
        &json!({"server": null, "type": "ipv4", "home_location": {"name": "nbg1"}})
    )]);
    let vendor = script([list("floating_ips", &floating)]).await;
    let found = vendor.hetzner().floating_ips_by_label("a").await.unwrap();
    assert_eq!(
        (found[0].server, found[0].location.as_str()),
        (None, "nbg1")
    );
}

#[tokio::test]
async fn what_does_not_say_whether_a_server_has_it_is_no_list() {
    let silent = json!([thing(&json!({"size": 10, "type": "ipv4"}))]);
    let unlabelled = json!([{"id": 1, "server": null, "assignee_id": null, "size": 10}]);
    for things in [silent, unlabelled] {
        for of in ["volumes", "primary_ips", "floating_ips"] {
            let vendor = script([list(of, &things)]).await;
            let hetzner = vendor.hetzner();
            let error = match of {
                "volumes" => hetzner.volumes_by_label("a").await.unwrap_err(),
                "primary_ips" => hetzner.primary_ips_by_label("a").await.unwrap_err(),
                _ => hetzner.floating_ips_by_label("a").await.unwrap_err(),
            };
            assert_eq!(kind(&error), "Unavailable", "{of} {things}");
        }
    }
    // A list of another kind says nothing of servers.
    let vendor = script([list("volumes", &json!([]))]).await;
    let error = vendor.hetzner().servers_by_label("a").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "hetzner GET /v1/servers: 200, no list of servers as it is documented"
    );
}

fn pricing() -> Value {
    let price = |net: &str| json!({"net": net, "gross": "9.0"});
    json!({"pricing": {
        "currency": "EUR", "vat_rate": "19.00", "image": {"price_per_gb_month": price("1")},
        "server_types": [
            {"id": 1, "name": "cx22", "prices": [
                {"location": "fsn1", "price_hourly": price("0.0060000000"), "price_monthly": price("3.79")},
                {"location": "hil", "price_hourly": price("0.0070000000"), "price_monthly": price("4")},
                {"location": "odd", "price_hourly": price("a lot"), "price_monthly": price("-1")},
            ]},
        ],
        "primary_ips": [
            {"type": "ipv4", "prices": [{"location": "fsn1", "price_hourly": price("0.0008"), "price_monthly": price("0.5")}]},
            {"type": "ipv6", "prices": [{"location": "fsn1", "price_hourly": price("0.0000"), "price_monthly": price("0")}]},
        ],
        "floating_ips": [{"type": "ipv4", "prices": [{"location": "fsn1", "price_monthly": price("3.0000")}]}],
        "volume": {"price_per_gb_month": price("0.0440")},
    }})
}

#[tokio::test]
async fn prices_are_net_and_by_the_hour_and_read_once() {
    let vendor = script([json_answer(200, &pricing())]).await;
    let hetzner = vendor.hetzner();
    let prices = hetzner.prices().await.unwrap();
    assert_eq!(prices.currency, "EUR");
    let server = |server_type: &str, location: &str| Priced::Server {
        server_type: server_type.to_owned(),
        location: location.to_owned(),
    };
    let primary = |version: &str| Priced::PrimaryIp {
        version: version.to_owned(),
        location: "fsn1".to_owned(),
    };
    let floating = Priced::FloatingIp {
        version: "ipv4".to_owned(),
        location: "fsn1".to_owned(),
    };
    for (thing, expected) in [
        (server("cx22", "fsn1"), Some(0.006)),
        (server("cx22", "hil"), Some(0.007)),
        (server("cx22", "odd"), None),
        (server("cx22", ""), None),
        (server("cx99", "fsn1"), None),
        (primary("ipv4"), Some(0.0008)),
        (primary("ipv6"), Some(0.0)),
        (floating, Some(3.0 / 730.0)),
        (Priced::Volume(100.0), Some(4.4 / 730.0)),
    ] {
        let cost = prices.hourly(&thing);
        let near = cost.zip(expected).map(|(a, b)| (a - b).abs() < 1e-12);
        assert!(
            near.unwrap_or(cost == expected),
            "{thing:?}: {cost:?} instead of {expected:?}"
        );
    }
    assert_eq!(hetzner.prices().await.unwrap(), prices);
    assert_eq!(vendor.lines(), ["GET /v1/pricing"]);
}

#[tokio::test]
async fn a_price_list_that_cannot_be_read_is_asked_for_again() {
    let bare = json!({"pricing": {"currency": "USD"}});
    let vendor = script([
        json_answer(503, &json!({})),
        json_answer(200, &json!({"pricing": {}})),
        json_answer(200, &bare),
    ])
    .await;
    let hetzner = vendor.hetzner();
    for _ in 0..2 {
        let error = hetzner.prices().await.unwrap_err();
        assert_eq!(kind(&error), "Unavailable");
    }
    let prices = hetzner.prices().await.unwrap();
    assert_eq!(prices.currency, "USD");
    assert_eq!(prices.hourly(&Priced::Volume(10.0)), None);
}
