//! Servers, actions, volumes and IPs: as the vendor writes them, and as we read them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::providers::error::one_line;
use crate::providers::wire::{null_as_default, time};

/// A server as the vendor lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Never reused.
    pub id: u64,
    /// Unique in the project while the server exists, and free again afterwards. Empty if the
    /// vendor left it out.
    pub name: String,
    /// All labels. An answer without them is an error: they decide whose server it is.
    pub labels: BTreeMap<String, String>,
    /// `running`, `off`, `deleting`, … Empty if the vendor left it out.
    pub status: String,
    /// An action is running on it; a delete will be refused as [`crate::providers::VendorError::Locked`].
    pub locked: bool,
    /// Delete protection is on; a delete will be refused as [`crate::providers::VendorError::Protected`].
    pub protected_from_delete: bool,
    /// The public IPv4 address; `None` without one.
    pub ipv4: Option<String>,
    /// Such as `cx22`. Empty if the vendor left it out.
    pub server_type: String,
    /// Such as `fsn1`. Empty if the vendor left it out.
    pub location: String,
    /// When it was created, by the vendor's clock; `None` if it did not say.
    pub created: Option<DateTime<Utc>>,
}

/// A volume as the vendor lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Never reused.
    pub id: u64,
    /// Unique in the project.
    pub name: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// The server that has it; `None` if no server has.
    pub server: Option<u64>,
    /// Its size in GB.
    pub gigabytes: f64,
    /// When it was created, by the vendor's clock; `None` if it did not say.
    pub created: Option<DateTime<Utc>>,
}

/// A primary or floating IP as the vendor lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Never reused.
    pub id: u64,
    /// Unique in the project.
    pub name: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// The server that has it; `None` if no server has.
    pub server: Option<u64>,
    /// `ipv4` or `ipv6`.
    pub version: String,
    /// Such as `fsn1`. Empty if the vendor left it out.
    pub location: String,
    /// When it was created, by the vendor's clock; `None` if it did not say.
    pub created: Option<DateTime<Utc>>,
}

/// Work the vendor has taken on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// To ask after it with [`super::Hetzner::actions`].
    pub id: u64,
    /// The server that it deletes; `None` if it does something else.
    pub deletes: Option<u64>,
    /// How far it is.
    pub status: ActionStatus,
}

/// How far an action is. <https://docs.hetzner.cloud/reference/cloud#actions>
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionStatus {
    /// Ask again later.
    Running,
    /// It is done.
    Success,
    /// It failed, or its status is one that the vendor does not document.
    Error {
        /// For machines, such as `action_failed`.
        code: String,
        /// For people; one line.
        message: String,
    },
}

#[derive(Deserialize)]
pub(super) struct Refusal {
    pub(super) error: RefusalReason,
}

#[derive(Deserialize)]
pub(super) struct RefusalReason {
    pub(super) code: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) message: String,
}

#[derive(Deserialize)]
pub(super) struct Meta {
    pub(super) pagination: Pagination,
}

#[derive(Deserialize)]
pub(super) struct Pagination {
    pub(super) page: u64,
    #[serde(deserialize_with = "Option::deserialize")]
    pub(super) next_page: Option<u64>,
    #[serde(default)]
    pub(super) total_entries: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct OneServer {
    pub(super) server: WireServer,
}

/// What may stand beside an answer of any kind: then it is none, whatever else it says.
#[derive(Deserialize)]
pub(super) struct Beside {
    #[serde(default)]
    pub(super) error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct WireServer {
    pub(super) id: u64,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) status: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) locked: bool,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) protection: Protection,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) public_net: PublicNet,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) server_type: Name,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) location: Name,
    #[serde(default)]
    pub(super) created: Option<String>,
}

/// What is called by its name and is much more than that.
#[derive(Default, Deserialize)]
pub(super) struct Name {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) name: String,
}

#[derive(Default, Deserialize)]
pub(super) struct Protection {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) delete: bool,
}

#[derive(Default, Deserialize)]
pub(super) struct PublicNet {
    #[serde(default)]
    pub(super) ipv4: Option<Ipv4>,
}

#[derive(Deserialize)]
pub(super) struct Ipv4 {
    #[serde(default)]
    pub(super) ip: Option<String>,
}

