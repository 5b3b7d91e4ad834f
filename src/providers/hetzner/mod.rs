//! Hetzner Cloud: finding and deleting servers, and seeing what else bills.
//! <https://docs.hetzner.cloud/reference/cloud>
//!
//! Refusals are told apart by the `code` in their body, never by the message, and by the status
//! only where the body is not the vendor's. One exception, forced by the vendor: a path that is
//! no route at all is also `not_found`, and only its message says so.
//!
//! A deleted server is gone when its action has succeeded or its id answers 404, and the list
//! agrees. Neither a `Deletion` nor an empty list is that proof alone.

mod abilities;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lists;
mod prices;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reqwest::StatusCode;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use self::prices::PricingAnswer;
use self::shapes::{ActionList, Beside, OneAction, OneServer, Refusal};
use super::http::{Answer, Call, Http, bearer};
use super::{SetupError, Timeouts, Vendor, VendorError};
use crate::metrics::Metrics;

pub use self::lists::Shown;
pub use self::prices::{Priced, Prices};
pub use self::shapes::{Action, ActionStatus, Ip, Server, Volume};

/// Far longer than a request may take.
const LATEST_ANSWER_S: i64 = 120;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// A client for one project, which is what a token belongs to.
pub struct Hetzner {
    http: Http,
    token: HeaderValue,
    rate: Mutex<Option<RateLimit>>,
    prices: Mutex<Option<(Instant, Arc<Prices>)>>,
}

/// What became of a request to delete a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The vendor took it on. Until the action succeeds the server exists, and its name is taken.
    Accepted(Action),
    /// 404 `not_found`. Weak evidence alone: it has been seen for servers that still ran.
    AlreadyGone,
}

/// The budget as the vendor last told it; shared by everything that uses the project.
/// <https://docs.hetzner.cloud/reference/cloud#rate-limiting>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests an hour; also the most that can be saved up.
    pub limit: u64,
    /// Requests left.
    pub remaining: u64,
    /// When the budget is *full* again, in unix seconds. It refills steadily until then.
    pub reset: i64,
    /// The answer's `Date` in unix seconds, to tell older headers from newer; `None` without one.
    pub told_at: Option<i64>,
}

impl RateLimit {
    fn supersedes(self, known: Self) -> bool {
        match (self.told_at, known.told_at) {
            (Some(told), Some(known)) if told > known => true,
            // No answer is that late: the vendor's clock was set back.
            (Some(told), Some(known)) if told < known => known - told > LATEST_ANSWER_S,
            (Some(_), Some(_)) => self.remaining <= known.remaining,
            (None, Some(_)) => false,
            (_, None) => true,
        }
    }
}

impl Hetzner {
    /// Action ids in one call: what the vendor's own client asks for, and one default page.
    pub const ACTIONS_A_CALL: usize = 25;

    /// `endpoint` is `HCLOUD_ENDPOINT` with its `/v1`, `token` is `HCLOUD_TOKEN`.
    ///
    /// # Errors
    /// When either can't be used; the message names the setting and does not show the token.
    pub fn new(endpoint: &str, token: &SecretString) -> Result<Self, SetupError> {
        let timeouts = Timeouts::default();
        Ok(Self {
            http: Http::new(Vendor::Hetzner, "HCLOUD_ENDPOINT", endpoint, timeouts)?,
            token: bearer("HCLOUD_TOKEN", token)?,
            rate: Mutex::new(None),
            prices: Mutex::new(None),
        })
    }

    /// The same client with other time-outs.
    ///
    /// # Errors
    /// When the machine has no usable TLS roots.
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Result<Self, SetupError> {
        self.http.set_timeouts(timeouts)?;
        Ok(self)
    }

    /// The same client with its requests counted.
    #[must_use]
    pub fn counted_in(mut self, metrics: &Metrics) -> Self {
        self.http.count_in(metrics);
        self
    }

    /// One server; `None` if the vendor answers 404 `not_found` for this id.
    ///
    /// # Errors
    /// `Unavailable` also when the answer is about another server, or the 404 about the route.
    pub async fn server(&self, id: u64) -> Result<Option<Server>, VendorError> {
        let call = self.http.get(&["servers", &id.to_string()]);
        let answer = self.send(call).await?;
        if is_absent(&answer) {
            return Ok(None);
        }
        let body: OneServer = read(&answer)?;
        if body.server.id != id {
            return Err(answer.unusable("an answer about another server"));
        }
        Ok(Some(body.server.into()))
    }

    /// Asks the vendor to delete a server. Asking twice is harmless.
    ///
    /// # Errors
    /// `Locked` while another action runs on it, as right after its creation: try again soon.
    /// `Protected` until a person lifts the protection. `Unavailable` also when the action that is
    /// answered is no delete of this server. After that the server may nevertheless be going.
    pub async fn delete_server(&self, id: u64) -> Result<Deletion, VendorError> {
        let call = self.http.delete(&["servers", &id.to_string()]);
        let answer = self.send(call).await?;
        if is_absent(&answer) {
            return Ok(Deletion::AlreadyGone);
        }
        let action = Action::from(read::<OneAction>(&answer)?.action);
        if action.deletes != Some(id) {
            return Err(answer.unusable("an action that is no delete of this server"));
        }
        Ok(Deletion::Accepted(action))
    }

