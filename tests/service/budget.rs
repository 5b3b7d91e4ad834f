//! The vendor's rate limit: a part of it is left to others, and replicas share the rest.

use std::time::Duration;

use backstop::budget::{Asked, Budget, Permit};
use backstop::domain::budget::{Purpose, Reserve};
use backstop::providers::Vendor as Provider;
use backstop::providers::hetzner::RateLimit;
use backstop::sim::{Effect, Fault, FaultKind, HistoryEntry, SimOptions, Vendor};
use backstop::store;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::batches::{all_settled, fail_together};
use crate::harness::{Options, PATIENCE, Run, Service, database};

const RUN: Run = Run(100, 1);
const DELETE: Purpose = Purpose::Delete { looks: 3 };

/// Servers only, and a rate limit that refills only when a test says so.
async fn service(limit: u32) -> Service {
    Service::start_with(Options {
        tailscale: false,
        sim: SimOptions {
            rate_limit: limit,
            rate_refill_per_second: 0.0,
            ..Options::default().sim
        },
        ..Options::default()
    })
    .await
}

fn to_hetzner(service: &Service) -> Vec<HistoryEntry> {
    let mut history = service.sim.history();
    history.retain(|entry| entry.vendor == Vendor::Hetzner);
    history
}

fn deletes(service: &Service) -> usize {
    let history = to_hetzner(service);
    let deletes = history.iter().filter(|entry| entry.method == "DELETE");
    deletes.count()
}

async fn now(service: &Service) -> DateTime<Utc> {
    sqlx::query_scalar("select backstop_now()")
        .fetch_one(&service.pool)
        .await
        .unwrap()
}

/// How many exceptions may have been made in a time.
fn exceptions(elapsed: chrono::TimeDelta) -> usize {
    usize::try_from(1 + elapsed.num_seconds() / 10).unwrap()
}

/// Whether a step of the provision waits for the budget alone, as the API shows it.
fn is_held_back(provision: &Value) -> bool {
    let steps = provision["rollback"]["steps"].as_array().unwrap();
    steps.iter().any(|step| {
        let error = step["last_error"].as_str().unwrap_or_default();
        step["state"] == "due"
            && step["tries"] == 0
            && step["next_try_at"].is_string()
            && error.starts_with("held back")
    })
}

