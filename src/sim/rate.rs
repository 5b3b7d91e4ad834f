//! Hetzner's rate limit: a bucket that holds an hour's worth of requests and refills steadily.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::clock;

/// What is left of a project's requests.
#[derive(Debug)]
pub(super) struct RateBucket {
    limit: u32,
    per_second: f64,
    level: f64,
    filled_at: DateTime<Utc>,
}

/// What the `RateLimit-*` headers say.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateState {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    /// Unix seconds at which the bucket is full again.
    pub(super) reset: i64,
}

impl RateBucket {
    pub(super) fn full(limit: u32, per_second: f64, now: DateTime<Utc>) -> RateBucket {
        RateBucket {
            limit,
            per_second: per_second.max(f64::MIN_POSITIVE),
            level: f64::from(limit),
            filled_at: now,
        }
    }

    /// Sets what is left; it refills from there.
    pub(super) fn set_remaining(&mut self, remaining: u32, now: DateTime<Utc>) {
        self.level = f64::from(remaining.min(self.limit));
        self.filled_at = now;
    }

    /// Takes one request; false when none is left.
    pub(super) fn take(&mut self, now: DateTime<Utc>) -> bool {
        self.refill(now);
        let allowed = self.level >= 1.0;
        if allowed {
            self.level -= 1.0;
        }
        allowed
    }

    pub(super) fn state(&mut self, now: DateTime<Utc>) -> RateState {
        self.refill(now);
        let missing = (f64::from(self.limit) - self.level).max(0.0);
        let until_full = Duration::try_from_secs_f64(missing / self.per_second)
            .unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
        RateState {
            limit: self.limit,
            remaining: self.whole_level(),
            reset: clock::later(now, until_full).timestamp()
                + i64::from(until_full.subsec_nanos() > 0),
        }
    }

    fn refill(&mut self, now: DateTime<Utc>) {
        let elapsed = (now - self.filled_at).to_std().unwrap_or_default();
        let level = self.level + elapsed.as_secs_f64() * self.per_second;
        self.level = level.min(f64::from(self.limit));
        self.filled_at = now;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the level lies between zero and a u32"
    )]
    fn whole_level(&self) -> u32 {
        self.level as u32
    }
}
