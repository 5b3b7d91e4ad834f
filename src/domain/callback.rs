//! A callback, and what becomes of it.
//!
//! Attempts are fenced: an attempt belongs to the run and run attempt that started it. [`rule`]
//! is the table of who may say what, when; [`decide`] turns its ruling into a [`Change`]. Whatever
//! is refused, ids that the owner of an attempt that is over names are kept as hints, for what it
//! made must go.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fields::Reason;
use super::names::{AttemptNumber, ProvisionId, Run};
use super::provision::{Attempt, Change, Failure, HeardOver, Provision, Reported};
use super::transition::{IllegalMove, Move, Status};

/// What a workflow said, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// About which provision.
    pub provision: ProvisionId,
    /// Who.
    pub run: Run,
    /// Which job of that run. `None` if it did not say, as older workflows do not.
    pub job: Option<String>,
    /// What.
    pub message: Message,
    /// Fields that were there and could not be read. The callback counts as if they were absent.
    pub unreadable: Vec<&'static str>,
}

/// The four callbacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Sent before anything is created.
    Started {
        /// A label for people.
        agent_id: Option<String>,
        /// Where it runs.
        region: Option<String>,
    },
    /// A step was reached; without a step, a heartbeat.
    Progress {
        /// Which step.
        step: Option<String>,
        /// What there is by now.
        reported: Reported,
    },
    /// The machine is ready.
    Success {
        /// What there is.
        reported: Reported,
    },
    /// The workflow ended in any other way.
    Failure(Failure),
}

/// Which of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `started`
    Started,
    /// `progress`
    Progress,
    /// `success`
    Success,
    /// `failure`
    Failure,
}

impl Kind {
    /// Each of the four.
    pub const ALL: [Self; 4] = [Self::Started, Self::Progress, Self::Success, Self::Failure];

    /// The one that is spelled so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// As it stands in the path and in `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }

    /// The kind of event it leaves in the history.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::Started => "callback.started",
            Self::Progress => "callback.progress",
            Self::Success => "callback.success",
            Self::Failure => "callback.failure",
        }
    }

    fn as_move(self) -> Move {
        match self {
            Self::Started => Move::Started,
            Self::Progress => Move::Progress,
            Self::Success => Move::Success,
            Self::Failure => Move::Failure,
        }
    }
}

impl Message {
    /// Which of the four it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Started { .. } => Kind::Started,
            Self::Progress { .. } => Kind::Progress,
            Self::Success { .. } => Kind::Success,
            Self::Failure(_) => Kind::Failure,
        }
    }

    fn reported(&self) -> Option<&Reported> {
        match self {
            Self::Started { .. } => None,
            Self::Progress { reported, .. }
            | Self::Success { reported }
            | Self::Failure(Failure { reported, .. }) => Some(reported),
        }
    }

    fn is_heartbeat(&self) -> bool {
        matches!(self, Self::Progress { step: None, .. })
    }
}

impl Callback {
    /// What the history keeps of it. Equal for equal callbacks.
    #[must_use]
    pub fn data(&self) -> Map<String, Value> {
        let mut data = Map::new();
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                data.insert(key.to_owned(), value);
            }
        };
        put("run_id", json!(self.run.id));
        put("run_attempt", json!(self.run.attempt));
        match &self.message {
            Message::Started { agent_id, region } => {
                put("agent_id", json!(agent_id));
                put("region", json!(region));
                put("job", json!(self.job));
            }
            Message::Progress { step, .. } => put("step", json!(step)),
            Message::Success { .. } => {}
            Message::Failure(failure) => {
                put("error", json!(failure.error));
                put("failed_step", json!(failure.failed_step));
                put("conclusion", json!(failure.conclusion));
                put("may_exist", json!(failure.may_exist));
            }
        }
        if !self.unreadable.is_empty() {
            put("unreadable", json!(self.unreadable));
        }
        if let Some(Value::Object(reported)) = self.message.reported().map(|r| json!(r)) {
            data.extend(reported);
        }
        data
    }
}

