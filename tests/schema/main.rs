//! The schema says what the code says: the transition tables, the comments, the migrations.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "../harness/mod.rs"]
mod harness;

mod migrations;
mod tables;
