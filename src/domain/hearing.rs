//! Whether callbacks can be heard, and whether this database may act on not having heard one.
//!
//! Every replica that takes callbacks says so every few seconds: a pulse. [`Hearing::after`] is
//! what a pulse changes, all of it pure. Pulses without a gap make a period of hearing; only in one
//! may anything be failed for its time. And not while the database is *held*: when there is a reason
//! to believe that it is not, or no longer, what the workflows talked to.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::overdue::Patience;
use super::spelling::spelled_by_serde;

/// Which database it is. One that was restored from a dump, or copied, is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the cluster; `None` where we may not ask.
    pub system_identifier: Option<i64>,
    /// Of the database within its cluster.
    pub database_oid: i64,
    /// Of the table `provisions`.
    pub table_oid: i64,
}

/// What is known of the pulses so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hearing {
    /// Start of the current period without a gap; `None` before the first pulse of all.
    pub since: Option<DateTime<Utc>>,
    /// The last pulse.
    pub last_pulse_at: Option<DateTime<Utc>>,
    /// How many pulses there were.
    pub pulses: i64,
    /// Which database it was.
    pub fingerprint: Option<Fingerprint>,
    /// Our own URL as workflows see it.
    pub public_url: Option<String>,
    /// Why nothing is failed for its time.
    pub hold: Option<Hold>,
}

/// What a replica sees as it pulses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// Which database it is.
    pub fingerprint: Fingerprint,
    /// The URL that this replica is set to; `None`: unset, and not compared.
    pub public_url: Option<String>,
    /// Whether any provision is waited for that began longer ago than one may take.
    pub under_way: bool,
    /// How many pulses there were when this replica last wrote one; 0: it has not.
    pub confirmed: i64,
}

/// Since when and why nothing is failed for its time, until an operator says that it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Hold {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why.
    pub reason: HoldReason,
}

/// Why a database is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// It was restored from a dump, or copied.
    OtherDatabase,
    /// Our public URL is not the one that workflows were told.
    OtherPublicUrl,
    /// It is older than what it had confirmed to us.
    LostWrites,
    /// Nobody took callbacks for longer than a provision may take, and some were under way.
    LongGap,
}

impl HoldReason {
    /// For people: what was noticed.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::OtherDatabase => {
                "this is not the database that it was: it was restored from a dump, or copied"
            }
            Self::OtherPublicUrl => "BACKSTOP_PUBLIC_URL is not what it was",
            Self::LostWrites => "the database has lost writes that it had confirmed",
            Self::LongGap => {
                "nobody took callbacks for longer than a provision may take, and some were under way"
            }
        }
    }
}

impl Fingerprint {
    fn is_other_than(&self, known: &Self) -> bool {
        let same_cluster = match (self.system_identifier, known.system_identifier) {
            (Some(ours), Some(known)) => ours == known,
            // What one of them could not be asked is no difference.
            _ => true,
        };
        !same_cluster
            || (self.database_oid, self.table_oid) != (known.database_oid, known.table_oid)
    }
}

impl Hearing {
    /// What is known after a pulse.
    #[must_use]
    pub fn after(self, pulse: &Pulse, patience: &Patience) -> Self {
        let hold = self.hold.or_else(|| {
            self.reason_to_hold(pulse, patience.provision_timeout)
                .map(|reason| Hold {
                    since: pulse.now,
                    reason,
                })
        });
        let since = self.since_at(pulse.now, patience).unwrap_or(pulse.now);
        let fingerprint = Fingerprint {
            system_identifier: pulse
                .fingerprint
                .system_identifier
                .or_else(|| self.fingerprint?.system_identifier),
            ..pulse.fingerprint
        };
        // While it is held, what it was is kept to be compared with.
        let (fingerprint, public_url) = match hold {
            None => (
                Some(fingerprint),
                pulse.public_url.clone().or(self.public_url),
            ),
            Some(_) => (self.fingerprint, self.public_url),
        };
        Self {
            since: Some(since),
            last_pulse_at: Some(pulse.now),
            pulses: self.pulses + 1,
            fingerprint,
            public_url,
            hold,
        }
    }

    /// Since when callbacks can be heard, as of `now`; `None` if they cannot: the last pulse is too
    /// long ago, or the clock went back behind it.
    #[must_use]
    pub fn since_at(&self, now: DateTime<Utc>, patience: &Patience) -> Option<DateTime<Utc>> {
        let (since, last) = self.since.zip(self.last_pulse_at)?;
        let gap = now - last;
        (gap <= delta(patience.longest_breath()) && since <= now).then_some(since)
    }

    /// Whether what is known is of another database than this.
    #[must_use]
    pub fn is_of_another(&self, fingerprint: &Fingerprint) -> bool {
        self.fingerprint
            .is_some_and(|known| fingerprint.is_other_than(&known))
    }

