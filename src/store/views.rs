//! What the status API shows: a provision with its rollback, lists of them, the history.
//!
//! Each call is one statement, so what it shows was true at one moment.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;
use utoipa::openapi::{Object, ObjectBuilder, Type};
use uuid::Uuid;

use super::StoreError;
use super::rows::{AttemptRow, Place, StepRow};
use crate::domain::fields::{Conclusion, Reason};
use crate::domain::names::{AttemptNumber, Names, ProvisionId};
use crate::domain::spelling::spelled_by_serde;
use crate::domain::step::{Proof, Resource};
use crate::domain::transition::Status;

/// A provision as dashboards see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Provision)]
pub struct ProvisionView {
    /// Its id.
    pub id: Uuid,
    /// A label for people.
    pub agent_id: Option<String>,
    /// Where it runs.
    pub region: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Number of the current attempt; 0 before any run took it.
    pub attempt: i32,
    /// The run that owns the current attempt; before any run took it, the one that was dispatched
    /// for it.
    pub run_id: Option<i64>,
    /// Which re-run of it.
    pub run_attempt: Option<i32>,
    /// The last step that the workflow reported.
    pub step: Option<String>,
    /// What the current attempt's server and device are called; `None` before any run took it.
    pub server_name: Option<String>,
    /// As reported.
    pub server_id: Option<String>,
    /// As reported.
    pub server_ip: Option<String>,
    /// As reported.
    pub tailscale_ip: Option<String>,
    /// What went wrong, in the workflow's words; if it could not be dispatched, in GitHub's.
    pub error: Option<String>,
    /// Which of the workflow's steps failed.
    pub failed_step: Option<String>,
    /// How the workflow says it ended.
    #[schema(value_type = Option<Conclusion>)]
    pub conclusion: Option<String>,
    /// When it was first heard of.
    pub created_at: DateTime<Utc>,
    /// When anything but a heartbeat last changed it.
    pub updated_at: DateTime<Utc>,
    /// When the current attempt last sent a heartbeat.
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    /// When a terminal callback is due; `None` when none is.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When the current attempt succeeded or, later, was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// What is undone and was; `None` if nothing ever had to be.
    pub rollback: Option<RollbackView>,
}

/// How far a rollback has come.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Rollback)]
pub struct RollbackView {
    /// The worst of its steps.
    pub state: RollbackState,
    /// Why; of the newest attempt that is over.
    #[schema(value_type = Option<Reason>)]
    pub reason: Option<String>,
    /// Since when.
    pub started_at: Option<DateTime<Utc>>,
    /// When the last step settled; `None` while one is unsettled.
    pub settled_at: Option<DateTime<Utc>>,
    /// What had to go.
    pub steps: Vec<StepView>,
}

/// The worst of a rollback's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RollbackState {
    /// A step is unsettled.
    Pending,
    /// All is proven gone, or a hint that was not ours.
    Done,
    /// A step is flagged stuck; it is still retried.
    Stuck,
}

spelled_by_serde!(RollbackState);

/// A rollback step as dashboards see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = RollbackStep)]
pub struct StepView {
    /// Of which attempt.
    pub attempt: i32,
    /// `auth_key`, `server` or `device`.
    #[schema(value_type = Resource)]
    pub resource: String,
    /// The vendor's id; `None` for a search that has found nothing.
    pub vendor_id: Option<String>,
    /// `due`, `waiting`, `leased`, `gone` or `refused`.
    #[schema(schema_with = step_state)]
    pub state: String,
    /// Unsettled for too long, or refused by the vendor in a way that needs a person.
    pub stuck: bool,
    /// `deleted`, `already_gone` or `never_appeared` once it is gone.
    #[schema(value_type = Option<Proof>)]
    pub proof: Option<String>,
    /// Tries so far.
    pub tries: i32,
    /// When it is next tried or looked at; `None` while a worker has it, and once it is settled.
    pub next_try_at: Option<DateTime<Utc>>,
    /// What the last failed try met.
    pub last_error: Option<String>,
    /// When it settled.
    pub settled_at: Option<DateTime<Utc>>,
}

fn step_state() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["due", "waiting", "leased", "gone", "refused"]))
        .build()
}

/// A line of a provision's history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Grows with the history.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// What happened.
    pub kind: String,
    /// About which attempt.
    pub attempt: i32,
    /// What was said.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// Where a page of a list begins: after this provision, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its `created_at`.
    pub created_at: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

/// A row of `provision_records`.
struct Record {
    now: DateTime<Utc>,
    id: Uuid,
    agent_id: Option<String>,
    region: Option<String>,
    status: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    current: Json<AttemptRow>,
    over: Option<Json<Vec<AttemptRow>>>,
    steps: Option<Json<Vec<StepRow>>>,
    dispatched_run_id: Option<i64>,
}

/// A provision with the rollbacks of all its attempts. `None` for an id that was never seen.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn provision(
    db: &mut PgConnection,
    id: ProvisionId,
    stuck_after: Duration,
) -> Result<Option<ProvisionView>, StoreError> {
    let record = record(db, id).await?;
    record.map(|record| record.view(stuck_after)).transpose()
}

/// A provision's status and the rollback of one attempt alone. `None` for an id never seen.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn rollback_of_attempt(
    db: &mut PgConnection,
    id: ProvisionId,
    attempt: AttemptNumber,
    stuck_after: Duration,
) -> Result<Option<(Status, Option<RollbackView>)>, StoreError> {
    let record = record(db, id).await?;
    record
        .map(|record| {
            let rollback = record.rollback(stuck_after, |number| number == attempt.as_i32());
            Ok((record.status()?, rollback))
        })
        .transpose()
}

