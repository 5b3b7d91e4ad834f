//! Carries out the steps of the ledger.
//!
//! For each vendor a loop claims what is due, up to [`BATCH`] steps in one statement: when idle
//! that is one step at once, under a pile-up it is a batch without any timer. A batch looks once
//! for all its steps, then each step does at most one thing to the vendor and is reported by
//! itself. Nothing is done twice in one claim: a delete that was accepted is looked at in the
//! next, so there is one way to go on after an answer and after a crash.
//!
//! What a batch may send is asked of the vendor's rate budget before it looks. What it does not get
//! a permit for it gives back, with no try counted.
//!
//! A loop is woken by announced changes and by the next due time. It never waits inside a step
//! for anything but the vendor's answer, whose time-out is far shorter than the lease.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use sqlx::Connection;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::judge::Judge;
use super::sight::{LastSight, Sight};
use super::{hetzner, tailscale};
use crate::budget::{Asked, Budget, Permit};
use crate::domain::backoff::Backoff;
use crate::domain::budget::{PERMIT_LASTS, Purpose, Reserve};
use crate::domain::names::ControllerId;
use crate::domain::step::Resource;
use crate::metrics::Metrics;
use crate::providers::hetzner::RateLimit;
use crate::providers::{Hetzner, Tailscale, Vendor};
use crate::store::changes::{Changes, Subscription};
use crate::store::ledger::{
    self, ClaimedStep, Outcome, Reported, Subject, claim_due_steps, next_due_in,
};
use crate::store::notices::Subscriber;
use crate::store::{Pool, StoreError, in_time};

/// Most steps in one claim; Hetzner lists as many on one page.
const BATCH: u32 = 50;
/// Most lists and polls that a batch begins with: one list, and 25 actions a poll.
const MOST_LOOKS: u32 = 3;
/// How long a claim holds. Longer than a batch's requests can take, with a margin.
pub(crate) const LEASE: Duration = PERMIT_LASTS;
/// A step is only begun while this much of its lease is left; a step is two requests at most.
const LEASE_MARGIN: Duration = Duration::from_secs(40);
/// Batches in hand for one vendor, so that a slow answer does not hold up what comes next.
const BATCHES_AT_ONCE: usize = 4;
/// Requests in flight within one batch.
const REQUESTS_AT_ONCE: usize = 8;
/// How often the ledger is looked at without being told to.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
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
    /// The share of a vendor's rate limit that is left to others.
    pub rate_reserve: Reserve,
}

/// The vendor that a loop works with.
pub enum Hands {
    /// Servers.
    Hetzner(Arc<Hetzner>),
    /// Auth keys and devices.
    Tailscale {
        /// The client.
        client: Arc<Tailscale>,
        /// The tag without which no device is ours.
        tag: String,
    },
}

/// One vendor's loop, in this process. Others may run beside it.
pub struct Worker {
    pool: Pool,
    changes: Changes,
    metrics: Metrics,
    settings: Settings,
    budget: Budget,
    /// A batch has told the budget what it knows.
    settled: Notify,
    hands: Hands,
    controller: ControllerId,
    last_sight: LastSight,
    subscriber: Subscriber,
    stop: CancellationToken,
}

/// What there is to do now.
enum Next {
    Batch(Batch),
    Nothing,
    /// The vendor may not be called before.
    Closed(Duration),
}

/// Steps that are ours until their lease ends, and what of them may be sent.
struct Batch {
    steps: Vec<ClaimedStep>,
    permit: Permit,
    lease_ends: Instant,
}

