//! The issuer's public keys, kept.
//!
//! Fetched when they are needed, by one caller for all, and at most once a minute: neither tokens
//! with made-up keys nor an issuer that is away make us ask more often. Keys are looked at anew every
//! hour, so that one that was withdrawn goes out of use. While the issuer is away what is held goes
//! on counting, for a day.
//!
//! A key that is unknown may be one that the issuer has begun to use since it was last asked. That a key is
//! none of its own is told only to who showed it before the issuer was last asked; who shows it for the first
//! time within the minute is to come back.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::providers::Issuer;

const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60 * 60);
const LONGEST_USE: Duration = Duration::from_secs(24 * 60 * 60);
const ASK_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// So many unknown keys are remembered; 24 bytes each.
const MOST_STRANGERS: usize = 4096;

/// The keys of one issuer.
pub(super) struct Keys {
    issuer: Issuer,
    held: RwLock<Arc<Held>>,
    /// Held while keys are fetched.
    fetching: Mutex<()>,
    strangers: Strangers,
    pause: Duration,
}

/// No key by that name.
#[derive(Debug)]
pub(super) enum NoKey {
    /// The issuer was asked since this name was first heard, and has none; or it is one of another kind.
    Unknown,
    /// Nobody can tell: the issuer could not be asked, as the log says, or was asked before this name was
    /// heard. It may be asked again after this.
    NotYet(Duration),
}

