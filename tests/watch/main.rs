//! When nobody reports: deadlines, silence, gaps in hearing, holds, credentials that see nothing.

#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "tests panic, and take `json!` as it is made"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod controller;
mod hearing;
mod hold;
mod overdue;
mod races;
mod sight;
mod support;
