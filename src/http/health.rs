//! Whether we live, and whether we can work.

use axum::Json;
use axum::extract::State;

use super::answers::{Live, Ready};
use super::{Api, Problem, openapi};
use crate::store::{self, hold};

/// The process answers
#[utoipa::path(
    get, path = "/livez", operation_id = "livez", tag = openapi::OPEN,
    responses((status = 200, description = "It lives", body = Live))
)]
pub(super) async fn livez() -> Json<Live> {
    Json(Live { status: "live" })
}

/// The database answers and is migrated
///
/// A hold is shown, and is no reason to send callbacks elsewhere.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = openapi::OPEN,
    responses((status = 200, description = "It can work", body = Ready))
)]
pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Ready>, Problem> {
    match store::is_ready(&api.pool).await {
        Ok(true) => {}
        Ok(false) => return Err(Problem::unavailable()),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            return Err(Problem::unavailable());
        }
    }
    let mut db = api.pool.acquire().await?;
    let hold = hold::current(&mut db).await?;
    Ok(Json(Ready {
        status: "ready",
        hold,
    }))
}
