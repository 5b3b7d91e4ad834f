//! Whatever was heard first wins; of several replicas one.

use std::time::Duration;

use backstop::domain::names::ProvisionId;
use backstop::domain::step::Resource;
use backstop::rollback::rollback_failed_provision;
use backstop::store::overdue::read;
use backstop::store::provisions::{Written, write};
use futures::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::harness::Service;
use crate::support::{
    PATIENCE, RUN, events, failed, heartbeat, is_waited_for, secs, servers_only, under_way,
};

/// Between the watcher's decision and its write stands the version alone.
#[tokio::test]
async fn a_heartbeat_between_the_decision_and_the_write_wins() {
    let service = Service::start().await;
    let (id, _) = under_way(&service).await;
    assert_eq!(heartbeat(&service, id).await, 200);
    let mut db = service.pool.acquire().await.unwrap();
    let seen = read(&mut db, ProvisionId::new(id)).await.unwrap().unwrap();
    // As a watcher would have seen it that looked much later.
    let now = seen.now + secs(301);
    let since = seen.hearing.since.unwrap();
    let overdue = seen.provision.overdue(now, &PATIENCE, since, None).unwrap();
    let mut change = overdue.expect("it is silent");
    rollback_failed_provision(&mut change, &Resource::ALL);

    assert_eq!(heartbeat(&service, id).await, 200);
    let written = write(&mut db, &change).await.unwrap();
    assert_eq!(written, Written::Outrun);
    let provision = service.provision(id).await;
    assert_eq!(provision["status"], "provisioning");
    assert_eq!(provision["rollback"], json!(null));
    assert_eq!(events(&service, id, "deadline").await.len(), 0);
}

/// Heartbeats that are sent before, while and after two replicas look: each is either heard, and
/// then nothing happened, or refused, and then it was failed once.
#[tokio::test]
async fn a_heartbeat_that_races_the_silence_ends_in_one_of_two_ways() {
    const RACERS: u64 = 48;
    let service = Service::start_with(servers_only()).await;
    let other = service.replica().await;
    let mut racers = Vec::new();
    for _ in 0..RACERS {
        let id = Uuid::new_v4();
        service.started(id, RUN).await;
        assert_eq!(heartbeat(&service, id).await, 200);
        racers.push(id);
    }
    // All are silent for longer than is allowed, from here on.
    let race = racers.iter().zip(0..).map(|(id, place)| {
        let service = &service;
        async move {
            tokio::time::sleep(Duration::from_millis(place * 1200 / RACERS)).await;
            (*id, heartbeat(service, *id).await)
        }
    });
    let (ended, ()) = tokio::join!(join_all(race), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        service.pass(secs(301)).await;
    });
    let (mut heard, mut refused) = (0, 0);
    for (id, status) in ended {
        let deadlines = events(&service, id, "deadline").await.len();
        let provision = service.provision(id).await;
        match status {
            // The ones that were sent before the time passed are silent by now.
            200 => {
                heard += 1;
                let waits = provision["status"] == "provisioning" && deadlines == 0;
                let silent_later = provision["status"] == "failed" && deadlines == 1;
                assert!(waits || silent_later, "{provision:#}");
            }
            409 => {
                refused += 1;
                assert_eq!(provision["status"], "failed", "{provision:#}");
                assert_eq!(provision["rollback"]["reason"], "silent");
                assert_eq!(deadlines, 1);
            }
            other => panic!("a heartbeat was answered {other}"),
        }
    }
    println!("{heard} heard, {refused} refused");
    assert!(refused > 0, "nobody lost the race");
    // Whoever was heard after the time had passed still waits for its whole time-out.
    let waiting = async |id: &Uuid| service.provision(*id).await["status"] == "provisioning";
    for id in &racers {
        if waiting(id).await {
            assert!(is_waited_for(&service, *id).await > secs(200));
        }
    }
    other.stop().await.unwrap();
}

#[tokio::test]
async fn replicas_that_look_at_once_fail_each_provision_once() {
    let service = Service::start_with(servers_only()).await;
    let others = [service.replica().await, service.replica().await];
    let mut late = Vec::new();
    for _ in 0..120 {
        let (id, _) = under_way(&service).await;
        late.push(id);
    }
    service.pass(secs(1801)).await;
    for id in late {
        failed(&service, id).await;
        service.settled(id).await;
        assert_eq!(events(&service, id, "deadline").await.len(), 1);
        assert_eq!(events(&service, id, "rollback.done").await.len(), 1);
    }
    assert_eq!(service.alive(), Vec::<String>::new());
    for other in others {
        other.stop().await.unwrap();
    }
}
