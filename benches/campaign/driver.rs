//! Plays one provision's script, as its workflow, its operator and the world around it, and keeps the
//! record of what was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use backstop::sim::Sim;
use chrono::{DateTime, Utc};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use crate::book::{Attempt, Book, Record, now};
use crate::calls::{Caller, TAG, Told};
use crate::foreign;
use crate::messages::short;
use crate::plan::{Act, Delivery, MayExist, Plan};

/// How long a workflow waits for its machine to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);

/// What all scripts are played with.
#[derive(Clone)]
pub struct Stage {
    pub sim: Arc<Sim>,
    pub book: Arc<Book>,
    pub caller: Caller,
}

/// Plays a script to its end. The permit is given back while the machine is only in use.
pub async fn play(stage: &Stage, plan: Plan, permit: OwnedSemaphorePermit) {
    let acts = plan.acts.clone();
    let mut player = Player {
        stage,
        rng: StdRng::seed_from_u64(plan.seed),
        run: (plan.run_id, 1),
        current: None,
        goes_on: true,
        record: Record::new(plan),
        last_message: None,
        said: 0,
    };
    let mut permit = Some(permit);
    for act in acts {
        if let Act::Use(_) = act {
            permit = None;
        }
        player.act(act).await;
    }
    drop(permit);
    player.record.ended = now();
    stage.book.close(player.record);
}

/// One script's workflow, operator and world.
pub struct Player<'a> {
    pub stage: &'a Stage,
    pub rng: StdRng,
    /// Who speaks.
    pub run: (i64, i64),
    /// The attempt that the run owns, by its place in the record.
    pub current: Option<usize>,
    /// Whether the run still makes things: it does not once it has been told to give up, or could not
    /// make what comes before.
    pub goes_on: bool,
    pub record: Record,
    /// To be sent once more.
    pub last_message: Option<(&'static str, Value)>,
    pub said: u64,
}

