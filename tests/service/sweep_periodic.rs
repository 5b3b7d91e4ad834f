//! The sweeps that the service makes by itself.

use std::time::Duration;

use backstop::domain::orphans::Mandate;
use backstop::sim::{Fault, FaultKind, Sim, Vendor};
use backstop::store;
use backstop::store::notices::Subscriber;
use backstop::store::sweeps::{self, Claimed, Findings};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Options, PATIENCE, Service, TAG, labels, unswept_database};
use crate::log;
use crate::sweep::over;

pub const EVERY: Duration = Duration::from_secs(600);
const LEASE: Duration = Duration::from_secs(300);

pub fn every_ten_minutes() -> Options {
    Options {
        sweep_interval: EVERY,
        ..Options::default()
    }
}

fn made(service: &Service) -> usize {
    log::count(&service.sim, Vendor::Hetzner, "GET", "/volumes")
}

pub async fn until_swept(service: &Service, times: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let ended: i64 =
            sqlx::query_scalar("select count(*) from sweeps where finished_at is not null")
                .fetch_one(&service.pool)
                .await
                .unwrap();
        if usize::try_from(ended).unwrap() >= times {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no sweep ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_that_was_due_while_nobody_ran_is_made_at_start_by_one_replica() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), Options::default().sim).unwrap();
    let service = Service::start_on(unswept_database().await, sim, every_ten_minutes()).await;
    let replicas = [service.replica().await, service.replica().await];
    until_swept(&service, 1).await;
    assert_eq!(service.orphans().await["complete"], true);
    service.advance(EVERY).await;
    until_swept(&service, 2).await;
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    assert_eq!(made(&service), 2);
}

