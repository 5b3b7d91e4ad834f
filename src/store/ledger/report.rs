//! Writing down how a step went, and what follows from it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::found::{Sighted, add_event, add_found, reopen_searches, wake_searches};
use super::{ClaimedStep, Outcome, Reported, Subject};
use crate::domain::fields::VendorId;
use crate::domain::step::StepState;
use crate::store::StoreError;
use crate::store::notices::{self, Kind, Subscriber};
use crate::store::views::{self, RollbackState};

/// What the status API shows of a step that waits for that alone.
const HELD_BACK: &str = "held back: the vendor's rate limit is down to what is left to others";

/// Writes down how a claimed step went, in the caller's transaction, and what follows from it:
/// found things get steps of their own, a settled step wakes the searches of its attempt, the last
/// one ends the rollback.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn report(
    db: &mut PgConnection,
    step: &ClaimedStep,
    outcome: &Outcome,
    stuck_after: Duration,
    subscriber: Subscriber,
) -> Result<Reported, StoreError> {
    let now = sqlx::query_scalar!(
        r#"select backstop_now() as "now!" from provisions where id = $1 for no key update"#,
        step.provision.as_uuid(),
    )
    .fetch_one(&mut *db)
    .await?;

    let of = step.of();
    let state = StepState::Leased { until: now }.after(outcome.event(now))?;
    let needs_person = matches!(
        outcome,
        Outcome::Failed {
            needs_person: true,
            ..
        }
    );
    // What was given back untried stands as it stood.
    let still_stuck =
        step.was_stuck && matches!(outcome, Outcome::Released | Outcome::HeldBack { .. });
    let overdue = now - step.unsettled_since >= delta(stuck_after);
    let stuck = !state.is_settled() && (needs_person || still_stuck || overdue);

    if !settle(db, step, outcome, state, stuck, now).await? {
        give_back(db, step, now).await?;
        return Ok(Reported::FencedOut);
    }

    if let Some((kind, data)) = history(step, outcome) {
        add_event(db, of, kind, data).await?;
    }
    let (mut reported, mut news) = (Reported::Yes, None);
    if stuck && !step.was_stuck {
        let data = json!({"resource": step.resource, "vendor_id": step.vendor_id(),
                          "error": outcome.error().or(step.last_error.as_deref())});
        add_event(db, of, "step.stuck", data).await?;
        news = Some(Kind::RollbackStuck);
    }
    let sighted = match outcome {
        Outcome::Found(ids) => add_found(db, of, step.resource, ids, None, now).await?,
        Outcome::Accepted { .. } => Sighted::Anew,
        _ => Sighted::Before,
    };
    if sighted == Sighted::Anew {
        reopen_searches(db, of, (step.resource, step.vendor_id()), now).await?;
        wake_searches(db, of, Some(step.id), now).await?;
    }
    if state.is_settled() {
        // It may be what another search of the same attempt was waiting for.
        wake_searches(db, of, Some(step.id), now).await?;
        match finish_rollback(db, step).await? {
            Finished::No => {}
            Finished::First { took } => {
                news = Some(Kind::RollbackSettled);
                reported = Reported::RollbackDone { took };
            }
            Finished::Again => news = Some(Kind::RollbackSettled),
        }
    }
    if let (Some(news), Subscriber::Webhook) = (news, subscriber) {
        add_notice(db, step, news, stuck_after).await?;
    }
    Ok(reported)
}

