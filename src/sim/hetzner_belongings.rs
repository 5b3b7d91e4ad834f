//! What Hetzner does with volumes, primary and floating IPs: list, create, show, delete. And what
//! everything costs, which is a list of its own.
//!
//! They are made and attached at once: no action on them takes any time.
//! See <https://docs.hetzner.cloud/reference/cloud#volumes>, `#primary-ips`, `#floating-ips`,
//! `#pricing`.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    belongings::{Belonging, BelongingKind, NewBelonging},
    catalogue,
    clock::{self, stamp},
    exchange::{Answer, Request, Twist},
    hetzner_problem::Problem,
    hetzner_servers::{find, id_or_name, read_body},
    listing::Listing,
    paging::paged,
    selector::{Labels, check_labels},
    snapshot::Effect,
    world::World,
};

/// One as tests put it there: small, in the first location.
pub(super) fn plain(
    kind: BelongingKind,
    name: &str,
    labels: Labels,
    server: Option<u64>,
) -> NewBelonging {
    NewBelonging {
        kind,
        name: name.to_owned(),
        labels,
        server,
        location: catalogue::location_named("fsn1").expect("the catalogue has fsn1"),
        size: 10,
        version: "ipv4".to_owned(),
        auto_delete: false,
    }
}

pub(super) fn list(
    world: &World,
    kind: BelongingKind,
    request: &Request,
    twist: &Twist,
) -> Result<Answer, Problem> {
    let listing = Listing::read(request)?;
    let mut shown: Vec<&Belonging> = world
        .project
        .belongings()
        .of(kind)
        .filter(|it| listing.picks(&it.is.name, &it.is.labels))
        .filter(|it| !twist.omits(&[&it.id.to_string(), &it.is.name]))
        .collect();
    for order in listing.values("sort") {
        match order {
            "id" | "id:asc" | "created" | "created:asc" => shown.sort_by_key(|it| it.id),
            "id:desc" | "created:desc" => shown.sort_by_key(|it| std::cmp::Reverse(it.id)),
            _ => return Err(Problem::invalid_input("sort", "unknown field")),
        }
    }
    let shown: Vec<Value> = shown.into_iter().map(render).collect();
    Ok(paged(kind.plural(), &shown, listing.page, request))
}

pub(super) fn get(world: &World, kind: BelongingKind, id: u64) -> Result<Answer, Problem> {
    let belonging = render(known(world, kind, id)?);
    Ok(Answer::json(
        StatusCode::OK,
        json!({kind.singular(): belonging}),
    ))
}

/// The fields of the three requests that matter here.
#[derive(Deserialize)]
struct CreateBody {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(default)]
    size: Option<u32>,
    #[serde(default, rename = "type")]
    version: Option<String>,
    #[serde(default)]
    auto_delete: Option<bool>,
    /// Of a volume and a primary IP.
    #[serde(default)]
    location: Option<Value>,
    /// Of a floating IP.
    #[serde(default)]
    home_location: Option<Value>,
    /// Of a volume and a floating IP.
    #[serde(default)]
    server: Option<u64>,
    /// Of a primary IP.
    #[serde(default)]
    assignee_id: Option<u64>,
}

