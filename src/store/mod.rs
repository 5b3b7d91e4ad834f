//! All SQL, and nothing else.
//!
//! - [`provisions`]: reads what a decision rests on and writes the change in one statement.
//! - [`ledger`]: claims steps, and settles them under their fence.
//! - [`dispatches`]: claims workflows that are to be dispatched, and keeps how that went.
//! - [`overdue`]: whose time is up; [`hearing`]: whether it counts; [`hold`]: ends a hold.
//! - [`sweeps`]: what the vendors' lists are judged by, and what they showed.
//! - [`running`]: the machines that a credential must show us before an absence counts.
//! - [`views`]: what the status API shows. [`feed`]: what changed of it.
//! - [`board`], [`search`], [`attempts`]: what the page shows of everything at once, finds, and shows
//!   of one provision besides.
//! - [`gauges`]: numbers about all of it, for metrics.
//! - [`budgets`]: what the vendors may be sent, shared by all replicas.
//! - [`changes`]: tells workers and waiters, here and in other replicas, that the ledger moved.
//!
//! Writers take a connection, never the pool, so that whoever calls decides what one transaction
//! is. No transaction is ever open across a call to a vendor. Time is `backstop_now()`.

pub mod attempts;
pub mod board;
pub mod budgets;
pub mod changes;
pub mod dispatches;
pub mod feed;
pub mod gauges;
pub mod hearing;
pub mod hold;
pub mod ledger;
pub mod overdue;
pub mod provisions;
mod rows;
pub mod running;
pub mod search;
pub mod sweeps;
pub mod views;

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use uuid::Uuid;

use crate::domain::names::ControllerId;
use crate::domain::step::IllegalEvent;
use crate::domain::transition::IllegalMove;

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or is shutting down, or all connections are taken. Worth another try.
    #[error("the database cannot be reached: {0}")]
    Away(#[source] sqlx::Error),
    /// A row says what no version of this program writes.
    #[error("table {table}, column {column}, id {id}: {problem}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Which row.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A bug: the database refused a statement.
    #[error("the database refused a statement: {0}")]
    Refused(#[source] sqlx::Error),
    /// A bug: a step was to make a move that its table does not list.
    #[error(transparent)]
    IllegalEvent(#[from] IllegalEvent),
    /// A bug: a provision was to make a move that its table does not list.
    #[error(transparent)]
    IllegalMove(#[from] IllegalMove),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let away = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Class 08: connection exception; 40: rolled back for another's sake; 53: out of
            // resources; 57: shut down or starting; 25006: a standby that takes no writes yet.
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                ["08", "40", "53", "57"]
                    .iter()
                    .any(|class| code.starts_with(class))
                    || code == "25006"
            }),
            _ => false,
        };
        if away {
            Self::Away(error)
        } else {
            Self::Refused(error)
        }
    }
}

/// The migrations, in the order of their numbers.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// How long a connection is waited for, a new one or one that others have.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Opens a pool of at most `connections`.
///
/// # Errors
/// [`StoreError::Away`] if the first connection cannot be made.
pub async fn connect(options: PgConnectOptions, connections: u32) -> Result<PgPool, StoreError> {
    let options = options.application_name("backstop");
    let opened = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_PATIENCE)
        // A `begin` that is dropped after it was sent (its caller hung up, or crashed) leaves its
        // transaction open, and sqlx 0.9 does not know of it: whoever got the connection next would
        // have written into it and been told that it is done. `begin` first, because a `rollback`
        // of nothing is a warning in the server's log each time.
        .after_release(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("begin; rollback").execute(connection).await?;
                Ok(true)
            })
        })
        .connect_with(options.clone())
        .await;
    match opened {
        Ok(pool) => Ok(pool),
        // It tried again and again; what it met each time only a connection of its own tells.
        Err(sqlx::Error::PoolTimedOut) => Err(StoreError::Away(
            match tokio::time::timeout(CONNECT_PATIENCE, options.connect()).await {
                Ok(Err(cause)) => cause,
                Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
            },
        )),
        Err(cause) => Err(StoreError::Away(cause)),
    }
}

/// Applies the migrations that are missing. Safe to run from several processes at once.
///
/// # Errors
/// What the migrator says: a migration that fails, or one that was applied and has been edited.
pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    MIGRATIONS.run(pool).await
}

/// The oldest Postgres that is supported, as `server_version_num` counts.
const OLDEST_POSTGRES: i32 = 150_000;

/// The server's version if it is too old.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub async fn too_old(pool: &PgPool) -> Result<Option<String>, StoreError> {
    let server = sqlx::query!(
        r#"select current_setting('server_version_num')::integer as "number!",
                  current_setting('server_version') as "name!""#
    )
    .fetch_one(pool)
    .await?;
    Ok((server.number < OLDEST_POSTGRES).then_some(server.name))
}

/// Who this database is to the vendors.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub async fn controller_id(pool: &PgPool) -> Result<ControllerId, StoreError> {
    let id: Uuid = sqlx::query_scalar!("select id from controller")
        .fetch_one(pool)
        .await?;
    Ok(ControllerId::new(id))
}

/// Whether the database answers and has all migrations of this program.
///
/// # Errors
/// [`StoreError`] if it does not answer or was never migrated.
pub async fn is_ready(pool: &PgPool) -> Result<bool, StoreError> {
    let latest = MIGRATIONS.iter().map(|m| m.version).max();
    let applied = sqlx::query_scalar!("select max(version) from _sqlx_migrations where success")
        .fetch_one(pool)
        .await?;
    Ok(applied >= latest)
}

/// A duration as Postgres takes it, to the microsecond.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}