async fn any_held_back(service: &Service, ids: &[Uuid]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        for id in ids {
            if is_held_back(&service.provision(*id).await) {
                return;
            }
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing is held back"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// That many are left from now on. Answers are dated by the second, and within one the least counts.
async fn replenish(service: &Service, remaining: u32) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    service.sim.set_rate_remaining(remaining);
    service.advance(Duration::from_secs(11)).await;
}

/// The vendor's requests have stopped coming.
async fn quiet(service: &Service) {
    let mut before = to_hetzner(service).len();
    loop {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let after = to_hetzner(service).len();
        if after == before {
            return;
        }
        before = after;
    }
}

/// Lets the service hear of the limit, with one rollback.
async fn prime(service: &Service) {
    let failed = fail_together(service, 1).await;
    all_settled(service, &failed).await;
    service.sim.clear_history();
}

#[tokio::test]
async fn at_the_reserve_one_delete_is_sent_every_ten_seconds_and_no_other() {
    let service = service(3600).await;
    service.sim.set_rate_remaining(720);
    let began = now(&service).await;
    let failed = fail_together(&service, 5).await;
    any_held_back(&service, &failed).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while deletes(&service) < 5 {
        assert!(tokio::time::Instant::now() < deadline, "five deletes");
        service.advance(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        let sent = deletes(&service);
        let elapsed = now(&service).await - began;
        assert!(sent <= exceptions(elapsed), "{sent} in {elapsed}");
    }
    let elapsed = now(&service).await - began;
    println!("5 deletes below the reserve in {elapsed}");
    assert!(elapsed.num_seconds() < 120, "{elapsed}");
    // They are proven gone all the same.
    for id in failed {
        while service.provision(id).await["rollback"]["state"] != "done" {
            assert!(tokio::time::Instant::now() < deadline, "{id} is not done");
            service.advance(Duration::from_secs(5)).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test]
async fn what_others_use_up_is_noticed_with_the_first_answer() {
    let service = service(3600).await;
    prime(&service).await;
    service.sim.set_rate_remaining(700);
    let failed = fail_together(&service, 20).await;
    any_held_back(&service, &failed).await;
    quiet(&service).await;
    // The exception, though the budget as it was last told allowed all of them.
    assert!(deletes(&service) <= 2, "{} sent", deletes(&service));
    replenish(&service, 3000).await;
    all_settled(&service, &failed).await;
}

#[tokio::test]
async fn replicas_together_leave_the_reserve() {
    let service = service(200).await;
    let replica = service.replica().await;
    prime(&service).await;
    service.sim.set_rate_remaining(200);
    let began = now(&service).await;
    let failed = fail_together(&service, 150).await;
    any_held_back(&service, &failed).await;
    quiet(&service).await;
    let sent = to_hetzner(&service).len();
    let elapsed = now(&service).await - began;
    println!("{sent} of 200 requests by two replicas in {elapsed}");
    // An exception is one delete with its lists and polls; what would have come back by our
    // reckoning is 200 an hour.
    assert!(
        sent <= 160 + 4 * exceptions(elapsed) + 1,
        "{sent} in {elapsed}"
    );
    assert!(sent >= 140, "{sent}: there was more to be had");

    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !service.alive().is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        service.sim.set_rate_remaining(200);
        service.advance(Duration::from_secs(3)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    all_settled(&service, &failed).await;
    replica.stop().await.unwrap();
}

#[tokio::test]
async fn a_rollback_that_was_held_back_finishes_once_there_is_enough_again() {
    let service = service(3600).await;
    prime(&service).await;
    service.sim.set_rate_remaining(730);
    let failed = fail_together(&service, 60).await;
    any_held_back(&service, &failed).await;
    quiet(&service).await;
    let stopped_at = deletes(&service);
    assert!((1..20).contains(&stopped_at), "{stopped_at}");
    assert!(
        to_hetzner(&service)
            .iter()
            .all(|entry| entry.status != Some(429))
    );

    replenish(&service, 3600).await;
    all_settled(&service, &failed).await;
    let history = to_hetzner(&service);
    let gone = history
        .iter()
        .filter(|entry| matches!(entry.effect, Some(Effect::ServerDeleted { .. })));
    assert_eq!((gone.count(), deletes(&service)), (60, 60));
    // Held back is no try, and nothing in the history.
    for id in failed {
        let kinds = service.event_kinds(id).await;
        assert!(!kinds.contains(&"step.failed".to_owned()), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_stuck_step_that_is_held_back_stays_stuck_and_is_noted_once() {
    let service = service(3600).await;
    prime(&service).await;
    let is_stuck = |provision: &Value| provision["rollback"]["state"] == "stuck";
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = Uuid::new_v4();
        let made = service.make_all(&service.started(id, RUN).await);
        assert!(service.sim.protect_server(made.server));
        service.callback("failure", id, RUN, made.ids()).await;
        service.until(id, is_stuck).await;
        ids.push(id);
    }
    // One of them is tried at a time, and the others are held back.
    service.sim.set_rate_remaining(600);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut times = 0;
    while times < 5 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "held back {times} times"
        );
        service.advance(Duration::from_secs(3)).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        times += sqlx::query_scalar::<_, i64>(
            "select count(*) from steps where not searches and moved_by = 'released'",
        )
        .fetch_one(&service.pool)
        .await
        .unwrap();
        for id in &ids {
            assert!(is_stuck(&service.provision(*id).await));
        }
    }
    for id in ids {
        let kinds = service.event_kinds(id).await;
        let noted = kinds.iter().filter(|kind| *kind == "step.stuck").count();
        assert_eq!(noted, 1, "{kinds:?}");
        let provision = service.provision(id).await;
        assert!(
            provision.to_string().contains("423 protected"),
            "{provision:#}"
        );
    }
}

#[tokio::test]
async fn a_429_pauses_every_replica_until_the_told_time() {
    let service = service(3600).await;
    let replica = service.replica().await;
    prime(&service).await;
    let fault = Fault::on(
        Vendor::Hetzner,
        "DELETE",
        "/servers/*",
        FaultKind::status(429),
    );
    service.sim.fault(fault);
    let began = now(&service).await;
    let first = fail_together(&service, 1).await;
    let turned_away = |provision: &Value| provision.to_string().contains("429 rate_limit_exceeded");
    service.until(first[0], turned_away).await;
    quiet(&service).await;
    let sent = to_hetzner(&service).len();

    let second = fail_together(&service, 1).await;
    any_held_back(&service, &second).await;
    let paused_until = || async {
        sqlx::query_scalar::<_, DateTime<Utc>>("select paused_until from rate_budgets")
            .fetch_one(&service.pool)
            .await
            .unwrap()
    };
    let end = paused_until().await;
    assert!(
        (end - began).num_seconds() >= 55,
        "paused for {}",
        end - began
    );
    while now(&service).await + chrono::TimeDelta::seconds(12) < end {
        service.advance(Duration::from_secs(10)).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(to_hetzner(&service).len(), sent, "sent during the pause");
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !service.alive().is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        service.advance(Duration::from_secs(5)).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    replica.stop().await.unwrap();
}

/// A replica's own budget on a shared database.
async fn budgets(vendor: Provider) -> [Budget; 2] {
    let options = database().await;
    let connect = || store::connect(options.clone(), 2);
    let pools = [connect().await.unwrap(), connect().await.unwrap()];
    pools.map(|pool| Budget::new(pool, vendor, Reserve::default()))
}

async fn permit(budget: &Budget, purpose: Purpose, wanted: u32) -> Permit {
    match budget.permit(purpose, wanted).await.unwrap() {
        Asked::Granted(permit) => permit,
        Asked::NotNow { come_back_in } => panic!("only in {come_back_in:?}"),
    }
}

async fn not_now(budget: &Budget, purpose: Purpose) -> Duration {
    match budget.permit(purpose, 1).await.unwrap() {
        Asked::Granted(permit) => panic!("{permit:?}"),
        Asked::NotNow { come_back_in } => come_back_in,
    }
}

fn told(remaining: u64, told_at: i64) -> RateLimit {
    RateLimit {
        limit: 3600,
        remaining,
        reset: 0,
        told_at: Some(told_at),
    }
}

#[tokio::test]
async fn an_answer_that_was_overtaken_by_another_replicas_is_ignored() {
    let [one, two] = budgets(Provider::Hetzner).await;
    let (first, second) = (permit(&one, DELETE, 5).await, permit(&two, DELETE, 5).await);
    two.settle(second, Some(told(700, 1001))).await.unwrap();
    one.settle(first, Some(told(3000, 1000))).await.unwrap();
    // Below the reserve: the exception, and then nothing.
    assert_eq!(permit(&one, DELETE, 5).await.granted(), 1);
    let wait = not_now(&two, DELETE).await;
    assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(10));
    assert!(not_now(&one, Purpose::Sweep).await <= Duration::from_secs(60));
}

#[tokio::test]
async fn what_one_replica_was_permitted_another_is_not() {
    let [one, two] = budgets(Provider::Hetzner).await;
    let first = permit(&one, DELETE, 50).await;
    one.settle(first, Some(told(820, 1000))).await.unwrap();
    let held = permit(&one, DELETE, 50).await;
    assert_eq!(held.granted(), 50);
    let rest = permit(&two, DELETE, 50).await;
    // A second or two may have passed.
    assert!((44..48).contains(&rest.granted()), "{rest:?}");
    // What was not sent is there for others once that is said.
    one.settle(held, Some(told(800, 1001))).await.unwrap();
    two.settle(rest, Some(told(800, 1001))).await.unwrap();
    assert_eq!(permit(&two, DELETE, 50).await.granted(), 50);
}

#[tokio::test]
async fn a_permit_ends_when_the_vendor_tells_that_others_used_it_up_or_turns_us_away() {
    let [one, _] = budgets(Provider::Hetzner).await;
    let first = permit(&one, DELETE, 3).await;
    assert!(first.one_more(None) && first.one_more(Some(told(721, 1000))));
    assert!(!first.one_more(Some(told(720, 1000))));
    assert!(first.one_more(Some(told(3000, 1001))) && !first.one_more(None));
    one.settle(first, Some(told(720, 1002))).await.unwrap();

    let exception = permit(&one, DELETE, 3).await;
    assert!(exception.one_more(Some(told(10, 1003))) && !exception.one_more(Some(told(10, 1003))));
    one.settle(exception, Some(told(3600, 1004))).await.unwrap();

    let turned_away = permit(&one, DELETE, 3).await;
    turned_away.turned_away(Some(Duration::from_secs(30)));
    turned_away.turned_away(Some(Duration::from_secs(20)));
    turned_away.turned_away(None);
    assert!(!turned_away.one_more(None));
    assert_eq!(turned_away.rest_in(None), Duration::from_secs(30));
}

#[tokio::test]
async fn a_vendor_without_headers_is_paused_for_all_replicas_when_it_turns_one_away() {
    let [one, two] = budgets(Provider::Tailscale).await;
    let first = permit(&one, DELETE, 1000).await;
    assert_eq!(first.granted(), 1000);
    assert_eq!(two.closed_for(DELETE).await.unwrap(), None);
    first.turned_away(Some(Duration::from_secs(40)));
    one.settle(first, None).await.unwrap();
    let wait = not_now(&two, DELETE).await;
    assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(40));
    assert!(two.closed_for(DELETE).await.unwrap().is_some());
    // Other vendors go on.
    let [hetzner, _] = budgets(Provider::Hetzner).await;
    assert_eq!(permit(&hetzner, DELETE, 7).await.granted(), 7);
}

#[tokio::test]
async fn many_who_ask_at_once_never_get_more_than_there_is() {
    let [one, two] = budgets(Provider::Hetzner).await;
    let first = permit(&one, DELETE, 1).await;
    one.settle(first, Some(told(1020, 1000))).await.unwrap();
    let asks = (0..40).map(|n| {
        let budget = if n % 2 == 0 { &one } else { &two };
        budget.permit(Purpose::Delete { looks: 1 }, 49)
    });
    let mut granted = 0;
    for asked in futures::future::join_all(asks).await {
        match asked.unwrap() {
            Asked::Granted(permit) => granted += 1 + permit.granted(),
            Asked::NotNow { .. } => {}
        }
    }
    // 300, what came back meanwhile, and one exception.
    assert!((300..312).contains(&granted), "{granted}");
}

#[tokio::test]
async fn the_other_vendors_things_go_while_one_is_closed() {
    let service = Service::start().await;
    // Others use up all that comes back.
    service.sim.set_rate_remaining(0);
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    service.callback("failure", id, RUN, made.ids()).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while service.alive().len() > 1 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            service.alive()
        );
        service.sim.set_rate_remaining(0);
        service.advance(Duration::from_secs(5)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(service.sim.servers().len(), 1);
    service.sim.set_rate_remaining(3600);
    service.advance(Duration::from_secs(70)).await;
    service.until(id, |_| service.alive().is_empty()).await;
}