    /// How far these actions are, by ascending id, 25 a request. Ids that the vendor does not know
    /// (it forgets old actions) are left out, whether it skips them or answers 404; so is
    /// everything that was not asked for.
    ///
    /// # Errors
    /// Any error is for the whole call. `Unavailable` also when it takes longer than
    /// [`Timeouts::list`].
    pub async fn actions(&self, ids: &[u64]) -> Result<Vec<Action>, VendorError> {
        let asked: BTreeSet<u64> = ids.iter().copied().collect();
        let asked: Vec<u64> = asked.into_iter().collect();
        let read = async {
            let mut found = BTreeMap::new();
            for chunk in asked.chunks(Self::ACTIONS_A_CALL) {
                let actions = self.chunk_of_actions(chunk).await?;
                found.extend(actions.into_iter().map(|action| (action.id, action)));
            }
            found.retain(|id, _| asked.binary_search(id).is_ok());
            Ok(found.into_values().collect())
        };
        self.http.within_list_time(&["actions"], read).await
    }

    async fn chunk_of_actions(&self, ids: &[u64]) -> Result<Vec<Action>, VendorError> {
        let texts: Vec<String> = ids.iter().map(u64::to_string).collect();
        let query: Vec<_> = texts.iter().map(|id| ("id", id.as_str())).collect();
        let answer = self.send(self.http.get(&["actions"]).query(&query)).await?;
        if !is_absent(&answer) {
            let body: ActionList = read(&answer)?;
            return Ok(body.actions.into_iter().map(Action::from).collect());
        }
        // The vendor does not say what one unknown id does to the call. If it spoils the rest,
        // each is asked for alone.
        let mut found = Vec::new();
        for id in &texts {
            let answer = self.send(self.http.get(&["actions", id])).await?;
            if !is_absent(&answer) {
                found.push(read::<OneAction>(&answer)?.action.into());
            }
        }
        Ok(found)
    }

    /// What things cost, from the vendor's own list, which is read again after some hours.
    /// <https://docs.hetzner.cloud/reference/cloud#pricing>
    ///
    /// # Errors
    /// Any error, if the list was never read; else an older one is given instead.
    pub async fn prices(&self) -> Result<Arc<Prices>, VendorError> {
        let kept = self.kept_prices();
        if let Some((at, prices)) = &kept
            && at.elapsed() < prices::KEPT_FOR
        {
            return Ok(prices.clone());
        }
        match self.read_prices().await {
            Ok(prices) => {
                let prices = Arc::new(prices);
                let mut kept = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
                *kept = Some((Instant::now(), prices.clone()));
                Ok(prices)
            }
            Err(error) => kept.map(|(_, prices)| prices).ok_or(error),
        }
    }

    fn kept_prices(&self) -> Option<(Instant, Arc<Prices>)> {
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        prices.clone()
    }

    async fn read_prices(&self) -> Result<Prices, VendorError> {
        let answer = self.send(self.http.get(&["pricing"])).await?;
        Ok(read::<PricingAnswer>(&answer)?.into())
    }

    /// The budget as last told; `None` before the first answer that tells it. Answers older than
    /// what is known, by their `Date`, are ignored; of those within a second the lowest counts.
    pub fn rate(&self) -> Option<RateLimit> {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, call: Call<'_>) -> Result<Answer, VendorError> {
        let answer = call.bearer(&self.token).send().await?;
        if let Some(told) = rate_limit(&answer) {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            if rate.is_none_or(|known| told.supersedes(known)) {
                *rate = Some(told);
            }
        }
        Ok(answer)
    }
}

impl std::fmt::Debug for Hetzner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hetzner")
            .field("endpoint", &self.http.base().as_str())
            .finish_non_exhaustive()
    }
}

fn rate_limit(answer: &Answer) -> Option<RateLimit> {
    Some(RateLimit {
        limit: answer.header(&LIMIT)?.parse().ok()?,
        remaining: answer.header(&REMAINING)?.parse().ok()?,
        reset: answer.header(&RESET)?.parse().ok()?,
        told_at: answer.date(),
    })
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, VendorError> {
    if !answer.status.is_success() {
        return Err(refusal(answer));
    }
    let body = answer.json()?;
    if answer.json::<Beside>().is_ok_and(|it| it.error.is_some()) {
        return Err(answer.unusable("a success with an error"));
    }
    Ok(body)
}

/// Whether the resource itself was not found. "api route not found" has the same status and code,
/// comes before authentication, and means that the endpoint is wrong.
fn is_absent(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && answer.refusal::<Refusal>().is_some_and(|body| {
            body.error.code == "not_found" && !body.error.message.contains("route")
        })
}

/// <https://docs.hetzner.cloud/reference/cloud#errors>
fn refusal(answer: &Answer) -> VendorError {
    let Some(body) = answer.refusal::<Refusal>() else {
        return answer.refused(None);
    };
    let code = body.error.code.as_str();
    let call = || answer.failed(Some(code), "");
    match code {
        "locked" | "conflict" => VendorError::Locked(call()),
        "protected" => VendorError::Protected(call()),
        "rate_limit_exceeded" => answer.rate_limited(Some(code)),
        "unauthorized" => VendorError::Unauthorized(call()),
        "forbidden" | "token_readonly" => VendorError::Forbidden(call()),
        "maintenance"
        | "resource_unavailable"
        | "service_error"
        | "server_error"
        | "bad_gateway"
        | "unavailable"
        | "timeout" => VendorError::Unavailable(call()),
        "resource_limit_exceeded" | "uniqueness_error" => VendorError::Rejected(call()),
        _ => answer.refused(Some(code)),
    }
}
