//! Everything on loopback, with no account anywhere: a private Postgres, simulated vendors, the
//! service, and example provisions that succeed, fail and leave things behind.
//!
//! The workflows here speak to the service as real ones do, over HTTP with signed callbacks. What
//! is left is asked of the simulated vendors, not of the service.

mod script;
mod workflow;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::future::join_all;
use rand::RngExt;
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::app::App;
use crate::config::{Config, Database};
use crate::domain::backoff::Backoff;
use crate::domain::budget::Reserve;
use crate::domain::orphans::Mandate;
use crate::domain::overdue::Patience;
use crate::http::cors::Origins;
use crate::http::failures::Rate;
use crate::http::page;
use crate::http::proof::ProofOfCaller;
use crate::http::serve::Limits;
use crate::http::tokens::Tokens;
use crate::postgres::{Durability, PrivatePostgres};
use crate::providers::tailscale::TailscaleCredential;
use crate::providers::{Hetzner, Tailscale};
use crate::rollback::worker;
use crate::sim::{Sim, SimOptions};
use crate::sweep::periodic;
use crate::watch;
use script::{Ending, PROTECTED, SCRIPT};
use workflow::Stage;

/// What `demo` takes.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Run a fixed script of provisions, print a table, and exit 0 only if nothing is left behind
    #[arg(long)]
    once: bool,

    /// Address of the HTTP server; port 0: any
    #[arg(
        long,
        env = "BACKSTOP_LISTEN",
        value_name = "BACKSTOP_LISTEN",
        default_value = "127.0.0.1:0"
    )]
    listen: SocketAddr,
}

/// The demo's secrets guard nothing: all of it listens on loopback and is gone when it ends.
const CALLBACK_SECRET: &str = "whsec_YmFja3N0b3AtZGVtby1zZWNyZXQtMDAwMQ==";
const OPERATOR_TOKEN: &str = "demo";
const TAG: &str = "tag:agent";
/// Short, so that what never appears is proven within a demo.
const LATE_ARRIVAL_WINDOW: Duration = Duration::from_secs(3);
const SWEEP_EVERY: Duration = Duration::from_secs(30);

const PATIENCE: Patience = Patience {
    heartbeat_timeout: Duration::from_secs(5 * 60),
    provision_timeout: Duration::from_secs(30 * 60),
};

/// Runs the demo until `stop` is ready, or once.
///
/// # Errors
/// When one of the parts cannot be started.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> anyhow::Result<ExitCode> {
    println!("backstop demo: nothing leaves this machine\n");
    let mut stop = std::pin::pin!(stop);
    println!("  starting a private Postgres (the first time may take a minute) ...");
    let postgres = tokio::select! {
        () = &mut stop => return Ok(ExitCode::SUCCESS),
        postgres = PrivatePostgres::start_temporary() => postgres?,
    };
    println!("  Postgres {} is up", postgres.version());
    // It does in minutes what a project does in hours.
    let options = SimOptions {
        rate_limit: 36_000,
        rate_refill_per_second: 10.0,
        ..SimOptions::default()
    };
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), options)
        .context("the simulated vendors cannot be started")?;
    println!(
        "  simulated Hetzner and Tailscale on http://{}",
        sim.address()
    );
    let app = App::start(config(&settings, &postgres, &sim)?, Durability::Disposable).await?;
    println!("  backstop on http://{}", app.address());
    println!("  look: open that in a browser and sign in with the token {OPERATOR_TOKEN}, or");
    println!("        curl -H 'Authorization: Bearer {OPERATOR_TOKEN}' \\");
    println!(
        "          'http://{}/v1/provisions?limit=5'\n",
        app.address()
    );

    let stage = Arc::new(Stage::new(
        app.address(),
        sim,
        CALLBACK_SECRET,
        OPERATOR_TOKEN,
        TAG,
    )?);
    let code = if settings.once {
        tokio::select! {
            () = &mut stop => ExitCode::FAILURE,
            code = once(&stage) => code?,
        }
    } else {
        println!("  Ctrl-C ends it\n");
        tokio::select! {
            () = &mut stop => {}
            () = stream(&stage) => {}
        }
        println!("\n  stopping ...");
        ExitCode::SUCCESS
    };
    app.stop().await?;
    postgres.stop().await?;
    Ok(code)
}