/// Who speaks, as seen from the provision's current attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The owner of the current attempt.
    Owner,
    /// The owner's run, but another of its jobs than the one that opened the attempt.
    OtherJob,
    /// The owner of an older attempt.
    FormerOwner,
    /// The current owner's run, in a later attempt at it.
    LaterRunAttempt,
    /// The current owner's run, in an earlier attempt at it that owns nothing.
    EarlierRunAttempt,
    /// Another run.
    Stranger,
}

/// Why a callback is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The attempt has failed.
    AlreadyFailed,
    /// The provision runs.
    AlreadyRunning,
    /// Another run is at work.
    AlreadyProvisioning,
    /// The provision was destroyed.
    AlreadyDestroyed,
    /// A later attempt has taken over.
    StaleAttempt,
    /// That run owns no attempt of this provision.
    UnknownAttempt,
}

impl Refusal {
    /// The stable code that the caller gets.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::AlreadyFailed => "already_failed",
            Self::AlreadyRunning => "already_running",
            Self::AlreadyProvisioning => "already_provisioning",
            Self::AlreadyDestroyed => "already_destroyed",
            Self::StaleAttempt => "stale_attempt",
            Self::UnknownAttempt => "unknown_attempt",
        }
    }
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It opens the next attempt, and is then that attempt's own.
    Open,
    /// It is about the live attempt.
    Live,
    /// A failure of an attempt that is over.
    Amend,
    /// It comes too late for an attempt that is over; what it names must go.
    TooLate(Refusal),
    /// It is about no attempt.
    Refuse(Refusal),
}

/// The table of the contract: caller, the provision's status, the callback.
#[must_use]
pub fn rule(caller: Caller, status: Status, kind: Kind) -> Ruling {
    use Caller as C;
    use Kind as K;
    use Refusal as R;
    use Status as S;
    match (caller, status, kind) {
        (_, S::Queued, _) => Ruling::Open,

        // Two jobs of a run would make the same things, and the end of one would be the other's.
        (C::OtherJob, S::Provisioning, K::Started) => Ruling::Refuse(R::AlreadyProvisioning),
        (C::OtherJob, S::Running, K::Started) => Ruling::Refuse(R::AlreadyRunning),
        // What was begun by one job may be reported by another.
        (C::OtherJob, status, kind) => rule(C::Owner, status, kind),

        (C::Owner, S::Provisioning | S::Running, _) => Ruling::Live,
        (C::Owner, S::Failed | S::Destroyed, K::Failure) => Ruling::Amend,
        (C::Owner, S::Destroyed, K::Started) => Ruling::TooLate(R::AlreadyDestroyed),
        (C::Owner, S::Failed | S::Destroyed, _) => Ruling::TooLate(R::AlreadyFailed),

        (C::FormerOwner, _, K::Failure) => Ruling::Amend,
        (C::FormerOwner, _, _) => Ruling::TooLate(R::StaleAttempt),

        (_, S::Destroyed, K::Started) => Ruling::Refuse(R::AlreadyDestroyed),
        (C::EarlierRunAttempt, _, K::Started) => Ruling::Refuse(R::StaleAttempt),
        (C::LaterRunAttempt, S::Provisioning, K::Started)
        | (C::LaterRunAttempt | C::Stranger, S::Failed, K::Started) => Ruling::Open,
        (C::Stranger, S::Provisioning, K::Started) => Ruling::Refuse(R::AlreadyProvisioning),
        (C::LaterRunAttempt | C::Stranger, S::Running, K::Started) => {
            Ruling::Refuse(R::AlreadyRunning)
        }
        (C::LaterRunAttempt | C::EarlierRunAttempt | C::Stranger, _, _) => {
            Ruling::Refuse(R::UnknownAttempt)
        }
    }
}

/// All that a decision rests on, as one read of the database shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// The provision; `None` if the id was never seen.
    pub provision: Option<Provision>,
    /// The attempt that the caller's run owns, if that is not the current one.
    pub former: Option<Attempt>,
    /// Whether the history has this very callback already.
    pub repeated: bool,
}

/// What becomes of a callback.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to write; `None` if nothing changes.
    pub change: Option<Change>,
    /// What to answer.
    pub answer: Result<Accepted, Refusal>,
}