    fn reason_to_hold(&self, pulse: &Pulse, provision_timeout: Duration) -> Option<HoldReason> {
        let other_url = self
            .public_url
            .as_ref()
            .zip(pulse.public_url.as_ref())
            .is_some_and(|(known, set)| known != set);
        let gap = self.last_pulse_at.map(|last| pulse.now - last);
        if self.is_of_another(&pulse.fingerprint) {
            Some(HoldReason::OtherDatabase)
        } else if other_url {
            Some(HoldReason::OtherPublicUrl)
        } else if self.pulses < pulse.confirmed {
            Some(HoldReason::LostWrites)
        } else if pulse.under_way && gap.is_some_and(|gap| gap > delta(provision_timeout)) {
            Some(HoldReason::LongGap)
        } else {
            None
        }
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

spelled_by_serde!(HoldReason);

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        heartbeat_timeout: Duration::from_secs(300),
        provision_timeout: Duration::from_secs(1800),
    };
    const HERE: Fingerprint = Fingerprint {
        system_identifier: Some(7),
        database_oid: 5,
        table_oid: 16385,
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn pulse(seconds: i64) -> Pulse {
        Pulse {
            now: at(seconds),
            fingerprint: HERE,
            public_url: Some("https://backstop.example.com".to_owned()),
            under_way: true,
            confirmed: 0,
        }
    }

    fn heard(pulses: &[i64]) -> Hearing {
        pulses.iter().fold(Hearing::default(), |hearing, seconds| {
            hearing.after(&pulse(*seconds), &PATIENCE)
        })
    }

    fn reason(hearing: Hearing, pulse: &Pulse) -> Option<HoldReason> {
        hearing.after(pulse, &PATIENCE).hold.map(|hold| hold.reason)
    }

    #[test]
    fn pulses_without_a_gap_are_one_period() {
        let hearing = heard(&[100, 105, 120]);
        assert_eq!(hearing.since, Some(at(100)));
        assert_eq!(hearing.pulses, 3);
        assert_eq!(hearing.hold, None);
        assert_eq!(hearing.since_at(at(135), &PATIENCE), Some(at(100)));
        assert_eq!(hearing.since_at(at(136), &PATIENCE), None);
        assert_eq!(Hearing::default().since_at(at(0), &PATIENCE), None);
    }

    #[test]
    fn a_gap_begins_another_period_and_so_does_a_clock_that_went_back() {
        assert_eq!(heard(&[100, 116]).since, Some(at(116)));
        assert_eq!(heard(&[100, 40]).since, Some(at(40)));
        // Within the period nothing is to be begun anew.
        assert_eq!(heard(&[100, 110, 105]).since, Some(at(100)));
    }

    #[test]
    fn a_gap_longer_than_a_provision_may_take_is_a_hold_if_any_is_under_way() {
        assert_eq!(reason(heard(&[0]), &pulse(1800)), None);
        let late = pulse(1801);
        assert_eq!(reason(heard(&[0]), &late), Some(HoldReason::LongGap));
        let idle = Pulse {
            under_way: false,
            ..late
        };
        assert_eq!(reason(heard(&[0]), &idle), None);
    }

    #[test]
    fn another_database_is_a_hold() {
        for fingerprint in [
            Fingerprint {
                system_identifier: Some(8),
                ..HERE
            },
            Fingerprint {
                database_oid: 6,
                ..HERE
            },
            Fingerprint {
                table_oid: 16999,
                ..HERE
            },
        ] {
            let elsewhere = Pulse {
                fingerprint,
                under_way: false,
                ..pulse(5)
            };
            let held = Some(HoldReason::OtherDatabase);
            assert_eq!(reason(heard(&[0]), &elsewhere), held);
        }
    }

    #[test]
    fn a_cluster_that_cannot_be_asked_is_no_other_and_what_was_known_of_it_stays() {
        let unknown = Pulse {
            fingerprint: Fingerprint {
                system_identifier: None,
                ..HERE
            },
            ..pulse(5)
        };
        let hearing = heard(&[0]).after(&unknown, &PATIENCE);
        assert_eq!(hearing.hold, None);
        assert_eq!(hearing.fingerprint, Some(HERE));
    }

    #[test]
    fn another_public_url_is_a_hold_and_none_is_not() {
        let other = Pulse {
            public_url: Some("https://copy.example.com".to_owned()),
            ..pulse(5)
        };
        let held = Some(HoldReason::OtherPublicUrl);
        assert_eq!(reason(heard(&[0]), &other), held);
        let unset = Pulse {
            public_url: None,
            ..pulse(5)
        };
        let hearing = heard(&[0]).after(&unset, &PATIENCE);
        assert_eq!(hearing.hold, None);
        assert_eq!(
            reason(
                hearing,
                &Pulse {
                    now: at(10),
                    ..other
                }
            ),
            held
        );
    }

    #[test]
    fn a_database_that_forgot_a_pulse_is_a_hold() {
        let confirmed = |confirmed| Pulse {
            confirmed,
            ..pulse(5)
        };
        assert_eq!(reason(heard(&[0]), &confirmed(1)), None);
        let held = Some(HoldReason::LostWrites);
        assert_eq!(reason(heard(&[0]), &confirmed(2)), held);
    }

    #[test]
    fn a_hold_stays_with_its_first_reason_and_with_what_the_database_was() {
        let elsewhere = Pulse {
            fingerprint: Fingerprint {
                table_oid: 1,
                ..HERE
            },
            ..pulse(3000)
        };
        let held = heard(&[0]).after(&elsewhere, &PATIENCE);
        let later = held.after(&pulse(9000), &PATIENCE);
        let expected = Hold {
            since: at(3000),
            reason: HoldReason::OtherDatabase,
        };
        assert_eq!(later.hold, Some(expected));
        assert_eq!(later.fingerprint, Some(HERE));
    }
}
