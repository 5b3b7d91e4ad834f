//! What a vendor's answer means for a step: when to come back, and whether a person is needed.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::sight::Sight;
use crate::budget::Permit;
use crate::domain::absence::{Verdict, judge_empty_list};
use crate::domain::backoff::Backoff;
use crate::domain::fields::VendorId;
use crate::domain::names::ControllerId;
use crate::providers::hetzner::RateLimit;
use crate::providers::{VendorError, one_line};
use crate::store::ledger::{ClaimedStep, Outcome};

/// What is locked is locked for seconds: the vendor is finishing something else.
const LOCKED_CAP: Duration = Duration::from_secs(5);
/// How often a thing that never appeared is looked for while it may still arrive.
pub(crate) const LOOK_FOR_LATE_ARRIVALS_EVERY: Duration = Duration::from_secs(20);
/// How soon a delete that is under way is asked after, at first and at last.
pub(super) const POLL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// A delete that the vendor says is done and a thing that is still listed: the list may lag for so
/// long. Only then is it deleted once more.
const LIST_MAY_LAG: Duration = Duration::from_secs(60);

/// What answers are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge<'a> {
    /// The pause after a failed try.
    pub retry: Backoff,
    /// Who this database is to the vendors.
    pub controller: ControllerId,
    /// What the batch may send.
    pub permit: &'a Permit,
}

impl Judge<'_> {
    /// What a failed request means for its step.
    pub(super) fn failed(&self, step: &ClaimedStep, error: &VendorError) -> Outcome {
        let retry = self.retry;
        let backoff = match error {
            VendorError::Locked(_) => Backoff {
                cap: retry.cap.min(LOCKED_CAP),
                ..retry
            },
            // Only a person can clear these: slowly, so that the vendor is not hammered.
            VendorError::Protected(_)
            | VendorError::Unauthorized(_)
            | VendorError::Forbidden(_) => Backoff {
                base: retry.cap,
                ..retry
            },
            VendorError::RateLimited { retry_after, .. } => {
                self.permit.turned_away(*retry_after);
                retry
            }
            VendorError::Unavailable(_) | VendorError::Rejected(_) => retry,
        };
        // Until the vendor's own reset, but never longer than the cap: its reset is when the
        // budget is full again, and one request is available long before.
        let named = error.retry_after().unwrap_or_default().min(retry.cap);
        Outcome::Failed {
            error: error.to_string(),
            retry_in: jittered(backoff.after(step.failures + 1)).max(named),
            needs_person: error.needs_person(),
        }
    }

    /// What is ours by an earlier look and has lost its marks is not deleted, and not given up.
    pub(super) fn not_ours(&self, step: &ClaimedStep, because: String) -> Outcome {
        if step.own {
            Outcome::Failed {
                error: format!("was this attempt's own when it was first seen, and now: {because}"),
                retry_in: self.retry.cap,
                needs_person: true,
            }
        } else {
            Outcome::NotOurs { because }
        }
    }

    /// What a delete is that the vendor answers with 404, for what it showed a moment ago. That is
    /// weak evidence: gone meanwhile, or not to be touched with this credential.
    pub(super) fn absent_but_seen(&self, step: &ClaimedStep, id: &VendorId) -> Outcome {
        Outcome::Failed {
            error: format!(
                "DELETE of {} {id}: 404, and a moment ago it was there",
                step.resource
            ),
            retry_in: self.begin_anew_in(step),
            needs_person: false,
        }
    }

    /// The pause where only a person can help.
    pub(super) fn slowly(&self) -> Duration {
        jittered(self.retry.cap)
    }

    /// What a step reports that may not send anything now.
    pub(super) fn held_back(&self, told: Option<RateLimit>) -> Outcome {
        Outcome::HeldBack {
            retry_in: self.permit.rest_in(told),
        }
    }

    /// The pause before a delete that the vendor accepted and did not carry out is begun anew.
    pub(super) fn begin_anew_in(&self, step: &ClaimedStep) -> Duration {
        jittered(self.retry.after(step.failures + 1))
    }

    /// What a search reports that found things with these ids. One whose id cannot be kept would
    /// be lost for good if it were left out.
    pub(super) async fn found(
        &self,
        step: &ClaimedStep,
        ids: impl Iterator<Item = String>,
        sight: &Sight<'_>,
    ) -> Outcome {
        let parse = |id: String| VendorId::parse(step.resource, &id).ok_or(id);
        match ids
            .map(parse)
            .collect::<Result<BTreeSet<VendorId>, String>>()
        {
            Ok(ids) if ids.is_empty() => nothing_found(step, sight).await,
            Ok(ids) => Outcome::Found(ids),
            Err(id) => Outcome::Failed {
                error: format!(
                    "the vendor lists {:?}, which is no {}'s id",
                    one_line(&id),
                    step.resource
                ),
                retry_in: self.retry.cap,
                needs_person: true,
            },
        }
    }
}

/// That a delete is done and its thing is still there, while its list may lag.
pub(super) fn may_lag(step: &ClaimedStep) -> Option<Outcome> {
    let look_in = look_while_listed(step.accepted.as_ref()?.since)?;
    Some(Outcome::UnderWay { look_in })
}

/// When to look again for what was accepted for deletion so long ago; `None`: it is no lag any more.
fn look_while_listed(since: Duration) -> Option<Duration> {
    (since < LIST_MAY_LAG).then(|| pace(since))
}

/// The longer a delete has been under way, the less often it is asked after.
pub(super) fn pace(since: Duration) -> Duration {
    (since / 2).clamp(POLL.0, POLL.1)
}

/// What a search that finds nothing reports.
async fn nothing_found(step: &ClaimedStep, sight: &Sight<'_>) -> Outcome {
    match judge_empty_list(step.resource, &step.known) {
        Verdict::Proven(proof) => sight.absent(step, proof).await,
        Verdict::OpenUntil(end) => Outcome::NotSeen {
            look_in: (end - step.known.now)
                .to_std()
                .unwrap_or_default()
                .min(LOOK_FOR_LATE_ARRIVALS_EVERY),
        },
        // Woken when they settle; this is for what may arrive until then.
        Verdict::OpenUntilOthersSettle => Outcome::NotSeen {
            look_in: LOOK_FOR_LATE_ARRIVALS_EVERY,
        },
    }
}

/// Half to all of a pause, so that replicas do not come back in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_longer_a_delete_is_under_way_the_less_often_it_is_asked_after() {
        for (since, asked_in) in [
            (0, 500),
            (999, 500),
            (2_000, 1_000),
            (9_000, 4_500),
            (60_000, 5_000),
        ] {
            assert_eq!(pace(ms(since)), ms(asked_in), "{since}");
        }
    }

    #[test]
    fn what_is_still_listed_a_minute_after_its_delete_is_deleted_once_more() {
        for (since, look_in) in [
            (0, Some(ms(500))),
            (59_999, Some(ms(5_000))),
            (60_000, None),
            (3_600_000, None),
        ] {
            assert_eq!(look_while_listed(ms(since)), look_in, "{since}");
        }
    }
}
