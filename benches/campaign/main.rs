//! The campaign: thousands of provisions through the program itself, in several replicas, while
//! replicas and Postgres are killed and the vendors fail in every way.
//!
//! ```text
//! cargo bench --bench campaign -- --provisions 1000 --kills 50 --seed 7
//! ```
//!
//! At its end nothing of ours is left that nobody needs, nothing foreign was touched, no acknowledged
//! callback is missing, each receipt was true, and no orphan got older than the ceiling. Whatever is
//! not so is printed with the seed and the provision's history, and the exit code is 1. The seed draws
//! what is done; the moments are the machine's.
//!
//! In reading order: `plan` draws a script for each provision, `driver` plays it, `messages` and `calls`
//! are what is said, `book` keeps what was acknowledged; `site` is what runs, `chaos` kills it,
//! `troubles` keeps what was broken and when; `checks` and `ages` judge, `verdict` says it.

mod ages;
mod book;
mod calls;
mod chaos;
mod checks;
mod driver;
mod foreign;
mod messages;
mod plan;
mod site;
mod troubles;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use book::Book;
use calls::Caller;
use chaos::Tally;
use driver::{Stage, play};
use plan::Plan;
use site::Site;
use troubles::Troubles;

/// Provisions through replicas that are killed.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// How many provisions
    #[arg(long, default_value_t = 1000)]
    provisions: u64,
    /// How many times a process is killed meanwhile
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// Draws what is done; unset: any
    #[arg(long)]
    seed: Option<u64>,
    /// How many replicas of the program
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// How many provisions are begun each second, at most
    #[arg(long, default_value_t = 12.0)]
    rate: f64,
    /// How many workflows are at work at once, at most
    #[arg(long, default_value_t = 64)]
    at_once: u32,
    /// How long it may take in all, in minutes
    #[arg(long, default_value_t = 45)]
    minutes: u64,
    /// The program that is run
    #[arg(long, default_value = env!("CARGO_BIN_EXE_backstop"))]
    program: PathBuf,
    /// `cargo bench` says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let at_most = Duration::from_secs(60 * arguments.minutes);
    let mut terminated = signal(SignalKind::terminate())?;
    // Whatever ends it, what was started ends with it.
    tokio::select! {
        ended = timeout(at_most, Box::pin(run(arguments))) => ended.context("it took too long")?,
        _ = terminated.recv() => bail!("told to stop"),
        _ = tokio::signal::ctrl_c() => bail!("told to stop"),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!(
        "campaign of seed {seed}: {} provisions, {} kills, {} replicas",
        arguments.provisions, arguments.kills, arguments.replicas
    );
    let began = Instant::now();
    let mut site = Site::start(arguments.program.clone(), arguments.replicas).await?;
    let book = Arc::new(Book::default());
    foreign::settle_in(&site.sim, &book);
    let stage = Stage {
        sim: site.sim.clone(),
        book: book.clone(),
        caller: Caller::new(&site.sim, site.addresses.clone())?,
    };
    let (troubles, tally) = (Troubles::default(), Arc::new(Tally::default()));
    let over = CancellationToken::new();

    let progress = tokio::spawn({
        let (book, tally, sim) = (book.clone(), tally.clone(), site.sim.clone());
        let stop = over.clone();
        async move {
            while !stop.is_cancelled() {
                stop.run_until_cancelled(sleep(Duration::from_secs(5)))
                    .await;
                verdict::progress(began, &book, &tally, &sim);
            }
        }
    });
    let no_more_trouble = CancellationToken::new();
    let vendors_fail = tokio::spawn(chaos::trouble_vendors(
        site.sim.clone(),
        troubles.clone(),
        tally.clone(),
        seed,
        no_more_trouble.clone(),
    ));
    let load = load(&stage, &tally, &arguments, seed);
    let kills = chaos::kill(
        &mut site,
        &book,
        &troubles,
        &tally,
        (arguments.kills, arguments.provisions, seed),
    );
    let ((), killed) = tokio::join!(load, kills);
    killed?;
    no_more_trouble.cancel();
    vendors_fail.await?;
    println!(
        "  {:5.1} s  all played; nothing breaks any more",
        began.elapsed().as_secs_f64()
    );

    let settled = verdict::wait_until_settled(&site, &book, &troubles).await;
    over.cancel();
    progress.await?;
    if let Err(error) = settled {
        book.violation(None, format!("not settled in time: {error:#}"));
    }
    let is_good = verdict::pass(&site, &stage, &troubles, &tally, seed, began).await?;
    site.end(!is_good).await?;
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays all scripts, as fast as is allowed and as kills keep up.
async fn load(stage: &Stage, tally: &Tally, arguments: &Arguments, seed: u64) {
    let permits = Arc::new(Semaphore::new(arguments.at_once as usize));
    let tracker = TaskTracker::new();
    let pause = Duration::from_secs_f64(1.0 / arguments.rate.max(0.1));
    for number in 0..arguments.provisions {
        let next = Instant::now() + pause;
        let due = number * arguments.kills / arguments.provisions.max(1);
        while tally.kills() + 2 < due {
            sleep(Duration::from_millis(20)).await;
        }
        let permits = permits.clone();
        let Ok(permit) = permits.acquire_owned().await else {
            return;
        };
        stage.book.begun.fetch_add(1, Ordering::Relaxed);
        let stage = stage.clone();
        let plan = Plan::draw(seed, number);
        tracker.spawn(async move { play(&stage, plan, permit).await });
        tokio::time::sleep_until(next).await;
    }
    tracker.close();
    tracker.wait().await;
}
