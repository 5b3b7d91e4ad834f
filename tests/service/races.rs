//! A message and a claim at the same moment: either the claim sees the message, or it settles nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop::domain::callback::{Callback, Message, decide};
use backstop::domain::fields::VendorId;
use backstop::domain::names::{ProvisionId, Run};
use backstop::domain::provision::{Failure, Reported};
use backstop::domain::step::{Proof, Resource};
use backstop::rollback::rollback_failed_provision;
use backstop::store::ledger::{
    ClaimedStep, Outcome, Reported as Report, Subject, claim_due_steps, report,
};
use backstop::store::notices::Subscriber;
use backstop::store::provisions::{Written, read_for_callback, write};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::harness::{PATIENCE, database};

const HOUR: Duration = Duration::from_secs(3600);

fn failure(provision: ProvisionId, may_exist: &[Resource], server: Option<&str>) -> Callback {
    let server_id = server.map(|id| VendorId::parse(Resource::Server, id).unwrap());
    Callback {
        provision,
        run: Run { id: 1, attempt: 1 },
        job: None,
        unreadable: Vec::new(),
        message: Message::Failure(Failure {
            reported: Reported {
                server_id,
                ..Reported::default()
            },
            error: None,
            failed_step: None,
            conclusion: None,
            may_exist: may_exist.iter().copied().collect(),
        }),
    }
}

/// Reads, decides and writes, as the service does.
async fn hear(db: &mut PgConnection, callback: &Callback) {
    let snapshot = read_for_callback(db, callback).await.unwrap();
    let mut change = decide(snapshot, callback, HOUR).unwrap().change.unwrap();
    rollback_failed_provision(&mut change, &[Resource::Server, Resource::Device]);
    assert_eq!(write(db, &change).await.unwrap(), Written::Yes);
}

async fn claim(db: &mut PgConnection, resource: Resource) -> Vec<ClaimedStep> {
    let lease = Duration::from_secs(120);
    claim_due_steps(db, &[resource], 50, lease, HOUR)
        .await
        .unwrap()
}

async fn tell(db: &mut PgConnection, step: &ClaimedStep, outcome: Outcome) -> Report {
    let mut transaction = db.begin().await.unwrap();
    let reported = report(&mut transaction, step, &outcome, HOUR, Subscriber::Nobody)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    reported
}

/// A provision that failed before it began to create a server, and three connections.
async fn failed() -> (ProvisionId, [PgConnection; 3]) {
    let options = database().await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(options.connect().await.unwrap());
    }
    let id = ProvisionId::new(Uuid::new_v4());
    hear(&mut connections[0], &failure(id, &[], None)).await;
    (id, connections.try_into().unwrap())
}

