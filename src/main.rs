//! Arguments, logs, the command, the exit code.
//!
//! Exit codes: 0 done, 1 failed, with one sentence on standard error, 2 usage.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::bail;
use backstop::app::{App, OpenDatabase};
use backstop::config::{Database, DatabaseSettings, Settings};
use backstop::domain::names::ProvisionId;
use backstop::domain::step::Resource;
use backstop::postgres::{Durability, PrivatePostgres};
use backstop::rollback::{Retried, retry_rollback};
use backstop::sim::{self, SimOptions};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Deletes whatever a failed provision leaves behind, and proves it gone.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The service: HTTP API and rollback workers
    Serve(Box<Settings>),
    /// Everything on loopback with no account anywhere: provisions that fail, and what becomes of
    /// them
    Demo(backstop::demo::Settings),
    /// The simulated vendors alone, for trying a workflow against
    Sim {
        /// Address to listen on; port 0: any
        #[arg(
            long,
            env = "BACKSTOP_SIM_LISTEN",
            value_name = "BACKSTOP_SIM_LISTEN",
            default_value = "127.0.0.1:8099"
        )]
        listen: SocketAddr,
    },
    /// Make a provision's unsettled steps due now
    Rollback {
        /// The provision
        id: ProvisionId,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Apply migrations and exit; `serve` applies them too
    Migrate {
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let default_filter = match arguments.command {
        // Its own words are what it is for.
        Command::Demo(_) => "error",
        // Postgres' notices are not ours to tell.
        _ => "info,sqlx=warn",
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let ended = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(run(arguments.command));
            // Not dropped: that waits for a resolver that does not answer, as long as it takes.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("backstop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(settings) => {
            let mut told_to_stop = std::pin::pin!(told_to_stop()?);
            let started = tokio::select! {
                () = &mut told_to_stop => return Ok(ExitCode::SUCCESS),
                started = App::start(settings.check()?, Durability::Kept) => started?,
            };
            println!("listening on http://{}", started.address());
            started.run_until(told_to_stop).await?;
        }
        Command::Demo(settings) => return backstop::demo::run(settings, told_to_stop()?).await,
        Command::Sim { listen } => sim::run(listen, SimOptions::default()).await?,
        Command::Rollback { id, database } => rollback(id, &database).await?,
        Command::Migrate { database } => {
            let database = open(&database).await?;
            database.close().await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(settings: &DatabaseSettings) -> anyhow::Result<OpenDatabase> {
    let mut database = settings.check()?;
    if let Database::Private(folder) = &database
        && let Some(options) = PrivatePostgres::running_in(folder)
    {
        database = Database::At(Box::new(options));
    }
    OpenDatabase::open(&database, settings.database_connections, Durability::Kept).await
}

/// Workers of a running service take it up within seconds.
async fn rollback(id: ProvisionId, settings: &DatabaseSettings) -> anyhow::Result<()> {
    let database = open(settings).await?;
    let mut connection = database.pool.acquire().await?;
    // Which kinds of thing the service can delete is its matter: nothing new is planned here.
    let retried = retry_rollback(&mut connection, id, &[] as &[Resource]).await?;
    drop(connection);
    database.close().await?;
    match retried {
        Retried::Yes => Ok(()),
        Retried::UnknownId => bail!("there is no provision {id}"),
    }
}

/// Ready when the process is told to stop. Armed at once, so that no signal is missed.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
