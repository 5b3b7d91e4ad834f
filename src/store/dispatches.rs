//! The outbox: claims workflows that are to be dispatched, and writes down how that went.
//!
//! A claim is a lease with a token of its own, and [`report`] counts only while that token stands:
//! after the lease has run out somebody else may be sending. Rows are written with their provision,
//! in [`super::provisions::write()`], and claimed only while it is queued, so that nothing is sent
//! for a provision that a run has taken or that is over.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, interval};
use crate::domain::names::ProvisionId;

/// A dispatch that this process holds until its lease ends.
#[derive(Debug, Clone)]
pub struct ClaimedDispatch {
    /// For which provision.
    pub provision: ProvisionId,
    /// What the provision is for.
    pub agent_id: Option<String>,
    /// Where it is to run.
    pub region: Option<String>,
    /// Failed tries so far.
    pub failures: u32,
    lease: Uuid,
    last_error: Option<String>,
}

/// How a dispatch went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// GitHub accepted it.
    Sent {
        /// Its id of the run; `None` if it did not say.
        run_id: Option<i64>,
        /// The run's page.
        html_url: Option<String>,
    },
    /// GitHub refused it for good.
    Refused {
        /// What it said.
        error: String,
    },
    /// It may or may not have got there; to be sent again.
    Failed {
        /// What was met.
        error: String,
        /// When to send it again.
        retry_in: Duration,
    },
}

/// Claims the dispatch that has been due the longest, for `lease`. Those whose provision is no
/// longer queued are dropped on the way. `None`: nothing is due.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn claim_due_dispatch(
    db: &mut PgConnection,
    lease: Duration,
) -> Result<Option<ClaimedDispatch>, StoreError> {
    loop {
        let token = Uuid::new_v4();
        let row = sqlx::query!(
            r#"
            with picked as (
                select d.provision_id, p.status = 'queued' as wanted, p.agent_id, p.region
                from dispatches d
                join provisions p on p.id = d.provision_id
                where d.next_at <= backstop_now()
                order by d.next_at
                limit 1
                for update of d skip locked
            )
            update dispatches d
            set state = case when picked.wanted then 'leased' else 'dropped' end,
                lease = case when picked.wanted then $1::uuid end,
                next_at = case when picked.wanted then backstop_now() + $2 end
            from picked
            where d.provision_id = picked.provision_id
            returning d.provision_id, picked.wanted as "wanted!", picked.agent_id, picked.region,
                      d.failures, d.last_error
            "#,
            token,
            interval(lease),
        )
        .fetch_optional(&mut *db)
        .await?;
        match row {
            None => return Ok(None),
            Some(row) if !row.wanted => {}
            Some(row) => {
                return Ok(Some(ClaimedDispatch {
                    provision: ProvisionId::new(row.provision_id),
                    agent_id: row.agent_id,
                    region: row.region,
                    failures: row.failures.unsigned_abs(),
                    lease: token,
                    last_error: row.last_error,
                }));
            }
        }
    }
}

/// Whether a report counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reported {
    /// It is written.
    Yes,
    /// The dispatch was no longer ours: its lease had run out. Nothing was written.
    FencedOut,
}

/// Writes down how a claimed dispatch went, in one statement. What a refusal means for the provision
/// is the caller's, in the same transaction.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn report(
    db: &mut PgConnection,
    dispatch: &ClaimedDispatch,
    outcome: &Outcome,
) -> Result<Reported, StoreError> {
    let (state, retry_in, error) = match outcome {
        Outcome::Sent { .. } => ("sent", None, None),
        Outcome::Refused { error } => ("refused", None, Some(error)),
        Outcome::Failed { error, retry_in } => ("due", Some(interval(*retry_in)), Some(error)),
    };
    let (run_id, html_url) = match outcome {
        Outcome::Sent { run_id, html_url } => (*run_id, html_url.as_ref()),
        Outcome::Refused { .. } | Outcome::Failed { .. } => (None, None),
    };
    let (kind, data) = history(dispatch, outcome).unzip();
    let settled = sqlx::query_scalar!(
        r#"
        with settled as (
            update dispatches
            set state = $3,
                lease = null,
                next_at = backstop_now() + $4,
                failures = failures + case when $5::text is null then 0 else 1 end,
                last_error = coalesce($5, last_error),
                run_id = $6,
                html_url = $7
            where provision_id = $1 and lease = $2
            returning provision_id
        ), told as (
            insert into events (provision_id, attempt, kind, data, at)
            select provision_id, 0, $8, $9, backstop_now()
            from settled
            where $8::text is not null
        )
        select count(*) as "settled!" from settled
        "#,
        dispatch.provision.as_uuid(),
        dispatch.lease,
        state,
        retry_in,
        error,
        run_id,
        html_url,
        kind,
        data,
    )
    .fetch_one(db)
    .await?;
    Ok(if settled == 1 {
        Reported::Yes
    } else {
        Reported::FencedOut
    })
}

/// How long until the next dispatch is due, or a lease runs out. `None` if there is none.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn next_due_in(db: &mut PgConnection) -> Result<Option<Duration>, StoreError> {
    let milliseconds = sqlx::query_scalar!(
        "select (extract(epoch from min(next_at) - backstop_now()) * 1000)::bigint
         from dispatches where next_at is not null"
    )
    .fetch_one(db)
    .await?;
    Ok(milliseconds.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())))
}

/// What the history keeps of an outcome. A failure only when it is not the one before it.
fn history(dispatch: &ClaimedDispatch, outcome: &Outcome) -> Option<(&'static str, Value)> {
    match outcome {
        Outcome::Sent { run_id, html_url } => Some((
            "dispatch.sent",
            json!({"run_id": run_id, "html_url": html_url}),
        )),
        Outcome::Refused { error } => Some(("dispatch.refused", json!({"error": error}))),
        Outcome::Failed { error, .. } if dispatch.last_error.as_ref() != Some(error) => {
            Some(("dispatch.failed", json!({"error": error})))
        }
        Outcome::Failed { .. } => None,
    }
}
