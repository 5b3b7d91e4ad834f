//! How long to leave a failed delete alone.

use std::time::Duration;

/// Exponential back-off: `base`, doubled with every further try, at most `cap`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// Never longer than this.
    pub cap: Duration,
}

impl Backoff {
    /// The pause after the `tries`-th failure in a row, counted from 1. Jitter is the caller's.
    #[must_use]
    pub fn after(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_base_to_cap_and_never_overflows() {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(900),
        };
        let seconds: Vec<u64> = [0, 1, 2, 3, 10, 11, 12, 500, u32::MAX]
            .map(|tries| backoff.after(tries).as_secs())
            .to_vec();
        assert_eq!(seconds, [1, 1, 2, 4, 512, 900, 900, 900, 900]);
    }
}
