//! Whether this database is held, and ending that.

use sqlx::types::Json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::StoreError;
use super::rows::HearingRow;
use crate::domain::hearing::Hold;
use crate::domain::names::{ControllerId, ProvisionId};

/// Why nothing may be failed for its time; `None` if it may.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn current(db: &mut PgConnection) -> Result<Option<Hold>, StoreError> {
    let row = sqlx::query_scalar!(r#"select to_jsonb(h) as "h!: Json<HearingRow>" from hearing h"#)
        .fetch_one(db)
        .await?;
    Ok(row.0.parse()?.hold)
}

/// Ends a hold: this database, at this URL, is from now on what workflows talk to. Time is counted
/// from the next pulse on. `None` if it was not held; then nothing changes.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn resume(db: &mut PgConnection) -> Result<Option<Hold>, StoreError> {
    let mut transaction = db.begin().await?;
    sqlx::query!("select from hearing for update")
        .fetch_one(&mut *transaction)
        .await?;
    let hold = current(&mut transaction).await?;
    if hold.is_some() {
        forget(&mut transaction).await?;
    }
    transaction.commit().await?;
    Ok(hold)
}

/// What the next pulse sees is accepted as it is.
async fn forget(db: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "update hearing
         set since = null, last_pulse_at = null, system_identifier = null, database_oid = null,
             table_oid = null, public_url = null, held_since = null, held_because = null"
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Provisions that will be failed when the hold ends, unless they are heard: their deadline has
/// passed. The oldest deadline first, at most `limit`.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn past_deadline(
    db: &mut PgConnection,
    limit: u32,
) -> Result<Vec<ProvisionId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "select provision_id from attempts
         where finished_at is null and deadline_at <= backstop_now()
         order by deadline_at
         limit $1",
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(ProvisionId::new).collect())
}

/// What became of the wish for another controller id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// This database is another controller now, and has given up that many provisions that were not
    /// destroyed yet.
    Yes {
        /// The new id.
        controller: ControllerId,
        /// How many.
        disowned: i64,
    },
    /// A replica is at work and would go on under the old id: stop all of them first.
    InUse,
}

/// How recent a pulse shows that a replica is at work, in seconds.
const AT_WORK: f64 = 30.0;

/// Gives this database another id towards the vendors, for a copy that is to live beside the
/// original, and ends a hold. Every provision so far is the original's: it is disowned, and what was
/// unsettled of it is refused, so that nothing of it is ever touched from here.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then nothing was.
pub async fn renew_controller(db: &mut PgConnection) -> Result<Renewed, StoreError> {
    let mut transaction = db.begin().await?;
    // A whole database is disowned: that may take longer than the pool lets a statement take.
    sqlx::raw_sql("set local statement_timeout = 0")
        .execute(&mut *transaction)
        .await?;
    let in_use = sqlx::query_scalar!(
        r#"
        select coalesce(
            abs(extract(epoch from backstop_now() - last_pulse_at)) < $1::double precision, false
        ) as "in_use!"
        from hearing
        for update
        "#,
        AT_WORK,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if in_use {
        return Ok(Renewed::InUse);
    }
    let ids = sqlx::query!(
        r#"
        update controller c
        set id = gen_random_uuid()
        from controller former
        returning former.id as "former!", c.id as "new!"
        "#
    )
    .fetch_one(&mut *transaction)
    .await?;
    let disowned = disown_all(&mut transaction, ids.former).await?;
    forget(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Renewed::Yes {
        controller: ControllerId::new(ids.new),
        disowned,
    })
}

/// The number of provisions that were not destroyed yet.
async fn disown_all(db: &mut PgConnection, former: Uuid) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        with steps_refused as (
            update steps
            set state = 'refused', moved_from = state, moved_by = 'disowned', fence = fence + 1,
                lease = null, next_at = null, stuck_at = null, settled_at = backstop_now(),
                last_error = 'it belongs to the controller ' || $1::uuid
            where settled_at is null
        ), attempts_over as (
            update attempts a
            set finished_at = backstop_now(), reason = 'destroyed',
                rollback_started_at = backstop_now()
            from provisions p
            where p.id = a.provision_id and p.attempt = a.number and a.reason is null
        ), disowned as (
            update provisions
            set version = version + 1, status = 'destroyed', moved_from = status,
                moved_by = 'disowned', disowned_at = backstop_now(),
                updated_at = backstop_now()
            where disowned_at is null
            returning id, attempt, moved_from
        ), events_written as (
            insert into events (provision_id, attempt, kind, data, at)
            select id, attempt, 'disowned', jsonb_build_object('controller', $1::uuid),
                   backstop_now()
            from disowned
            where moved_from <> 'destroyed'
            returning id
        )
        select count(*) as "count!" from events_written
        "#,
        former,
    )
    .fetch_one(db)
    .await?)
}