impl From<WireServer> for Server {
    fn from(wire: WireServer) -> Self {
        Self {
            id: wire.id,
            name: wire.name,
            labels: wire.labels,
            status: wire.status,
            locked: wire.locked,
            protected_from_delete: wire.protection.delete,
            ipv4: wire.public_net.ipv4.and_then(|ipv4| ipv4.ip),
            server_type: wire.server_type.name,
            location: wire.location.name,
            created: time(wire.created.as_deref()),
        }
    }
}

impl From<WireServer> for (u64, Server) {
    fn from(wire: WireServer) -> Self {
        (wire.id, wire.into())
    }
}

/// `server` must be there: without it nobody knows whether it bills for nothing.
#[derive(Deserialize)]
pub(super) struct WireVolume {
    id: u64,
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    name: String,
    #[serde(deserialize_with = "Option::deserialize")]
    server: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    size: f64,
    #[serde(default)]
    created: Option<String>,
}

impl From<WireVolume> for (u64, Volume) {
    fn from(wire: WireVolume) -> Self {
        let volume = Volume {
            id: wire.id,
            name: wire.name,
            labels: wire.labels,
            server: wire.server,
            gigabytes: wire.size,
            created: time(wire.created.as_deref()),
        };
        (wire.id, volume)
    }
}

/// `assignee_id` must be there, as a volume's `server`.
#[derive(Deserialize)]
pub(super) struct WirePrimaryIp {
    #[serde(flatten)]
    ip: WireIp,
    #[serde(deserialize_with = "Option::deserialize")]
    assignee_id: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    location: Name,
}

/// `server` must be there, as a volume's.
#[derive(Deserialize)]
pub(super) struct WireFloatingIp {
    #[serde(flatten)]
    ip: WireIp,
    #[serde(deserialize_with = "Option::deserialize")]
    server: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    home_location: Name,
}

#[derive(Deserialize)]
struct WireIp {
    id: u64,
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    name: String,
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    version: String,
    #[serde(default)]
    created: Option<String>,
}

impl WireIp {
    fn read(self, server: Option<u64>, location: Name) -> (u64, Ip) {
        let ip = Ip {
            id: self.id,
            name: self.name,
            labels: self.labels,
            server,
            version: self.version,
            location: location.name,
            created: time(self.created.as_deref()),
        };
        (self.id, ip)
    }
}

impl From<WirePrimaryIp> for (u64, Ip) {
    fn from(wire: WirePrimaryIp) -> Self {
        wire.ip.read(wire.assignee_id, wire.location)
    }
}

impl From<WireFloatingIp> for (u64, Ip) {
    fn from(wire: WireFloatingIp) -> Self {
        wire.ip.read(wire.server, wire.home_location)
    }
}

#[derive(Deserialize)]
pub(super) struct ActionList {
    pub(super) actions: Vec<WireAction>,
}

#[derive(Deserialize)]
pub(super) struct OneAction {
    pub(super) action: WireAction,
}

#[derive(Deserialize)]
pub(super) struct WireAction {
    pub(super) id: u64,
    pub(super) status: String,
    #[serde(default, deserialize_with = "null_as_default")]
    command: String,
    #[serde(default, deserialize_with = "null_as_default")]
    resources: Vec<WireResource>,
    #[serde(default)]
    pub(super) error: Option<WireActionError>,
}

#[derive(Deserialize)]
struct WireResource {
    id: u64,
    #[serde(rename = "type")]
    kind: String,
}

impl WireAction {
    /// The one server that it deletes.
    fn deletes(&self) -> Option<u64> {
        let mut servers = self.resources.iter().filter(|it| it.kind == "server");
        let server = servers.next().filter(|_| self.command == "delete_server");
        server.filter(|_| servers.next().is_none()).map(|it| it.id)
    }
}

#[derive(Deserialize)]
pub(super) struct WireActionError {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) code: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) message: String,
}

impl From<WireAction> for Action {
    fn from(wire: WireAction) -> Self {
        let deletes = wire.deletes();
        let status = match (wire.status.as_str(), wire.error) {
            ("running", _) => ActionStatus::Running,
            ("success", _) => ActionStatus::Success,
            ("error", Some(error)) => ActionStatus::Error {
                code: one_line(&error.code),
                message: one_line(&error.message),
            },
            ("error", None) => ActionStatus::Error {
                code: "unknown".to_owned(),
                message: "the action failed and the vendor does not say why".to_owned(),
            },
            (other, _) => ActionStatus::Error {
                code: "unknown_status".to_owned(),
                message: one_line(&format!("the action's status is {other}")),
            },
        };
        Self {
            id: wire.id,
            deletes,
            status,
        }
    }
}
