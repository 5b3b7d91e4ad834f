//! Sends the workflows that the outbox has.
//!
//! `POST /v1/provisions` writes a dispatch with its provision; this worker sends it, at least once,
//! for as long as the provision is queued. A refusal ends both. Anything else (an outage, a lost
//! answer) leaves the provision queued, since the run may exist, and is sent again: a second run is
//! told at `started` that the provision is taken, before it has created anything.
//!
//! No transaction is open across the call. What a crash leaves between the call and the report is
//! sent again once the lease has run out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::backoff::Backoff;
use crate::providers::github::StartedRun;
use crate::providers::{GitHub, VendorError};
use crate::rollback::jittered;
use crate::store::changes::{Changes, Subscription};
use crate::store::dispatches::{
    self, ClaimedDispatch, Outcome, Reported, claim_due_dispatch, next_due_in,
};
use crate::store::provisions::{Written, read, write};
use crate::store::{Pool, StoreError, in_time};

/// How long a claim holds. Longer than its requests can take, with a margin: seven at most, where
/// an app's token is refused, renewed, and the server is an old one.
const LEASE: Duration = Duration::from_secs(120);
/// Dispatches in flight. GitHub slows down whoever starts many things at once.
const AT_ONCE: usize = 4;
/// How often the outbox is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The shortest pause between looks that found nothing to claim.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// The pause after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

/// The outbox's worker in this process. Others may run beside it.
pub struct Dispatcher {
    pool: Pool,
    changes: Changes,
    retry: Backoff,
    github: Arc<GitHub>,
    stop: CancellationToken,
}

impl Dispatcher {
    /// A worker that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(
        pool: Pool,
        changes: Changes,
        retry: Backoff,
        github: Arc<GitHub>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            changes,
            retry,
            github,
            stop,
        }
    }

    /// Works once `begun` is cancelled, for only then is it known whether the database is held, until
    /// stopped. Dispatches in flight are `tracker`'s to wait for.
    pub async fn run(self, tracker: TaskTracker, begun: CancellationToken) {
        self.stop.run_until_cancelled(begun.cancelled()).await;
        let dispatcher = Arc::new(self);
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut changes = dispatcher.changes.subscribe();
        while !dispatcher.stop.is_cancelled() {
            let Some(Ok(slot)) = dispatcher
                .stop
                .run_until_cancelled(slots.clone().acquire_owned())
                .await
            else {
                break;
            };
            changes.forget();
            match dispatcher.claim().await {
                Ok(Some(dispatch)) => {
                    let dispatcher = dispatcher.clone();
                    tracker.spawn(async move {
                        dispatcher.send(&dispatch).await;
                        drop(slot);
                    });
                }
                Ok(None) => {
                    drop(slot);
                    dispatcher.wait(&mut changes).await;
                }
                Err(error) => {
                    drop(slot);
                    tracing::warn!(%error, "cannot claim dispatches; trying again soon");
                    dispatcher
                        .stop
                        .run_until_cancelled(tokio::time::sleep(DATABASE_PAUSE))
                        .await;
                }
            }
        }
    }

    async fn claim(&self) -> Result<Option<ClaimedDispatch>, StoreError> {
        in_time(async {
            let mut db = self.pool.acquire().await?;
            claim_due_dispatch(&mut db, LEASE).await
        })
        .await
    }

    /// Until something changes, or is due, or it is time to look anyway.
    async fn wait(&self, changes: &mut Subscription) {
        let next = in_time(async {
            let mut db = self.pool.acquire().await?;
            next_due_in(&mut db).await
        });
        let pause = next
            .await
            .ok()
            .flatten()
            .unwrap_or(LOOK_EVERY)
            .clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY);
        self.stop
            .run_until_cancelled(changes.wait(Duration::ZERO, pause))
            .await;
    }

    async fn send(&self, dispatch: &ClaimedDispatch) {
        fail::fail_point!("dispatch_claimed");
        let answer = self.github.dispatch(&inputs(dispatch)).await;
        fail::fail_point!("dispatch_answered");
        let outcome = self.judge(dispatch, answer);
        match in_time(self.report(dispatch, &outcome)).await {
            Ok(Reported::Yes) => {
                log(dispatch, &outcome);
                self.changes.announce(dispatch.provision);
            }
            Ok(Reported::FencedOut) => tracing::warn!(
                provision.id = %dispatch.provision,
                "a dispatch took longer than its lease, and is sent by somebody else as well"
            ),
            // The lease will run out, and it will be sent again.
            Err(error) => tracing::warn!(
                provision.id = %dispatch.provision, %error,
                "how a dispatch went was not written down; it will be sent again"
            ),
        }
    }

    fn judge(
        &self,
        dispatch: &ClaimedDispatch,
        answer: Result<Option<StartedRun>, VendorError>,
    ) -> Outcome {
        match answer {
            Ok(run) => {
                let (run_id, html_url) = run.map(|run| (run.id, run.html_url)).unzip();
                Outcome::Sent {
                    run_id,
                    html_url: html_url.flatten(),
                }
            }
            Err(error) if error.is_refusal() => Outcome::Refused {
                error: error.to_string(),
            },
            Err(error) => Outcome::Failed {
                // In full where GitHub names a time: whoever does not wait is shut out.
                retry_in: jittered(self.retry.after(dispatch.failures + 1))
                    .max(error.retry_after().unwrap_or_default()),
                error: error.to_string(),
            },
        }
    }

    /// Writes down how it went; where GitHub refused, also that the provision has failed, unless a
    /// run has taken it meanwhile. There is nothing to undo: nothing is created before that.
    async fn report(
        &self,
        dispatch: &ClaimedDispatch,
        outcome: &Outcome,
    ) -> Result<Reported, StoreError> {
        let mut db = self.pool.acquire().await?;
        let mut transaction = db.begin().await?;
        if dispatches::report(&mut transaction, dispatch, outcome).await? == Reported::FencedOut {
            return Ok(Reported::FencedOut);
        }
        if let Outcome::Refused { error } = outcome {
            loop {
                let (provision, now) = read(&mut transaction, dispatch.provision).await?;
                let change = match provision {
                    Some(provision) => provision.fail_dispatch(error, now)?,
                    None => None,
                };
                let Some(change) = change else { break };
                if write(&mut transaction, &change).await? == Written::Yes {
                    break;
                }
            }
        }
        transaction.commit().await?;
        Ok(Reported::Yes)
    }
}

fn inputs(dispatch: &ClaimedDispatch) -> BTreeMap<&'static str, String> {
    [
        ("provision_id", Some(dispatch.provision.to_string())),
        ("agent_id", dispatch.agent_id.clone()),
        ("region", dispatch.region.clone()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

fn log(dispatch: &ClaimedDispatch, outcome: &Outcome) {
    match outcome {
        Outcome::Sent { run_id, .. } => tracing::info!(
            provision.id = %dispatch.provision, run.id = run_id, "workflow dispatched"
        ),
        Outcome::Refused { error } => tracing::error!(
            provision.id = %dispatch.provision, error,
            "GitHub refused to dispatch the workflow"
        ),
        Outcome::Failed { error, .. } => tracing::warn!(
            provision.id = %dispatch.provision, error,
            "a dispatch failed and will be sent again"
        ),
    }
}
