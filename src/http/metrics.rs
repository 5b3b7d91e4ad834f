//! `GET /metrics`: what is counted here, and what the database holds now.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use sqlx::PgConnection;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::tokens::Reader;
use super::{Api, Problem, openapi};
use crate::store::board::{self, HOURS, Hour};
use crate::store::gauges::{self, Totals};
use crate::store::{StoreError, budgets, in_time};

/// How many times as long as counting took its result is shown: whatever the size of the database
/// and the number of readers, a fiftieth of one connection's time goes into it.
const KEPT_FOR: u32 = 50;

/// What was counted last.
#[derive(Debug, Default)]
pub struct Counted {
    totals: Mutex<Kept<Totals>>,
    day: Mutex<Kept<[Hour; HOURS]>>,
}

/// A count, and until when it will do.
type Kept<T> = Option<(T, Instant)>;

impl Counted {
    /// The totals, for the page.
    pub(super) async fn totals(&self, db: &mut PgConnection) -> Result<Totals, StoreError> {
        let mut kept = self.totals.lock().await;
        if let Some(totals) = still_good(kept.as_ref()) {
            return Ok(totals.clone());
        }
        let began = Instant::now();
        let totals = gauges::totals(db).await?;
        *kept = Some((totals.clone(), until(began)));
        Ok(totals)
    }

    /// The last 24 hours, for the page.
    pub(super) async fn last_day(
        &self,
        db: &mut PgConnection,
    ) -> Result<[Hour; HOURS], StoreError> {
        let mut kept = self.day.lock().await;
        if let Some(day) = still_good(kept.as_ref()) {
            return Ok(*day);
        }
        let began = Instant::now();
        let day = board::last_day(db).await?;
        *kept = Some((day, until(began)));
        Ok(day)
    }
}

fn still_good<T>(kept: Option<&(T, Instant)>) -> Option<&T> {
    let (count, until) = kept?;
    (Instant::now() < *until).then_some(count)
}

fn until(began: Instant) -> Instant {
    Instant::now() + began.elapsed() * KEPT_FOR
}

/// Shows the metrics, for Prometheus
///
/// Answers also while the database does not: that is among the numbers.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = openapi::READ,
    responses((status = 200, description = "Prometheus text", body = String,
               content_type = "text/plain"))
)]
pub(super) async fn show(_: Reader, State(api): State<Api>) -> Result<Response, Problem> {
    let pool = api.pool.unbounded();
    let (size, idle) = (pool.size(), pool.num_idle());
    let idle = u32::try_from(idle).unwrap_or(size).min(size);
    let most = pool.options().get_max_connections();
    api.metrics.set_connections(idle, size - idle, most);

    let text = in_time(with_database(&api)).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "metrics without what is in the database");
        api.metrics.render_without_database()
    });
    let text_format = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, text_format)], text).into_response())
}

async fn with_database(api: &Api) -> Result<String, StoreError> {
    // Held to the end: many readers count once, and none sees half of what another sets.
    let mut counted = api.counted.totals.lock().await;
    let mut db = api.pool.acquire().await?;
    if still_good(counted.as_ref()).is_none() {
        let began = Instant::now();
        let totals = gauges::totals(&mut db).await?;
        *counted = Some((totals, until(began)));
    }
    let backlog = gauges::backlog(&mut db).await?;
    let remaining = budgets::remaining(&mut db).await?;
    let orphans = gauges::orphans(&mut db).await?;
    drop(db);

    if let Some((totals, _)) = counted.as_ref() {
        api.metrics.set_provisions(&totals.provisions);
        let steps = backlog.unsettled.iter().chain(&totals.settled);
        api.metrics.set_steps(steps);
    }
    api.metrics.set_oldest_unsettled(backlog.oldest);
    for (vendor, count) in &orphans {
        api.metrics.set_orphans(vendor, *count);
    }
    for (vendor, requests) in remaining {
        api.metrics.set_rate_remaining(&vendor, requests);
    }
    Ok(api.metrics.render())
}
