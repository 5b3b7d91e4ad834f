//! What the last sweep found.

use axum::Json;
use axum::extract::State;

use super::tokens::Reader;
use super::{Api, Problem, openapi};
use crate::store::sweeps::{self, SweepView};

/// Shows what the last sweep found
#[utoipa::path(
    get, path = "/v1/orphans", operation_id = "list_orphans", tag = openapi::READ,
    responses((status = 200, description = "What should not be there", body = SweepView))
)]
pub(super) async fn list(_: Reader, State(api): State<Api>) -> Result<Json<SweepView>, Problem> {
    let mut db = api.pool.acquire().await?;
    Ok(Json(sweeps::latest(&mut db).await?))
}
