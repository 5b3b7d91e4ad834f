//! Attacks, by hand: what was captured and is sent again, vendors that lie, requests that no client
//! would send. Each table names its lines, and a line that fails is named.

#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests panic, take `json!` as it is made, and hold whole tables"
)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/log.rs"]
mod log;

mod liar;
mod lies;
mod lies_about_tokens;
mod lies_of_github;
mod lies_of_hetzner;
mod lies_of_tailscale;
mod lies_to_sweeps;
mod page;
mod replays;
mod replays_of_tokens;
mod replays_of_webhooks;
mod requests;
mod tables;