/// Gives a claimed step back untried. Harmless if it is no longer ours.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
async fn give_back(
    db: &mut PgConnection,
    step: &ClaimedStep,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update steps
         set state = 'due', next_at = $3, lease = null, fence = fence + 1,
             moved_from = state, moved_by = 'released'
         where id = $1 and lease = $2",
        step.id,
        step.lease,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The fenced update. False if the row is no longer as it was claimed, or was to be refused and has
/// been seen to be the attempt's own meanwhile.
async fn settle(
    db: &mut PgConnection,
    step: &ClaimedStep,
    outcome: &Outcome,
    state: StepState,
    stuck: bool,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let next_at = match state {
        StepState::Due { at } | StepState::Waiting { at } => Some(at),
        StepState::Leased { until } => Some(until),
        StepState::Gone(_) | StepState::Refused => None,
    };
    let proof = match state {
        StepState::Gone(proof) => Some(proof.to_string()),
        _ => None,
    };
    let found = match outcome {
        Outcome::Found(ids) => ids.first().map(VendorId::as_str),
        _ => None,
    };
    let (accepted_at, action_id) = match outcome {
        Outcome::Accepted { action_id, .. } => (Some(now), action_id.map(|id| id.to_string())),
        Outcome::UnderWay { .. }
        | Outcome::Gone(_)
        | Outcome::Failed { .. }
        | Outcome::Released
        | Outcome::HeldBack { .. } => (
            step.accepted.as_ref().map(|accepted| accepted.at),
            step.accepted
                .as_ref()
                .and_then(|accepted| accepted.action_id.map(|id| id.to_string())),
        ),
        Outcome::Found(_)
        | Outcome::NotSeen { .. }
        | Outcome::NotOurs { .. }
        | Outcome::DeleteFailed { .. } => (None, None),
    };
    let failed = matches!(
        outcome,
        Outcome::Failed { .. } | Outcome::DeleteFailed { .. }
    );
    let error = match outcome {
        // Shown unless there is something worse to show.
        Outcome::HeldBack { .. } if step.last_error.is_none() => Some(HELD_BACK),
        _ => outcome.error(),
    };
    let is_try = failed || matches!(outcome, Outcome::Accepted { .. } | Outcome::NotOurs { .. });
    let moved = sqlx::query!(
        "update steps
         set state = $4, moved_from = state, moved_by = $5::text,
             fence = fence + 1, lease = null, next_at = $6, proof = $7,
             settled_at = case when $8 then $3::timestamptz end,
             stuck_at = case when $9 then coalesce(stuck_at, $3::timestamptz) end,
             accepted_at = $10, action_id = $11,
             vendor_id = coalesce(vendor_id, $12),
             own = own or $13,
             tries = case when $14 then tries + 1
                          when $5::text = 'released' then tries
                          else greatest(tries, 1) end,
             failures = case when $15 then failures + 1
                             when $5::text = 'released' then failures
                             else 0 end,
             last_error = coalesce($16, last_error)
         where id = $1 and fence = $2 and state = 'leased'
           and not (own and $4 = 'refused')",
        step.id,
        step.fence,
        now,
        state.name(),
        outcome.event(now).name(),
        next_at,
        proof,
        state.is_settled(),
        stuck,
        accepted_at,
        action_id,
        found,
        matches!(outcome, Outcome::Accepted { .. }) && step.subject != Subject::Search,
        is_try,
        failed,
        error,
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(moved == 1)
}

/// Whether an attempt's rollback is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finished {
    No,
    /// As never before.
    First {
        /// Since the end of the attempt was recorded.
        took: Duration,
    },
    /// It had been reopened.
    Again,
}

/// Notes the end of the rollback if this was the attempt's last unsettled step.
async fn finish_rollback(
    db: &mut PgConnection,
    step: &ClaimedStep,
) -> Result<Finished, StoreError> {
    // The outer part does not see what is inserted, only what was there before.
    let ended = sqlx::query!(
        r#"
        with done as (
            insert into events (provision_id, attempt, kind, data, at)
            select $1, $2, 'rollback.done', '{}', backstop_now()
            where not exists (
                select from steps
                where provision_id = $1 and attempt = $2 and settled_at is null
            )
            returning at
        )
        select case when not exists (
                   select from events e
                   where e.provision_id = $1 and e.attempt = $2 and e.kind = 'rollback.done'
               ) then (extract(epoch from done.at - a.rollback_started_at) * 1000)::bigint
               end as took_ms
        from done, attempts a
        where a.provision_id = $1 and a.number = $2
        "#,
        step.provision.as_uuid(),
        step.attempt.as_i32(),
    )
    .fetch_optional(db)
    .await?;
    Ok(match ended.map(|ended| ended.took_ms) {
        None => Finished::No,
        Some(Some(ms)) => Finished::First {
            took: Duration::from_millis(ms.max(0).unsigned_abs()),
        },
        Some(None) => Finished::Again,
    })
}

/// Has the operators' webhook told how the provision stands now. That its rollback has settled only
/// once no other attempt's goes on.
async fn add_notice(
    db: &mut PgConnection,
    step: &ClaimedStep,
    news: Kind,
    stuck_after: Duration,
) -> Result<(), StoreError> {
    let view = views::provision(db, step.provision, stuck_after).await?;
    let state = view
        .as_ref()
        .and_then(|view| Some(view.rollback.as_ref()?.state));
    if news == Kind::RollbackSettled && state != Some(RollbackState::Done) {
        return Ok(());
    }
    notices::add(db, news, &view).await
}

/// What the history keeps of an outcome. A failure only when it is not the one before it, so that
/// a step that stays stuck for weeks does not fill it.
fn history(step: &ClaimedStep, outcome: &Outcome) -> Option<(&'static str, Value)> {
    let about = |more: Value| {
        let mut data = json!({"resource": step.resource, "vendor_id": step.vendor_id()});
        if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
            data.extend(more);
        }
        data
    };
    match outcome {
        Outcome::Accepted { action_id, .. } => {
            Some(("step.deleting", about(json!({"action_id": action_id}))))
        }
        Outcome::Gone(proof) => Some(("step.gone", about(json!({"proof": proof})))),
        Outcome::NotOurs { because } => Some(("step.refused", about(json!({"error": because})))),
        Outcome::Failed { error, .. } | Outcome::DeleteFailed { error, .. }
            if step.last_error.as_ref() != Some(error) =>
        {
            Some(("step.failed", about(json!({"error": error}))))
        }
        Outcome::Failed { .. }
        | Outcome::DeleteFailed { .. }
        | Outcome::UnderWay { .. }
        | Outcome::Found(_)
        | Outcome::NotSeen { .. }
        | Outcome::Released
        | Outcome::HeldBack { .. } => None,
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
