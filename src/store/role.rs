//! The role that we are at the database, and what it may do.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::{PgListener, PgPoolOptions};
use uuid::Uuid;

use super::connection::answered;
use super::{MIGRATIONS, Pool, StoreError};

/// How long a notification of our own may take.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// What it is called.
    pub name: String,
    /// The schema that new tables go to; `None` if there is none that it may use.
    pub schema: Option<String>,
    /// Whether it may make tables there.
    pub may_create: bool,
    /// Whether our tables, if there are any, are its own.
    pub owns_tables: bool,
    /// Whether it may know which migrations were applied; also if none were.
    reads_migrations: bool,
    /// What it is, and need not be.
    pub more_than_needed: Vec<&'static str>,
}

/// How much of the schema is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrated {
    /// Nothing.
    Not,
    /// Not all of this version's.
    InPart,
    /// All of it.
    All,
}

/// Whether an error is that of a pooler that lends a server's connection for one transaction: what was
/// prepared is not there any more, or somebody else's is.
#[must_use]
pub fn is_a_poolers(error: &StoreError) -> bool {
    let StoreError::Refused(sqlx::Error::Database(error)) = error else {
        return false;
    };
    // Duplicate, and invalid, name of a prepared statement.
    error
        .code()
        .is_some_and(|code| ["42P05", "26000"].contains(&code.as_ref()))
}

/// Who we are.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub async fn of(db: &mut PgConnection) -> Result<Role, StoreError> {
    let row = sqlx::query!(
        r#"
        select current_user::text as "name!", current_schema()::text as schema,
               coalesce(has_schema_privilege(current_schema(), 'create'), false) as "may_create!",
               coalesce(
                   (select pg_has_role(relowner, 'usage') from pg_class
                    where oid = to_regclass('provisions')),
                   true
               ) as "owns_tables!",
               coalesce(
                   has_table_privilege(to_regclass('_sqlx_migrations'), 'select'), true
               ) as "reads_migrations!",
               rolsuper as "superuser!", rolcreaterole as "creates_roles!",
               rolcreatedb as "creates_databases!", rolreplication as "replicates!",
               rolbypassrls as "bypasses_row_security!"
        from pg_roles
        where rolname = current_user
        "#
    )
    .fetch_one(db)
    .await?;
    let more_than_needed = [
        (row.superuser, "a superuser"),
        // Which may all the rest.
        (
            !row.superuser && row.creates_roles,
            "one that may create roles",
        ),
        (
            !row.superuser && row.creates_databases,
            "one that may create databases",
        ),
        (!row.superuser && row.replicates, "one that may replicate"),
        (
            !row.superuser && row.bypasses_row_security,
            "one that bypasses row security",
        ),
    ];
    Ok(Role {
        name: row.name,
        schema: row.schema,
        may_create: row.may_create,
        owns_tables: row.owns_tables,
        reads_migrations: row.reads_migrations,
        more_than_needed: more_than_needed
            .into_iter()
            .filter_map(|(is, what)| is.then_some(what))
            .collect(),
    })
}

/// How much of the schema is there, as far as `role` may know.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub async fn migrated(db: &mut PgConnection, role: &Role) -> Result<Migrated, StoreError> {
    let there =
        sqlx::query_scalar!(r#"select to_regclass('_sqlx_migrations') is not null as "there!""#)
            .fetch_one(&mut *db)
            .await?;
    if !there {
        return Ok(Migrated::Not);
    }
    if !role.reads_migrations {
        return Ok(Migrated::InPart);
    }
    let latest = MIGRATIONS.iter().map(|m| m.version).max();
    let applied = sqlx::query_scalar!("select max(version) from _sqlx_migrations where success")
        .fetch_one(db)
        .await?;
    Ok(match applied {
        None => Migrated::Not,
        Some(_) if applied < latest => Migrated::InPart,
        Some(_) => Migrated::All,
    })
}

/// Whether a notification that one connection sends reaches another one that listens. Behind a pooler
/// that lends a server's connection for one transaction it does not. The channel is made up, and
/// nothing else of it stays.
///
/// # Errors
/// [`StoreError`] if it could not be tried.
pub async fn hears_itself(pool: &Pool) -> Result<bool, StoreError> {
    let channel = format!("backstop_check_{}", Uuid::new_v4().simple());
    // Beside the pool's, as the listener of `changes` is.
    let own = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(pool.unbounded().connect_options().as_ref().clone());
    let mut listener = answered(HEARD_WITHIN, PgListener::connect_with(&own)).await?;
    listener.eager_reconnect(false);
    answered(HEARD_WITHIN, listener.listen(&channel)).await?;
    let mut db = pool.acquire().await?;
    sqlx::query!(r#"select pg_notify($1, '') as "sent!: ()""#, channel)
        .fetch_one(&mut *db)
        .await?;
    drop(db);
    match tokio::time::timeout(HEARD_WITHIN, listener.try_recv()).await {
        Err(_) => Ok(false),
        Ok(heard) => Ok(heard?.is_some()),
    }
}
