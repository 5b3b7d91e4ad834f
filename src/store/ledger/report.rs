//! Writing down how a step went, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{ClaimedStep, Outcome, Reported, Subject};
use crate::domain::fields::VendorId;
use crate::domain::step::StepState;
use crate::store::StoreError;
use crate::store::notices::{self, Kind, Subscriber};
use crate::store::views::{self, RollbackState};

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

    let state = StepState::Leased { until: now }.after(outcome.event(now))?;
    let needs_person = matches!(
        outcome,
        Outcome::Failed {
            needs_person: true,
            ..
        }
    );
    // Given back untried, it is as stuck as it was.
    let still_stuck = step.was_stuck && *outcome == Outcome::Released;
    let overdue = now - step.unsettled_since >= delta(stuck_after);
    let stuck = !state.is_settled() && (needs_person || overdue || still_stuck);

    if !settle(db, step, outcome, state, stuck, now).await? {
        give_back(db, step, now).await?;
        return Ok(Reported::FencedOut);
    }

    if let Some((kind, data)) = history(step, outcome) {
        add_event(db, step, kind, data).await?;
    }
    let mut news = None;
    if stuck && !step.was_stuck {
        let data = json!({"resource": step.resource, "vendor_id": step.vendor_id(),
                          "error": outcome.error().or(step.last_error.as_deref())});
        add_event(db, step, "step.stuck", data).await?;
        news = Some(Kind::RollbackStuck);
    }
    if let Outcome::Found(ids) = outcome {
        add_found(db, step, ids, now).await?;
    }
    if matches!(outcome, Outcome::Found(_) | Outcome::Accepted { .. }) {
        reopen_searches(db, step, now).await?;
    }
    if state.is_settled() {
        wake_searches(db, step, now).await?;
        if finish_rollback(db, step).await? == Finished::Yes {
            news = Some(Kind::RollbackSettled);
        }
    }
    if let (Some(news), Subscriber::Webhook) = (news, subscriber) {
        add_notice(db, step, news, stuck_after).await?;
    }
    Ok(Reported::Yes)
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
        | Outcome::Released => (
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
        outcome.error(),
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(moved == 1)
}

/// Gives each found thing a step of its own; one that had counted as settled is due again. One that
/// is in hand learns that it is the attempt's own and is otherwise left alone: that mark is only
/// ever set, so no fence is needed.
async fn add_found(
    db: &mut PgConnection,
    step: &ClaimedStep,
    ids: &BTreeSet<VendorId>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let ids: Vec<String> = ids.iter().map(VendorId::to_string).collect();
    let due = sqlx::query_scalar!(
        r#"
        insert into steps as s (provision_id, attempt, resource, searches, vendor_id, own, state,
                                moved_by, next_at, unsettled_since)
        select $1, $2, $3, false, id, true, 'due', 'planned', $5, $5
        from unnest($4::text[]) id
        on conflict (provision_id, attempt, resource, vendor_id) where not searches
        do update
        set own = true, state = 'due', moved_from = s.state, moved_by = 'seen_again',
            fence = s.fence + 1, next_at = $5, unsettled_since = $5, settled_at = null,
            proof = null, accepted_at = null, action_id = null
        where s.settled_at is not null
        returning s.vendor_id as "vendor_id!"
        "#,
        step.provision.as_uuid(),
        step.attempt.as_i32(),
        step.resource.to_string(),
        &ids,
        now,
    )
    .fetch_all(&mut *db)
    .await?;
    for id in due {
        let data = json!({"resource": step.resource, "vendor_id": id});
        add_event(db, step, "step.found", data).await?;
    }
    sqlx::query!(
        "update steps set own = true
         where provision_id = $1 and attempt = $2 and resource = $3 and not searches
           and vendor_id = any($4) and settled_at is null and not own",
        step.provision.as_uuid(),
        step.attempt.as_i32(),
        step.resource.to_string(),
        &ids,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Something of the attempt's own is there after all: searches that had settled look again.
async fn reopen_searches(
    db: &mut PgConnection,
    step: &ClaimedStep,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let reopened = sqlx::query_scalar!(
        r#"
        update steps s
        set state = 'due', moved_from = s.state, moved_by = 'seen_again', fence = s.fence + 1,
            next_at = $3, unsettled_since = $3, settled_at = null, proof = null
        where s.provision_id = $1 and s.attempt = $2 and s.searches and s.state = 'gone'
        returning s.resource
        "#,
        step.provision.as_uuid(),
        step.attempt.as_i32(),
        now,
    )
    .fetch_all(&mut *db)
    .await?;
    for resource in reopened {
        let data = json!({"resource": resource, "vendor_id": null,
                          "because": {"resource": step.resource, "vendor_id": step.vendor_id()}});
        add_event(db, step, "step.reopened", data).await?;
    }
    Ok(())
}

/// What has settled may be what a search of the same attempt was waiting for. A search that is
/// being carried out has looked too early: its report will be fenced out.
async fn wake_searches(
    db: &mut PgConnection,
    step: &ClaimedStep,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update steps s
         set state = case s.state when 'leased' then 'leased' else 'due' end,
             next_at = case s.state when 'leased' then s.next_at else $3 end,
             fence = s.fence + 1, moved_from = s.state, moved_by = 'retry_asked'
         where s.provision_id = $1 and s.attempt = $2 and s.searches
           and s.state in ('waiting', 'leased')",
        step.provision.as_uuid(),
        step.attempt.as_i32(),
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Whether an attempt's rollback is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finished {
    Yes,
    No,
}

/// Notes the end of the rollback if this was the attempt's last unsettled step.
async fn finish_rollback(
    db: &mut PgConnection,
    step: &ClaimedStep,
) -> Result<Finished, StoreError> {
    let noted = sqlx::query!(
        "insert into events (provision_id, attempt, kind, data, at)
         select $1, $2, 'rollback.done', '{}', backstop_now()
         where not exists (
             select from steps
             where provision_id = $1 and attempt = $2 and settled_at is null
         )",
        step.provision.as_uuid(),
        step.attempt.as_i32(),
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(if noted == 1 {
        Finished::Yes
    } else {
        Finished::No
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

async fn add_event(
    db: &mut PgConnection,
    step: &ClaimedStep,
    kind: &str,
    data: Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into events (provision_id, attempt, kind, data, at)
         values ($1, $2, $3, $4, backstop_now())",
        step.provision.as_uuid(),
        step.attempt.as_i32(),
        kind,
        data,
    )
    .execute(db)
    .await?;
    Ok(())
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
        | Outcome::Released => None,
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
