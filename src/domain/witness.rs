//! What GitHub says of a run attempt, and what follows from it.
//!
//! Only a conclusion that says failure ends anything, and only for the attempt that belongs to that
//! very run attempt, while it is still waited for. A run that ended without failing and of which we
//! never heard a success contradicts us: that is shown and not acted on, for the machine may well be
//! in use (a restored database has lost such messages), and the deadline is there for it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::fields::Conclusion;
use super::names::Run;
use super::provision::{Change, Provision};
use super::spelling::spelled_by_serde;
use super::transition::{IllegalMove, Move, Status};

/// How a run attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It waits for a runner or is at work: it is not over.
    UnderWay,
    /// It is over, for good: a re-run is another run attempt.
    Ended(Ending),
    /// Anything else, such as a run that waits for somebody's approval. Decides nothing.
    Unclear,
}

/// How a run attempt ended, in GitHub's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All went well.
    Success,
    /// A job failed, or its runner was lost.
    Failure,
    /// Somebody cancelled it, or it was pushed out.
    Cancelled,
    /// A time limit was reached.
    TimedOut,
    /// It could not even begin.
    StartupFailure,
    /// GitHub has given up on it.
    Stale,
    /// None of its jobs was to run.
    Skipped,
    /// It wants to say neither.
    Neutral,
}

impl RunState {
    /// Reads the fields `status` and `conclusion` of a run.
    #[must_use]
    pub fn parse(status: Option<&str>, conclusion: Option<&str>) -> Self {
        match (status, conclusion) {
            (Some("completed"), Some(word)) => word.parse().map_or(Self::Unclear, Self::Ended),
            (Some("requested" | "queued" | "pending" | "waiting" | "in_progress"), None) => {
                Self::UnderWay
            }
            _ => Self::Unclear,
        }
    }
}

impl Ending {
    /// What it means for the provision; `None`: it does not say failure.
    #[must_use]
    pub fn as_failure(self) -> Option<Conclusion> {
        match self {
            Self::Failure | Self::StartupFailure | Self::Stale => Some(Conclusion::Failure),
            Self::Cancelled => Some(Conclusion::Cancelled),
            Self::TimedOut => Some(Conclusion::TimedOut),
            Self::Success | Self::Skipped | Self::Neutral => None,
        }
    }
}

/// That a run attempt has ended, as GitHub says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Testimony {
    /// Which one.
    pub run: Run,
    /// How.
    pub ending: Ending,
    /// How we know.
    pub source: Source,
}

/// How we know what GitHub says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It was asked.
    Asked,
    /// It sent a webhook.
    Webhook,
}

/// All that decides what a testimony means for a provision, as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Accused {
    /// The provision.
    pub provision: Provision,
    /// The run that was dispatched for it, as long as none has taken it.
    pub dispatched: Option<i64>,
    /// Whether the history of the current attempt has a discrepancy already.
    pub contradicted: bool,
    /// The moment.
    pub now: DateTime<Utc>,
}

/// The kind of event of a run that failed.
pub const RUN_FAILED: &str = "github.run_failed";
/// The kind of event of a run that ended without failing, and of which we heard no success.
pub const DISCREPANCY: &str = "github.discrepancy";

/// What becomes of a provision whose attempt's run has ended.
enum Ruling {
    Fail(Conclusion),
    Contradict,
    Nothing,
}

/// The table.
fn rule(status: Status, ending: Ending) -> Ruling {
    match (status, ending.as_failure()) {
        (Status::Queued | Status::Provisioning, Some(conclusion)) => Ruling::Fail(conclusion),
        (Status::Queued | Status::Provisioning, None) => Ruling::Contradict,
        (Status::Running | Status::Failed | Status::Destroyed, _) => Ruling::Nothing,
    }
}

