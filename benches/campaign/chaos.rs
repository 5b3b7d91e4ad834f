//! What goes wrong: replicas and Postgres are killed, and the vendors fail in every way that the
//! simulation knows.
//!
//! Kills keep step with the load: neither runs away from the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::domain::budget::EXCEPTION_EVERY;
use backstop::sim::{BrokenBody, Fault, FaultKind, Sim, Vendor};
use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::book::{Book, now};
use crate::site::{CEILING, Site};
use crate::troubles::{Troubles, Whose};

/// How long it takes until everybody has noticed that the database is there again.
const RECONNECTED: TimeDelta = TimeDelta::seconds(3);
/// The longest that a fault has effect after it struck: a lock, a delay, a late delete.
const LONGEST_EFFECT: Duration = Duration::from_secs(3);

/// How often what was done.
#[derive(Default)]
pub struct Tally {
    pub replicas: AtomicU64,
    pub postgres: AtomicU64,
    pub backends: AtomicU64,
    pub stops: AtomicU64,
    pub bouts: AtomicU64,
    pub faults: AtomicU64,
}

impl Tally {
    /// All `kill -9`.
    pub fn kills(&self) -> u64 {
        [&self.replicas, &self.postgres, &self.backends]
            .iter()
            .map(|it| it.load(Ordering::Relaxed))
            .sum()
    }
}

/// Kills `kills` processes while `provisions` are begun. Ends with everything running.
pub async fn kill(
    site: &mut Site,
    book: &Book,
    troubles: &Troubles,
    tally: &Tally,
    (kills, provisions, seed): (u64, u64, u64),
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6b69_6c6c);
    let mut strikes = 0;
    while tally.kills() < kills {
        let due = (tally.kills() + 1) * provisions / (kills + 1);
        while book.begun.load(Ordering::Relaxed) < due {
            sleep(Duration::from_millis(20)).await;
        }
        site.resume_if_held(troubles, &book.holds).await?;
        // Some moment of what is under way.
        sleep(Duration::from_millis(rng.random_range(0..150))).await;
        let killer = Killer {
            site: &mut *site,
            troubles,
            tally,
            rng: &mut rng,
        };
        killer.strike().await?;
        strikes += 1;
        if strikes % 12 == 0 {
            let number = rng.random_range(0..site.replicas());
            site.stop_replica(number).await?;
            site.forget_address(number);
            tally.stops.fetch_add(1, Ordering::Relaxed);
            site.start_replica(number).await?;
        }
    }
    Ok(())
}

struct Killer<'a> {
    site: &'a mut Site,
    troubles: &'a Troubles,
    tally: &'a Tally,
    rng: &'a mut StdRng,
}

impl Killer<'_> {
    async fn strike(mut self) -> anyhow::Result<()> {
        let all = self.site.replicas();
        match self.rng.random_range(0..100) {
            0..68 => self.kill_replicas(1).await,
            68..78 => self.kill_replicas(2.min(all)).await,
            78..82 => self.kill_replicas(all).await,
            82..92 => self.kill_postgres().await,
            _ => self.kill_backend().await,
        }
    }

    async fn kill_replicas(&mut self, how_many: usize) -> anyhow::Result<()> {
        let all = self.site.replicas();
        let first = self.rng.random_range(0..all);
        let numbers: Vec<usize> = (0..how_many).map(|it| (first + it) % all).collect();
        let from = now();
        for number in &numbers {
            self.site.kill_replica(*number).await?;
            self.tally.replicas.fetch_add(1, Ordering::Relaxed);
        }
        self.note_in_hand(from).await?;
        let down_for = self.rng.random_range(0..1200);
        sleep(Duration::from_millis(down_for)).await;
        for number in &numbers {
            self.site.forget_address(*number);
            self.site.start_replica(*number).await?;
        }
        if how_many == all {
            self.note_outage(from);
        }
        Ok(())
    }

    async fn kill_postgres(&mut self) -> anyhow::Result<()> {
        let from = now();
        let down_for = self.rng.random_range(0..1200);
        let down_for = Duration::from_millis(down_for);
        self.tally.postgres.fetch_add(1, Ordering::Relaxed);
        self.site.kill_postgres(down_for).await?;
        self.note_in_hand(from).await?;
        self.note_outage(from);
        Ok(())
    }

    async fn kill_backend(&mut self) -> anyhow::Result<()> {
        let from = now();
        let drawn = self.rng.random_range(0..1_000_000_usize);
        self.tally.backends.fetch_add(1, Ordering::Relaxed);
        self.site.kill_backend(|of| drawn % of).await?;
        self.site.wait_for_database().await?;
        self.note_in_hand(from).await?;
        self.note_outage(from);
        Ok(())
    }

    /// A step that a dead process had in hand, or whose end nobody could write down, is not taken up
    /// before its lease has ended.
    async fn note_in_hand(&self, from: DateTime<Utc>) -> anyhow::Result<()> {
        let (provisions, sweep) = self.site.in_hand().await?;
        let until = |pause: Duration| now() + pause + CEILING.reported();
        if !provisions.is_empty() {
            let to = until(CEILING.after_a_crash());
            self.troubles.note(from, to, Whose::Provisions(provisions));
        }
        if sweep {
            let to = until(CEILING.after_a_crash_in_a_sweep());
            self.troubles.note(from, to, Whose::Sweeps);
        }
        Ok(())
    }

    /// Nobody could be heard, or nothing could be written.
    fn note_outage(&self, from: DateTime<Utc>) {
        let back = now() + RECONNECTED;
        self.troubles.note(from, back, Whose::Everybody);
        let heard = back + CEILING.after_silence_of_ours();
        self.troubles.note(from, heard, Whose::Unreported);
    }
}

