//! What must hold when all is over, looked up in the simulation's own history and asked of the status
//! API.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backstop::sim::{HistoryEntry, Life, LifeKind};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::ages::maker;
use crate::book::{Attempt, Belief, Book, Record};
use crate::driver::needed_until;
use crate::site::{CEILING, LATE_ARRIVAL_WINDOW};
use crate::troubles::{Trouble, lied};

/// A list is begun at most so long before what it proves is written down.
const LIST_TO_PROOF: TimeDelta = TimeDelta::seconds(6);

/// What the vendors know.
pub struct Vendors {
    lives: Vec<Life>,
    history: Vec<HistoryEntry>,
    /// When a DELETE of that path took effect.
    deleted: HashMap<(LifeKind, String), Vec<DateTime<Utc>>>,
}

/// What the status API says of a provision.
#[derive(Debug, Clone)]
pub struct Shown {
    pub provision: Value,
    pub events: Vec<Value>,
}

impl Shown {
    /// When which attempt was failed for its time.
    pub fn times_up(&self) -> Vec<(i64, DateTime<Utc>)> {
        let deadlines = self.events.iter().filter(|it| it["kind"] == "deadline");
        deadlines
            .filter_map(|it| Some((it["attempt"].as_i64()?, time(&it["at"])?)))
            .collect()
    }
}

/// All that is checked.
pub struct Checks<'a> {
    pub vendors: &'a Vendors,
    pub records: &'a HashMap<Uuid, Record>,
    pub shown: &'a HashMap<Uuid, Shown>,
    pub troubles: &'a [Trouble],
    pub book: &'a Book,
}

impl Vendors {
    pub fn new(lives: Vec<Life>, history: Vec<HistoryEntry>) -> Self {
        let mut deleted: HashMap<_, Vec<_>> = HashMap::new();
        for entry in history.iter().filter(|it| it.method == "DELETE") {
            if let (Some(thing), true) = (thing(entry), entry.effect.is_some()) {
                deleted.entry(thing).or_default().push(entry.at);
            }
        }
        Self {
            lives,
            history,
            deleted,
        }
    }

    /// How many requests the vendors got.
    pub fn requests(&self) -> usize {
        self.history.len()
    }

    /// What our attempts made, and which of them.
    pub fn ours(&self, book: &Book) -> Vec<(&Life, Uuid, i64)> {
        let foreign = book.foreign();
        self.lives
            .iter()
            .filter(|life| !foreign.contains(&(life.kind, life.id.clone())))
            .filter_map(|life| maker(life).map(|(id, attempt)| (life, id, attempt)))
            .collect()
    }

    fn life(&self, kind: LifeKind, id: &str) -> Option<&Life> {
        self.lives
            .iter()
            .find(|life| life.kind == kind && life.id == id)
    }
}

/// What a DELETE is about.
fn thing(entry: &HistoryEntry) -> Option<(LifeKind, String)> {
    let id = entry.path.rsplit('/').next()?.to_owned();
    let kind = if entry.path.starts_with("/servers/") {
        LifeKind::Server
    } else if entry.path.starts_with("/device/") {
        LifeKind::Device
    } else {
        LifeKind::AuthKey
    };
    Some((kind, id))
}

fn kind_of(resource: &Value) -> Option<LifeKind> {
    match resource.as_str()? {
        "auth_key" => Some(LifeKind::AuthKey),
        "server" => Some(LifeKind::Server),
        "device" => Some(LifeKind::Device),
        _ => None,
    }
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}

