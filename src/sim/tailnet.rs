//! State of the tailnet: devices, auth keys and the tokens of the OAuth client.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{clock::later, snapshot};

/// Where the names of this tailnet end.
pub(super) const DOMAIN: &str = "tail5ca1e.ts.net";

/// How long an auth key lasts when nobody says otherwise: 90 days.
pub(super) const DEFAULT_EXPIRY: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A machine of the tailnet.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) node_id: String,
    /// The legacy id.
    pub(super) id: u64,
    pub(super) hostname: String,
    /// The unique first label of its name.
    pub(super) label: String,
    pub(super) tags: Vec<String>,
    pub(super) ephemeral: bool,
    pub(super) authorized: bool,
    pub(super) created: DateTime<Utc>,
}

impl Device {
    pub(super) fn name(&self) -> String {
        format!("{}.{DOMAIN}", self.label)
    }

    pub(super) fn ipv4(&self) -> Ipv4Addr {
        let [.., a, b, c] = self.id.to_be_bytes();
        Ipv4Addr::new(100, 64 | (a & 0x3f), b, c)
    }

    pub(super) fn ipv6(&self) -> Ipv6Addr {
        let [.., a, b, c, d] = self.id.to_be_bytes();
        let pair = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, pair(a, b), pair(c, d))
    }
}

/// What a new auth key allows, all of it checked.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the vendor's form has these boxes to tick"
)]
#[derive(Clone, Debug)]
pub(super) struct NewKey {
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) reusable: bool,
    pub(super) ephemeral: bool,
    pub(super) preauthorized: bool,
    pub(super) expiry: Duration,
    /// Whether the OAuth client minted it; else a user did.
    pub(super) by_oauth_client: bool,
}

/// An auth key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) allows: NewKey,
    pub(super) created: DateTime<Utc>,
    pub(super) expires: DateTime<Utc>,
    pub(super) revoked: Option<DateTime<Utc>>,
    pub(super) used: Option<DateTime<Utc>>,
    secret: String,
}

impl Key {
    /// Whether it no longer lets anybody in.
    pub(super) fn is_invalid(&self, now: DateTime<Utc>) -> bool {
        self.ended(now).is_some()
    }

    /// Since when it lets nobody in. `None`: it does.
    pub(super) fn ended(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let used_up = self.used.filter(|_| !self.allows.reusable);
        let expired = Some(self.expires).filter(|at| *at <= now);
        [self.revoked, used_up, expired].into_iter().flatten().min()
    }
}

/// The tailnet's devices, keys and tokens.
#[derive(Debug, Default)]
pub(super) struct Tailnet {
    devices: BTreeMap<u64, Device>,
    /// Those that are gone, and since when.
    departed: Vec<(Device, DateTime<Utc>)>,
    keys: BTreeMap<String, Key>,
    tokens: BTreeMap<String, DateTime<Utc>>,
    devices_made: u64,
}

impl Tailnet {
    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// The device with that node id or legacy id.
    pub(super) fn device(&self, any_id: &str) -> Option<&Device> {
        self.devices
            .values()
            .find(|device| device.node_id == any_id || device.id.to_string() == any_id)
    }

    pub(super) fn remove_device(&mut self, any_id: &str, now: DateTime<Utc>) -> Option<Device> {
        let id = self.device(any_id)?.id;
        let device = self.devices.remove(&id)?;
        self.departed.push((device.clone(), now));
        Some(device)
    }

    /// The devices that are gone, and since when.
    pub(super) fn departed(&self) -> impl Iterator<Item = &(Device, DateTime<Utc>)> {
        self.departed.iter()
    }

    /// Lets a device in that nobody asked a key of.
    pub(super) fn add_device(
        &mut self,
        hostname: &str,
        tags: &[String],
        now: DateTime<Utc>,
    ) -> String {
        self.join(hostname, tags.to_vec(), false, true, now)
    }

    /// Lets a device in by an auth key. `None`: the key lets nobody in.
    pub(super) fn enrol(
        &mut self,
        secret: &str,
        hostname: &str,
        now: DateTime<Utc>,
    ) -> Option<String> {
        let key = self.keys.values_mut().find(|key| key.secret == secret)?;
        if key.is_invalid(now) {
            return None;
        }
        key.used = key.used.or(Some(now));
        let allows = key.allows.clone();
        Some(self.join(
            hostname,
            allows.tags,
            allows.ephemeral,
            allows.preauthorized,
            now,
        ))
    }

