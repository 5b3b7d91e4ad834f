//! Carries out the steps of the ledger.
//!
//! For each vendor a loop claims what is due, up to [`BATCH`] steps in one statement: when idle
//! that is one step at once, under a pile-up it is a batch without any timer. A batch looks once
//! for all its steps, then each step does at most one thing to the vendor and is reported by
//! itself. Nothing is done twice in one claim: a delete that was accepted is looked at in the
//! next, so there is one way to go on after an answer and after a crash.
//!
//! A loop is woken by announced changes and by the next due time. It never waits inside a step
//! for anything but the vendor's answer, whose time-out is far shorter than the lease.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use sqlx::Connection;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::judge::Judge;
use super::{hetzner, tailscale};
use crate::domain::backoff::Backoff;
use crate::domain::names::{ControllerId, ProvisionId};
use crate::domain::step::Resource;
use crate::providers::{Hetzner, Tailscale, Vendor};
use crate::store::changes::Changes;
use crate::store::ledger::{self, ClaimedStep, Outcome, Reported, claim_due_steps, next_due_in};
use crate::store::notices::Subscriber;
use crate::store::{Pool, StoreError, in_time};

/// Most steps in one claim; Hetzner lists as many on one page.
const BATCH: u32 = 50;
/// How long a claim holds. Longer than a batch's requests can take, with a margin.
const LEASE: Duration = Duration::from_secs(120);
/// A step is only begun while this much of its lease is left; a step is two requests at most.
const LEASE_MARGIN: Duration = Duration::from_secs(40);
/// Batches in hand for one vendor, so that a slow answer does not hold up what comes next.
const BATCHES_AT_ONCE: usize = 4;
/// Requests in flight within one batch.
const REQUESTS_AT_ONCE: usize = 8;
/// How often the ledger is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The shortest pause between looks that found nothing to claim.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// The pause after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

/// How steps are carried out.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The pause after a failed try.
    pub retry: Backoff,
    /// Unsettled for this long: stuck.
    pub stuck_after: Duration,
    /// How long after an attempt's last message a server that was never seen is watched for.
    pub late_arrival_window: Duration,
}

/// The vendor that a loop works with.
pub enum Hands {
    /// Servers.
    Hetzner(Hetzner),
    /// Auth keys and devices.
    Tailscale {
        /// The client.
        client: Tailscale,
        /// The tag without which no device is ours.
        tag: String,
    },
}

/// One vendor's loop, in this process. Others may run beside it.
pub struct Worker {
    pool: Pool,
    changes: Changes,
    settings: Settings,
    hands: Hands,
    controller: ControllerId,
    subscriber: Subscriber,
    stop: CancellationToken,
}

