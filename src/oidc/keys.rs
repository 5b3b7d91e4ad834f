//! The issuer's public keys, kept.
//!
//! Fetched when they are needed, by one caller for all, and at most once a minute: neither tokens
//! with made-up keys nor an issuer that is away make us ask more often. Keys are looked at anew every
//! hour, so that one that was withdrawn goes out of use. While the issuer is away what is held goes
//! on counting, for a day.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::providers::Issuer;

const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60 * 60);
const LONGEST_USE: Duration = Duration::from_secs(24 * 60 * 60);
const ASK_AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// The keys of one issuer.
pub(super) struct Keys {
    issuer: Issuer,
    held: RwLock<Arc<Held>>,
    /// Held while keys are fetched.
    fetching: Mutex<()>,
}

/// No key by that name.
#[derive(Debug)]
pub(super) enum NoKey {
    /// The issuer was asked within the last minute, and has none.
    Unknown,
    /// The issuer could not be asked. The log says why.
    Away,
}

/// What is known of the keys.
#[derive(Default, Clone)]
struct Held {
    keys: HashMap<String, Arc<DecodingKey>>,
    fetched_at: Option<Instant>,
    /// Whether it went well or not.
    asked_at: Option<Instant>,
    /// Whether it went badly.
    failed: bool,
}

/// What to do about a token.
enum Look {
    Use(Arc<DecodingKey>),
    /// Usable, and due to be looked at anew.
    UseAndAsk(Arc<DecodingKey>),
    Ask,
    No(NoKey),
}

impl Keys {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            held: RwLock::default(),
            fetching: Mutex::default(),
        }
    }

    /// Whose keys they are.
    pub(super) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The key that tokens call `kid`.
    pub(super) async fn find(&self, kid: &str) -> Result<Arc<DecodingKey>, NoKey> {
        let _one_at_a_time = match self.held().look(kid, Instant::now()) {
            Look::Use(key) => return Ok(key),
            Look::No(why) => return Err(why),
            Look::UseAndAsk(key) => match self.fetching.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(key),
            },
            Look::Ask => self.fetching.lock().await,
        };
        // Somebody else may have asked while we waited.
        match self.held().look(kid, Instant::now()) {
            Look::Use(key) => return Ok(key),
            Look::No(why) => return Err(why),
            Look::UseAndAsk(_) | Look::Ask => self.ask().await,
        }
        match self.held().look(kid, Instant::now()) {
            Look::Use(key) | Look::UseAndAsk(key) => Ok(key),
            Look::No(why) => Err(why),
            // Only if asking took longer than the pause between two asks.
            Look::Ask => Err(NoKey::Unknown),
        }
    }

    /// Asks the issuer, and keeps what it says.
    async fn ask(&self) {
        let before = self.held();
        let asked_at = Instant::now();
        let held = match self.issuer.keys().await {
            Ok(keys) => {
                let keys = keys.into_iter().filter_map(|key| {
                    let decoding = DecodingKey::from_rsa_components(&key.modulus, &key.exponent);
                    Some((key.id, Arc::new(decoding.ok()?)))
                });
                Held {
                    keys: keys.collect(),
                    fetched_at: Some(asked_at),
                    asked_at: Some(asked_at),
                    failed: false,
                }
            }
            Err(error) => {
                tracing::warn!(issuer = self.issuer.name(), %error, "the keys of the issuer cannot be had");
                Held {
                    asked_at: Some(asked_at),
                    failed: true,
                    ..Held::clone(&before)
                }
            }
        };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }

    fn held(&self) -> Arc<Held> {
        self.held
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Held {
    fn look(&self, kid: &str, now: Instant) -> Look {
        let since = |then: Option<Instant>| then.map(|then| now.duration_since(then));
        let may_ask = since(self.asked_at).is_none_or(|ago| ago >= ASK_AT_MOST_EVERY);
        let age = since(self.fetched_at).unwrap_or(Duration::MAX);
        let key = self.keys.get(kid).filter(|_| age < LONGEST_USE).cloned();
        match (key, may_ask, self.failed) {
            (Some(key), true, _) if age >= LOOK_AGAIN_AFTER => Look::UseAndAsk(key),
            (Some(key), _, _) => Look::Use(key),
            (None, true, _) => Look::Ask,
            (None, false, true) => Look::No(NoKey::Away),
            (None, false, false) => Look::No(NoKey::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to be done about the tokens of the key `a`, that one is held, and of `b`.
    fn looked(fetched: Option<u64>, asked: Option<u64>, failed: bool) -> [&'static str; 2] {
        let now = Instant::now() + Duration::from_secs(200_000);
        let ago = |seconds: Option<u64>| seconds.map(|it| now - Duration::from_secs(it));
        let key = DecodingKey::from_rsa_components("AQAB", "AQAB").unwrap();
        let held = Held {
            keys: fetched
                .map(|_| ("a".to_owned(), Arc::new(key)))
                .into_iter()
                .collect(),
            fetched_at: ago(fetched),
            asked_at: ago(asked),
            failed,
        };
        ["a", "b"].map(|kid| match held.look(kid, now) {
            Look::Use(_) => "use",
            Look::UseAndAsk(_) => "use and ask",
            Look::Ask => "ask",
            Look::No(NoKey::Unknown) => "unknown",
            Look::No(NoKey::Away) => "away",
        })
    }

    #[test]
    fn keys_are_asked_for_once_a_minute_and_used_while_the_issuer_is_away() {
        const HOUR: u64 = 3600;
        for (fetched, asked, failed, expected) in [
            (None, None, false, ["ask", "ask"]),
            (None, Some(59), true, ["away", "away"]),
            (None, Some(60), true, ["ask", "ask"]),
            (Some(0), Some(0), false, ["use", "unknown"]),
            (Some(59), Some(59), false, ["use", "unknown"]),
            (Some(60), Some(60), false, ["use", "ask"]),
            (Some(HOUR), Some(HOUR), false, ["use and ask", "ask"]),
            (Some(2 * HOUR), Some(30), true, ["use", "away"]),
            (Some(2 * HOUR), Some(60), true, ["use and ask", "ask"]),
            (Some(24 * HOUR), Some(30), true, ["away", "away"]),
            (Some(24 * HOUR), Some(60), true, ["ask", "ask"]),
        ] {
            assert_eq!(
                looked(fetched, asked, failed),
                expected,
                "{fetched:?} {asked:?} {failed}"
            );
        }
    }
}
