//! A vendor that lies: it stands before the simulated ones, passes everything on, and tells something
//! else where it is told to.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use backstop::config::Config;
use backstop::providers::github::{GitHubCredential, Repository, Workflow};
use backstop::providers::tailscale::TailscaleCredential;
use backstop::providers::{GitHub, Hetzner, Tailscale, Timeouts, loopback_client};
use futures::StreamExt;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{Options, Service, TAG};

/// Short enough for a test to wait for.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    request: Duration::from_secs(2),
    list: Duration::from_secs(4),
};

/// What is told instead of the truth.
#[derive(Clone)]
pub struct Told {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    /// It is said again and again.
    Never,
    /// A byte at a time.
    Slowly,
}

impl Told {
    pub fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.as_bytes().to_vec(),
            end: End::Whole,
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// The body as JSON, changed.
    pub fn changed(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut body = serde_json::from_slice(&self.body).unwrap();
        change(&mut body);
        self.body = body.to_string().into_bytes();
        self
    }

    fn into_response(self) -> Response<Body> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        let said = Bytes::from(self.body);
        let body = match self.end {
            End::Whole => Body::from(said),
            End::Never => {
                let again = futures::stream::repeat(said).map(Ok::<_, Infallible>);
                Body::from_stream(again)
            }
            End::Slowly => {
                let bytes = futures::stream::iter(said).then(|byte| async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok::<_, Infallible>(Bytes::from(vec![byte]))
                });
                Body::from_stream(bytes)
            }
        };
        response.body(body).unwrap()
    }
}

/// What is asked: the path with its vendor, `/hetzner/v1/servers/42`, and the query.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
}

impl Asked {
    /// A number of the query.
    pub fn number(&self, name: &str) -> u64 {
        let value = self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then(|| value.parse().unwrap())
        });
        value.unwrap()
    }
}

type Tell = Arc<dyn Fn(&Asked, Told) -> Told + Send + Sync>;

/// Something else than the truth, about some requests.
#[derive(Clone)]
pub struct Lie {
    method: &'static str,
    /// The end of the path.
    path: String,
    /// Whether the vendor is asked at all.
    asks: bool,
    tell: Tell,
}

/// What the vendor answers is told with a change.
pub fn changed(
    method: &'static str,
    path: &str,
    tell: impl Fn(&Asked, Told) -> Told + Send + Sync + 'static,
) -> Lie {
    Lie {
        method,
        path: path.to_owned(),
        asks: true,
        tell: Arc::new(tell),
    }
}

/// The vendor is not asked at all.
pub fn made_up(
    method: &'static str,
    path: &str,
    tell: impl Fn(&Asked) -> Told + Send + Sync + 'static,
) -> Lie {
    Lie {
        asks: false,
        tell: Arc::new(move |asked, _| tell(asked)),
        ..changed(method, path, |_, told| told)
    }
}

#[derive(Default)]
struct State {
    /// Where the vendors are: `http://127.0.0.1:1234`.
    vendors: String,
    lies: Vec<Lie>,
    /// How often each was told.
    told: Vec<usize>,
    asked: Vec<Asked>,
    /// Every `Authorization` that came.
    shown: BTreeSet<String>,
}

