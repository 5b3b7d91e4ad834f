//! Tailscale: finding and deleting devices and auth keys. <https://tailscale.com/api>
//!
//! Errors carry no code here, so the status decides. A 404 proves little: it is also the answer
//! for what the credential may not see, and for a wrong tailnet. Lists are whole (the API has no
//! pages) and are what absence is read from.

mod abilities;
mod credential;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod shapes;

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::http::{Answer, Call, Http};
use super::{SetupError, Timeouts, Vendor, VendorError};
use crate::metrics::Metrics;
use credential::Access;
use shapes::{WireDevice, WireKey};

pub use abilities::Grant;
pub use credential::TailscaleCredential;
pub use shapes::{Device, Key};

/// A client for one tailnet.
pub struct Tailscale {
    http: Http,
    tailnet: String,
    access: Access,
}

/// What became of a request to delete a device or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The vendor deleted it.
    Deleted,
    /// 404. Weak evidence alone: also answered when the credential may not see it.
    AlreadyGone,
}

impl Tailscale {
    /// `base_url` is `TAILSCALE_BASE_URL`, without the API's path; `tailnet` is
    /// `TAILSCALE_TAILNET`, where `-` is the credential's own.
    ///
    /// # Errors
    /// When one of them can't be used; the message names the setting and shows no secret.
    pub fn new(
        base_url: &str,
        tailnet: &str,
        credential: TailscaleCredential,
    ) -> Result<Self, SetupError> {
        let timeouts = Timeouts::default();
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '/';
        if tailnet.is_empty() || tailnet.starts_with('.') || tailnet.contains(odd) {
            let problem = "TAILSCALE_TAILNET must be a tailnet's id or name, or `-`";
            return Err(SetupError(problem.to_owned()));
        }
        Ok(Self {
            http: Http::new(Vendor::Tailscale, "TAILSCALE_BASE_URL", base_url, timeouts)?,
            tailnet: tailnet.to_owned(),
            access: Access::new(credential)?,
        })
    }

    /// The same client with other time-outs.
    ///
    /// # Errors
    /// When the machine has no usable TLS roots.
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Result<Self, SetupError> {
        self.http.set_timeouts(timeouts)?;
        Ok(self)
    }

    /// The same client with its requests counted.
    #[must_use]
    pub fn counted_in(mut self, metrics: &Metrics) -> Self {
        self.http.count_in(metrics);
        self
    }

    /// All devices of the tailnet, by ascending id.
    ///
    /// The vendor can filter by host name and tag; this does not ask it to, because a filter that
    /// works other than we think would read as absence.
    ///
    /// # Errors
    /// `Unavailable` also when the answer is no list of devices, or one of them has no id.
    pub async fn devices(&self) -> Result<Vec<Device>, VendorError> {
        let answer = self
            .send(|http| http.get(&["api", "v2", "tailnet", &self.tailnet, "devices"]))
            .await?;
        let body: DeviceList = read(&answer)?;
        let mut devices = BTreeMap::new();
        for wire in body.devices {
            let device = wire.into_device();
            let device = device.ok_or_else(|| answer.unusable("a device without an id"))?;
            once(&mut devices, device.node_id.clone(), device, &answer)?;
        }
        Ok(devices.into_values().collect())
    }

    /// One device, by node id or legacy id; `None` for a 404, which alone proves nothing.
    ///
    /// # Errors
    /// `Unavailable` also when the answer is about another device; `Rejected` for an id that can't
    /// be one, which is not sent.
    pub async fn device(&self, id: &str) -> Result<Option<Device>, VendorError> {
        let id = self.checked("GET", "device", id)?;
        let answer = self
            .send(|http| http.get(&["api", "v2", "device", id]))
            .await?;
        if is_absent(&answer) {
            return Ok(None);
        }
        let device = read::<WireDevice>(&answer)?.into_device();
        match device.filter(|device| device.answers_to(id)) {
            Some(device) => Ok(Some(device)),
            None => Err(answer.unusable("an answer about another device")),
        }
    }

    /// Deletes a device, by node id or legacy id. Deleting twice is harmless. The device comes
    /// back if its machine lives and holds a reusable key.
    ///
    /// # Errors
    /// `Rejected` for a device that is shared in from another tailnet (501) and for an id that
    /// can't be one, which is not sent. After `Unavailable` it may nevertheless be gone.
    pub async fn delete_device(&self, id: &str) -> Result<Deletion, VendorError> {
        let id = self.checked("DELETE", "device", id)?;
        let answer = self
            .send(|http| http.delete(&["api", "v2", "device", id]))
            .await?;
        deletion(&answer)
    }

