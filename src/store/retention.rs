//! Which events are old enough to go.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::{StoreError, interval};

/// What became of one piece of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// How many were deleted.
    pub forgotten: u64,
    /// The last that was looked at; `None` if what comes next is too young, or nothing does.
    pub go_on_after: Option<i64>,
}

/// Looks at `most` events after the one of this id and deletes those that are older than `keep_for`
/// and whose provision has been over, with everything settled, since before that. The beginning and
/// the receipts are kept.
///
/// # Errors
/// [`StoreError::Away`].
pub async fn forget_events(
    db: &mut PgConnection,
    after: i64,
    most: i64,
    keep_for: Duration,
) -> Result<Forgotten, StoreError> {
    let piece = sqlx::query!(
        r#"with looked as (
               select e.id, e.provision_id, e.kind, e.at
               from events e
               where e.id > $1
               order by e.id
               limit $2
           ),
           deleted as (
               delete from events e
               using looked l, provisions p
               where e.id = l.id
                 and l.at < backstop_now() - $3::interval
                 and l.kind not in ('created', 'step.gone', 'step.refused', 'rollback.done')
                 and p.id = l.provision_id
                 and p.status in ('failed', 'destroyed')
                 and p.updated_at < backstop_now() - $3::interval
                 and not exists (
                     select from steps s
                     where s.provision_id = p.id
                       and (s.settled_at is null or s.settled_at >= backstop_now() - $3::interval)
                 )
               returning e.id
           )
           select (select count(*) from deleted) as "forgotten!",
                  max(id) as last,
                  count(*) = $2 and max(at) < backstop_now() - $3::interval as "more!"
           from looked"#,
        after,
        most,
        interval(keep_for),
    )
    .fetch_one(db)
    .await?;
    Ok(Forgotten {
        forgotten: u64::try_from(piece.forgotten).unwrap_or_default(),
        go_on_after: piece.last.filter(|_| piece.more),
    })
}
