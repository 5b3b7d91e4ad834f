//! Many at once: batched, shared between replicas, given back at a stop.

use std::time::Duration;

use backstop::sim::{Effect, Fault, FaultKind, SimOptions, Vendor};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::harness::{OPERATOR, Options, Run, Service};
use crate::log;

const RUN: Run = Run(100, 1);

/// That many provisions that made everything and fail one right after the other.
pub async fn fail_together(service: &Service, count: usize) -> Vec<Uuid> {
    let mut failed = Vec::new();
    for _ in 0..count {
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        failed.push((id, made));
    }
    let answers = failed
        .iter()
        .map(|(id, made)| service.callback("failure", *id, RUN, made.ids()));
    for answer in futures::future::join_all(answers).await {
        assert_eq!(answer.status, 202);
    }
    failed.into_iter().map(|(id, _)| id).collect()
}

pub async fn all_settled(service: &Service, failed: &[Uuid]) {
    for id in failed {
        service.settled(*id).await;
    }
    assert_eq!(service.alive(), Vec::<String>::new());
}

/// Refused DELETEs, and those that took effect, of servers.
fn server_deletes(service: &Service) -> (usize, usize) {
    let deletes = log::deletes(&service.sim);
    let of_servers = deletes
        .iter()
        .filter(|entry| entry.vendor == Vendor::Hetzner);
    let (done, refused): (Vec<_>, Vec<_>) =
        of_servers.partition(|entry| matches!(entry.effect, Some(Effect::ServerDeleted { .. })));
    (refused.len(), done.len())
}

#[tokio::test]
async fn provisions_that_fail_together_share_their_lists() {
    let service = Service::start().await;
    let count = 120;
    // Until the first try of the keys is answered nothing else moves: all are due when it is.
    service.sim.fault(Fault::on(
        Vendor::Tailscale,
        "GET",
        "/tailnet/*/keys",
        FaultKind::Delay { delay_ms: 1500 },
    ));
    let failed = fail_together(&service, count).await;
    all_settled(&service, &failed).await;
    let servers = log::count(&service.sim, Vendor::Hetzner, "GET", "/servers?");
    let actions = log::count(&service.sim, Vendor::Hetzner, "GET", "/actions?");
    let devices = log::count(&service.sim, Vendor::Tailscale, "GET", "/tailnet/-/devices");
    let keys = log::count(&service.sim, Vendor::Tailscale, "GET", "/tailnet/-/keys?");
    let tokens = log::count(&service.sim, Vendor::Tailscale, "POST", "/oauth/token");
    println!(
        "{count} provisions: lists of servers {servers}, actions {actions}, devices {devices}, \
         keys {keys}; tokens {tokens}"
    );
    assert_eq!(server_deletes(&service), (0, count));
    for lists in [servers, devices, keys] {
        assert!(lists < count, "{lists} lists");
    }
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn two_replicas_share_the_work_and_do_none_of_it_twice() {
    let service = Service::start_with(Options {
        // Long enough that another would meet it running.
        sim: SimOptions {
            action_time: (Duration::from_millis(300), Duration::from_millis(900)),
            ..SimOptions::default()
        },
        ..Options::default()
    })
    .await;
    let replica = service.replica().await;
    let failed = fail_together(&service, 60).await;
    all_settled(&service, &failed).await;
    let (refused, done) = server_deletes(&service);
    println!("60 rollbacks by two replicas: {done} servers deleted, {refused} DELETEs refused");
    assert_eq!((refused, done), (0, 60));
    let mut deleted = log::deleted(&service.sim);
    assert_eq!(deleted.len(), 180);
    deleted.sort();
    deleted.dedup();
    assert_eq!(deleted.len(), 180, "something was deleted twice");
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_retry_that_is_asked_for_while_a_delete_is_sent_does_not_lose_the_rollback() {
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    let path = format!("/servers/{}", made.server);
    service.sim.fault(Fault::on(
        Vendor::Hetzner,
        "DELETE",
        &path,
        FaultKind::Delay { delay_ms: 400 },
    ));
    service.callback("failure", id, RUN, made.ids()).await;
    let retry = format!("/v1/provisions/{id}/rollback");
    service.until(id, |_| service.sim.faults().is_empty()).await;
    // The DELETE is on its way.
    assert_eq!(service.operate("POST", &retry, None).await.status, 202);
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
    let (refused, done) = server_deletes(&service);
    println!("asked again in mid-delete: {done} done, {refused} refused");
    assert_eq!(done, 1);
}

#[tokio::test]
async fn stopping_gives_steps_back_at_once_and_the_next_process_finishes_them() {
    let mut service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    // Its list takes a while: it is stopped with the steps in hand.
    service.sim.fault(Fault::on(
        Vendor::Tailscale,
        "GET",
        "/tailnet/*/keys",
        FaultKind::Delay { delay_ms: 500 },
    ));
    service.callback("failure", id, RUN, made.ids()).await;
    service.until(id, |_| service.sim.faults().is_empty()).await;
    let next = service.replica().await;
    let old = std::mem::replace(&mut service.app, next);
    old.stop().await.unwrap();
    service.pool = service.app.pool().unbounded().clone();
    // Without any lease having run out.
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn a_caller_that_hangs_holds_up_the_stop_for_seconds_only() {
    let service = Service::start().await;
    let mut caller = TcpStream::connect(service.app.address()).await.unwrap();
    // A body that never comes.
    let head = format!(
        "POST /v1/provisions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {OPERATOR}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    // Heard of by now, for another that came later was answered.
    service.get("/v1/provisions").await;
    let began = tokio::time::Instant::now();
    service.app.stop().await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
