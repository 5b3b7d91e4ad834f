//! Fails provisions whose time is up.
//!
//! Every replica looks, at those whose time is up soonest, and decides each one on what one statement
//! read. The write is the same compare-and-swap as a callback's: whatever was heard first wins, and
//! of several replicas one. So a look needs no lock, and two that meet cost a read.

use std::time::Duration;

use rand::seq::SliceRandom;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::domain::names::ProvisionId;
use crate::domain::overdue::Patience;
use crate::domain::provision::Change;
use crate::domain::step::Resource;
use crate::rollback::rollback_failed_provision;
use crate::store::changes::Changes;
use crate::store::overdue::{read, soonest};
use crate::store::provisions::{Written, write};
use crate::store::{Pool, StoreError, in_time};

/// Most provisions in one look.
const BATCH: u32 = 50;
/// How often it looks without being told to. Short against any time-out that is worth setting.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The shortest pause between two looks, however much changes.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(500);
/// The pause after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

/// One replica's watch over what is overdue.
pub struct Watcher {
    pool: Pool,
    changes: Changes,
    patience: Patience,
    managed: &'static [Resource],
    stop: CancellationToken,
}

impl Watcher {
    /// A watcher that ends when `stop` is cancelled. `managed` are the kinds of thing that this
    /// installation can delete.
    #[must_use]
    pub fn new(
        pool: Pool,
        changes: Changes,
        patience: Patience,
        managed: &'static [Resource],
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            changes,
            patience,
            managed,
            stop,
        }
    }

    /// Watches once `begun` is cancelled, until stopped.
    pub async fn run(self, begun: CancellationToken) {
        let mut changes = self.changes.subscribe();
        self.stop.run_until_cancelled(begun.cancelled()).await;
        while !self.stop.is_cancelled() {
            changes.forget();
            let pause = match self.look().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for what is overdue; trying again soon");
                    DATABASE_PAUSE
                }
            };
            self.stop
                .run_until_cancelled(changes.wait(LOOK_AT_MOST_EVERY, pause))
                .await;
        }
    }

    /// Fails what is overdue now, and says how long there is to wait.
    async fn look(&self) -> Result<Duration, StoreError> {
        let found = in_time(async {
            let mut db = self.pool.acquire().await?;
            let waited_for = soonest(&mut db, &self.patience, BATCH).await?;
            Ok::<_, StoreError>((db, waited_for))
        });
        let (mut db, waited_for) = found.await?;
        let mut due: Vec<ProvisionId> = waited_for
            .iter()
            .filter(|it| it.due_in.is_zero())
            .map(|it| it.provision)
            .collect();
        // Replicas that look together begin at different ends.
        due.shuffle(&mut rand::rng());
        let mut failed = 0;
        for id in &due {
            if self.stop.is_cancelled() {
                break;
            }
            match in_time(self.fail_if_overdue(&mut db, *id)).await {
                Ok(Some(change)) => {
                    log(&change);
                    self.changes.announce(*id);
                    failed += 1;
                }
                Ok(None) => {}
                Err(error @ StoreError::Away(_)) => return Err(error),
                // One that nobody can read must not keep the others from being failed.
                Err(error) => {
                    tracing::error!(provision.id = %id, %error, "cannot be failed for its time");
                }
            }
        }
        Ok(if failed > 0 {
            Duration::ZERO
        } else {
            waited_for
                .iter()
                .map(|it| it.due_in)
                .find(|due_in| !due_in.is_zero())
                .unwrap_or(LOOK_EVERY)
                .clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY)
        })
    }

    /// Reads, decides and writes, until the decision rests on what is there. What was failed.
    async fn fail_if_overdue(
        &self,
        db: &mut PgConnection,
        id: ProvisionId,
    ) -> Result<Option<Change>, StoreError> {
        loop {
            let Some(seen) = read(db, id).await? else {
                return Ok(None);
            };
            let hearing_since = match seen.hearing.hold {
                Some(_) => None,
                None => seen.hearing.since_at(seen.now, &self.patience),
            };
            let Some(hearing_since) = hearing_since else {
                return Ok(None);
            };
            let overdue = seen.provision.overdue(
                seen.now,
                &self.patience,
                hearing_since,
                seen.under_way_at,
            )?;
            let Some(mut change) = overdue else {
                return Ok(None);
            };
            rollback_failed_provision(&mut change, self.managed);
            if write(db, &change).await? == Written::Yes {
                return Ok(Some(change));
            }
        }
    }
}

fn log(change: &Change) {
    let attempt = &change.provision.attempt;
    let reason = attempt.rollback.map(|rollback| rollback.reason.to_string());
    tracing::warn!(
        provision.id = %change.provision.id, attempt = %attempt.number, reason,
        "its time is up: failed"
    );
}
