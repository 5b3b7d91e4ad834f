//! The service, as its clients reach it.

use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::ServerSettings;
use crate::providers::{SetupError, status_client};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const AUTHORIZATION: HeaderName = reqwest::header::AUTHORIZATION;
/// How long an answer may take. A stream has comments every 15 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running service.
pub(super) struct Server {
    client: reqwest::Client,
    base: Url,
    authorization: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It cannot be reached, or is in trouble. Worth another try.
    #[error("{url}: {problem}")]
    Away { url: String, problem: String },
    /// It refuses, and would again.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Away { .. } => false,
            Self::Refused(_) => true,
        }
    }
}

impl Server {
    pub(super) fn new(settings: &ServerSettings) -> Result<Self, SetupError> {
        let (base, client) = status_client("BACKSTOP_URL", &settings.url)?;
        let tokens = [&settings.read_token, &settings.operator_token];
        let token = tokens
            .into_iter()
            .flatten()
            .find(|token| !token.expose_secret().is_empty());
        // The service's own setting may have several.
        let first = token.and_then(|token| token.expose_secret().split(',').next());
        let authorization = first
            .map(|token| SecretString::from(token.trim()))
            .map(|token| crate::providers::bearer("BACKSTOP_READ_TOKEN", &token))
            .transpose()?;
        Ok(Self {
            client,
            base,
            authorization,
        })
    }

    /// What is at this path.
    pub(super) async fn get(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        let request = self.request(path).query(query);
        let response = self.send(request.timeout(PATIENCE)).await?;
        response.json().await.map_err(|error| self.away(&error))
    }

    /// What changes from now on, or did since that event.
    pub(super) async fn stream(&self, after: Option<&str>) -> Result<Stream, Failure> {
        let mut request = self.request(&["v1", "stream"]);
        if let Some(id) = after {
            request = request.header(LAST_EVENT_ID, id);
        }
        let sent = tokio::time::timeout(PATIENCE, self.send(request)).await;
        let response = sent.map_err(|_| Failure::Away {
            url: self.base.to_string(),
            problem: "timed out".to_owned(),
        })??;
        Ok(Stream {
            response,
            text: Vec::new(),
            last_id: after.map(str::to_owned),
        })
    }

    fn request(&self, path: &[&str]) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.away(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Value = response.json().await.unwrap_or_default();
        let problem = match problem["detail"].as_str() {
            Some(detail) => super::text::plain(detail),
            None => format!("answered {status}, and not as backstop does"),
        };
        Err(if status.is_server_error() {
            Failure::Away {
                url: self.base.to_string(),
                problem,
            }
        } else if status == reqwest::StatusCode::UNAUTHORIZED {
            Failure::Refused(
                "the server does not know the token: set BACKSTOP_READ_TOKEN or \
                 BACKSTOP_OPERATOR_TOKEN"
                    .to_owned(),
            )
        } else {
            Failure::Refused(problem)
        })
    }

    fn away(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Failure::Away {
            url: self.base.to_string(),
            problem: cause.to_string(),
        }
    }
}

/// What changes, as the service tells it.
pub(super) struct Stream {
    response: Response,
    text: Vec<u8>,
    last_id: Option<String>,
}

impl Stream {
    /// The next provision that changed; `None` when the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(provision) = self.take(&String::from_utf8_lossy(&block)) {
                    return Some(provision);
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            self.text.extend_from_slice(&chunk.ok()?.ok()??);
        }
    }

    /// From where to go on.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn take(&mut self, block: &str) -> Option<Value> {
        let mut data = None;
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.last_id = Some(id.to_owned()),
                Some(("data", text)) => data = serde_json::from_str(text).ok(),
                // A comment, or what this version does not know.
                _ => {}
            }
        }
        data
    }
}
