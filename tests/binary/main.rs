//! The program itself, as a child process: killed, stopped, misconfigured.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/log.rs"]
mod log;

mod budget;
mod check;
mod child;
mod commands;
mod database;
mod database_url;
mod image;
mod kills;
mod people;
mod pooler;
#[expect(dead_code, reason = "shared with the tests of an absent database")]
#[path = "../database_away/proxy.rs"]
mod proxy;
mod restored;
mod settings;
mod silent;
mod stops;
mod sweep;
mod workflows;
