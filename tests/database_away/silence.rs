//! Connections that die without a word: nothing breaks, and nothing answers.

use std::time::Duration;

use backstop::domain::names::ProvisionId;
use backstop::providers::Timeouts;
use backstop::store::changes::Changes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use serde_json::json;
use sqlx::ConnectOptions;
use sqlx::postgres::PgPool;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::harness::{Options, PATIENCE, Run, Service, database};
use crate::proxy::Proxy;

const RUN: Run = Run(100, 1);
/// What a caller waits at most for, with a margin for a slow machine.
const SECONDS: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_silent_callers_get_503_within_seconds_and_then_all_goes_on() {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    let service = Service::start_at(Options::default(), proxy.options(&database)).await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let path = format!("/v1/provisions/{id}");
    // Some are lent at that moment, some are coming back.
    let mut busy: FuturesUnordered<_> = (0..30).map(|_| service.get(&path)).collect();
    for _ in 0..10 {
        busy.next().await.unwrap();
    }
    proxy.go_silent();
    while let Some(answer) = busy.next().await {
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    }
    // More than there are connections, of every kind.
    let callbacks = (0..8).map(|_| service.callback("started", Uuid::new_v4(), RUN, json!({})));
    let reads = (0..4).map(|_| service.get(&path));
    let began = Instant::now();
    let (callbacks, reads) = tokio::join!(join_all(callbacks), join_all(reads));
    assert!(began.elapsed() < SECONDS, "took {:?}", began.elapsed());
    for answer in callbacks.iter().chain(&reads) {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"));
    }

    proxy.carry_again();
    let deadline = Instant::now() + PATIENCE;
    while service.get(&path).await.status != 200 {
        assert!(Instant::now() < deadline, "it does not come back");
    }
    // No place in the pool is lost to a connection that was given up on.
    let all = service.pool.options().get_max_connections();
    let lent = join_all((0..all).map(|_| async {
        timeout(PATIENCE, async {
            loop {
                if let Ok(connection) = service.pool.acquire().await {
                    return connection;
                }
            }
        })
        .await
        .unwrap()
    }))
    .await;
    drop(lent);
    service.callback("failure", id, RUN, made.ids()).await;
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

/// A caller who waits for a rollback has been told nothing yet, and is told that within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_rollback_is_not_left_waiting_by_a_silent_database() {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    let service = Service::start_at(Options::default(), proxy.options(&database)).await;
    let id = Uuid::new_v4();
    service.started(id, RUN).await;
    let body = crate::harness::callback_body("failure", id, RUN, json!({}));
    let request = service
        .signed("failure", id, &body.to_string())
        .header("prefer", "wait=60");
    let waits = service.send(request);
    let silence = async {
        // Once it is recorded the caller waits: nothing was made, so nothing settles for minutes.
        let mut db = database.connect().await.unwrap();
        let recorded = "select count(*) from steps where provision_id = $1";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let steps: i64 = sqlx::query_scalar(recorded)
                .bind(id)
                .fetch_one(&mut db)
                .await
                .unwrap();
            if steps > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "it is not recorded");
        }
        proxy.go_silent();
        Instant::now()
    };
    let (answer, silent_since) = tokio::join!(waits, silence);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(silent_since.elapsed() < SECONDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_has_gone_silent_is_noticed_and_hears_again() {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    let pool = backstop::store::connect(proxy.options(&database), 2)
        .await
        .unwrap();
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let changes = Changes::start(pool, &tracker, stop.clone());
    let mut heard = changes.subscribe();
    let mut db = database.connect().await.unwrap();
    for round in 0..2 {
        if round > 0 {
            proxy.silence_what_is_there();
        }
        let told = ProvisionId::new(Uuid::new_v4());
        let deadline = Instant::now() + PATIENCE;
        // Told by another replica, again and again.
        while timeout(Duration::from_millis(100), heard.changed_of(told))
            .await
            .is_err()
        {
            assert!(
                Instant::now() < deadline,
                "nothing was heard, round {round}"
            );
            sqlx::query("select pg_notify('backstop_ledger', $1)")
                .bind(told.to_string())
                .execute(&mut db)
                .await
                .unwrap();
        }
    }
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}

/// The workers' own clock covers for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_due_while_nothing_is_heard_is_done_all_the_same() {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    let service = Service::start_at(Options::default(), proxy.options(&database)).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    service.callback("failure", id, RUN, json!({})).await;
    service
        .until(id, |provision| {
            provision["rollback"]["steps"]
                .as_array()
                .is_some_and(|steps| steps.iter().all(|step| step["tries"] != 0))
        })
        .await;
    proxy.silence_what_is_there();
    // Late arrivals, and the time at which they are looked for. Nobody is told.
    service.make_all(&started);
    let mut db = database.connect().await.unwrap();
    sqlx::query("update controller set clock_offset = clock_offset + interval '30 s'")
        .execute(&mut db)
        .await
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !service.alive().is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", service.alive());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each of them has asked for a connection meanwhile, and got none that answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_looks_by_itself_goes_on_after_a_silence() {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    let mut service = Service::start_at(looks_by_itself(), proxy.options(&database)).await;
    let id = Uuid::new_v4();
    service.make_all(&service.started(id, RUN).await);

    proxy.go_silent();
    let began = Instant::now();
    // For longer than anything pauses between two looks.
    while began.elapsed() < Duration::from_secs(10) {
        let answer = service.callback("progress", id, RUN, json!({})).await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    proxy.carry_again();
    // From here on it is another's connection that looks.
    service.pool = PgPool::connect_with(database).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while service.get("/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "it does not come back");
    }
    all_of_it_goes_on(&service, id).await;
}

/// Each of them had a connection that answered, and sent this. It is its first, so that nothing but
/// its own bound ends the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_looks_by_itself_goes_on_after_a_silence_in_the_midst_of_a_look() {
    let database = database().await;
    let proxy = Proxy::to(&database).await;
    for statement in [
        "select from hearing for update",
        "update sweeps set held_until = null",
        "select d.provision_id, p.status = 'queued' as wanted",
        "extract(epoch from due.at - backstop_now())",
        "select s.id, a.run_id, a.run_attempt, a.may_exist",
    ] {
        proxy.go_silent_at(statement.as_bytes());
    }
    let mut service = Service::start_at(looks_by_itself(), proxy.options(&database)).await;
    service.pool = PgPool::connect_with(database).await.unwrap();
    let id = Uuid::new_v4();
    service.make_all(&service.started(id, RUN).await);
    let deadline = Instant::now() + PATIENCE;
    while !proxy.has_gone_silent() {
        assert!(Instant::now() < deadline, "one of them does not look");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all_of_it_goes_on(&service, id).await;
}

fn looks_by_itself() -> Options {
    Options {
        github: Some(Timeouts::default()),
        sweep_interval: Duration::from_secs(600),
        ..Options::default()
    }
}

/// The outbox; the pulse and the watch over deadlines; rollbacks; sweeps. `id` has things and is live.
async fn all_of_it_goes_on(service: &Service, id: Uuid) {
    let queued = json!({"agent_id": "web-1"});
    let queued = service
        .operate("POST", "/v1/provisions", Some(queued))
        .await
        .body;
    let queued = queued["id"].as_str().unwrap().parse().unwrap();
    let dispatched = |provision: &serde_json::Value| !provision["run_id"].is_null();
    service.until(queued, dispatched).await;
    service.pass(Duration::from_secs(1801)).await;
    service
        .until(id, |provision| provision["status"] == "failed")
        .await;
    let swept = "select count(*) from sweeps where finished_at is not null";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sweeps: i64 = sqlx::query_scalar(swept)
            .fetch_one(&service.pool)
            .await
            .unwrap();
        if sweeps > 1 && service.alive().is_empty() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "swept {sweeps} times, left: {:?}",
            service.alive()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
