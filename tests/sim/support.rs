//! A simulation of its own for each test, and a client that shares nothing with the product's.

use std::{collections::HashMap, time::Duration};

use backstop::sim::{Sim, SimOptions};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// A running simulation and a client.
pub struct Bench {
    pub sim: Sim,
    pub http: Client,
}

/// An answer that has been read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
    /// Null when the text is no JSON.
    pub body: Value,
    headers: HashMap<String, String>,
}

impl Answer {
    /// Hetzner's error code.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The names of what was listed.
    pub fn names(&self, key: &str) -> Vec<&str> {
        let items = self.body[key].as_array().expect("the answer is a list");
        items.iter().filter_map(|it| it["name"].as_str()).collect()
    }
}

/// Actions that take no longer than a test should.
pub fn quick() -> SimOptions {
    SimOptions {
        action_time: (Duration::from_millis(100), Duration::from_millis(100)),
        ..SimOptions::default()
    }
}

impl Bench {
    /// With actions that do not end within a test.
    pub fn start() -> Bench {
        Bench::with(SimOptions {
            action_time: (Duration::from_secs(60), Duration::from_secs(60)),
            ..SimOptions::default()
        })
    }

    pub fn with(options: SimOptions) -> Bench {
        let sim = Sim::start(([127, 0, 0, 1], 0).into(), options).expect("loopback is there");
        Bench {
            sim,
            http: client(),
        }
    }

    pub async fn hetzner(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let token = self.sim.options().hcloud_token;
        self.hetzner_with_token(&token, method, path, body).await
    }

    pub async fn hetzner_with_token(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let url = format!("{}{path}", self.sim.hetzner_url());
        self.send(&url, Some(token), method, body).await
    }

    pub async fn hetzner_raw(&self, method: &str, path: &str, body: &'static str) -> Answer {
        let url = format!("{}{path}", self.sim.hetzner_url());
        let request = self.http.request(parse(method), url).body(body);
        let token = self.sim.options().hcloud_token;
        read(request.bearer_auth(token).send().await.expect("an answer")).await
    }

    pub async fn tailscale(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let token = self.sim.options().tailscale_api_key;
        self.tailscale_with_token(&token, method, path, body).await
    }

    pub async fn tailscale_with_token(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let url = format!("{}/api/v2{path}", self.sim.tailscale_url());
        self.send(&url, Some(token), method, body).await
    }

    pub async fn github(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let token = self.sim.options().github_token;
        self.github_with_token(&token, method, path, body).await
    }

    pub async fn github_with_token(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let url = format!("{}{path}", self.sim.github_url());
        self.send(&url, Some(token), method, body).await
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> Answer {
        let url = format!("http://{}{path}", self.sim.address());
        let body = (!body.is_null()).then_some(body);
        self.send(&url, None, method, body).await
    }

    pub async fn oauth_token(&self, secret: &str) -> Answer {
        let url = format!("{}/api/v2/oauth/token", self.sim.tailscale_url());
        let form = [
            ("client_id", self.sim.options().oauth_client_id),
            ("client_secret", secret.to_owned()),
            ("grant_type", "client_credentials".to_owned()),
        ];
        read(
            self.http
                .post(url)
                .form(&form)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    pub async fn create(&self, name: &str) -> Answer {
        let body = json!({"name": name, "server_type": "cx22", "image": "ubuntu-24.04"});
        self.hetzner("POST", "/servers", Some(body)).await
    }

    /// The request must end in a reset, without any answer.
    pub async fn assert_reset(&self, method: &str, path: &str) {
        let url = format!("{}{path}", self.sim.hetzner_url());
        let token = self.sim.options().hcloud_token;
        let request = self.http.request(parse(method), url).bearer_auth(token);
        let error = request.send().await.expect_err("the connection is reset");
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        let mut kinds = Vec::new();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                kinds.push(error.kind());
            }
            cause = error.source();
        }
        assert!(
            kinds.contains(&std::io::ErrorKind::ConnectionReset),
            "{error:?}"
        );
    }

    /// Waits for an action's end; the action.
    pub async fn until_ended(&self, id: u64) -> Value {
        for _ in 0..100 {
            let answer = self.hetzner("GET", &format!("/actions/{id}"), None).await;
            if answer.body["action"]["status"] != "running" {
                return answer.body["action"].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("action {id} did not end");
    }

    pub async fn until_running(&self, id: u64) {
        for _ in 0..100 {
            let answer = self.hetzner("GET", &format!("/servers/{id}"), None).await;
            if answer.body["server"]["status"] == "running" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("server {id} did not start");
    }

    async fn send(
        &self,
        url: &str,
        token: Option<&str>,
        method: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.http.request(parse(method), url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        read(request.send().await.expect("an answer")).await
    }
}

fn parse(method: &str) -> Method {
    method.parse().expect("a method's name")
}

async fn read(response: reqwest::Response) -> Answer {
    let headers = response.headers().iter();
    let headers = headers
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    Answer {
        status,
        body: serde_json::from_str(&text).unwrap_or_default(),
        text,
        headers,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the simulation is tested without the product's clients"
)]
fn client() -> Client {
    Client::new()
}
