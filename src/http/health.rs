//! Whether we live, and whether we can work.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Api, Problem};
use crate::store;

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// `GET /readyz`: the database answers and is migrated.
pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    match store::is_ready(&api.pool).await {
        Ok(true) => Ok(Json(json!({"status": "ready"}))),
        Ok(false) => Err(Problem::unavailable()),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            Err(Problem::unavailable())
        }
    }
}
