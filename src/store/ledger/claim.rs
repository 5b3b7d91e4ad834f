//! Taking steps in hand.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{AcceptedDelete, ClaimedStep, Subject};
use crate::domain::absence::{Circumstances, Finds};
use crate::domain::names::{AttemptNumber, ProvisionId, Run};
use crate::domain::step::{Proof, Resource};
use crate::store::rows::Place;
use crate::store::{StoreError, interval};

/// How long a step waits for the one that should go first to be tried at all. Longer than a lease,
/// for a crash; not for ever, for the credential that it needs may have been taken away.
const UNTRIED_PATIENCE: Duration = Duration::from_secs(180);

/// Claims up to `limit` steps of these kinds that are due, for `lease`. A step whose attempt has
/// an untried step that should go first is left alone.
///
/// A step that was written to since this began is left alone: it would be locked as it is and judged by
/// what its attempt and its neighbours were. So whatever a message or another step adds either is seen
/// here or bumps the fence of what is claimed here.
///
/// A step that does not parse is left out and logged, again at every claim.
///
/// # Errors
/// [`StoreError`] if the database cannot be written.
pub async fn claim_due_steps(
    db: &mut PgConnection,
    resources: &[Resource],
    limit: u32,
    lease: Duration,
    late_arrival_window: Duration,
) -> Result<Vec<ClaimedStep>, StoreError> {
    let token = Uuid::new_v4();
    let kinds: Vec<String> = resources.iter().map(Resource::to_string).collect();
    let rows = sqlx::query_as!(
        ClaimedRow,
        r#"
        with picked as (
            select s.id, a.run_id, a.run_attempt, a.may_exist,
                   greatest(a.last_message_at, a.rollback_started_at) as watched_from
            from steps s
            join attempts a on a.provision_id = s.provision_id and a.number = s.attempt
            where s.next_at <= backstop_now()
              and s.resource = any($1)
              -- Asked again of the row as it is locked; this reads it as it was.
              and s.fence = (select was.fence from steps was where was.id = s.id)
              and not exists (
                  select from steps before
                  where before.provision_id = s.provision_id
                    and before.attempt = s.attempt
                    and before.tries = 0
                    and before.settled_at is null
                    and before.unsettled_since > backstop_now() - $5::interval
                    and (
                        (before.resource = 'auth_key' and s.resource <> 'auth_key')
                        or (before.resource = 'server' and s.resource = 'device')
                    )
              )
            order by s.next_at
            limit $2
            for update of s skip locked
        )
        update steps s
        set state = 'leased',
            lease = $3,
            fence = s.fence + 1,
            tries = s.tries + case s.state when 'leased' then 1 else 0 end,
            next_at = backstop_now() + $4,
            moved_from = s.state,
            moved_by = 'claimed'
        from picked
        where s.id = picked.id
        returning s.id, s.provision_id, s.attempt, s.resource, s.searches, s.vendor_id, s.own,
                  s.fence, s.action_id, s.accepted_at, s.failures, s.last_error,
                  s.unsettled_since, s.stuck_at is not null as "was_stuck!",
                  picked.run_id as "run_id!", picked.run_attempt as "run_attempt!",
                  picked.watched_from as "watched_from!",
                  picked.may_exist as "may_exist: Json<BTreeSet<Resource>>",
                  backstop_now() as "now!",
                  (s.searches and s.vendor_id is not null) or exists (
                      select from steps o
                      where o.provision_id = s.provision_id and o.attempt = s.attempt
                        and o.resource = s.resource and o.own
                  ) as "seen!",
                  exists (
                      select from steps o
                      where o.provision_id = s.provision_id and o.attempt = s.attempt
                        and o.resource = s.resource and o.own and o.settled_at is null
                  ) as "unsettled!",
                  exists (
                      select from steps o
                      where o.provision_id = s.provision_id and o.attempt = s.attempt
                        and o.resource = s.resource and o.own and o.proof = 'deleted'
                  ) as "deleted!",
                  not exists (
                      select from steps o
                      where o.provision_id = s.provision_id and o.attempt = s.attempt
                        and o.resource = 'server' and o.settled_at is null
                  ) as "servers_settled!",
                  not exists (
                      select from steps o
                      where o.provision_id = s.provision_id and o.attempt = s.attempt
                        and o.resource = 'auth_key' and o.settled_at is null
                  ) as "keys_settled!"
        "#,
        &kinds,
        i64::from(limit),
        token,
        interval(lease),
        interval(UNTRIED_PATIENCE),
    )
    .fetch_all(db)
    .await?;

    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let step = row.parse(token, late_arrival_window);
            // One row that nobody can read must not keep the others of its batch from being done.
            step.inspect_err(|error| tracing::error!(%error, "a step cannot be carried out"))
                .ok()
        })
        .collect())
}

/// What a claim returns: the step, its attempt, and what is known of the steps beside it.
#[expect(clippy::struct_excessive_bools, reason = "one each for a column")]
struct ClaimedRow {
    id: i64,
    provision_id: Uuid,
    attempt: i32,
    resource: String,
    searches: bool,
    vendor_id: Option<String>,
    own: bool,
    fence: i64,
    action_id: Option<String>,
    accepted_at: Option<DateTime<Utc>>,
    failures: i32,
    last_error: Option<String>,
    unsettled_since: DateTime<Utc>,
    was_stuck: bool,
    run_id: i64,
    run_attempt: i32,
    watched_from: DateTime<Utc>,
    may_exist: Json<BTreeSet<Resource>>,
    now: DateTime<Utc>,
    seen: bool,
    unsettled: bool,
    deleted: bool,
    servers_settled: bool,
    keys_settled: bool,
}

impl ClaimedRow {
    fn parse(self, lease: Uuid, late_arrival_window: Duration) -> Result<ClaimedStep, StoreError> {
        let place = Place {
            table: "steps",
            id: self.id.to_string(),
        };
        let resource = place.parse("resource", &self.resource)?;
        let vendor_id = place.vendor_id("vendor_id", resource, self.vendor_id.as_deref())?;
        let subject = match vendor_id {
            _ if self.searches => Subject::Search,
            Some(id) => Subject::Id(id),
            None => return Err(place.corrupt("vendor_id", "is missing")),
        };
        let action_id = self
            .action_id
            .map(|id| place.parse("action_id", &id))
            .transpose()?;
        let finds = match (self.seen, self.unsettled, self.deleted) {
            (false, ..) => Finds::Nothing,
            (true, true, _) => Finds::Unsettled,
            (true, false, true) => Finds::Gone(Proof::Deleted),
            (true, false, false) => Finds::Gone(Proof::AlreadyGone),
        };
        Ok(ClaimedStep {
            provision: ProvisionId::new(self.provision_id),
            attempt: AttemptNumber::new(self.attempt)
                .ok_or_else(|| place.corrupt("attempt", "is negative"))?,
            run: Run {
                id: self.run_id,
                attempt: self.run_attempt,
            },
            resource,
            subject,
            own: self.own,
            accepted: self.accepted_at.map(|at| AcceptedDelete {
                since: (self.now - at).to_std().unwrap_or_default(),
                action_id,
                at,
            }),
            failures: self.failures.unsigned_abs(),
            known: Circumstances {
                finds,
                server_may_exist: self.may_exist.contains(&Resource::Server),
                servers_settled: self.servers_settled,
                keys_settled: self.keys_settled,
                window_ends: self.watched_from + late_arrival_window,
                now: self.now,
            },
            id: self.id,
            fence: self.fence,
            lease,
            last_error: self.last_error,
            unsettled_since: self.unsettled_since,
            was_stuck: self.was_stuck,
        })
    }
}
