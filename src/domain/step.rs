//! A rollback step: one thing that must go, and how far that has come.
//!
//! [`StepState::after`] is the whole table; what it does not list is refused. The database says
//! the same again in the constraint `steps_transition`, and a test holds the two against each
//! other.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spelling::spelled_by_serde;

/// A kind of thing that a provision creates, in the order in which it is deleted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A Tailscale auth key. First, so that nothing enrols again.
    AuthKey,
    /// A Hetzner server.
    Server,
    /// A Tailscale device. Last, for a live server would bring it back.
    Device,
}

impl Resource {
    /// Every kind, in the order of deletion.
    pub const ALL: [Self; 3] = [Self::AuthKey, Self::Server, Self::Device];
}

/// Why a step counts as gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// We deleted it, and the vendor's list is without it.
    Deleted,
    /// Its id answered 404 before we deleted anything, and the vendor's list is without it.
    AlreadyGone,
    /// A list begun after everything that could still have created it had ended was empty.
    NeverAppeared,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// To be tried at `at`.
    Due {
        /// When.
        at: DateTime<Utc>,
    },
    /// A delete was accepted, or nothing was seen yet: to be looked at again at `at`.
    Waiting {
        /// When.
        at: DateTime<Utc>,
    },
    /// A worker has it. If that worker dies, it is anybody's from `until` on.
    Leased {
        /// End of the lease.
        until: DateTime<Utc>,
    },
    /// Proven gone.
    Gone(Proof),
    /// A hint that is not ours, or what another controller is to delete. Nothing was deleted.
    Refused,
}

/// What can happen to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepEvent {
    /// A worker took it at `now`, until `until`.
    Claimed {
        /// When it was taken.
        now: DateTime<Utc>,
        /// End of the lease.
        until: DateTime<Utc>,
    },
    /// The vendor accepted the delete; look again at `at`.
    Accepted {
        /// When.
        at: DateTime<Utc>,
    },
    /// Nothing to delete now and no proof of absence yet; look again at `at`.
    LookAgain {
        /// When.
        at: DateTime<Utc>,
    },
    /// Absence is proven.
    ProvenGone(Proof),
    /// The try failed; the next is at `at`.
    Failed {
        /// When.
        at: DateTime<Utc>,
    },
    /// The hint is something else's id.
    NotOurs,
    /// The worker gave it back untried.
    Released {
        /// Now.
        at: DateTime<Utc>,
    },
    /// This database became another controller; what it was to delete is another's.
    Disowned,
    /// Somebody wants it tried now.
    RetryAsked {
        /// Now.
        at: DateTime<Utc>,
    },
    /// A list showed it, or its run named it or said that it may exist, after it had counted as gone
    /// or not ours.
    SeenAgain {
        /// Now.
        at: DateTime<Utc>,
    },
}

/// An event that the table does not list for that state. A bug in the caller; nothing changes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a rollback step that is {state} cannot take {event:?}")]
pub struct IllegalEvent {
    state: &'static str,
    event: StepEvent,
}

impl StepState {
    /// Every [`Self::name`].
    pub const NAMES: [&str; 5] = ["due", "waiting", "leased", "gone", "refused"];

    /// The table.
    ///
    /// # Errors
    /// [`IllegalEvent`] for what the table does not list.
    pub fn after(self, event: StepEvent) -> Result<Self, IllegalEvent> {
        use StepEvent as E;
        match (self, event) {
            (
                Self::Due { at } | Self::Waiting { at } | Self::Leased { until: at },
                E::Claimed { now, until },
            ) if at <= now => Ok(Self::Leased { until }),
            (Self::Leased { .. }, E::Accepted { at } | E::LookAgain { at }) => {
                Ok(Self::Waiting { at })
            }
            (Self::Leased { .. }, E::ProvenGone(proof)) => Ok(Self::Gone(proof)),
            (Self::Leased { .. }, E::Failed { at } | E::Released { at }) => Ok(Self::Due { at }),
            (Self::Leased { .. }, E::NotOurs)
            | (Self::Due { .. } | Self::Waiting { .. } | Self::Leased { .. }, E::Disowned) => {
                Ok(Self::Refused)
            }
            (Self::Due { .. } | Self::Waiting { .. }, E::RetryAsked { at }) => Ok(Self::Due { at }),
            // The holder's report will be fenced out; it gives the step back due instead.
            (Self::Leased { until }, E::RetryAsked { .. }) => Ok(Self::Leased { until }),
            (Self::Gone(_) | Self::Refused, E::SeenAgain { at }) => Ok(Self::Due { at }),
            (state, event) => Err(IllegalEvent {
                state: state.name(),
                event,
            }),
        }
    }