impl Worker {
    /// A worker that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(
        pool: Pool,
        changes: Changes,
        settings: Settings,
        hands: Hands,
        controller: ControllerId,
        subscriber: Subscriber,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            changes,
            settings,
            hands,
            controller,
            subscriber,
            stop,
        }
    }

    /// Works until stopped. Batches in hand are `tracker`'s to wait for.
    pub async fn run(self, tracker: TaskTracker) {
        let worker = Arc::new(self);
        let slots = Arc::new(Semaphore::new(BATCHES_AT_ONCE));
        // Before the first look, so that no change after it goes unheard.
        let mut changes = worker.changes.subscribe();
        let vendor = worker.hands.vendor();
        while !worker.stop.is_cancelled() {
            let Some(Ok(slot)) = worker
                .stop
                .run_until_cancelled(slots.clone().acquire_owned())
                .await
            else {
                break;
            };
            while changes.try_recv().is_ok() {}
            match worker.claim().await {
                Ok(steps) if !steps.is_empty() => {
                    let worker = worker.clone();
                    tracker.spawn(async move {
                        worker.carry_out(steps).await;
                        drop(slot);
                    });
                }
                Ok(_) => {
                    drop(slot);
                    worker.wait(&mut changes).await;
                }
                Err(error) => {
                    drop(slot);
                    tracing::warn!(%vendor, %error, "cannot claim steps; trying again soon");
                    worker
                        .stop
                        .run_until_cancelled(tokio::time::sleep(DATABASE_PAUSE))
                        .await;
                }
            }
        }
    }

    async fn claim(&self) -> Result<Vec<ClaimedStep>, StoreError> {
        in_time(async {
            let mut db = self.pool.acquire().await?;
            claim_due_steps(
                &mut db,
                self.hands.resources(),
                BATCH,
                LEASE,
                self.settings.late_arrival_window,
            )
            .await
        })
        .await
    }

    /// Until something changes, or is due, or it is time to look anyway.
    async fn wait(&self, changes: &mut broadcast::Receiver<ProvisionId>) {
        let next = in_time(async {
            let mut db = self.pool.acquire().await?;
            next_due_in(&mut db, self.hands.resources()).await
        });
        let pause = next
            .await
            .ok()
            .flatten()
            .unwrap_or(LOOK_EVERY)
            .clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            _ = changes.recv() => {}
        }
    }

    /// Looks once for the whole batch, then carries out and reports each step.
    async fn carry_out(&self, steps: Vec<ClaimedStep>) {
        fail::fail_point!("claimed");
        let judge = Judge {
            retry: self.settings.retry,
            controller: self.controller,
        };
        let begin_before = Instant::now() + LEASE.saturating_sub(LEASE_MARGIN);
        // A look changes nothing: when we stop it is dropped, and its steps are given back.
        match &self.hands {
            Hands::Hetzner(client) => {
                let look = hetzner::look(client, &steps);
                let Some(view) = self.stop.run_until_cancelled(look).await else {
                    return self.give_back(steps).await;
                };
                self.each(steps, begin_before, |step| {
                    hetzner::carry_out(client, &view, step, &judge)
                })
                .await;
            }
            Hands::Tailscale { client, tag } => {
                let look = tailscale::look(client, &steps);
                let Some(view) = self.stop.run_until_cancelled(look).await else {
                    return self.give_back(steps).await;
                };
                self.each(steps, begin_before, |step| {
                    tailscale::carry_out(client, tag, &view, step, &judge)
                })
                .await;
            }
        }
    }

    async fn give_back(&self, steps: Vec<ClaimedStep>) {
        self.each(steps, Instant::now(), |_| ready(Outcome::Released))
            .await;
    }

    async fn each<'a, F>(
        &'a self,
        steps: Vec<ClaimedStep>,
        begin_before: Instant,
        act: impl Fn(Arc<ClaimedStep>) -> F,
    ) where
        F: Future<Output = Outcome> + 'a,
    {
        futures::stream::iter(steps)
            .map(|step| {
                let step = Arc::new(step);
                let act = &act;
                async move {
                    let outcome = if self.stop.is_cancelled() || Instant::now() >= begin_before {
                        Outcome::Released
                    } else {
                        act(step.clone()).await
                    };
                    fail::fail_point!("before_settling");
                    self.report(&step, &outcome, begin_before + LEASE_MARGIN)
                        .await;
                }
            })
            .buffer_unordered(REQUESTS_AT_ONCE)
            .collect::<()>()
            .await;
    }

    /// Writes down how a step went. While the database is away it tries again until the lease ends
    /// or we stop: what is known now would else be found out anew, with less to show for it.
    async fn report(&self, step: &ClaimedStep, outcome: &Outcome, lease_ends: Instant) {
        let reported = loop {
            match self.write_report(step, outcome).await {
                Err(StoreError::Away(error))
                    if !self.stop.is_cancelled() && Instant::now() < lease_ends =>
                {
                    tracing::warn!(
                        provision.id = %step.provision, attempt = %step.attempt,
                        step.resource = %step.resource, %error,
                        "how a step went is not written down yet; trying again soon"
                    );
                    self.stop
                        .run_until_cancelled(tokio::time::sleep(DATABASE_PAUSE))
                        .await;
                }
                reported => break reported,
            }
        };
        match reported {
            Ok(Reported::Yes) => {
                log(step, outcome);
                self.changes.announce(step.provision);
            }
            Ok(Reported::FencedOut) => {
                tracing::debug!(
                    provision.id = %step.provision, attempt = %step.attempt,
                    step.resource = %step.resource,
                    "the step was touched meanwhile; it will be looked at anew"
                );
                self.changes.announce(step.provision);
            }
            // The lease will run out, and the step will be carried out again.
            Err(error) => tracing::warn!(
                provision.id = %step.provision, attempt = %step.attempt,
                step.resource = %step.resource, %error,
                "how a step went was not written down; it will be done again"
            ),
        }
    }

    /// Harmless to repeat where the answer to the commit was lost: the fence has moved.
    async fn write_report(
        &self,
        step: &ClaimedStep,
        outcome: &Outcome,
    ) -> Result<Reported, StoreError> {
        in_time(async {
            let mut db = self.pool.acquire().await?;
            let mut transaction = db.begin().await?;
            let reported = ledger::report(
                &mut transaction,
                step,
                outcome,
                self.settings.stuck_after,
                self.subscriber,
            )
            .await?;
            transaction.commit().await?;
            Ok(reported)
        })
        .await
    }
}

fn log(step: &ClaimedStep, outcome: &Outcome) {
    let event = match outcome {
        Outcome::Failed {
            error,
            needs_person: true,
            ..
        } => {
            tracing::error!(
                provision.id = %step.provision, attempt = %step.attempt,
                step.resource = %step.resource, step.subject = ?step.subject, %error,
                "a step needs a person"
            );
            return;
        }
        Outcome::Failed { error, .. } | Outcome::DeleteFailed { error, .. } => {
            tracing::warn!(
                provision.id = %step.provision, attempt = %step.attempt,
                step.resource = %step.resource, step.subject = ?step.subject, %error,
                "a step failed and will be tried again"
            );
            return;
        }
        Outcome::NotOurs { because } => {
            tracing::warn!(
                provision.id = %step.provision, attempt = %step.attempt,
                step.resource = %step.resource, step.subject = ?step.subject, because,
                "a hint was refused: it is not this attempt's own"
            );
            return;
        }
        Outcome::Accepted { .. } => "delete accepted",
        Outcome::Gone(_) => "proven gone",
        Outcome::Found(_) => "found something of this attempt's",
        Outcome::UnderWay { .. } | Outcome::NotSeen { .. } | Outcome::Released => return,
    };
    tracing::info!(
        provision.id = %step.provision, attempt = %step.attempt,
        step.resource = %step.resource, step.subject = ?step.subject, outcome = ?outcome,
        "{event}"
    );
}

impl Hands {
    fn vendor(&self) -> Vendor {
        match self {
            Self::Hetzner(_) => Vendor::Hetzner,
            Self::Tailscale { .. } => Vendor::Tailscale,
        }
    }

    fn resources(&self) -> &'static [Resource] {
        match self {
            Self::Hetzner(_) => &[Resource::Server],
            Self::Tailscale { .. } => &[Resource::AuthKey, Resource::Device],
        }
    }
}
