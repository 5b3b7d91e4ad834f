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
    exchange::{self, Request, Twist},
    faults::{FaultBook, Vendor},
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
    /// A request takes effect that was answered with an error.
    TakesEffect { vendor: Vendor, request: Request },
}

impl World {
    pub(super) fn new(options: SimOptions) -> World {
        World {
            project: Project::new(options.action_time),
            tailnet: Tailnet::default(),
            actions: Actions::default(),
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
        while let Some(next) = self.agenda.first_entry()
            && next.key().0 <= now
        {
            let ((at, _), event) = next.remove_entry();
            self.project.advance(at);
            self.happen(event, at);
        }
        self.project.advance(now);
    }

    /// Plans an event.
    pub(super) fn plan(&mut self, after: Duration, event: Event) {
        self.events_planned += 1;
        let at = clock::later(clock::now(), after);
        self.agenda.insert((at, self.events_planned), event);
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
