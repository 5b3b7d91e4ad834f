//! All attempts at one provision, side by side.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::names::ProvisionId;

/// One attempt at a provision, as the page shows it beside the others.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptView {
    /// Counts from 1; 0 is the time before any run took the provision.
    pub number: i32,
    /// The run that owns it.
    pub run_id: Option<i64>,
    /// Which re-run of it.
    pub run_attempt: Option<i32>,
    /// The last step that the workflow reported.
    pub step: Option<String>,
    /// As reported.
    pub server_id: Option<String>,
    /// As reported.
    pub server_ip: Option<String>,
    /// As reported.
    pub tailscale_ip: Option<String>,
    /// As reported.
    pub tailscale_key_id: Option<String>,
    /// As reported.
    pub tailscale_node_id: Option<String>,
    /// What went wrong, in the workflow's words.
    pub error: Option<String>,
    /// Which of the workflow's steps failed.
    pub failed_step: Option<String>,
    /// When it was opened.
    pub started_at: DateTime<Utc>,
    /// When its run was last heard.
    pub last_message_at: DateTime<Utc>,
    /// When it succeeded or, later, was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it is rolled back; `None` while it is live.
    pub reason: Option<String>,
    /// Since when it is.
    pub rollback_started_at: Option<DateTime<Utc>>,
}

/// Every attempt at a provision, oldest first; without attempt 0 once a run took it.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn attempts(
    db: &mut PgConnection,
    id: ProvisionId,
) -> Result<Vec<AttemptView>, StoreError> {
    Ok(sqlx::query_as!(
        AttemptView,
        "select number, run_id, run_attempt, step, server_id, server_ip, tailscale_ip,
                tailscale_key_id, tailscale_node_id, error, failed_step, started_at,
                last_message_at, finished_at, reason, rollback_started_at
         from attempts
         where provision_id = $1 and (number > 0 or finished_at is null or reason is not null)
         order by number",
        id.as_uuid(),
    )
    .fetch_all(db)
    .await?)
}
