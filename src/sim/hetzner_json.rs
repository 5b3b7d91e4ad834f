//! How Hetzner writes servers, actions and the rate limit.
//!
//! `datacenter` is left out of servers on purpose: the vendor removed it.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    belongings::{BelongingKind, Belongings},
    clock::stamp,
    project::{Action, Server},
    rate::RateState,
};

/// A server, with every field that the vendor promises.
pub(super) fn server(server: &Server, belongings: &Belongings, now: DateTime<Utc>) -> Value {
    let attached = |kind| -> Vec<u64> {
        let of_it = belongings.of(kind);
        of_it
            .filter(|it| it.is.server == Some(server.id))
            .map(|it| it.id)
            .collect()
    };
    let [.., a, b, c] = server.id.to_be_bytes();
    let ipv4 = format!("116.{a}.{b}.{c}");
    let network = format!("2a01:4f8:{b:x}{c:02x}:{a:x}");
    json!({
        "id": server.id,
        "name": server.name,
        "status": server.status.as_str(),
        "created": stamp(server.created),
        "public_net": {
            "ipv4": {
                "id": server.id * 2,
                "ip": ipv4,
                "blocked": false,
                "dns_ptr": format!("static.{c}.{b}.{a}.116.clients.your-server.de"),
            },
            "ipv6": {
                "id": server.id * 2 + 1,
                "ip": format!("{network}::/64"),
                "blocked": false,
                "dns_ptr": [],
            },
            "floating_ips": attached(BelongingKind::FloatingIp),
            "firewalls": [],
        },
        "private_net": [],
        "server_type": server.machine.to_json(),
        "location": server.location.to_json(),
        "image": server.image.to_json(),
        "iso": null,
        "rescue_enabled": false,
        "locked": server.is_locked(now),
        "backup_window": null,
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": 21_990_232_555_520_u64,
        "protection": {"delete": server.protected, "rebuild": server.protected},
        "labels": server.labels,
        "volumes": attached(BelongingKind::Volume),
        "load_balancers": [],
        "primary_disk_size": server.machine.disk,
        "placement_group": null,
    })
}

/// An action.
pub(super) fn action(action: &Action, now: DateTime<Utc>) -> Value {
    let error = action.error.as_ref().filter(|_| action.has_ended());
    json!({
        "id": action.id,
        "command": action.command.as_str(),
        "status": action.status(),
        "progress": action.progress(now),
        "started": stamp(action.started),
        "finished": action.has_ended().then(|| stamp(action.ends_at)),
        "resources": [{"id": action.server, "type": "server"}],
        "error": error.map(|code| json!({"code": code, "message": "Action failed"})),
    })
}

/// The headers about the rate limit.
pub(super) fn rate_headers(state: RateState) -> [(&'static str, String); 3] {
    [
        ("ratelimit-limit", state.limit.to_string()),
        ("ratelimit-remaining", state.remaining.to_string()),
        ("ratelimit-reset", state.reset.to_string()),
    ]
}
