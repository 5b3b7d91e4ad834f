//! Whether a database is one that we can work on. Asked before anything is set, made or written there.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::connection::{answered, plain};
use super::{MIGRATIONS, Pool, StoreError, too_old};

/// How long each answer of the probe may take. A pooler may have no second session to give.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked. Others may have taken the session that we would have got.
const PROBES: u32 = 4;

/// Why a database cannot be worked on. One sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// A pooler lends a server's session for one transaction or statement.
    #[error(
        "a connection pooler in between gives each transaction another session, and backstop needs \
         one that stays: set it to session mode (PgBouncer: pool_mode = session), or connect to \
         Postgres directly"
    )]
    Pooled,
    /// Older than what we need.
    #[error("this is Postgres {0}, and 15 or newer is needed")]
    TooOld(String),
    /// It cannot hold every text that a workflow sends.
    #[error(
        "this database's encoding is {0}, and it must be UTF8: make another one (create database … \
         encoding 'UTF8' template template0)"
    )]
    Encoding(String),
    /// Ours is in another schema, and a new one would be empty and know nothing.
    #[error(
        "new tables would go to the schema {here}, and there are tables of a backstop in the schema \
         {there}: set the role's search_path to {there}, or use a database of its own for another \
         installation"
    )]
    Elsewhere {
        /// Where new tables would go.
        here: String,
        /// Where tables of ours are.
        there: String,
    },
    /// A newer program has been here.
    #[error(
        "this database was migrated to schema version {theirs} by a newer backstop, and this \
         program knows versions up to {ours}: run the newer one"
    )]
    Newer {
        /// The database's version.
        theirs: i64,
        /// Ours.
        ours: i64,
    },
}

/// Whether each of two connections, in turn and while the other one is in a transaction, keeps its
/// session. Asked in the simple protocol and with nothing set, so that nothing of ours stays with
/// whoever gets the session next.
///
/// # Errors
/// [`StoreError`] if there is no connection to be had.
pub async fn keeps_sessions(options: &PgConnectOptions) -> Result<bool, StoreError> {
    let options = plain(options.clone());
    let mut first = answered(PROBE_PATIENCE, options.connect()).await?;
    let mut second = answered(PROBE_PATIENCE, options.connect()).await?;
    let kept = match keep_theirs(&mut first, &mut second).await {
        Ok(kept) => Ok(kept),
        // PgBouncer's words in statement mode.
        Err(sqlx::Error::Database(error)) if error.message().contains("statement pooling") => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    };
    let closed = async { tokio::join!(first.close(), second.close()) };
    let _ = tokio::time::timeout(PROBE_PATIENCE, closed).await;
    kept
}

async fn keep_theirs(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    for _ in 0..PROBES {
        let before = session(first).await?;
        told(second, "begin").await?;
        let other = session(second).await?;
        if other == before {
            told(second, "rollback").await?;
            return Ok(false);
        }
        let after = session(first).await;
        told(second, "rollback").await?;
        if after? != before {
            return Ok(false);
        }
        std::mem::swap(first, second);
    }
    Ok(true)
}

async fn session(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let asked = sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection);
    answered(PROBE_PATIENCE, asked).await?.try_get(0)
}

async fn told(connection: &mut PgConnection, what: &'static str) -> Result<(), sqlx::Error> {
    answered(PROBE_PATIENCE, sqlx::raw_sql(what).execute(connection)).await?;
    Ok(())
}

/// What speaks against this database; `None` if nothing does.
///
/// # Errors
/// [`StoreError`] if it cannot be asked.
pub async fn unsuitable(pool: &Pool) -> Result<Option<Unsuitable>, StoreError> {
    if let Some(version) = too_old(pool).await? {
        return Ok(Some(Unsuitable::TooOld(version)));
    }
    let mut db = pool.acquire().await?;
    let it = sqlx::query!(
        r#"
        with ours as (
            select nspname from pg_namespace
            where nspname !~ '^pg_'
            and 3 = (
                select count(*) from pg_class
                where relnamespace = pg_namespace.oid and relkind = 'r'
                and relname in ('controller', 'provisions', '_sqlx_migrations')
            )
        )
        select current_setting('server_encoding') as "encoding!",
               current_schema()::text as here,
               exists (select from ours where nspname = current_schema()) as "is_here!",
               -- The one that was used up to now is the first on the search path.
               (select nspname::text from ours
                order by array_position(current_schemas(false), nspname), nspname limit 1) as there,
               coalesce(has_table_privilege(to_regclass('_sqlx_migrations'), 'select'), false)
                   as "reads_migrations!"
        "#
    )
    .fetch_one(&mut *db)
    .await?;
    if it.encoding != "UTF8" {
        return Ok(Some(Unsuitable::Encoding(it.encoding)));
    }
    if let (Some(here), false, Some(there)) = (it.here, it.is_here, it.there) {
        return Ok(Some(Unsuitable::Elsewhere { here, there }));
    }
    if !it.is_here || !it.reads_migrations {
        return Ok(None);
    }
    let theirs = sqlx::query_scalar!("select max(version) from _sqlx_migrations where success")
        .fetch_one(&mut *db)
        .await?;
    let ours = MIGRATIONS.iter().map(|m| m.version).max();
    Ok(match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs > ours => Some(Unsuitable::Newer { theirs, ours }),
        _ => None,
    })
}