/// The vendor that lies.
pub struct Liar {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Liar {
    /// A service whose vendors are the simulated ones behind this one.
    pub async fn start(options: Options, change: impl FnOnce(&mut Config)) -> (Self, Service) {
        let state = Arc::new(Mutex::new(State::default()));
        let client = loopback_client().unwrap();
        let answering = state.clone();
        let router = axum::Router::new().fallback(move |request: Request<Body>| {
            let (state, client) = (answering.clone(), client.clone());
            async move { answer(&state, &client, request).await.into_response() }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let liar = Self { url, state };
        let service = Service::start_changed(options.clone(), |config| {
            liar.stand_before_the_vendors(&options, config);
            change(config);
        })
        .await;
        liar.state.lock().unwrap().vendors = format!("http://{}", service.sim.address());
        (liar, service)
    }

    /// Clients that ask this one.
    pub fn clients(&self, options: &Options) -> (Hetzner, Tailscale) {
        let (url, vendors) = (&self.url, &options.sim);
        let token = vendors.hcloud_token.clone().into();
        let hetzner = Hetzner::new(&format!("{url}/hetzner/v1"), &token).unwrap();
        let credential = TailscaleCredential::OAuth {
            client_id: vendors.oauth_client_id.clone(),
            client_secret: vendors.oauth_client_secret.clone().into(),
        };
        let tailscale = Tailscale::new(&format!("{url}/tailscale"), "-", credential).unwrap();
        (
            hetzner.with_timeouts(TIMEOUTS).unwrap(),
            tailscale.with_timeouts(TIMEOUTS).unwrap(),
        )
    }

    fn stand_before_the_vendors(&self, options: &Options, config: &mut Config) {
        let (url, vendors) = (&self.url, &options.sim);
        let (hetzner, tailscale) = self.clients(options);
        config.hetzner = hetzner;
        config.tailscale = Some((tailscale, TAG.to_owned()));
        config.github = options.github.map(|_| {
            let workflow = Workflow {
                repository: Repository::parse(&vendors.github_repository).unwrap(),
                file: vendors.github_workflow.clone(),
                git_ref: "main".to_owned(),
            };
            let token = GitHubCredential::Token(vendors.github_token.clone().into());
            GitHub::new(&format!("{url}/github"), workflow, &token)
                .unwrap()
                .with_timeouts(TIMEOUTS)
                .unwrap()
        });
    }

    /// Tells these lies from now on, and nothing else that is untrue.
    pub fn tell(&self, lies: Vec<Lie>) {
        let mut state = self.state.lock().unwrap();
        state.told = vec![0; lies.len()];
        state.lies = lies;
    }

    /// Whether a lie was told at least so often.
    pub fn has_told(&self, times: usize) -> bool {
        let state = self.state.lock().unwrap();
        state.told.iter().any(|told| *told >= times)
    }

    pub fn has_told_all(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.told.iter().all(|told| *told > 0)
    }

    /// Every secret that was shown to it, as it stood in `Authorization`.
    pub fn shown(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let bearer = |shown: &String| shown.strip_prefix("Bearer ").map(str::to_owned);
        state.shown.iter().filter_map(bearer).collect()
    }

    /// What was asked to be deleted, from the first request on.
    pub fn asked_to_delete(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let deletes = state.asked.iter().filter(|asked| asked.method == "DELETE");
        deletes
            .map(|asked| asked.path.rsplit('/').next().unwrap().to_owned())
            .collect()
    }
}

async fn answer(state: &Mutex<State>, client: &reqwest::Client, request: Request<Body>) -> Told {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
    };
    let (lie, vendors) = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        if let Some(shown) = parts.headers.get("authorization") {
            state.shown.insert(shown.to_str().unwrap().to_owned());
        }
        let applies = |lie: &Lie| lie.method == asked.method && asked.path.ends_with(&lie.path);
        let lie = state.lies.iter().position(applies);
        if let Some(lie) = lie {
            state.told[lie] += 1;
        }
        (
            lie.map(|lie| state.lies[lie].clone()),
            state.vendors.clone(),
        )
    };
    let nothing = Told::text(503, "");
    if vendors.is_empty() {
        return nothing;
    }
    let truth = if lie.as_ref().is_none_or(|lie| lie.asks) {
        let uri = parts.uri.path_and_query().unwrap();
        let mut passed_on = client.request(parts.method, format!("{vendors}{uri}"));
        for name in ["authorization", "content-type", "if-none-match", "accept"] {
            if let Some(value) = parts.headers.get(name) {
                passed_on = passed_on.header(name, value);
            }
        }
        let answer = passed_on.body(body).send().await.unwrap();
        let mut told = Told::text(answer.status().as_u16(), "");
        for name in [
            "date",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
        ] {
            if let Some(value) = answer.headers().get(name) {
                told = told.header(name, value.to_str().unwrap());
            }
        }
        told.body = answer.bytes().await.unwrap().to_vec();
        told
    } else {
        nothing
    };
    match lie {
        Some(lie) => (lie.tell)(&asked, truth),
        None => truth,
    }
}

/// Another host, which nobody of ours should ever call. It takes whatever comes.
pub struct Elsewhere {
    pub url: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Elsewhere {
    pub async fn start() -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = heard.clone();
        let router = axum::Router::new().fallback(move |request: Request<Body>| {
            let said = format!("{request:?}");
            hearing.lock().unwrap().push(said);
            async { Told::text(200, "{}").into_response() }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, heard }
    }

    /// Every request, with its headers.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}
