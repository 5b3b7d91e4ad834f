//! From when until when each thing was there: what a long run is checked against at its end.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{clock, project::Server, tailnet::Device, world::World};

/// What a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LifeKind {
    /// An auth key, for as long as it lets anybody in.
    AuthKey,
    /// A server, until its deletion is complete.
    Server,
    /// A device.
    Device,
}

/// One thing of the vendors', from when it was there until it was not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Life {
    /// What it is.
    pub kind: LifeKind,
    /// The vendor's id; a device's is its node id.
    pub id: String,
    /// A server's name, a device's host name, a key's description.
    pub name: String,
    /// A server's labels.
    pub labels: BTreeMap<String, String>,
    /// A device's tags, and those that a key gives.
    pub tags: Vec<String>,
    /// Since when it was there.
    pub began: DateTime<Utc>,
    /// When it went. `None`: it is there.
    pub ended: Option<DateTime<Utc>>,
}

/// Everything that there ever was.
pub(super) fn all(world: &World) -> Vec<Life> {
    let now = clock::now();
    let (project, tailnet) = (&world.project, &world.tailnet);
    let servers = project.servers().map(|it| of_server(it, None));
    let former = project.departed().map(|(it, at)| of_server(it, Some(*at)));
    let devices = tailnet.devices().map(|it| of_device(it, None));
    let departed = tailnet.departed().map(|(it, at)| of_device(it, Some(*at)));
    let keys = tailnet.keys().map(|key| Life {
        kind: LifeKind::AuthKey,
        id: key.id.clone(),
        name: key.allows.description.clone(),
        labels: BTreeMap::new(),
        tags: key.allows.tags.clone(),
        began: key.created,
        ended: key.ended(now),
    });
    let hetzner = servers.chain(former);
    hetzner.chain(devices).chain(departed).chain(keys).collect()
}

fn of_server(server: &Server, ended: Option<DateTime<Utc>>) -> Life {
    Life {
        kind: LifeKind::Server,
        id: server.id.to_string(),
        name: server.name.clone(),
        labels: server.labels.clone(),
        tags: Vec::new(),
        began: server.created,
        ended,
    }
}

fn of_device(device: &Device, ended: Option<DateTime<Utc>>) -> Life {
    Life {
        kind: LifeKind::Device,
        id: device.node_id.clone(),
        name: device.hostname.clone(),
        labels: BTreeMap::new(),
        tags: device.tags.clone(),
        began: device.created,
        ended,
    }
}
