//! Notices: what the operators' webhook is to be told, from the transaction in which it happened
//! until it was told.
//!
//! At least once: who takes one in hand has a lease on it, and when that runs out another sends it
//! again. Its id stays the same, by which a receiver drops repeats.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{StoreError, interval};

/// Whether anybody is to be told anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriber {
    /// The operators' webhook.
    Webhook,
    /// Nobody: no notices are written.
    Nobody,
}

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything that a provision's rollbacks had to undo is gone.
    RollbackSettled,
    /// A step of a provision's rollbacks is stuck.
    RollbackStuck,
    /// A sweep found what should not be there and no sweep saw before.
    OrphansFound,
}

impl Kind {
    /// As the webhook and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RollbackSettled => "rollback.settled",
            Self::RollbackStuck => "rollback.stuck",
            Self::OrphansFound => "orphans.found",
        }
    }
}

/// A notice that this process is sending.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The same in every try.
    pub id: Uuid,
    /// What it is about: a [`Kind`], maybe of a later version's.
    pub kind: String,
    /// When that happened.
    pub happened_at: DateTime<Utc>,
    /// What is told.
    pub data: Value,
    /// Tries so far, this one included.
    pub tries: u32,
    /// How old it is.
    pub age: Duration,
    /// Unix time in seconds, for the signature.
    pub now: i64,
}

/// Adds a notice, in the caller's transaction.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn add(
    db: &mut PgConnection,
    kind: Kind,
    data: &impl Serialize,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into notices (kind, data, created_at, next_at)
         values ($1, $2, backstop_now(), backstop_now())",
        kind.as_str(),
        Json(data) as _,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Takes up to `limit` notices that are due in hand, for `lease`.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn claim_due_notices(
    db: &mut PgConnection,
    limit: u32,
    lease: Duration,
) -> Result<Vec<Notice>, StoreError> {
    let rows = sqlx::query!(
        r#"
        with picked as (
            select id
            from notices
            where next_at <= backstop_now()
            order by next_at
            limit $1
            for update skip locked
        )
        update notices n
        set next_at = backstop_now() + $2, tries = n.tries + 1
        from picked
        where n.id = picked.id
        returning n.id, n.kind, n.data, n.created_at, n.tries, backstop_now() as "now!",
                  extract(epoch from now())::bigint as "unix_now!"
        "#,
        i64::from(limit),
        interval(lease),
    )
    .fetch_all(db)
    .await?;
    let notices = rows.into_iter().map(|row| Notice {
        id: row.id,
        kind: row.kind,
        happened_at: row.created_at,
        data: row.data,
        tries: row.tries.unsigned_abs(),
        age: (row.now - row.created_at).to_std().unwrap_or_default(),
        now: row.unix_now,
    });
    Ok(notices.collect())
}

/// Forgets a notice: it was told, or never will be.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then it is sent again.
pub async fn forget(db: &mut PgConnection, notice: &Notice) -> Result<(), StoreError> {
    sqlx::query!("delete from notices where id = $1", notice.id)
        .execute(db)
        .await?;
    Ok(())
}

/// Puts a notice back, to be sent again after `pause`, unless another has taken it in hand.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then it is sent again when the lease is over.
pub async fn put_back(
    db: &mut PgConnection,
    notice: &Notice,
    pause: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update notices set next_at = backstop_now() + $3 where id = $1 and tries = $2",
        notice.id,
        i32::try_from(notice.tries).unwrap_or(i32::MAX),
        interval(pause),
    )
    .execute(db)
    .await?;
    Ok(())
}
