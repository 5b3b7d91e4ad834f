//! A vendor that answers what it is told to, and remembers what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, Response};
use backstop::providers::github::{GitHubCredential, Repository, Workflow};
use backstop::providers::tailscale::TailscaleCredential;
use backstop::providers::{GitHub, Hetzner, Tailscale, VendorError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::app_key::{APP_ID, APP_KEY};

pub const TOKEN: &str = "hcloud-secret-token";
pub const CLIENT_SECRET: &str = "tskey-client-secret";
pub const GITHUB_TOKEN: &str = "github_pat_secret";

/// What was asked: `GET /v1/servers?page=1`, with what authorization.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub authorization: Option<String>,
    /// `X-GitHub-Api-Version`.
    pub api_version: Option<String>,
    pub if_none_match: Option<String>,
    pub body: String,
}

#[derive(Clone)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Canned {
    pub fn header(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

pub fn json_answer(status: u16, body: &Value) -> Canned {
    text(status, &body.to_string())
}

pub fn text(status: u16, body: &str) -> Canned {
    Canned {
        status,
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    }
}

pub struct Server {
    pub url: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn lines(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|seen| seen.line.clone()).collect()
    }

    pub fn hetzner(&self) -> Hetzner {
        Hetzner::new(&format!("{}/v1", self.url), &TOKEN.into()).unwrap()
    }

    pub fn tailscale(&self) -> Tailscale {
        let key = TailscaleCredential::ApiKey("tskey-api-secret".into());
        Tailscale::new(&self.url, "-", key).unwrap()
    }

    pub fn github(&self) -> GitHub {
        self.github_with(&GitHubCredential::Token(GITHUB_TOKEN.into()))
    }

    pub fn github_by_app(&self) -> GitHub {
        self.github_with(&GitHubCredential::App {
            id: APP_ID.to_owned(),
            private_key: APP_KEY.private.clone().into(),
        })
    }

    pub fn github_with(&self, credential: &GitHubCredential) -> GitHub {
        GitHub::new(&self.url, workflow(), credential).unwrap()
    }

    pub fn tailscale_by_oauth(&self) -> Tailscale {
        let client = TailscaleCredential::OAuth {
            client_id: "client".to_owned(),
            client_secret: CLIENT_SECRET.into(),
        };
        Tailscale::new(&self.url, "-", client).unwrap()
    }
}

/// The workflow that the GitHub clients of these tests start.
pub fn workflow() -> Workflow {
    Workflow {
        repository: Repository::parse("octo-org/agents").unwrap(),
        file: "provision-agent.yml".to_owned(),
        git_ref: "main".to_owned(),
    }
}

/// Answers by a function of what was asked.
pub async fn serve(answer: impl Fn(&Seen) -> Canned + Send + Sync + 'static) -> Server {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (record, answer) = (seen.clone(), Arc::new(answer));
    let router = axum::Router::new().fallback(move |request: Request<Body>| {
        let (record, answer) = (record.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let header = |name: &str| {
                let value = parts.headers.get(name)?;
                Some(value.to_str().unwrap().to_owned())
            };
            let asked = Seen {
                line: format!("{} {}", parts.method, parts.uri),
                authorization: header("authorization"),
                api_version: header("x-github-api-version"),
                if_none_match: header("if-none-match"),
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            let canned = answer(&asked);
            record.lock().unwrap().push(asked);
            let mut response = Response::builder().status(canned.status);
            for (name, value) in canned.headers {
                response = response.header(name, value);
            }
            response.body(Body::from(canned.body)).unwrap()
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server { url, seen }
}

/// Answers in this order, whatever is asked.
pub async fn script(answers: impl IntoIterator<Item = Canned>) -> Server {
    let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
    let next = move |_: &Seen| answers.lock().unwrap().pop_front();
    serve(move |seen| next(seen).unwrap_or_else(|| text(599, "asked more often than scripted")))
        .await
}

pub fn kind(error: &VendorError) -> &'static str {
    match error {
        VendorError::Locked(_) => "Locked",
        VendorError::RateLimited { .. } => "RateLimited",
        VendorError::Protected(_) => "Protected",
        VendorError::Unauthorized(_) => "Unauthorized",
        VendorError::Forbidden(_) => "Forbidden",
        VendorError::Unavailable(_) => "Unavailable",
        VendorError::Rejected(_) => "Rejected",
    }
}

pub fn token_answer(token: &str, expires_in: u64) -> Canned {
    let scope = "devices:core auth_keys";
    let body = json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in, "scope": scope});
    json_answer(200, &body)
}
