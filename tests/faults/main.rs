//! Every fault at every crash point, to the same ending.
//!
//! A target of its own, because crash points are armed for the whole process; its tests take turns.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/log.rs"]
mod log;

mod catalogue;
mod crash;
mod dispatch;
mod fences;
mod table;
