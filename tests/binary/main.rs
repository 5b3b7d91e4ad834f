//! The program itself, as a child process: killed, stopped, misconfigured.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/log.rs"]
mod log;

mod budget;
mod child;
mod commands;
mod kills;
mod people;
mod restored;
mod settings;
mod sweep;
mod workflows;
