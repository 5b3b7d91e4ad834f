//! Sending one bounded request. The only place that builds HTTP clients.
//!
//! Every request has a time-out, a largest answer and no redirects: a token sent to the vendor
//! must not follow a `Location` to somebody else. Bodies are asked for uncompressed, so what is
//! counted is what is held. What we showed of a secret is taken out of an answer before anybody reads
//! it: a vendor that repeats it must not bring it into a log or the ledger. The usual proxy variables
//! are honoured.

use std::future::Future;
use std::time::{Duration, Instant};

use chrono::DateTime;
use reqwest::header::{DATE, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FailedCall, SetupError, Vendor, VendorError};
use crate::metrics::Metrics;

/// The largest answer taken: far above what a full list is, far below what hurts.
const LARGEST_BODY: usize = 16 * 1024 * 1024;
/// The largest body of an error. Their status counts; the body only says which code.
const LARGEST_ERROR_BODY: usize = 64 * 1024;
/// `RateLimit-Reset` says when the budget is *full* again, up to an hour ahead, but it refills all
/// the while (<https://docs.hetzner.cloud/reference/cloud#rate-limiting>). Waiting for all of it
/// would keep servers alive and billing, so it counts up to the cap of the vendor's own client.
const LONGEST_RESET_WAIT: Duration = Duration::from_secs(60);
/// A `Retry-After` is obeyed, within reason.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What is shorter is no secret, and may well be in an answer by itself.
const SHORTEST_SECRET: usize = 16;

const RATELIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// How long a vendor may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To accept a connection, TLS included.
    pub connect: Duration,
    /// For one request, from connecting to the last byte of the answer.
    pub request: Duration,
    /// For everything that takes several requests to read: all pages of a list, all chunks of
    /// actions.
    pub list: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            request: Duration::from_secs(10),
            list: Duration::from_secs(30),
        }
    }
}

/// A vendor's address and the client that calls it.
pub(super) struct Http {
    vendor: Vendor,
    /// The setting that holds the address, for the errors that hint at it.
    setting: &'static str,
    base: Url,
    client: reqwest::Client,
    timeouts: Timeouts,
    metrics: Option<Metrics>,
    /// What answers instead of the vendor.
    #[cfg(any(test, fuzzing))]
    script: Option<super::fuzzing::Script>,
}

impl Http {
    /// # Errors
    /// When the address is no plain http(s) URL, or the machine has no usable TLS roots.
    pub(super) fn new(
        vendor: Vendor,
        setting: &'static str,
        address: &str,
        timeouts: Timeouts,
    ) -> Result<Self, SetupError> {
        let base = plain(setting, address)?;
        let client = client(vendor.as_str(), &base, timeouts)?;
        Ok(Self {
            vendor,
            setting,
            base,
            client,
            timeouts,
            metrics: None,
            #[cfg(any(test, fuzzing))]
            script: None,
        })
    }

    /// At `address`, where a script answers and nobody is called.
    #[cfg(any(test, fuzzing))]
    pub(super) fn scripted(vendor: Vendor, address: &str, script: &super::fuzzing::Script) -> Self {
        static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
        let base = Url::parse(address).expect("the address of a harness");
        let make = || client(vendor.as_str(), &base, Timeouts::default());
        Self {
            vendor,
            setting: "THE_ADDRESS",
            client: CLIENT
                .get_or_init(|| make().expect("there are roots"))
                .clone(),
            base,
            timeouts: Timeouts::default(),
            metrics: None,
            script: Some(script.clone()),
        }
    }

    pub(super) fn count_in(&mut self, metrics: &Metrics) {
        self.metrics = Some(metrics.clone());
    }

