//! How often an address may fail to prove who it is.
//!
//! Two counts. **Guesses** of a token, in `Authorization`, in the form to sign in or by a forged cookie:
//! over the rate nothing from there is compared any more, or it would be no limit to guessing. Whatever
//! else is **unproven**: a callback or a webhook whose proof is wrong, a call without any. There only the
//! failing call is told so, for runners share addresses with strangers, and a failure callback that is
//! refused is a leak. Apart, so that who needs no secret to fail can't shut out somebody who has one.
//!
//! What is kept is bounded, however many addresses there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::Client;

/// A bucket for each address: so many failures at once, and one more each time this has passed.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// How many at once.
    pub burst: u32,
    /// How long one takes to come back.
    pub every: Duration,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            burst: 20,
            every: Duration::from_secs(1),
        }
    }
}

/// The failures of late.
#[derive(Debug)]
pub struct Failures {
    guesses: Count,
    unproven: Count,
}

/// What became of a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is.
    Guess,
    /// It was not looked at, for there were too many. One more may be tried after this.
    TooMany(Duration),
}

impl Failures {
    /// None so far.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            guesses: Count::new(rate, "guesses of a token"),
            unproven: Count::new(rate, "calls without a proof that holds"),
        }
    }

    /// Looks at a guess, unless too many from there were wrong.
    pub(super) fn guess<T>(
        &self,
        client: Client,
        look: impl FnOnce() -> Option<T>,
    ) -> Result<T, Wrong> {
        self.guess_at(Instant::now(), client, look)
    }

    fn guess_at<T>(
        &self,
        now: Instant,
        client: Client,
        look: impl FnOnce() -> Option<T>,
    ) -> Result<T, Wrong> {
        // Under the lock, or as many as come at once would all be looked at.
        let mut kept = self.guesses.kept();
        if let Some(wait) = self.guesses.wait(&mut kept, client, now) {
            return Err(Wrong::TooMany(wait));
        }
        look().ok_or_else(|| {
            self.guesses.add(&mut kept, client, now);
            Wrong::Guess
        })
    }

    /// Notes a failure. `Some`: there were too many; one more counts as one after this.
    pub(super) fn unproven(&self, client: Client) -> Option<Duration> {
        let now = Instant::now();
        let mut kept = self.unproven.kept();
        let wait = self.unproven.wait(&mut kept, client, now);
        if wait.is_none() {
            self.unproven.add(&mut kept, client, now);
        }
        wait
    }
}

/// Addresses that are kept, at most; some 100 bytes each.
const MOST_KEPT: usize = 65_536;
/// How often the log says of one address that it fails too often.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Count {
    rate: Rate,
    what: &'static str,
    kept: Mutex<Kept>,
}

/// Those who failed of late, and those before them. When the first are half of what may be kept, the
/// others are forgotten.
#[derive(Debug, Default)]
struct Kept {
    recent: HashMap<IpAddr, Bucket>,
    older: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When all that was taken out has come back.
    full_at: Instant,
    told_at: Option<Instant>,
}