/// A callback that is accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The provision as it stands afterwards.
    pub provision: Provision,
    /// The attempt that the callback is about.
    pub attempt: AttemptNumber,
}

/// Decides what becomes of `callback`. `timeout` is the time from `started` to a terminal callback.
///
/// # Errors
/// [`IllegalMove`] if the two tables disagree, which would be a bug.
pub fn decide(
    snapshot: Snapshot,
    callback: &Callback,
    timeout: Duration,
) -> Result<Decision, IllegalMove> {
    let now = snapshot.now;
    let provision = snapshot
        .provision
        .unwrap_or_else(|| Provision::queued(callback.provision, now, timeout));
    // Nothing that is said of what another controller made changes anything here.
    let nothing_new = snapshot.repeated || provision.disowned_at.is_some();
    let caller = caller(&provision.attempt, snapshot.former.as_ref(), callback);
    let kind = callback.message.kind();

    match rule(caller, provision.status, kind) {
        Ruling::Refuse(refusal) => Ok(Decision {
            change: None,
            answer: Err(refusal),
        }),
        Ruling::TooLate(refusal) if nothing_new => Ok(Decision {
            change: None,
            answer: Err(refusal),
        }),
        Ruling::Open => {
            let change = open(provision, callback, now, timeout)?;
            Ok(accepted(change))
        }
        // It says nothing new, but its run speaks: silence would be failed for it.
        Ruling::Live
            if snapshot.repeated
                && provision.disowned_at.is_none()
                && provision.status == Status::Provisioning =>
        {
            let mut change = provision.change(kind.as_move())?;
            change.provision.attempt.last_message_at = now;
            Ok(accepted(change))
        }
        // A heartbeat leaves nothing in the history, so it is never a repeated one.
        Ruling::Live | Ruling::Amend if nothing_new => {
            let attempt = snapshot
                .former
                .map_or(provision.attempt.number, |a| a.number);
            Ok(Decision {
                change: None,
                answer: Ok(Accepted { provision, attempt }),
            })
        }
        Ruling::Live => {
            let change = provision.change(kind.as_move())?;
            Ok(accepted(live(change, callback, now)))
        }
        Ruling::Amend => {
            let change = late(provision, snapshot.former, callback, now, None)?;
            Ok(accepted(change))
        }
        Ruling::TooLate(refusal) => {
            let change = late(provision, snapshot.former, callback, now, Some(refusal))?;
            Ok(Decision {
                change: Some(change),
                answer: Err(refusal),
            })
        }
    }
}

fn caller(current: &Attempt, former: Option<&Attempt>, callback: &Callback) -> Caller {
    let run = callback.run;
    let is_other_job = current
        .job
        .as_ref()
        .zip(callback.job.as_ref())
        .is_some_and(|(opened_it, speaks)| opened_it != speaks);
    match current.run {
        Some(owner) if owner == run && is_other_job => Caller::OtherJob,
        Some(owner) if owner == run => Caller::Owner,
        _ if former.is_some() => Caller::FormerOwner,
        Some(owner) if owner.id == run.id && run.attempt > owner.attempt => Caller::LaterRunAttempt,
        Some(owner) if owner.id == run.id => Caller::EarlierRunAttempt,
        _ => Caller::Stranger,
    }
}

fn accepted(change: Change) -> Decision {
    let attempt = change
        .heard_over
        .as_ref()
        .map_or(change.provision.attempt.number, |heard| heard.attempt);
    Decision {
        answer: Ok(Accepted {
            provision: change.provision.clone(),
            attempt,
        }),
        change: Some(change),
    }
}

