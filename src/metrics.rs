//! What is counted and measured, for `GET /metrics`.
//!
//! Each [`Metrics`] has a recorder of its own and none is the process's, so that several services
//! in one process do not count each other's. Label values come from small sets that are ours or a
//! vendor's: no ids, no paths, no secrets.
//!
//! Gauges of what is in the database are set when somebody reads; every replica shows the same.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio_util::sync::CancellationToken;

use crate::domain::callback::Kind;
use crate::domain::step::{Resource, StepState};
use crate::domain::transition::Status;

const CALLBACKS: &str = "backstop_callbacks_total";
const PROVISIONS: &str = "backstop_provisions";
const STEPS: &str = "backstop_rollback_steps";
const SETTLE_SECONDS: &str = "backstop_rollback_settle_seconds";
const OLDEST_UNSETTLED: &str = "backstop_oldest_unsettled_step_seconds";
const VENDOR_REQUESTS: &str = "backstop_vendor_requests_total";
const RATE_REMAINING: &str = "backstop_vendor_rate_remaining";
const ORPHANS: &str = "backstop_orphans";
const GITHUB_VERDICTS: &str = "backstop_github_verdicts_total";
const HTTP_REQUESTS: &str = "backstop_http_requests_total";
const HTTP_SECONDS: &str = "backstop_http_request_seconds";
const HTTP_CONNECTIONS: &str = "backstop_http_connections";
const HTTP_REFUSED: &str = "backstop_http_refused_total";
const CONNECTIONS: &str = "backstop_database_connections";
const CONNECTIONS_MAX: &str = "backstop_database_connections_max";
const DATABASE_UP: &str = "backstop_database_up";

/// What is read from the database.
const FROM_THE_DATABASE: [&str; 5] = [PROVISIONS, STEPS, OLDEST_UNSETTLED, RATE_REMAINING, ORPHANS];
/// From a rollback that goes by itself to one that waits for a person over a night.
const SETTLE_BUCKETS: [f64; 15] = [
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0,
    86400.0,
];
/// Up to the minute that a caller may wait for a rollback.
const HTTP_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0];
/// Samples are kept one by one until somebody reads, or until then.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

const METADATA: Metadata<'static> = Metadata::new("backstop", Level::INFO, None);

/// Counts and measures. Clones count into the same.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Recording>);

#[derive(Debug)]
struct Recording {
    recorder: PrometheusRecorder,
    rendered: PrometheusHandle,
}

