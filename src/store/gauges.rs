//! Numbers about the whole database, for `GET /metrics`.

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;

/// What only grows. At a million provisions counting it takes the database most of a second, all
/// of it from indexes; the caller keeps it for a while.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Status and how many provisions.
    pub provisions: Vec<(String, u64)>,
    /// Resource, state and how many settled steps.
    pub settled: Vec<(String, String, u64)>,
}

/// What is still to be done: it takes as long as there is much of it.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    /// Resource, state and how many unsettled steps.
    pub unsettled: Vec<(String, String, u64)>,
    /// For how long the oldest has been; zero if there is none.
    pub oldest: Duration,
}

/// Counts all provisions and all that has settled.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn totals(db: &mut PgConnection) -> Result<Totals, StoreError> {
    let provisions =
        sqlx::query!(r#"select status, count(*) as "count!" from provisions group by status"#)
            .fetch_all(&mut *db)
            .await?;
    let settled = sqlx::query!(
        r#"select resource, state, count(*) as "count!"
           from steps where settled_at is not null group by resource, state"#
    )
    .fetch_all(db)
    .await?;
    Ok(Totals {
        provisions: provisions
            .into_iter()
            .map(|row| (row.status, row.count.unsigned_abs()))
            .collect(),
        settled: settled
            .into_iter()
            .map(|row| (row.resource, row.state, row.count.unsigned_abs()))
            .collect(),
    })
}

/// Vendor and how many of its things sweeps found and the last one still saw.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn orphans(db: &mut PgConnection) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = sqlx::query!(
        r#"select v.vendor as "vendor!", count(o.subject) as "count!"
           from (values ('hetzner'), ('tailscale')) as v (vendor)
           left join orphans o on o.vendor = v.vendor
           group by v.vendor"#
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.vendor, row.count.unsigned_abs()))
        .collect())
}

/// Counts what is unsettled.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn backlog(db: &mut PgConnection) -> Result<Backlog, StoreError> {
    let rows = sqlx::query!(
        r#"select resource, state, count(*) as "count!",
                  extract(epoch from backstop_now() - min(unsettled_since))::float8 as "age_s!"
           from steps where next_at is not null group by resource, state"#
    )
    .fetch_all(db)
    .await?;
    let ages = rows
        .iter()
        .map(|row| Duration::try_from_secs_f64(row.age_s));
    Ok(Backlog {
        oldest: ages.flatten().max().unwrap_or_default(),
        unsettled: rows
            .into_iter()
            .map(|row| (row.resource, row.state, row.count.unsigned_abs()))
            .collect(),
    })
}