pub(super) fn create(
    world: &mut World,
    kind: BelongingKind,
    request: &Request,
) -> Result<Answer, Problem> {
    let body: CreateBody = read_body(request)?;
    let labels = body.labels.unwrap_or_default();
    check_labels(&labels).map_err(|complaint| Problem::invalid_input("labels", &complaint))?;
    let name = match (body.name, kind) {
        (Some(name), _) => name,
        (None, BelongingKind::FloatingIp) => format!("floating-ip-{}", clock::now().timestamp()),
        (None, _) => return Err(Problem::invalid_input("name", "is required")),
    };
    if name.is_empty() || name.len() > 64 {
        return Err(Problem::invalid_input("name", "is empty or too long"));
    }
    let size = match (kind, body.size) {
        (BelongingKind::Volume, Some(size @ 10..=10_240)) => size,
        (BelongingKind::Volume, _) => {
            return Err(Problem::invalid_input("size", "must be from 10 to 10240"));
        }
        (_, _) => 0,
    };
    let version = match (kind, body.version.as_deref()) {
        (BelongingKind::Volume, _) => "",
        (_, Some(version @ ("ipv4" | "ipv6"))) => version,
        (_, _) => return Err(Problem::invalid_input("type", "must be ipv4 or ipv6")),
    };
    let (place, server) = match kind {
        BelongingKind::Volume => (("location", body.location), body.server),
        BelongingKind::PrimaryIp => (("location", body.location), body.assignee_id),
        BelongingKind::FloatingIp => (("home_location", body.home_location), body.server),
    };
    let location = match (server, place) {
        (Some(server), (_, None)) => find(world, server)?.location,
        (None, (field, Some(wanted))) => catalogue::location_named(&id_or_name(&wanted))
            .ok_or_else(|| Problem::invalid_input(field, "location not found"))?,
        (_, (field, _)) => {
            let complaint = "exactly one of a server and a location is needed";
            return Err(Problem::invalid_input(field, complaint));
        }
    };
    if world
        .project
        .belongings()
        .of(kind)
        .any(|it| it.is.name == name)
    {
        return Err(Problem::taken_name());
    }
    let new = NewBelonging {
        kind,
        name: name.clone(),
        labels,
        server,
        location,
        size,
        version: version.to_owned(),
        auto_delete: body.auto_delete.unwrap_or(false),
    };
    let now = clock::now();
    let id = world.project.belongings_mut().place(new, now);
    let action = |number: u64, command: String| {
        json!({
            "id": id * 2 + number + 700_000_000_000_000,
            "command": command,
            "status": "success",
            "progress": 100,
            "started": stamp(now),
            "finished": stamp(now),
            "resources": [{"id": id, "type": kind.singular()}],
            "error": null,
        })
    };
    let mut answer = json!({
        kind.singular(): render(known(world, kind, id)?),
        "action": action(0, format!("create_{}", kind.singular())),
    });
    if kind == BelongingKind::Volume {
        let attached = server.map(|_| action(1, "attach_volume".to_owned()));
        answer["next_actions"] = json!(attached.into_iter().collect::<Vec<_>>());
    }
    let effect = Effect::BelongingCreated { kind, id, name };
    Ok(Answer::json(StatusCode::CREATED, answer).with_effect(effect))
}

pub(super) fn delete(world: &mut World, kind: BelongingKind, id: u64) -> Result<Answer, Problem> {
    let belonging = known(world, kind, id)?;
    if belonging.is.server.is_some() {
        return Err(match kind {
            // Documented as forbidden, with no code for it.
            BelongingKind::Volume => Problem::new(
                StatusCode::CONFLICT,
                "conflict",
                "volume is attached to a server",
            ),
            BelongingKind::PrimaryIp | BelongingKind::FloatingIp => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "must_be_unassigned",
                "must be unassigned before it is deleted",
            ),
        });
    }
    let name = belonging.is.name.clone();
    world.project.belongings_mut().remove(id);
    Ok(Answer {
        status: StatusCode::NO_CONTENT,
        headers: Vec::new(),
        body: None,
        effect: Some(Effect::BelongingDeleted { kind, id, name }),
    })
}

fn known(world: &World, kind: BelongingKind, id: u64) -> Result<&Belonging, Problem> {
    world
        .project
        .belongings()
        .get(kind, id)
        .ok_or_else(|| Problem::not_found(kind.singular(), id))
}

fn render(belonging: &Belonging) -> Value {
    let Belonging { id, created, is } = belonging;
    let [.., a, b, c] = id.to_be_bytes();
    let ip = match is.version.as_str() {
        "ipv6" => format!("2a01:4f9:{a:x}:{b:x}{c:02x}::/64"),
        _ => format!("95.{a}.{b}.{c}"),
    };
    let mut value = json!({
        "id": id,
        "name": is.name,
        "labels": is.labels,
        "created": stamp(*created),
        "protection": {"delete": false},
    });
    let more = match is.kind {
        BelongingKind::Volume => json!({
            "server": is.server,
            "location": is.location.to_json(),
            "size": is.size,
            "linux_device": format!("/dev/disk/by-id/scsi-0HC_Volume_{id}"),
            "status": "available",
            "format": null,
        }),
        BelongingKind::PrimaryIp => json!({
            "ip": ip,
            "type": is.version,
            "location": is.location.to_json(),
            "blocked": false,
            "dns_ptr": [],
            "auto_delete": is.auto_delete,
            "assignee_type": "server",
            "assignee_id": is.server,
        }),
        BelongingKind::FloatingIp => json!({
            "ip": ip,
            "type": is.version,
            "home_location": is.location.to_json(),
            "blocked": false,
            "dns_ptr": [],
            "description": null,
            "server": is.server,
        }),
    };
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}
