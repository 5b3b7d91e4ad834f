//! Crashes where they are wanted: a panic kills a task, as a crash kills the process. What it had
//! claimed stays leased.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the rollback's worker can crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Steps are claimed, no vendor was called.
    Claimed,
    /// A delete call has returned; nothing of it is written down.
    Deleted,
    /// A step is about to be reported.
    BeforeSettling,
}

impl CrashPoint {
    pub const ALL: [Self; 3] = [Self::Claimed, Self::Deleted, Self::BeforeSettling];

    pub fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Deleted => "deleted",
            Self::BeforeSettling => "before_settling",
        }
    }
}

/// A dispatch is claimed, GitHub was not called.
pub const DISPATCH_CLAIMED: &str = "dispatch_claimed";
/// GitHub has answered; nothing of it is written down.
pub const DISPATCH_ANSWERED: &str = "dispatch_answered";

/// Held by each test of this target for as long as it runs.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The crash that is armed: it happens the `left`-th time the point is passed.
#[derive(Default)]
struct Armed {
    left: u32,
}

static ARMED: Mutex<Armed> = Mutex::new(Armed { left: 0 });
static CRASHES: AtomicU32 = AtomicU32::new(0);

/// Crashes once, when the point is passed for the `nth` time, counted from 1.
pub fn arm(point: &str, nth: u32) {
    ARMED.lock().unwrap().left = nth;
    CRASHES.store(0, Ordering::Release);
    fail::cfg_callback(point, || {
        let mut armed = ARMED.lock().unwrap();
        let now = armed.left == 1;
        armed.left = armed.left.saturating_sub(1);
        drop(armed);
        if now {
            CRASHES.fetch_add(1, Ordering::AcqRel);
            // Without the panic hook's noise.
            std::panic::resume_unwind(Box::new("a crash that the test wants"));
        }
    })
    .unwrap();
}

/// Crashes no more.
pub fn disarm() {
    let points = CrashPoint::ALL.map(CrashPoint::name);
    for point in points
        .into_iter()
        .chain([DISPATCH_CLAIMED, DISPATCH_ANSWERED])
    {
        fail::remove(point);
    }
}

/// Crashes since the last call of [`arm`].
pub fn count() -> u32 {
    CRASHES.load(Ordering::Acquire)
}
