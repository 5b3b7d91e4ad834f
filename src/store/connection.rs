//! Connections to the database, and the bounds of every wait for it.
//!
//! A database that goes away may say so, by a reset or a refusal, or say nothing: its host lost
//! power, it moved behind the same address, a firewall forgot us. Then nothing breaks and nothing
//! answers, and sqlx 0.9 has neither keep-alive nor time-out. So each wait is bounded on our side:
//! [`in_time`] bounds what is done with a connection, [`Pool`] how it is lent and comes back.
//!
//! The server has bounds of its own, so that it does not go on for nobody, and so that a process
//! that froze in mid-transaction does not hold locks. They are set after connecting and not in the
//! start-up packet, which PgBouncer would refuse; nothing here rests on them.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres};
use sqlx::{ConnectOptions, Connection};

use super::StoreError;
use super::places::{Place, Places};

/// How long a caller may be kept waiting by the database, from asking for a connection to the last
/// answer. Far less than a workflow waits for us.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be waited for: one that is lent, or a new one.
const ACQUIRE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a single answer may take, of whoever is in no hurry.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long an idle connection may take to show that it is alive. Leaves time for a new one.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection that comes back may take to be clean.
const RETURN_PATIENCE: Duration = Duration::from_secs(3);

/// What the server is told about each connection.
///
/// Each statement of ours decides by what it locks, and is written for read committed: a stricter
/// default of the role's or the database's only makes callbacks fail for each other's sake. What is
/// acknowledged must survive a crash, so that a commit waits for its disk and for the standbys that the
/// server says it has; a role that asks for more than that gets it.
///
/// One that takes no writes (a standby that an
/// address leads to before it is promoted) is refused, for it may not know what we have
/// acknowledged, and an answer that rests on that could end a workflow.
const AFTER_CONNECT: &str = "
    set statement_timeout = '10s';
    set lock_timeout = '5s';
    set idle_in_transaction_session_timeout = '10s';
    set default_transaction_isolation = 'read committed';
    set default_transaction_deferrable = off;
    do $$ begin
        if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
            set synchronous_commit = on;
        end if;
        if current_setting('transaction_read_only')::boolean then
            raise read_only_sql_transaction using message = 'this server takes no writes';
        end if;
    end $$";

/// The pool. It hides sqlx's, whose connections come back without a bound: one that is silent then
/// would keep its place until the system gives it up, a quarter of an hour later.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: PgPool,
    places: Places,
}

/// A connection that is lent until it is dropped.
#[derive(Debug)]
pub struct Lent {
    connection: PoolConnection<Postgres>,
    /// Given back after it.
    place: Option<Place>,
}

impl Pool {
    /// Lends a connection that has just answered, within seconds.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn acquire(&self) -> Result<Lent, sqlx::Error> {
        if self.places.may_grow() {
            tokio::spawn(grow(self.clone()));
        }
        let lent = async {
            let mut place = self.places.take().await;
            let connection = self.inner.acquire().await?;
            place.lend();
            Ok(Lent {
                connection,
                place: Some(place),
            })
        };
        let lent = tokio::time::timeout(ACQUIRE_PATIENCE, lent)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut));
        if matches!(lent, Err(sqlx::Error::PoolTimedOut)) && self.places.may_ask_why() {
            tokio::spawn(tell_why(self.clone()));
        }
        lent
    }

    /// Closes it, as soon as what is lent is back.
    pub async fn close(&self) {
        self.inner.close().await;
    }

    /// sqlx's own, for who does not serve callers.
    #[must_use]
    pub fn unbounded(&self) -> &PgPool {
        &self.inner
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What sqlx does when its own is dropped, which then finds nothing more to do. Its documents
        // hide it, but no hook that they show bounds all of it: after the last one it asks once more
        // whether the connection is alive, without an end.
        let back = self.connection.return_to_pool();
        let place = self.place.take();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(RETURN_PATIENCE, back).await;
            drop(place);
        });
    }
}

/// Opens a pool of at most `connections`.
///
/// # Errors
/// [`StoreError::Away`] if the first connection cannot be made.
pub async fn connect(options: PgConnectOptions, connections: u32) -> Result<Pool, StoreError> {
    let options = plain(options);
    let opened = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_PATIENCE)
        .after_connect(|connection, _| Box::pin(set_up(connection)))
        // Instead of sqlx's own test, which is the same without an end.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(async move { Ok(is_alive(connection).await) }))
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
        Ok(inner) => Ok(Pool {
            inner,
            places: Places::of(connections),
        }),
        // It tried again and again; what it met each time only a connection of its own tells.
        Err(sqlx::Error::PoolTimedOut) => {
            let alone = async { set_up(&mut options.connect().await?).await };
            let cause = answered(ACQUIRE_PATIENCE, alone).await.err();
            Err(StoreError::Away(cause.unwrap_or(sqlx::Error::PoolTimedOut)))
        }
        Err(cause) => Err(StoreError::Away(cause)),
    }
}

/// Options that every connection of ours has.
pub(super) fn plain(options: PgConnectOptions) -> PgConnectOptions {
    // PgBouncer does not take that parameter unless it is told to, and what the server does by itself
    // loses no digit either.
    options
        .application_name("backstop")
        .extra_float_digits(None)
}

/// What keeps new connections from being made, in the log: the pool's own error does not know. Where it is
/// somebody's limit, the pool goes on with what it has, instead of asking for more again and again while
/// others come back.
async fn tell_why(pool: Pool) {
    let there = pool.places.lent() + pool.inner.num_idle();
    let alone = async { pool.inner.connect_options().connect().await?.close().await };
    let Err(error) = answered(ANSWER_PATIENCE, alone).await else {
        return;
    };
    if is_a_limit(&error) {
        pool.places.shrink_to(there);
        tracing::warn!(
            %error, connections = pool.places.total(),
            "no more connections are granted than these; BACKSTOP_DATABASE_CONNECTIONS asks for more"
        );
    } else {
        tracing::warn!(%error, "no new connection to the database can be made");
    }
}

/// Whether there is one more to be had again; then it is the pool's.
async fn grow(pool: Pool) {
    let alone = async { pool.inner.connect_options().connect().await?.close().await };
    if answered(ANSWER_PATIENCE, alone).await.is_ok() {
        pool.places.grow();
    }
}

/// Whether it says that there are as many connections as there may be: Postgres' code for that, or the
/// words of a pooler, which has no code of its own.
fn is_a_limit(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let words = error.message().to_lowercase();
    error.code().as_deref() == Some("53300")
        || ["no more connections", "too many", "max client"]
            .iter()
            .any(|it| words.contains(it))
}

async fn set_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AFTER_CONNECT).execute(connection).await?;
    Ok(())
}

/// Bounds what is done with the database, acquiring a connection included. What is dropped in
/// mid-flight may have been done all the same; its connection is not used again unless it answers.
///
/// # Errors
/// [`StoreError::Away`] when time is up; else the work's own.
pub async fn in_time<T, E: From<StoreError>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(StoreError::from(no_answer(PATIENCE)).into()))
}

/// The same for a single exchange.
pub(super) async fn answered<T>(
    patience: Duration,
    exchange: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(patience, exchange)
        .await
        .unwrap_or_else(|_| Err(no_answer(patience)))
}

/// Whether the other end answers, soon.
pub(super) async fn is_alive(connection: &mut PgConnection) -> bool {
    answered(PING_PATIENCE, connection.ping()).await.is_ok()
}

fn no_answer(patience: Duration) -> sqlx::Error {
    let sentence = format!("no answer within {} s", patience.as_secs());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, sentence))
}
