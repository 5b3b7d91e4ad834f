//! What tests and the control endpoints see: plain copies of the vendors' state and history.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{belongings::BelongingKind, faults::Vendor};

/// What a server is doing, in Hetzner's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// Being created.
    Initializing,
    /// Being switched on.
    Starting,
    /// Switched on.
    Running,
    /// Being switched off.
    Stopping,
    /// Switched off; costs as much as a running one.
    Off,
    /// Being deleted: the name is still taken.
    Deleting,
}

impl ServerStatus {
    /// The vendor's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ServerStatus::Initializing => "initializing",
            ServerStatus::Starting => "starting",
            ServerStatus::Running => "running",
            ServerStatus::Stopping => "stopping",
            ServerStatus::Off => "off",
            ServerStatus::Deleting => "deleting",
        }
    }
}

/// Who can log in to a machine by SSH, as root.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SshAccess {
    /// Public keys.
    pub authorized_keys: Vec<String>,
    /// Whether the root password that the vendor made lets anybody in.
    pub by_password: bool,
}

/// A server as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Server {
    /// The vendor's id.
    pub id: u64,
    /// Unique in the project.
    pub name: String,
    /// User-defined labels.
    pub labels: BTreeMap<String, String>,
    /// What it is doing.
    pub status: ServerStatus,
    /// Whether an action is running on it, or it was locked by hand.
    pub locked: bool,
    /// Whether delete protection is on.
    pub protected: bool,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// Who can log in.
    pub ssh: SshAccess,
}

/// A device of the tailnet as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// The preferred id, like `n292kg92CNTRL`; never reused.
    pub node_id: String,
    /// The legacy id, a number.
    pub id: String,
    /// What the machine calls itself; not unique.
    pub hostname: String,
    /// The unique name, with a `-1` where the host name was taken.
    pub name: String,
    /// Its tags, `tag:…`.
    pub tags: Vec<String>,
    /// Whether it vanishes by itself after it was last seen.
    pub ephemeral: bool,
    /// When it joined.
    pub created: DateTime<Utc>,
}

/// An auth key as it is now.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a separate fact about the key"
)]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Key {
    /// The key's id, like `k123456CNTRL`.
    pub id: String,
    /// Says what it is for.
    pub description: String,
    /// The tags that its devices get.
    pub tags: Vec<String>,
    /// Whether more than one device may use it.
    pub reusable: bool,
    /// Whether a device has used it.
    pub used: bool,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether it no longer lets anybody in: revoked, used up or expired.
    pub invalid: bool,
    /// When it was minted.
    pub created: DateTime<Utc>,
    /// When it ends by itself.
    pub expires: DateTime<Utc>,
}

/// A volume or an IP as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Belonging {
    /// Which of them.
    pub kind: BelongingKind,
    /// The vendor's id.
    pub id: u64,
    /// Unique within its kind.
    pub name: String,
    /// User-defined labels.
    pub labels: BTreeMap<String, String>,
    /// The server that has it.
    pub server: Option<u64>,
}

/// A workflow run that was dispatched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkflowRun {
    /// The run's id.
    pub id: u64,
    /// The branch or tag that it runs at.
    pub git_ref: String,
    /// The inputs as they were given.
    pub inputs: BTreeMap<String, String>,
    /// When it was dispatched.
    pub created: DateTime<Utc>,
    /// Its attempts, the first one first; each re-run is another.
    pub attempts: Vec<RunAttempt>,
}

/// One attempt at a workflow run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunAttempt {
    /// What it is doing, in GitHub's words: `queued`, `in_progress`, `completed`.
    pub status: String,
    /// How it ended; `None` while it has not.
    pub conclusion: Option<String>,
    /// When that last changed.
    pub updated: DateTime<Utc>,
}

/// One request that a vendor got, or one that took effect later than it was answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// When it was carried out.
    pub at: DateTime<Utc>,
    /// Who got it.
    pub vendor: Vendor,
    /// The method, in capitals.
    pub method: String,
    /// The path below the vendor's version prefix, with the query: `/servers?name=x`.
    pub path: String,
    /// The status that was answered. `None`: the connection was reset.
    pub status: Option<u16>,
    /// Whether it took effect after its client had been told that it failed. Such a request has
    /// two entries; `status` of this one is what nobody was told.
    pub late: bool,
    /// What it changed. `None`: nothing.
    pub effect: Option<Effect>,
}

/// What a request changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// A server was created.
    ServerCreated {
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// Deleting a server began; it is gone when the action succeeds.
    ServerDeleted {
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// A server's name or labels were set.
    ServerChanged {
        /// Its id.
        id: u64,
    },
    /// Another action began on a server.
    ActionStarted {
        /// The server.
        server: u64,
        /// The vendor's name of the action, like `stop_server`.
        command: String,
    },
    /// A volume or an IP was created.
    BelongingCreated {
        /// Which of them.
        kind: BelongingKind,
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
    },
    /// A volume or an IP was deleted.
    BelongingDeleted {
        /// Which of them.
        kind: BelongingKind,
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
    },
    /// A device was deleted.
    DeviceDeleted {
        /// Its preferred id.
        node_id: String,
        /// Its host name.
        hostname: String,
        /// Its tags.
        tags: Vec<String>,
    },
    /// An auth key was minted.
    KeyCreated {
        /// Its id.
        id: String,
        /// Its description.
        description: String,
    },
    /// An auth key was revoked.
    KeyRevoked {
        /// Its id.
        id: String,
        /// Its description.
        description: String,
    },
    /// A token was handed out to the OAuth client or the GitHub App.
    TokenIssued,
    /// A workflow run was dispatched.
    RunDispatched {
        /// Its id.
        id: u64,
        /// Its inputs.
        inputs: BTreeMap<String, String>,
    },
}
