//! Reads what a decision rests on, and writes what was decided.
//!
//! Two short round trips and no lock in between: [`read_for_callback`] or [`read`], a pure
//! decision, [`write()`]. The write is one statement, so it is all there or not at all; it applies
//! only if the provision is still at the version that was read. If it is not, decide again.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::StoreError;
use super::rows::{AttemptRow, ProvisionRow};
use crate::domain::callback::{Callback, Snapshot};
use crate::domain::names::{AttemptNumber, ProvisionId, Run};
use crate::domain::provision::{Attempt, Change, Provision};
use crate::domain::step::Resource;

/// Reads all that decides what becomes of a callback.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn read_for_callback(
    db: &mut PgConnection,
    callback: &Callback,
) -> Result<Snapshot, StoreError> {
    let row = sqlx::query!(
        r#"
        select backstop_now() as "now!",
               to_jsonb(p) as "provision: Json<ProvisionRow>",
               to_jsonb(current) as "current: Json<AttemptRow>",
               to_jsonb(former) as "former: Json<AttemptRow>",
               exists (
                   select from events e
                   where e.provision_id = $1
                     and e.attempt = coalesce(former.number, current.number)
                     and e.kind = $4
                     and e.data - 'refused' - 'proven_by' = $5
               ) as "repeated!"
        from (values ($1::uuid)) as asked (id)
        left join provisions p on p.id = asked.id
        left join attempts current
               on current.provision_id = p.id and current.number = p.attempt
        left join attempts former
               on former.provision_id = p.id and former.run_id = $2 and former.run_attempt = $3
              and former.number <> p.attempt
        "#,
        callback.provision.as_uuid(),
        callback.run.id,
        callback.run.attempt,
        callback.message.kind().event(),
        Value::Object(callback.data()),
    )
    .fetch_one(db)
    .await?;
    Ok(Snapshot {
        now: row.now,
        provision: provision(row.provision, row.current)?,
        former: row.former.map(|former| former.0.parse()).transpose()?,
        repeated: row.repeated,
    })
}

/// Reads a provision and the time. `None` for an id that was never seen.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn read(
    db: &mut PgConnection,
    id: ProvisionId,
) -> Result<(Option<Provision>, DateTime<Utc>), StoreError> {
    let row = sqlx::query!(
        r#"
        select backstop_now() as "now!",
               to_jsonb(p) as "provision: Json<ProvisionRow>",
               to_jsonb(current) as "current: Json<AttemptRow>"
        from (values ($1::uuid)) as asked (id)
        left join provisions p on p.id = asked.id
        left join attempts current
               on current.provision_id = p.id and current.number = p.attempt
        "#,
        id.as_uuid(),
    )
    .fetch_one(db)
    .await?;
    Ok((provision(row.provision, row.current)?, row.now))
}

/// A provision, as far as one of its attempts goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The provision; `None` for an id that was never seen.
    pub provision: Option<Provision>,
    /// The attempt, if it is one before the current one.
    pub earlier: Option<Attempt>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// Reads a provision with the attempt of this number, and the time.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn read_attempt(
    db: &mut PgConnection,
    id: ProvisionId,
    number: AttemptNumber,
) -> Result<Named, StoreError> {
    let row = sqlx::query!(
        r#"
        select backstop_now() as "now!",
               to_jsonb(p) as "provision: Json<ProvisionRow>",
               to_jsonb(current) as "current: Json<AttemptRow>",
               to_jsonb(earlier) as "earlier: Json<AttemptRow>"
        from (values ($1::uuid)) as asked (id)
        left join provisions p on p.id = asked.id
        left join attempts current
               on current.provision_id = p.id and current.number = p.attempt
        left join attempts earlier
               on earlier.provision_id = p.id and earlier.number = $2
              and earlier.number < p.attempt
        "#,
        id.as_uuid(),
        number.as_i32(),
    )
    .fetch_one(db)
    .await?;
    Ok(Named {
        provision: provision(row.provision, row.current)?,
        earlier: row.earlier.map(|earlier| earlier.0.parse()).transpose()?,
        now: row.now,
    })
}

/// Whether a run owns an attempt of this provision.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn owns_an_attempt(
    db: &mut PgConnection,
    id: ProvisionId,
    run: Run,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select exists (
               select from attempts
               where provision_id = $1 and run_id = $2 and run_attempt = $3
           ) as "owns!""#,
        id.as_uuid(),
        run.id,
        run.attempt,
    )
    .fetch_one(db)
    .await?)
}

pub(super) fn provision(
    row: Option<Json<ProvisionRow>>,
    current: Option<Json<AttemptRow>>,
) -> Result<Option<Provision>, StoreError> {
    match (row, current) {
        (None, _) => Ok(None),
        (Some(Json(row)), Some(Json(current))) => row.with_attempt(current.parse()?).map(Some),
        (Some(Json(row)), None) => Err(StoreError::Corrupt {
            table: "provisions",
            column: "attempt",
            id: row.id.to_string(),
            problem: "names an attempt that is not there".to_owned(),
        }),
    }
}

/// Whether a change was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It is there.
    Yes,
    /// Somebody else wrote first and nothing was changed: read and decide again.
    Outrun,
}