    /// Whether nothing more is to be done.
    #[must_use]
    pub fn is_settled(self) -> bool {
        match self {
            Self::Gone(_) | Self::Refused => true,
            Self::Due { .. } | Self::Waiting { .. } | Self::Leased { .. } => false,
        }
    }

    /// The state's name in the API and the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Due { .. } => "due",
            Self::Waiting { .. } => "waiting",
            Self::Leased { .. } => "leased",
            Self::Gone(_) => "gone",
            Self::Refused => "refused",
        }
    }
}

impl StepEvent {
    /// The event's name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::Accepted { .. } => "accepted",
            Self::LookAgain { .. } => "look_again",
            Self::ProvenGone(_) => "proven_gone",
            Self::Failed { .. } => "failed",
            Self::NotOurs => "not_ours",
            Self::Released { .. } => "released",
            Self::Disowned => "disowned",
            Self::RetryAsked { .. } => "retry_asked",
            Self::SeenAgain { .. } => "seen_again",
        }
    }
}

spelled_by_serde!(Resource, Proof);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn states() -> [StepState; 5] {
        [
            StepState::Due { at: at(10) },
            StepState::Waiting { at: at(10) },
            StepState::Leased { until: at(10) },
            StepState::Gone(Proof::Deleted),
            StepState::Refused,
        ]
    }

    fn events() -> [StepEvent; 10] {
        [
            StepEvent::Claimed {
                now: at(10),
                until: at(70),
            },
            StepEvent::Accepted { at: at(20) },
            StepEvent::LookAgain { at: at(20) },
            StepEvent::ProvenGone(Proof::AlreadyGone),
            StepEvent::Failed { at: at(20) },
            StepEvent::NotOurs,
            StepEvent::Released { at: at(20) },
            StepEvent::RetryAsked { at: at(20) },
            StepEvent::SeenAgain { at: at(20) },
            StepEvent::Disowned,
        ]
    }

    #[test]
    fn every_pair_of_state_and_event_is_as_the_design_says() {
        const NO: &str = "-";
        // columns as in `events`
        let table = [
            (
                "due",
                ["leased", NO, NO, NO, NO, NO, NO, "due", NO, "refused"],
            ),
            (
                "waiting",
                ["leased", NO, NO, NO, NO, NO, NO, "due", NO, "refused"],
            ),
            (
                "leased",
                [
                    "leased", "waiting", "waiting", "gone", "due", "refused", "due", "leased", NO,
                    "refused",
                ],
            ),
            ("gone", [NO, NO, NO, NO, NO, NO, NO, NO, "due", NO]),
            ("refused", [NO, NO, NO, NO, NO, NO, NO, NO, "due", NO]),
        ];
        for (state, (name, row)) in states().into_iter().zip(table) {
            assert_eq!(state.name(), name);
            for (event, expected) in events().into_iter().zip(row) {
                let after = state.after(event).map_or(NO, StepState::name);
                assert_eq!(after, expected, "{name} after {event:?}");
            }
        }
    }

    #[test]
    fn nothing_is_claimed_before_its_time_and_no_live_lease_is_taken() {
        let early = StepEvent::Claimed {
            now: at(9),
            until: at(70),
        };
        for state in states() {
            assert!(state.after(early).is_err(), "{state:?}");
        }
    }

    #[test]
    fn deletion_goes_key_server_device() {
        assert!(Resource::AuthKey < Resource::Server && Resource::Server < Resource::Device);
        assert_eq!(Resource::AuthKey.to_string(), "auth_key");
    }
}
