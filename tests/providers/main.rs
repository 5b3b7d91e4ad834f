//! What the clients make of the vendors' answers.
//!
//! The answers are canned, written from the vendors' documents (<https://docs.hetzner.cloud/reference/cloud>,
//! <https://tailscale.com/api>, <https://docs.github.com/rest>), and served on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../harness/app_key.rs"]
mod app_key;
mod canned;

mod abilities;
mod bounds;
mod github;
mod github_runs;
mod hetzner;
mod hetzner_more;
mod tailscale;
