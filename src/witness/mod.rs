//! GitHub as second witness: it knows how a run ended also when nobody told us.
//!
//! Its word comes in two ways. [`asker`] asks about the runs of attempts that give reason to, and
//! GitHub sends webhooks, which `http` takes. Both end in [`testify`], which is the same small circle
//! as everywhere: read, decide by [`crate::domain::witness`], plan the rollback, write if nothing
//! moved. A callback that was committed first wins.
//!
//! Nothing here deletes, and nothing here goes by time; a database that is held is not held here.

pub mod asker;

use sqlx::PgConnection;

use crate::domain::names::ProvisionId;
use crate::domain::provision::Change;
use crate::domain::step::Resource;
use crate::domain::transition::Move;
use crate::domain::witness::{Testimony, judge};
use crate::metrics::Metrics;
use crate::rollback::rollback_failed_provision;
use crate::store::StoreError;
use crate::store::changes::Changes;
use crate::store::provisions::{Written, write};
use crate::store::witness::read;

/// Writes what a testimony means for a provision; what was written. `None`: it means nothing, or
/// nothing new. `managed` are the kinds of thing that this installation can delete.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn testify(
    db: &mut PgConnection,
    id: ProvisionId,
    testimony: &Testimony,
    managed: &[Resource],
) -> Result<Option<Change>, StoreError> {
    loop {
        let Some(accused) = read(db, id).await? else {
            return Ok(None);
        };
        let Some(mut change) = judge(accused, testimony)? else {
            return Ok(None);
        };
        rollback_failed_provision(&mut change, managed);
        if write(db, &change).await? == Written::Yes {
            return Ok(Some(change));
        }
    }
}

/// Tells of what was written, once it is committed.
pub fn tell(change: &Change, testimony: &Testimony, changes: &Changes, metrics: &Metrics) {
    let id = change.provision.id;
    let attempt = change.provision.attempt.number;
    let conclusion = testimony.ending.to_string();
    if change.by == Move::RunFailed {
        tracing::warn!(
            provision.id = %id, %attempt, run.id = %testimony.run, conclusion,
            "GitHub says that its run failed, and so has it"
        );
        metrics.github_verdict("failed");
    } else {
        tracing::error!(
            provision.id = %id, %attempt, run.id = %testimony.run, conclusion,
            "GitHub says that its run ended without failing, and no success was heard: it will be \
             failed when its time is up"
        );
        metrics.github_verdict("discrepancy");
    }
    changes.announce(id);
}
