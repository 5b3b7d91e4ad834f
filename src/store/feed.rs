//! What changed of what is shown, in an order in which a reader misses nothing.
//!
//! Triggers write down which transaction changed which provisions. Transactions become visible out of
//! order, so only what lies below the oldest one that still runs is read: whoever has read up to
//! there and comes back has not been overtaken. One that writes for long, in any database of the same
//! server, holds the feed up for that long.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::views::{self, ProvisionView};
use super::{StoreError, interval};

/// How far a reader has come: it knows of every change up to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    transaction: u64,
    provision: Uuid,
}

impl Position {
    /// Before every change.
    pub const BEGINNING: Self = Self {
        transaction: 0,
        provision: Uuid::nil(),
    };
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.transaction, self.provision.simple())
    }
}

/// The text is not one that a position makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position in the feed")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (transaction, provision) = text.split_once('.').ok_or(NoPosition)?;
        let position = Self {
            transaction: transaction.parse().map_err(|_| NoPosition)?,
            provision: provision.parse().map_err(|_| NoPosition)?,
        };
        // One spelling each.
        (position.to_string() == text)
            .then_some(position)
            .ok_or(NoPosition)
    }
}

/// A piece of the feed.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Provisions that changed, as they are now, each at its last change in this piece.
    pub changed: Vec<(Position, ProvisionView)>,
    /// Where the next piece begins.
    pub end: Position,
    /// What comes after it.
    pub then: Then,
}

/// What comes after a piece of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// More, to be read at once.
    More,
    /// Changes that are held up by a transaction that still runs.
    HeldUp,
    /// Nothing so far.
    Nothing,
}

/// Where the feed ends now: every later change comes after it.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn end(db: &mut PgConnection) -> Result<Position, StoreError> {
    let oldest_running = sqlx::query_scalar!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text as "oldest_running!""#
    )
    .fetch_one(db)
    .await?;
    Ok(Position {
        transaction: transaction(&oldest_running)?.saturating_sub(1),
        provision: Uuid::max(),
    })
}

/// Up to `limit` changes after this position. A provision that does not parse is left out and logged.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn after(
    db: &mut PgConnection,
    position: Position,
    limit: u32,
    stuck_after: Duration,
) -> Result<Piece, StoreError> {
    let mut rows = sqlx::query!(
        r#"
        select xact::text as "transaction!", provision_id,
               xact < pg_snapshot_xmin(pg_current_snapshot()) as "over!"
        from feed
        where (xact, provision_id) > ($1::text::xid8, $2::uuid)
        order by xact, provision_id
        limit $3
        "#,
        position.transaction.to_string(),
        position.provision,
        i64::from(limit),
    )
    .fetch_all(&mut *db)
    .await?;
    let full = rows.len() == limit as usize;
    let over = rows.iter().take_while(|row| row.over).count();
    let then = match rows.len() - over {
        0 if full => Then::More,
        0 => Then::Nothing,
        _ => Then::HeldUp,
    };
    rows.truncate(over);

    let mut piece = Piece {
        changed: Vec::new(),
        end: position,
        then,
    };
    let mut last = HashMap::new();
    for row in rows {
        piece.end = Position {
            transaction: transaction(&row.transaction)?,
            provision: row.provision_id,
        };
        last.insert(row.provision_id, piece.end);
    }
    if last.is_empty() {
        return Ok(piece);
    }
    // After the changes were read, so that what is shown is at least as new as they are.
    let ids: Vec<Uuid> = last.keys().copied().collect();
    for view in views::provisions_with_ids(db, &ids, stuck_after).await? {
        if let Some(position) = last.get(&view.id) {
            piece.changed.push((*position, view));
        }
    }
    piece
        .changed
        .sort_unstable_by_key(|(position, _)| *position);
    Ok(piece)
}

/// Notes what got stuck after `since` by nothing but time; `None`: whenever that was. Up to when.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn add_what_got_stuck(
    db: &mut PgConnection,
    stuck_after: Duration,
    since: Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        with noted as (
            insert into feed (provision_id)
            select distinct provision_id
            from steps
            where next_at is not null and stuck_at is null
              and unsettled_since + $1 <= backstop_now()
              and ($2::timestamptz is null or unsettled_since + $1 > $2)
            on conflict do nothing
        )
        select backstop_now() as "now!"
        "#,
        interval(stuck_after),
        since,
    )
    .fetch_one(db)
    .await?)
}

/// Forgets changes that a later one of the same provision has outdated, and takes up those of a
/// database that was restored, whose transactions are numbered anew.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn tidy(db: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "with of_another_database as (
             delete from feed
             where xact >= pg_snapshot_xmax(pg_current_snapshot())
             returning provision_id
         )
         insert into feed (provision_id)
         select distinct provision_id from of_another_database
         on conflict do nothing"
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "with outdated as (
             select f.xact, f.provision_id
             from feed f
             join (
                 select distinct on (provision_id) provision_id, xact
                 from feed
                 where xact < pg_snapshot_xmin(pg_current_snapshot())
                 order by provision_id, xact desc
             ) newest using (provision_id)
             where f.xact < newest.xact
             for update of f skip locked
         )
         delete from feed f
         using outdated o
         where f.xact = o.xact and f.provision_id = o.provision_id"
    )
    .execute(db)
    .await?;
    Ok(())
}

fn transaction(text: &str) -> Result<u64, StoreError> {
    let place = super::rows::Place {
        table: "feed",
        id: text.to_owned(),
    };
    place.parse("xact", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_nothing_else_does() {
        let position = Position {
            transaction: u64::MAX,
            provision: Uuid::max(),
        };
        for position in [position, Position::BEGINNING] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in [
            "",
            "7",
            "7.",
            ".0192f0c12b3c7d4e8f5a6b7c8d9e0f1a",
            "-7.0192f0c12b3c7d4e8f5a6b7c8d9e0f1a",
            "+7.0192f0c12b3c7d4e8f5a6b7c8d9e0f1a",
            "07.0192f0c12b3c7d4e8f5a6b7c8d9e0f1a",
            "7.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a",
            "18446744073709551616.0192f0c12b3c7d4e8f5a6b7c8d9e0f1a",
        ] {
            assert_eq!(text.parse::<Position>(), Err(NoPosition), "{text}");
        }
    }
}
