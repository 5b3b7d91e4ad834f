//! When a provision has used up its time.
//!
//! One sentence: time in which nobody could have heard a callback does not count; so silence is
//! measured from the later of the last message and the moment since when callbacks can be heard,
//! and a deadline that has passed counts once they could be heard for as long as a workflow may
//! need to get a last word through. GitHub's word that the run is under way ends a silence as any
//! message does, and moves no deadline.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, json};

use super::fields::Reason;
use super::provision::{Change, Provision};
use super::transition::{IllegalMove, Move, Status};

/// How long a provision is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The longest silence of an attempt that has sent a heartbeat.
    pub heartbeat_timeout: Duration,
    /// From `started`, or creation, to a terminal callback.
    pub provision_timeout: Duration,
}

/// The longest that nobody may take callbacks before that counts as a gap.
const LONGEST_BREATH: Duration = Duration::from_secs(15);

impl Patience {
    /// How long callbacks must have been heard before a deadline counts: a workflow whose last word
    /// found nobody repeats it for some minutes.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.heartbeat_timeout.min(self.provision_timeout)
    }

    /// The longest time without a pulse in which callbacks still count as heard. Far less than the
    /// silence that is measured against it.
    #[must_use]
    pub fn longest_breath(&self) -> Duration {
        LONGEST_BREATH.min(self.grace() / 4)
    }

    /// The silence of an attempt that has sent a heartbeat after which GitHub is asked about its
    /// run: early enough that the answer comes before the time-out does.
    #[must_use]
    pub fn suspicious_after(&self) -> Duration {
        self.heartbeat_timeout / 2
    }

    /// The pause before GitHub is asked about the same run again. An attempt that is silent lives
    /// by the answers, so there is room for one that is lost.
    #[must_use]
    pub fn ask_every(&self) -> Duration {
        self.heartbeat_timeout / 4
    }
}

impl Provision {
    /// When its time will be up if nothing more is heard, and why; `None` if nothing is waited for.
    /// `hearing_since` is when the period began in which every callback could have been heard,
    /// `under_way_at` when GitHub last said that the attempt's run is not over.
    #[must_use]
    pub fn time_is_up_at(
        &self,
        patience: &Patience,
        hearing_since: DateTime<Utc>,
        under_way_at: Option<DateTime<Utc>>,
    ) -> Option<(DateTime<Utc>, Reason)> {
        let attempt = &self.attempt;
        let deadline = attempt.deadline_at.max(hearing_since + patience.grace());
        match self.status {
            Status::Queued => Some((deadline, Reason::NeverStarted)),
            Status::Provisioning => {
                // Any message ends a silence. Only the first heartbeat begins to demand more.
                let silent_at = attempt.last_heartbeat_at.map(|_| {
                    let heard_at = attempt.last_message_at.max(hearing_since);
                    under_way_at.map_or(heard_at, |at| at.max(heard_at))
                        + patience.heartbeat_timeout
                });
                Some(match silent_at {
                    Some(silent_at) if silent_at < deadline => (silent_at, Reason::Silent),
                    _ => (deadline, Reason::Deadline),
                })
            }
            Status::Running | Status::Failed | Status::Destroyed => None,
        }
    }

