//! What the simulated vendors were asked to delete, and what came of it.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason
)]

use std::collections::BTreeSet;

use backstop::sim::{Effect, HistoryEntry, Sim, Vendor};

/// The ids that a DELETE was sent for, whatever was answered, with a letter for their kind.
pub fn asked_to_delete(sim: &Sim) -> BTreeSet<String> {
    delete_requests(sim)
        .iter()
        .map(|entry| id_in(&entry.path))
        .collect()
}

/// Every DELETE at the time at which it was sent. One that takes effect late has another entry then,
/// when a later test of the same simulation may be looking.
pub fn delete_requests(sim: &Sim) -> Vec<HistoryEntry> {
    let mut requests = deletes(sim);
    requests.retain(|entry| !entry.late);
    requests
}

/// Every DELETE that a vendor got.
pub fn deletes(sim: &Sim) -> Vec<HistoryEntry> {
    let mut history = sim.history();
    history.retain(|entry| entry.method == "DELETE");
    history
}

/// The ids that a DELETE took effect on, once for each time.
pub fn deleted(sim: &Sim) -> Vec<String> {
    deletes(sim)
        .into_iter()
        .filter_map(|entry| match entry.effect? {
            Effect::ServerDeleted { id, .. } => Some(id.to_string()),
            Effect::DeviceDeleted { node_id, .. } => Some(node_id),
            Effect::KeyRevoked { id, .. } => Some(id),
            _ => None,
        })
        .collect()
}

/// How often a vendor was sent this method with a path that begins so.
pub fn count(sim: &Sim, vendor: Vendor, method: &str, path: &str) -> usize {
    sim.history()
        .iter()
        .filter(|entry| entry.vendor == vendor && entry.method == method)
        .filter(|entry| entry.path.starts_with(path))
        .count()
}

fn id_in(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
