//! The pulse of one replica.
//!
//! It beats from when the HTTP side takes callbacks until it no longer does. Each beat is a write
//! through the same pool that callbacks are recorded with, so that a database that cannot be reached
//! or a pool that is exhausted is a gap. What nobody can see from here is a road to us that is cut.

use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::domain::names::ControllerId;
use crate::store::hearing::{self, Pulsed};
use crate::store::{Pool, StoreError, in_time};

const HELD: &str = "nothing is failed for its time until you look, and run `backstop resume`";

/// Beats until the intake is closed.
pub struct Heart {
    pool: Pool,
    settings: Settings,
    controller: ControllerId,
    intake: CancellationToken,
}

/// Why it beats no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The intake is closed.
    Closed,
    /// The database has become another controller. Whoever goes on under the old id tells
    /// workflows names under which nothing will be found.
    OtherController,
}

impl Heart {
    /// A heart that beats until `intake` is cancelled, for a replica that is `controller` to the
    /// vendors.
    #[must_use]
    pub fn new(
        pool: Pool,
        settings: Settings,
        controller: ControllerId,
        intake: CancellationToken,
    ) -> Self {
        Self {
            pool,
            settings,
            controller,
            intake,
        }
    }

    /// Beats. `begun` is cancelled after the first beat: from then on the database knows whether it
    /// is held.
    pub async fn run(self, begun: CancellationToken) -> Ended {
        let mut confirmed = 0;
        while !self.intake.is_cancelled() {
            match in_time(self.beat(confirmed)).await {
                Ok(pulsed) => {
                    if pulsed.controller != self.controller {
                        tracing::error!(
                            controller.id = %pulsed.controller,
                            "this database has become another controller"
                        );
                        return Ended::OtherController;
                    }
                    confirmed = pulsed.after.pulses;
                    match (pulsed.before.hold, pulsed.after.hold) {
                        (None, Some(hold)) => tracing::error!(
                            reason = %hold.reason,
                            "held: {}; {HELD}", hold.reason.sentence()
                        ),
                        (Some(hold), _) if !begun.is_cancelled() => tracing::warn!(
                            reason = %hold.reason, since = %hold.since,
                            "still held: {}; {HELD}", hold.reason.sentence()
                        ),
                        _ => {}
                    }
                    begun.cancel();
                }
                Err(error) => tracing::warn!(
                    %error, "no pulse: as long as there is none, nothing is failed for its silence"
                ),
            }
            self.intake
                .run_until_cancelled(tokio::time::sleep(self.settings.pulse_every))
                .await;
        }
        Ended::Closed
    }

    async fn beat(&self, confirmed: i64) -> Result<Pulsed, StoreError> {
        let mut db = self.pool.acquire().await?;
        let public_url = self.settings.public_url.as_deref();
        hearing::pulse(&mut db, public_url, confirmed, &self.settings.patience).await
    }
}
