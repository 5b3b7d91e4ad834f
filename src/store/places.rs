//! How many connections the pool may use at present: fewer than it wants while somebody's limit, the
//! role's, the server's or a pooler's, grants it no more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long it is left at what there is before one more is asked for.
const GROW_AFTER: Duration = Duration::from_secs(10);
/// How long nothing more is said of the same want.
const ASK_WHY_EVERY: Duration = Duration::from_secs(10);

/// Places for connections that are lent.
#[derive(Debug, Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    wanted: usize,
    /// How many there are, but for those that go when they come back.
    total: usize,
    /// How many go when they come back.
    going: usize,
    lent: usize,
    grown_at: Instant,
    asked_why_at: Option<Instant>,
}

/// One place, taken until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    places: Places,
    /// One if it has its connection.
    lends: usize,
}

impl Places {
    pub(super) fn of(wanted: u32) -> Self {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        Self {
            free: Arc::new(Semaphore::new(wanted)),
            state: Arc::new(Mutex::new(State {
                wanted,
                total: wanted,
                going: 0,
                lent: 0,
                grown_at: Instant::now(),
                asked_why_at: None,
            })),
        }
    }

    /// Waits for one.
    pub(super) async fn take(&self) -> Place {
        // Never closed; without a permit it would only be one too many.
        let permit = self.free.clone().acquire_owned().await.ok();
        Place {
            permit,
            places: self.clone(),
            lends: 0,
        }
    }

    /// How many have a connection.
    pub(super) fn lent(&self) -> usize {
        self.state().lent
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.state().total
    }

    /// Leaves so many, and one at least.
    pub(super) fn shrink_to(&self, there: usize) {
        let mut state = self.state();
        let there = there.max(1);
        state.going += state.total.saturating_sub(there);
        state.total = state.total.min(there);
        state.going -= self.free.forget_permits(state.going);
        state.grown_at = Instant::now();
    }

    /// Whether it is time to ask for one more; then nobody else is told so for a while.
    pub(super) fn may_grow(&self) -> bool {
        let mut state = self.state();
        let due = state.total < state.wanted && state.grown_at.elapsed() >= GROW_AFTER;
        if due {
            state.grown_at = Instant::now();
        }
        due
    }

    /// One more.
    pub(super) fn grow(&self) {
        let mut state = self.state();
        if state.total < state.wanted {
            state.total += 1;
            if state.going > 0 {
                state.going -= 1;
            } else {
                self.free.add_permits(1);
            }
        }
    }

    /// Whether it is time to find out why there are no more; then nobody else is told so for a while.
    pub(super) fn may_ask_why(&self) -> bool {
        let mut state = self.state();
        let due = state
            .asked_why_at
            .is_none_or(|at| at.elapsed() >= ASK_WHY_EVERY);
        if due {
            state.asked_why_at = Some(Instant::now());
        }
        due
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers, each of them whole, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It has its connection now.
    pub(super) fn lend(&mut self) {
        self.places.state().lent += 1 - self.lends;
        self.lends = 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.lent -= self.lends;
        if state.going > 0
            && let Some(permit) = self.permit.take()
        {
            state.going -= 1;
            permit.forget();
        }
    }
}