    /// All keys that are in force, by ascending id: auth keys, and also access tokens and OAuth
    /// clients as far as the credential may see them (see [`Key::is_auth_key`]). Revoked and
    /// expired ones are not listed.
    ///
    /// # Errors
    /// `Unavailable` also when the answer is no list of keys.
    pub async fn keys(&self) -> Result<Vec<Key>, VendorError> {
        // Without `all`, keys that OAuth clients made are left out in silence.
        let answer = self
            .send(|http| {
                http.get(&["api", "v2", "tailnet", &self.tailnet, "keys"])
                    .query(&[("all", "true")])
            })
            .await?;
        let body: KeyList = read(&answer)?;
        let mut keys = BTreeMap::new();
        for key in body.keys.into_iter().map(Key::from) {
            once(&mut keys, key.id.clone(), key, &answer)?;
        }
        Ok(keys.into_values().collect())
    }

    /// One key; `None` for a 404. A revoked or expired key is still found, with
    /// [`Key::is_live`] false.
    ///
    /// # Errors
    /// `Unavailable` also when the answer is about another key; `Rejected` for an id that can't be
    /// one, which is not sent.
    pub async fn key(&self, id: &str) -> Result<Option<Key>, VendorError> {
        let id = self.checked("GET", "keys", id)?;
        let answer = self
            .send(|http| http.get(&["api", "v2", "tailnet", &self.tailnet, "keys", id]))
            .await?;
        if is_absent(&answer) {
            return Ok(None);
        }
        let key = Key::from(read::<WireKey>(&answer)?);
        if key.id != id {
            return Err(answer.unusable("an answer about another key"));
        }
        Ok(Some(key))
    }

    /// Revokes a key. Revoking twice is harmless; devices that used it stay.
    ///
    /// The same route deletes OAuth clients and access tokens, our own included: only for a key
    /// that [`Tailscale::key`] or [`Tailscale::keys`] showed to be an auth key of ours.
    ///
    /// # Errors
    /// `Forbidden` also for this key alone; `Rejected` for an id that can't be one, which is not
    /// sent. After `Unavailable` it may nevertheless be revoked.
    pub async fn delete_key(&self, id: &str) -> Result<Deletion, VendorError> {
        let id = self.checked("DELETE", "keys", id)?;
        let answer = self
            .send(|http| http.delete(&["api", "v2", "tailnet", &self.tailnet, "keys", id]))
            .await?;
        deletion(&answer)
    }

    /// Ids come from messages too. One that isn't plain never gets into a path.
    fn checked<'a>(&self, method: &str, what: &str, id: &'a str) -> Result<&'a str, VendorError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !id.is_empty() && id.len() <= 128 && id.bytes().all(plain) {
            return Ok(id);
        }
        let why = "not sent, the id is no id of Tailscale's";
        Err(self.http.unsent(method, &format!("{what}/…"), why))
    }

    /// Sends a call with the credential.
    async fn send<'a>(
        &'a self,
        call: impl Fn(&'a Http) -> Call<'a>,
    ) -> Result<Answer, VendorError> {
        match &self.access {
            Access::ApiKey(key) => call(&self.http).bearer(key).send().await,
            Access::OAuth(oauth) => oauth.send(&self.http, || call(&self.http)).await,
        }
    }
}

impl std::fmt::Debug for Tailscale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tailscale")
            .field("base_url", &self.http.base().as_str())
            .field("tailnet", &self.tailnet)
            .finish_non_exhaustive()
    }
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, VendorError> {
    if !answer.status.is_success() {
        return Err(answer.refused(None));
    }
    let body = answer.json()?;
    require_no_error(answer)?;
    Ok(body)
}

/// An error is told by its `message`, which nothing else has.
fn require_no_error(answer: &Answer) -> Result<(), VendorError> {
    match answer.refusal::<Refusal>() {
        Some(_) => Err(answer.unusable("a success with an error")),
        None => Ok(()),
    }
}

/// Keeps a thing of a list. Of one that is there twice and not the same, whichever is believed may be
/// the wrong one.
fn once<T: PartialEq>(
    things: &mut BTreeMap<String, T>,
    id: String,
    thing: T,
    answer: &Answer,
) -> Result<(), VendorError> {
    if things.get(&id).is_some_and(|other| *other != thing) {
        return Err(answer.unusable("a list that contradicts itself"));
    }
    things.insert(id, thing);
    Ok(())
}

fn deletion(answer: &Answer) -> Result<Deletion, VendorError> {
    if is_absent(answer) {
        return Ok(Deletion::AlreadyGone);
    }
    if !answer.status.is_success() {
        return Err(answer.refused(None));
    }
    require_no_error(answer)?;
    Ok(Deletion::Deleted)
}

/// Whether the vendor speaks of the resource. A path that is no route is "404 page not found",
/// and a 404 of something in between has no `message`.
fn is_absent(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && answer
            .refusal::<Refusal>()
            .is_some_and(|body| !body.message.contains("page not found"))
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Without a default: in November 2025 the vendor answered a map of devices for a day
/// (tailscale/tailscale#17853), which must not read as no devices.
#[derive(Deserialize)]
struct DeviceList {
    devices: Vec<WireDevice>,
}

#[derive(Deserialize)]
struct KeyList {
    keys: Vec<WireKey>,
}
