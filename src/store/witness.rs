//! Who is asked about at GitHub, and what it said.
//!
//! Replicas share one row of asking, so that together they ask no more than one alone would, and one
//! row for each attempt that gave reason to ask. A claim is good until its lease ends; an answer is
//! written only by whoever asked last.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};

use super::provisions::provision;
use super::rows::{AttemptRow, ProvisionRow};
use super::{StoreError, interval};
use crate::domain::names::{ProvisionId, Run};
use crate::domain::overdue::Patience;
use crate::domain::witness::{Accused, DISCREPANCY};

/// The most runs that all replicas together ask about in a minute. GitHub allows 5000 requests an
/// hour to a token that others use as well; what has not changed costs nothing of them.
const ASKS_A_MINUTE: i32 = 60;
/// How long a webhook is remembered. GitHub sends one again for three days at most.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An attempt about whose run this process is to ask.
#[derive(Debug, Clone)]
pub struct Suspect {
    /// Of which provision.
    pub provision: ProvisionId,
    /// Its run, or the one that was dispatched for it.
    pub run: Run,
    /// Asks in a row that told nothing.
    pub failures: u32,
    /// Of the last answer, which said that the run is under way.
    pub etag: Option<String>,
    attempt: i32,
    asks: i32,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The run is not over.
    UnderWay {
        /// Of this answer.
        etag: Option<String>,
        /// When to ask again, if there is reason to.
        ask_in: Duration,
    },
    /// How the run ended, and what follows is written: there is nothing more to ask.
    Ended,
    /// Nothing that says anything.
    Nothing {
        /// When to ask again, if there is reason to.
        ask_in: Duration,
    },
}

