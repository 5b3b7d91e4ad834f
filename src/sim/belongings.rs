//! State of what hangs on servers and bills without them: volumes, primary and floating IPs.
//!
//! When a server goes, a primary IP with `auto_delete` goes with it; the rest is left attached to
//! nothing. See <https://docs.hetzner.cloud/reference/cloud#servers-delete-a-server>.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{catalogue::Location, selector::Labels, snapshot};

/// A kind of thing that outlives its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BelongingKind {
    /// A disk.
    Volume,
    /// An address of a server's own.
    PrimaryIp,
    /// An address that moves from server to server.
    FloatingIp,
}

impl BelongingKind {
    /// The kind that this path segment stands for.
    pub(super) fn from_path(segment: &str) -> Option<BelongingKind> {
        [
            BelongingKind::Volume,
            BelongingKind::PrimaryIp,
            BelongingKind::FloatingIp,
        ]
        .into_iter()
        .find(|kind| kind.plural() == segment)
    }

    /// What a list of them is called.
    pub(super) fn plural(self) -> &'static str {
        match self {
            BelongingKind::Volume => "volumes",
            BelongingKind::PrimaryIp => "primary_ips",
            BelongingKind::FloatingIp => "floating_ips",
        }
    }

    /// What one of them is called.
    pub(super) fn singular(self) -> &'static str {
        match self {
            BelongingKind::Volume => "volume",
            BelongingKind::PrimaryIp => "primary_ip",
            BelongingKind::FloatingIp => "floating_ip",
        }
    }
}

/// A volume or an IP.
#[derive(Clone, Debug)]
pub(super) struct Belonging {
    pub(super) id: u64,
    pub(super) created: DateTime<Utc>,
    pub(super) is: NewBelonging,
}

/// What a new one is made from, all of it checked.
#[derive(Clone, Debug)]
pub(super) struct NewBelonging {
    pub(super) kind: BelongingKind,
    pub(super) name: String,
    pub(super) labels: Labels,
    /// The server that has it.
    pub(super) server: Option<u64>,
    pub(super) location: &'static Location,
    /// Of a volume, in GB.
    pub(super) size: u32,
    /// Of an IP: `ipv4` or `ipv6`.
    pub(super) version: String,
    /// Whether a primary IP goes with its server.
    pub(super) auto_delete: bool,
}

/// The project's volumes and IPs.
#[derive(Debug)]
pub(super) struct Belongings {
    all: BTreeMap<u64, Belonging>,
    next: u64,
}

impl Belongings {
    pub(super) fn new() -> Belongings {
        Belongings {
            all: BTreeMap::new(),
            next: 32_118_400,
        }
    }

    /// All of a kind, by id.
    pub(super) fn of(&self, kind: BelongingKind) -> impl Iterator<Item = &Belonging> {
        self.all.values().filter(move |it| it.is.kind == kind)
    }

    pub(super) fn get(&self, kind: BelongingKind, id: u64) -> Option<&Belonging> {
        self.all.get(&id).filter(|it| it.is.kind == kind)
    }

    /// Puts one there; the name must be free within its kind.
    pub(super) fn place(&mut self, new: NewBelonging, now: DateTime<Utc>) -> u64 {
        let id = self.next;
        self.next += rand::random_range(1..40);
        let belonging = Belonging {
            id,
            created: now,
            is: new,
        };
        self.all.insert(id, belonging);
        id
    }

    /// Removes one; whether it was there.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.all.remove(&id).is_some()
    }

    /// Its server is gone.
    pub(super) fn lose_server(&mut self, server: u64) {
        self.all
            .retain(|_, it| it.is.server != Some(server) || !it.is.auto_delete);
        for it in self.all.values_mut() {
            it.is.server = it.is.server.filter(|known| *known != server);
        }
    }

    /// Copies of all of them.
    pub(super) fn snapshot(&self) -> Vec<snapshot::Belonging> {
        self.all
            .values()
            .map(|it| snapshot::Belonging {
                kind: it.is.kind,
                id: it.id,
                name: it.is.name.clone(),
                labels: it.is.labels.clone(),
                server: it.is.server,
            })
            .collect()
    }
}
