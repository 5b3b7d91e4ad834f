//! The vendors' rate budgets, which all replicas share.
//!
//! A budget is read, `domain::budget` decides, and the row is written if it is unmoved: two short
//! statements, no lock held while thinking.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::StoreError;
use super::provisions::Written;
use super::rows::Place;
use crate::domain::budget::{OpenPermit, RateBudget, Told};

/// A budget as it was read, to be written back.
#[derive(Debug, Clone)]
pub struct Read {
    /// What is known.
    pub budget: RateBudget,
    /// The database's time.
    pub now: DateTime<Utc>,
    version: i64,
}

/// The budget of a vendor; one that nobody has written yet knows nothing.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn read(db: &mut PgConnection, vendor: &str) -> Result<Read, StoreError> {
    let row = sqlx::query!(
        r#"select backstop_now() as "now!", b.version as "version?", b.told_limit, b.told_remaining,
                  b.told_at, b.heard_at, b.permits as "permits?: Json<Vec<OpenPermit>>",
                  b.last_exception_at, b.paused_until
           from (select) one left join rate_budgets b on b.vendor = $1"#,
        vendor,
    )
    .fetch_one(db)
    .await?;
    let place = Place {
        table: "rate_budgets",
        id: vendor.to_owned(),
    };
    let told = match (row.told_limit, row.told_remaining, row.heard_at) {
        (Some(limit), Some(remaining), Some(heard_at)) => Some(Told {
            limit: natural(&place, "told_limit", limit)?,
            remaining: natural(&place, "told_remaining", remaining)?,
            told_at: row.told_at,
            heard_at,
        }),
        _ => None,
    };
    Ok(Read {
        budget: RateBudget {
            told,
            permits: row.permits.map(|permits| permits.0).unwrap_or_default(),
            last_exception_at: row.last_exception_at,
            paused_until: row.paused_until,
        },
        now: row.now,
        version: row.version.unwrap_or(0),
    })
}

/// Writes a budget if nobody else has since it was read.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn write(
    db: &mut PgConnection,
    vendor: &str,
    read: &Read,
) -> Result<Written, StoreError> {
    let budget = &read.budget;
    let narrow = |requests: u64| i64::try_from(requests).unwrap_or(i64::MAX);
    let written = sqlx::query!(
        "insert into rate_budgets as b (vendor, version, told_limit, told_remaining, told_at,
                                        heard_at, permits, last_exception_at, paused_until)
         values ($1, $2::bigint + 1, $3, $4, $5, $6, $7, $8, $9)
         on conflict (vendor) do update
         set version = excluded.version, told_limit = excluded.told_limit,
             told_remaining = excluded.told_remaining, told_at = excluded.told_at,
             heard_at = excluded.heard_at, permits = excluded.permits,
             last_exception_at = excluded.last_exception_at,
             paused_until = excluded.paused_until
         where b.version = $2",
        vendor,
        read.version,
        budget.told.map(|told| narrow(told.limit)),
        budget.told.map(|told| narrow(told.remaining)),
        budget.told.and_then(|told| told.told_at),
        budget.told.map(|told| told.heard_at),
        Json(&budget.permits) as _,
        budget.last_exception_at,
        budget.paused_until,
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(if written == 1 {
        Written::Yes
    } else {
        Written::Outrun
    })
}

/// How many requests each vendor has left that ever told it.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn remaining(db: &mut PgConnection) -> Result<Vec<(String, u64)>, StoreError> {
    let vendors = sqlx::query_scalar!("select vendor from rate_budgets where heard_at is not null")
        .fetch_all(&mut *db)
        .await?;
    let mut remaining = Vec::new();
    for vendor in vendors {
        let read = read(&mut *db, &vendor).await?;
        remaining.extend(read.budget.remaining(read.now).map(|left| (vendor, left)));
    }
    Ok(remaining)
}

fn natural(place: &Place, column: &'static str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| place.corrupt(column, "is negative"))
}
