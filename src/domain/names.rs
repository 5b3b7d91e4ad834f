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

impl FromStr for ControllerId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl Run {
    /// Reads what [`Run`] displays as. `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let (id, attempt) = text.split_once('.')?;
        let run = Self {
            id: id.parse().ok()?,
            attempt: attempt.parse().ok()?,
        };
        (run.id > 0 && run.attempt > 0).then_some(run)
    }
}

/// The names that one attempt's things carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Whose names they are.
    #[must_use]
    pub fn provision(&self) -> ProvisionId {
        self.provision
    }

    /// Of which attempt.
    #[must_use]
    pub fn attempt(&self) -> AttemptNumber {
        self.attempt
    }

    /// The server's name and the device's host name: `agent-<32 hex digits>-a<attempt>`.
    #[must_use]
    pub fn server_name(&self) -> String {
        format!(
            "{SERVER_NAME}{}-a{}",
            self.provision.0.simple(),
            self.attempt
        )
    }

    /// Whose server or device is called so. `None` for any other name.
    #[must_use]
    pub fn from_server_name(name: &str) -> Option<Self> {
        Self::parse(name.strip_prefix(SERVER_NAME)?).filter(|names| names.server_name() == name)
    }

    /// The auth key's description: `backstop <32 hex digits>-a<attempt>`. At most 50 characters of
    /// `[A-Za-z0-9 -]`, which is all that Tailscale takes.
    #[must_use]
    pub fn key_description(&self) -> String {
        format!(
            "{KEY_DESCRIPTION}{}-a{}",
            self.provision.0.simple(),
            self.attempt
        )
    }

    /// Whose auth key is described so. `None` for any other description.
    #[must_use]
    pub fn from_key_description(description: &str) -> Option<Self> {
        Self::parse(description.strip_prefix(KEY_DESCRIPTION)?)
            .filter(|names| names.key_description() == description)
    }

    /// More spellings than ours get through here: whoever calls compares.
    fn parse(rest: &str) -> Option<Self> {
        let (id, attempt) = rest.split_once("-a")?;
        Self::of_attempt(id, attempt)
    }

    fn of_attempt(provision: &str, attempt: &str) -> Option<Self> {
        let attempt = AttemptNumber::new(attempt.parse().ok()?)?;
        // Nothing is ever created in the time before a run took the provision.
        (attempt != AttemptNumber::UNTAKEN).then_some(Self {
            provision: provision.parse().ok()?,
            attempt,
        })
    }

    /// The five labels without which no server is ever deleted.
    #[must_use]
    pub fn labels(&self, controller: ControllerId, run: Run) -> BTreeMap<String, String> {
        BTreeMap::from([
            (MANAGED_BY_LABEL.to_owned(), "backstop".to_owned()),
            (CONTROLLER_LABEL.to_owned(), controller.to_string()),
            (PROVISION_LABEL.to_owned(), self.provision.to_string()),
            (ATTEMPT_LABEL.to_owned(), self.attempt.to_string()),
            (RUN_LABEL.to_owned(), run.to_string()),
        ])
    }

    /// Whose labels these are, if all five are there and spelled as [`Names::labels`] spells them.
    #[must_use]
    pub fn from_labels(
        labels: &BTreeMap<String, String>,
        controller: ControllerId,
    ) -> Option<(Self, Run)> {
        let names = Self::of_attempt(labels.get(PROVISION_LABEL)?, labels.get(ATTEMPT_LABEL)?)?;
        let run = Run::parse(labels.get(RUN_LABEL)?)?;
        names
            .labels(controller, run)
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            .then_some((names, run))
    }
}

const SERVER_NAME: &str = "agent-";
const KEY_DESCRIPTION: &str = "backstop ";

