//! Rollback: what must go when an attempt is over, and making it go.
//!
//! [`rollback_failed_provision`] is the one way in. It only plans: the steps are written with the
//! message or decision that ended the attempt, in one statement, so that there is no moment at
//! which one is recorded and the other is not. [`worker`] carries the steps out.

mod hetzner;
mod judge;
mod reopen;
mod sight;
mod tailscale;
pub mod worker;

use sqlx::{Connection, PgConnection};

pub(crate) use judge::{LOOK_FOR_LATE_ARRIVALS_EVERY, jittered};
pub(crate) use sight::{Blind, Look, Shown};

use crate::domain::names::{AttemptNumber, ProvisionId};
use crate::domain::provision::{BY, Change, PlannedStep};
use crate::domain::step::Resource;
use crate::store::provisions::{Written, read, write};
use crate::store::{StoreError, ledger};

pub use reopen::{Reopened, adopt, reopen_rollback};

/// Plans what must go for every attempt that `change` touches and that is over: for each kind of
/// thing in `managed` a step that searches, and one for each id that was named. Steps that the
/// ledger has already stay as they are.
///
/// `managed` are the kinds that this installation can delete; without a Tailscale credential there
/// are no steps for keys and devices.
pub fn rollback_failed_provision(change: &mut Change, managed: &[Resource]) {
    let planned: Vec<PlannedStep> = change
        .over()
        .filter(|attempt| attempt.number != AttemptNumber::UNTAKEN)
        .flat_map(|attempt| {
            let searches = managed.iter().map(|&resource| PlannedStep {
                attempt: attempt.number,
                resource,
                vendor_id: None,
            });
            let named = attempt
                .hints
                .iter()
                .filter(|hint| managed.contains(&hint.resource))
                .map(|hint| PlannedStep {
                    attempt: attempt.number,
                    resource: hint.resource,
                    vendor_id: Some(hint.vendor_id.clone()),
                });
            searches.chain(named).collect::<Vec<_>>()
        })
        .collect();
    change.steps = planned;
}

/// What became of an operator's wish to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// Whatever is unsettled is due now.
    Yes,
    /// There is no such provision.
    UnknownId,
}

/// Makes whatever is unsettled of a provision due now, and plans what is missing; the history says
/// `by` whom. The caller announces the change.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then nothing was.
pub async fn retry_rollback(
    db: &mut PgConnection,
    id: ProvisionId,
    managed: &[Resource],
    by: &str,
) -> Result<Retried, StoreError> {
    loop {
        let mut transaction = db.begin().await?;
        let (provision, now) = read(&mut transaction, id).await?;
        let Some(provision) = provision else {
            return Ok(Retried::UnknownId);
        };
        if provision.attempt.run.is_none() || provision.disowned_at.is_some() {
            // No run ever took it, or what it made is another controller's: there is nothing to undo.
            return Ok(Retried::Yes);
        }
        let mut change = provision.retry(now)?;
        change.note("retry", BY, by);
        rollback_failed_provision(&mut change, managed);
        if write(&mut transaction, &change).await? == Written::Yes {
            ledger::retry_now(&mut transaction, id).await?;
            transaction.commit().await?;
            return Ok(Retried::Yes);
        }
    }
}
