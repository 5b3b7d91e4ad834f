//! How fast what people and dashboards ask for is answered, with few provisions and with many, in one
//! run and turn by turn.
//!
//! ```text
//! cargo bench --bench scale                  # 10,000 provisions against 1,000,000, ten events each
//! cargo bench --bench scale -- --many 100000
//! ```

mod service;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use backstop::postgres::{Durability, PrivatePostgres};
use backstop::providers::loopback_client;
use backstop::sim::{Sim, SimOptions};
use clap::Parser;

use service::Service;

/// Few provisions against many.
#[derive(Debug, Parser)]
struct Arguments {
    /// Provisions of the small installation
    #[arg(long, default_value_t = 10_000)]
    few: i64,
    /// Provisions of the large one
    #[arg(long, default_value_t = 1_000_000)]
    many: i64,
    /// How often each is asked
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// `cargo bench` says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new()
        .prefix("scale-")
        .tempdir_in("/tmp")?;
    let postgres = PrivatePostgres::start(&folder.path().join("data"), Durability::Kept).await?;
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default())?;
    let mut services = Vec::new();
    for (name, provisions) in [("few", arguments.few), ("many", arguments.many)] {
        let began = Instant::now();
        let service = Service::start(name, provisions, &postgres, &sim).await?;
        println!("seeded {provisions} provisions in {:.0?}", began.elapsed());
        services.push(service);
    }
    let client = loopback_client()?;
    let mut table = vec![row([
        "asked",
        "p50 few",
        "p50 many",
        "p99 few",
        "p99 many",
        "p99 ratio",
    ])];
    let questions = services[0].questions().len();
    for question in 0..questions {
        let mut took = [Vec::new(), Vec::new()];
        // The first are for the caches.
        for round in 0..arguments.rounds + 20 {
            for (service, took) in services.iter().zip(&mut took) {
                let (name, request) = service.questions()[question].clone();
                let request = service.request(&client, &request, round);
                let began = Instant::now();
                let answer = request.send().await?;
                let status = answer.status();
                let body = answer.bytes().await?;
                let elapsed = began.elapsed();
                anyhow::ensure!(status.is_success(), "{name}: {status} {body:?}");
                if round >= 20 {
                    took.push(elapsed);
                }
            }
        }
        table.push(measured(services[0].questions()[question].0, took));
    }
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds {
        for (service, took) in services.iter().zip(&mut took) {
            took.push(
                service
                    .told_by_stream(&client)
                    .await
                    .context("the stream")?,
            );
        }
    }
    table.push(measured("a callback until the stream tells it", took));
    println!("{}", table.join("\n"));
    for service in services {
        service.stop().await?;
    }
    postgres.stop().await?;
    Ok(())
}

fn row(cells: [&str; 6]) -> String {
    let [name, numbers @ ..] = cells;
    format!(
        "{name:<44}{}",
        numbers.map(|it| format!("{it:>11}")).concat()
    )
}

fn measured(name: &str, mut took: [Vec<Duration>; 2]) -> String {
    let [few, many] = &mut took;
    few.sort();
    many.sort();
    let at = |all: &[Duration], percent: usize| {
        all[(all.len() * percent / 100).min(all.len() - 1)].as_secs_f64() * 1e3
    };
    let numbers = [at(few, 50), at(many, 50), at(few, 99), at(many, 99)];
    let [a, b, c, d] = numbers.map(|it| format!("{it:.1} ms"));
    row([
        name,
        &a,
        &b,
        &c,
        &d,
        &format!("{:.2}", numbers[3] / numbers[2]),
    ])
}
