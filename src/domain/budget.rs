//! How many requests a vendor may be sent now.
//!
//! With its answers a vendor tells how many requests are left of an hour's worth; they come back
//! steadily. Whatever uses the same account shares them, also the workflows that create servers, so
//! a part is left to these: the [`Reserve`]. Deletes may use what lies above it, sweeps only what
//! lies above a higher mark. One delete every ten seconds is allowed even below, or nothing of ours
//! would ever go while others use up all that comes back.
//!
//! What was permitted counts as sent until its holder reports back, so that replicas which ask at
//! once do not take the same requests. A vendor that never tells what is left is only left alone
//! while it asks for that.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How often one delete is allowed whatever is left.
pub const EXCEPTION_EVERY: Duration = Duration::from_secs(10);
/// The holder of a permit must be done after this.
pub const PERMIT_LASTS: Duration = Duration::from_secs(120);
/// A permit that nobody reports back on counts as used up after this. Longer than it lasts: an answer
/// that another holder reports only now may be older than what this one sent last.
const HELD_BACK_FOR: Duration = Duration::from_secs(2 * PERMIT_LASTS.as_secs());
/// Nobody is asked to come back sooner: what is back by then is hardly worth a list.
const SOONEST: Duration = Duration::from_secs(1);
/// A sweep is asked to come back after this at the latest.
const LATEST: Duration = Duration::from_secs(60);
/// In seconds: a holder that could report an older one has lost its permit.
const OLDEST_ANSWER: i64 = 120;
const HOUR_MS: u128 = 3_600_000;
const MILLION: u32 = 1_000_000;

/// The share of a vendor's limit that is left to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    millionths: u32,
}

/// What requests are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Deletes, after the lists and polls that they need.
    Delete {
        /// How many lists and polls; they are permitted together or not at all.
        looks: u32,
    },
    /// Lists that look for what nobody reported. Deletes go first.
    Sweep,
}

/// What is known of a vendor's budget; the same for every replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateBudget {
    /// What the vendor last told; `None` if it never told anything.
    pub told: Option<Told>,
    /// What was permitted and not yet reported back.
    pub permits: Vec<OpenPermit>,
    /// When a delete was last permitted because one always is.
    pub last_exception_at: Option<DateTime<Utc>>,
    /// Until when the vendor asked not to be called at all.
    pub paused_until: Option<DateTime<Utc>>,
}

/// What a vendor told with one of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Requests an hour; also the most that can be saved up.
    pub limit: u64,
    /// Requests left.
    pub remaining: u64,
    /// When, by the vendor's clock in unix seconds, to tell older answers from newer.
    pub told_at: Option<i64>,
    /// When it was written down, by ours.
    pub heard_at: DateTime<Utc>,
}

/// Requests that somebody may be sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPermit {
    /// Which.
    pub id: Uuid,
    /// How many.
    pub requests: u64,
    /// When they count as sent, if nobody says so before.
    pub lapses_at: DateTime<Utc>,
}

/// What somebody who asks is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Some of it, or all.
    Granted(Grant),
    /// Nothing now.
    NotNow {
        /// When to ask again.
        come_back_in: Duration,
    },
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// How many of the requests that were asked for; a delete's lists and polls come on top.
    pub requests: u32,
    /// When to ask for the rest.
    pub rest_in: Duration,
    /// What it takes from the budget; nothing from a vendor that tells none.
    pub counts: u64,
    /// Whether it goes below the reserve, as one delete every ten seconds may.
    pub is_exception: bool,
}

impl RateBudget {
    /// How many of `wanted` requests may be sent now. [`Self::hand_out`] makes it so.
    pub fn ask(
        &mut self,
        purpose: Purpose,
        wanted: u32,
        reserve: Reserve,
        now: DateTime<Utc>,
    ) -> Answer {
        if let Some(come_back_in) = self.paused_for(now) {
            return Answer::NotNow { come_back_in };
        }
        self.lapse(now);
        let Some(told) = self.told else {
            return Answer::Granted(Grant {
                requests: wanted,
                rest_in: SOONEST,
                counts: 0,
                is_exception: false,
            });
        };
        let (looks, mark, anyway_in) = match purpose {
            Purpose::Delete { looks } => {
                (looks, reserve.of(told.limit), self.next_exception_in(now))
            }
            Purpose::Sweep => (0, reserve.mark_of_sweeps(told.limit), LATEST),
        };
        let (looks, one) = (u64::from(looks), wanted.min(1));
        let left = told.level(now).saturating_sub(self.handed_out());
        let above = left.saturating_sub(mark);
        // When all that is missing is back, or when it goes on anyway.
        let back_in = |missing, anyway_in| told.refill_time(missing).min(anyway_in).max(SOONEST);

        if above >= (looks + u64::from(one)).max(1) {
            let requests = u32::try_from(above - looks).unwrap_or(wanted).min(wanted);
            let rest = looks + u64::from(wanted - requests);
            return Answer::Granted(Grant {
                requests,
                rest_in: back_in(rest, anyway_in),
                counts: looks + u64::from(requests),
                is_exception: false,
            });
        }
        let needed = mark.saturating_add(looks + u64::from(wanted));
        let missing = needed.saturating_sub(left);
        if anyway_in.is_zero() {
            return Answer::Granted(Grant {
                requests: one,
                rest_in: back_in(missing, EXCEPTION_EVERY),
                counts: looks + u64::from(one),
                is_exception: true,
            });
        }
        Answer::NotNow {
            come_back_in: back_in(missing, anyway_in),
        }
    }