async fn record(db: &mut PgConnection, id: ProvisionId) -> Result<Option<Record>, StoreError> {
    Ok(sqlx::query_as!(
        Record,
        r#"
        select backstop_now() as "now!", id as "id!", agent_id, region, status as "status!",
               created_at as "created_at!", updated_at as "updated_at!",
               current as "current!: Json<AttemptRow>",
               over as "over: Json<Vec<AttemptRow>>",
               steps as "steps: Json<Vec<StepRow>>", dispatched_run_id
        from provision_records
        where id = $1
        "#,
        id.as_uuid(),
    )
    .fetch_optional(db)
    .await?)
}

/// Those of these provisions that there are, in no order. One that does not parse is left out and
/// logged: it must not hide the others.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn provisions_with_ids(
    db: &mut PgConnection,
    ids: &[Uuid],
    stuck_after: Duration,
) -> Result<Vec<ProvisionView>, StoreError> {
    let records = sqlx::query_as!(
        Record,
        r#"
        select backstop_now() as "now!", id as "id!", agent_id, region, status as "status!",
               created_at as "created_at!", updated_at as "updated_at!",
               current as "current!: Json<AttemptRow>",
               over as "over: Json<Vec<AttemptRow>>",
               steps as "steps: Json<Vec<StepRow>>", dispatched_run_id
        from provision_records
        where id = any($1)
        "#,
        ids,
    )
    .fetch_all(db)
    .await?;
    Ok(records
        .into_iter()
        .filter_map(|record| {
            let view = record.view(stuck_after);
            view.inspect_err(|error| tracing::error!(%error, "a provision cannot be shown"))
                .ok()
        })
        .collect())
}

/// A provision's whole history, oldest first. `None` for an id that was never seen.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn events(
    db: &mut PgConnection,
    id: ProvisionId,
) -> Result<Option<Vec<EventView>>, StoreError> {
    let events = sqlx::query_as!(
        EventView,
        "select id, at, kind, attempt, data from events where provision_id = $1 order by id",
        id.as_uuid(),
    )
    .fetch_all(db)
    .await?;
    // Whatever is in the database has at least the event that put it there.
    Ok((!events.is_empty()).then_some(events))
}

impl Record {
    fn status(&self) -> Result<Status, StoreError> {
        let place = Place {
            table: "provisions",
            id: self.id.to_string(),
        };
        place.parse("status", &self.status)
    }

    fn view(self, stuck_after: Duration) -> Result<ProvisionView, StoreError> {
        let status = self.status()?;
        let rollback = self.rollback(stuck_after, |_| true);
        let current = self.current.0;
        let attempt = AttemptNumber::new(current.number).unwrap_or_default();
        Ok(ProvisionView {
            id: self.id,
            agent_id: self.agent_id,
            region: self.region,
            status,
            attempt: current.number,
            // Only attempt 0 has no run of its own.
            run_id: current.run_id.or(self.dispatched_run_id),
            run_attempt: current.run_attempt,
            step: current.step,
            server_name: (attempt != AttemptNumber::UNTAKEN)
                .then(|| Names::new(ProvisionId::new(self.id), attempt).server_name()),
            server_id: current.server_id,
            server_ip: current.server_ip,
            tailscale_ip: current.tailscale_ip,
            error: current.error,
            failed_step: current.failed_step,
            conclusion: current.conclusion,
            created_at: self.created_at,
            updated_at: self.updated_at,
            last_heartbeat_at: current.last_heartbeat_at,
            deadline_at: match status {
                Status::Queued | Status::Provisioning => Some(current.deadline_at),
                Status::Running | Status::Failed | Status::Destroyed => None,
            },
            finished_at: current.finished_at,
            rollback,
        })
    }

    /// The rollback of these attempts. `None` if none of them is over.
    fn rollback(&self, stuck_after: Duration, of: impl Fn(i32) -> bool) -> Option<RollbackView> {
        let mut over = self.over.iter().flat_map(|over| &over.0);
        let newest = over.rfind(|attempt| of(attempt.number))?;
        let steps: Vec<StepView> = self
            .steps
            .iter()
            .flat_map(|steps| &steps.0)
            .filter(|step| of(step.attempt))
            .map(|step| step.view(self.now, stuck_after))
            .collect();
        let state = if steps.iter().any(|step| step.stuck) {
            RollbackState::Stuck
        } else if steps.iter().any(|step| step.settled_at.is_none()) {
            RollbackState::Pending
        } else {
            RollbackState::Done
        };
        let settled_at = match state {
            // Where nothing had to go, it was done as soon as it began.
            RollbackState::Done => steps
                .iter()
                .filter_map(|step| step.settled_at)
                .chain(newest.rollback_started_at)
                .max(),
            RollbackState::Pending | RollbackState::Stuck => None,
        };
        Some(RollbackView {
            state,
            reason: newest.reason.clone(),
            started_at: newest.rollback_started_at,
            settled_at,
            steps,
        })
    }
}

impl StepRow {
    fn view(&self, now: DateTime<Utc>, stuck_after: Duration) -> StepView {
        let overdue = self.unsettled_since + stuck_after <= now;
        StepView {
            attempt: self.attempt,
            resource: self.resource.clone(),
            vendor_id: self.vendor_id.clone(),
            state: self.state.clone(),
            stuck: self.settled_at.is_none() && (self.stuck_at.is_some() || overdue),
            proof: self.proof.clone(),
            tries: self.tries,
            // While it is leased this is the end of the lease.
            next_try_at: self.next_at.filter(|_| self.state != "leased"),
            last_error: self.last_error.clone(),
            settled_at: self.settled_at,
        }
    }
}
