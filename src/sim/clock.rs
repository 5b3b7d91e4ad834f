//! The vendors' own time.
//!
//! Vendors do not share a clock with the database, so the simulation has one of its own, and this
//! is the only place that reads it.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// The moment it is at the vendors'.
#[expect(clippy::disallowed_methods, reason = "the vendors keep their own time")]
pub(super) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// `moment` moved on by `by`; the end of time when that is too far to name.
pub(super) fn later(moment: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(by)
        .ok()
        .and_then(|by| moment.checked_add_signed(by))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// `moment` as the vendors write it, in whole seconds.
pub(super) fn stamp(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}