    pub(super) fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), SetupError> {
        self.client = client(self.vendor.as_str(), &self.base, timeouts)?;
        self.timeouts = timeouts;
        Ok(())
    }

    /// Whether requests pass machines other than this one unencrypted.
    pub(super) fn is_open_to_eavesdroppers(&self) -> bool {
        self.base.scheme() == "http" && !is_loopback(&self.base)
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn get(&self, segments: &[&str]) -> Call<'_> {
        self.call(Method::GET, segments)
    }

    pub(super) fn post(&self, segments: &[&str]) -> Call<'_> {
        self.call(Method::POST, segments)
    }

    pub(super) fn put(&self, segments: &[&str]) -> Call<'_> {
        self.call(Method::PUT, segments)
    }

    pub(super) fn delete(&self, segments: &[&str]) -> Call<'_> {
        self.call(Method::DELETE, segments)
    }

    fn call(&self, method: Method, segments: &[&str]) -> Call<'_> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            // Each segment is percent-encoded: none can add a segment or a query.
            path.pop_if_empty().extend(segments);
        }
        self.call_at(method, url)
    }

    /// Gets what is at this address as it stands. `None` if that is not of the same scheme, host and port,
    /// or holds a user: nobody else is ever asked.
    pub(super) fn get_at(&self, url: Url) -> Option<Call<'_>> {
        let same = url.origin() == self.base.origin()
            && url.username().is_empty()
            && url.password().is_none();
        same.then(|| self.call_at(Method::GET, url))
    }

    fn call_at(&self, method: Method, url: Url) -> Call<'_> {
        let origin = Origin {
            vendor: self.vendor,
            setting: self.setting,
            path: url.path().to_owned(),
            method: method.clone(),
        };
        let request = self.client.request(method, url);
        Call {
            request,
            origin,
            http: self,
            most: LARGEST_BODY,
            secret: None,
        }
    }

    /// Bounds several requests that are one read. Must not hold a request that changes anything:
    /// it is dropped when time is up.
    pub(super) async fn within_list_time<T>(
        &self,
        segments: &[&str],
        read: impl Future<Output = Result<T, VendorError>>,
    ) -> Result<T, VendorError> {
        match tokio::time::timeout(self.timeouts.list, read).await {
            Ok(result) => result,
            Err(_) => Err(self.get(segments).origin.unavailable("timed out")),
        }
    }

    /// The error for a request that was not sent.
    pub(super) fn unsent(&self, method: &str, path: &str, why: &str) -> VendorError {
        let call = (method, path);
        VendorError::Rejected(FailedCall::new(self.vendor, call, None, None, why))
    }
}

/// Only this function may build one: the rules above hold for every request that backstop sends.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that builds clients"
)]
pub(super) fn client(
    whose: &str,
    base: &Url,
    timeouts: Timeouts,
) -> Result<reqwest::Client, SetupError> {
    let mut client = reqwest::Client::builder()
        .connect_timeout(timeouts.connect)
        .timeout(timeouts.request)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")));
    if is_loopback(base) {
        // A proxy of the environment cannot reach what only this machine can.
        client = client.no_proxy();
    }
    client.build().map_err(|error| {
        let cause = innermost(&error);
        SetupError(format!("no HTTP client for {whose}: {cause}"))
    })
}

/// A client for our own API on this machine, as the demo's workflows and tests use it.
///
/// # Errors
/// When the machine has no usable TLS roots.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that builds clients"
)]
pub fn loopback_client() -> Result<reqwest::Client, SetupError> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(90))
        .build()
        .map_err(|error| SetupError(format!("no HTTP client: {}", innermost(&error))))
}

/// A client of the service wherever it is, without a time-out of its own, for a stream has no end.
///
/// # Errors
/// When the address is no plain http(s) URL, or the machine has no usable TLS roots.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that builds clients"
)]
pub fn status_client(setting: &str, address: &str) -> Result<(Url, reqwest::Client), SetupError> {
    let base = plain(setting, address)?;
    let mut client = reqwest::Client::builder()
        .connect_timeout(Timeouts::default().connect)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")));
    if is_loopback(&base) {
        client = client.no_proxy();
    }
    let client = client
        .build()
        .map_err(|error| SetupError(format!("no HTTP client: {}", innermost(&error))))?;
    Ok((base, client))
}

fn plain(setting: &str, address: &str) -> Result<Url, SetupError> {
    let base = Url::parse(address)
        .map_err(|error| SetupError(format!("{setting} is not a URL: {error}")))?;
    let plain = matches!(base.scheme(), "http" | "https")
        && base.username().is_empty()
        && base.password().is_none()
        && base.query().is_none()
        && base.fragment().is_none();
    plain.then_some(base).ok_or_else(|| {
        SetupError(format!(
            "{setting} must be an http or https URL without user, query or fragment"
        ))
    })
}

fn is_loopback(base: &Url) -> bool {
    base.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}

