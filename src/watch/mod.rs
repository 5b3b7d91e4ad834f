//! Watches over provisions that nobody speaks for: the worst leaks have no failure callback.
//!
//! - [`pulse`]: says every few seconds that callbacks can be heard, and notices when the database
//!   is not, or no longer, what it was.
//! - [`overdue`]: fails what was never started, passed its deadline or fell silent.
//! - [`shown`]: has the stream tell of what time alone changes.
//!
//! All run in every replica, and meet in the database. Nothing here deletes: what is failed is
//! rolled back by the same plan as after a callback.

pub mod overdue;
pub mod pulse;
pub mod shown;

use std::time::Duration;

use crate::domain::overdue::Patience;

/// How provisions are watched over.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a provision is waited for.
    pub patience: Patience,
    /// Our own URL as workflows see it; `None`: unset.
    pub public_url: Option<String>,
    /// The pause between two pulses: a third of what counts as a gap, or less.
    pub pulse_every: Duration,
}
