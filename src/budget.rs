//! Permission to call a vendor: the rate budgets, which all replicas share.
//!
//! Whoever is about to call asks for a permit, for a whole batch or list at once, and settles it
//! with what the vendor has told. [`crate::domain::budget`] decides; what it decides on is in the
//! database, so that replicas never send the same requests. Nothing here calls a vendor.
//!
//! Any number of [`Budget`]s for a vendor may stand beside each other, here and in other replicas.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::domain::budget::{Answer, Grant, Purpose, Reserve, Told};
use crate::providers::Vendor;
use crate::providers::hetzner::RateLimit;
use crate::store::budgets::{self, Read};
use crate::store::provisions::Written;
use crate::store::{Pool, StoreError, in_time};

/// When to ask again once there is known to be enough.
const SOON: Duration = Duration::from_secs(1);

/// One vendor's budget.
pub struct Budget {
    pool: Pool,
    vendor: Vendor,
    reserve: Reserve,
    /// Whether the last that asked did not get all of it.
    scarce: AtomicBool,
    /// Whether it was logged that the reserve is reached.
    logged: AtomicBool,
}

/// What became of asking.
#[derive(Debug)]
pub enum Asked {
    /// Some of it may be sent, or all.
    Granted(Permit),
    /// Nothing may be sent now.
    NotNow {
        /// When to ask again.
        come_back_in: Duration,
    },
}

/// What may be sent. Good for [`PERMIT_LASTS`](crate::domain::budget::PERMIT_LASTS), and to be
/// settled by then.
#[derive(Debug)]
pub struct Permit {
    id: Uuid,
    grant: Grant,
    reserve: Reserve,
    left: AtomicU32,
    /// The longest that the vendor asked to be left alone since.
    pause: Mutex<Option<Duration>>,
}

impl Budget {
    /// `reserve` is the share of the vendor's limit that is left to others.
    #[must_use]
    pub fn new(pool: Pool, vendor: Vendor, reserve: Reserve) -> Self {
        Self {
            pool,
            vendor,
            reserve,
            scarce: AtomicBool::new(false),
            logged: AtomicBool::new(false),
        }
    }

    /// Asks for `wanted` requests.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be used; then nothing may be sent.
    pub async fn permit(&self, purpose: Purpose, wanted: u32) -> Result<Asked, StoreError> {
        in_time(async {
            let id = Uuid::new_v4();
            let mut db = self.pool.acquire().await?;
            loop {
                let mut read = budgets::read(&mut db, self.vendor.as_str()).await?;
                let answer = read.budget.ask(purpose, wanted, self.reserve, read.now);
                if let Answer::Granted(grant) = &answer
                    && grant.counts > 0
                {
                    read.budget.hand_out(id, grant, read.now);
                    if budgets::write(&mut db, self.vendor.as_str(), &read).await?
                        == Written::Outrun
                    {
                        continue;
                    }
                }
                self.note(&read, purpose, wanted, &answer);
                return Ok(match answer {
                    Answer::Granted(grant) => Asked::Granted(Permit::new(id, grant, self.reserve)),
                    Answer::NotNow { come_back_in } => Asked::NotNow { come_back_in },
                });
            }
        })
        .await
    }

