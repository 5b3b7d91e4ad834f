//! What a sweep found: written down when it ends, shown until one no longer sees it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Sweep;
use crate::domain::orphans::{Action, Kind, Orphan, Sighting, Why};
use crate::store::StoreError;
use crate::store::notices::{self, Subscriber};

/// What a sweep writes down when it ends.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// What should not be there.
    pub orphans: Vec<Orphan>,
    /// What must go and is being rolled back. It stays listed if an earlier sweep found it.
    pub under_way: Vec<Sighting>,
    /// Kinds whose list could not be read: what was found of them earlier stays listed.
    pub unread: Vec<Kind>,
    /// A sentence for each thing that went wrong.
    pub errors: Vec<String>,
    /// How many things carry another controller's id.
    pub not_ours: usize,
    /// What costs are counted in; `None` if nothing costs.
    pub currency: Option<String>,
}

/// Ends a sweep: all that it found is listed, and what it no longer saw is not. The orphans that no
/// sweep saw before, by subject, of which `subscriber` is told.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then nothing was.
pub async fn finish(
    db: &mut PgConnection,
    sweep: &Sweep,
    findings: &Findings,
    subscriber: Subscriber,
) -> Result<BTreeMap<String, OrphanView>, StoreError> {
    let mut transaction = db.begin().await?;
    let new = list(&mut transaction, sweep, &findings.orphans).await?;
    if subscriber == Subscriber::Webhook && !new.is_empty() {
        let found = SweepView::new(sweep, findings, new.values().cloned());
        notices::add(&mut transaction, notices::Kind::OrphansFound, &found).await?;
    }
    let under_way: Vec<String> = findings.under_way.iter().map(Sighting::subject).collect();
    sqlx::query!(
        "update orphans
         set last_seen_at = greatest(last_seen_at, $2), sweep_id = $3
         where subject = any ($1)",
        &under_way,
        sweep.started_at,
        sweep.id,
    )
    .execute(&mut *transaction)
    .await?;
    // By when it was last seen: a sweep that was begun later may have ended before this one.
    let unread: Vec<String> = findings.unread.iter().map(Kind::to_string).collect();
    sqlx::query!(
        "delete from orphans where last_seen_at < $1 and kind <> all ($2)",
        sweep.started_at,
        &unread,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update sweeps
         set finished_at = backstop_now(), held_until = null, errors = $2, not_ours = $3,
             currency = $4
         where id = $1",
        sweep.id,
        json!(findings.errors),
        count(findings.not_ours),
        findings.currency,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "delete from sweeps s
         where s.started_at < backstop_now() - interval '7 days' and s.id <> $1
           and s.held_until is null
           and not exists (select from orphans o where o.sweep_id = s.id)",
        sweep.id,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(new)
}

async fn list(
    db: &mut PgConnection,
    sweep: &Sweep,
    orphans: &[Orphan],
) -> Result<BTreeMap<String, OrphanView>, StoreError> {
    let rows: Vec<_> = orphans
        .iter()
        .map(|orphan| {
            json!({
                "subject": orphan.subject(),
                "kind": orphan.seen.kind,
                "vendor_id": orphan.seen.id,
                "vendor": orphan.seen.kind.vendor(),
                "name": orphan.seen.name,
                "provision_id": orphan.provision(),
                "attempt": orphan.attempt(),
                "why": orphan.why,
                "action": orphan.action,
                "hourly_cost": orphan.hourly_cost,
            })
        })
        .collect();
    let listed = sqlx::query!(
        r#"
        insert into orphans as o (subject, kind, vendor_id, vendor, name, provision_id, attempt, why,
                                  action, hourly_cost, first_seen_at, last_seen_at, sweep_id)
        select s.subject, s.kind, s.vendor_id, s.vendor, s.name, s.provision_id, s.attempt, s.why,
               s.action, s.hourly_cost, $2, $2, $3
        from jsonb_to_recordset($1) as s (
            subject text, kind text, vendor_id text, vendor text, name text, provision_id uuid,
            attempt integer, why text, action text, hourly_cost numeric
        )
        on conflict (subject) do update
        set vendor_id = excluded.vendor_id,
            name = excluded.name,
            provision_id = excluded.provision_id,
            attempt = excluded.attempt,
            why = excluded.why,
            action = excluded.action,
            hourly_cost = coalesce(excluded.hourly_cost, o.hourly_cost),
            last_seen_at = greatest(o.last_seen_at, excluded.last_seen_at),
            sweep_id = excluded.sweep_id
        returning o.subject, o.first_seen_at = $2 as "new!",
                  to_jsonb(o) as "orphan!: Json<OrphanView>"
        "#,
        json!(rows),
        sweep.started_at,
        sweep.id,
    )
    .fetch_all(db)
    .await?;
    Ok(listed
        .into_iter()
        .filter(|row| row.new)
        .map(|row| (row.subject, row.orphan.0))
        .collect())
}

/// What the last sweep found, as dashboards see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Sweep)]
pub struct SweepView {
    /// When its lists were begun; `None` before the first.
    pub swept_at: Option<DateTime<Utc>>,
    /// Whether all that there is to look at was looked at.
    pub complete: bool,
    /// A sentence for each thing that went wrong.
    pub errors: Vec<String>,
    /// What costs are counted in; `None` if nothing costs.
    pub currency: Option<String>,
    /// What all of it costs an hour, net, as far as that is known.
    pub hourly_cost: f64,
    /// How many things carry another controller's id. They are left alone.
    pub not_ours: i32,
    /// What should not be there, the oldest first.
    pub orphans: Vec<OrphanView>,
}

impl SweepView {
    /// What one sweep found, and of its orphans only these.
    fn new(sweep: &Sweep, findings: &Findings, orphans: impl Iterator<Item = OrphanView>) -> Self {
        let orphans: Vec<_> = orphans.collect();
        let costs = || orphans.iter().filter_map(|orphan| orphan.hourly_cost);
        Self {
            swept_at: Some(sweep.started_at),
            complete: findings.errors.is_empty(),
            errors: findings.errors.clone(),
            currency: findings
                .currency
                .clone()
                .filter(|_| costs().next().is_some()),
            hourly_cost: costs().sum(),
            not_ours: count(findings.not_ours),
            orphans,
        }
    }
}

/// An orphan as dashboards see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Orphan)]
pub struct OrphanView {
    /// `hetzner` or `tailscale`.
    pub vendor: String,
    /// `server`, `volume`, `primary_ip`, `floating_ip`, `device` or `auth_key`.
    #[schema(value_type = Kind)]
    pub kind: String,
    /// What its vendor calls it.
    #[serde(rename(deserialize = "vendor_id"))]
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The provision that it names, whether there is one or not.
    pub provision_id: Option<Uuid>,
    /// The attempt that it names.
    pub attempt: Option<i32>,
    /// Why it is one.
    #[schema(value_type = Why)]
    pub why: String,
    /// What is done about it.
    #[schema(value_type = Action)]
    pub action: String,
    /// When a sweep first saw it.
    #[serde(rename(deserialize = "first_seen_at"))]
    pub since: DateTime<Utc>,
    /// What it costs an hour, net; `None` for nothing, or if that is not known.
    pub hourly_cost: Option<f64>,
}

/// What the last sweep that ended found, with what earlier ones found where it could not look.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn latest(db: &mut PgConnection) -> Result<SweepView, StoreError> {
    let row = sqlx::query!(
        r#"
        select s.started_at as "started_at?",
               s.errors as "errors?: Json<Vec<String>>",
               s.not_ours as "not_ours?",
               (select currency from sweeps where currency is not null
                order by id desc limit 1) as currency,
               o.hourly_cost,
               o.orphans as "orphans: Json<Vec<OrphanView>>"
        from (
            select sum(hourly_cost)::double precision as hourly_cost,
                   jsonb_agg(to_jsonb(o) order by first_seen_at, subject) as orphans
            from orphans o
        ) o
        left join (
            select started_at, errors, not_ours
            from sweeps
            where finished_at is not null
            order by id desc
            limit 1
        ) s on true
        "#
    )
    .fetch_one(db)
    .await?;
    let errors = row.errors.map(|errors| errors.0);
    Ok(SweepView {
        swept_at: row.started_at,
        complete: errors.as_ref().is_some_and(Vec::is_empty),
        errors: errors.unwrap_or_default(),
        currency: row.currency.filter(|_| row.hourly_cost.is_some()),
        hourly_cost: row.hourly_cost.unwrap_or_default(),
        not_ours: row.not_ours.unwrap_or_default(),
        orphans: row.orphans.map(|orphans| orphans.0).unwrap_or_default(),
    })
}

fn count(things: usize) -> i32 {
    i32::try_from(things).unwrap_or(i32::MAX)
}