/// Makes the `Authorization` value of a token.
///
/// # Errors
/// When the token is empty or holds what a header can't carry, such as a line break copied along.
/// The message names `setting` and not the token.
pub(crate) fn bearer(setting: &str, token: &SecretString) -> Result<HeaderValue, SetupError> {
    let token = token.expose_secret();
    if token.is_empty() {
        return Err(SetupError(format!("{setting} is empty")));
    }
    let value = token
        .bytes()
        .all(|b| b.is_ascii_graphic())
        .then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok())
        .flatten();
    let mut value = value.ok_or_else(|| {
        SetupError(format!(
            "{setting} holds characters that no token has, such as a space or a line break"
        ))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A request about to be sent.
pub(super) struct Call<'a> {
    request: RequestBuilder,
    origin: Origin,
    http: &'a Http,
    /// Bytes of a success's body.
    most: usize,
    /// What the vendor is shown and must not be quoted with.
    secret: Option<SecretString>,
}

impl Call<'_> {
    pub(super) fn bearer(mut self, token: &HeaderValue) -> Self {
        let name = reqwest::header::AUTHORIZATION;
        self.request = self.request.header(name, token.clone());
        let shown = token.to_str().ok();
        self.secret = shown
            .and_then(|it| it.strip_prefix("Bearer "))
            .map(Into::into);
        self
    }

    pub(super) fn query(mut self, pairs: &[(&str, &str)]) -> Self {
        self.request = self.request.query(pairs);
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Asks for an answer only if it is another than the one with this tag.
    pub(super) fn if_none_match(mut self, etag: &str) -> Self {
        self.request = self.request.header(IF_NONE_MATCH, etag);
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Sends a form that shows `secret`.
    pub(super) fn form(mut self, form: &impl Serialize, secret: &SecretString) -> Self {
        self.request = self.request.form(form);
        self.secret = Some(secret.clone());
        self
    }

    /// Takes no longer answer than `bytes`.
    pub(super) fn at_most(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }

    /// Sends the request and reads the answer, whatever its status.
    ///
    /// # Errors
    /// `Unavailable` when no whole answer came in time. The request may have had its effect.
    pub(super) async fn send(self) -> Result<Answer, VendorError> {
        let Self {
            request,
            origin,
            http,
            most,
            secret,
        } = self;
        let started = Instant::now();
        #[cfg(not(any(test, fuzzing)))]
        let outcome = exchange(request, most).await;
        #[cfg(any(test, fuzzing))]
        let outcome = match &http.script {
            Some(script) => script.play(&http.base, request, most),
            None => exchange(request, most).await,
        };
        let status = match &outcome {
            Ok((status, ..)) | Err((Some(status), _)) => Some(status.as_u16()),
            Err((None, _)) => None,
        };
        tracing::debug!(
            vendor = http.vendor.as_str(),
            method = origin.method.as_str(),
            path = origin.path.as_str(),
            status,
            elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "vendor called"
        );
        if let Some(metrics) = &http.metrics {
            metrics.vendor_request(http.vendor.as_str(), origin.method.as_str(), status);
        }
        match outcome {
            Ok((status, headers, body)) => Ok(Answer {
                status,
                headers,
                body: without(secret.as_ref(), body),
                origin,
            }),
            Err((status, why)) => Err(VendorError::Unavailable(origin.failed(
                status.map(|s| s.as_u16()),
                None,
                &why,
            ))),
        }
    }
}

pub(super) type Exchange = Result<(StatusCode, HeaderMap, Vec<u8>), (Option<StatusCode>, String)>;

async fn exchange(request: RequestBuilder, most: usize) -> Exchange {
    let mut response = request.send().await.map_err(|e| (None, no_answer(&e)))?;
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    if status.is_success() {
        let body = read(response, most).await;
        return body
            .map(|body| (status, headers, body))
            .map_err(|why| (Some(status), why));
    }
    // A refusal stands even when its explanation is cut off: 401 is 401.
    let body = read(response, LARGEST_ERROR_BODY).await.unwrap_or_default();
    Ok((status, headers, body))
}

async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, String> {
    let too_large = || format!("an answer of more than {most} bytes");
    if response.content_length() > Some(most as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| no_answer(&e))? {
        if body.len() + chunk.len() > most {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The body without the secret, as far as it is repeated as it is.
fn without(secret: Option<&SecretString>, body: Vec<u8>) -> Vec<u8> {
    let secret = secret.map(|it| it.expose_secret().as_bytes());
    let Some(secret) = secret.filter(|it| it.len() >= SHORTEST_SECRET) else {
        return body;
    };
    let found = |from: usize| {
        let rest = body.get(from..)?;
        let at = rest.windows(secret.len()).position(|it| it == secret)?;
        Some(from + at)
    };
    let (mut cleaned, mut kept_to) = (Vec::new(), 0);
    while let Some(at) = found(kept_to) {
        cleaned.extend_from_slice(&body[kept_to..at]);
        cleaned.extend_from_slice(b"[secret]");
        kept_to = at + secret.len();
    }
    if kept_to == 0 {
        return body;
    }
    cleaned.extend_from_slice(&body[kept_to..]);
    cleaned
}

/// Why there was none, in words that do not show the address.
pub(super) fn no_answer(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let what = if error.is_connect() {
        "could not connect"
    } else {
        "connection broke"
    };
    format!("{what}: {}", innermost(error))
}

/// The cause at the bottom: the outer layers repeat the URL and say "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Where an answer came from.
struct Origin {
    vendor: Vendor,
    setting: &'static str,
    method: Method,
    path: String,
}

impl Origin {
    fn failed(&self, status: Option<u16>, code: Option<&str>, detail: &str) -> FailedCall {
        let call = (self.method.as_str(), self.path.as_str());
        FailedCall::new(self.vendor, call, status, code, detail)
    }

    fn unavailable(&self, why: &str) -> VendorError {
        VendorError::Unavailable(self.failed(None, None, why))
    }
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Vec<u8>,
    origin: Origin,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Errors
    /// `Unavailable` when it is not what the vendor documents. serde's own message would quote the
    /// body, so only the place is told.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, VendorError> {
        let object = self.object();
        let object = object.ok_or_else(|| self.unusable("broken body: no JSON object"))?;
        serde_json::from_str(object).map_err(|error| {
            self.unusable(&format!(
                "broken body at line {} column {}",
                error.line(),
                error.column()
            ))
        })
    }

    /// The body of a refusal, if it is the vendor's.
    pub(super) fn refusal<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.object()?).ok()
    }

    /// The body, if it begins as an object does. Serde reads a struct from a list as well, by position:
    /// `[[]]` would be a list of no devices. And it does not look at what it passes over: only of a text
    /// is all of it JSON.
    fn object(&self) -> Option<&str> {
        let text = str::from_utf8(&self.body).ok()?;
        text.trim_start().starts_with('{').then_some(text)
    }

    /// The error for an answer that can't be used, though its status may be fine.
    pub(super) fn unusable(&self, why: &str) -> VendorError {
        VendorError::Unavailable(self.failed(None, why))
    }

    pub(super) fn failed(&self, code: Option<&str>, detail: &str) -> FailedCall {
        self.origin.failed(Some(self.status.as_u16()), code, detail)
    }

    pub(super) fn rate_limited(&self, code: Option<&str>) -> VendorError {
        VendorError::RateLimited {
            call: self.failed(code, ""),
            retry_after: self.retry_after(),
        }
    }

    /// What the status alone says, for answers whose body is not the vendor's or whose code is
    /// new.
    pub(super) fn refused(&self, code: Option<&str>) -> VendorError {
        match self.status.as_u16() {
            300..=399 => VendorError::Unavailable(self.failed(code, "a redirect, not followed")),
            401 => VendorError::Unauthorized(self.failed(code, "")),
            403 => VendorError::Forbidden(self.failed(code, "")),
            404 => {
                let hint = format!("an unexpected 404: is {} right?", self.origin.setting);
                VendorError::Unavailable(self.failed(code, &hint))
            }
            409 | 423 => VendorError::Locked(self.failed(code, "")),
            429 => self.rate_limited(code),
            408 => VendorError::Unavailable(self.failed(code, "")),
            400..=499 | 501 => VendorError::Rejected(self.failed(code, "")),
            _ => VendorError::Unavailable(self.failed(code, "")),
        }
    }

    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The answer's `Date`, in unix seconds: the vendor's clock, which its resets are told in.
    pub(super) fn date(&self) -> Option<i64> {
        http_date(self.header(&DATE)?)
    }

    /// The least to wait, as the answer's headers say it.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Some(value) = self.header(&RETRY_AFTER) {
            let wait = match value.parse() {
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => between(self.date()?, http_date(value)?),
            };
            return wait.map(|wait| wait.min(LONGEST_RETRY_AFTER));
        }
        let reset = self.header(&RATELIMIT_RESET)?.parse().ok()?;
        between(self.date()?, reset).map(|wait| wait.min(LONGEST_RESET_WAIT))
    }
}

fn http_date(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc2822(text).ok()?.timestamp())
}

/// From one moment to another, in unix seconds. `None` unless `until` lies ahead.
pub(super) fn between(now: i64, until: i64) -> Option<Duration> {
    let seconds = u64::try_from(until.checked_sub(now)?).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
