//! The sweeps of `serve`: one at a time among all replicas, at their interval by the database's time.
//! One that was due while nobody ran is made at start.

use std::time::Duration;

use rand::RngExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Budgets, Vendors, conclude, look};
use crate::domain::orphans::Mandate;
use crate::store::changes::Changes;
use crate::store::notices::Subscriber;
use crate::store::sweeps::{self, Claimed, Sweep};
use crate::store::{Pool, StoreError, in_time};

/// How long a claim holds, and a sweep may take: far longer than the lists may.
const LEASE: Duration = Duration::from_secs(5 * 60);
/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Replicas do not look all at once, and installations do not sweep all at once.
const JITTER: Duration = Duration::from_secs(2);

/// How `serve` sweeps.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// From one sweep to the next.
    pub every: Duration,
    /// How far they may go.
    pub mandate: Mandate,
}

/// The loop of this process. Others may run beside it.
pub struct Sweeper {
    pool: Pool,
    changes: Changes,
    settings: Settings,
    vendors: Vendors,
    budgets: Budgets,
    subscriber: Subscriber,
    stop: CancellationToken,
}

impl Sweeper {
    /// A sweeper that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(
        pool: Pool,
        changes: Changes,
        settings: Settings,
        vendors: Vendors,
        budgets: Budgets,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            changes,
            settings,
            vendors,
            budgets,
            subscriber: Subscriber::Nobody,
            stop,
        }
    }

    /// Has `subscriber` told what no sweep saw before; else nobody is.
    #[must_use]
    pub fn telling(mut self, subscriber: Subscriber) -> Self {
        self.subscriber = subscriber;
        self
    }

    /// Sweeps once `begun` is cancelled, until stopped: by then it is known whether this database is
    /// held.
    pub async fn run(self, begun: CancellationToken) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(begun.cancelled()).await;
        while !stop.is_cancelled() {
            let pause = match self.sweep_if_due().await {
                Ok(pause) => pause.min(LOOK_EVERY),
                Err(error) => {
                    tracing::warn!(%error, "a sweep was not made; trying again soon");
                    LOOK_EVERY
                }
            };
            let jitter = JITTER.mul_f64(rand::rng().random_range(0.0..=1.0));
            stop.run_until_cancelled(tokio::time::sleep(pause + jitter))
                .await;
        }
    }

    /// No sweep is due sooner than after the pause that it returns.
    async fn sweep_if_due(&self) -> Result<Duration, StoreError> {
        let claimed = in_time(async {
            let mut db = self.pool.acquire().await?;
            sweeps::claim(&mut db, self.settings.every, LEASE).await
        });
        let sweep = match claimed.await? {
            Claimed::Yes(sweep) => sweep,
            Claimed::NotBefore(pause) => return Ok(pause),
        };
        // One that fails is kept until its lease ends: lists are dear, and the next may fail as well.
        let Ok(ended) = timeout(LEASE, self.sweep(&sweep)).await else {
            tracing::warn!("a sweep was cut short: it took longer than its lease");
            return Ok(self.settings.every);
        };
        if let Ended::Stopped = ended? {
            in_time(self.give_up(&sweep)).await?;
        }
        Ok(self.settings.every)
    }

    async fn give_up(&self, sweep: &Sweep) -> Result<(), StoreError> {
        let mut db = self.pool.acquire().await?;
        sweeps::give_up(&mut db, sweep).await
    }

    async fn sweep(&self, sweep: &Sweep) -> Result<Ended, StoreError> {
        let budgets = Some(&self.budgets);
        let looked = look(&self.pool, &self.vendors, budgets, sweep.started_at);
        // Only reading is cut short.
        let Some(findings) = self.stop.run_until_cancelled(looked).await else {
            return Ok(Ended::Stopped);
        };
        let (mandate, subscriber) = (self.settings.mandate, self.subscriber);
        let (pool, vendors) = (&self.pool, &self.vendors);
        let swept = conclude(pool, vendors, sweep, findings?, mandate, subscriber).await?;
        for provision in &swept.reopened {
            self.changes.announce(*provision);
        }
        for error in &swept.findings.errors {
            tracing::warn!(error, "a sweep is not complete");
        }
        tracing::info!(
            orphans = swept.findings.orphans.len(),
            reopened = swept.reopened.len(),
            under_way = swept.findings.under_way.len(),
            not_ours = swept.findings.not_ours,
            "swept"
        );
        Ok(Ended::Whole)
    }
}

/// How far a sweep came.
enum Ended {
    Whole,
    Stopped,
}
