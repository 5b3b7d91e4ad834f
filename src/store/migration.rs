//! Applies migrations, one process at a time, and waits for another one within bounds.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use tokio::time::Instant;

use super::connection::{ANSWER_PATIENCE, Pool, answered};
use super::{MIGRATIONS, StoreError};

/// How long another process's migrations are waited for.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long nothing is said of the wait, and how often something is after that.
const QUIET: Duration = Duration::from_secs(3);
const SAY_AGAIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Why migrations were not applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Another process holds the lock and does not let go of it.
    #[error(
        "the migration lock was not to be had within {} s: {holder}; end it if it is stuck \
         (select pg_terminate_backend(pid))",
        waited.as_secs()
    )]
    Locked {
        /// How long it was waited for.
        waited: Duration,
        /// Who holds it.
        holder: String,
    },
    /// The database cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A migration failed, or one that was applied has been edited.
    #[error(transparent)]
    Migration(#[from] MigrateError),
}

impl From<sqlx::Error> for MigrationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Applies the migrations that are missing. Safe to run from several processes at once.
///
/// # Errors
/// What stands in the way, after some minutes at most if it is another process.
pub async fn migrate(pool: &Pool) -> Result<(), MigrationError> {
    migrate_within(pool, PATIENCE).await
}

/// The same, with a bound of the caller's on the wait for another process.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_within(pool: &Pool, patience: Duration) -> Result<(), MigrationError> {
    // A connection of its own: a migration may take longer than the pool lets a statement take.
    let options = pool.unbounded().connect_options();
    let mut connection = answered(ANSWER_PATIENCE, options.connect()).await?;
    let key = lock_key(&mut connection).await?;
    lock(&mut connection, key, patience).await?;
    // The lock is ours and not sqlx's, whose wait has no end.
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.set_locking(false);
    let migrated = migrator.run(&mut connection).await;
    // Also after a failure: a pooler would keep the session, and the lock with it.
    let unlocked = sqlx::query!(r#"select pg_advisory_unlock($1) as "unlocked!""#, key)
        .fetch_one(&mut connection);
    let unlocked = answered(ANSWER_PATIENCE, unlocked).await;
    migrated?;
    unlocked?;
    connection.close().await?;
    Ok(())
}

async fn lock(
    connection: &mut PgConnection,
    key: i64,
    patience: Duration,
) -> Result<(), MigrationError> {
    let began = Instant::now();
    let mut say_at = began + QUIET;
    loop {
        let asked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, key)
            .fetch_one(&mut *connection);
        if answered(ANSWER_PATIENCE, asked).await? {
            return Ok(());
        }
        let waited = began.elapsed();
        if waited >= patience {
            let holder = holder(connection, key).await?;
            return Err(MigrationError::Locked { waited, holder });
        }
        if Instant::now() >= say_at {
            let holder = holder(connection, key).await?;
            tracing::warn!(
                elapsed_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                "waiting for the migration lock: {holder}"
            );
            say_at = Instant::now() + SAY_AGAIN;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Who holds the lock, for people.
async fn holder(connection: &mut PgConnection, key: i64) -> Result<String, sqlx::Error> {
    let asked = sqlx::query!(
        r#"
        select pid as "pid!", coalesce(application_name, '') as "application!",
               coalesce(client_addr::text, 'a local socket') as "address!",
               to_char(backend_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since
        from pg_locks join pg_stat_activity using (pid)
        where locktype = 'advisory' and granted and objsubid = 1
        and pg_locks.database = (select oid from pg_database where datname = current_database())
        and (classid::bigint << 32) | objid::bigint = $1
        "#,
        key
    )
    .fetch_optional(connection);
    Ok(match answered(ANSWER_PATIENCE, asked).await? {
        None => "nobody holds it any more".to_owned(),
        Some(it) => format!(
            "pid {} ({:?} from {}) holds it, connected since {}",
            it.pid,
            it.application,
            it.address,
            it.since.as_deref().unwrap_or("a time that is not shown")
        ),
    })
}

/// sqlx's key, so that a release that still leaves the lock to sqlx is kept out too.
async fn lock_key(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let asked =
        sqlx::query_scalar!(r#"select current_database()::text as "name!""#).fetch_one(connection);
    let name = answered(ANSWER_PATIENCE, asked).await?;
    Ok(0x3d32_ad9e * i64::from(crc32(name.as_bytes())))
}

/// CRC-32 as in ISO-HDLC.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lock_is_the_one_that_earlier_releases_take() {
        // The check value that the algorithm's catalogue gives.
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