/// Lets the vendors fail now and then, until told to stop. Ends without any fault.
pub async fn trouble_vendors(
    sim: Arc<Sim>,
    troubles: Troubles,
    tally: Arc<Tally>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6661_756c);
    while !stop.is_cancelled() {
        let quiet = Duration::from_millis(rng.random_range(1_500..9_000));
        stop.run_until_cancelled(sleep(quiet)).await;
        if stop.is_cancelled() {
            return;
        }
        let from = now();
        let (mut lies, mut turns_away) = (false, false);
        for _ in 0..rng.random_range(1..=4) {
            let fault = draw(&mut rng);
            lies |= matches!(fault.kind, FaultKind::Omit { .. });
            turns_away |= matches!(fault.kind, FaultKind::Status { status: 429, .. });
            sim.fault(fault);
            tally.faults.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(rng.random_range(300..2_000))).await;
        sim.clear_faults();
        tally.bouts.fetch_add(1, Ordering::Relaxed);
        let over = now() + LONGEST_EFFECT;
        let refused = over + CEILING.after_a_refusal();
        let back = if turns_away {
            // What it told of its limit is believed until it tells more, in answer to an exception.
            refused + EXCEPTION_EVERY
        } else {
            refused
        };
        troubles.note(from, back, Whose::Everybody);
        if lies {
            // What was taken for gone is found by a sweep.
            troubles.note(from, over + CEILING.late(), Whose::Lied);
        }
    }
}

const HETZNER: [(&str, &str); 5] = [
    ("DELETE", "/servers/*"),
    ("GET", "/servers"),
    ("GET", "/servers/*"),
    ("GET", "/actions"),
    ("POST", "/servers"),
];
const TAILSCALE: [(&str, &str); 6] = [
    ("DELETE", "/device/*"),
    ("DELETE", "/tailnet/*/keys/*"),
    ("GET", "/tailnet/*/devices"),
    ("GET", "/tailnet/*/keys"),
    ("POST", "/oauth/token"),
    ("POST", "/tailnet/*/keys"),
];

/// Any fault at any endpoint that can have it.
fn draw(rng: &mut StdRng) -> Fault {
    let hetzner = rng.random_ratio(3, 5);
    let (vendor, endpoints): (_, &[(&str, &str)]) = if hetzner {
        (Vendor::Hetzner, &HETZNER)
    } else {
        (Vendor::Tailscale, &TAILSCALE)
    };
    let (method, path) = *endpoints.choose(rng).expect("there are some");
    let is_list = method == "GET" && !path.ends_with("servers/*") && path != "/actions";
    let kind = match rng.random_range(0..22) {
        0..7 if hetzner => {
            let errors = [
                (401, "unauthorized"),
                (403, "forbidden"),
                (409, "conflict"),
                (423, "locked"),
                (423, "protected"),
                (429, "rate_limit_exceeded"),
                (500, "server_error"),
                (502, "bad_gateway"),
                (503, "unavailable"),
                (504, "timeout"),
            ];
            let (status, code) = *errors.choose(rng).expect("there are some");
            FaultKind::error(status, code)
        }
        0..7 => {
            let statuses = [401, 403, 429, 500, 502, 504];
            FaultKind::status(*statuses.choose(rng).expect("there are some"))
        }
        7 if method == "DELETE" => FaultKind::status(404),
        8 | 9 => FaultKind::Delay {
            delay_ms: rng.random_range(50..1500),
        },
        10 | 11 => FaultKind::ResetBefore,
        12 | 13 => FaultKind::ResetAfter,
        14 | 15 => FaultKind::Broken {
            body: *[BrokenBody::Truncated, BrokenBody::Html, BrokenBody::Empty]
                .choose(rng)
                .expect("there are three"),
            status: None,
        },
        16 | 17 if hetzner && method == "DELETE" => FaultKind::ActionFails {
            code: "action_failed".to_owned(),
        },
        18 if hetzner && path.starts_with("/servers") && method != "GET" => FaultKind::Locked {
            for_ms: rng.random_range(200..2000),
        },
        19 | 20 if method != "GET" => FaultKind::Late {
            after_ms: rng.random_range(100..2500),
            status: 504,
            code: None,
        },
        21 if is_list => FaultKind::Omit { only: Vec::new() },
        _ => FaultKind::status(500),
    };
    Fault::on(vendor, method, path, kind).times(rng.random_range(1..8))
}
