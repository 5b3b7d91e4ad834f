//! Ids, and the names of what a provision creates.
//!
//! Names are derived from the provision's id and attempt and never remembered: with nothing but
//! the database row, everything that an attempt may have created can be found again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A provision's id, chosen by whoever asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProvisionId(Uuid);

impl ProvisionId {
    /// Wraps a UUID.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The UUID itself.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for ProvisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ProvisionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Identifies this database to the vendors: the value of the `backstop-controller` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerId(Uuid);

impl ControllerId {
    /// Wraps the id that the first migration made.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for ControllerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attempt at a provision. 0 is the time before any run took it; nothing is ever created in
/// attempt 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct AttemptNumber(i32);

impl AttemptNumber {
    /// The time before any run took the provision.
    pub const UNTAKEN: Self = Self(0);

    /// `None` for a negative number.
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        (number >= 0).then_some(Self(number))
    }

    /// The number of the next attempt.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// As the database keeps it.
    #[must_use]
    pub fn as_i32(self) -> i32 {
        self.0
    }
}

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A workflow run and which attempt at it: the identity that owns an attempt.
/// See GitHub's `github.run_id` and `github.run_attempt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// GitHub's id of the run.
    pub id: i64,
    /// Counts the re-runs of that run from 1.
    pub attempt: i32,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.attempt)
    }
}

/// The names that one attempt's things carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    provision: ProvisionId,
    attempt: AttemptNumber,
}

impl Names {
    /// The names of what `attempt` of `provision` creates.
    #[must_use]
    pub fn new(provision: ProvisionId, attempt: AttemptNumber) -> Self {
        Self { provision, attempt }
    }

    /// The server's name and the device's host name: `agent-<32 hex digits>-a<attempt>`.
    #[must_use]
    pub fn server_name(&self) -> String {
        format!("agent-{}-a{}", self.provision.0.simple(), self.attempt)
    }

    /// The auth key's description: `backstop <32 hex digits>-a<attempt>`. At most 50 characters of
    /// `[A-Za-z0-9 -]`, which is all that Tailscale takes.
    #[must_use]
    pub fn key_description(&self) -> String {
        format!("backstop {}-a{}", self.provision.0.simple(), self.attempt)
    }

    /// The five labels without which no server is ever deleted.
    #[must_use]
    pub fn labels(&self, controller: ControllerId, run: Run) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("managed-by".to_owned(), "backstop".to_owned()),
            (CONTROLLER_LABEL.to_owned(), controller.to_string()),
            (PROVISION_LABEL.to_owned(), self.provision.to_string()),
            ("backstop-attempt".to_owned(), self.attempt.to_string()),
            ("backstop-run".to_owned(), run.to_string()),
        ])
    }
}

/// The label that searches select by; the other four are compared afterwards.
pub const PROVISION_LABEL: &str = "backstop-provision";

/// The label by which everything of this database's is found.
pub const CONTROLLER_LABEL: &str = "backstop-controller";

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run { id: 42, attempt: 2 };

    fn names() -> Names {
        let id = "0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a".parse().unwrap();
        Names::new(id, AttemptNumber::new(3).unwrap())
    }

    #[test]
    fn names_follow_from_id_and_attempt() {
        assert_eq!(
            names().server_name(),
            "agent-0192f0c12b3c7d4e8f5a6b7c8d9e0f1a-a3"
        );
        assert_eq!(
            names().key_description(),
            "backstop 0192f0c12b3c7d4e8f5a6b7c8d9e0f1a-a3"
        );
    }

    #[test]
    fn labels_are_five_and_fit_the_vendors_limits() {
        let labels = names().labels(ControllerId::new(Uuid::nil()), RUN);
        assert_eq!(labels.len(), 5);
        assert_eq!(labels["backstop-run"], "42.2");
        for (key, value) in labels {
            assert!(key.len() <= 63 && value.len() <= 63, "{key}={value}");
        }
        let millionth = Names::new(
            ProvisionId::new(Uuid::max()),
            AttemptNumber::new(1_000_000).unwrap(),
        );
        assert!(millionth.server_name().len() <= 63);
        assert!(millionth.key_description().len() <= 50);
    }
}
