//! Auth keys and devices: what a look shows, and what a step makes of it.

use std::sync::Arc;
use std::time::Duration;

use super::judge::{Judge, may_lag};
use super::sight::Sight;
use crate::domain::fields::VendorId;
use crate::domain::names::Names;
use crate::domain::step::{Proof, Resource};
use crate::providers::tailscale::{Deletion, Device, Key};
use crate::providers::{Tailscale, VendorError};
use crate::store::ledger::{ClaimedStep, Outcome, Subject};

/// A delete is done when it is answered: the list that proves it can be read at once, if it does
/// not lag.
const LOOK_IN: Duration = Duration::ZERO;

/// How many lists a look is.
pub(super) fn looks(steps: &[ClaimedStep]) -> u32 {
    let needs = |resource| steps.iter().any(|step| step.resource == resource);
    u32::from(needs(Resource::AuthKey)) + u32::from(needs(Resource::Device))
}

/// What one look shows, for a whole batch. Only what a step of the batch needs is listed; one
/// list that fails does not keep the other's steps.
pub(super) struct View {
    keys: Result<Vec<Key>, VendorError>,
    devices: Result<Vec<Device>, VendorError>,
}

pub(super) async fn look(client: &Tailscale, steps: &[ClaimedStep]) -> View {
    let needs = |resource| steps.iter().any(|step| step.resource == resource);
    View {
        keys: if needs(Resource::AuthKey) {
            client.keys().await
        } else {
            Ok(Vec::new())
        },
        devices: if needs(Resource::Device) {
            client.devices().await
        } else {
            Ok(Vec::new())
        },
    }
}

pub(super) async fn carry_out(
    client: &Tailscale,
    tag: &str,
    view: &View,
    step: Arc<ClaimedStep>,
    judge: &Judge<'_>,
    sight: &Sight<'_>,
) -> Outcome {
    let outcome = match step.resource {
        Resource::AuthKey => match &view.keys {
            Ok(keys) => key_step(client, keys, &step, judge, sight).await,
            Err(error) => Err(error.clone()),
        },
        Resource::Device | Resource::Server => match &view.devices {
            Ok(devices) => device_step(client, tag, devices, &step, judge, sight).await,
            Err(error) => Err(error.clone()),
        },
    };
    outcome.unwrap_or_else(|error| judge.failed(&step, &error))
}

async fn key_step(
    client: &Tailscale,
    keys: &[Key],
    step: &ClaimedStep,
    judge: &Judge<'_>,
    sight: &Sight<'_>,
) -> Result<Outcome, VendorError> {
    let description = Names::new(step.provision, step.attempt).key_description();
    let is_own = |key: &Key| key.is_auth_key() && key.description == description;
    let id = match &step.subject {
        Subject::Search => {
            let live = keys.iter().filter(|key| is_own(key) && key.is_live());
            return Ok(judge
                .found(step, live.map(|key| key.id.clone()), sight)
                .await);
        }
        Subject::Id(id) => id,
    };
    if !judge.permit.one_more(None) {
        return Ok(judge.held_back(None));
    }
    let asked;
    let key = if let Some(key) = keys.iter().find(|key| key.id == id.as_str()) {
        key
    } else if step.accepted.is_some() {
        // The vendor answered that it is done, which needs no other evidence.
        return Ok(Outcome::Gone(Proof::Deleted));
    } else if let Some(key) = client.key(id.as_str()).await? {
        asked = key;
        &asked
    } else {
        return Ok(sight.absent(step, Proof::AlreadyGone).await);
    };
    if !is_own(key) {
        let because = format!("key {id} does not have this attempt's description");
        return Ok(judge.not_ours(step, because));
    }
    if !key.is_live() {
        // A revoked key stays readable; nobody can use it.
        return Ok(Outcome::Gone(proof(step)));
    }
    if let Some(outcome) = may_lag(step) {
        return Ok(outcome);
    }
    let deletion = client.delete_key(id.as_str()).await;
    fail::fail_point!("deleted");
    Ok(after(deletion?, step, id, judge))
}

async fn device_step(
    client: &Tailscale,
    tag: &str,
    devices: &[Device],
    step: &ClaimedStep,
    judge: &Judge<'_>,
    sight: &Sight<'_>,
) -> Result<Outcome, VendorError> {
    let hostname = Names::new(step.provision, step.attempt).server_name();
    // A device that was ours when it was first seen stays ours under another host name: its id is
    // never given to another. Without the tag nothing is ours.
    let is_own = |device: &Device| {
        !device.is_external
            && device.tags.iter().any(|t| t == tag)
            && (device.hostname == hostname || step.own)
    };
    let id = match &step.subject {
        Subject::Search => {
            let own = devices
                .iter()
                .filter(|device| device.hostname == hostname && is_own(device));
            return Ok(judge
                .found(step, own.map(|device| device.node_id.clone()), sight)
                .await);
        }
        Subject::Id(id) => id,
    };
    if !judge.permit.one_more(None) {
        return Ok(judge.held_back(None));
    }
    let asked;
    let device = if let Some(device) = devices.iter().find(|device| device.answers_to(id.as_str()))
    {
        device
    } else if step.accepted.is_some() {
        // The vendor answered that it is done, which needs no other evidence.
        return Ok(Outcome::Gone(Proof::Deleted));
    } else if let Some(device) = client.device(id.as_str()).await? {
        asked = device;
        &asked
    } else {
        return Ok(sight.absent(step, Proof::AlreadyGone).await);
    };
    if !is_own(device) {
        let because = format!("device {id} does not have {tag} and this attempt's host name");
        return Ok(judge.not_ours(step, because));
    }
    if let Some(outcome) = may_lag(step) {
        return Ok(outcome);
    }
    let deletion = client.delete_device(id.as_str()).await;
    fail::fail_point!("deleted");
    Ok(after(deletion?, step, id, judge))
}

fn after(deletion: Deletion, step: &ClaimedStep, id: &VendorId, judge: &Judge<'_>) -> Outcome {
    match deletion {
        Deletion::Deleted => Outcome::Accepted {
            action_id: None,
            look_in: LOOK_IN,
        },
        Deletion::AlreadyGone => judge.absent_but_seen(step, id),
    }
}

fn proof(step: &ClaimedStep) -> Proof {
    match step.accepted {
        Some(_) => Proof::Deleted,
        None => Proof::AlreadyGone,
    }
}
