//! A short-lived token: fetched once for all callers, kept until shortly before it expires,
//! renewed once when it is refused.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::VendorError;
use super::http::{Answer, Call};

/// A token is not used in its last minute: it must not expire on its way.
const MARGIN: Duration = Duration::from_secs(60);

/// The token that is held at the moment.
#[derive(Default)]
pub(super) struct KeptToken {
    /// Counts failed fetches, readable without waiting for the one that runs.
    failures: AtomicU64,
    /// Held while a token is fetched, so that many callers fetch one.
    state: Mutex<State>,
}

/// A token that was just fetched.
pub(super) struct Fetched {
    /// The `Authorization` value.
    pub(super) header: HeaderValue,
    /// Before it was asked for: the vendor counts from no earlier.
    pub(super) asked_at: Instant,
    /// How long the vendor says that it lasts.
    pub(super) lasts: Duration,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    fetched: u64,
    last_failure: Option<VendorError>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    /// Whether an earlier call fetched it, so that a 401 may only mean that it is old.
    kept: bool,
    number: u64,
    renew_at: Instant,
}

impl KeptToken {
    /// Sends a call with the token. One kept from earlier that is refused is renewed once: it may
    /// have been revoked, or the clocks of this machine stood still.
    pub(super) async fn send<'a, F>(
        &self,
        fetch: impl Fn() -> F,
        call: impl Fn() -> Call<'a>,
    ) -> Result<Answer, VendorError>
    where
        F: Future<Output = Result<Fetched, VendorError>>,
    {
        let token = self.get(&fetch).await?;
        let answer = call().bearer(&token.header).send().await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.forget(&token).await;
        if !token.kept {
            return Ok(answer);
        }
        let token = self.get(&fetch).await?;
        let answer = call().bearer(&token.header).send().await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.forget(&token).await;
        }
        Ok(answer)
    }

    /// The token, fetched if there is none or it is about to expire. Callers that waited for a
    /// fetch share its end, also its failure: at a vendor that does not answer, a queue of callers
    /// would otherwise time out one after the other.
    async fn get<F>(&self, fetch: impl Fn() -> F) -> Result<Token, VendorError>
    where
        F: Future<Output = Result<Fetched, VendorError>>,
    {
        let failures = self.failures.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        if let Some(token) = &state.token
            && Instant::now() < token.renew_at
        {
            return Ok(token.clone());
        }
        if failures != self.failures.load(Ordering::Acquire)
            && let Some(failure) = &state.last_failure
        {
            return Err(failure.clone());
        }
        match fetch().await {
            Ok(fetched) => {
                state.fetched += 1;
                let token = Token {
                    header: fetched.header,
                    kept: false,
                    number: state.fetched,
                    renew_at: fetched.asked_at + fetched.lasts.saturating_sub(MARGIN),
                };
                state.token = Some(Token {
                    kept: true,
                    ..token.clone()
                });
                Ok(token)
            }
            Err(error) => {
                state.token = None;
                state.last_failure = Some(error.clone());
                self.failures.fetch_add(1, Ordering::AcqRel);
                Err(error)
            }
        }
    }

    /// Drops a token that was refused, unless another caller has renewed it already.
    async fn forget(&self, refused: &Token) {
        let mut state = self.state.lock().await;
        if state.token.as_ref().map(|token| token.number) == Some(refused.number) {
            state.token = None;
        }
    }
}
