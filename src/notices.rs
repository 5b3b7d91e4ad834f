//! Tells the operators' webhook what is in `notices`, and sees to it that what no worker carries out
//! gets there.
//!
//! A loop of its own beside the workers, so that nobody who listens badly can hold up a rollback.
//! What is not told is tried again, further and further apart, until it has failed for
//! [`GIVE_UP_AFTER`].

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::domain::backoff::Backoff;
use crate::providers::Webhook;
use crate::rollback::jittered;
use crate::store::ledger::flag_stuck;
use crate::store::notices::{self, Notice, claim_due_notices};
use crate::store::{Pool, StoreError, in_time};

/// Most notices that are sent at once.
const BATCH: u32 = 8;
/// How long a notice is in one sender's hand. Longer than a request may take.
const LEASE: Duration = Duration::from_secs(60);
/// How often is looked for new ones.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause before one that was not told is sent again.
const RETRY: Backoff = Backoff {
    base: Duration::from_secs(5),
    cap: Duration::from_secs(15 * 60),
};
/// A long weekend. What is this old is in the status API for who comes back.
const GIVE_UP_AFTER: Duration = Duration::from_secs(72 * 60 * 60);

/// Sends notices, in this process. Others may do so beside it.
pub struct Notifier {
    pool: Pool,
    webhook: Webhook,
    stuck_after: Duration,
    stop: CancellationToken,
}

impl Notifier {
    /// One that ends when `stop` is cancelled. What is unsettled for `stuck_after` is stuck.
    #[must_use]
    pub fn new(
        pool: Pool,
        webhook: Webhook,
        stuck_after: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool,
            webhook,
            stuck_after,
            stop,
        }
    }

    /// Sends what is due until stopped.
    pub async fn run(self) {
        while !self.stop.is_cancelled() {
            if let Err(error) = in_time(self.flag()).await {
                tracing::warn!(%error, "cannot look for what is stuck; trying again soon");
            }
            match in_time(self.claim()).await {
                Ok(due) if !due.is_empty() => {
                    join_all(due.iter().map(|notice| self.send(notice))).await;
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot look for notices; trying again soon"),
            }
            self.stop
                .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
                .await;
        }
    }

    async fn flag(&self) -> Result<(), StoreError> {
        let mut db = self.pool.acquire().await?;
        flag_stuck(&mut db, BATCH, self.stuck_after).await
    }

    async fn claim(&self) -> Result<Vec<Notice>, StoreError> {
        let mut db = self.pool.acquire().await?;
        claim_due_notices(&mut db, BATCH, LEASE).await
    }

    async fn send(&self, notice: &Notice) {
        let body = json!({
            "type": notice.kind, "timestamp": notice.happened_at, "data": notice.data,
        });
        let id = notice.id.to_string();
        let tell = self
            .webhook
            .tell(&id, notice.now, body.to_string().into_bytes());
        // Not waited for when we stop: it may be told twice, and the id shows it.
        let written = match self.stop.run_until_cancelled(tell).await {
            Some(Ok(())) => {
                tracing::info!(
                    notice.id = id, notice.kind = %notice.kind, webhook.host = self.webhook.host(),
                    "told the webhook"
                );
                in_time(self.forget(notice)).await
            }
            Some(Err(error)) if notice.age >= GIVE_UP_AFTER => {
                tracing::error!(
                    notice.id = id, notice.kind = %notice.kind, webhook.host = self.webhook.host(),
                    %error, "the webhook was not told, and never will be: it has failed for too long"
                );
                in_time(self.forget(notice)).await
            }
            Some(Err(error)) => {
                tracing::warn!(
                    notice.id = id, notice.kind = %notice.kind, webhook.host = self.webhook.host(),
                    tries = notice.tries, %error, "the webhook was not told; trying again"
                );
                let pause = RETRY.after(notice.tries);
                in_time(self.put_back(notice, jittered(pause))).await
            }
            None => in_time(self.put_back(notice, Duration::ZERO)).await,
        };
        if let Err(error) = written {
            tracing::warn!(
                notice.id = id, %error,
                "what became of a notice was not written down; it will be sent again"
            );
        }
    }

    async fn forget(&self, notice: &Notice) -> Result<(), StoreError> {
        let mut db = self.pool.acquire().await?;
        notices::forget(&mut db, notice).await
    }

    async fn put_back(&self, notice: &Notice, pause: Duration) -> Result<(), StoreError> {
        let mut db = self.pool.acquire().await?;
        notices::put_back(&mut db, notice, pause).await
    }
}
