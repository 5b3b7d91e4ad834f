//! Sees to it that the stream tells of what time alone changes, and keeps its feed short.
//!
//! A step gets stuck by its time without anybody writing it. Every replica looks for that; two that
//! find the same only tell it twice.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Pool, StoreError, feed, in_time};

/// How late a step is shown to be stuck, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long the feed grows by what is outdated.
const TIDY_EVERY: Duration = Duration::from_secs(300);

/// Until stopped.
pub async fn keep_shown(pool: Pool, stuck_after: Duration, stop: CancellationToken) {
    let (mut told_until, mut tidied_at) = (None, None);
    loop {
        let looked = in_time(look(&pool, stuck_after, &mut told_until, &mut tidied_at));
        if let Err(error) = looked.await {
            tracing::warn!(%error, "the stream is not told what time changes; trying again soon");
        }
        let pause = tokio::time::sleep(LOOK_EVERY);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn look(
    pool: &Pool,
    stuck_after: Duration,
    told_until: &mut Option<DateTime<Utc>>,
    tidied_at: &mut Option<Instant>,
) -> Result<(), StoreError> {
    let mut db = pool.acquire().await?;
    if tidied_at.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
        feed::tidy(&mut db).await?;
        *tidied_at = Some(Instant::now());
    }
    *told_until = Some(feed::add_what_got_stuck(&mut db, stuck_after, *told_until).await?);
    Ok(())
}