/// Decides what a testimony means for a provision. `None`: nothing.
///
/// # Errors
/// [`IllegalMove`] if the two tables disagree, which would be a bug.
pub fn judge(accused: Accused, testimony: &Testimony) -> Result<Option<Change>, IllegalMove> {
    let Accused {
        provision,
        dispatched,
        contradicted,
        now,
    } = accused;
    let its_own = match provision.attempt.run {
        Some(run) => run == testimony.run,
        // Whoever re-runs a run that took nothing begins another run attempt.
        None => dispatched == Some(testimony.run.id) && testimony.run.attempt == 1,
    };
    if !its_own {
        return Ok(None);
    }
    let (mut change, kind) = match rule(provision.status, testimony.ending) {
        Ruling::Nothing => return Ok(None),
        Ruling::Contradict if contradicted => return Ok(None),
        Ruling::Contradict => (provision.change(Move::Discrepancy)?, DISCREPANCY),
        Ruling::Fail(conclusion) => {
            let mut change = provision.change(Move::RunFailed)?;
            change.provision.attempt.end_by_github(conclusion, now);
            (change, RUN_FAILED)
        }
    };
    change.provision.updated_at = now;
    let number = change.provision.attempt.number;
    let data = Map::from_iter([
        ("run_id".to_owned(), json!(testimony.run.id)),
        ("run_attempt".to_owned(), json!(testimony.run.attempt)),
        ("conclusion".to_owned(), json!(testimony.ending)),
        ("source".to_owned(), json!(testimony.source)),
    ]);
    change.record(number, kind, data);
    Ok(Some(change))
}