/// Claims attempts that gave reason to ask and whose turn it is, at most `limit`, for `lease`: live
/// ones that were silent for a while (shorter if they have sent heartbeats), are past their deadline,
/// or had a job end since they were last heard. Held or not: GitHub's word is none of time's.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn claim_suspects(
    db: &mut PgConnection,
    patience: &Patience,
    lease: Duration,
    limit: u32,
) -> Result<Vec<Suspect>, StoreError> {
    let mut transaction = db.begin().await?;
    let asked = sqlx::query_scalar!(
        r#"
        select case when backstop_now() - window_began_at between interval '0' and interval '1 minute'
                    then asked else 0
               end as "asked!"
        from github_asking
        where coalesce(paused_until <= backstop_now(), true)
        for update
        "#
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let room = i64::from(asked.map_or(0, |asked| ASKS_A_MINUTE - asked)).min(i64::from(limit));
    if room <= 0 {
        return Ok(Vec::new());
    }
    // In the order of their ids, as the webhooks write them.
    let rows = sqlx::query!(
        r#"
        with suspects as (
            select a.provision_id, a.number as attempt,
                   coalesce(a.run_id, d.run_id) as run_id, coalesce(a.run_attempt, 1) as run_attempt
            from hearing h
            cross join attempts a
            left join dispatches d on d.provision_id = a.provision_id and a.number = 0
            left join witness w on w.provision_id = a.provision_id and w.attempt = a.number
            cross join lateral (
                select least(
                    a.deadline_at,
                    greatest(a.last_message_at, h.since)
                        + case when a.last_heartbeat_at is null then $1::interval else $2::interval end
                ) as at
            ) suspicious
            where a.finished_at is null
              and coalesce(a.run_id, d.run_id) is not null
              and (suspicious.at <= backstop_now() or w.job_ended_at >= a.last_message_at)
              and (w.provision_id is null or w.next_at <= backstop_now())
            order by coalesce(w.next_at, suspicious.at)
            limit $4
        ), claimed as (
            insert into witness as w (provision_id, attempt, next_at, asks)
            select provision_id, attempt, backstop_now() + $3::interval, 1
            from suspects
            order by provision_id
            on conflict (provision_id, attempt) do update
            set next_at = excluded.next_at, asks = w.asks + 1
            where w.next_at <= backstop_now()
            returning w.provision_id, w.attempt, w.asks, w.failures, w.etag
        )
        select c.provision_id, c.attempt, c.asks, c.failures, c.etag,
               s.run_id as "run_id!", s.run_attempt as "run_attempt!"
        from claimed c
        join suspects s on s.provision_id = c.provision_id and s.attempt = c.attempt
        "#,
        interval(patience.heartbeat_timeout),
        interval(patience.suspicious_after()),
        interval(lease),
        room,
    )
    .fetch_all(&mut *transaction)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query!(
        "update github_asking
         set window_began_at = case when window_began_at between backstop_now() - interval '1 minute'
                                                            and backstop_now()
                                    then window_began_at else backstop_now() end,
             asked = case when window_began_at between backstop_now() - interval '1 minute'
                                                   and backstop_now()
                          then asked else 0 end + $1",
        i32::try_from(rows.len()).unwrap_or(ASKS_A_MINUTE),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(rows
        .into_iter()
        .map(|row| Suspect {
            provision: ProvisionId::new(row.provision_id),
            run: Run {
                id: row.run_id,
                attempt: row.run_attempt,
            },
            failures: row.failures.unsigned_abs(),
            etag: row.etag,
            attempt: row.attempt,
            asks: row.asks,
        })
        .collect())
}

/// Writes down what came of asking, unless somebody else has asked since.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then it is asked again when the lease has ended.
pub async fn record(
    db: &mut PgConnection,
    suspect: &Suspect,
    heard: &Heard,
) -> Result<(), StoreError> {
    let (ask_in, etag) = match heard {
        Heard::UnderWay { etag, ask_in } => (Some(*ask_in), etag.as_deref()),
        Heard::Nothing { ask_in } => (Some(*ask_in), None),
        Heard::Ended => (None, None),
    };
    // A tag stays good until there is another: it stands for an answer that said under way.
    let under_way = matches!(heard, Heard::UnderWay { .. });
    let failed = matches!(heard, Heard::Nothing { .. });
    sqlx::query!(
        "update witness
         set next_at = backstop_now() + $4::interval,
             etag = case when $6 then $5 else etag end,
             under_way_at = case when $6 then backstop_now() else under_way_at end,
             failures = case when $7 then failures + 1 else 0 end
         where provision_id = $1 and attempt = $2 and asks = $3",
        suspect.provision.as_uuid(),
        suspect.attempt,
        suspect.asks,
        ask_in.map(interval),
        etag,
        under_way,
        failed,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Keeps every replica from asking for so long, at least.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn pause(db: &mut PgConnection, lasts: Duration) -> Result<(), StoreError> {
    sqlx::query!(
        "update github_asking
         set paused_until = greatest(paused_until, backstop_now() + $1::interval)",
        interval(lasts),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Reads what decides what GitHub's word means for a provision. `None` for an id that was never seen.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn read(db: &mut PgConnection, id: ProvisionId) -> Result<Option<Accused>, StoreError> {
    let row = sqlx::query!(
        r#"
        select backstop_now() as "now!",
               to_jsonb(p) as "provision: Json<ProvisionRow>",
               to_jsonb(current) as "current: Json<AttemptRow>",
               d.run_id as "dispatched?",
               exists (
                   select from events e
                   where e.provision_id = p.id and e.attempt = p.attempt and e.kind = $2
               ) as "contradicted!"
        from (values ($1::uuid)) as asked (id)
        left join provisions p on p.id = asked.id
        left join attempts current
               on current.provision_id = p.id and current.number = p.attempt
        left join dispatches d on d.provision_id = p.id
        "#,
        id.as_uuid(),
        DISCREPANCY,
    )
    .fetch_one(db)
    .await?;
    let (dispatched, contradicted, now): (_, _, DateTime<Utc>) =
        (row.dispatched, row.contradicted, row.now);
    Ok(
        provision(row.provision, row.current)?.map(|provision| Accused {
            provision,
            dispatched,
            contradicted,
            now,
        }),
    )
}

/// Whether a webhook is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// It is remembered from now on, if what follows from it is committed.
    New,
    /// It was heard before.
    Repeated,
}

/// Takes down a webhook, and forgets old ones. Whoever sends the same at the same time waits for the
/// commit.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn take_down(db: &mut PgConnection, id: &str) -> Result<Delivery, StoreError> {
    let new = sqlx::query!(
        "with old as (
             select id from github_deliveries
             where at < backstop_now() - $2::interval
             order by at
             limit 100
             for update skip locked
         ), forgotten as (
             delete from github_deliveries d using old where d.id = old.id
         )
         insert into github_deliveries (id, at)
         values ($1, backstop_now())
         on conflict do nothing",
        id,
        interval(REMEMBERED),
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(if new == 1 {
        Delivery::New
    } else {
        Delivery::Repeated
    })
}

/// The provisions whose live attempt belongs to this run attempt, or which wait for a run that was
/// dispatched for them and is this one. In the order of their ids, in which they are to be written.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn waiting_for(db: &mut PgConnection, run: Run) -> Result<Vec<ProvisionId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"
        select provision_id as "id!"
        from attempts
        where finished_at is null and run_id = $1 and run_attempt = $2
        union
        select d.provision_id
        from dispatches d
        join attempts a on a.provision_id = d.provision_id and a.number = 0
        where d.run_id = $1 and $2 = 1 and a.finished_at is null
        order by 1
        "#,
        run.id,
        run.attempt,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(ProvisionId::new).collect())
}

/// Notes that a job of this run attempt has ended, so that GitHub is asked about it now. The
/// provisions that it concerns.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn job_ended(db: &mut PgConnection, run: Run) -> Result<Vec<ProvisionId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "insert into witness as w (provision_id, attempt, next_at, job_ended_at)
         select provision_id, number, backstop_now(), backstop_now()
         from attempts
         where finished_at is null and run_id = $1 and run_attempt = $2
         order by provision_id
         on conflict (provision_id, attempt) do update
         set job_ended_at = excluded.job_ended_at,
             next_at = case when w.next_at is not null then least(w.next_at, excluded.next_at) end
         returning provision_id",
        run.id,
        run.attempt,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(ProvisionId::new).collect())
}
