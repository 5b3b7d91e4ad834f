//! What the campaign knows by itself: what was sent and acknowledged, what was made, and from when on
//! it was needed no more.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstop::sim::LifeKind;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::plan::Plan;

/// The moment it is. Everything here happens on one machine with one clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the campaign measures the database's time from outside"
)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Everything that is known, shared by all who act.
#[derive(Default)]
pub struct Book {
    records: Mutex<Vec<Record>>,
    /// Ids of things that are not ours and must survive, by kind.
    foreign: Mutex<BTreeSet<(LifeKind, String)>>,
    /// Servers and devices of ours, to be named by mistake.
    recent: Mutex<Vec<(String, String)>>,
    violations: Mutex<Vec<Violation>>,
    pub begun: AtomicU64,
    pub played: AtomicU64,
    pub callbacks: AtomicU64,
    pub repeated: AtomicU64,
    /// Outages after which the service held, and was told to go on.
    pub holds: AtomicU64,
}

/// Something that must not be.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Whose history tells more.
    pub provision: Option<Uuid>,
    pub what: String,
}

/// One provision, as its workflow knows it.
#[derive(Debug, Clone)]
pub struct Record {
    pub plan: Plan,
    pub attempts: Vec<Attempt>,
    pub acknowledged: Vec<Acknowledged>,
    pub belief: Belief,
    /// What happened, for people.
    pub told: Vec<String>,
    /// When the script had been played.
    pub ended: DateTime<Utc>,
    /// When the last thing is to arrive that was scheduled.
    pub latest_arrival: Option<DateTime<Utc>>,
}

/// How a provision must end, by what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// It is over, or will be when its time is up.
    Over,
    /// Its machine is in use.
    Runs,
    /// A message that decides it was sent, and nobody knows whether it was heard.
    Either,
}

/// One attempt, once its `started` was answered.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub number: i64,
    pub run: (i64, i64),
    pub names: Names,
    /// When each message that was acknowledged was sent and answered.
    pub heard: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    /// When the last message was sent at all.
    pub last_sent: DateTime<Utc>,
    pub started: DateTime<Utc>,
    pub heartbeat: bool,
    pub made: Made,
    /// What was begun to be created.
    pub begun: Vec<&'static str>,
    pub doomed: Option<Doomed>,
    /// Whether a failure was sent that says that there can be no server.
    pub says_no_server: bool,
    /// The acknowledged failures that say that there may be one: when each was sent and answered.
    pub says_server: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

/// What everything that an attempt makes is called.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub server: String,
    pub labels: Vec<(String, String)>,
    pub hostname: String,
    pub description: String,
}

/// What an attempt knows to have made.
#[derive(Debug, Clone, Default)]
pub struct Made {
    pub key: Option<(String, String)>,
    pub server: Option<String>,
    pub device: Option<String>,
}

/// The end of a need.
#[derive(Debug, Clone, Copy)]
pub struct Doomed {
    /// When a message that ends the attempt was first sent.
    pub at: DateTime<Utc>,
    /// When one was first acknowledged.
    pub acknowledged: Option<DateTime<Utc>>,
}

/// A callback that got a 2xx.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub kind: &'static str,
    pub body: Value,
}

impl Attempt {
    /// When the last message was sent of those that were answered by then.
    pub fn last_heard_by(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let heard = self.heard.iter().filter(|(_, answered)| *answered < at);
        heard.map(|(sent, _)| *sent).max().unwrap_or(self.started)
    }

    /// Notes that its time was up then, if nobody had ended it by then.
    pub fn time_was_up(&mut self, at: DateTime<Utc>) {
        if let Some(doomed) = self.doomed.as_mut().filter(|doomed| doomed.at > at) {
            *doomed = Doomed {
                at,
                acknowledged: Some(at),
            };
        }
    }

    /// Notes that a message was sent that ends the attempt, and when it was acknowledged.
    pub fn doom(&mut self, at: DateTime<Utc>, acknowledged: Option<DateTime<Utc>>) {
        let doomed = self.doomed.get_or_insert(Doomed {
            at,
            acknowledged: None,
        });
        doomed.acknowledged = doomed.acknowledged.or(acknowledged);
    }
}

impl Record {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            attempts: Vec::new(),
            acknowledged: Vec::new(),
            belief: Belief::Over,
            told: Vec::new(),
            ended: now(),
            latest_arrival: None,
        }
    }

    /// Notes what happened, for people.
    pub fn tell(&mut self, what: &str) {
        self.told
            .push(format!("{} {what}", now().format("%H:%M:%S%.3f")));
    }

    /// The attempt of that number.
    pub fn attempt(&self, number: i64) -> Option<&Attempt> {
        self.attempts.iter().find(|it| it.number == number)
    }

    pub fn will_arrive(&mut self, after: Duration) {
        let at = now() + after;
        self.latest_arrival = self.latest_arrival.max(Some(at));
    }
}

impl Book {
    /// Takes the record of a script that has been played.
    pub fn close(&self, record: Record) {
        self.played.fetch_add(1, Ordering::Relaxed);
        open(&self.records).push(record);
    }

    /// All records, by provision.
    pub fn records(&self) -> HashMap<Uuid, Record> {
        let records = open(&self.records);
        records.iter().map(|it| (it.plan.id, it.clone())).collect()
    }

    /// Something that is not ours and must survive.
    pub fn is_foreign(&self, kind: LifeKind, id: &impl ToString) {
        open(&self.foreign).insert((kind, id.to_string()));
    }

    pub fn foreign(&self) -> BTreeSet<(LifeKind, String)> {
        open(&self.foreign).clone()
    }

    /// A server and a device that a provision of ours made.
    pub fn made(&self, server: String, device: String) {
        let mut recent = open(&self.recent);
        recent.push((server, device));
        if recent.len() > 200 {
            recent.remove(0);
        }
    }

    pub fn recent(&self) -> Vec<(String, String)> {
        open(&self.recent).clone()
    }

    pub fn violation(&self, provision: Option<Uuid>, what: impl Into<String>) {
        let what = what.into();
        open(&self.violations).push(Violation { provision, what });
    }

    pub fn violations(&self) -> Vec<Violation> {
        open(&self.violations).clone()
    }
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