impl Count {
    fn new(rate: Rate, what: &'static str) -> Self {
        Self {
            rate,
            what,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long until another failure is let pass. `None`: one is now.
    fn wait(&self, kept: &mut Kept, client: Client, now: Instant) -> Option<Duration> {
        let bucket = kept.find(client.network())?;
        let empty_until = (bucket.full_at + self.rate.every)
            .checked_duration_since(now + self.rate.every * self.rate.burst);
        let wait = empty_until.filter(|wait| !wait.is_zero())?;
        if bucket.told_at.is_none_or(|at| at + TELL_EVERY <= now) {
            bucket.told_at = Some(now);
            tracing::warn!(client.address = %client, "too many {} from this address", self.what);
        }
        Some(wait)
    }

    fn add(&self, kept: &mut Kept, client: Client, now: Instant) {
        match kept.find(client.network()) {
            Some(bucket) => bucket.full_at = bucket.full_at.max(now) + self.rate.every,
            None => kept.put(
                client.network(),
                Bucket {
                    full_at: now + self.rate.every,
                    told_at: None,
                },
            ),
        }
    }
}

impl Kept {
    fn find(&mut self, network: IpAddr) -> Option<&mut Bucket> {
        if let Some(bucket) = self.older.remove(&network) {
            self.put(network, bucket);
        }
        self.recent.get_mut(&network)
    }

    fn put(&mut self, network: IpAddr, bucket: Bucket) {
        if self.recent.len() >= MOST_KEPT / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(network, bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 20,
        every: Duration::from_secs(1),
    };

    fn of(text: &str) -> Client {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn wrong(failures: &Failures, now: Instant, client: Client) -> Wrong {
        failures.guess_at(now, client, || None::<()>).unwrap_err()
    }

    #[test]
    fn after_the_burst_nothing_is_looked_at_until_the_time_that_is_told() {
        let failures = Failures::new(RATE);
        let guesser = of("192.0.2.1");
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(wrong(&failures, began, guesser), Wrong::Guess);
        }
        let waits = |now| {
            let never = || -> Option<()> { panic!("it is looked at") };
            failures.guess_at(now, guesser, never).unwrap_err()
        };
        assert_eq!(waits(began), Wrong::TooMany(RATE.every));
        // Neither does it get longer by trying on, nor is it over a moment too soon.
        let moment = Duration::from_millis(1);
        let nearly = began + Duration::from_millis(999);
        assert_eq!(waits(nearly), Wrong::TooMany(moment));
        let then = began + RATE.every;
        assert_eq!(failures.guess_at(then, guesser, || Some(7)), Ok(7));
        assert_eq!(wrong(&failures, then, guesser), Wrong::Guess);
        assert_eq!(wrong(&failures, then, guesser), Wrong::TooMany(RATE.every));
        let later = then + Duration::from_secs(3600);
        for _ in 0..20 {
            assert_eq!(wrong(&failures, later, guesser), Wrong::Guess);
        }
        assert_eq!(waits(later), Wrong::TooMany(RATE.every));
    }

    #[test]
    fn nobody_is_kept_out_by_somebody_elses_failures_or_by_another_kind() {
        let failures = Failures::new(Rate {
            every: Duration::from_secs(3600),
            ..RATE
        });
        let now = Instant::now();
        let is_out = |client: &str| wrong(&failures, now, of(client)) != Wrong::Guess;
        for _ in 0..21 {
            is_out("2001:db8:0:1::1");
        }
        assert!(is_out("2001:db8:0:1:ffff::1"));
        assert!(!is_out("2001:db8:0:2::1"));
        assert_eq!(failures.unproven(of("2001:db8:0:1::1")), None);
        for _ in 0..20 {
            assert_eq!(failures.unproven(of("192.0.2.1")), None);
        }
        assert!(failures.unproven(of("192.0.2.1")).is_some());
        assert!(!is_out("192.0.2.1"));
    }

    #[test]
    fn what_is_kept_is_bounded_and_who_goes_on_is_not_forgotten() {
        let failures = Failures::new(RATE);
        let now = Instant::now();
        let guesser = of("192.0.2.1");
        for _ in 0..20 {
            wrong(&failures, now, guesser);
        }
        for n in 0..200_000_u128 {
            let other = IpAddr::V6(((0x2001_0db8 << 96) + (n << 64)).into());
            assert_eq!(wrong(&failures, now, other.into()), Wrong::Guess);
            if n % 20_000 == 0 {
                let waits = Wrong::TooMany(RATE.every);
                assert_eq!(wrong(&failures, now, guesser), waits);
            }
        }
        let kept = failures.guesses.kept();
        assert!(kept.recent.len() + kept.older.len() <= MOST_KEPT + 1);
    }
}
