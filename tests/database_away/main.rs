//! The database goes away in every way it can, and comes back: callbacks are answered 503 meanwhile,
//! nothing acknowledged is lost, and everything goes on by itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/log.rs"]
mod log;
#[expect(dead_code, reason = "shared with the tests of the program")]
#[path = "../binary/workflows.rs"]
mod workflows;

mod failover;
mod limits;
mod lost_answers;
mod postgres;
#[expect(dead_code, reason = "shared with the tests of the program")]
mod proxy;
mod restarts;
mod silence;
