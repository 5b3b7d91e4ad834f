//! All SQL, and nothing else.
//!
//! - [`provisions`]: reads what a decision rests on and writes the change in one statement.
//! - [`ledger`]: claims steps, and settles them under their fence.
//! - [`dispatches`]: claims workflows that are to be dispatched, and keeps how that went.
//! - [`overdue`]: whose time is up; [`hearing`]: whether it counts; [`hold`]: ends a hold.
//! - [`witness`]: whom GitHub is asked about, and what it said.
//! - [`sweeps`]: what the vendors' lists are judged by, and what they showed.
//! - [`running`]: the machines that a credential must show us before an absence counts.
//! - [`views`]: what the status API shows. [`feed`]: what changed of it.
//! - [`board`], [`search`], [`attempts`]: what the page shows of everything at once, finds, and shows
//!   of one provision besides.
//! - [`gauges`]: numbers about all of it, for metrics.
//! - [`budgets`]: what the vendors may be sent, shared by all replicas.
//! - [`notices`]: what the operators' webhook is to be told.
//! - [`changes`]: tells workers and waiters, here and in other replicas, that the ledger moved.
//! - [`role`]: what the role that we are may do.
//! - [`suits`]: whether a database is one that we can work on; `migration` makes it so.
//! - `connection`: the [`Pool`], and [`in_time`], which bounds every wait for the database.
//!
//! Writers take a connection, never the pool, so that whoever calls decides what one transaction
//! is. No transaction is ever open across a call to a vendor. Time is `backstop_now()`.

pub mod attempts;
pub mod board;
pub mod budgets;
pub mod changes;
mod connection;
pub mod dispatches;
pub mod feed;
pub mod gauges;
pub mod hearing;
pub mod hold;
pub mod ledger;
mod migration;
pub mod notices;
pub mod overdue;
mod places;
pub mod provisions;
pub mod retention;
pub mod role;
mod rows;
pub mod running;
pub mod search;
pub mod suits;
pub mod sweeps;
pub mod views;
pub mod witness;

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

pub use connection::{Lent, Pool, connect, in_time};
pub use migration::{MigrationError, migrate, migrate_within};

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
            // A broken exchange is the other end's doing: a proxy that turned over in mid-answer.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Class 08: connection exception; 28: not let in; 40: rolled back for another's sake;
            // 53: out of resources; 57: shut down, starting, or out of time. 25006: a standby that
            // takes no writes yet; 25P03: idle in a transaction for too long; 3D000: no such
            // database, as while one is restored; 55P03: a lock that was not to be had in time.
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                [
                    "08", "28", "40", "53", "57", "25006", "25P03", "3D000", "55P03",
                ]
                .iter()
                .any(|class| code.starts_with(class))
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

/// The oldest Postgres that is supported, as `server_version_num` counts.
const OLDEST_POSTGRES: i32 = 150_000;

/// The server's version if it is too old.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub async fn too_old(pool: &Pool) -> Result<Option<String>, StoreError> {
    let mut db = pool.acquire().await?;
    let server = sqlx::query!(
        r#"select current_setting('server_version_num')::integer as "number!",
                  current_setting('server_version') as "name!""#
    )
    .fetch_one(&mut *db)
    .await?;
    Ok((server.number < OLDEST_POSTGRES).then_some(server.name))
}

/// Who this database is to the vendors.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub async fn controller_id(pool: &Pool) -> Result<ControllerId, StoreError> {
    let mut db = pool.acquire().await?;
    let id: Uuid = sqlx::query_scalar!("select id from controller")
        .fetch_one(&mut *db)
        .await?;
    Ok(ControllerId::new(id))
}

/// Whether the database answers, takes writes and has all migrations of this program.
///
/// # Errors
/// [`StoreError`] if it does not answer or was never migrated.
pub async fn is_ready(pool: &Pool) -> Result<bool, StoreError> {
    let mut db = pool.acquire().await?;
    let latest = MIGRATIONS.iter().map(|m| m.version).max();
    let it = sqlx::query!(
        r#"
        select max(version) as applied,
               current_setting('transaction_read_only')::boolean as "read_only!"
        from _sqlx_migrations
        where success
        "#
    )
    .fetch_one(&mut *db)
    .await?;
    Ok(it.applied >= latest && !it.read_only)
}

/// A duration as Postgres takes it, to the microsecond.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}