    /// For how long nothing at all would be granted for this; `None` if something might be. Takes
    /// nothing, and only looks after somebody did not get all that was asked for.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn closed_for(&self, purpose: Purpose) -> Result<Option<Duration>, StoreError> {
        if !self.scarce.load(Ordering::Relaxed) {
            return Ok(None);
        }
        in_time(async {
            let mut db = self.pool.acquire().await?;
            let mut read = budgets::read(&mut db, self.vendor.as_str()).await?;
            Ok(match read.budget.ask(purpose, 1, self.reserve, read.now) {
                Answer::Granted(_) => None,
                Answer::NotNow { come_back_in } => Some(come_back_in),
            })
        })
        .await
    }

    /// Reports back. `told` is what the vendor has told since the permit was granted; `None` if it
    /// told nothing new.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be used; then the permit lapses by itself.
    pub async fn settle(&self, permit: Permit, told: Option<RateLimit>) -> Result<(), StoreError> {
        let pause = permit.pause();
        if permit.grant.counts == 0 && told.is_none() && pause.is_none() {
            return Ok(());
        }
        in_time(async {
            let mut db = self.pool.acquire().await?;
            loop {
                let mut read = budgets::read(&mut db, self.vendor.as_str()).await?;
                let told = told.map(|told| Told {
                    limit: told.limit,
                    remaining: told.remaining,
                    told_at: told.told_at,
                    heard_at: read.now,
                });
                read.budget.settle(permit.id, permit.sent(), told, read.now);
                if let Some(pause) = pause {
                    read.budget.pause(read.now + pause);
                }
                if budgets::write(&mut db, self.vendor.as_str(), &read).await? == Written::Yes {
                    break;
                }
            }
            Ok::<_, StoreError>(())
        })
        .await?;
        if let Some(pause) = pause {
            tracing::warn!(
                vendor = %self.vendor, pause_ms = pause.as_millis(),
                "the vendor asks to be left alone; all replicas wait"
            );
        }
        Ok(())
    }

    /// Remembers whether there is enough, and logs when that changes.
    fn note(&self, read: &Read, purpose: Purpose, wanted: u32, answer: &Answer) {
        let all = matches!(answer, Answer::Granted(grant)
                           if grant.requests == wanted && !grant.is_exception);
        self.scarce.store(!all, Ordering::Relaxed);
        let (Purpose::Delete { .. }, Some(told), None) =
            (purpose, read.budget.told, read.budget.paused_for(read.now))
        else {
            return;
        };
        let reserve = self.reserve.of(told.limit);
        let remaining = read.budget.remaining(read.now).unwrap_or_default();
        if !all && !self.logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                vendor = %self.vendor, remaining, reserve,
                "down to the reserve of the rate limit; deletes are slowed down"
            );
        }
        // Some way above, so that it is not logged with every batch while it is scarce.
        let is_over = all && remaining >= reserve.saturating_add(told.limit / 20);
        if is_over && self.logged.swap(false, Ordering::Relaxed) {
            tracing::info!(
                vendor = %self.vendor, remaining, reserve,
                "above the reserve of the rate limit again"
            );
        }
    }
}

impl Permit {
    fn new(id: Uuid, grant: Grant, reserve: Reserve) -> Self {
        Self {
            id,
            grant,
            reserve,
            left: AtomicU32::new(grant.requests),
            pause: Mutex::new(None),
        }
    }

    /// How many of the requests that were asked for may be sent.
    #[must_use]
    pub fn granted(&self) -> u32 {
        self.grant.requests
    }

    /// Takes one of them; false if there is none left. Also when the vendor has told meanwhile that
    /// others have used up what there was, or asked to be left alone.
    #[must_use]
    pub fn one_more(&self, told: Option<RateLimit>) -> bool {
        let used_up = told.is_some_and(|told| told.remaining <= self.reserve.of(told.limit));
        if self.pause().is_some() || (used_up && !self.grant.is_exception) {
            return false;
        }
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.left
            .fetch_update(set, fetch, |left| left.checked_sub(1))
            .is_ok()
    }

    /// The vendor turned a request away (429), and when it may be asked again if it said so.
    pub fn turned_away(&self, retry_after: Option<Duration>) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = (*pause).max(retry_after);
    }

    /// When to ask for what was not granted, or not sent, by what the vendor has told meanwhile.
    #[must_use]
    pub fn rest_in(&self, told: Option<RateLimit>) -> Duration {
        let is_enough = told.is_some_and(|told| told.remaining > self.reserve.of(told.limit));
        match self.pause() {
            Some(pause) => pause,
            // There is more than was known when only the exception was granted.
            None if self.grant.is_exception && is_enough => SOON,
            None => self.grant.rest_in,
        }
    }

    fn pause(&self) -> Option<Duration> {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self) -> u64 {
        let left = u64::from(self.left.load(Ordering::Relaxed));
        self.grant.counts.saturating_sub(left)
    }
}
