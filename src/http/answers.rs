//! What calls answer, where it is not a view of the store's.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::hearing::Hold;
use crate::domain::transition::Status;
use crate::store::views::{EventView, ProvisionView, RollbackView};

/// What everything that the attempt creates must carry.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started {
    /// Number of the attempt.
    pub attempt: i32,
    /// What the server is called.
    pub server_name: String,
    /// The server's labels, all five.
    pub labels: BTreeMap<String, String>,
    /// What the auth key and the device carry; `null` without Tailscale.
    pub tailscale: Option<TailscaleNames>,
    /// When a terminal callback is due.
    pub deadline_at: DateTime<Utc>,
}

/// What the auth key and the device carry.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TailscaleNames {
    /// The device's host name.
    pub hostname: String,
    /// Its tags, and the key's.
    pub tags: Vec<String>,
    /// The key's description.
    pub key_description: String,
}

/// How the provision stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Progressed {
    /// Its status.
    pub status: Status,
    /// When a terminal callback is due; `null` when none is.
    pub deadline_at: Option<DateTime<Utc>>,
}

/// How the provision stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Succeeded {
    /// Its status.
    pub status: Status,
    /// Fields that were there and could not be read, and counted as absent. Left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<&'static str>,
}

/// How the provision stands, and the rollback of the attempt that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failed {
    /// The provision's status.
    pub status: Status,
    /// How far the attempt's rollback has come.
    pub rollback: Option<RollbackView>,
    /// Fields that were there and could not be read, and counted as absent. Left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<&'static str>,
}

/// A page of provisions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Provisions {
    /// Newest first.
    pub provisions: Vec<ProvisionView>,
    /// Where the next page begins; `null`: this is the last.
    pub next_cursor: Option<String>,
}

/// A provision's whole history.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    /// Oldest first.
    pub events: Vec<EventView>,
}

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// `live`.
    pub status: &'static str,
}

/// The database answers and is migrated.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// `ready`.
    pub status: &'static str,
    /// Why nothing is failed for its time; `null` while it is not held.
    pub hold: Option<Hold>,
}