    /// Notes what was granted, under an id for [`Self::settle`].
    pub fn hand_out(&mut self, id: Uuid, grant: &Grant, now: DateTime<Utc>) {
        self.permits.push(OpenPermit {
            id,
            requests: grant.counts,
            lapses_at: now + HELD_BACK_FOR,
        });
        if grant.is_exception {
            self.last_exception_at = Some(now);
        }
    }

    /// The holder of a permit is done. What it sent is in what the vendor has `told` since, if it
    /// told anything; else `sent` requests are held back until the permit lapses: an older answer
    /// that somebody else reports meanwhile knows nothing of them. From a holder that was not done in
    /// time an answer is too old to be believed.
    pub fn settle(&mut self, id: Uuid, sent: u64, told: Option<Told>, now: DateTime<Utc>) {
        self.lapse(now);
        let Some(at) = self.permits.iter().position(|permit| permit.id == id) else {
            // Of a vendor that had not told anything yet; or it has lapsed.
            self.told = self.told.or(told);
            return;
        };
        let permit = &mut self.permits[at];
        let in_time = now + HELD_BACK_FOR <= permit.lapses_at + PERMIT_LASTS;
        let told = told.filter(|_| in_time);
        permit.requests = sent;
        if told.is_some() || self.told.is_none() || sent == 0 {
            self.permits.swap_remove(at);
        }
        if let Some(told) = told {
            self.hear(told);
        }
    }

    /// Notes that the vendor asked not to be called until then.
    pub fn pause(&mut self, until: DateTime<Utc>) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// For how long the vendor asks not to be called at all; `None` if it does not.
    #[must_use]
    pub fn paused_for(&self, now: DateTime<Utc>) -> Option<Duration> {
        let rest = (self.paused_until? - now).to_std().ok()?;
        (!rest.is_zero()).then_some(rest)
    }

    /// What the vendor would tell now if nobody had sent anything since; `None` if it never told
    /// anything.
    #[must_use]
    pub fn remaining(&self, now: DateTime<Utc>) -> Option<u64> {
        self.told.map(|told| told.level(now))
    }

    /// Answers overtake each other on their way here: an older one is ignored. Within one second,
    /// which is as exactly as they are dated, the least that was told counts.
    fn hear(&mut self, told: Told) {
        let Some(known) = self.told else {
            self.told = Some(told);
            return;
        };
        let seconds_behind = match (told.told_at, known.told_at) {
            (Some(new), Some(old)) => old.saturating_sub(new),
            // Without a date it may be as old as the other.
            (None, Some(_)) => 1,
            (_, None) => -1,
        };
        self.told = Some(match seconds_behind {
            0 => Told {
                remaining: told.remaining.min(known.remaining),
                ..told
            },
            1..=OLDEST_ANSWER => known,
            // Newer; or older than what any holder reports: the vendor's clock was set back.
            _ => told,
        });
    }

    /// Permits whose holders never reported back count as used up.
    fn lapse(&mut self, now: DateTime<Utc>) {
        self.permits.sort_by_key(|permit| permit.lapses_at);
        let open = self.permits.partition_point(|it| it.lapses_at <= now);
        for lapsed in self.permits.drain(..open) {
            if let Some(told) = &mut self.told {
                told.spend(lapsed.requests, lapsed.lapses_at);
            }
        }
    }

    fn handed_out(&self) -> u64 {
        let requests = self.permits.iter().map(|permit| permit.requests);
        requests.fold(0, u64::saturating_add)
    }

    fn next_exception_in(&self, now: DateTime<Utc>) -> Duration {
        let next = self.last_exception_at.map(|at| at + EXCEPTION_EVERY);
        next.and_then(|next| (next - now).to_std().ok())
            .unwrap_or_default()
            // It is only farther ahead if our clock was set back.
            .min(EXCEPTION_EVERY)
    }
}

impl Told {
    /// What is left if nobody has sent anything since.
    fn level(&self, now: DateTime<Utc>) -> u64 {
        let elapsed = (now - self.heard_at).to_std().unwrap_or_default();
        let refilled = elapsed.as_millis() * u128::from(self.limit) / HOUR_MS;
        let refilled = u64::try_from(refilled).unwrap_or(u64::MAX);
        self.remaining.saturating_add(refilled).min(self.limit)
    }

    /// Takes off what was sent by then and no answer tells of.
    fn spend(&mut self, requests: u64, by: DateTime<Utc>) {
        self.remaining = self.level(by).saturating_sub(requests);
        self.heard_at = self.heard_at.max(by);
    }

    /// How long that many take to come back.
    fn refill_time(&self, requests: u64) -> Duration {
        if self.limit == 0 {
            return Duration::MAX;
        }
        let ms = (u128::from(requests) * HOUR_MS).div_ceil(self.limit.into());
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

impl Reserve {
    /// That many requests of a limit, rounded up.
    #[must_use]
    pub fn of(self, limit: u64) -> u64 {
        let part = (u128::from(limit) * u128::from(self.millionths)).div_ceil(MILLION.into());
        u64::try_from(part).unwrap_or(limit)
    }

    /// What sweeps leave: the reserve, and a quarter of the rest to deletes.
    fn mark_of_sweeps(self, limit: u64) -> u64 {
        let reserve = self.of(limit);
        reserve + (limit - reserve).div_ceil(4)
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            millionths: MILLION / 5,
        }
    }
}

impl FromStr for Reserve {
    type Err = &'static str;

    /// A share such as `0.2`, from 0 to 1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let share: f64 = text.parse().map_err(|_| "a share reads 0.2")?;
        if !(0.0..=1.0).contains(&share) {
            return Err("a share is at least 0 and at most 1");
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a million, as was just seen"
        )]
        let millionths = (share * f64::from(MILLION)).round() as u32;
        Ok(Self { millionths })
    }
}

#[cfg(test)]
mod tests;
