//! Things that turn out to be an attempt's own: what a search found, or a vendor's list shows after
//! all had been settled. Each gets a step of its own, and whoever searches for that attempt looks
//! again.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::domain::fields::{Hint, VendorId};
use crate::domain::names::{AttemptNumber, ProvisionId};
use crate::domain::step::Resource;
use crate::store::StoreError;

/// An attempt whose things these are.
#[derive(Debug, Clone, Copy)]
pub struct OfAttempt {
    /// Of which provision.
    pub provision: ProvisionId,
    /// Of which attempt.
    pub attempt: AttemptNumber,
}

/// Whether something of the attempt's own was shown that the ledger did not know to be there. What is
/// only seen once more, as everything that cannot be deleted is at each look, must not reopen
/// anything: the searches that it reopens wake the one that found it, without a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighted {
    /// It did not.
    Anew,
    /// It did.
    Before,
}

/// Of these things, those that nobody is after: neither a step of their own nor a search for their
/// kind is unsettled, and no step of their own has settled since `listed_at`, when they were there.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn not_pursued(
    db: &mut PgConnection,
    of: OfAttempt,
    things: &[Hint],
    listed_at: DateTime<Utc>,
) -> Result<Vec<Hint>, StoreError> {
    let resources: Vec<String> = things.iter().map(|it| it.resource.to_string()).collect();
    let ids: Vec<String> = things.iter().map(|it| it.vendor_id.to_string()).collect();
    let pursued = sqlx::query_scalar!(
        r#"
        select exists (
                   select from steps own
                   where own.provision_id = $1 and own.attempt = $2
                     and own.resource = t.resource and own.vendor_id = t.vendor_id
                     and not own.searches and (own.settled_at is null or own.settled_at >= $5)
               ) or exists (
                   select from steps search
                   where search.provision_id = $1 and search.attempt = $2
                     and search.resource = t.resource and search.searches
                     and search.settled_at is null
               ) as "pursued!"
        from unnest($3::text[], $4::text[]) with ordinality as t (resource, vendor_id, n)
        order by t.n
        "#,
        of.provision.as_uuid(),
        of.attempt.as_i32(),
        &resources,
        &ids,
        listed_at,
    )
    .fetch_all(db)
    .await?;
    Ok(things
        .iter()
        .zip(pursued)
        .filter(|(_, pursued)| !pursued)
        .map(|(thing, _)| thing.clone())
        .collect())
}

/// Notes that a list begun at `listed_at` shows these things to be the attempt's own: their steps are
/// due, and its searches look again. What has settled since then stays as it is. The caller holds
/// the provision's row.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn mark_seen(
    db: &mut PgConnection,
    of: OfAttempt,
    things: &[Hint],
    listed_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let mut by_resource: BTreeMap<Resource, BTreeSet<VendorId>> = BTreeMap::new();
    for thing in things {
        let ids = by_resource.entry(thing.resource).or_default();
        ids.insert(thing.vendor_id.clone());
    }
    for (resource, ids) in by_resource {
        if add_found(db, of, resource, &ids, Some(listed_at), now).await? == Sighted::Anew {
            reopen_searches(db, of, (resource, ids.first()), now).await?;
            wake_searches(db, of, None, now).await?;
        }
    }
    Ok(())
}

/// Gives each found thing a step of its own; one that had counted as settled is due again, unless it
/// settled since `listed_at`. One that is in hand learns that it is the attempt's own and is
/// otherwise left alone: that mark is only ever set, so no fence is needed.
pub(super) async fn add_found(
    db: &mut PgConnection,
    of: OfAttempt,
    resource: Resource,
    ids: &BTreeSet<VendorId>,
    listed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Sighted, StoreError> {
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
        where s.settled_at is not null and ($6::timestamptz is null or s.settled_at < $6)
        returning s.vendor_id as "vendor_id!"
        "#,
        of.provision.as_uuid(),
        of.attempt.as_i32(),
        resource.to_string(),
        &ids,
        now,
        listed_at,
    )
    .fetch_all(&mut *db)
    .await?;
    for id in &due {
        let data = json!({"resource": resource, "vendor_id": id});
        add_event(db, of, "step.found", data).await?;
    }
    let recognised = sqlx::query!(
        "update steps set own = true
         where provision_id = $1 and attempt = $2 and resource = $3 and not searches
           and vendor_id = any($4) and settled_at is null and not own",
        of.provision.as_uuid(),
        of.attempt.as_i32(),
        resource.to_string(),
        &ids,
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(if due.is_empty() && recognised == 0 {
        Sighted::Before
    } else {
        Sighted::Anew
    })
}

/// Something of the attempt's own is there after all: searches that had settled look again.
pub(super) async fn reopen_searches(
    db: &mut PgConnection,
    of: OfAttempt,
    because: (Resource, Option<&VendorId>),
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
        of.provision.as_uuid(),
        of.attempt.as_i32(),
        now,
    )
    .fetch_all(&mut *db)
    .await?;
    let because = json!({"resource": because.0, "vendor_id": because.1});
    for resource in reopened {
        let data = json!({"resource": resource, "vendor_id": null, "because": because});
        add_event(db, of, "step.reopened", data).await?;
    }
    Ok(())
}

/// Searches of the attempt look again, but for the one that is reported. One that is being carried out, or
/// claimed at this moment, has looked too early: its report will be fenced out.
pub(super) async fn wake_searches(
    db: &mut PgConnection,
    of: OfAttempt,
    but: Option<i64>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update steps s
         set state = case s.state when 'leased' then 'leased' else 'due' end,
             next_at = case s.state when 'waiting' then $3 else s.next_at end,
             fence = s.fence + 1, moved_from = s.state, moved_by = 'retry_asked'
         where s.provision_id = $1 and s.attempt = $2 and s.searches
           and s.id is distinct from $4 and s.settled_at is null",
        of.provision.as_uuid(),
        of.attempt.as_i32(),
        now,
        but,
    )
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn add_event(
    db: &mut PgConnection,
    of: OfAttempt,
    kind: &str,
    data: Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into events (provision_id, attempt, kind, data, at)
         values ($1, $2, $3, $4, backstop_now())",
        of.provision.as_uuid(),
        of.attempt.as_i32(),
        kind,
        data,
    )
    .execute(db)
    .await?;
    Ok(())
}
