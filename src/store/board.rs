//! What the page shows of everything at once: what is being undone, and how the last day went.
//!
//! Each of these reads an index of what it counts, so that neither the number of provisions nor the
//! length of their histories matters.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, interval};

/// Provisions with something that still has to go.
#[derive(Debug, Clone, Default)]
pub struct InHand {
    /// How many go on by themselves.
    pub pending: u64,
    /// How many are stuck.
    pub stuck: u64,
    /// How many things still have to go.
    pub steps: u64,
    /// Since when the oldest of them has to; `None` if there is none.
    pub oldest: Option<DateTime<Utc>>,
    /// The first of the stuck ones, the oldest first.
    pub first_stuck: Vec<Uuid>,
    /// The first of the others, the oldest first.
    pub first_pending: Vec<Uuid>,
}

/// What happened in one of the last 24 hours.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Hour {
    /// Attempts that failed, for whatever reason but that somebody destroyed them.
    pub failed: u64,
    /// Rollbacks that were done for the first time.
    pub settled: u64,
    /// Half of those took no longer than this, in seconds.
    pub median_s: f64,
    /// The longest of those, in seconds.
    pub longest_s: f64,
}

/// How many hours [`last_day`] covers.
pub const HOURS: usize = 24;

/// The database's time.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn now(db: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select backstop_now() as "now!""#)
        .fetch_one(db)
        .await?)
}

/// What is being undone now, with the ids of at most `first` of either kind.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn in_hand(
    db: &mut PgConnection,
    first: u32,
    stuck_after: Duration,
) -> Result<InHand, StoreError> {
    let row = sqlx::query!(
        r#"
        with unsettled as materialized (
            select provision_id, count(*) as steps, min(unsettled_since) as since,
                   bool_or(stuck_at is not null
                           or unsettled_since <= (select backstop_now()) - $2::interval) as stuck
            from steps
            where next_at is not null
            group by provision_id
        )
        select count(*) filter (where stuck) as "stuck!",
               count(*) filter (where not stuck) as "pending!",
               coalesce(sum(steps), 0)::bigint as "steps!",
               min(since) as oldest,
               array(select provision_id from unsettled where stuck
                     order by since, provision_id limit $1) as "first_stuck!",
               array(select provision_id from unsettled where not stuck
                     order by since, provision_id limit $1) as "first_pending!"
        from unsettled
        "#,
        i64::from(first),
        interval(stuck_after),
    )
    .fetch_one(db)
    .await?;
    Ok(InHand {
        pending: row.pending.unsigned_abs(),
        stuck: row.stuck.unsigned_abs(),
        steps: row.steps.unsigned_abs(),
        oldest: row.oldest,
        first_stuck: row.first_stuck,
        first_pending: row.first_pending,
    })
}

/// The last 24 hours, the current one last.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn last_day(db: &mut PgConnection) -> Result<[Hour; HOURS], StoreError> {
    let mut hours = [Hour::default(); HOURS];
    let failed = sqlx::query!(
        r#"
        select floor(extract(epoch from (select backstop_now()) - rollback_started_at) / 3600)::integer
                   as "hours_ago!",
               count(*) as "failed!"
        from attempts
        where rollback_started_at > (select backstop_now()) - interval '24 hours'
          and reason <> 'destroyed'
        group by 1
        "#
    )
    .fetch_all(&mut *db)
    .await?;
    for row in failed {
        if let Some(hour) = of(&mut hours, row.hours_ago) {
            hour.failed = row.failed.unsigned_abs();
        }
    }
    // What was reopened and is done once more did not take all the time in between. Each `limit 1`
    // keeps the planner from joining with all that there ever was.
    let settled = sqlx::query!(
        r#"
        select hours_ago as "hours_ago!", count(*) as "settled!",
               percentile_cont(0.5) within group (order by took) as "median_s!",
               max(took) as "longest_s!"
        from (
            select floor(extract(epoch from (select backstop_now()) - e.at) / 3600)::integer
                       as hours_ago,
                   extract(epoch from e.at - a.rollback_started_at)::float8 as took
            from events e
            cross join lateral (
                select rollback_started_at
                from attempts
                where provision_id = e.provision_id and number = e.attempt
                  and rollback_started_at is not null
                limit 1
            ) a
            where e.kind = 'rollback.done'
              and e.at > (select backstop_now()) - interval '24 hours'
              and (
                  select true from events earlier
                  where earlier.provision_id = e.provision_id and earlier.id < e.id
                    and earlier.attempt = e.attempt and earlier.kind = 'rollback.done'
                  limit 1
              ) is null
        ) done
        group by hours_ago
        "#
    )
    .fetch_all(db)
    .await?;
    for row in settled {
        if let Some(hour) = of(&mut hours, row.hours_ago) {
            hour.settled = row.settled.unsigned_abs();
            hour.median_s = row.median_s.max(0.0);
            hour.longest_s = row.longest_s.max(0.0);
        }
    }
    Ok(hours)
}

/// What was written by a replica a moment later than our "now" belongs to the current hour.
fn of(hours: &mut [Hour; HOURS], hours_ago: i32) -> Option<&mut Hour> {
    let hours_ago = usize::try_from(hours_ago.max(0)).ok()?;
    hours.get_mut((HOURS - 1).checked_sub(hours_ago)?)
}
