//! Another server takes over behind the same address.

use std::time::Duration;

use serde_json::json;
use sqlx::ConnectOptions;
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Answer, Options, PATIENCE, Run, Service};
use crate::postgres::{End, Postgres};
use crate::proxy::Proxy;

const RUN: Run = Run(100, 1);

/// Sends a callback until it is taken; before that only 503 may be answered. How often it was.
async fn insist(service: &Service, kind: &str, id: Uuid) -> (Answer, u32) {
    let deadline = Instant::now() + PATIENCE;
    let mut unavailable = 0;
    loop {
        let answer = service.callback(kind, id, RUN, json!({})).await;
        match answer.status {
            200 | 202 => return (answer, unavailable),
            503 => unavailable += 1,
            _ => panic!("{answer:?}"),
        }
        assert!(Instant::now() < deadline, "{kind} was never taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_over_behind_the_same_address_is_found_with_all_that_was_acknowledged()
{
    let mut first = Postgres::start().await;
    let proxy = Proxy::to(&first.options()).await;
    let service = Service::start_at(Options::default(), proxy.options(&first.options())).await;
    let (failed, started) = (Uuid::new_v4(), Uuid::new_v4());
    service.make_all(&service.started(failed, RUN).await);
    let names = service.started(started, RUN).await;
    // It can only be found once the vendor is back, which is after the move.
    service.sim.fault(
        backstop::sim::Fault::on(
            backstop::sim::Vendor::Hetzner,
            "GET",
            "**",
            backstop::sim::FaultKind::status(503),
        )
        .always(),
    );
    let answer = service.callback("failure", failed, RUN, json!({})).await;
    assert_eq!(answer.status, 202);

    // Its host loses power: no connection ends, and none answers.
    proxy.go_silent();
    first.end(End::Fast).await;
    let second = first.copy().await;
    proxy.move_to(&second.options());
    proxy.carry_again();
    service.sim.clear_faults();

    let (again, _) = insist(&service, "started", started).await;
    assert_eq!(again.body, names);
    // A worker's claim may have been lost with the first server; its lease goes by the clock.
    service.advance(Duration::from_secs(121)).await;
    service.settled(failed).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_asked_nothing_until_it_is_promoted() {
    let mut primary = Postgres::start().await;
    let proxy = Proxy::to(&primary.options()).await;
    let service = Service::start_at(Options::default(), proxy.options(&primary.options())).await;
    let id = Uuid::new_v4();
    let names = service.started(id, RUN).await;

    proxy.refuse();
    primary.end(End::Fast).await;
    let standby = primary.standby().await;
    proxy.move_to(&standby.options());
    proxy.carry_again();
    // It could be read, and might not know all that was acknowledged.
    for answer in [
        service.callback("started", id, RUN, json!({})).await,
        service
            .callback("progress", Uuid::new_v4(), RUN, json!({}))
            .await,
        service.get(&format!("/v1/provisions/{id}")).await,
    ] {
        assert_eq!(answer.status, 503, "{answer:?}");
    }

    let mut db = standby.options().connect().await.unwrap();
    let promoted: bool = sqlx::query_scalar("select pg_promote()")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert!(promoted);
    let (again, _) = insist(&service, "started", id).await;
    assert_eq!(again.body, names);
}
