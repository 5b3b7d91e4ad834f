//! Arguments, logs, the command, the exit code.
//!
//! Exit codes: 0 done, 1 failed, with one sentence on standard error, 2 usage or findings.

use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use backstop::app::{App, OpenDatabase};
use backstop::check::{self, Credentials, Verdict};
use backstop::cli;
use backstop::config::{Database, DatabaseSettings, Settings, VendorSettings};
use backstop::domain::names::ProvisionId;
use backstop::domain::orphans::Mandate;
use backstop::domain::step::Resource;
use backstop::http::openapi;
use backstop::postgres::{Durability, PrivatePostgres};
use backstop::rollback::{Retried, retry_rollback};
use backstop::sim::{self, SimOptions};
use backstop::store::hold::{self, Renewed};
use backstop::store::{controller_id, sweeps};
use backstop::sweep::table::table;
use backstop::sweep::{self, Vendors};
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
    /// Compare the vendors' lists with the database once
    Sweep {
        /// Only say what is there, and write nothing; this is the default
        #[arg(long)]
        dry_run: bool,
        /// Reopen the rollback of what is over, and have deleted what carries our controller id and
        /// no provision knows
        #[arg(long, conflicts_with = "dry_run")]
        delete: bool,
        #[command(flatten)]
        vendors: VendorSettings,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Tell what each credential can do, and change nothing
    Check {
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Make a provision's unsettled steps due now
    Rollback {
        /// The provision
        id: ProvisionId,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// End a hold: this database, as it is now, is the one that workflows talk to
    Resume {
        /// This is a copy that is to live beside the original: it gets a controller id of its own,
        /// and gives up every provision so far, which the original goes on with
        #[arg(long)]
        new_controller: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List provisions, newest first, as a running service shows them
    List(cli::List),
    /// Show a provision with its steps and its history
    Show(cli::Show),
    /// Tell what changes, as it changes
    Watch(cli::Watch),
    /// Print the OpenAPI document
    Openapi,
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
            eprintln!("backstop: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(settings) => {
            let mut told_to_stop = std::pin::pin!(told_to_stop()?);
            let own = check::own::settings(&settings);
            let started = tokio::select! {
                () = &mut told_to_stop => return Ok(ExitCode::SUCCESS),
                started = App::start(settings.check()?, Durability::Kept) => started?,
            };
            println!("listening on http://{}", started.address());
            started.check_credentials(own);
            started.run_until(told_to_stop).await?;
        }
        Command::Demo(settings) => {
            // A whole configuration is too much to carry about.
            return Box::pin(backstop::demo::run(settings, told_to_stop()?)).await;
        }
        Command::Sim { listen } => sim::run(listen, SimOptions::default()).await?,
        Command::Sweep {
            dry_run: _,
            delete,
            vendors,
            database,
        } => {
            let mandate = if delete {
                Mandate::Delete
            } else {
                Mandate::Report
            };
            return sweep(mandate, &vendors, &database).await;
        }
        Command::Check { json, settings } => {
            let show = if json {
                check::table::json
            } else {
                check::table::table
            };
            return Box::pin(check(*settings, show)).await;
        }
        Command::Rollback { id, database } => rollback(id, &database).await?,
        Command::Resume {
            new_controller: false,
            database,
        } => resume(&database).await?,
        Command::Resume {
            new_controller: true,
            database,
        } => renew_controller(&database).await?,
        Command::List(asked) => cli::list(asked).await?,
        Command::Show(asked) => cli::show(asked).await?,
        Command::Watch(asked) => cli::watch(asked).await?,
        Command::Openapi => std::io::stdout().write_all(openapi::document().as_bytes())?,
        Command::Migrate { database } => {
            let database = open(&database).await?;
            database.close().await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An error with its causes, without those that repeat what is said already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.is_empty() {
            cause
        } else if said.contains(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
}

/// Opens the database that a service works on: to look for a provision in one that is made for it
/// would find none, and hide that the command was pointed at the wrong place.
async fn open_existing(settings: &DatabaseSettings) -> anyhow::Result<OpenDatabase> {
    if let Database::Private(folder) = settings.check()?
        && !PrivatePostgres::exists_in(&folder)
    {
        bail!(
            "there is no database in {}: name the service's with DATABASE_URL or BACKSTOP_DATA_DIR",
            folder.display()
        );
    }
    open(settings).await
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

/// Exits with 2 if there is anything that should not be there.
async fn sweep(
    mandate: Mandate,
    vendors: &VendorSettings,
    database: &DatabaseSettings,
) -> anyhow::Result<ExitCode> {
    let (hetzner, tailscale) = vendors.check()?;
    if let Database::Private(folder) = database.check()?
        && !PrivatePostgres::exists_in(&folder)
    {
        tracing::warn!(
            folder = %folder.display(),
            "there is no database here yet: the vendors are compared with an empty one; name the \
             service's with DATABASE_URL or BACKSTOP_DATA_DIR"
        );
    }
    let database = open(database).await?;
    let vendors = Vendors {
        hetzner: Arc::new(hetzner),
        tailscale: tailscale.map(|(client, tag)| (Arc::new(client), tag)),
        controller: controller_id(&database.pool).await?,
    };
    let mut db = database.pool.acquire().await?;
    let findings = if mandate == Mandate::Report {
        let now = sweeps::now(&mut db).await?;
        drop(db);
        sweep::look(&database.pool, &vendors, None, now).await?
    } else {
        let begun = sweeps::begin(&mut db).await?;
        drop(db);
        sweep::sweep(&database.pool, &vendors, &begun, mandate)
            .await?
            .findings
    };
    database.close().await?;
    std::io::stdout().write_all(table(&findings, mandate).as_bytes())?;
    match findings.errors.split_first() {
        None if findings.orphans.is_empty() => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::from(2)),
        Some((error, [])) => bail!("the sweep is not complete: {error}"),
        Some((error, more)) => bail!(
            "the sweep is not complete: {error}, and {} more",
            more.len()
        ),
    }
}

/// Exits with 2 if anything is missing.
async fn check(
    settings: Settings,
    show: fn(&[check::Finding]) -> String,
) -> anyhow::Result<ExitCode> {
    let mut findings = check::own::settings(&settings);
    let credentials = Credentials::of(settings.check()?).await;
    findings.extend(check::look(&credentials, check::Depth::Whole).await);
    credentials.database.close().await;
    std::io::stdout().write_all(show(&findings).as_bytes())?;
    if findings.iter().any(|it| it.verdict == Verdict::Missing) {
        return Ok(ExitCode::from(2));
    }
    match findings
        .iter()
        .find(|it| it.verdict == Verdict::NotAnswered)
    {
        None => Ok(ExitCode::SUCCESS),
        Some(finding) => bail!("not everybody answered: {}", finding.sentence),
    }
}

/// Workers of a running service take it up within seconds.
async fn rollback(id: ProvisionId, settings: &DatabaseSettings) -> anyhow::Result<()> {
    let database = open_existing(settings).await?;
    let mut connection = database.pool.acquire().await?;
    // Which kinds of thing the service can delete is its matter: nothing new is planned here.
    let retried =
        retry_rollback(&mut connection, id, &[] as &[Resource], "backstop rollback").await?;
    drop(connection);
    database.close().await?;
    match retried {
        Retried::Yes => Ok(()),
        Retried::UnknownId => bail!("there is no provision {id}"),
    }
}

/// Most provisions that are listed.
const LISTED: u32 = 20;

/// Replicas go by time again from their next pulse on.
async fn resume(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let database = open_existing(settings).await?;
    let mut connection = database.pool.acquire().await?;
    let held = hold::resume(&mut connection).await?;
    let overdue = hold::past_deadline(&mut connection, LISTED).await?;
    drop(connection);
    database.close().await?;
    let Some(held) = held else {
        println!("nothing was held");
        return Ok(());
    };
    println!(
        "resumed; it was held since {} because {}",
        held.since,
        held.reason.sentence()
    );
    if !overdue.is_empty() {
        println!(
            "past their deadline, and failed and rolled back unless they are heard within a \
             heartbeat time-out from now:"
        );
        for id in &overdue {
            println!("  {id}");
        }
    }
    Ok(())
}

async fn renew_controller(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let database = open_existing(settings).await?;
    let mut connection = database.pool.acquire().await?;
    let renewed = hold::renew_controller(&mut connection).await?;
    drop(connection);
    database.close().await?;
    match renewed {
        Renewed::Yes {
            controller,
            disowned,
        } => {
            println!(
                "this database is controller {controller} now; provisions given up, whose things \
                 are the original's: {disowned}"
            );
            Ok(())
        }
        Renewed::InUse => bail!(
            "a replica took callbacks within the last half minute and would go on under the old \
             id: stop every `backstop serve` on this database, wait, and say it again"
        ),
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
