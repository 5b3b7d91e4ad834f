//! Asks GitHub about the runs of attempts that give reason to.
//!
//! Every replica looks, and what is to be asked is claimed in the database, which also bounds how
//! much all of them ask together. No transaction is open across a call. An answer that cannot be
//! had decides nothing: GitHub away, a run that it does not know, a credential that is not let in.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{tell, testify};
use crate::domain::backoff::Backoff;
use crate::domain::overdue::Patience;
use crate::domain::step::Resource;
use crate::domain::witness::{RunState, Source, Testimony};
use crate::metrics::Metrics;
use crate::providers::github::Look;
use crate::providers::{GitHub, VendorError};
use crate::rollback::jittered;
use crate::store::changes::Changes;
use crate::store::witness::{Heard, Suspect, claim_suspects, pause, record};
use crate::store::{Pool, StoreError, in_time};

/// How long a claim holds: longer than its requests can take, also those for an app's token.
const LEASE: Duration = Duration::from_secs(120);
/// Runs that one replica asks about at once.
const AT_ONCE: u32 = 4;
/// How often it looks without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The shortest pause between looks that found nothing to ask.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(500);
/// The pause after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after an ask that told nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The pause of all replicas while only a person can let us in.
const SHUT_OUT: Duration = Duration::from_secs(5 * 60);

/// One replica's questions to GitHub.
pub struct Asker {
    pool: Pool,
    changes: Changes,
    metrics: Metrics,
    patience: Patience,
    github: Arc<GitHub>,
    managed: &'static [Resource],
    stop: CancellationToken,
}

impl Asker {
    /// An asker that ends when `stop` is cancelled. `managed` are the kinds of thing that this
    /// installation can delete.
    #[must_use]
    pub fn new(
        pool: Pool,
        changes: Changes,
        metrics: Metrics,
        patience: Patience,
        github: Arc<GitHub>,
        managed: &'static [Resource],
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            changes,
            metrics,
            patience,
            github,
            managed,
            stop,
        }
    }

    /// Asks once `begun` is cancelled, until stopped. What was asked by then is waited for.
    pub async fn run(self, begun: CancellationToken) {
        let mut changes = self.changes.subscribe();
        self.stop.run_until_cancelled(begun.cancelled()).await;
        while !self.stop.is_cancelled() {
            changes.forget();
            let pause = match in_time(self.claim()).await {
                Ok(suspects) if suspects.is_empty() => LOOK_EVERY,
                Ok(suspects) => {
                    join_all(suspects.iter().map(|suspect| self.ask(suspect))).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot look whom to ask about; trying again soon");
                    DATABASE_PAUSE
                }
            };
            self.stop
                .run_until_cancelled(changes.wait(LOOK_AT_MOST_EVERY, pause))
                .await;
        }
    }

    async fn claim(&self) -> Result<Vec<Suspect>, StoreError> {
        let mut db = self.pool.acquire().await?;
        claim_suspects(&mut db, &self.patience, LEASE, AT_ONCE).await
    }

    async fn ask(&self, suspect: &Suspect) {
        let answer = self
            .github
            .run_attempt(suspect.run, suspect.etag.as_deref())
            .await;
        if let Err(error) = in_time(self.take(suspect, answer)).await {
            // The lease will run out, and it is asked again.
            tracing::warn!(
                provision.id = %suspect.provision, run.id = %suspect.run, %error,
                "what GitHub says of a run was not written down; it will be asked again"
            );
        }
    }

    /// Does what follows from an answer, then writes down that it came: a crash in between costs
    /// another question.
    async fn take(
        &self,
        suspect: &Suspect,
        answer: Result<Look, VendorError>,
    ) -> Result<(), StoreError> {
        let mut db = self.pool.acquire().await?;
        let ask_in = jittered(self.patience.ask_every());
        let heard = match answer {
            Ok(Look::Unchanged) => Heard::UnderWay {
                etag: suspect.etag.clone(),
                ask_in,
            },
            Ok(Look::Seen { state, etag }) => match state {
                RunState::UnderWay => Heard::UnderWay { etag, ask_in },
                RunState::Unclear => Heard::Nothing {
                    ask_in: self.after_failure(suspect),
                },
                RunState::Ended(ending) => {
                    let testimony = Testimony {
                        run: suspect.run,
                        ending,
                        source: Source::Asked,
                    };
                    let id = suspect.provision;
                    let written = testify(&mut db, id, &testimony, self.managed).await?;
                    if let Some(change) = written {
                        tell(&change, &testimony, &self.changes, &self.metrics);
                    }
                    Heard::Ended
                }
            },
            Err(error) => {
                let all_wait = if error.needs_person() {
                    tracing::error!(%error, "GitHub does not let us look at runs");
                    Some(SHUT_OUT)
                } else {
                    tracing::warn!(
                        provision.id = %suspect.provision, run.id = %suspect.run, %error,
                        "GitHub does not say how a run stands, which decides nothing"
                    );
                    error.retry_after()
                };
                if let Some(lasts) = all_wait {
                    pause(&mut db, lasts).await?;
                }
                Heard::Nothing {
                    ask_in: self
                        .after_failure(suspect)
                        .max(all_wait.unwrap_or_default()),
                }
            }
        };
        record(&mut db, suspect, &heard).await
    }

    fn after_failure(&self, suspect: &Suspect) -> Duration {
        let pauses = Backoff {
            base: self.patience.ask_every(),
            cap: LONGEST_PAUSE.max(self.patience.ask_every()),
        };
        jittered(pauses.after(suspect.failures + 1))
    }
}
