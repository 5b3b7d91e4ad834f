//! What the last sweep found.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use super::{Api, Problem};
use crate::store::sweeps::{self, SweepView};

/// `GET /v1/orphans`
pub(super) async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<Json<SweepView>, Problem> {
    api.tokens.require_reader(&headers)?;
    let mut db = api.pool.acquire().await?;
    Ok(Json(sweeps::latest(&mut db).await?))
}
