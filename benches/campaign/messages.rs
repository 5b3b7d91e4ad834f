//! What a workflow and an operator say, and what is learned from the answers.

use std::sync::atomic::Ordering;

use rand::seq::IndexedRandom as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::book::{Acknowledged, Attempt, Belief, Made, Names, now};
use crate::calls::Told;
use crate::driver::Player;
use crate::foreign;
use crate::plan::{Delivery, Ids};

impl Player<'_> {
    pub async fn request(&mut self) {
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

    pub async fn start(&mut self, delivery: Delivery) {
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
    pub fn hand_over(&mut self, run: (i64, i64)) {
        self.record
            .tell(&format!("run {}.{} takes over", run.0, run.1));
        self.run = run;
        self.current = None;
        self.goes_on = false;
    }

    pub async fn former_run_fails(&mut self, ids: Ids) {
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

    pub async fn succeed(&mut self, index: usize, delivery: Delivery) {
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

    pub async fn fail(&mut self, index: usize, body: Value, delivery: Delivery) {
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

    pub async fn destroy(&mut self, delivery: Delivery) {
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
    pub async fn say(
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

    pub async fn send(
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

    pub async fn operate(
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

    pub fn ids(&mut self, index: usize, ids: Ids) -> Value {
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
    pub fn nth(&mut self) -> u64 {
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

/// What became of a message, for people.
pub fn short(told: &Told) -> String {
    match told {
        Told::Accepted(_) => "accepted".to_owned(),
        Told::Refused(code) => format!("refused, {code}"),
        Told::Unknown => "no answer was heard".to_owned(),
        Told::Broken(answer) => format!("broken: {answer}"),
    }
}
