//! Forgets the history of what has long been over. Receipts, and the records themselves, are kept.
//!
//! Once a day each replica walks over the events by age, in small pieces with pauses, so that callers
//! do not notice. Several that do so at once are harmless.

use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;

use crate::store::retention::{Forgotten, forget_events};
use crate::store::{Pool, StoreError, in_time};

/// From one walk to the next.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many events are looked at in one statement.
const PIECE: i64 = 2_000;
/// Between two pieces: most of the time belongs to others.
const PAUSE: Duration = Duration::from_millis(200);
/// After a piece that failed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(30);

/// The loop of this process.
pub struct Forgetter {
    pool: Pool,
    keep_for: Duration,
    stop: CancellationToken,
}

impl Forgetter {
    /// One that keeps what is younger than `keep_for` and ends when `stop` is cancelled.
    #[must_use]
    pub fn new(pool: Pool, keep_for: Duration, stop: CancellationToken) -> Self {
        Self {
            pool,
            keep_for,
            stop,
        }
    }

    /// Walks once a day, until stopped.
    pub async fn run(self) {
        while !self.stop.is_cancelled() {
            let forgotten = self.walk().await;
            if forgotten > 0 {
                tracing::info!(
                    events = forgotten,
                    "forgot the history of what is long over"
                );
            }
            let jitter = rand::rng().random_range(0.9..=1.0);
            self.pause(EVERY.mul_f64(jitter)).await;
        }
    }

    /// How many events were forgotten.
    async fn walk(&self) -> u64 {
        let (mut after, mut forgotten) = (0, 0);
        while !self.stop.is_cancelled() {
            match in_time(self.forget(after)).await {
                Ok(piece) => {
                    forgotten += piece.forgotten;
                    match piece.go_on_after {
                        Some(last) => after = last,
                        None => break,
                    }
                    self.pause(PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot forget old events; trying again");
                    self.pause(PAUSE_AFTER_ERROR).await;
                }
            }
        }
        forgotten
    }

    async fn forget(&self, after: i64) -> Result<Forgotten, StoreError> {
        let mut db = self.pool.acquire().await?;
        forget_events(&mut db, after, PIECE, self.keep_for).await
    }

    async fn pause(&self, pause: Duration) {
        self.stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await;
    }
}