fn config(settings: &Settings, postgres: &PrivatePostgres, sim: &Sim) -> anyhow::Result<Config> {
    let options = sim.options();
    let tailscale = Tailscale::new(
        &sim.tailscale_url(),
        "-",
        TailscaleCredential::OAuth {
            client_id: options.oauth_client_id,
            client_secret: options.oauth_client_secret.into(),
        },
    )?;
    Ok(Config {
        listen: settings.listen,
        database: Database::At(Box::new(postgres.options())),
        database_connections: 10,
        hetzner: Hetzner::new(&sim.hetzner_url(), &options.hcloud_token.into())?,
        tailscale: Some((tailscale, TAG.to_owned())),
        // The workflows here are played, not dispatched.
        github: None,
        webhooks: None,
        page: page::Settings::default(),
        proof: ProofOfCaller::by_signature(&[SecretString::from(CALLBACK_SECRET)])?,
        tokens: Tokens::new([], [OPERATOR_TOKEN.into()]),
        failures: Rate::default(),
        limits: Limits::default(),
        origins: Origins::default(),
        webhook: None,
        provision_timeout: PATIENCE.provision_timeout,
        rollback: worker::Settings {
            retry: Backoff {
                base: Duration::from_millis(200),
                cap: Duration::from_secs(2),
            },
            stuck_after: Duration::from_secs(3600),
            late_arrival_window: LATE_ARRIVAL_WINDOW,
            rate_reserve: Reserve::default(),
        },
        event_retention: None,
        sweep: periodic::Settings {
            every: SWEEP_EVERY,
            mandate: Mandate::Reopen,
        },
        watch: watch::Settings {
            patience: PATIENCE,
            public_url: None,
            pulse_every: PATIENCE.longest_breath() / 3,
        },
    })
}

/// The whole script side by side, then the table.
async fn once(stage: &Arc<Stage>) -> anyhow::Result<ExitCode> {
    // Nothing of ours: it must still be there at the end.
    let bystander = stage
        .sim
        .add_server("billing-database", [("team", "finance")]);
    let started = Instant::now();
    let runs = SCRIPT
        .iter()
        .map(|scene| scene.play(stage, scene.name.to_owned()));
    let mut endings = Vec::new();
    for ending in join_all(runs).await {
        endings.push(ending?);
    }
    println!(
        "\n  all settled after {:.1} s\n",
        started.elapsed().as_secs_f64()
    );
    table(&endings);

    // The vendors' word, not ours.
    let kept: Vec<&str> = endings.iter().filter_map(|e| e.keeps.as_deref()).collect();
    let is_kept = |name: &str| kept.contains(&name);
    let servers = stage.sim.servers();
    let left: Vec<String> = servers
        .iter()
        .filter(|server| server.id != bystander && !is_kept(&server.name))
        .map(|server| format!("server {}", server.name))
        .chain(
            stage
                .sim
                .devices()
                .iter()
                .filter(|device| !is_kept(&device.hostname))
                .map(|device| format!("device {}", device.hostname)),
        )
        .chain(
            stage
                .sim
                .keys()
                .iter()
                .filter(|key| !key.used && !key.revoked)
                .map(|key| format!("auth key {}", key.description)),
        )
        .collect();
    let untouched = servers.iter().any(|server| server.id == bystander);
    println!(
        "\n  left behind: {}",
        if left.is_empty() { "nothing" } else { "" }
    );
    for thing in &left {
        println!("    {thing}");
    }
    println!(
        "  somebody else's server billing-database: {}",
        if untouched { "untouched" } else { "GONE" }
    );
    println!(
        "  machines in use: {} of {}",
        kept.iter()
            .filter(|name| servers.iter().any(|server| server.name == **name))
            .count(),
        kept.len()
    );
    let all_kept = kept
        .iter()
        .all(|name| servers.iter().any(|server| server.name == **name));
    let settled = endings.iter().all(|ending| ending.settled);
    Ok(if left.is_empty() && untouched && all_kept && settled {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn table(endings: &[Ending]) {
    println!(
        "  {:<16} {:<12} {:<28} {:<38} settled",
        "provision", "status", "left by the workflow", "proven gone"
    );
    for ending in endings {
        println!(
            "  {:<16} {:<12} {:<28} {:<38} {}",
            ending.name,
            ending.status,
            ending.left,
            ending.proven,
            match ending.took {
                Some(took) if ending.settled => format!("{:.1} s", took.as_secs_f64()),
                Some(_) => "NOT YET".to_owned(),
                None => "-".to_owned(),
            }
        );
    }
}

/// One provision after the other, until dropped.
async fn stream(stage: &Arc<Stage>) {
    // Dropped, and so ended, together with this.
    let mut playing = JoinSet::new();
    for number in 1u32.. {
        while playing.try_join_next().is_some() {}
        let index = rand::rng().random_range(0..=SCRIPT.len());
        let stage = stage.clone();
        playing.spawn(async move {
            let scene = SCRIPT.get(index).unwrap_or(&PROTECTED);
            let name = format!("{}-{number}", scene.name);
            match scene.play(&stage, name.clone()).await {
                Ok(Ending {
                    keeps: Some(_), id, ..
                }) => {
                    // Machines in use are destroyed after a while, or they would pile up.
                    sleep(Duration::from_secs(30)).await;
                    stage.destroy(&name, id).await;
                }
                Ok(_) => {}
                Err(error) => println!("  {name:<16} went wrong: {error:#}"),
            }
        });
        let pause = rand::rng().random_range(1500..4000);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// A fresh provision id.
fn fresh_id() -> Uuid {
    Uuid::new_v4()
}
