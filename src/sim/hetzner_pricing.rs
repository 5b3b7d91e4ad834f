//! What Hetzner charges. The figures are made up, and of the right size.
//! See <https://docs.hetzner.cloud/reference/cloud#pricing>.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    catalogue::{self, price},
    exchange::Answer,
};

pub(super) fn answer() -> Answer {
    let by_type = |hourly: [f64; 2], keys: &[&str]| -> Vec<Value> {
        ["ipv4", "ipv6"]
            .into_iter()
            .zip(hourly)
            .map(|(version, hourly)| {
                let prices: Vec<Value> = catalogue::location_names()
                    .map(|location| {
                        let mut in_location = json!({"location": location});
                        for key in keys {
                            in_location[*key] = match *key {
                                "price_hourly" => price(hourly),
                                _ => price(hourly * 730.0),
                            };
                        }
                        in_location
                    })
                    .collect();
                json!({"type": version, "prices": prices})
            })
            .collect()
    };
    let server_types: Vec<Value> = catalogue::list("server_types")
        .unwrap_or_default()
        .iter()
        .map(|kind| json!({"id": kind["id"], "name": kind["name"], "prices": kind["prices"]}))
        .collect();
    let pricing = json!({
        "currency": "EUR",
        "vat_rate": "19.000000",
        "image": {"price_per_gb_month": price(0.011)},
        "floating_ip": {"price_monthly": price(3.0)},
        "floating_ips": by_type([3.0 / 730.0, 1.0 / 730.0], &["price_monthly"]),
        "primary_ips": by_type([0.0008, 0.0], &["price_hourly", "price_monthly"]),
        "server_backup": {"percentage": "20.0000000000"},
        "server_types": server_types,
        "load_balancer_types": [],
        "volume": {"price_per_gb_month": price(0.044)},
    });
    Answer::json(StatusCode::OK, json!({"pricing": pricing}))
}
