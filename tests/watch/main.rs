//! When nobody reports: deadlines, silence, gaps in hearing, holds, credentials that see nothing.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "../harness/mod.rs"]
mod harness;

mod controller;
mod hearing;
mod hold;
mod overdue;
mod races;
mod reopen;
mod sight;
mod support;
mod sweep;
mod webhook;
mod witness;
