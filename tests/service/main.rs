//! The service through HTTP, with a real Postgres and simulated vendors.

#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tests panic, take `json!` as it is made, and hold whole tables"
)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/log.rs"]
mod log;

mod access;
mod actions;
mod arrivals;
mod attempts;
mod batches;
mod browsers;
mod budget;
mod callbacks;
mod connections;
mod dispatch;
mod dispatch_races;
mod document;
mod failures;
mod hostile;
mod hostile_fields;
mod hostile_requests;
mod hosts;
mod jobs;
mod late;
mod lists;
mod metrics;
mod never_lost;
mod oidc;
mod order;
mod page;
mod patience;
mod proof;
mod races;
mod retention;
mod rollback;
mod sequence;
mod status_api;
mod stream;
mod stuck;
mod support;
mod sweep;
mod sweep_lists;
mod sweep_periodic;
mod sweep_unknown;
mod webhook;
mod webhook_receiver;