/// What may lose what we have acknowledged: sentences, none if nothing does.
///
/// # Errors
/// [`StoreError`] if it cannot be asked.
pub async fn may_lose(db: &mut PgConnection) -> Result<Vec<&'static str>, StoreError> {
    let it = sqlx::query!(
        r#"
        select current_setting('fsync')::boolean as "fsync!",
               current_setting('full_page_writes')::boolean as "full_page_writes!",
               current_setting('synchronous_standby_names') = ''
                   and exists (select from pg_stat_replication) as "asynchronous!"
        "#
    )
    .fetch_one(db)
    .await?;
    let found = [
        (
            !it.fsync,
            "fsync is off, so that a crash may lose what was acknowledged: turn it on",
        ),
        (
            !it.full_page_writes,
            "full_page_writes is off, so that a crash may leave torn pages: turn it on",
        ),
        (
            it.asynchronous,
            "a standby follows and no commit waits for it, so that a failover to it may lose what \
             was acknowledged: name it in synchronous_standby_names, or run backstop check after \
             each failover and look at hold in /readyz",
        ),
    ];
    Ok(found
        .into_iter()
        .filter_map(|(is, sentence)| is.then_some(sentence))
        .collect())
}

/// The most connections that may be had at once, and whose limit that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many.
    pub connections: u32,
    /// Whose limit it is.
    pub whose: &'static str,
}

impl Room {
    /// One connection listens, beside the pool's.
    const LISTENING: u32 = 1;

    /// How many a pool that wants `wanted` can have.
    #[must_use]
    pub fn for_pool(self, wanted: u32) -> u32 {
        let left = self.connections.saturating_sub(Self::LISTENING);
        wanted.min(left).max(1)
    }

    /// What is too little for a pool that wants `wanted`; `None` if it is enough.
    #[must_use]
    pub fn too_little_for(self, wanted: u32) -> Option<String> {
        (self.for_pool(wanted) < wanted).then(|| {
            format!(
                "BACKSTOP_DATABASE_CONNECTIONS is {wanted}, one more listens, and {} allows {} in \
                 all: raise that limit, or lower the setting",
                self.whose, self.connections
            )
        })
    }
}

/// How many connections there may be. A pooler's limit it cannot know.
///
/// # Errors
/// [`StoreError`] if it cannot be asked.
pub async fn room(db: &mut PgConnection) -> Result<Room, StoreError> {
    let it = sqlx::query!(
        r#"
        select case when rolsuper or rolconnlimit < 0 then null else rolconnlimit end as role,
               case when rolsuper or datconnlimit < 0 then null else datconnlimit end as database,
               current_setting('max_connections')::integer
                   - case when rolsuper then 0
                     else current_setting('superuser_reserved_connections')::integer
                          + coalesce(current_setting('reserved_connections', true)::integer, 0)
                     end as "server!"
        from pg_roles, pg_database
        where rolname = session_user and datname = current_database()
        "#
    )
    .fetch_one(db)
    .await?;
    let limits = [
        (it.role, "the role's connection limit"),
        (it.database, "the database's connection limit"),
        (Some(it.server), "the server's max_connections"),
    ];
    let smallest = limits
        .into_iter()
        .filter_map(|(limit, whose)| Some((u32::try_from(limit?).ok()?, whose)))
        .min_by_key(|(limit, _)| *limit);
    let (connections, whose) = smallest.unwrap_or((u32::MAX, "nobody's limit"));
    Ok(Room { connections, whose })
}
