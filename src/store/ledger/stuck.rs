//! Flags what nobody has carried out for too long.
//!
//! A worker flags what it reports. What none comes to any more, because its vendor was taken out of
//! the settings, would be shown as stuck by its age and never be told.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::found::{OfAttempt, add_event};
use crate::domain::names::{AttemptNumber, ProvisionId};
use crate::store::notices::{self, Kind};
use crate::store::{StoreError, interval, views};

/// Flags up to `limit` steps that are in nobody's hand and have been unsettled for `stuck_after`, and
/// has the operators' webhook told.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then none was flagged.
pub async fn flag_stuck(
    db: &mut PgConnection,
    limit: u32,
    stuck_after: Duration,
) -> Result<(), StoreError> {
    let mut transaction = db.begin().await?;
    let flagged = sqlx::query!(
        r#"
        with picked as (
            select id
            from steps
            where next_at is not null and state in ('due', 'waiting') and stuck_at is null
              and unsettled_since <= backstop_now() - $1::interval
            order by id
            limit $2
            for update skip locked
        )
        update steps s
        set stuck_at = backstop_now()
        from picked
        where s.id = picked.id
        returning s.id, s.provision_id, s.attempt, s.resource,
                  case when not s.searches then s.vendor_id end as vendor_id, s.last_error
        "#,
        interval(stuck_after),
        i64::from(limit),
    )
    .fetch_all(&mut *transaction)
    .await?;
    for step in &flagged {
        let of = OfAttempt {
            provision: ProvisionId::new(step.provision_id),
            attempt: AttemptNumber::new(step.attempt).ok_or_else(|| StoreError::Corrupt {
                table: "steps",
                column: "attempt",
                id: step.id.to_string(),
                problem: "is negative".to_owned(),
            })?,
        };
        let data = json!({"resource": step.resource, "vendor_id": step.vendor_id,
                          "error": step.last_error});
        add_event(&mut transaction, of, "step.stuck", data).await?;
        let view = views::provision(&mut transaction, of.provision, stuck_after).await?;
        notices::add(&mut transaction, Kind::RollbackStuck, &view).await?;
    }
    transaction.commit().await?;
    Ok(())
}
