//! What the clients make of the vendors' answers.
//!
//! The answers are canned, written from the vendors' documents (<https://docs.hetzner.cloud/reference/cloud>,
//! <https://tailscale.com/api>), and served on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod canned;

mod bounds;
mod hetzner;
mod hetzner_more;
mod tailscale;
