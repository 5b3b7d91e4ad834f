//! backstop: second-layer rollback for VMs that CI provisions.
//!
//! Whatever a provision created and no longer needs (server, device, auth key) is deleted and proven
//! gone, however the workflow ended, whichever message was lost, whenever we crashed; and nothing
//! else is ever deleted.
//!
//! # A tour, in reading order
//!
//! - [`domain`]: what a provision, an attempt and a rollback step are, and their transition tables.
//!   No I/O; imports nobody.
//! - [`store`]: all SQL. A callback is one read and one compare-and-swap statement; the ledger is
//!   claimed under leases and settled under a fence.
//! - [`http`]: callbacks from workflows, the status API for dashboards. [`oidc`]: whose run a job's token
//!   is.
//! - [`rollback`]: [`rollback::rollback_failed_provision`] plans what must go, the worker makes it go.
//! - [`sweep`]: the vendors' lists against the database: what nobody reported and nobody is after.
//! - [`dispatch`]: sends the workflows that the outbox has.
//! - [`retention`]: forgets the history of what has long been over.
//! - [`watch`]: fails what nobody speaks for, and says whether anybody could have been heard.
//! - [`notices`]: tells the operators' webhook what settled, got stuck or was found.
//! - [`witness`]: what GitHub says of a run, asked or sent.
//! - [`providers`]: the clients for Hetzner, Tailscale and GitHub. [`budget`]: what the vendors may be
//!   sent, shared by all replicas. [`ceiling`]: how old an orphan can get.
//! - [`app`]: builds the parts, runs them, stops them. [`config`]: every setting. [`metrics`]: what
//!   is counted. [`signing`]: the secrets of what comes in signed and goes out signed.
//! - [`check`]: what each credential can do, found out without changing anything.
//! - [`cli`]: `list`, `show` and `watch`, which ask a running service.
//! - [`postgres`]: the private Postgres where there is no other.
//! - [`sim`]: simulated vendors behind real HTTP. [`demo`]: all of it together.
//!
//! `http` and `rollback` never call each other: they meet in Postgres, so a crash between them loses
//! nothing, and several processes can share the work.

pub mod app;
pub mod budget;
pub mod ceiling;
pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod domain;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod metrics;
pub mod notices;
pub mod oidc;
pub mod postgres;
pub mod providers;
pub mod retention;
pub mod rollback;
pub mod signing;
pub mod sim;
pub mod store;
pub mod sweep;
pub mod watch;
pub mod witness;