/// Opens the next attempt for the caller's run; a live one before it is superseded.
fn open(
    provision: Provision,
    callback: &Callback,
    now: DateTime<Utc>,
    timeout: Duration,
) -> Result<Change, IllegalMove> {
    let first_heard_of = provision.version == 0;
    let before = provision.status;
    let mut change = provision.change(callback.message.kind().as_move())?;
    if first_heard_of {
        change.record(AttemptNumber::UNTAKEN, "created", Map::new());
    }
    let next = Attempt::open(
        change.provision.attempt.number.next(),
        Some(callback.run),
        now,
        timeout,
    );
    let mut former = std::mem::replace(&mut change.provision.attempt, next);
    change.provision.attempt.job.clone_from(&callback.job);
    match before {
        Status::Provisioning => {
            former.end(Reason::Superseded, now);
            let by = Map::from_iter([("by_run".to_owned(), json!(callback.run.to_string()))]);
            change.record(former.number, "superseded", by);
            change.earlier = Some(former);
        }
        // Nobody waits any longer for a run to take it.
        Status::Queued if !first_heard_of => {
            former.finished_at = Some(now);
            change.earlier = Some(former);
        }
        Status::Queued | Status::Running | Status::Failed | Status::Destroyed => {}
    }
    Ok(live(change, callback, now))
}

/// Applies a callback of the live attempt's owner.
fn live(mut change: Change, callback: &Callback, now: DateTime<Utc>) -> Change {
    let provision = &mut change.provision;
    let attempt = &mut provision.attempt;
    attempt.last_message_at = now;
    match &callback.message {
        Message::Started { agent_id, region } => {
            provision.agent_id = provision.agent_id.take().or_else(|| agent_id.clone());
            provision.region = provision.region.take().or_else(|| region.clone());
        }
        Message::Progress { reported, .. } if provision.status == Status::Running => {
            attempt.learn_what_is_blank(reported);
        }
        // An earlier one that is sent again cannot be told from a new one.
        Message::Progress {
            step: None,
            reported,
        } => attempt.learn_what_is_blank(reported),
        Message::Progress { step, reported } => {
            attempt.learn(reported);
            attempt.step = step.clone().or(attempt.step.take());
        }
        Message::Success { reported } if attempt.finished_at.is_some() => {
            attempt.learn_what_is_blank(reported);
        }
        Message::Success { reported } => {
            attempt.learn(reported);
            attempt.finished_at = Some(now);
        }
        Message::Failure(failure) => attempt.fail(failure, now),
    }
    if callback.message.is_heartbeat() {
        attempt.last_heartbeat_at = Some(now);
    } else {
        provision.updated_at = now;
        let number = attempt.number;
        change.record(number, callback.message.kind().event(), callback.data());
    }
    change
}

/// Keeps what the owner of an attempt that is over says.
fn late(
    provision: Provision,
    former: Option<Attempt>,
    callback: &Callback,
    now: DateTime<Utc>,
    refusal: Option<Refusal>,
) -> Result<Change, IllegalMove> {
    let mut change = provision.change(Move::Late)?;
    change.earlier = former;
    let attempt = change
        .earlier
        .as_mut()
        .unwrap_or(&mut change.provision.attempt);
    attempt.last_message_at = now;
    let could_exist = attempt.may_exist.clone();
    match &callback.message {
        Message::Failure(failure) => attempt.fail(failure, now),
        message => {
            if let Some(reported) = message.reported() {
                attempt.learn_what_is_blank(reported);
            }
        }
    }
    let number = attempt.number;
    let may_exist_after_all = &attempt.may_exist - &could_exist;
    change.heard_over = Some(HeardOver {
        attempt: number,
        may_exist_after_all,
        // Not by a heartbeat, or every one of them would cost a look at the vendor.
        named: callback
            .message
            .reported()
            .filter(|_| !callback.message.is_heartbeat())
            .map(|reported| reported.hints().collect())
            .unwrap_or_default(),
    });
    if !callback.message.is_heartbeat() {
        change.provision.updated_at = now;
        let mut data = callback.data();
        if let Some(refusal) = refusal {
            data.insert(REFUSED.to_owned(), json!(refusal.code()));
        }
        change.record(number, callback.message.kind().event(), data);
    }
    Ok(change)
}

/// The key under which the history keeps that a callback was refused.
pub const REFUSED: &str = "refused";

/// The key under which it keeps how the caller had proven himself. The same callback proven otherwise is
/// the same callback.
pub const PROVEN_BY: &str = "proven_by";
