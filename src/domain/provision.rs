//! A provision, its attempts, and a change to them.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fields::{Address, Conclusion, Hint, Reason, VendorId};
use super::names::{AttemptNumber, Names, ProvisionId, Run};
use super::step::Resource;
use super::transition::{IllegalMove, Move, Status, transition};

/// A provision as one read of the database shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Provision {
    /// Chosen by whoever asked for it.
    pub id: ProvisionId,
    /// Bumped by every writer, who states which version it saw. 0: not in the database yet.
    pub version: i64,
    /// A label for people, not unique.
    pub agent_id: Option<String>,
    /// Where it runs, for people.
    pub region: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// When it was first heard of.
    pub created_at: DateTime<Utc>,
    /// When anything but a heartbeat last changed it.
    pub updated_at: DateTime<Utc>,
    /// When this database became another controller and gave it up: nothing of it is ever touched
    /// again. `None` while it is ours.
    pub disowned_at: Option<DateTime<Utc>>,
    /// The current attempt. Only this one can be live.
    pub attempt: Attempt,
}

/// One attempt at a provision.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Counts from 1; 0 is the time before any run took the provision.
    pub number: AttemptNumber,
    /// The run that owns it. `None` only for attempt 0.
    pub run: Option<Run>,
    /// Which job of that run opened it. `None` if the job did not say.
    pub job: Option<String>,
    /// The last step that the workflow reported.
    pub step: Option<String>,
    /// The server's id as reported.
    pub server_id: Option<VendorId>,
    /// The server's address as reported.
    pub server_ip: Option<Address>,
    /// The device's address as reported.
    pub tailscale_ip: Option<Address>,
    /// The auth key's id as reported.
    pub tailscale_key_id: Option<VendorId>,
    /// The device's node id as reported.
    pub tailscale_node_id: Option<VendorId>,
    /// Every id that any callback of this attempt named.
    pub hints: BTreeSet<Hint>,
    /// What went wrong, in the workflow's words; if it could not be dispatched, in GitHub's.
    pub error: Option<String>,
    /// Which of the workflow's steps failed.
    pub failed_step: Option<String>,
    /// How the workflow says it ended.
    pub conclusion: Option<Conclusion>,
    /// What the workflow may have begun to create.
    pub may_exist: BTreeSet<Resource>,
    /// When it was opened.
    pub started_at: DateTime<Utc>,
    /// When its run was last heard, whatever it said.
    pub last_message_at: DateTime<Utc>,
    /// When it last sent a heartbeat.
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    /// When a terminal callback is due.
    pub deadline_at: DateTime<Utc>,
    /// When it succeeded or, later than that, was over; of attempt 0, when a run took the provision.
    /// `None` while something is still waited for.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why and since when it is rolled back. `None` while it is live.
    pub rollback: Option<Rollback>,
    /// Whether the reason is GitHub's conclusion of the run, so that its workflow's own replaces it.
    pub ended_by_github: bool,
}

/// That an attempt is over, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub started_at: DateTime<Utc>,
}

/// What a callback says there is. Absent fields are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Reported {
    /// A Hetzner server's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_id: Option<VendorId>,
    /// Its public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_ip: Option<Address>,
    /// The device's address in the tailnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tailscale_ip: Option<Address>,
    /// The auth key's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tailscale_key_id: Option<VendorId>,
    /// The device's node id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tailscale_node_id: Option<VendorId>,
}

/// What a workflow says of its failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What there may be.
    pub reported: Reported,
    /// What went wrong.
    pub error: Option<String>,
    /// In which step.
    pub failed_step: Option<String>,
    /// How the workflow ended.
    pub conclusion: Option<Conclusion>,
    /// What the workflow had begun to create.
    pub may_exist: BTreeSet<Resource>,
}

impl Reported {
    pub(super) fn hints(&self) -> impl Iterator<Item = Hint> {
        [
            (Resource::AuthKey, &self.tailscale_key_id),
            (Resource::Server, &self.server_id),
            (Resource::Device, &self.tailscale_node_id),
        ]
        .into_iter()
        .filter_map(|(resource, id)| {
            id.clone().map(|vendor_id| Hint {
                resource,
                vendor_id,
            })
        })
    }
}

