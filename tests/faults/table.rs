//! The table: faults × crash points × kinds of thing, with and without the ids.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::catalogue::{Kind, Wrong};
use crate::crash::{self, CrashPoint, TURN};
use crate::harness::{Made, Options, Run, Service, TAG, labels, steps};
use crate::log;

/// What the lease of a crashed worker needs to run out.
const LEASE_IS_OVER: Duration = Duration::from_secs(121);
/// The furthest that time is moved at once otherwise: far less than a lease.
const FASTEST: Duration = Duration::from_secs(10);
/// How long one line of the table may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Line {
    wrong: Wrong,
    kind: Kind,
    crash: Option<CrashPoint>,
    ids: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_crash_point_ends_with_all_of_ours_gone_and_nothing_else() {
    let _turn = TURN.lock().await;
    // It is not about the rate limit, and sends more than an hour's worth.
    let mut options = Options::default();
    options.sim.rate_limit = 36_000;
    let service = Service::start_with(options).await;
    let neighbour = Neighbour::start(&service).await;
    let began = Instant::now();
    let (mut lines, mut failures) = (0, Vec::new());
    let crashes = [None].into_iter().chain(CrashPoint::ALL.map(Some));
    for crash in crashes {
        for wrong in Wrong::ALL {
            for kind in Kind::ALL {
                if !wrong.can_happen_to(kind) {
                    continue;
                }
                for ids in [true, false] {
                    // A crash on top of a fault: every other line names the ids.
                    let combined = crash.is_some() && wrong != Wrong::Nothing;
                    if combined && ids == (wrong as u32 + kind.place()).is_multiple_of(2) {
                        continue;
                    }
                    let line = Line {
                        wrong,
                        kind,
                        crash,
                        ids,
                    };
                    lines += 1;
                    let ended = line.run(&service).await;
                    crash::disarm();
                    service.sim.clear_faults();
                    if let Err(problem) = ended {
                        println!("{line:?}: {problem}");
                        failures.push(format!("{line:?}: {problem}"));
                    }
                    neighbour.check(&service, &mut failures);
                    assert!(failures.len() < 12, "{}", failures.join("\n"));
                }
            }
        }
    }
    println!("{lines} lines in {:?}", began.elapsed());
    assert!(
        failures.is_empty(),
        "{} of {lines} lines:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// A provision that lives, and whose things must outlive the table.
struct Neighbour(Made);

impl Neighbour {
    async fn start(service: &Service) -> Self {
        let (id, run) = (Uuid::new_v4(), Run(7, 1));
        let made = service.make_all(&service.started(id, run).await);
        let answer = service.callback("success", id, run, made.ids()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self(made)
    }

    fn check(&self, service: &Service, failures: &mut Vec<String>) {
        for kind in Kind::ALL {
            if !is_alive(service, kind, &kind.id(&self.0)) {
                failures.push(format!("the running neighbour lost its {kind:?}"));
            }
        }
    }
}

/// Things that look like the provision's and are not.
struct LookAlikes {
    servers: Vec<u64>,
    devices: Vec<String>,
    keys: Vec<String>,
}

impl LookAlikes {
    fn add(service: &Service, started: &Value) -> Self {
        let sim = &service.sim;
        let name = started["server_name"].as_str().unwrap();
        let description = started["tailscale"]["key_description"].as_str().unwrap();
        let but = |key: &str, value: &str| -> Vec<(String, String)> {
            let mut labels = labels(started);
            let label = labels.iter_mut().find(|(name, _)| name == key).unwrap();
            value.clone_into(&mut label.1);
            labels
        };
        let longer = format!("{name}0");
        Self {
            servers: vec![
                sim.add_server(name, [("team", "finance")]),
                sim.add_server(&longer, but("backstop-attempt", "10")),
                sim.add_server(name, but("backstop-run", "100.2")),
                sim.add_server(name, but("managed-by", "terraform")),
                sim.add_server(
                    name,
                    but("backstop-controller", &Uuid::new_v4().to_string()),
                ),
            ],
            devices: vec![
                sim.add_device(name, &["tag:other"]),
                sim.add_device(&longer, &[TAG]),
                sim.add_device(name, &[]),
            ],
            keys: vec![
                sim.add_key(&format!("{description}0"), &[TAG]),
                sim.add_key(name, &[TAG]),
            ],
        }
    }

    fn all_alive(&self, service: &Service) -> Result<(), String> {
        let servers = self.servers.iter().map(|id| (Kind::Server, id.to_string()));
        let devices = self.devices.iter().map(|id| (Kind::Device, id.clone()));
        let keys = self.keys.iter().map(|id| (Kind::AuthKey, id.clone()));
        for (kind, id) in servers.chain(devices).chain(keys) {
            if !is_alive(service, kind, &id) {
                return Err(format!("deleted the foreign {kind:?} {id}"));
            }
        }
        Ok(())
    }

    fn remove(&self, service: &Service) {
        for id in &self.servers {
            service.sim.remove_server(*id);
        }
        for id in &self.devices {
            service.sim.remove_device(id);
        }
    }
}

fn is_alive(service: &Service, kind: Kind, id: &str) -> bool {
    let sim = &service.sim;
    match kind {
        Kind::AuthKey => sim.keys().iter().any(|key| key.id == id && !key.revoked),
        Kind::Server => sim.servers().iter().any(|it| it.id.to_string() == id),
        Kind::Device => sim.devices().iter().any(|device| device.node_id == id),
    }
}

impl Line {
    async fn run(self, service: &Service) -> Result<(), String> {
        let (id, run) = (Uuid::new_v4(), Run(100, 1));
        let started = service.started(id, run).await;
        let made = service.make_all(&started);
        let look_alikes = LookAlikes::add(service, &started);
        service.sim.clear_history();
        self.wrong.script(&service.sim, self.kind, &made);
        if let Some(point) = self.crash {
            crash::arm(point.name(), self.nth(point));
        }
        let more = if self.ids { made.ids() } else { json!({}) };
        let answer = service.callback("failure", id, run, more.clone()).await;
        if answer.status != 202 {
            return Err(format!("the callback: {answer:?}"));
        }

        let provision = self.settle(service, id, &made).await?;
        self.check_end(service, &provision, &made, &look_alikes)?;

        // Once more, by the workflow and by the operator: there is nothing left to do.
        let sent = log::delete_requests(&service.sim).len();
        let again = service.callback("failure", id, run, more).await;
        let forced = service
            .operate("POST", &format!("/v1/provisions/{id}/rollback"), None)
            .await;
        if (again.status, forced.status) != (202, 202) {
            return Err(format!("once more: {again:?}, {forced:?}"));
        }
        let after = service.provision(id).await;
        if after["rollback"] != provision["rollback"] {
            return Err(format!(
                "done once more, {:#} became {:#}",
                provision["rollback"], after["rollback"]
            ));
        }
        if log::delete_requests(&service.sim).len() != sent {
            return Err("done once more, something was deleted again".to_owned());
        }
        look_alikes.remove(service);
        Ok(())
    }

    fn is_undisturbed(self) -> bool {
        self.wrong == Wrong::Nothing && self.crash.is_none()
    }

    /// Which time the point is passed is this kind's turn.
    fn nth(self, point: CrashPoint) -> u32 {
        match point {
            CrashPoint::Claimed | CrashPoint::Deleted => 1 + self.kind.place(),
            CrashPoint::BeforeSettling => 1 + 2 * self.kind.place(),
        }
    }

    /// Moves time, ever faster, until the rollback is done.
    async fn settle(self, service: &Service, id: Uuid, made: &Made) -> Result<Value, String> {
        let deadline = Instant::now() + PATIENCE;
        let (mut crashes_seen, mut lifted) = (0, !self.wrong.needs_person());
        for look in 1_u64.. {
            let provision = service.provision(id).await;
            let rollback = &provision["rollback"];
            if rollback["state"] == "done" {
                if !lifted {
                    return Err(format!("was done before it could be: {rollback:#}"));
                }
                if self.crash.is_some() && crash::count() != 1 {
                    return Err(format!("crashed {} times", crash::count()));
                }
                return Ok(provision);
            }
            if Instant::now() > deadline {
                return Err(format!("is not done: {rollback:#}"));
            }
            if !lifted && rollback["state"] == "stuck" {
                lifted = true;
                self.wrong.lift(&service.sim, made);
            }
            // What a living worker has in hand must not lose its lease on a busy machine. Without
            // anything in the way no time is moved at all.
            let in_hand = rollback["steps"]
                .as_array()
                .is_some_and(|steps| steps.iter().any(|step| step["state"] == "leased"));
            let crashed = crash::count() > crashes_seen;
            if self.is_undisturbed() || (in_hand && !crashed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let by = if crashed {
                crashes_seen = crash::count();
                LEASE_IS_OVER
            } else {
                Duration::from_millis(100 * look).min(FASTEST)
            };
            service.advance(by).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("it looks until it is done or time is up")
    }

    fn check_end(
        self,
        service: &Service,
        provision: &Value,
        made: &Made,
        look_alikes: &LookAlikes,
    ) -> Result<(), String> {
        let ours: BTreeSet<String> = Kind::ALL.iter().map(|kind| kind.id(made)).collect();
        for kind in Kind::ALL {
            if is_alive(service, kind, &kind.id(made)) {
                return Err(format!("left its {kind:?}: {:#}", provision["rollback"]));
            }
        }
        look_alikes.all_alive(service)?;
        let asked = log::asked_to_delete(&service.sim);
        if !asked.is_subset(&ours) {
            return Err(format!(
                "asked to delete {asked:?}, of which ours are {ours:?}"
            ));
        }

        let deleted = log::deleted(&service.sim);
        let steps = steps(provision);
        for step in &steps {
            let words: Vec<&str> = step.split(' ').collect();
            let [_, resource, subject, state, proof] = words[..] else {
                return Err(format!("an odd step: {step}"));
            };
            let kind = match resource {
                "auth_key" => Kind::AuthKey,
                "server" => Kind::Server,
                _ => Kind::Device,
            };
            // What a search deleted is what its kind's own step deleted.
            let id = if subject == "search" {
                kind.id(made)
            } else {
                subject.to_owned()
            };
            let is_true = state == "gone"
                && match proof {
                    "deleted" => deleted.contains(&id),
                    "already_gone" | "never_appeared" => !is_alive(service, kind, &id),
                    _ => false,
                };
            if !is_true {
                return Err(format!(
                    "{step} is not true; of these DELETEs: {:#?}",
                    log::deletes(&service.sim)
                ));
            }
        }
        // Nothing in the way: it was there, so nothing else can be said.
        if self.is_undisturbed() && !steps.iter().all(|step| step.ends_with("gone deleted")) {
            return Err(format!("proofs of an undisturbed rollback: {steps:#?}"));
        }
        Ok(())
    }
}
