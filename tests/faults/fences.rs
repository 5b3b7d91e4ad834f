//! A worker that comes back late settles nothing.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::crash::TURN;
use crate::harness::{Run, Service};
use crate::log;

const RUN: Run = Run(100, 1);

pub async fn wait_for(what: &str, is: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while !is() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} did not happen"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn fence(service: &Service) -> i64 {
    sqlx::query_scalar("select max(fence) from steps where resource = 'server' and searches")
        .fetch_one(&service.pool)
        .await
        .unwrap()
}

/// Holds the first report of a server search, and lets every later one pass.
struct Held {
    release: std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>,
    holding: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Held {
    fn arm() -> Self {
        let release =
            std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
        let holding = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (gate, flag) = (release.clone(), holding.clone());
        fail::cfg_callback("before_settling", move || {
            if flag.swap(true, std::sync::atomic::Ordering::AcqRel) {
                return;
            }
            // This thread may be the one that waits for sockets and timers for all of them.
            tokio::task::block_in_place(|| {
                let (free, changed) = &*gate;
                let mut free = free.lock().unwrap();
                while !*free {
                    free = changed.wait(free).unwrap();
                }
            });
        })
        .unwrap();
        Self { release, holding }
    }

    async fn until_it_holds(&self) {
        let holding = self.holding.clone();
        wait_for("a worker to be held", move || {
            holding.load(std::sync::atomic::Ordering::Acquire)
        })
        .await;
    }

    fn let_go(&self) {
        let (free, changed) = &*self.release;
        *free.lock().unwrap() = true;
        changed.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
        fail::remove("before_settling");
    }
}

fn without_tailscale() -> crate::harness::Options {
    crate::harness::Options {
        tailscale: false,
        ..crate::harness::Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_whose_lease_ran_out_settles_nothing_when_it_comes_back() {
    let _turn = TURN.lock().await;
    let service = Service::start_with(without_tailscale()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let held = Held::arm();
    // Its list is empty and nothing may come: it is about to report `never_appeared`.
    let answer = service
        .callback("failure", id, RUN, json!({"may_exist": []}))
        .await;
    assert_eq!(answer.status, 202);
    held.until_it_holds().await;
    // Meanwhile the server arrives, the lease runs out, and somebody else takes the step.
    let made = service.make_all(&started);
    let before = fence(&service).await;
    service.advance(Duration::from_secs(121)).await;
    let found = service
        .until(id, |provision| {
            provision["rollback"]["steps"]
                .as_array()
                .is_some_and(|steps| steps.len() == 2)
        })
        .await;
    assert!(fence(&service).await > before, "{found:#}");
    held.let_go();

    let provision = service.settled(id).await;
    assert_eq!(
        crate::harness::steps(&provision),
        [
            "1 server search gone deleted".to_owned(),
            format!("1 server {} gone deleted", made.server),
        ]
    );
    assert_eq!(service.alive(), Vec::<String>::new());
    let kinds = service.event_kinds(id).await;
    let done = kinds.iter().filter(|kind| *kind == "rollback.done").count();
    assert_eq!(done, 1, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hint_that_is_added_while_the_search_is_in_hand_is_not_lost() {
    let _turn = TURN.lock().await;
    let service = Service::start_with(without_tailscale()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let held = Held::arm();
    let nothing = json!({"may_exist": []});
    service.callback("failure", id, RUN, nothing.clone()).await;
    held.until_it_holds().await;
    // The search has looked and is about to say that there is nothing. There is.
    let made = service.make_all(&started);
    let mut named = nothing;
    named["server_id"] = json!(made.server);
    let answer = service.callback("failure", id, RUN, named).await;
    assert_eq!(answer.status, 202);
    held.let_go();
    let provision = service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new(), "{provision:#}");
    assert_eq!(log::deleted(&service.sim), [made.server.to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_while_the_search_is_in_hand_makes_it_look_again() {
    let _turn = TURN.lock().await;
    let service = Service::start_with(without_tailscale()).await;
    let id = Uuid::new_v4();
    let started = service.started(id, RUN).await;
    let held = Held::arm();
    service
        .callback("failure", id, RUN, json!({"may_exist": []}))
        .await;
    held.until_it_holds().await;
    service.make_all(&started);
    // It names no id; but who speaks may also have created.
    let answer = service
        .callback("failure", id, RUN, json!({"may_exist": ["server"]}))
        .await;
    assert_eq!(answer.status, 202);
    held.let_go();
    service.settled(id).await;
    assert_eq!(service.alive(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_whose_worker_crashed_holds_up_the_server_no_longer_than_its_lease() {
    let _turn = TURN.lock().await;
    let service = Service::start().await;
    let id = Uuid::new_v4();
    let made = service.make_all(&service.started(id, RUN).await);
    crate::crash::arm(crate::crash::CrashPoint::Claimed.name(), 1);
    service.callback("failure", id, RUN, made.ids()).await;
    wait_for("the crash", || crate::crash::count() == 1).await;
    assert_eq!(service.sim.servers().len(), 1);
    service.advance(Duration::from_secs(121)).await;
    service.settled(id).await;
    crate::crash::disarm();
    assert_eq!(service.alive(), Vec::<String>::new());
}