    fn join(
        &mut self,
        hostname: &str,
        tags: Vec<String>,
        ephemeral: bool,
        authorized: bool,
        now: DateTime<Utc>,
    ) -> String {
        self.devices_made += 1;
        let id = 92_960_230_385 + self.devices_made * 7_919;
        let node_id = format!("n{}CNTRL", random_word(9));
        let device = Device {
            node_id: node_id.clone(),
            id,
            hostname: hostname.to_owned(),
            label: self.free_label(hostname),
            tags,
            ephemeral,
            authorized,
            created: now,
        };
        self.devices.insert(id, device);
        node_id
    }

    /// The machine calls itself something else now; its name follows. Whether it is there.
    pub(super) fn rename_device(&mut self, any_id: &str, hostname: &str) -> bool {
        let label = self.free_label(hostname);
        let Some(id) = self.device(any_id).map(|device| device.id) else {
            return false;
        };
        if let Some(device) = self.devices.get_mut(&id) {
            hostname.clone_into(&mut device.hostname);
            device.label = label;
        }
        true
    }

    /// `hostname`, or with the first free `-1`, `-2`, … behind it.
    fn free_label(&self, hostname: &str) -> String {
        let wanted = hostname.to_lowercase();
        let is_free = |label: &str| self.devices.values().all(|device| device.label != label);
        if is_free(&wanted) {
            return wanted;
        }
        // One more number than there are devices: one of them is free.
        (1..=self.devices.len())
            .map(|number| format!("{wanted}-{number}"))
            .find(|label| is_free(label))
            .unwrap_or(wanted)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values()
    }

    pub(super) fn key(&self, id: &str) -> Option<&Key> {
        self.keys.get(id)
    }

    /// Mints a key: its id, and the secret that is shown once.
    pub(super) fn mint(&mut self, allows: NewKey, now: DateTime<Utc>) -> (String, String) {
        let id = format!("k{}CNTRL", random_word(9));
        let secret = format!("tskey-auth-{id}-{}", random_word(32));
        let key = Key {
            id: id.clone(),
            created: now,
            expires: later(now, allows.expiry),
            allows,
            revoked: None,
            used: None,
            secret: secret.clone(),
        };
        self.keys.insert(id.clone(), key);
        (id, secret)
    }

    /// Revokes a key that is not revoked yet. `None`: there is no such key.
    pub(super) fn revoke(&mut self, id: &str, now: DateTime<Utc>) -> Option<&Key> {
        let key = self.keys.get_mut(id).filter(|key| key.revoked.is_none())?;
        key.revoked = Some(now);
        Some(key)
    }

    /// Hands out an access token that ends by itself.
    pub(super) fn issue_token(&mut self, until: DateTime<Utc>) -> String {
        let token = format!("tskey-api-k{}CNTRL-{}", random_word(9), random_word(32));
        self.tokens.insert(token.clone(), until);
        token
    }

    /// Whether it is an access token that has not ended.
    pub(super) fn is_live_token(&self, token: &str, now: DateTime<Utc>) -> bool {
        self.tokens.get(token).is_some_and(|until| *until > now)
    }

    /// Ends every access token.
    pub(super) fn end_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Copies of all devices.
    pub(super) fn snapshot_devices(&self) -> Vec<snapshot::Device> {
        self.devices
            .values()
            .map(|device| snapshot::Device {
                node_id: device.node_id.clone(),
                id: device.id.to_string(),
                hostname: device.hostname.clone(),
                name: device.name(),
                tags: device.tags.clone(),
                ephemeral: device.ephemeral,
                created: device.created,
            })
            .collect()
    }

    /// Copies of all keys, revoked ones too, oldest first.
    pub(super) fn snapshot_keys(&self, now: DateTime<Utc>) -> Vec<snapshot::Key> {
        let mut keys: Vec<_> = self
            .keys
            .values()
            .map(|key| snapshot::Key {
                id: key.id.clone(),
                description: key.allows.description.clone(),
                tags: key.allows.tags.clone(),
                reusable: key.allows.reusable,
                used: key.used.is_some(),
                revoked: key.revoked.is_some(),
                invalid: key.is_invalid(now),
                created: key.created,
                expires: key.expires,
            })
            .collect();
        keys.sort_by_key(|key| key.created);
        keys
    }
}

/// Letters and digits, as the vendors' ids and secrets are made of.
pub(super) fn random_word(length: usize) -> String {
    const LETTERS: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    (0..length)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}
