//! Plays one provision's script, as its workflow, its operator and the world around it, and keeps the
//! record of what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backstop::sim::Sim;
use chrono::{DateTime, Utc};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use crate::book::{Acknowledged, Attempt, Belief, Book, Made, Names, Record, now};
use crate::calls::{Caller, TAG, Told};
use crate::foreign;
use crate::plan::{Act, Delivery, Ids, MayExist, Plan};

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

struct Player<'a> {
    stage: &'a Stage,
    rng: StdRng,
    /// Who speaks.
    run: (i64, i64),
    /// The attempt that the run owns, by its place in the record.
    current: Option<usize>,
    /// Whether the run still makes things: it does not once it has been told to give up, or could not
    /// make what comes before.
    goes_on: bool,
    record: Record,
    /// To be sent once more.
    last_message: Option<(&'static str, Value)>,
    said: u64,
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

    async fn request(&mut self) {
        let id = self.record.plan.id;
        let body = json!({"id": id, "agent_id": self.agent(), "region": "fsn1"});
        let told = self
            .operate(
                Method::POST,
                "/v1/provisions",
                Some(body),
                Delivery::Certain,
            )
            .await;
        self.record.tell(&format!("asked for: {}", short(&told)));
    }

    async fn start(&mut self, delivery: Delivery) {
        let sent = now();
        let body = json!({"agent_id": self.agent(), "region": "fsn1"});
        let told = self.send("started", self.run, body, delivery).await;
        let Told::Accepted(answer) = told else {
            return;
        };
        let Some(names) = names(&answer) else {
            let what = format!("an answer to started that names nothing: {answer}");
            self.stage.book.violation(Some(self.record.plan.id), what);
            return;
        };
        let number = answer["attempt"].as_i64().unwrap_or_default();
        if let Some(former) = self.record.attempts.last_mut()
            && former.number != number
        {
            // The new attempt supersedes it.
            former.doom(sent, Some(now()));
        }
        self.record.attempts.push(Attempt {
            number,
            run: self.run,
            names,
            heard: Vec::new(),
            last_sent: sent,
            started: sent,
            heartbeat: false,
            made: Made::default(),
            begun: Vec::new(),
            doomed: None,
            says_no_server: false,
            says_server: Vec::new(),
        });
        self.record.belief = Belief::Over;
        self.current = Some(self.record.attempts.len() - 1);
        self.goes_on = true;
    }

    /// From here on another run speaks.
    fn hand_over(&mut self, run: (i64, i64)) {
        self.record
            .tell(&format!("run {}.{} takes over", run.0, run.1));
        self.run = run;
        self.current = None;
        self.goes_on = false;
    }

    async fn former_run_fails(&mut self, ids: Ids) {
        let Some(first) = self.record.attempts.first() else {
            return;
        };
        if first.run == self.run {
            return;
        }
        // It may own the current attempt, if nobody could take over.
        let mut body = self.ids(0, ids);
        body["error"] = json!(format!("late, {}", self.nth()));
        self.fail(0, body, Delivery::Certain).await;
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

    async fn succeed(&mut self, index: usize, delivery: Delivery) {
        let made = self.record.attempts[index].made.clone();
        let ready = self.goes_on && made.server.is_some() && made.device.is_some();
        let doomed = self.is_doomed(index);
        if !ready && !doomed {
            let mut body = self.ids(index, Ids::True);
            body["error"] = json!(format!("not ready, {}", self.nth()));
            self.fail(index, body, delivery).await;
            return;
        }
        let mut body = self.ids(index, Ids::True);
        if body["server_id"] == json!("") {
            body["server_id"] = json!("1");
        }
        body["server_ip"] = json!("192.0.2.10");
        body["tailscale_ip"] = json!("100.64.0.10");
        let told = self.say(index, "success", body, delivery).await;
        match told {
            Told::Accepted(_) => self.record.belief = Belief::Runs,
            Told::Unknown if !doomed => self.record.belief = Belief::Either,
            _ => {}
        }
    }

    /// Whether a message that ends it was acknowledged.
    fn is_doomed(&self, index: usize) -> bool {
        let doomed = self.record.attempts[index].doomed;
        doomed.is_some_and(|doomed| doomed.acknowledged.is_some())
    }

    async fn fail(&mut self, index: usize, body: Value, delivery: Delivery) {
        let sent = now();
        let may_exist = body.get("may_exist");
        let server_may_exist = may_exist
            .and_then(Value::as_array)
            .is_none_or(|all| all.iter().any(|it| it == "server"));
        // Whatever becomes of the message: whoever sends it needs nothing any more.
        let attempt = &mut self.record.attempts[index];
        attempt.doom(sent, None);
        attempt.says_no_server |= !server_may_exist;
        let told = self.say(index, "failure", body, delivery).await;
        let is_current = index + 1 == self.record.attempts.len();
        match told {
            Told::Accepted(_) => {
                let attempt = &mut self.record.attempts[index];
                attempt.doom(sent, Some(now()));
                if server_may_exist {
                    attempt.says_server.push((sent, now()));
                }
                if is_current {
                    self.record.belief = Belief::Over;
                }
            }
            Told::Unknown if is_current && self.record.belief == Belief::Runs => {
                self.record.belief = Belief::Either;
            }
            _ => {}
        }
    }

    async fn destroy(&mut self, delivery: Delivery) {
        let sent = now();
        let path = format!("/v1/provisions/{}", self.record.plan.id);
        let told = self.operate(Method::DELETE, &path, None, delivery).await;
        self.record.tell(&format!("destroy: {}", short(&told)));
        let acknowledged = match &told {
            Told::Accepted(_) => Some(now()),
            _ => None,
        };
        if let (Some(attempt), false) = (
            self.record.attempts.last_mut(),
            matches!(told, Told::Refused(_)),
        ) {
            attempt.doom(sent, acknowledged);
        }
        match told {
            Told::Accepted(_) => self.record.belief = Belief::Over,
            Told::Unknown if self.record.belief == Belief::Runs => {
                self.record.belief = Belief::Either;
            }
            _ => {}
        }
    }

    /// Sends a callback of an attempt's run, and learns from the answer.
    async fn say(
        &mut self,
        index: usize,
        kind: &'static str,
        body: Value,
        delivery: Delivery,
    ) -> Told {
        let run = self.record.attempts[index].run;
        let sent = now();
        self.record.attempts[index].last_sent = sent;
        let told = self.send(kind, run, body, delivery).await;
        let attempt = &mut self.record.attempts[index];
        match &told {
            Told::Accepted(_) => attempt.heard.push((sent, now())),
            // It was given up, for its time or by an operator: from its last word on.
            Told::Refused(_) => {
                let last_heard = attempt.last_heard_by(now());
                attempt.doom(last_heard, None);
                if Some(index) == self.current {
                    self.goes_on = false;
                }
            }
            Told::Unknown | Told::Broken(_) => {}
        }
        told
    }

    async fn send(
        &mut self,
        kind: &'static str,
        run: (i64, i64),
        mut body: Value,
        delivery: Delivery,
    ) -> Told {
        let id = self.record.plan.id;
        body["type"] = json!(kind);
        body["provision_id"] = json!(id);
        body["run_id"] = json!(run.0);
        body["run_attempt"] = json!(run.1);
        let book = &self.stage.book;
        book.callbacks.fetch_add(1, Ordering::Relaxed);
        let (told, repeated) = self
            .stage
            .caller
            .callback(&mut self.rng, id, kind, &body, delivery)
            .await;
        book.repeated.fetch_add(repeated, Ordering::Relaxed);
        let text = format!(
            "{kind} of {}.{} {delivery:?}: {}",
            run.0,
            run.1,
            short(&told)
        );
        self.record.tell(&text);
        match &told {
            Told::Accepted(_) => self.record.acknowledged.push(Acknowledged {
                kind,
                body: body.clone(),
            }),
            Told::Broken(answer) => book.violation(Some(id), format!("{kind}: {answer}")),
            Told::Refused(_) | Told::Unknown => {}
        }
        self.last_message = Some((kind, body));
        told
    }

    async fn operate(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
        delivery: Delivery,
    ) -> Told {
        let (told, _) = self
            .stage
            .caller
            .operate(&mut self.rng, method, path, body, delivery)
            .await;
        if let Told::Broken(answer) = &told {
            let what = format!("{path}: {answer}");
            self.stage.book.violation(Some(self.record.plan.id), what);
        }
        told
    }

    fn begin(&mut self, index: usize, resource: &'static str) {
        let begun = &mut self.record.attempts[index].begun;
        if !begun.contains(&resource) {
            begun.push(resource);
        }
    }

    /// The ids that a message names. An output that was never set is an empty string.
    fn ids(&mut self, index: usize, ids: Ids) -> Value {
        let made = &self.record.attempts[index].made;
        match ids {
            Ids::None => json!({}),
            Ids::True => json!({
                "server_id": made.server.clone().unwrap_or_default(),
                "tailscale_node_id": made.device.clone().unwrap_or_default(),
                "tailscale_key_id": made.key.as_ref().map_or("", |(id, _)| id),
            }),
            Ids::Foreign => {
                let one = foreign::one_of_each(&self.stage.book, &mut self.rng);
                json!({
                    "server_id": one.server, "tailscale_node_id": one.device,
                    "tailscale_key_id": one.key,
                })
            }
            Ids::AnotherProvisions => {
                let recent = self.stage.book.recent();
                match recent.choose(&mut self.rng) {
                    Some((server, device)) => {
                        json!({"server_id": server, "tailscale_node_id": device})
                    }
                    None => json!({}),
                }
            }
        }
    }

    /// Makes each message another than those before.
    fn nth(&mut self) -> u64 {
        self.said += 1;
        self.said
    }

    fn agent(&self) -> String {
        format!("agent-{}", self.record.plan.number)
    }
}

fn names(answer: &Value) -> Option<Names> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let labels = answer["labels"].as_object()?;
    Some(Names {
        server: text(&answer["server_name"])?,
        labels: labels
            .iter()
            .map(|(key, value)| Some((key.clone(), text(value)?)))
            .collect::<Option<_>>()?,
        hostname: text(&answer["tailscale"]["hostname"])?,
        description: text(&answer["tailscale"]["key_description"])?,
    })
}

fn short(told: &Told) -> String {
    match told {
        Told::Accepted(_) => "accepted".to_owned(),
        Told::Refused(code) => format!("refused, {code}"),
        Told::Unknown => "no answer was heard".to_owned(),
        Told::Broken(answer) => format!("broken: {answer}"),
    }
}

/// The moment at which an attempt was needed no more, if it is over.
pub fn needed_until(attempt: &Attempt) -> DateTime<Utc> {
    attempt.doomed.map_or(attempt.last_sent, |doomed| doomed.at)
}