impl Attempt {
    /// A live attempt that begins now.
    #[must_use]
    pub fn open(
        number: AttemptNumber,
        run: Option<Run>,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Self {
        Self {
            number,
            run,
            job: None,
            step: None,
            server_id: None,
            server_ip: None,
            tailscale_ip: None,
            tailscale_key_id: None,
            tailscale_node_id: None,
            hints: BTreeSet::new(),
            error: None,
            failed_step: None,
            conclusion: None,
            may_exist: BTreeSet::new(),
            started_at: now,
            last_message_at: now,
            last_heartbeat_at: None,
            deadline_at: now + timeout,
            finished_at: None,
            rollback: None,
            ended_by_github: false,
        }
    }

    /// What this attempt's things are called.
    #[must_use]
    pub fn names(&self, provision: ProvisionId) -> Names {
        Names::new(provision, self.number)
    }

    /// Takes what a callback reports; what it says newly replaces what was said before.
    pub(super) fn learn(&mut self, reported: &Reported) {
        let newer = reported.clone();
        self.hints.extend(newer.hints());
        self.server_id = newer.server_id.or(self.server_id.take());
        self.server_ip = newer.server_ip.or(self.server_ip);
        self.tailscale_ip = newer.tailscale_ip.or(self.tailscale_ip);
        self.tailscale_key_id = newer.tailscale_key_id.or(self.tailscale_key_id.take());
        self.tailscale_node_id = newer.tailscale_node_id.or(self.tailscale_node_id.take());
    }

    /// Takes what a callback reports where nothing was said before; first ids stand.
    pub(super) fn learn_what_is_blank(&mut self, reported: &Reported) {
        let known = Reported {
            server_id: self.server_id.clone(),
            server_ip: self.server_ip,
            tailscale_ip: self.tailscale_ip,
            tailscale_key_id: self.tailscale_key_id.clone(),
            tailscale_node_id: self.tailscale_node_id.clone(),
        };
        self.learn(reported);
        self.learn(&known);
    }

    /// Ends the attempt by GitHub's conclusion of its run.
    pub(super) fn end_by_github(&mut self, conclusion: Conclusion, now: DateTime<Utc>) {
        if self.rollback.is_none() {
            self.end(Some(conclusion).into(), now);
            self.ended_by_github = true;
        }
    }

    /// Ends the attempt in somebody else's name than its workflow's. An earlier reason stands.
    pub(super) fn end(&mut self, reason: Reason, now: DateTime<Utc>) {
        if self.rollback.is_none() {
            // Only the workflow can know what it had not begun to create.
            self.may_exist.extend(Resource::ALL);
            self.over(reason, now);
        }
    }

    /// Applies what the workflow says of its failure: ends a live attempt, adds to one that is
    /// over. A workflow's reason replaces a watcher's and, if it names one, GitHub's.
    pub(super) fn fail(&mut self, failure: &Failure, now: DateTime<Utc>) {
        self.learn_what_is_blank(&failure.reported);
        self.may_exist.extend(&failure.may_exist);
        self.error = self.error.take().or_else(|| failure.error.clone());
        self.failed_step = self
            .failed_step
            .take()
            .or_else(|| failure.failed_step.clone());
        self.conclusion = self.conclusion.or(failure.conclusion);
        match &mut self.rollback {
            None => self.over(failure.conclusion.into(), now),
            Some(rollback) if rollback.reason.is_a_watchers() => {
                rollback.reason = failure.conclusion.into();
            }
            Some(rollback) if self.ended_by_github && failure.conclusion.is_some() => {
                rollback.reason = failure.conclusion.into();
                self.ended_by_github = false;
            }
            Some(_) => {}
        }
    }

    fn over(&mut self, reason: Reason, now: DateTime<Utc>) {
        self.finished_at = Some(now);
        self.rollback = Some(Rollback {
            reason,
            started_at: now,
        });
    }
}

impl Provision {
    /// A provision that was asked for and that no run has taken.
    #[must_use]
    pub fn queued(id: ProvisionId, now: DateTime<Utc>, timeout: Duration) -> Self {
        Self {
            id,
            version: 0,
            agent_id: None,
            region: None,
            status: Status::Queued,
            created_at: now,
            updated_at: now,
            disowned_at: None,
            attempt: Attempt::open(AttemptNumber::UNTAKEN, None, now, timeout),
        }
    }

