//! All state of the simulation, behind one lock.
//!
//! Nothing happens by itself: whoever looks first lets everything happen that was due by then, in
//! the order in which it was due. So a state is never seen that is older than the clock.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    SimOptions,
    actions::Actions,
    clock,
    cloud_init::Enrolment,
    exchange::{self, Request, Twist},
    faults::{FaultBook, Vendor},
    github_webhooks::Hook,
    hetzner_servers,
    project::Project,
    rate::RateBucket,
    snapshot::HistoryEntry,
    tailnet::Tailnet,
};

/// The vendors, and what is scripted to happen to them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) options: SimOptions,
    pub(super) project: Project,
    pub(super) tailnet: Tailnet,
    pub(super) actions: Actions,
    /// Where GitHub sends webhooks. `None`: nowhere.
    pub(super) hook: Option<Hook>,
    pub(super) rate: RateBucket,
    pub(super) faults: FaultBook,
    history: Vec<HistoryEntry>,
    agenda: BTreeMap<(DateTime<Utc>, u64), Event>,
    events_planned: u64,
}

/// Something that happens later.
#[derive(Debug)]
pub(super) enum Event {
    /// A server is there that nobody saw coming.
    ServerArrives {
        name: String,
        labels: BTreeMap<String, String>,
    },
    /// A device joins.
    DeviceArrives { hostname: String, tags: Vec<String> },
    /// A machine has booted and joins, unless it was deleted meanwhile.
    DeviceEnrols { server: u64, enrolment: Enrolment },
    /// A request takes effect that was answered with an error.
    TakesEffect { vendor: Vendor, request: Request },
}

impl World {
    pub(super) fn new(options: SimOptions) -> World {
        World {
            project: Project::new(options.action_time),
            tailnet: Tailnet::default(),
            actions: Actions::default(),
            hook: None,
            rate: RateBucket::full(
                options.rate_limit,
                options.rate_refill_per_second,
                clock::now(),
            ),
            faults: FaultBook::default(),
            history: Vec::new(),
            agenda: BTreeMap::new(),
            events_planned: 0,
            options,
        }
    }

    /// Lets everything happen that was due by now.
    pub(super) fn advance(&mut self) {
        let now = clock::now();
        loop {
            let next = self.agenda.first_key_value().map(|(&(at, _), _)| at);
            self.project.advance(next.unwrap_or(now).min(now));
            self.plan_first_boots();
            let Some(due) = self.agenda.first_entry().filter(|it| it.key().0 <= now) else {
                return;
            };
            let ((at, _), event) = due.remove_entry();
            self.happen(event, at);
        }
    }

    /// Plans an event.
    pub(super) fn plan(&mut self, after: Duration, event: Event) {
        self.plan_at(clock::later(clock::now(), after), event);
    }

    fn plan_at(&mut self, at: DateTime<Utc>, event: Event) {
        self.events_planned += 1;
        self.agenda.insert((at, self.events_planned), event);
    }

    fn plan_first_boots(&mut self) {
        for boot in self.project.take_first_boots() {
            let event = Event::DeviceEnrols {
                server: boot.server,
                enrolment: boot.enrolment,
            };
            self.plan_at(clock::later(boot.at, self.options.boot_time), event);
        }
    }

    /// Lets a request take effect later.
    pub(super) fn defer(&mut self, vendor: Vendor, request: Request, after: Duration) {
        self.plan(after, Event::TakesEffect { vendor, request });
    }

    pub(super) fn record(&mut self, entry: HistoryEntry) {
        self.history.push(entry);
    }

    pub(super) fn history(&self) -> Vec<HistoryEntry> {
        self.history.clone()
    }

    pub(super) fn clear_history(&mut self) {
        self.history.clear();
    }

    fn happen(&mut self, event: Event, at: DateTime<Utc>) {
        match event {
            Event::ServerArrives { name, labels } => {
                self.project
                    .place(hetzner_servers::plain_server(&name, labels), at);
            }
            Event::DeviceArrives { hostname, tags } => {
                self.tailnet.add_device(&hostname, &tags, at);
            }
            Event::DeviceEnrols { server, enrolment } => {
                if self.project.server(server).is_some() {
                    // A key that lets nobody in leaves the machine outside.
                    let _ = self
                        .tailnet
                        .enrol(&enrolment.auth_key, &enrolment.hostname, at);
                }
            }
            Event::TakesEffect { vendor, request } => {
                let answer = exchange::carry_out(self, vendor, &request, &Twist::default());
                let status = Some(answer.status.as_u16());
                let entry = exchange::entry(vendor, &request, status, answer.effect);
                self.record(HistoryEntry {
                    at,
                    late: true,
                    ..entry
                });
            }
        }
    }
}