impl Checks<'_> {
    /// Looks at everything; what must not be goes into the book.
    pub fn all(&self) {
        self.foreign();
        let ours = self.vendors.ours(self.book);
        self.only_ours_and_only_when_over(&ours);
        let mut by_maker: BTreeMap<(Uuid, i64), Vec<&Life>> = BTreeMap::new();
        for (life, id, attempt) in &ours {
            by_maker.entry((*id, *attempt)).or_default().push(life);
        }
        let lives: HashMap<(LifeKind, &str), &Life> = self
            .vendors
            .lives
            .iter()
            .map(|life| ((life.kind, life.id.as_str()), life))
            .collect();
        for (id, record) in self.records {
            match self.shown.get(id) {
                Some(shown) => {
                    self.is_as_believed(*id, record, shown, &by_maker);
                    self.acknowledged_is_there(*id, record, shown);
                    self.nothing_failed_before_its_time(*id, record, shown);
                    self.proofs_are_true(*id, record, shown, &by_maker, &lives);
                    self.refused_is_not_its_own(*id, shown, &lives);
                }
                None if record.acknowledged.is_empty() => {}
                None => self.wrong(*id, "it is not there, and callbacks were acknowledged"),
            }
        }
        for ((id, attempt), things) in &by_maker {
            self.nothing_is_left(*id, *attempt, things);
        }
    }

    fn wrong(&self, id: Uuid, what: impl Into<String>) {
        self.book.violation(Some(id), what);
    }

    /// Everything foreign is there, and nobody ever asked to delete it.
    fn foreign(&self) {
        for (kind, id) in self.book.foreign() {
            match self.vendors.life(kind, &id) {
                Some(life) if life.ended.is_none() => {}
                gone => self
                    .book
                    .violation(None, format!("foreign {kind:?} {id} is gone: {gone:?}")),
            }
        }
    }

    /// A DELETE was only ever sent for what is ours, and only once nobody needed it.
    fn only_ours_and_only_when_over(&self, ours: &[(&Life, Uuid, i64)]) {
        let makers: HashMap<(LifeKind, &str), (Uuid, i64)> = ours
            .iter()
            .map(|(life, id, attempt)| ((life.kind, life.id.as_str()), (*id, *attempt)))
            .collect();
        let mut told = BTreeSet::new();
        for entry in self
            .vendors
            .history
            .iter()
            .filter(|it| it.method == "DELETE")
        {
            let Some((kind, id)) = thing(entry) else {
                continue;
            };
            let Some((provision, number)) = makers.get(&(kind, id.as_str())) else {
                let what = format!("a DELETE was sent for {kind:?} {id}, which is not ours");
                self.book.violation(None, what);
                continue;
            };
            let record = self.records.get(provision);
            let Some(attempt) = record.and_then(|it| it.attempt(*number)) else {
                continue;
            };
            let needed = needed_until(attempt);
            if entry.at < needed && told.insert((kind, id.clone())) {
                let what = format!(
                    "{kind:?} {id} was to be deleted at {}, and was needed until {needed}",
                    entry.at
                );
                self.wrong(*provision, what);
            }
        }
    }

    fn is_as_believed(
        &self,
        id: Uuid,
        record: &Record,
        shown: &Shown,
        by_maker: &BTreeMap<(Uuid, i64), Vec<&Life>>,
    ) {
        let status = shown.provision["status"].as_str().unwrap_or_default();
        let runs = status == "running";
        match record.belief {
            Belief::Over if runs => self.wrong(id, "it runs, and its end was acknowledged"),
            Belief::Runs if !runs => {
                self.wrong(
                    id,
                    format!("it is {status}, and its success was acknowledged"),
                );
            }
            _ => {}
        }
        if matches!(status, "queued" | "provisioning") {
            self.wrong(id, format!("it is still {status}"));
        }
        let rollback = &shown.provision["rollback"]["state"];
        if !(rollback.is_null() || rollback == "done") {
            self.wrong(id, format!("its rollback is {rollback}"));
        }
        if runs {
            let attempt = shown.provision["attempt"].as_i64().unwrap_or_default();
            let things = by_maker.get(&(id, attempt)).map_or(&[][..], Vec::as_slice);
            for kind in [LifeKind::Server, LifeKind::Device] {
                if !things
                    .iter()
                    .any(|it| it.kind == kind && it.ended.is_none())
                {
                    self.wrong(id, format!("it runs, and its {kind:?} is gone"));
                }
            }
        }
    }

    /// Nothing of ours is left, but for the machines that run.
    fn nothing_is_left(&self, id: Uuid, attempt: i64, things: &[&Life]) {
        let provision = self.shown.get(&id).map(|it| &it.provision);
        let in_use =
            provision.is_some_and(|it| it["status"] == "running" && it["attempt"] == attempt);
        for life in things {
            if life.ended.is_none() && !(in_use && life.kind != LifeKind::AuthKey) {
                self.wrong(
                    id,
                    format!("left behind: {:?} {} {}", life.kind, life.id, life.name),
                );
            }
        }
    }

    /// Every callback that got a 2xx is in the history; heartbeats leave nothing there.
    fn acknowledged_is_there(&self, id: Uuid, record: &Record, shown: &Shown) {
        for acknowledged in &record.acknowledged {
            if acknowledged.kind == "progress" && acknowledged.body.get("step").is_none() {
                continue;
            }
            let kind = format!("callback.{}", acknowledged.kind);
            let is_it = |event: &&Value| {
                let data = &event["data"];
                let same = [
                    "run_id",
                    "run_attempt",
                    "step",
                    "error",
                    "failed_step",
                    "conclusion",
                ];
                event["kind"] == kind.as_str()
                    && same.iter().all(|key| data[key] == acknowledged.body[key])
            };
            if !shown.events.iter().any(|event| is_it(&event)) {
                let what = format!(
                    "acknowledged, and not in the history: {kind} {}",
                    acknowledged.body
                );
                self.wrong(id, what);
            }
        }
    }

    fn nothing_failed_before_its_time(&self, id: Uuid, record: &Record, shown: &Shown) {
        for event in shown.events.iter().filter(|it| it["kind"] == "deadline") {
            let number = event["attempt"].as_i64().unwrap_or_default();
            let (Some(attempt), Some(at)) = (record.attempt(number), time(&event["at"])) else {
                continue;
            };
            let (since, patience) = match event["data"]["reason"].as_str() {
                Some("silent") => (
                    attempt.last_heard_by(at),
                    CEILING.patience.heartbeat_timeout,
                ),
                _ => (attempt.started, CEILING.patience.provision_timeout),
            };
            if at < since + patience {
                let what =
                    format!("failed for its time at {at}, and was heard at {since}: {event}");
                self.wrong(id, what);
            }
        }
    }

    /// Each receipt was true when it was written.
    fn proofs_are_true(
        &self,
        id: Uuid,
        record: &Record,
        shown: &Shown,
        by_maker: &BTreeMap<(Uuid, i64), Vec<&Life>>,
        lives: &HashMap<(LifeKind, &str), &Life>,
    ) {
        for event in shown.events.iter().filter(|it| it["kind"] == "step.gone") {
            let data = &event["data"];
            let number = event["attempt"].as_i64().unwrap_or_default();
            let (Some(kind), Some(at)) = (kind_of(&data["resource"]), time(&event["at"])) else {
                self.wrong(id, format!("a receipt that cannot be read: {event}"));
                continue;
            };
            if lied(self.troubles, at) {
                continue;
            }
            let own = by_maker.get(&(id, number)).map_or(&[][..], Vec::as_slice);
            let own: Vec<&Life> = own.iter().copied().filter(|it| it.kind == kind).collect();
            let proof = data["proof"].as_str().unwrap_or_default();
            let about: Vec<&Life> = match data["vendor_id"].as_str() {
                Some(vendor_id) => lives.get(&(kind, vendor_id)).copied().into_iter().collect(),
                None => own.clone(),
            };
            let is_there = |life: &&&Life| {
                life.began < at - LIST_TO_PROOF && life.ended.is_none_or(|ended| ended > at)
            };
            if let Some(life) = about.iter().find(is_there) {
                self.wrong(id, format!("{proof}, and {} was there: {event}", life.id));
            }
            let was_deleted = |life: &&Life| {
                let deleted = self.vendors.deleted.get(&(kind, life.id.clone()));
                deleted.is_some_and(|all| all.iter().any(|deleted| *deleted <= at))
            };
            if proof == "deleted" && !about.iter().any(was_deleted) {
                self.wrong(id, format!("deleted, and no DELETE took effect: {event}"));
            }
            let attempt = record.attempt(number);
            if let (LifeKind::Server, "never_appeared", Some(attempt)) = (kind, proof, attempt) {
                let watched = watched_for(attempt, at);
                if at < watched {
                    let what = format!("it was to be watched for until {watched}: {event}");
                    self.wrong(id, what);
                }
            }
        }
    }

    /// A hint that was refused is not the attempt's own.
    fn refused_is_not_its_own(
        &self,
        id: Uuid,
        shown: &Shown,
        lives: &HashMap<(LifeKind, &str), &Life>,
    ) {
        let steps = shown.provision["rollback"]["steps"].as_array();
        let refused = steps
            .into_iter()
            .flatten()
            .filter(|it| it["state"] == "refused");
        let foreign = self.book.foreign();
        for step in refused {
            let (Some(kind), Some(vendor_id)) =
                (kind_of(&step["resource"]), step["vendor_id"].as_str())
            else {
                continue;
            };
            let life = lives.get(&(kind, vendor_id));
            let made_by = life.and_then(|life| maker(life));
            let is_own = made_by == step["attempt"].as_i64().map(|number| (id, number));
            if is_own && !foreign.contains(&(kind, vendor_id.to_owned())) {
                self.wrong(id, format!("its own, and refused: {step}"));
            }
        }
    }
}

/// Until when a server that was never seen had to be watched for at least, by what had been said at a
/// moment.
fn watched_for(attempt: &Attempt, at: DateTime<Utc>) -> DateTime<Utc> {
    let over = attempt.doomed.map_or(attempt.started, |doomed| doomed.at);
    let by_default = (!attempt.says_no_server).then_some(over);
    let said = attempt
        .says_server
        .iter()
        .filter(|(_, answered)| *answered < at)
        .map(|(sent, _)| *sent)
        .max();
    by_default
        .max(said)
        .map_or(DateTime::<Utc>::MIN_UTC, |since| {
            since + LATE_ARRIVAL_WINDOW
        })
}