#[tokio::test]
async fn of_many_who_want_the_next_sweep_one_gets_it_and_the_rest_wait_for_its_end() {
    let options = unswept_database().await;
    let pool = store::connect(options, 12).await.unwrap();
    let claim = || async {
        let mut db = pool.acquire().await.unwrap();
        sweeps::claim(&mut db, EVERY, LEASE).await.unwrap()
    };
    let advance = async |seconds: f64| {
        sqlx::query(
            "update controller set clock_offset = clock_offset + make_interval(secs => $1)",
        )
        .bind(seconds)
        .execute(pool.unbounded())
        .await
        .unwrap();
    };
    let mut last = None;
    for round in 0..13 {
        let mut mine = Vec::new();
        for claimed in futures::future::join_all((0..12).map(|_| claim())).await {
            match claimed {
                Claimed::Yes(sweep) => mine.push(sweep),
                Claimed::NotBefore(pause) => assert!(pause <= EVERY.max(LEASE), "{pause:?}"),
            }
        }
        assert_eq!(mine.len(), 1, "round {round}");
        let sweep = mine[0];
        let mut db = pool.acquire().await.unwrap();
        match round {
            // It ends well, and the next one is due an interval after it was begun.
            0..10 => {
                sweeps::finish(&mut db, &sweep, &Findings::default(), Subscriber::Nobody)
                    .await
                    .unwrap();
                advance(599.0).await;
                assert!(matches!(claim().await, Claimed::NotBefore(_)));
                advance(1.0).await;
            }
            // It is given up, and anybody's at once.
            10 => sweeps::give_up(&mut db, &sweep).await.unwrap(),
            // Its replica died with it.
            11 => {
                advance(LEASE.as_secs_f64() - 1.0).await;
                assert!(matches!(claim().await, Claimed::NotBefore(_)));
                advance(1.0).await;
            }
            _ => last = Some(sweep),
        }
    }
    // A clock that was far ahead is put right: nobody waits for it to be so late again.
    advance(-365.0 * 86_400.0).await;
    assert!(matches!(claim().await, Claimed::Yes(_)));
    let mut db = pool.acquire().await.unwrap();
    sweeps::finish(
        &mut db,
        &last.unwrap(),
        &Findings::default(),
        Subscriber::Nobody,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn before_the_first_sweep_has_ended_the_list_says_so() {
    let service = Service::start().await;
    sqlx::query("update sweeps set finished_at = null, held_until = now() + interval '4 min'")
        .execute(&service.pool)
        .await
        .unwrap();
    assert_eq!(
        service.orphans().await,
        json!({"swept_at": null, "complete": false, "errors": [], "currency": null,
               "hourly_cost": 0.0, "not_ours": 0, "orphans": []})
    );
}

#[tokio::test]
async fn a_sweep_leaves_what_is_scarce_to_deletes_and_says_so() {
    let service = Service::start_with(every_ten_minutes()).await;
    // Above the reserve, and below what sweeps leave to deletes, also with what comes back until then.
    service.sim.set_rate_remaining(750);
    let (id, started) = over(&service).await;
    let name = started["server_name"].as_str().unwrap();
    service.sim.add_device(name, &[TAG]);
    let before = log::count(&service.sim, Vendor::Hetzner, "GET", "/");
    service.advance(EVERY).await;
    until_swept(&service, 2).await;
    let orphans = service.orphans().await;
    assert_eq!(
        orphans["errors"],
        json!(["hetzner: held back, what is left of its rate limit is for deletes"])
    );
    assert_eq!(orphans["complete"], false);
    assert_eq!(orphans["orphans"].as_array().unwrap().len(), 1);
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    assert_eq!(made(&service), 0);
    assert!(
        log::count(&service.sim, Vendor::Hetzner, "GET", "/") > before,
        "deletes go on"
    );

    // By then enough has come back.
    service.advance(2 * EVERY).await;
    until_swept(&service, 3).await;
    assert_eq!(service.orphans().await["complete"], true);
    assert_eq!(made(&service), 1);
}

#[tokio::test]
async fn a_sweep_that_is_cut_short_by_stopping_is_made_at_the_next_start() {
    let service = Service::start_with(every_ten_minutes()).await;
    service.sim.fault(Fault::on(
        Vendor::Hetzner,
        "GET",
        "/volumes",
        FaultKind::Delay { delay_ms: 60_000 },
    ));
    service.advance(EVERY).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while log::count(&service.sim, Vendor::Hetzner, "GET", "/primary_ips") == 0 {
        assert!(tokio::time::Instant::now() < deadline, "no sweep was begun");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let replica = service.replica().await;
    let Service { app, pool, .. } = service;
    let told = tokio::time::Instant::now();
    app.stop().await.unwrap();
    assert!(told.elapsed() < Duration::from_secs(15), "stopping waits");
    drop(pool);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let ended: i64 =
            sqlx::query_scalar("select count(*) from sweeps where finished_at is not null")
                .fetch_one(replica.pool().unbounded())
                .await
                .unwrap();
        // The one that `database` begins with, and this one: long before a lease ends.
        if ended == 2 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "nobody took over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn by_itself_it_reopens_and_deletes_what_is_unknown_only_if_the_setting_says_so() {
    for mandate in [Mandate::Reopen, Mandate::Delete] {
        let service = Service::start_with(Options {
            sweep_mandate: mandate,
            ..every_ten_minutes()
        })
        .await;
        let (id, started) = over(&service).await;
        service.make_all(&started);
        let unknown = Uuid::new_v4();
        let mut labels = labels(&started);
        for (key, value) in &mut labels {
            if key == "backstop-provision" {
                *value = unknown.to_string();
            }
        }
        service.sim.add_server("unknown", labels);
        service.advance(Duration::from_secs(2 * 3600)).await;
        until_swept(&service, 2).await;
        service.settled(id).await;
        if mandate == Mandate::Delete {
            service.settled(unknown).await;
            assert_eq!(service.alive(), Vec::<String>::new());
        } else {
            assert_eq!(service.alive(), ["server unknown"]);
            let answer = service.get(&format!("/v1/provisions/{unknown}")).await;
            assert_eq!(answer.status, 404);
        }
        let orphans = service.orphans().await;
        assert_ne!(orphans["swept_at"], Value::Null);
    }
}
