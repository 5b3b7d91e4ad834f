//! Provisions whose time is up, or soonest will be.
//!
//! The order of looking is SQL's, the decision is [`crate::domain::overdue`]'s: both say the same,
//! and a test holds them against each other.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::provisions::provision;
use super::rows::{AttemptRow, HearingRow, ProvisionRow};
use super::{StoreError, interval};
use crate::domain::hearing::Hearing;
use crate::domain::names::ProvisionId;
use crate::domain::overdue::Patience;
use crate::domain::provision::Provision;

/// A provision that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitedFor {
    /// Which.
    pub provision: ProvisionId,
    /// Until its time is up, if nothing more is heard; zero: it is.
    pub due_in: Duration,
}

/// The provisions whose time is up soonest, the first one first, at most `limit`. None while
/// callbacks cannot be heard, or the database is held.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn soonest(
    db: &mut PgConnection,
    patience: &Patience,
    limit: u32,
) -> Result<Vec<WaitedFor>, StoreError> {
    // Reads the live attempts and no others, by a small index of their own. The sort is cheaper
    // than an index on the last message, which every heartbeat would have to write to.
    let rows = sqlx::query!(
        r#"
        select a.provision_id,
               (extract(epoch from due.at - backstop_now()) * 1000)::bigint as "due_in_ms!"
        from hearing h
        cross join attempts a
        left join witness w on w.provision_id = a.provision_id and w.attempt = a.number
        cross join lateral (
                 select least(
                     greatest(a.deadline_at, h.since + $1),
                     case when a.last_heartbeat_at is not null
                          then greatest(a.last_message_at, h.since, w.under_way_at)
                               + $2::interval
                     end
                 ) as at
             ) due
        where a.finished_at is null
          and h.held_since is null
          and h.since <= backstop_now()
          and backstop_now() - h.last_pulse_at <= $3
        order by due.at
        limit $4
        "#,
        interval(patience.grace()),
        interval(patience.heartbeat_timeout),
        interval(patience.longest_breath()),
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| WaitedFor {
            provision: ProvisionId::new(row.provision_id),
            due_in: Duration::from_millis(row.due_in_ms.max(0).unsigned_abs()),
        })
        .collect())
}

/// All that decides whether a provision's time is up, as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The provision.
    pub provision: Provision,
    /// Whether it could have been heard.
    pub hearing: Hearing,
    /// When GitHub last said that the current attempt's run is not over; `None`: it never did.
    pub under_way_at: Option<DateTime<Utc>>,
    /// The moment.
    pub now: DateTime<Utc>,
}

/// Reads what decides whether a provision's time is up. `None` for an id that was never seen.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn read(db: &mut PgConnection, id: ProvisionId) -> Result<Option<Seen>, StoreError> {
    let row = sqlx::query!(
        r#"
        select backstop_now() as "now!",
               to_jsonb(p) as "provision: Json<ProvisionRow>",
               to_jsonb(current) as "current: Json<AttemptRow>",
               to_jsonb(h) as "hearing!: Json<HearingRow>",
               w.under_way_at as "under_way_at?"
        from hearing h
        left join provisions p on p.id = $1
        left join attempts current
               on current.provision_id = p.id and current.number = p.attempt
        left join witness w on w.provision_id = p.id and w.attempt = p.attempt
        "#,
        id.as_uuid(),
    )
    .fetch_one(db)
    .await?;
    let hearing = row.hearing.0.parse()?;
    let now = row.now;
    Ok(
        provision(row.provision, row.current)?.map(|provision| Seen {
            provision,
            hearing,
            under_way_at: row.under_way_at,
            now,
        }),
    )
}