type Pair = (&'static str, SharedString);

impl Metrics {
    /// Everything at its beginning.
    ///
    /// # Panics
    /// Never: no list of buckets is empty.
    #[must_use]
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(SETTLE_SECONDS.to_owned()), &SETTLE_BUCKETS)
            .and_then(|builder| {
                builder
                    .set_buckets_for_metric(Matcher::Full(HTTP_SECONDS.to_owned()), &HTTP_BUCKETS)
            })
            .expect("only an empty list of buckets is an error")
            .build_recorder();
        let rendered = recorder.handle();
        let metrics = Self(Arc::new(Recording { recorder, rendered }));
        metrics.describe();
        // What has not happened yet is shown as that.
        for kind in Kind::ALL {
            let labels = [
                ("kind", kind.as_str().into()),
                ("result", "accepted".into()),
            ];
            metrics.counter(CALLBACKS, labels).increment(0);
        }
        for result in ["failed", "discrepancy"] {
            let labels = [("result", result.into())];
            metrics.counter(GITHUB_VERDICTS, labels).increment(0);
        }
        for reason in ["guesses", "unproven", "dismissed", "turned_away"] {
            metrics
                .counter(HTTP_REFUSED, [("reason", reason.into())])
                .increment(0);
        }
        metrics.set_http_connections(0);
        drop(metrics.histogram(SETTLE_SECONDS, []));
        metrics
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        self.set(DATABASE_UP, [], 1.0);
        self.0.rendered.render()
    }

    /// The same while the database does not answer: what would be read from it is left out, for
    /// what was last known need not be true any more.
    #[must_use]
    pub fn render_without_database(&self) -> String {
        self.set(DATABASE_UP, [], 0.0);
        let text = self.0.rendered.render();
        let known = text.lines().filter(|line| {
            let mut words = line
                .trim_start_matches("# HELP ")
                .trim_start_matches("# TYPE ");
            words = words.split([' ', '{']).next().unwrap_or_default();
            !FROM_THE_DATABASE.contains(&words)
        });
        known.flat_map(|line| [line, "\n"]).collect()
    }

    /// Keeps the memory small while nobody reads, until stopped.
    pub async fn upkeep(self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY));
        while pause().await.is_some() {
            self.0.rendered.run_upkeep();
        }
    }

    /// A callback was answered: `accepted`, or the code of the problem.
    pub fn callback(&self, kind: &'static str, result: &'static str) {
        let labels = [("kind", kind.into()), ("result", result.into())];
        self.counter(CALLBACKS, labels).increment(1);
    }

    /// An attempt's rollback is done for the first time.
    pub fn rollback_done(&self, took: Duration) {
        self.histogram(SETTLE_SECONDS, []).record(took);
    }

    /// A vendor was called. `None`: it did not answer.
    pub fn vendor_request(&self, vendor: &'static str, method: &str, status: Option<u16>) {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let labels = [
            ("vendor", vendor.into()),
            ("method", method.to_owned().into()),
            ("status", status.into()),
        ];
        self.counter(VENDOR_REQUESTS, labels).increment(1);
    }

    /// GitHub said how a run ended, and it meant something: `failed` or `discrepancy`.
    pub fn github_verdict(&self, result: &'static str) {
        let labels = [("result", result.into())];
        self.counter(GITHUB_VERDICTS, labels).increment(1);
    }

    /// A call was answered. `route` is the template of its path, never the path.
    pub fn http_request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let method = ("method", method.into());
        let route = ("route", route.to_owned().into());
        let status = ("status", status.to_string().into());
        self.histogram(HTTP_SECONDS, [method.clone(), route.clone()])
            .record(took);
        self.counter(HTTP_REQUESTS, [method, route, status])
            .increment(1);
    }

    /// Somebody was not heard. A call that failed to prove itself too often: `guesses` of a token,
    /// `unproven` otherwise. A connection: `dismissed` while it waited, because another came;
    /// `turned_away` because none waited.
    pub fn refused(&self, reason: &'static str) {
        self.counter(HTTP_REFUSED, [("reason", reason.into())])
            .increment(1);
    }

    /// How many connections there are with clients of ours.
    pub fn set_http_connections(&self, count: usize) {
        self.set(HTTP_CONNECTIONS, [], float(count as u64));
    }

    /// How many provisions there are in each status; none in those that are not named.
    pub fn set_provisions(&self, counts: &[(String, u64)]) {
        let none = Status::ALL.map(|status| (status.to_string(), 0));
        for (status, count) in none.iter().chain(counts) {
            self.set(
                PROVISIONS,
                [("status", status.clone().into())],
                float(*count),
            );
        }
    }

    /// How many steps there are of each resource in each state; none of those that are not named.
    pub fn set_steps<'a>(&self, counts: impl IntoIterator<Item = &'a (String, String, u64)>) {
        let labels = |resource: &str, state: &str| {
            [
                ("resource", resource.to_owned().into()),
                ("state", state.to_owned().into()),
            ]
        };
        for resource in Resource::ALL {
            for state in StepState::NAMES {
                self.set(STEPS, labels(&resource.to_string(), state), 0.0);
            }
        }
        for (resource, state, count) in counts {
            self.set(STEPS, labels(resource, state), float(*count));
        }
    }

    /// For how long the step has been unsettled that has been the longest; zero without any.
    pub fn set_oldest_unsettled(&self, age: Duration) {
        self.set(OLDEST_UNSETTLED, [], age.as_secs_f64());
    }

    /// How many requests a vendor has left, for all who use the account.
    pub fn set_rate_remaining(&self, vendor: &str, remaining: u64) {
        let vendor = ("vendor", vendor.to_owned().into());
        self.set(RATE_REMAINING, [vendor], float(remaining));
    }

    /// How many of a vendor's things sweeps found that should not be there.
    pub fn set_orphans(&self, vendor: &str, count: u64) {
        let vendor = ("vendor", vendor.to_owned().into());
        self.set(ORPHANS, [vendor], float(count));
    }

    /// Connections to the database: idle, in use, and the most that there may be.
    pub fn set_connections(&self, idle: u32, in_use: u32, most: u32) {
        for (state, count) in [("idle", idle), ("in_use", in_use)] {
            self.set(CONNECTIONS, [("state", state.into())], count.into());
        }
        self.set(CONNECTIONS_MAX, [], most.into());
    }

    fn describe(&self) {
        let counters = [
            (CALLBACKS, "Callbacks that were answered."),
            (
                VENDOR_REQUESTS,
                "Requests to vendors; status none: not answered.",
            ),
            (
                GITHUB_VERDICTS,
                "Provisions that GitHub's word failed or contradicted.",
            ),
            (HTTP_REQUESTS, "Calls of our API that were answered."),
            (HTTP_REFUSED, "Calls and connections that were not heard."),
        ];
        let gauges = [
            (PROVISIONS, "Provisions, by status."),
            (STEPS, "Rollback steps, by resource and state."),
            (
                OLDEST_UNSETTLED,
                "Age of the oldest unsettled step, in seconds.",
            ),
            (
                RATE_REMAINING,
                "Requests that the vendor has left for all who use the account.",
            ),
            (ORPHANS, "What the last sweep found that nobody needs."),
            (HTTP_CONNECTIONS, "Connections of clients to this process."),
            (CONNECTIONS, "Connections of this process to the database."),
            (CONNECTIONS_MAX, "The most that there may be."),
            (DATABASE_UP, "1 if the database answered just now, else 0."),
        ];
        let histograms = [
            (
                SETTLE_SECONDS,
                "From a failure being recorded to all being proven gone, in seconds.",
            ),
            (
                HTTP_SECONDS,
                "Time to answer a call of our API, in seconds.",
            ),
        ];
        let recorder = &self.0.recorder;
        for (name, help) in counters {
            recorder.describe_counter(name.into(), None, help.into());
        }
        for (name, help) in gauges {
            recorder.describe_gauge(name.into(), None, help.into());
        }
        for (name, help) in histograms {
            recorder.describe_histogram(name.into(), None, help.into());
        }
    }

    fn counter<const N: usize>(&self, name: &'static str, labels: [Pair; N]) -> Counter {
        let key = key(name, labels);
        self.0.recorder.register_counter(&key, &METADATA)
    }

    fn histogram<const N: usize>(&self, name: &'static str, labels: [Pair; N]) -> Histogram {
        let key = key(name, labels);
        self.0.recorder.register_histogram(&key, &METADATA)
    }

    fn set<const N: usize>(&self, name: &'static str, labels: [Pair; N], value: f64) {
        let key = key(name, labels);
        let gauge: Gauge = self.0.recorder.register_gauge(&key, &METADATA);
        gauge.set(value);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn key<const N: usize>(name: &'static str, labels: [Pair; N]) -> Key {
    let labels = labels.map(|(name, value)| Label::new(name, value));
    Key::from_parts(name, labels.to_vec())
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
