//! Devices and keys: as the vendor writes them, and as we read them.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::providers::wire::{null_as_default, time};

/// A device of the tailnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What to call it by in requests; never reused. The legacy id if the vendor gave no other.
    pub node_id: String,
    /// The legacy id; `None` if the vendor gave none.
    pub id: Option<String>,
    /// What the machine calls itself. Not unique.
    pub hostname: String,
    /// The MagicDNS name; it gets a suffix such as `-1` when the host name was taken.
    pub name: String,
    /// Such as `tag:agent`; empty for a device that belongs to a user.
    pub tags: Vec<String>,
    /// IPv4 and IPv6 in the tailnet.
    pub addresses: Vec<String>,
    /// Shared in from another tailnet: not ours to delete.
    pub is_external: bool,
    /// When it joined, by the vendor's clock; `None` if it did not say.
    pub created: Option<DateTime<Utc>>,
    /// When it was last connected; `None` while it is, or if it never was.
    pub last_seen: Option<DateTime<Utc>>,
}

impl Device {
    /// Whether this is the device with that node id or legacy id.
    #[must_use]
    pub fn answers_to(&self, id: &str) -> bool {
        self.node_id == id || self.id.as_deref() == Some(id)
    }
}

/// An auth key, or something else that the vendor keeps with them. Never its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What to call it by in requests.
    pub id: String,
    /// `auth`, `client`, `api` or `federated`; `None` if the vendor did not say.
    pub key_type: Option<String>,
    /// What whoever made it wrote on it; empty for nothing.
    pub description: String,
    /// Revoked or expired, says the vendor.
    pub invalid: bool,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// When it was revoked; `None` if it was not.
    pub revoked: Option<DateTime<Utc>>,
    /// When it expires or did; `None` for never or unknown. Compare it with the database's time,
    /// if at all: the vendor sets `invalid` for expired keys.
    pub expires: Option<DateTime<Utc>>,
    /// The tags of devices that join with it, or of the OAuth client.
    pub tags: Vec<String>,
    /// What it may do at the API; empty for an auth key.
    pub scopes: Vec<String>,
    /// Whether it lets devices join.
    joins_devices: bool,
}

impl Key {
    /// Whether it is a key that devices join with: the only kind that is ever ours to revoke.
    #[must_use]
    pub fn is_auth_key(&self) -> bool {
        match &self.key_type {
            Some(kind) => kind == "auth",
            None => self.joins_devices,
        }
    }

    /// Whether it can still be used, as far as the vendor says.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.invalid && self.revoked.is_none()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireDevice {
    #[serde(default, deserialize_with = "null_as_default")]
    node_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    hostname: String,
    #[serde(default, deserialize_with = "null_as_default")]
    name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    is_external: bool,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    last_seen: Option<String>,
}

impl WireDevice {
    /// `None` if it has no id of either kind.
    pub(super) fn into_device(self) -> Option<Device> {
        let id = Some(self.id).filter(|id| !id.is_empty());
        let node_id = Some(self.node_id).filter(|id| !id.is_empty());
        Some(Device {
            node_id: node_id.or_else(|| id.clone())?,
            id,
            hostname: self.hostname,
            name: self.name,
            tags: self.tags,
            addresses: self.addresses,
            is_external: self.is_external,
            created: time(self.created.as_deref()),
            last_seen: time(self.last_seen.as_deref()),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireKey {
    id: String,
    #[serde(default)]
    key_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    description: String,
    #[serde(default, deserialize_with = "null_as_default")]
    invalid: bool,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    revoked: Option<String>,
    #[serde(default)]
    expires: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    scopes: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    capabilities: Capabilities,
}

#[derive(Default, Deserialize)]
struct Capabilities {
    #[serde(default)]
    devices: Option<DeviceCapabilities>,
}

#[derive(Deserialize)]
struct DeviceCapabilities {
    #[serde(default)]
    create: Option<CreateCapability>,
}

#[derive(Deserialize)]
struct CreateCapability {
    #[serde(default, deserialize_with = "null_as_default")]
    tags: Vec<String>,
}

impl From<WireKey> for Key {
    fn from(wire: WireKey) -> Self {
        let create = wire.capabilities.devices.and_then(|devices| devices.create);
        let joins_devices = create.is_some();
        let tags = create.map(|create| create.tags);
        Self {
            id: wire.id,
            key_type: wire.key_type.filter(|kind| !kind.is_empty()),
            description: wire.description,
            invalid: wire.invalid,
            created: time(wire.created.as_deref()),
            revoked: time(wire.revoked.as_deref()),
            expires: time(wire.expires.as_deref()),
            tags: tags.filter(|tags| !tags.is_empty()).unwrap_or(wire.tags),
            scopes: wire.scopes,
            joins_devices,
        }
    }
}
