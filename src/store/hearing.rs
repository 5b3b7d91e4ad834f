//! The pulse: that callbacks can be heard, and whether this database may act on not having heard
//! one.

use sqlx::types::Json;
use sqlx::{Connection, PgConnection};

use super::rows::HearingRow;
use super::{StoreError, interval};
use crate::domain::hearing::{Fingerprint, Hearing, Pulse};
use crate::domain::names::ControllerId;
use crate::domain::overdue::Patience;

/// What a pulse found and left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulsed {
    /// What was known before.
    pub before: Hearing,
    /// What is known now.
    pub after: Hearing,
    /// Who this database is to the vendors by now.
    pub controller: ControllerId,
}

/// Says that this replica takes callbacks. `public_url` is what it is set to, `confirmed` how many
/// pulses there were when it last did this; 0: it never did.
///
/// # Errors
/// [`StoreError`] if the database cannot be written: then nobody knows that we are here.
pub async fn pulse(
    db: &mut PgConnection,
    public_url: Option<&str>,
    confirmed: i64,
    patience: &Patience,
) -> Result<Pulsed, StoreError> {
    let system_identifier = system_identifier(db).await?;
    let mut transaction = db.begin().await?;
    // By itself: a statement that waits for the row would go on with a clock from before.
    sqlx::query!("select from hearing for update")
        .fetch_one(&mut *transaction)
        .await?;
    let seen = sqlx::query!(
        r#"
        select backstop_now() as "now!",
               to_jsonb(h) as "hearing!: Json<HearingRow>",
               c.id as controller,
               (select oid::bigint from pg_database where datname = current_database())
                   as "database_oid!",
               'provisions'::regclass::oid::bigint as "table_oid!",
               exists (
                   select from attempts
                   where finished_at is null and started_at < backstop_now() - $1::interval
               ) as "under_way!"
        from hearing h, controller c
        "#,
        // Only a gap that is longer than this counts: what began later began after it.
        interval(patience.provision_timeout),
    )
    .fetch_one(&mut *transaction)
    .await?;
    let before = seen.hearing.0.parse()?;
    let pulse = Pulse {
        now: seen.now,
        fingerprint: Fingerprint {
            system_identifier,
            database_oid: seen.database_oid,
            table_oid: seen.table_oid,
        },
        public_url: public_url.map(str::to_owned),
        under_way: seen.under_way,
        confirmed,
    };
    let after = before.clone().after(&pulse, patience);
    write(&mut transaction, &after).await?;
    transaction.commit().await?;
    Ok(Pulsed {
        before,
        after,
        controller: ControllerId::new(seen.controller),
    })
}

/// Whether this database is held, or will be by the next pulse because it is not the one of the last.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn is_held(db: &mut PgConnection) -> Result<bool, StoreError> {
    let system_identifier = system_identifier(db).await?;
    let seen = sqlx::query!(
        r#"
        select to_jsonb(h) as "hearing!: Json<HearingRow>",
               (select oid::bigint from pg_database where datname = current_database())
                   as "database_oid!",
               'provisions'::regclass::oid::bigint as "table_oid!"
        from hearing h
        "#
    )
    .fetch_one(db)
    .await?;
    let hearing = seen.hearing.0.parse()?;
    let fingerprint = Fingerprint {
        system_identifier,
        database_oid: seen.database_oid,
        table_oid: seen.table_oid,
    };
    Ok(hearing.hold.is_some() || hearing.is_of_another(&fingerprint))
}

/// Which cluster this is. `None` where we may not ask, as in some managed ones.
async fn system_identifier(db: &mut PgConnection) -> Result<Option<i64>, StoreError> {
    let asked = async {
        // First, or the server's log would have an error every few seconds.
        let may = sqlx::query_scalar!(
            r#"select has_function_privilege('pg_control_system()', 'execute') as "may!""#
        )
        .fetch_one(&mut *db)
        .await?;
        if !may {
            return Ok(None);
        }
        sqlx::query_scalar!("select system_identifier from pg_control_system()")
            .fetch_one(&mut *db)
            .await
    };
    match asked.await.map_err(StoreError::from) {
        Err(StoreError::Refused(_)) => Ok(None),
        answer => answer,
    }
}

async fn write(db: &mut PgConnection, hearing: &Hearing) -> Result<(), StoreError> {
    let fingerprint = hearing.fingerprint;
    sqlx::query!(
        "update hearing
         set since = $1, last_pulse_at = $2, pulses = $3, system_identifier = $4,
             database_oid = $5, table_oid = $6, public_url = $7, held_since = $8,
             held_because = $9",
        hearing.since,
        hearing.last_pulse_at,
        hearing.pulses,
        fingerprint.and_then(|it| it.system_identifier),
        fingerprint.map(|it| it.database_oid),
        fingerprint.map(|it| it.table_oid),
        hearing.public_url,
        hearing.hold.map(|hold| hold.since),
        hearing.hold.map(|hold| hold.reason.to_string()),
    )
    .execute(db)
    .await?;
    Ok(())
}