    /// When a terminal callback is due; `None` when none is.
    #[must_use]
    pub fn deadline_at(&self) -> Option<DateTime<Utc>> {
        match self.status {
            Status::Queued | Status::Provisioning => Some(self.attempt.deadline_at),
            Status::Running | Status::Failed | Status::Destroyed => None,
        }
    }

    /// Begins a change to this provision. The one way to change it, so that what was disowned stays
    /// as it is whoever asks.
    pub(super) fn change(self, by: Move) -> Result<Change, IllegalMove> {
        let from = (self.version > 0).then_some(self.status);
        if self.disowned_at.is_some() {
            return Err(IllegalMove { from, by });
        }
        let mut provision = self;
        provision.status = transition(from, by)?;
        Ok(Change {
            provision,
            from,
            by,
            earlier: None,
            events: Vec::new(),
            steps: Vec::new(),
            heard_over: None,
            dispatch: false,
        })
    }

    /// Records a provision that an operator asked for, before any run takes it.
    ///
    /// # Errors
    /// [`IllegalMove`] if it is in the database already.
    pub fn create(
        id: ProvisionId,
        agent_id: String,
        region: Option<String>,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Result<Change, IllegalMove> {
        let mut provision = Self::queued(id, now, timeout);
        provision.agent_id = Some(agent_id);
        provision.region = region;
        let mut change = provision.change(Move::Created)?;
        change.record(AttemptNumber::UNTAKEN, "created", Map::new());
        Ok(change)
    }

    /// Fails a provision whose workflow GitHub refused to start; `error` says why. `None` if it is
    /// no longer queued: a run took it, or it is over. The refusal itself is for whoever sent the
    /// dispatch to record.
    ///
    /// # Errors
    /// [`IllegalMove`] if it is not in the database.
    pub fn fail_dispatch(
        self,
        error: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Change>, IllegalMove> {
        if self.status != Status::Queued {
            return Ok(None);
        }
        let mut change = self.change(Move::DispatchFailed)?;
        change.provision.updated_at = now;
        let attempt = &mut change.provision.attempt;
        attempt.error = Some(error.to_owned());
        attempt.end(Reason::DispatchFailed, now);
        Ok(Some(change))
    }

    /// Destroys a provision, whatever its status. `None` if it is destroyed already.
    ///
    /// # Errors
    /// [`IllegalMove`] if it is not in the database.
    pub fn destroy(self, now: DateTime<Utc>) -> Result<Option<Change>, IllegalMove> {
        if self.status == Status::Destroyed {
            return Ok(None);
        }
        let mut change = self.change(Move::Destroyed)?;
        change.provision.updated_at = now;
        change.provision.attempt.end(Reason::Destroyed, now);
        let number = change.provision.attempt.number;
        change.record(number, "destroy", Map::new());
        Ok(Some(change))
    }

    /// Notes that an operator wants what is unsettled to be tried now.
    ///
    /// # Errors
    /// [`IllegalMove`] if no run ever took it, or if it was disowned.
    pub fn retry(self, now: DateTime<Utc>) -> Result<Change, IllegalMove> {
        let mut change = self.change(Move::Retry)?;
        change.provision.updated_at = now;
        let number = change.provision.attempt.number;
        change.record(number, "retry", Map::new());
        Ok(change)
    }

    /// Notes that a vendor's list shows things of an attempt that is over: of the current one, or
    /// of `earlier`.
    ///
    /// # Errors
    /// [`IllegalMove`] if no run ever took it.
    pub fn seen_again(
        self,
        earlier: Option<Attempt>,
        things: &[Hint],
        now: DateTime<Utc>,
    ) -> Result<Change, IllegalMove> {
        self.seen(earlier, "sweep.found", things, now)
    }

    /// Takes over an attempt that only a vendor's list knows, of a provision that nobody heard of.
    /// What follows in the same transaction is to destroy it.
    ///
    /// # Errors
    /// [`IllegalMove`] never; it is for the table to say so.
    pub fn adopt(
        id: ProvisionId,
        number: AttemptNumber,
        run: Run,
        things: &[Hint],
        now: DateTime<Utc>,
    ) -> Result<Change, IllegalMove> {
        let mut change = Self::queued(id, now, Duration::ZERO).change(Move::Started)?;
        change.provision.attempt = Attempt::open(number, Some(run), now, Duration::ZERO);
        change.record(number, "sweep.adopted", as_seen(things));
        Ok(change)
    }

    /// Takes over an attempt before the current one, as one that was destroyed.
    ///
    /// # Errors
    /// [`IllegalMove`] if no run ever took it.
    pub fn adopt_earlier(
        self,
        number: AttemptNumber,
        run: Run,
        things: &[Hint],
        now: DateTime<Utc>,
    ) -> Result<Change, IllegalMove> {
        let mut earlier = Attempt::open(number, Some(run), now, Duration::ZERO);
        earlier.end(Reason::Destroyed, now);
        self.seen(Some(earlier), "sweep.adopted", things, now)
    }

    fn seen(
        self,
        earlier: Option<Attempt>,
        kind: &'static str,
        things: &[Hint],
        now: DateTime<Utc>,
    ) -> Result<Change, IllegalMove> {
        let mut change = self.change(Move::Late)?;
        change.provision.updated_at = now;
        let number = earlier
            .as_ref()
            .map_or(change.provision.attempt.number, |attempt| attempt.number);
        change.earlier = earlier;
        change.record(number, kind, as_seen(things));
        Ok(change)
    }
}

fn as_seen(things: &[Hint]) -> Map<String, Value> {
    Map::from_iter([("things".to_owned(), json!(things))])
}

/// The key under which the history keeps who it was that asked for something.
pub const BY: &str = "by";

/// What is to be written, all of it or, if somebody else was faster, nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The provision as it is to be; `version` is the one that was read.
    pub provision: Provision,
    /// Its status as it was read; `None` if it was not in the database.
    pub from: Option<Status>,
    /// Why it changes.
    pub by: Move,
    /// An attempt before the current one that changes too.
    pub earlier: Option<Attempt>,
    /// What is added to the history.
    pub events: Vec<NewEvent>,
    /// What must go. Filled by `rollback_failed_provision` alone.
    pub steps: Vec<PlannedStep>,
    /// An attempt that is over and of which something was heard.
    pub heard_over: Option<HeardOver>,
    /// Whether a workflow is to be dispatched for it: sent later, from the outbox.
    pub dispatch: bool,
}

/// That something was heard of an attempt that is over: whoever is looking for its things has to
/// look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardOver {
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// The ids that were named. One that had counted as something else's, or as gone before we did
    /// anything, may by now be the attempt's own and alive.
    pub named: Vec<Hint>,
    /// The kinds of thing that it says for the first time may have been begun. What had counted as
    /// never appeared may come after all.
    pub may_exist_after_all: BTreeSet<Resource>,
}

impl Change {
    /// The attempts that this change touches and that are over.
    pub fn over(&self) -> impl Iterator<Item = &Attempt> {
        self.earlier
            .iter()
            .chain([&self.provision.attempt])
            .filter(|attempt| attempt.rollback.is_some())
    }

    /// Adds to what the history is about to keep of events of this kind.
    pub fn note(&mut self, kind: &str, key: &str, value: &str) {
        for event in self.events.iter_mut().filter(|it| it.kind == kind) {
            event.data[key] = json!(value);
        }
    }

    pub(super) fn record(
        &mut self,
        attempt: AttemptNumber,
        kind: &'static str,
        data: Map<String, Value>,
    ) {
        self.events.push(NewEvent {
            attempt,
            kind,
            data: Value::Object(data),
        });
    }
}

/// A line for the history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewEvent {
    /// Which attempt it is about.
    pub attempt: AttemptNumber,
    /// What happened, such as `callback.failure`.
    pub kind: &'static str,
    /// What was said.
    pub data: Value,
}

/// A step to be added to the ledger, unless it is there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// Whose thing must go.
    pub attempt: AttemptNumber,
    /// What kind of thing.
    pub resource: Resource,
    /// The id that was named; `None` for the step that searches.
    pub vendor_id: Option<VendorId>,
}
