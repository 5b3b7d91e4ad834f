//! Where operators listen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{Options, PATIENCE, SECRET, Service, database};

/// Takes what is signed, and answers as it is told to.
#[derive(Clone)]
pub struct Receiver {
    address: std::net::SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
    /// What is answered next; nothing more: 204. `None`: no answer, ever.
    answers: Arc<Mutex<VecDeque<Option<StatusCode>>>>,
    strayed: Arc<Mutex<bool>>,
}

/// What a request said, and what was answered.
#[derive(Debug, Clone)]
pub struct Told {
    pub id: String,
    pub body: Value,
    pub taken: bool,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            told: Arc::default(),
            answers: Arc::default(),
            strayed: Arc::default(),
        };
        let router = Router::new()
            .route("/hook", post(take))
            .fallback(any(stray))
            .with_state(receiver.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        receiver
    }

    /// A service that tells it.
    pub async fn service(&self) -> Service {
        self.service_at(database().await).await
    }

    pub async fn service_at(&self, database: sqlx::postgres::PgConnectOptions) -> Service {
        Service::start_at(self.told_in(Options::default()), database).await
    }

    pub fn told_in(&self, options: Options) -> Options {
        Options {
            webhook: Some(format!("http://{}/hook?token=secret", self.address)),
            ..options
        }
    }

    /// Whether a redirect was followed.
    pub fn has_strayed(&self) -> bool {
        *self.strayed.lock().unwrap()
    }

    pub fn answer(&self, answers: impl IntoIterator<Item = Option<StatusCode>>) {
        self.answers.lock().unwrap().extend(answers);
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// The types of what it took, in that order.
    pub fn types(&self) -> Vec<String> {
        let told = self.told();
        let taken = told.iter().filter(|told| told.taken);
        taken
            .map(|told| told.body["type"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until it was told so often.
    pub async fn until_told(&self, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.told().len() < times {
            assert!(Instant::now() < deadline, "told: {:?}", self.told());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same, moving time over the pauses between tries.
    pub async fn until_retried(&self, service: &Service, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.told().len() < times {
            assert!(Instant::now() < deadline, "told: {:?}", self.told());
            service.advance(Duration::from_secs(5)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    // Also that its time is now: whatever the database's clock was moved to.
    let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
    verifier.verify(&body, &headers).unwrap();
    assert_eq!(headers["content-type"], "application/json");
    let answer = receiver.answers.lock().unwrap().pop_front();
    let answer = answer.unwrap_or(Some(StatusCode::NO_CONTENT));
    receiver.told.lock().unwrap().push(Told {
        id: headers["webhook-id"].to_str().unwrap().to_owned(),
        body: serde_json::from_slice(&body).unwrap(),
        taken: answer.is_some_and(|status| status.is_success()),
    });
    match answer {
        Some(status) => (status, [("location", "/elsewhere")]).into_response(),
        None => std::future::pending().await,
    }
}

async fn stray(State(receiver): State<Receiver>) {
    *receiver.strayed.lock().unwrap() = true;
}