/// Until a task is through, or waits for a lock.
async fn through_or_waiting<T>(task: &JoinHandle<T>, witness: &mut PgConnection) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'";
    while !task.is_finished() {
        let waiting: i64 = sqlx::query_scalar(waits)
            .fetch_one(&mut *witness)
            .await
            .unwrap();
        if waiting > 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_claim_before_a_messages_commit_is_not_made_on_what_was_known_before_it() {
    let (id, [mut speaker, mut worker, _]) = failed().await;
    let mut message = speaker.begin().await.unwrap();
    hear(&mut message, &failure(id, &[Resource::Server], None)).await;
    let early = claim(&mut worker, Resource::Server).await;
    message.commit().await.unwrap();
    for step in &early {
        let nothing = Outcome::Gone(Proof::NeverAppeared);
        let reported = tell(&mut worker, step, nothing).await;
        assert_eq!(reported, Report::FencedOut, "{:?}", step.known);
    }
    let late = claim(&mut worker, Resource::Server).await;
    assert_eq!(late.len(), 1);
    assert!(late[0].known.server_may_exist);
}

/// From then on whoever has set `races.waits` stops where a claim asks for the time: after it has begun,
/// and before it has locked anything. The others go on.
const CLAIMS_WAIT: &str = "
    create or replace function backstop_now() returns timestamptz language plpgsql volatile as $$
    begin
        if current_setting('races.waits', true) = 'yes' then
            perform pg_advisory_xact_lock_shared(1);
        end if;
        return (select now() + clock_offset from controller);
    end $$;
    select pg_advisory_lock(1)";

#[tokio::test]
async fn a_message_between_a_claims_beginning_and_its_lock_is_not_overlooked() {
    let (id, [mut speaker, mut worker, mut witness]) = failed().await;
    sqlx::raw_sql(CLAIMS_WAIT)
        .execute(&mut speaker)
        .await
        .unwrap();
    sqlx::raw_sql("set races.waits = 'yes'")
        .execute(&mut worker)
        .await
        .unwrap();
    let claiming = tokio::spawn(async move {
        let claimed = claim(&mut worker, Resource::Server).await;
        (worker, claimed)
    });
    through_or_waiting(&claiming, &mut witness).await;
    assert!(!claiming.is_finished());
    hear(&mut speaker, &failure(id, &[Resource::Server], None)).await;
    sqlx::raw_sql("select pg_advisory_unlock(1)")
        .execute(&mut speaker)
        .await
        .unwrap();
    let (mut worker, claimed) = claiming.await.unwrap();
    for step in &claimed {
        let nothing = Outcome::Gone(Proof::NeverAppeared);
        let reported = tell(&mut worker, step, nothing).await;
        assert_eq!(reported, Report::FencedOut, "{:?}", step.known);
    }
    let late = claim(&mut worker, Resource::Server).await;
    assert_eq!(late.len(), 1);
    assert!(late[0].known.server_may_exist);
}

#[tokio::test]
async fn a_message_that_meets_a_claim_before_its_commit_fences_it() {
    let (id, [mut speaker, mut worker, mut witness]) = failed().await;
    let mut claiming = worker.begin().await.unwrap();
    let claimed = claim(&mut claiming, Resource::Server).await;
    assert_eq!(claimed.len(), 1);
    let message = tokio::spawn(async move {
        hear(&mut speaker, &failure(id, &[Resource::Server], None)).await;
    });
    through_or_waiting(&message, &mut witness).await;
    claiming.commit().await.unwrap();
    message.await.unwrap();
    let nothing = Outcome::Gone(Proof::NeverAppeared);
    let reported = tell(&mut worker, &claimed[0], nothing).await;
    assert_eq!(reported, Report::FencedOut);
}

#[tokio::test]
async fn an_id_that_is_named_again_while_it_is_in_hand_is_looked_at_again() {
    let (id, [mut db, ..]) = failed().await;
    hear(&mut db, &failure(id, &[], Some("42"))).await;
    let claimed = claim(&mut db, Resource::Server).await;
    let subjects: BTreeSet<bool> = claimed
        .iter()
        .map(|step| step.subject == Subject::Search)
        .collect();
    assert_eq!(subjects.len(), 2);
    // Worded anew, or it would be the same message.
    let mut again = failure(id, &[], Some("42"));
    if let Message::Failure(failure) = &mut again.message {
        failure.error = Some("again".to_owned());
    }
    hear(&mut db, &again).await;
    for step in &claimed {
        let outcome = match step.subject {
            Subject::Search => Outcome::Gone(Proof::NeverAppeared),
            Subject::Id(_) => Outcome::NotOurs {
                because: "without labels".to_owned(),
            },
        };
        let reported = tell(&mut db, step, outcome).await;
        assert_eq!(reported, Report::FencedOut, "{:?}", step.subject);
    }
}

#[tokio::test]
async fn a_search_that_is_claimed_while_what_it_waits_for_settles_is_woken() {
    let (_, [mut other, mut worker, mut witness]) = failed().await;
    let server = claim(&mut other, Resource::Server).await.remove(0);
    let look_in = Duration::ZERO;
    let not_yet = tell(&mut other, &server, Outcome::NotSeen { look_in }).await;
    assert_eq!(not_yet, Report::Yes);
    let server = claim(&mut other, Resource::Server).await.remove(0);
    let mut claiming = worker.begin().await.unwrap();
    let device = claim(&mut claiming, Resource::Device).await.remove(0);
    assert!(!device.known.servers_settled);
    let settling = tokio::spawn(async move {
        let gone = Outcome::Gone(Proof::NeverAppeared);
        assert_eq!(tell(&mut other, &server, gone).await, Report::Yes);
    });
    through_or_waiting(&settling, &mut witness).await;
    claiming.commit().await.unwrap();
    settling.await.unwrap();
    // What it found out by then is no reason to wait.
    let look_in = Duration::from_secs(20);
    let reported = tell(&mut worker, &device, Outcome::NotSeen { look_in }).await;
    assert_eq!(reported, Report::FencedOut);
    let device = claim(&mut worker, Resource::Device).await.remove(0);
    assert!(device.known.servers_settled);
}
