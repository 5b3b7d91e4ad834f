//! How old an orphan can get, by the settings.
//!
//! An orphan's age counts from when its provision needs it no longer, or from when its vendor made it
//! if that was later, until the vendor has deleted it. What is added up here are the waits that happen
//! while nothing is broken. No wake-up is relied on: each look is counted as if it came by the clock.
//! What is broken adds to it: see [`Ceiling::after_a_crash`], [`Ceiling::after_a_refusal`] and
//! [`Ceiling::after_silence_of_ours`].

use std::time::Duration;

use crate::domain::overdue::Patience;
use crate::rollback::{LOOK_FOR_LATE_ARRIVALS_EVERY, worker};
use crate::sweep::periodic;
use crate::watch::overdue;

/// Auth key, server, device: each is looked for in a claim of its own, and what is found is deleted in
/// the next.
const CLAIMS: u32 = 4;

/// The settings that decide how old an orphan can get.
#[derive(Debug, Clone, Copy)]
pub struct Ceiling {
    /// How long a provision is waited for.
    pub patience: Patience,
    /// The longest pause after a failed try.
    pub retry_cap: Duration,
    /// How the vendors' lists are swept.
    pub sweep: periodic::Settings,
    /// How long the vendor itself takes to delete, from when it is first asked.
    pub vendor_takes: Duration,
}

impl Ceiling {
    /// Its failure was recorded, its provision destroyed or its attempt superseded.
    #[must_use]
    pub fn reported(&self) -> Duration {
        worker::LOOK_EVERY * CLAIMS + self.vendor_takes
    }

    /// Its workflow had sent heartbeats, and died without a word.
    #[must_use]
    pub fn silent(&self) -> Duration {
        self.patience.heartbeat_timeout + overdue::LOOK_EVERY + self.reported()
    }

    /// Its workflow had sent no heartbeat, and died without a word.
    #[must_use]
    pub fn unreported(&self) -> Duration {
        self.patience.provision_timeout + overdue::LOOK_EVERY + self.reported()
    }

    /// Its vendor made it after all, when nobody needed it any more: a search still looks, or a sweep
    /// finds it.
    #[must_use]
    pub fn late(&self) -> Duration {
        let swept = self.sweep.every + periodic::LOOK_EVERY + periodic::JITTER;
        swept.max(LOOK_FOR_LATE_ARRIVALS_EVERY) + self.reported()
    }

    /// What a replica adds that is killed while it has a step of the attempt in hand.
    #[must_use]
    pub fn after_a_crash(&self) -> Duration {
        worker::LEASE
    }

    /// What a replica adds, to [`late`](Self::late), that is killed in a sweep.
    #[must_use]
    pub fn after_a_crash_in_a_sweep(&self) -> Duration {
        self.sweep.lease()
    }

    /// What a vendor adds that refused or could not be reached, once it does as it is asked again.
    #[must_use]
    pub fn after_a_refusal(&self) -> Duration {
        self.retry_cap
    }

    /// What is added to an attempt that nobody speaks for once callbacks can be heard again.
    #[must_use]
    pub fn after_silence_of_ours(&self) -> Duration {
        self.patience.grace()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Settings;
    use crate::domain::orphans::Mandate;

    #[derive(Parser)]
    struct Serve {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn readme_states_it_for_the_default_settings() {
        let settings = Serve::parse_from(["serve"]).settings;
        let ceiling = Ceiling {
            patience: Patience {
                heartbeat_timeout: settings.heartbeat_timeout,
                provision_timeout: settings.provision_timeout,
            },
            retry_cap: settings.retry_cap,
            sweep: periodic::Settings {
                every: settings.sweep_interval,
                mandate: Mandate::Reopen,
            },
            vendor_takes: Duration::from_secs(30),
        };
        let readme = include_str!("../README.md");
        for stated in [
            ceiling.reported(),
            ceiling.silent(),
            ceiling.unreported(),
            ceiling.late(),
        ] {
            let stated = format!("| {} |", humantime::format_duration(stated));
            assert!(readme.contains(&stated), "README does not state {stated}");
        }
        assert!(ceiling.unreported() < Duration::from_secs(31 * 60));
    }

    #[test]
    fn a_sweep_is_held_for_its_interval_within_limits() {
        let lease = |every| {
            let every = Duration::from_secs(every);
            let mandate = Mandate::Reopen;
            periodic::Settings { every, mandate }.lease().as_secs()
        };
        assert_eq!([1, 60, 600].map(lease), [30, 60, 300]);
    }
}