/// What is known of the keys.
#[derive(Default, Clone)]
struct Held {
    keys: HashMap<String, Arc<DecodingKey>>,
    /// Names of keys of the issuer's that do not sign as we take it.
    others: HashSet<String>,
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
            strangers: Strangers::default(),
            pause: ASK_AT_MOST_EVERY,
        }
    }

    /// The same, but asking that often at most.
    pub(super) fn asking_at_most_every(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Whose keys they are.
    pub(super) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The key that tokens call `kid`.
    pub(super) async fn find(&self, kid: &str) -> Result<Arc<DecodingKey>, NoKey> {
        let now = Instant::now();
        let first_heard = self.strangers.first_heard(kid, &self.held(), now);
        let look = |now| self.held().look(kid, first_heard, now, self.pause);
        let _one_at_a_time = match look(now) {
            Look::Use(key) => return Ok(key),
            Look::No(why) => return Err(why),
            Look::UseAndAsk(key) => match self.fetching.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(key),
            },
            Look::Ask => self.fetching.lock().await,
        };
        // Somebody else may have asked while we waited.
        match look(Instant::now()) {
            Look::Use(key) => return Ok(key),
            Look::No(why) => return Err(why),
            Look::UseAndAsk(_) | Look::Ask => self.ask().await,
        }
        match look(Instant::now()) {
            Look::Use(key) | Look::UseAndAsk(key) => Ok(key),
            Look::No(why) => Err(why),
            // Only if asking took longer than the pause between two asks.
            Look::Ask => Err(NoKey::NotYet(Duration::ZERO)),
        }
    }

    /// Asks the issuer, and keeps what it says.
    async fn ask(&self) {
        let before = self.held();
        let asked_at = Instant::now();
        let held = match self.issuer.keys().await {
            Ok(keys) => {
                let usable = keys.rs256.into_iter().filter_map(|key| {
                    let decoding = DecodingKey::from_rsa_components(&key.modulus, &key.exponent);
                    Some((key.id, Arc::new(decoding.ok()?)))
                });
                Held {
                    keys: usable.collect(),
                    others: keys.others.into_iter().collect(),
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
    /// What to do about a token whose key was `first_heard` of then, with a `pause` between two asks.
    fn look(&self, kid: &str, first_heard: Instant, now: Instant, pause: Duration) -> Look {
        let since = |then: Option<Instant>| then.map(|then| now.duration_since(then));
        let wait = since(self.asked_at).and_then(|ago| pause.checked_sub(ago));
        let wait = wait.filter(|wait| !wait.is_zero());
        let age = since(self.fetched_at).unwrap_or(Duration::MAX);
        let asked_since = self.fetched_at.is_some_and(|at| at >= first_heard);
        let key = self.keys.get(kid).filter(|_| age < LONGEST_USE).cloned();
        match (key, wait) {
            (Some(key), None) if age >= LOOK_AGAIN_AFTER => Look::UseAndAsk(key),
            (Some(key), _) => Look::Use(key),
            (None, None) => Look::Ask,
            (None, Some(_)) if self.others.contains(kid) => Look::No(NoKey::Unknown),
            (None, Some(_)) if asked_since && !self.failed => Look::No(NoKey::Unknown),
            (None, Some(wait)) => Look::No(NoKey::NotYet(wait)),
        }
    }
}

/// When which unknown key was first heard of. Names are up to whoever shows a token, so that a hash of each
/// is kept, and not of too many: who is forgotten is only told once more to come back.
#[derive(Default)]
struct Strangers {
    hasher: RandomState,
    heard: std::sync::Mutex<HashMap<u64, Instant>>,
}

impl Strangers {
    /// When `kid` was first heard of, which is now if it never was; and now if it is known.
    fn first_heard(&self, kid: &str, held: &Held, now: Instant) -> Instant {
        if held.keys.contains_key(kid) {
            return now;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.hasher.hash_one(kid);
        if heard.len() >= MOST_STRANGERS && !heard.contains_key(&name) {
            heard.clear();
        }
        *heard.entry(name).or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to be done about the tokens of the key `a`, that one is held, and of `b`, that was first
    /// heard of so long ago.
    fn looked(
        fetched: Option<u64>,
        asked: Option<u64>,
        failed: bool,
        heard: u64,
    ) -> [&'static str; 2] {
        let now = Instant::now() + Duration::from_secs(200_000);
        let ago = |seconds: Option<u64>| seconds.map(|it| now - Duration::from_secs(it));
        let key = DecodingKey::from_rsa_components("AQAB", "AQAB").unwrap();
        let held = Held {
            keys: fetched
                .map(|_| ("a".to_owned(), Arc::new(key)))
                .into_iter()
                .collect(),
            others: HashSet::new(),
            fetched_at: ago(fetched),
            asked_at: ago(asked),
            failed,
        };
        let heard = now - Duration::from_secs(heard);
        ["a", "b"].map(|kid| match held.look(kid, heard, now, ASK_AT_MOST_EVERY) {
            Look::Use(_) => "use",
            Look::UseAndAsk(_) => "use and ask",
            Look::Ask => "ask",
            Look::No(NoKey::Unknown) => "unknown",
            Look::No(NoKey::NotYet(wait)) => {
                let asked = Duration::from_secs(asked.unwrap());
                assert_eq!(wait + asked, ASK_AT_MOST_EVERY);
                "not yet"
            }
        })
    }

    #[test]
    fn keys_are_asked_for_once_a_minute_and_used_while_the_issuer_is_away() {
        const HOUR: u64 = 3600;
        for (fetched, asked, failed, heard, expected) in [
            (None, None, false, 0, ["ask", "ask"]),
            (None, Some(59), true, 59, ["not yet", "not yet"]),
            (None, Some(60), true, 60, ["ask", "ask"]),
            (Some(0), Some(0), false, 0, ["use", "unknown"]),
            (Some(59), Some(59), false, 59, ["use", "unknown"]),
            (Some(59), Some(59), false, 58, ["use", "not yet"]),
            (Some(1), Some(1), false, 0, ["use", "not yet"]),
            (Some(1), Some(1), false, HOUR, ["use", "unknown"]),
            (Some(60), Some(60), false, 0, ["use", "ask"]),
            (Some(60), Some(60), false, HOUR, ["use", "ask"]),
            (Some(HOUR), Some(HOUR), false, 0, ["use and ask", "ask"]),
            (Some(2 * HOUR), Some(30), true, 0, ["use", "not yet"]),
            (Some(2 * HOUR), Some(30), true, 3 * HOUR, ["use", "not yet"]),
            (Some(2 * HOUR), Some(60), true, 0, ["use and ask", "ask"]),
            (Some(24 * HOUR), Some(30), true, 0, ["not yet", "not yet"]),
            (Some(24 * HOUR), Some(60), true, 0, ["ask", "ask"]),
        ] {
            assert_eq!(
                looked(fetched, asked, failed, heard),
                expected,
                "{fetched:?} {asked:?} {failed} {heard}"
            );
        }
    }

    #[test]
    fn unknown_keys_are_remembered_and_not_without_end() {
        let (strangers, held) = (Strangers::default(), Held::default());
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(strangers.first_heard("a", &held, at(0)), at(0));
        assert_eq!(strangers.first_heard("a", &held, at(9)), at(0));
        for made_up in 0..3 * MOST_STRANGERS {
            strangers.first_heard(&format!("made-up-{made_up}"), &held, at(10));
            assert!(strangers.heard.lock().unwrap().len() <= MOST_STRANGERS);
        }
        assert_eq!(strangers.first_heard("a", &held, at(11)), at(11));
    }
}