/// The label that says that backstop looks after a thing; its value is `backstop`.
pub const MANAGED_BY_LABEL: &str = "managed-by";
/// The label by which everything of this database's is found.
pub const CONTROLLER_LABEL: &str = "backstop-controller";
/// The label that searches select by; the other four are compared afterwards.
pub const PROVISION_LABEL: &str = "backstop-provision";
const ATTEMPT_LABEL: &str = "backstop-attempt";
const RUN_LABEL: &str = "backstop-run";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn names_and_labels_read_back_as_what_they_were_made_of(
            id: u128, controller: u128, attempt in 1..=i32::MAX, run in 1..=i64::MAX,
            run_attempt in 1..=i32::MAX,
        ) {
            let names = Names::new(
                ProvisionId::new(Uuid::from_u128(id)),
                AttemptNumber::new(attempt).unwrap(),
            );
            let run = Run { id: run, attempt: run_attempt };
            let controller = ControllerId::new(Uuid::from_u128(controller));
            prop_assert_eq!(Names::from_server_name(&names.server_name()), Some(names));
            prop_assert_eq!(Names::from_key_description(&names.key_description()), Some(names));
            let mut labels = names.labels(controller, run);
            labels.insert("team".to_owned(), "web".to_owned());
            prop_assert_eq!(Names::from_labels(&labels, controller), Some((names, run)));
        }

        #[test]
        fn whatever_reads_as_a_name_is_written_the_same_way(
            text in "(agent-|backstop )[0-9a-fA-F]{32}-a[+0-9]{1,3}[a ]?",
        ) {
            if let Some(names) = Names::from_server_name(&text) {
                prop_assert_eq!(names.server_name(), text.clone());
            }
            if let Some(names) = Names::from_key_description(&text) {
                prop_assert_eq!(names.key_description(), text);
            }
        }
    }

    #[test]
    fn names_that_are_almost_ours_are_nobodys() {
        const HEX: &str = "0192f0c12b3c7d4e8f5a6b7c8d9e0f1a";
        for rest in [
            format!("{HEX}-a0"),
            format!("{HEX}-a-1"),
            format!("{HEX}-a+1"),
            format!("{HEX}-a01"),
            format!("{HEX}-a"),
            format!("{HEX}-a1-1"),
            format!("{HEX}-a1 "),
            format!("{HEX}-a99999999999"),
            format!("{HEX}a1"),
            format!("{}-a1", HEX.to_uppercase()),
            format!("{}-a1", &HEX[1..]),
            format!("{HEX}0-a1"),
            "0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a-a1".to_owned(),
            format!("{{{HEX}}}-a1"),
        ] {
            assert_eq!(Names::from_server_name(&format!("agent-{rest}")), None);
            assert_eq!(
                Names::from_key_description(&format!("backstop {rest}")),
                None
            );
        }
        for name in ["", "agent-", "backstop "] {
            assert_eq!(Names::from_server_name(name), None, "{name}");
            assert_eq!(Names::from_key_description(name), None, "{name}");
        }
        let name = names().server_name();
        assert_eq!(
            Names::from_server_name(&format!("Agent-{}", &name[6..])),
            None
        );
        assert_eq!(Names::from_key_description(&name), None);
    }

    #[test]
    fn labels_that_lack_one_or_spell_one_otherwise_are_nobodys() {
        let controller = ControllerId::new(Uuid::from_u128(7));
        let labels = names().labels(controller, RUN);
        for key in labels.keys() {
            let mut lacking = labels.clone();
            lacking.remove(key);
            assert_eq!(Names::from_labels(&lacking, controller), None, "{key}");
        }
        for (key, value) in [
            (MANAGED_BY_LABEL, "terraform"),
            (CONTROLLER_LABEL, "00000000000000000000000000000007"),
            (PROVISION_LABEL, "0192f0c12b3c7d4e8f5a6b7c8d9e0f1a"),
            (ATTEMPT_LABEL, "0"),
            (ATTEMPT_LABEL, "03"),
            (RUN_LABEL, "42"),
            (RUN_LABEL, "42.02"),
            (RUN_LABEL, "0.1"),
            (RUN_LABEL, "-42.2"),
        ] {
            let mut other = labels.clone();
            other.insert(key.to_owned(), value.to_owned());
            assert_eq!(
                Names::from_labels(&other, controller),
                None,
                "{key}={value}"
            );
        }
        let another = ControllerId::new(Uuid::from_u128(8));
        assert_eq!(Names::from_labels(&labels, another), None);
    }
}
