//! Time in which nobody could have heard a callback does not count.

use backstop::domain::names::ProvisionId;
use backstop::store::overdue::{read, soonest};
use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::harness::Service;
use crate::support::{
    PATIENCE, RUN, due_in, failed, heartbeat, hold, is_waited_for, pulsed, secs, under_way,
};

#[tokio::test]
async fn no_silence_is_counted_while_no_replica_could_hear() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    assert_eq!(heartbeat(&service, id).await, 200);
    let stopped = service.stop().await;
    stopped.advance(secs(1000)).await;
    assert_eq!(due_in(&stopped.pool, id).await, None);
    let service = stopped.start().await;

    // Its whole time-out begins anew.
    assert!(is_waited_for(&service, id).await > secs(290));
    service.pass(secs(280)).await;
    assert!(is_waited_for(&service, id).await > secs(0));
    assert_eq!(service.provision(id).await["status"], "provisioning");
    service.pass(secs(21)).await;
    assert_eq!(failed(&service, id).await["rollback"]["reason"], "silent");
    assert_eq!(hold(&service).await, json!(null));
}

#[tokio::test]
async fn a_clock_that_jumps_is_a_gap_and_no_silence() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    assert_eq!(heartbeat(&service, id).await, 200);
    service.advance(secs(1500)).await;
    assert!(is_waited_for(&service, id).await > secs(290));
    pulsed(&service.pool).await;
    assert_eq!(service.provision(id).await["status"], "provisioning");
    assert_eq!(heartbeat(&service, id).await, 200);
}

#[tokio::test]
async fn a_deadline_that_passed_unheard_leaves_time_for_a_last_word() {
    let service = Service::start().await;
    let (succeeds, made) = under_way(&service).await;
    let (says_nothing, _) = under_way(&service).await;
    service.pass(secs(200)).await;
    let stopped = service.stop().await;
    stopped.advance(secs(1700)).await;
    let service = stopped.start().await;

    for id in [succeeds, says_nothing] {
        assert!(is_waited_for(&service, id).await > secs(290));
    }
    // The workflow has repeated it for all that time.
    let answer = service.callback("success", succeeds, RUN, made.ids()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    service.pass(secs(301)).await;
    let provision = service.settled(says_nothing).await;
    assert_eq!(provision["rollback"]["reason"], "deadline");
    assert_eq!(service.provision(succeeds).await["status"], "running");
    assert_eq!(service.alive().len(), 3);
}

#[tokio::test]
async fn one_replica_that_hears_is_enough() {
    let service = Service::start().await;
    let other = service.replica().await;
    let (id, _) = under_way(&service).await;
    pulsed(&service.pool).await;
    let since = async |pool: &PgPool| -> chrono::DateTime<chrono::Utc> {
        sqlx::query_scalar("select since from hearing")
            .fetch_one(pool)
            .await
            .unwrap()
    };
    let before = since(&service.pool).await;
    let stopped = service.stop().await;
    pulsed(&stopped.pool).await;
    assert_eq!(since(&stopped.pool).await, before);
    assert!(due_in(&stopped.pool, id).await > Some(secs(1700)));
    other.stop().await.unwrap();
}

/// SQL orders what is looked at and the domain decides: what one of them forgot would never be
/// failed, or be looked at for ever.
#[tokio::test]
async fn sql_and_the_domain_agree_on_when_time_is_up() {
    let stopped = Service::start().await.stop().await;
    let mut random = StdRng::seed_from_u64(4);
    let ago = |seconds: i64| format!("{seconds} seconds");
    for round in 0..200 {
        let id = Uuid::new_v4();
        let status = ["queued", "provisioning"][random.random_range(0..2)];
        let attempt = i32::from(status == "provisioning");
        sqlx::query(
            "insert into provisions (id, version, status, attempt, moved_by, created_at, updated_at)
             values ($1, 1, $2, $3, case $2 when 'queued' then 'created' else 'started' end,
                     now(), now())",
        )
        .bind(id)
        .bind(status)
        .bind(attempt)
        .execute(&stopped.pool)
        .await
        .unwrap();
        let heard = random.random_range(0..4000);
        let has_heartbeat = attempt == 1 && random.random();
        sqlx::query(
            "insert into attempts (provision_id, number, run_id, run_attempt, hints, may_exist,
                                   started_at, last_message_at, last_heartbeat_at, deadline_at)
             values ($1, $2, nullif($2, 0), nullif($2, 0), '[]', '[]', now(),
                     now() - $3::interval, case when $4 then now() - $3::interval end,
                     now() - $5::interval)",
        )
        .bind(id)
        .bind(attempt)
        .bind(ago(heard))
        .bind(has_heartbeat)
        .bind(ago(random.random_range(-2000..2000)))
        .execute(&stopped.pool)
        .await
        .unwrap();
        if round % 2 == 0 {
            sqlx::query(
                "insert into witness (provision_id, attempt, under_way_at)
                 values ($1, $2, now() - $3::interval)",
            )
            .bind(id)
            .bind(attempt)
            .bind(ago(random.random_range(0..2000)))
            .execute(&stopped.pool)
            .await
            .unwrap();
        }
        if round % 10 == 0 {
            sqlx::query(
                "update hearing set since = now() - $1::interval, last_pulse_at = now() + $2::interval",
            )
            .bind(ago(random.random_range(0..4000)))
            .bind("1 minute")
            .execute(&stopped.pool)
            .await
            .unwrap();
        }
        let mut db = stopped.pool.acquire().await.unwrap();
        let waited_for = soonest(&mut db, &PATIENCE, 1000).await.unwrap();
        assert_eq!(waited_for.len(), round + 1);
        let ordered = waited_for.is_sorted_by_key(|it| it.due_in);
        assert!(ordered, "{waited_for:?}");
        let said = waited_for
            .iter()
            .find(|it| it.provision == ProvisionId::new(id))
            .unwrap();
        let seen = read(&mut db, said.provision).await.unwrap().unwrap();
        let since = seen.hearing.since_at(seen.now, &PATIENCE).unwrap();
        let (at, _) = seen
            .provision
            .time_is_up_at(&PATIENCE, since, seen.under_way_at)
            .unwrap();
        let due_in = (at - seen.now).max(TimeDelta::zero()).to_std().unwrap();
        // Between the two reads some milliseconds went by.
        let apart = due_in.abs_diff(said.due_in);
        assert!(apart < secs(2), "{said:?}, and by the domain in {due_in:?}");
    }
}
