//! Reading fields that vendors leave out, set to null, or send empty.

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Deserializer};

/// A missing field by `#[serde(default)]`, and null by this, read as the type's default.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A time, if there is one. Tailscale sends `""` for none, and year 1 is Go's zero time. Times are
/// information only, so one that does not parse is none rather than the end of a whole list.
pub(super) fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?).ok()?.to_utc();
    (time.year() > 1).then_some(time)
}