impl Player<'_> {
    async fn act(&mut self, act: Act) {
        match act {
            Act::Pause(time) | Act::Use(time) => sleep(time).await,
            Act::Request => self.request().await,
            Act::Started(delivery) => self.start(delivery).await,
            Act::Destroy(delivery) => self.destroy(delivery).await,
            Act::Retry => {
                let path = format!("/v1/provisions/{}/rollback", self.record.plan.id);
                let told = self
                    .operate(Method::POST, &path, None, Delivery::Certain)
                    .await;
                self.record.tell(&format!("retry: {}", short(&told)));
            }
            Act::RunAgain => self.hand_over((self.run.0, self.run.1 + 1)),
            Act::AnotherRun => self.hand_over((self.run.0 + 1, 1)),
            Act::FormerRunFails(ids) => self.former_run_fails(ids).await,
            Act::Repeat => {
                if let Some((kind, body)) = self.last_message.clone() {
                    self.send(kind, self.run, body, Delivery::Certain).await;
                }
            }
            // The first that is ever heard of it.
            Act::Failure { delivery, .. } if self.record.attempts.is_empty() => {
                let body = json!({"error": "before it was started"});
                self.send("failure", self.run, body, delivery).await;
            }
            // Whatever follows is an attempt's.
            _ => {
                if let Some(index) = self.current {
                    self.act_as(index, act).await;
                }
            }
        }
    }

    async fn act_as(&mut self, index: usize, act: Act) {
        match act {
            Act::LookAlike(kind) => {
                let names = self.record.attempts[index].names.clone();
                let what = foreign::add(&self.stage.sim, &self.stage.book, &names, kind);
                self.record.tell(&format!("somebody else's: {what}"));
            }
            Act::MintKey if self.goes_on => self.mint_key(index).await,
            Act::CreateServer if self.goes_on => self.create_server(index).await,
            Act::CreateServerLate(after) if self.goes_on => self.create_late(index, after),
            Act::AwaitDevice if self.goes_on => self.await_device(index).await,
            Act::DeviceLate(after) if self.goes_on => {
                let hostname = self.record.attempts[index].names.hostname.clone();
                self.begin(index, "device");
                self.record.will_arrive(after);
                self.record
                    .tell(&format!("a device will join in {after:?}"));
                self.stage.sim.schedule_device(after, &hostname, &[TAG]);
            }
            Act::Heartbeat => {
                let told = self
                    .say(index, "progress", json!({}), Delivery::Certain)
                    .await;
                if let Told::Accepted(_) = told {
                    self.record.attempts[index].heartbeat = true;
                }
            }
            Act::Progress(ids, delivery) => {
                let mut body = self.ids(index, ids);
                let step = format!("step-{}", self.nth());
                body["step"] = json!(step);
                self.say(index, "progress", body, delivery).await;
            }
            Act::Success(delivery) => self.succeed(index, delivery).await,
            Act::Failure {
                ids,
                may_exist,
                conclusion,
                delivery,
            } => {
                let mut body = self.ids(index, ids);
                body["conclusion"] = json!(conclusion);
                body["failed_step"] = json!("configure");
                body["error"] = json!(format!("it broke, {}", self.nth()));
                match may_exist {
                    MayExist::Unsaid => {}
                    MayExist::Begun => {
                        body["may_exist"] = json!(self.record.attempts[index].begun);
                    }
                    MayExist::NoServer => body["may_exist"] = json!(["auth_key"]),
                }
                self.fail(index, body, delivery).await;
            }
            Act::CleanUp => {
                let made = self.record.attempts[index].made.clone();
                self.record.attempts[index].doom(now(), None);
                self.goes_on = false;
                self.record
                    .tell("the workflow deletes what it knows to have made");
                self.stage.caller.clean_up(&made).await;
            }
            _ => {}
        }
    }

    async fn mint_key(&mut self, index: usize) {
        self.begin(index, "auth_key");
        let names = self.record.attempts[index].names.clone();
        let key = self.stage.caller.mint_key(&names).await;
        let id = key.as_ref().map(|(id, _)| id.clone());
        self.record.tell(&format!("minted a key: {id:?}"));
        self.goes_on = key.is_some();
        self.record.attempts[index].made.key = key;
    }

    async fn create_server(&mut self, index: usize) {
        self.begin(index, "server");
        self.begin(index, "device");
        let Attempt { names, made, .. } = self.record.attempts[index].clone();
        let server = self.stage.caller.create_server(&names, &made).await;
        self.record.tell(&format!("created a server: {server:?}"));
        self.goes_on = server.is_some();
        self.record.attempts[index].made.server = server;
    }

    fn create_late(&mut self, index: usize, after: Duration) {
        self.begin(index, "server");
        let names = self.record.attempts[index].names.clone();
        self.record.will_arrive(after);
        self.record.tell(&format!(
            "the vendor says no, and makes a server in {after:?}"
        ));
        self.stage
            .sim
            .schedule_server(after, &names.server, names.labels);
        self.goes_on = false;
    }

    async fn await_device(&mut self, index: usize) {
        let hostname = self.record.attempts[index].names.hostname.clone();
        let until = Instant::now() + JOIN_PATIENCE;
        while Instant::now() < until {
            let devices = self.stage.sim.devices();
            let own = devices
                .iter()
                .find(|it| it.hostname == hostname && it.tags.iter().any(|tag| tag == TAG));
            if let Some(device) = own {
                let made = &mut self.record.attempts[index].made;
                made.device = Some(device.node_id.clone());
                if let Some(server) = &made.server {
                    self.stage.book.made(server.clone(), device.node_id.clone());
                }
                self.record.tell(&format!("joined: {}", device.node_id));
                return;
            }
            sleep(Duration::from_millis(150)).await;
        }
        self.record.tell("the machine did not join");
        self.goes_on = false;
    }

    fn begin(&mut self, index: usize, resource: &'static str) {
        let begun = &mut self.record.attempts[index].begun;
        if !begun.contains(&resource) {
            begun.push(resource);
        }
    }
}

/// The moment at which an attempt was needed no more, if it is over.
pub fn needed_until(attempt: &Attempt) -> DateTime<Utc> {
    attempt.doomed.map_or(attempt.last_sent, |doomed| doomed.at)
}
