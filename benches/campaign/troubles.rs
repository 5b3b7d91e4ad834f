//! What was broken, and from when until when: a ceiling counts only the time in which nothing was.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// A time in which something was broken, what follows from it included.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub whose: Whose,
}

/// Whom it kept from being done.
#[derive(Debug, Clone)]
pub enum Whose {
    Everybody,
    /// What is failed for its time.
    Unreported,
    /// Those of which a replica that was killed had a step in hand.
    Provisions(HashSet<Uuid>),
    /// What only a sweep finds.
    Sweeps,
    /// Lists left out what was there, so that nothing that was proven by them counts.
    Lied,
}

/// How an orphan comes to be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A message that ends its attempt was acknowledged.
    Reported,
    /// Nobody said a word; there had been heartbeats.
    Silent,
    /// Nobody said a word.
    Unreported,
    /// It was made when nobody needed it any more.
    Late,
}

/// All that was broken.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<Vec<Trouble>>>);

impl Troubles {
    pub fn note(&self, from: DateTime<Utc>, to: DateTime<Utc>, whose: Whose) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Trouble { from, to, whose });
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<Trouble> {
        let mut all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        all.sort_by_key(|it| it.from);
        all
    }
}

impl Trouble {
    fn concerns(&self, provision: Uuid, class: Class) -> bool {
        match &self.whose {
            Whose::Everybody | Whose::Lied => true,
            Whose::Unreported => class != Class::Reported,
            Whose::Provisions(them) => them.contains(&provision),
            Whose::Sweeps => class == Class::Late,
        }
    }
}

/// How much of the time between the two was disturbed for that provision. The troubles are in order.
pub fn disturbed(
    troubles: &[Trouble],
    provision: Uuid,
    class: Class,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> TimeDelta {
    let mut sum = TimeDelta::zero();
    let mut counted_to = from;
    for trouble in troubles {
        if trouble.from >= to || !trouble.concerns(provision, class) {
            continue;
        }
        let begin = trouble.from.max(counted_to);
        let end = trouble.to.min(to);
        if end > begin {
            sum += end - begin;
            counted_to = end;
        }
    }
    sum
}

/// Whether a list may have lied at that moment.
pub fn lied(troubles: &[Trouble], at: DateTime<Utc>) -> bool {
    troubles
        .iter()
        .any(|it| matches!(it.whose, Whose::Lied) && it.from <= at && at <= it.to)
}
