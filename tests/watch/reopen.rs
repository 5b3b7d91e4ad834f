//! Between what a sweep saw and what it writes the database may have come to know better.

use backstop::domain::fields::{Hint, VendorId};
use backstop::domain::names::{AttemptNumber, Names, ProvisionId, Run as Owner};
use backstop::domain::step::Resource;
use backstop::rollback::{Reopened, adopt, reopen_rollback};
use backstop::store::hold::Renewed;
use backstop::store::sweeps;
use serde_json::json;
use uuid::Uuid;

use crate::controller::renew;
use crate::harness::{Run, Service};
use crate::support::{RUN, in_use, secs, servers_only, under_way};
use crate::sweep::over;

const MANAGED: &[Resource] = &[Resource::Server];
/// Owns no attempt here.
const STRANGER: Owner = Owner {
    id: 900,
    attempt: 1,
};

/// That the list shows a server of this attempt: what a reopening and what an adoption would do.
async fn seen(service: &Service, id: Uuid, attempt: i32) -> (Reopened, Reopened) {
    let names = Names::new(ProvisionId::new(id), AttemptNumber::new(attempt).unwrap());
    let things = [Hint {
        resource: Resource::Server,
        vendor_id: VendorId::parse(Resource::Server, "42").unwrap(),
    }];
    let mut db = service.app.pool().acquire().await.unwrap();
    let listed_at = sweeps::now(&mut db).await.unwrap();
    let reopened = reopen_rollback(&mut db, names, &things, listed_at, MANAGED).await;
    let adopted = adopt(&mut db, names, STRANGER, &things, listed_at, MANAGED).await;
    (reopened.unwrap(), adopted.unwrap())
}

#[tokio::test]
async fn what_is_not_over_or_not_the_databases_to_judge_is_neither_reopened_nor_adopted() {
    let service = Service::start_with(servers_only()).await;
    let (running, _) = in_use(&service).await;
    let (live, _) = under_way(&service).await;
    let (gone, _) = over(&service).await;
    let queued = json!({"agent_id": "web-1"});
    let queued = service
        .operate("POST", "/v1/provisions", Some(queued))
        .await;
    let queued = queued.body["id"].as_str().unwrap().parse().unwrap();
    for (id, attempt) in [(running, 1), (live, 1), (gone, 2), (queued, 0), (queued, 1)] {
        let before = service.provision(id).await;
        let not_needed = (Reopened::NotNeeded, Reopened::NotNeeded);
        assert_eq!(
            seen(&service, id, attempt).await,
            not_needed,
            "{attempt} of {before:#}"
        );
        assert_eq!(service.provision(id).await, before);
    }
}

#[tokio::test]
async fn an_attempt_that_is_known_and_over_is_reopened_and_never_adopted() {
    let service = Service::start_with(servers_only()).await;
    let (current, _) = over(&service).await;
    let (superseded, _) = under_way(&service).await;
    service.started(superseded, Run(RUN.0, 2)).await;
    service.settled(superseded).await;
    for id in [current, superseded] {
        let yes_and_no = (Reopened::Yes, Reopened::NotNeeded);
        assert_eq!(seen(&service, id, 1).await, yes_and_no);
        let kinds = service.event_kinds(id).await;
        assert!(kinds.contains(&"sweep.found".to_owned()), "{kinds:?}");
        // Who made it may have made more.
        assert!(kinds.contains(&"step.reopened".to_owned()), "{kinds:?}");
        assert!(!kinds.contains(&"sweep.adopted".to_owned()), "{kinds:?}");
    }
}

#[tokio::test]
async fn what_was_disowned_is_neither_reopened_nor_adopted() {
    let service = Service::start_with(servers_only()).await;
    let (id, _) = over(&service).await;
    let stopped = service.stop().await;
    stopped.advance(secs(31)).await;
    assert!(matches!(renew(&stopped.pool).await, Renewed::Yes { .. }));
    let service = stopped.start().await;
    let before = service.event_kinds(id).await;
    let not_needed = (Reopened::NotNeeded, Reopened::NotNeeded);
    assert_eq!(seen(&service, id, 1).await, not_needed);
    assert_eq!(service.event_kinds(id).await, before);
}