spelled_by_serde!(Ending);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::fields::Reason;
    use crate::domain::names::{AttemptNumber, ProvisionId};
    use crate::domain::provision::{Attempt, Failure, Reported};

    const RUN: Run = Run { id: 7, attempt: 2 };
    const ENDINGS: [Ending; 8] = [
        Ending::Success,
        Ending::Failure,
        Ending::Cancelled,
        Ending::TimedOut,
        Ending::StartupFailure,
        Ending::Stale,
        Ending::Skipped,
        Ending::Neutral,
    ];

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn queued() -> Accused {
        let id = ProvisionId::new(Uuid::nil());
        let mut provision = Provision::queued(id, at(0), Duration::from_secs(1800));
        provision.version = 1;
        Accused {
            provision,
            dispatched: Some(RUN.id),
            contradicted: false,
            now: at(60),
        }
    }

    fn of(status: Status) -> Accused {
        let mut accused = queued();
        let number = AttemptNumber::UNTAKEN.next();
        accused.provision.status = status;
        accused.provision.attempt =
            Attempt::open(number, Some(RUN), at(0), Duration::from_secs(1800));
        accused
    }

    fn testimony(run: Run, ending: Ending) -> Testimony {
        Testimony {
            run,
            ending,
            source: Source::Asked,
        }
    }

    /// `failed for REASON`, `discrepancy`, or `-`.
    fn verdict(accused: Accused, testimony: &Testimony) -> String {
        let Some(change) = judge(accused, testimony).unwrap() else {
            return "-".to_owned();
        };
        let [event] = &change.events[..] else {
            panic!("one event");
        };
        if let Some(rollback) = change.provision.attempt.rollback {
            assert_eq!(event.kind, RUN_FAILED);
            assert_eq!(change.provision.status, Status::Failed);
            assert_eq!(change.provision.attempt.may_exist.len(), 3);
            format!("failed for {}", rollback.reason)
        } else {
            assert_eq!(event.kind, DISCREPANCY);
            assert_eq!(change.from, Some(change.provision.status));
            "discrepancy".to_owned()
        }
    }

    #[test]
    fn what_github_writes_is_read_and_what_is_new_decides_nothing() {
        for (status, conclusion, state) in [
            ("queued", None, RunState::UnderWay),
            ("in_progress", None, RunState::UnderWay),
            ("waiting", None, RunState::UnderWay),
            ("requested", None, RunState::UnderWay),
            ("pending", None, RunState::UnderWay),
            (
                "completed",
                Some("startup_failure"),
                RunState::Ended(Ending::StartupFailure),
            ),
            (
                "completed",
                Some("timed_out"),
                RunState::Ended(Ending::TimedOut),
            ),
            ("completed", Some("action_required"), RunState::Unclear),
            ("completed", Some("exploded"), RunState::Unclear),
            ("completed", None, RunState::Unclear),
            ("in_progress", Some("failure"), RunState::Unclear),
            ("sleeping", None, RunState::Unclear),
        ] {
            let read = RunState::parse(Some(status), conclusion);
            assert_eq!(read, state, "{status} {conclusion:?}");
        }
        assert_eq!(RunState::parse(None, None), RunState::Unclear);
    }

    #[test]
    fn each_ending_means_what_the_table_says_and_nothing_for_what_is_not_waited_for() {
        let expected = [
            "discrepancy",
            "failed for failure",
            "failed for cancelled",
            "failed for timed_out",
            "failed for failure",
            "failed for failure",
            "discrepancy",
            "discrepancy",
        ];
        for (ending, expected) in ENDINGS.into_iter().zip(expected) {
            let said = testimony(RUN, ending);
            assert_eq!(verdict(of(Status::Provisioning), &said), expected);
            let dispatched = testimony(Run { id: 7, attempt: 1 }, ending);
            assert_eq!(verdict(queued(), &dispatched), expected, "{ending:?}");
            for status in [Status::Running, Status::Failed, Status::Destroyed] {
                assert_eq!(verdict(of(status), &said), "-", "{status:?} {ending:?}");
            }
        }
    }

    #[test]
    fn only_the_attempts_own_run_attempt_speaks_for_it() {
        for ending in ENDINGS {
            for run in [
                Run { id: 7, attempt: 1 },
                Run { id: 7, attempt: 3 },
                Run { id: 8, attempt: 2 },
            ] {
                let said = testimony(run, ending);
                assert_eq!(verdict(of(Status::Provisioning), &said), "-");
            }
            assert_eq!(verdict(queued(), &testimony(RUN, ending)), "-");
            let mut undispatched = queued();
            undispatched.dispatched = None;
            let first = testimony(Run { id: 7, attempt: 1 }, ending);
            assert_eq!(verdict(undispatched, &first), "-");
        }
    }

    #[test]
    fn a_discrepancy_is_noted_once_and_keeps_nobody_from_failing() {
        let contradicted = || Accused {
            contradicted: true,
            ..of(Status::Provisioning)
        };
        let said = |ending| verdict(contradicted(), &testimony(RUN, ending));
        assert_eq!(said(Ending::Success), "-");
        assert_eq!(said(Ending::Failure), "failed for failure");
    }

    #[test]
    fn the_workflows_own_conclusion_replaces_githubs_and_a_failure_without_one_does_not() {
        let failure = |conclusion| Failure {
            reported: Reported::default(),
            error: None,
            failed_step: None,
            conclusion,
            may_exist: [].into(),
        };
        let cancelled = testimony(RUN, Ending::Cancelled);
        let change = judge(of(Status::Provisioning), &cancelled).unwrap();
        let mut attempt = change.unwrap().provision.attempt;
        let reason = |attempt: &Attempt| attempt.rollback.unwrap().reason;
        attempt.fail(&failure(None), at(70));
        assert_eq!(reason(&attempt), Reason::Cancelled);
        attempt.fail(&failure(Some(Conclusion::TimedOut)), at(80));
        assert_eq!(reason(&attempt), Reason::TimedOut);
        attempt.fail(&failure(Some(Conclusion::Failure)), at(90));
        assert_eq!(reason(&attempt), Reason::TimedOut);
        assert_eq!(attempt.rollback.unwrap().started_at, at(60));
    }
}