    /// Fails a provision whose time is up; `None` if it is not.
    ///
    /// # Errors
    /// [`IllegalMove`] if the two tables disagree, which would be a bug.
    pub fn overdue(
        self,
        now: DateTime<Utc>,
        patience: &Patience,
        hearing_since: DateTime<Utc>,
        under_way_at: Option<DateTime<Utc>>,
    ) -> Result<Option<Change>, IllegalMove> {
        let Some((_, reason)) = self
            .time_is_up_at(patience, hearing_since, under_way_at)
            .filter(|(at, _)| *at <= now)
        else {
            return Ok(None);
        };
        let mut change = self.change(Move::Overdue)?;
        change.provision.updated_at = now;
        let attempt = &mut change.provision.attempt;
        let data = Map::from_iter([
            ("reason".to_owned(), json!(reason)),
            ("deadline_at".to_owned(), json!(attempt.deadline_at)),
            ("last_message_at".to_owned(), json!(attempt.last_message_at)),
            (
                "last_heartbeat_at".to_owned(),
                json!(attempt.last_heartbeat_at),
            ),
            ("hearing_since".to_owned(), json!(hearing_since)),
            ("run_under_way_at".to_owned(), json!(under_way_at)),
        ]);
        attempt.end(reason, now);
        let number = attempt.number;
        change.record(number, "deadline", data);
        Ok(Some(change))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::names::{AttemptNumber, ProvisionId, Run};
    use crate::domain::provision::Attempt;

    const PATIENCE: Patience = Patience {
        heartbeat_timeout: Duration::from_secs(300),
        provision_timeout: Duration::from_secs(1800),
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn queued() -> Provision {
        let id = ProvisionId::new(Uuid::nil());
        let mut queued = Provision::queued(id, at(0), PATIENCE.provision_timeout);
        queued.version = 1;
        queued
    }

    /// Begun at 0 and, where it is given, last heard in a heartbeat then.
    fn provisioning(heartbeat: Option<i64>) -> Provision {
        let run = Run { id: 1, attempt: 1 };
        let number = AttemptNumber::UNTAKEN.next();
        let mut attempt = Attempt::open(number, Some(run), at(0), PATIENCE.provision_timeout);
        attempt.last_heartbeat_at = heartbeat.map(at);
        attempt.last_message_at = at(heartbeat.unwrap_or(0));
        Provision {
            status: Status::Provisioning,
            attempt,
            ..queued()
        }
    }

    #[test]
    fn what_nobody_took_has_never_started_and_what_did_not_end_has_passed_its_deadline() {
        for (provision, reason) in [
            (queued(), Reason::NeverStarted),
            (provisioning(None), Reason::Deadline),
        ] {
            let up = provision.time_is_up_at(&PATIENCE, at(-9999), None);
            assert_eq!(up, Some((at(1800), reason)));
        }
    }

    #[test]
    fn silence_is_counted_from_the_last_message_and_only_after_a_heartbeat() {
        let up = |provision: &Provision| provision.time_is_up_at(&PATIENCE, at(-9999), None);
        assert_eq!(up(&provisioning(Some(60))), Some((at(360), Reason::Silent)));
        let mut then_a_step = provisioning(Some(60));
        then_a_step.attempt.last_message_at = at(100);
        assert_eq!(up(&then_a_step), Some((at(400), Reason::Silent)));
        assert_eq!(
            up(&provisioning(Some(1790))),
            Some((at(1800), Reason::Deadline))
        );
    }

    #[test]
    fn time_in_which_nobody_could_hear_does_not_count() {
        let up = |provision: &Provision, since| provision.time_is_up_at(&PATIENCE, at(since), None);
        let silent = provisioning(Some(60));
        assert_eq!(up(&silent, 1000), Some((at(1300), Reason::Silent)));
        assert_eq!(up(&queued(), 1400), Some((at(1800), Reason::NeverStarted)));
        assert_eq!(up(&queued(), 9000), Some((at(9300), Reason::NeverStarted)));
        assert_eq!(
            up(&provisioning(None), 9000),
            Some((at(9300), Reason::Deadline))
        );
    }

    #[test]
    fn githubs_word_that_the_run_is_under_way_ends_a_silence_and_moves_no_deadline() {
        let up = |provision: &Provision, word| {
            provision.time_is_up_at(&PATIENCE, at(-9999), Some(at(word)))
        };
        let silent = provisioning(Some(60));
        assert_eq!(up(&silent, 50), Some((at(360), Reason::Silent)));
        assert_eq!(up(&silent, 350), Some((at(650), Reason::Silent)));
        assert_eq!(up(&silent, 1790), Some((at(1800), Reason::Deadline)));
        assert_eq!(up(&silent, 9000), Some((at(1800), Reason::Deadline)));
        assert_eq!(up(&queued(), 1790), Some((at(1800), Reason::NeverStarted)));
    }

    #[test]
    fn what_is_over_or_in_use_is_never_overdue() {
        for status in [Status::Running, Status::Failed, Status::Destroyed] {
            let provision = Provision {
                status,
                ..provisioning(Some(0))
            };
            assert_eq!(provision.time_is_up_at(&PATIENCE, at(0), None), None);
        }
    }

    #[test]
    fn being_overdue_fails_the_attempt_with_all_that_may_exist() {
        let not_yet = provisioning(None).overdue(at(1799), &PATIENCE, at(0), None);
        assert_eq!(not_yet, Ok(None));
        let change = provisioning(None).overdue(at(1800), &PATIENCE, at(0), None);
        let change = change.unwrap().unwrap();
        assert_eq!(change.provision.status, Status::Failed);
        let attempt = &change.provision.attempt;
        assert_eq!(attempt.may_exist.len(), 3);
        assert_eq!(attempt.rollback.unwrap().reason, Reason::Deadline);
        assert_eq!(change.events.len(), 1);
        assert_eq!(change.events[0].kind, "deadline");
    }

    #[test]
    fn a_breath_is_far_shorter_than_what_is_measured_against_it() {
        assert_eq!(PATIENCE.longest_breath(), Duration::from_secs(15));
        let hasty = Patience {
            heartbeat_timeout: Duration::from_secs(2),
            ..PATIENCE
        };
        assert_eq!(hasty.longest_breath(), Duration::from_millis(500));
    }
}