impl Worker {
    /// A worker that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(
        pool: Pool,
        changes: Changes,
        metrics: Metrics,
        settings: Settings,
        hands: Hands,
        controller: ControllerId,
        stop: CancellationToken,
    ) -> Self {
        Self {
            budget: Budget::new(pool.clone(), hands.vendor(), settings.rate_reserve),
            settled: Notify::new(),
            pool,
            changes,
            metrics,
            settings,
            hands,
            controller,
            last_sight: LastSight::default(),
            subscriber: Subscriber::Nobody,
            stop,
        }
    }

    /// Has `subscriber` told what settles and what gets stuck; else nobody is.
    #[must_use]
    pub fn telling(mut self, subscriber: Subscriber) -> Self {
        self.subscriber = subscriber;
        self
    }

    /// Works until stopped. Batches in hand are `tracker`'s to wait for.
    pub async fn run(self, tracker: TaskTracker) {
        let worker = Arc::new(self);
        let slots = Arc::new(Semaphore::new(BATCHES_AT_ONCE));
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
            changes.forget();
            match worker.next().await {
                Ok(Next::Batch(batch)) => {
                    let worker = worker.clone();
                    tracker.spawn(async move {
                        worker.carry_out(batch).await;
                        drop(slot);
                    });
                }
                Ok(Next::Nothing) => {
                    drop(slot);
                    let next = worker.next_due_in().await;
                    worker.wait(&mut changes, next).await;
                }
                Ok(Next::Closed(time)) => {
                    drop(slot);
                    worker.wait(&mut changes, Some(time)).await;
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

    /// Claims what is due, and asks what of it may be sent. While the vendor may not be called at
    /// all nothing is claimed.
    async fn next(&self) -> Result<Next, StoreError> {
        let least = Purpose::Delete { looks: MOST_LOOKS };
        if let Some(time) = self.budget.closed_for(least).await? {
            return Ok(Next::Closed(time));
        }
        let lease_ends = Instant::now() + LEASE;
        let steps = self.claim().await?;
        if steps.is_empty() {
            return Ok(Next::Nothing);
        }
        let (looks, deletes) = self.hands.requests(&steps);
        match self.budget.permit(Purpose::Delete { looks }, deletes).await {
            Ok(Asked::Granted(permit)) => Ok(Next::Batch(Batch {
                steps,
                permit,
                lease_ends,
            })),
            Ok(Asked::NotNow { come_back_in }) => {
                let retry_in = come_back_in;
                self.give_back(&steps, &Outcome::HeldBack { retry_in }, lease_ends)
                    .await;
                Ok(Next::Closed(come_back_in))
            }
            Err(error) => {
                self.give_back(&steps, &Outcome::Released, lease_ends).await;
                Err(error)
            }
        }
    }

    async fn give_back(&self, steps: &[ClaimedStep], outcome: &Outcome, lease_ends: Instant) {
        futures::stream::iter(steps)
            .for_each_concurrent(REQUESTS_AT_ONCE, |step| {
                self.report(step, outcome, lease_ends)
            })
            .await;
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

    async fn next_due_in(&self) -> Option<Duration> {
        let next = in_time(async {
            let mut db = self.pool.acquire().await?;
            next_due_in(&mut db, self.hands.resources()).await
        });
        next.await.ok().flatten()
    }

    /// Until something changes, or the budget may have, or `next` is due, or it is time to look
    /// anyway.
    async fn wait(&self, changes: &mut Subscription, next: Option<Duration>) {
        let pause = next
            .unwrap_or(LOOK_EVERY)
            .clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = changes.wait(Duration::ZERO, pause) => {}
            () = self.settled.notified() => {}
        }
    }

    /// Looks once for the whole batch, then carries out and reports each step.
    async fn carry_out(&self, batch: Batch) {
        let Batch {
            steps,
            permit,
            lease_ends,
        } = batch;
        fail::fail_point!("claimed");
        let judge = Judge {
            retry: self.settings.retry,
            controller: self.controller,
            permit: &permit,
        };
        let sight = Sight::new(&self.pool, &self.hands, &self.last_sight, judge);
        let told_before = self.hands.rate();
        // A look changes nothing: when we stop it is dropped, and its steps are given back.
        match &self.hands {
            Hands::Hetzner(client) => {
                let look = hetzner::look(client, &steps);
                if let Some(view) = self.stop.run_until_cancelled(look).await {
                    let act = |step| hetzner::carry_out(client, &view, step, &judge, &sight);
                    self.each(steps, lease_ends, act).await;
                } else {
                    self.give_back(&steps, &Outcome::Released, lease_ends).await;
                }
            }
            Hands::Tailscale { client, tag } => {
                let look = tailscale::look(client, &steps);
                if let Some(view) = self.stop.run_until_cancelled(look).await {
                    let act = |step| tailscale::carry_out(client, tag, &view, step, &judge, &sight);
                    self.each(steps, lease_ends, act).await;
                } else {
                    self.give_back(&steps, &Outcome::Released, lease_ends).await;
                }
            }
        }
        let told = self.hands.rate().filter(|told| Some(*told) != told_before);
        if let Err(error) = self.budget.settle(permit, told).await {
            tracing::warn!(
                vendor = %self.hands.vendor(), %error,
                "what the vendor told of its rate limit was not written down"
            );
        }
        self.settled.notify_one();
    }

    async fn each<'a, F>(
        &'a self,
        steps: Vec<ClaimedStep>,
        lease_ends: Instant,
        act: impl Fn(Arc<ClaimedStep>) -> F,
    ) where
        F: Future<Output = Outcome> + 'a,
    {
        let begin_before = lease_ends - LEASE_MARGIN;
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
                    self.report(&step, &outcome, lease_ends).await;
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
            Ok(reported @ (Reported::Yes | Reported::RollbackDone { .. })) => {
                log(step, outcome);
                if let Reported::RollbackDone { took } = reported {
                    self.metrics.rollback_done(took);
                }
                // What is held back has not changed, and is no news to other replicas.
                if !matches!(outcome, Outcome::HeldBack { .. }) {
                    self.changes.announce(step.provision);
                }
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
        Outcome::UnderWay { .. }
        | Outcome::NotSeen { .. }
        | Outcome::Released
        | Outcome::HeldBack { .. } => return,
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

    /// How many requests a batch needs: lists and polls, then at most one delete for each id.
    fn requests(&self, steps: &[ClaimedStep]) -> (u32, u32) {
        let ids = steps.iter().filter(|step| step.subject != Subject::Search);
        let looks = match self {
            Self::Hetzner(_) => hetzner::looks(steps),
            Self::Tailscale { .. } => tailscale::looks(steps),
        };
        (looks, u32::try_from(ids.count()).unwrap_or(u32::MAX))
    }

    /// What the vendor last told of its rate limit, if it tells anything.
    fn rate(&self) -> Option<RateLimit> {
        match self {
            Self::Hetzner(client) => client.rate(),
            Self::Tailscale { .. } => None,
        }
    }

    fn resources(&self) -> &'static [Resource] {
        match self {
            Self::Hetzner(_) => &[Resource::Server],
            Self::Tailscale { .. } => &[Resource::AuthKey, Resource::Device],
        }
    }
}
