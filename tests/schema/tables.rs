//! Each pair of state and event is tried against the database, and must be taken or refused there
//! exactly as the pure function takes or refuses it.

use backstop::domain::step::{Proof, StepEvent, StepState};
use backstop::domain::transition::{Move, Status, transition};
use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use uuid::Uuid;

use crate::harness::database;

const STATUSES: [Status; 5] = [
    Status::Queued,
    Status::Provisioning,
    Status::Running,
    Status::Failed,
    Status::Destroyed,
];
const MOVES: [Move; 13] = [
    Move::Created,
    Move::Started,
    Move::Progress,
    Move::Success,
    Move::Failure,
    Move::Late,
    Move::Retry,
    Move::Destroyed,
    Move::DispatchFailed,
    Move::Overdue,
    Move::RunFailed,
    Move::Discrepancy,
    Move::Disowned,
];

/// Writes a provision in `status`, as a first write if `from` is `None`, else as an update of one
/// in `from`. Whether the database took it.
async fn takes_move(db: &mut PgConnection, from: Option<Status>, by: Move, to: Status) -> bool {
    let mut transaction = db.begin().await.unwrap();
    let id = Uuid::new_v4();
    let attempt = |status| i32::from(status != Status::Queued);
    if let Some(from) = from {
        let (before, first) = way_to(from);
        sqlx::query(
            "insert into provisions (id, version, status, attempt, moved_from, moved_by,
                                     created_at, updated_at)
             values ($1, 1, $2, $3, $4, $5, now(), now())",
        )
        .bind(id)
        .bind(from.to_string())
        .bind(attempt(from))
        .bind(before)
        .bind(first)
        .execute(&mut *transaction)
        .await
        .unwrap();
        sqlx::query(
            "update provisions set status = $2, attempt = $3, moved_from = status, moved_by = $4
             where id = $1",
        )
        .bind(id)
        .bind(to.to_string())
        .bind(attempt(to))
        .bind(by.to_string())
        .execute(&mut *transaction)
        .await
        .is_ok()
    } else {
        sqlx::query(
            "insert into provisions (id, version, status, attempt, moved_by, created_at, updated_at)
             values ($1, 1, $2, $3, $4, now(), now())",
        )
        .bind(id)
        .bind(to.to_string())
        .bind(attempt(to))
        .bind(by.to_string())
        .execute(&mut *transaction)
        .await
        .is_ok()
    }
}

/// A legal last write that ends in `status`.
fn way_to(status: Status) -> (Option<&'static str>, &'static str) {
    match status {
        Status::Queued => (None, "created"),
        Status::Provisioning => (None, "started"),
        Status::Running => (None, "success"),
        Status::Failed => (None, "failure"),
        Status::Destroyed => (Some("running"), "destroyed"),
    }
}

#[tokio::test]
async fn the_database_takes_the_moves_of_a_provision_that_the_table_lists_and_no_other() {
    let mut db = database().await.connect().await.unwrap();
    let mut taken = 0;
    for from in [None].into_iter().chain(STATUSES.map(Some)) {
        for by in MOVES {
            for to in STATUSES {
                let listed = transition(from, by) == Ok(to);
                let accepted = takes_move(&mut db, from, by, to).await;
                assert_eq!(accepted, listed, "{from:?} moved by {by:?} to {to:?}");
                taken += usize::from(accepted);
            }
        }
    }
    assert_eq!(taken, 42, "the table has changed: look at this test too");
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn step_states() -> [StepState; 5] {
    [
        StepState::Due { at: at(10) },
        StepState::Waiting { at: at(10) },
        StepState::Leased { until: at(10) },
        StepState::Gone(Proof::Deleted),
        StepState::Refused,
    ]
}

fn step_events() -> [StepEvent; 10] {
    [
        StepEvent::Claimed {
            now: at(10),
            until: at(70),
        },
        StepEvent::Accepted { at: at(20) },
        StepEvent::LookAgain { at: at(20) },
        StepEvent::ProvenGone(Proof::AlreadyGone),
        StepEvent::Failed { at: at(20) },
        StepEvent::NotOurs,
        StepEvent::Released { at: at(20) },
        StepEvent::RetryAsked { at: at(20) },
        StepEvent::SeenAgain { at: at(20) },
        StepEvent::Disowned,
    ]
}

/// The columns that go with a state.
fn columns(state: &str) -> &'static str {
    match state {
        "due" | "waiting" => "next_at = now(), lease = null, proof = null, settled_at = null",
        "leased" => "next_at = now(), lease = gen_random_uuid(), proof = null, settled_at = null",
        "gone" => "next_at = null, lease = null, proof = 'deleted', settled_at = now()",
        _ => "next_at = null, lease = null, proof = null, settled_at = now()",
    }
}

/// A legal last write that ends in a state.
fn way_to_step(state: &str) -> (&'static str, &'static str) {
    match state {
        "due" => ("leased", "failed"),
        "waiting" => ("leased", "accepted"),
        "leased" => ("due", "claimed"),
        "gone" => ("leased", "proven_gone"),
        _ => ("leased", "not_ours"),
    }
}

#[tokio::test]
async fn the_database_takes_the_moves_of_a_step_that_the_table_lists_and_no_other() {
    let mut db = database().await.connect().await.unwrap();
    let provision = Uuid::new_v4();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "insert into provisions (id, version, status, attempt, moved_by, created_at, updated_at)
         values ('{provision}', 1, 'failed', 1, 'failure', now(), now());
         insert into attempts (provision_id, number, run_id, run_attempt, hints, may_exist,
                               started_at, last_message_at, deadline_at)
         values ('{provision}', 1, 1, 1, '[]', '[]', now(), now(), now());"
    )))
    .execute(&mut db)
    .await
    .unwrap();

    let mut taken = 0;
    for from in step_states() {
        for event in step_events() {
            for to in step_states() {
                let (from, to_name) = (from, to.name());
                let mut transaction = db.begin().await.unwrap();
                let (before, by) = way_to_step(from.name());
                sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
                    "insert into steps (provision_id, attempt, resource, searches, vendor_id,
                                        state, moved_by, next_at, unsettled_since)
                     values ('{provision}', 1, 'server', false, '1', 'due', 'planned', now(), now());
                     update steps set state = '{}', moved_from = '{before}', moved_by = '{by}', {};",
                    from.name(),
                    columns(from.name()),
                )))
                .execute(&mut *transaction)
                .await
                .unwrap();
                let accepted = sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
                    "update steps set state = '{to_name}', moved_from = state, moved_by = '{}', {}",
                    event.name(),
                    columns(to_name),
                )))
                .execute(&mut *transaction)
                .await
                .is_ok();
                let listed = from.after(event).map(StepState::name) == Ok(to_name);
                assert_eq!(
                    accepted,
                    listed,
                    "{} after {event:?} to {to_name}",
                    from.name()
                );
                taken += usize::from(accepted);
            }
        }
    }
    assert_eq!(taken, 17, "the table has changed: look at this test too");
}
