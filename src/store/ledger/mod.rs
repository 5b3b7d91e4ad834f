//! The ledger: claims steps, and writes down how they went.
//!
//! A claim is a lease with a fence. [`report()`] settles a step only at the fence at which it was
//! claimed: whoever touched the row in between (another worker after the lease ran out, a message
//! that named something new) has made that report worthless, and the step is given back due.
//!
//! Locks are taken in one order everywhere, the provision's row before its steps, so that
//! reports and callbacks cannot deadlock.

mod claim;
mod found;
mod report;
mod stuck;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::absence::Circumstances;
use crate::domain::fields::VendorId;
use crate::domain::names::{AttemptNumber, ProvisionId, Run};
use crate::domain::step::{Proof, Resource, StepEvent};

pub use claim::claim_due_steps;
pub use found::{OfAttempt, mark_seen, not_pursued};
pub use report::report;
pub use stuck::flag_stuck;

/// A step that this process holds until its lease ends.
#[derive(Debug, Clone)]
pub struct ClaimedStep {
    /// Of which provision.
    pub provision: ProvisionId,
    /// Of which attempt.
    pub attempt: AttemptNumber,
    /// The run that owns the attempt.
    pub run: Run,
    /// What kind of thing must go.
    pub resource: Resource,
    /// Whether it searches or stands for an id.
    pub subject: Subject,
    /// Whether the vendor has shown before that the id is the attempt's own.
    pub own: bool,
    /// The delete that the vendor accepted, if one is under way.
    pub accepted: Option<AcceptedDelete>,
    /// Failed tries in a row.
    pub failures: u32,
    /// What an empty list would mean.
    pub known: Circumstances,
    id: i64,
    fence: i64,
    lease: Uuid,
    last_error: Option<String>,
    unsettled_since: DateTime<Utc>,
    was_stuck: bool,
}

/// What a step is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Whatever carries the attempt's labels, name or description.
    Search,
    /// This one thing.
    Id(VendorId),
}

/// A delete that the vendor accepted.
#[derive(Debug, Clone)]
pub struct AcceptedDelete {
    /// How long ago, as of the claim.
    pub since: Duration,
    /// Hetzner's action that carries it out.
    pub action_id: Option<u64>,
    at: DateTime<Utc>,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The vendor accepted the delete; to be looked at again.
    Accepted {
        /// The action that carries it out.
        action_id: Option<u64>,
        /// When to look.
        look_in: Duration,
    },
    /// The delete that was accepted is still under way.
    UnderWay {
        /// When to look again.
        look_in: Duration,
    },
    /// The search found these; each gets a step of its own.
    Found(BTreeSet<VendorId>),
    /// Nothing there now, and no proof yet.
    NotSeen {
        /// When to look again.
        look_in: Duration,
    },
    /// Absence is proven.
    Gone(Proof),
    /// The id is something else's.
    NotOurs {
        /// What it is instead.
        because: String,
    },
    /// The delete that was accepted ended without effect; it is begun anew.
    DeleteFailed {
        /// What the vendor says.
        error: String,
        /// When to try again.
        retry_in: Duration,
    },
    /// The try failed.
    Failed {
        /// What it met.
        error: String,
        /// When to try again.
        retry_in: Duration,
        /// Whether a person has to do something about it.
        needs_person: bool,
    },
    /// Given back untried.
    Released,
    /// Given back untried, to be tried later: the vendor may not be sent that much now.
    HeldBack {
        /// When to try.
        retry_in: Duration,
    },
}

/// Whether a report counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reported {
    /// It is written.
    Yes,
    /// It is written, and with it all of the attempt is proven gone for the first time.
    RollbackDone {
        /// Since the end of the attempt was recorded.
        took: Duration,
    },
    /// The step was no longer ours, or was touched meanwhile. Nothing was settled.
    FencedOut,
}

/// How long a found thing's own step may take before the search looks again by itself. It is
/// woken when that step settles.
const LOOK_AFTER_FINDING: Duration = Duration::from_secs(30);

/// Makes every unsettled step of a provision due now. One that a worker has in hand is due as soon
/// as that worker is back. The caller holds the provision's row.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn retry_now(db: &mut PgConnection, provision: ProvisionId) -> Result<(), StoreError> {
    sqlx::query!(
        "update steps s
         set state = case s.state when 'leased' then 'leased' else 'due' end,
             next_at = case s.state when 'leased' then s.next_at else backstop_now() end,
             fence = s.fence + 1, moved_from = s.state, moved_by = 'retry_asked'
         where s.provision_id = $1 and s.settled_at is null",
        provision.as_uuid(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How long until the next step of these kinds is due, or a lease runs out. `None` if there is
/// none. Steps that wait for another to be tried first count as due.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn next_due_in(
    db: &mut PgConnection,
    resources: &[Resource],
) -> Result<Option<Duration>, StoreError> {
    let kinds: Vec<String> = resources.iter().map(Resource::to_string).collect();
    let milliseconds = sqlx::query_scalar!(
        "select (extract(epoch from min(next_at) - backstop_now()) * 1000)::bigint
         from steps where next_at is not null and resource = any($1)",
        &kinds,
    )
    .fetch_one(db)
    .await?;
    Ok(milliseconds.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())))
}

impl ClaimedStep {
    fn of(&self) -> OfAttempt {
        OfAttempt {
            provision: self.provision,
            attempt: self.attempt,
        }
    }

    fn vendor_id(&self) -> Option<&VendorId> {
        match &self.subject {
            Subject::Search => None,
            Subject::Id(id) => Some(id),
        }
    }
}

impl Outcome {
    fn event(&self, now: DateTime<Utc>) -> StepEvent {
        match self {
            Self::Accepted { look_in, .. } => StepEvent::Accepted { at: now + *look_in },
            Self::UnderWay { look_in } | Self::NotSeen { look_in } => {
                StepEvent::LookAgain { at: now + *look_in }
            }
            Self::Found(_) => StepEvent::LookAgain {
                at: now + LOOK_AFTER_FINDING,
            },
            Self::Gone(proof) => StepEvent::ProvenGone(*proof),
            Self::NotOurs { .. } => StepEvent::NotOurs,
            Self::Failed { retry_in, .. } | Self::DeleteFailed { retry_in, .. } => {
                StepEvent::Failed {
                    at: now + *retry_in,
                }
            }
            Self::Released => StepEvent::Released { at: now },
            Self::HeldBack { retry_in } => StepEvent::Released {
                at: now + *retry_in,
            },
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Failed { error, .. } | Self::DeleteFailed { error, .. } => Some(error),
            Self::NotOurs { because } => Some(because),
            Self::Accepted { .. }
            | Self::UnderWay { .. }
            | Self::Found(_)
            | Self::NotSeen { .. }
            | Self::Gone(_)
            | Self::Released
            | Self::HeldBack { .. } => None,
        }
    }
}