/// Writes a change: the provision if its version is unmoved, its attempts, the history, and the
/// steps that undo what is over. Steps that are there already stay as they are, but whoever is
/// looking for things of an attempt that was just heard has to look again, also for kinds that it
/// had not begun to create before, and at ids it names that had counted as something else's or as
/// gone without us. What we deleted cannot come back. A workflow that is to be dispatched goes into
/// the outbox.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then nothing was.
#[expect(clippy::too_many_lines, reason = "one statement is the point")]
pub async fn write(db: &mut PgConnection, change: &Change) -> Result<Written, StoreError> {
    let provision = &change.provision;
    let attempts: Vec<AttemptRow> = change
        .earlier
        .iter()
        .chain([&provision.attempt])
        .map(|attempt| AttemptRow::new(provision.id, attempt))
        .collect();
    let heard = change.heard_over.as_ref();
    let may_exist_after_all: Vec<String> = heard
        .iter()
        .flat_map(|heard| &heard.may_exist_after_all)
        .map(Resource::to_string)
        .collect();
    let written = sqlx::query_scalar!(
        r#"
        with moved as (
            insert into provisions as p (id, version, agent_id, region, status, attempt,
                                         moved_from, moved_by, created_at, updated_at)
            values ($1, 1, $3, $4, $5, $6, $7, $8, $9, $10)
            on conflict (id) do update
            set version = p.version + 1,
                agent_id = excluded.agent_id,
                region = excluded.region,
                status = excluded.status,
                attempt = excluded.attempt,
                moved_from = p.status,
                moved_by = excluded.moved_by,
                updated_at = excluded.updated_at
            where p.version = $2
            returning p.id
        ), attempts_written as (
            -- By name: a column of a newer release is its own matter.
            insert into attempts (
                provision_id, number, run_id, run_attempt, job, step, server_id, server_ip,
                tailscale_ip, tailscale_key_id, tailscale_node_id, hints, error, failed_step,
                conclusion, may_exist, started_at, last_message_at, last_heartbeat_at, deadline_at,
                finished_at, reason, rollback_started_at, ended_by_github
            )
            select
                a.provision_id, a.number, a.run_id, a.run_attempt, a.job, a.step, a.server_id,
                a.server_ip, a.tailscale_ip, a.tailscale_key_id, a.tailscale_node_id, a.hints,
                a.error, a.failed_step, a.conclusion, a.may_exist, a.started_at, a.last_message_at,
                a.last_heartbeat_at, a.deadline_at, a.finished_at, a.reason, a.rollback_started_at,
                a.ended_by_github
            from moved, jsonb_populate_recordset(null::attempts, $11) a
            on conflict (provision_id, number) do update
            set step = excluded.step,
                server_id = excluded.server_id,
                server_ip = excluded.server_ip,
                tailscale_ip = excluded.tailscale_ip,
                tailscale_key_id = excluded.tailscale_key_id,
                tailscale_node_id = excluded.tailscale_node_id,
                hints = excluded.hints,
                error = excluded.error,
                failed_step = excluded.failed_step,
                conclusion = excluded.conclusion,
                may_exist = excluded.may_exist,
                last_message_at = excluded.last_message_at,
                last_heartbeat_at = excluded.last_heartbeat_at,
                finished_at = excluded.finished_at,
                reason = excluded.reason,
                rollback_started_at = excluded.rollback_started_at,
                ended_by_github = excluded.ended_by_github
        ), events_written as (
            insert into events (provision_id, attempt, kind, data, at)
            select moved.id, e.attempt, e.kind, e.data, backstop_now()
            from moved,
                 rows from (
                     jsonb_to_recordset($12) as (attempt integer, kind text, data jsonb)
                 ) with ordinality as e (attempt, kind, data, n)
            order by e.n
        ), steps_planned as (
            insert into steps (provision_id, attempt, resource, searches, vendor_id, state,
                               moved_by, next_at, unsettled_since)
            select moved.id, s.attempt, s.resource, s.vendor_id is null, s.vendor_id, 'due',
                   'planned', backstop_now(), backstop_now()
            from moved,
                 jsonb_to_recordset($13) as s (attempt integer, resource text, vendor_id text)
            on conflict do nothing
        ), woken as (
            update steps s
            set state = case s.state when 'leased' then 'leased' else 'due' end,
                next_at = case s.state when 'waiting' then backstop_now() else s.next_at end,
                fence = s.fence + 1,
                moved_from = s.state,
                moved_by = 'retry_asked'
            from moved
            where s.provision_id = moved.id
              and s.attempt = $14
              and s.settled_at is null
              and (s.searches or (s.state = 'leased' and exists (
                      select from jsonb_to_recordset($15) as h (resource text, vendor_id text)
                      where h.resource = s.resource and h.vendor_id = s.vendor_id
                  )))
        ), looked_at_again as (
            update steps s
            set state = 'due', moved_from = s.state, moved_by = 'seen_again', fence = s.fence + 1,
                next_at = backstop_now(), unsettled_since = backstop_now(), settled_at = null,
                proof = null
            from moved
            where s.provision_id = moved.id
              and s.attempt = $14
              and case
                  when s.searches then s.state = 'gone' and s.resource = any($16)
                  else (s.state = 'refused' or s.proof = 'already_gone') and exists (
                      select from jsonb_to_recordset($15) as h (resource text, vendor_id text)
                      where h.resource = s.resource and h.vendor_id = s.vendor_id
                  )
              end
        ), dispatch_written as (
            insert into dispatches (provision_id, state, next_at)
            select moved.id, 'due', backstop_now() from moved where $17
        )
        select count(*) as "written!" from moved
        "#,
        provision.id.as_uuid(),
        provision.version,
        provision.agent_id,
        provision.region,
        provision.status.to_string(),
        provision.attempt.number.as_i32(),
        change.from.map(|status| status.to_string()),
        change.by.to_string(),
        provision.created_at,
        provision.updated_at,
        json!(attempts),
        json!(change.events),
        json!(change.steps),
        heard.map(|heard| heard.attempt.as_i32()),
        json!(heard.map_or(&[][..], |heard| &heard.named)),
        &may_exist_after_all,
        change.dispatch,
    )
    .fetch_one(db)
    .await?;
    Ok(if written == 1 {
        Written::Yes
    } else {
        Written::Outrun
    })
}
