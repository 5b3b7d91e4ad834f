//! An issuer of OIDC tokens on loopback, which can be told to misbehave.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::missing_panics_doc,
    clippy::unwrap_used
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Run;
use super::app_key::rsa_key;

pub const AUDIENCE: &str = "https://backstop.example";
pub const REPOSITORY: &str = "acme/agents";
pub const FILE: &str = "acme/agents/.github/workflows/provision-agent.yml@refs/heads/main";

const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/.well-known/jwks";

/// How the issuer answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    Fine,
    /// With 503.
    Away,
    /// Not in this century.
    Silent,
    /// With this document where the keys are described.
    Discovery(Value),
    /// With these keys.
    Keys(Value),
    /// To somewhere else, from either address.
    Redirect(String),
    /// With more than anybody needs.
    Endless,
}

/// A key that signs tokens.
#[derive(Clone)]
pub struct SigningKey {
    pub id: String,
    pub private: EncodingKey,
}

impl SigningKey {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            private: EncodingKey::from_rsa_der(&rsa_key()),
        }
    }

    /// As everybody can have it.
    pub fn public(&self) -> Value {
        let key = Jwk::from_encoding_key(&self.private, Algorithm::RS256).unwrap();
        let mut key = serde_json::to_value(key).unwrap();
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key
    }

    /// Signs whatever it is given.
    pub fn sign(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.private).unwrap()
    }
}

/// The issuer.
pub struct TestIssuer {
    pub url: String,
    state: Arc<Mutex<Issuing>>,
}

struct Issuing {
    url: String,
    /// Where its keys are, below its host.
    jwks: String,
    key: SigningKey,
    manner: Manner,
    asked: Vec<String>,
}

impl TestIssuer {
    pub async fn start() -> Self {
        Self::start_at("").await
    }

    /// At this path of its host.
    pub async fn start_at(path: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Issuing {
            url: url.clone(),
            jwks: format!("{path}{JWKS}"),
            key: SigningKey::new("first"),
            manner: Manner::Fine,
            asked: Vec::new(),
        }));
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    pub fn be(&self, manner: Manner) {
        self.state.lock().unwrap().manner = manner;
    }

    /// From now on another key signs, and the old one is gone.
    pub fn rotate(&self, id: &str) {
        self.state.lock().unwrap().key = SigningKey::new(id);
    }

    /// From now on its keys are there, below its host.
    pub fn keep_keys_at(&self, path_and_query: &str) {
        path_and_query.clone_into(&mut self.state.lock().unwrap().jwks);
    }

    pub fn key(&self) -> SigningKey {
        self.state.lock().unwrap().key.clone()
    }

    /// How often its keys were asked for.
    pub fn asked_for_keys(&self) -> usize {
        let state = self.state.lock().unwrap();
        let jwks = &state.jwks;
        state.asked.iter().filter(|path| *path == jwks).count()
    }

    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The claims of a job of our workflow, in this run.
    pub fn claims(&self, run: Run) -> Value {
        let now = get_current_timestamp();
        json!({
            "iss": self.url, "aud": AUDIENCE, "iat": now, "nbf": now - 300, "exp": now + 300,
            "jti": uuid::Uuid::new_v4(), "sub": format!("repo:{REPOSITORY}:ref:refs/heads/main"),
            "repository": REPOSITORY, "repository_id": "42", "repository_owner": "acme",
            "repository_owner_id": "7", "ref": "refs/heads/main", "workflow_ref": FILE,
            "job_workflow_ref": FILE, "event_name": "workflow_dispatch",
            "run_id": run.0.to_string(), "run_attempt": run.1.to_string(),
        })
    }

    /// A token of that job's.
    pub fn token(&self, run: Run) -> String {
        self.token_with(run, json!({}))
    }

    /// One that says something else in some claims; null leaves a claim out.
    pub fn token_with(&self, run: Run, changes: Value) -> String {
        let mut claims = self.claims(run);
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        let key = self.key();
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(key.id.clone());
        key.sign(&header, &claims)
    }

    pub fn discovery(&self) -> Value {
        self.state.lock().unwrap().discovery()
    }
}

impl Issuing {
    fn discovery(&self) -> Value {
        let mut keys = reqwest::Url::parse(&self.url).unwrap();
        let (path, query) = self.jwks.split_once('?').unzip();
        keys.set_path(path.unwrap_or(&self.jwks));
        keys.set_query(query);
        json!({"issuer": self.url, "jwks_uri": keys.as_str()})
    }
}

async fn answer(State(state): State<Arc<Mutex<Issuing>>>, request: Request) -> Response {
    let path = request.uri().to_string();
    let (manner, discovery, key, jwks, below) = {
        let mut state = state.lock().unwrap();
        state.asked.push(path.clone());
        let jwks = path == state.jwks;
        let own = reqwest::Url::parse(&state.url).unwrap();
        let below = path.strip_prefix(own.path().trim_end_matches('/'));
        let below = below.unwrap_or_default().to_owned();
        (
            state.manner.clone(),
            state.discovery(),
            state.key.clone(),
            jwks,
            below,
        )
    };
    match (manner, below.as_str()) {
        (Manner::Away, _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        (Manner::Silent, _) => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
        (Manner::Redirect(to), _) => Redirect::temporary(&format!("{to}{path}")).into_response(),
        (Manner::Endless, _) => "[".repeat(1024 * 1024).into_response(),
        (Manner::Discovery(document), DISCOVERY) => axum::Json(document).into_response(),
        (Manner::Keys(keys), _) if jwks => axum::Json(keys).into_response(),
        (_, DISCOVERY) => axum::Json(discovery).into_response(),
        _ if jwks => {
            // Issuers have keys of other kinds, too.
            let other = json!({"kty": "EC", "kid": "curve", "crv": "P-256", "x": "AA", "y": "AA"});
            axum::Json(json!({"keys": [other, key.public()]})).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
