//! Whether we live, and whether we can work.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Api, Problem};
use crate::store::{self, hold};

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// `GET /readyz`: the database answers and is migrated. A hold is shown, and is no reason to send
/// callbacks elsewhere.
pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Value>, Problem> {
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
    Ok(Json(json!({"status": "ready", "hold": hold})))
}
