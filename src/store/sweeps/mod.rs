//! Sweeps: who makes the next one, what it judges by, and what it found.
//!
//! A periodic sweep is claimed by inserting its row, which only one can hold at a time; nothing is
//! locked while the vendors are asked. A replica that dies with it holds it until its lease ends.

mod findings;
mod known;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use super::{StoreError, interval};

pub use findings::{Findings, OrphanView, SweepView, finish, latest};
pub use known::{ground, known, running_without_server};

/// A sweep that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    id: i64,
    /// When, by the database's time. Lists are begun after that.
    pub started_at: DateTime<Utc>,
}

/// What became of the wish for the next periodic sweep.
#[derive(Debug, Clone, Copy)]
pub enum Claimed {
    /// It is ours.
    Yes(Sweep),
    /// The next one is due, or another's has to end, no sooner than this.
    NotBefore(Duration),
}

/// A transaction's time is that of its start, so what another has just written may be ahead of it. Only
/// what is further ahead was written by a clock that was wrong.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Claims the periodic sweep for `lease` if none was begun within `every` and nobody is at one. What was
/// begun by a clock that was ahead counts for nothing.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn claim(
    db: &mut PgConnection,
    every: Duration,
    lease: Duration,
) -> Result<Claimed, StoreError> {
    let mut transaction = db.begin().await?;
    let abandoned = sqlx::query_scalar!(
        "update sweeps set held_until = null
         where held_until <= backstop_now() or held_until > backstop_now() + $1
         returning id",
        interval(lease + CLOCK_SLACK),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(sweep) = abandoned {
        tracing::warn!(
            sweep,
            "a sweep was begun and never ended; the next one makes up for it"
        );
    }
    // One that was begun and came to nothing counts for nothing.
    let sweep = sqlx::query_as!(
        Sweep,
        r#"
        insert into sweeps (started_at, held_until)
        select backstop_now(), backstop_now() + $2
        where not exists (
            select from sweeps
            where started_at > backstop_now() - $1::interval
              and started_at <= backstop_now() + $3::interval
              and (held_until is not null or finished_at is not null)
        )
        on conflict do nothing
        returning id, started_at
        "#,
        interval(every),
        interval(lease),
        interval(CLOCK_SLACK),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let claimed = match sweep {
        Some(sweep) => Claimed::Yes(sweep),
        None => Claimed::NotBefore(next_in(&mut transaction, every).await?),
    };
    transaction.commit().await?;
    Ok(claimed)
}

async fn next_in(db: &mut PgConnection, every: Duration) -> Result<Duration, StoreError> {
    let milliseconds = sqlx::query_scalar!(
        r#"
        select (extract(epoch from
                   coalesce(
                       (select held_until from sweeps where held_until is not null),
                       (select max(started_at) from sweeps
                        where finished_at is not null
                          and started_at <= backstop_now() + $2::interval)
                           + $1::interval,
                       backstop_now()
                   ) - backstop_now()
               ) * 1000)::bigint as "ms!"
        "#,
        interval(every),
        interval(CLOCK_SLACK),
    )
    .fetch_one(db)
    .await?;
    Ok(Duration::from_millis(milliseconds.max(0).unsigned_abs()))
}

/// Begins a sweep that somebody asks for, whoever else is at one.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn begin(db: &mut PgConnection) -> Result<Sweep, StoreError> {
    Ok(sqlx::query_as!(
        Sweep,
        "insert into sweeps (started_at) values (backstop_now()) returning id, started_at"
    )
    .fetch_one(db)
    .await?)
}

/// Gives a claimed sweep up before anything was written, as if it had never been begun.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn give_up(db: &mut PgConnection, sweep: &Sweep) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from sweeps where id = $1 and finished_at is null",
        sweep.id
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The database's time, for a sweep that leaves no row.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn now(db: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select backstop_now() as "now!""#)
        .fetch_one(db)
        .await?)
}
