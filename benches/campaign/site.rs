//! What the campaign runs against: the program itself in several replicas, one Postgres, simulated
//! vendors. All of it can be killed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use backstop::ceiling::Ceiling;
use backstop::domain::orphans::Mandate;
use backstop::domain::overdue::Patience;
use backstop::postgres::{Durability, PrivatePostgres};
use backstop::sim::{Sim, SimOptions};
use backstop::sweep::periodic;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgPool;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::book::now;
use crate::calls::{Addresses, OPERATOR, SECRET};
use crate::troubles::{Troubles, Whose};

/// How long the program may take to start, to stop when told to, and the database to come back.
const PATIENCE: Duration = Duration::from_secs(60);

pub const LATE_ARRIVAL_WINDOW: Duration = Duration::from_secs(8);

/// The settings of the campaign's replicas that decide how old an orphan can get.
pub const CEILING: Ceiling = Ceiling {
    patience: Patience {
        heartbeat_timeout: Duration::from_secs(5),
        provision_timeout: Duration::from_secs(12),
    },
    retry_cap: Duration::from_secs(2),
    sweep: periodic::Settings {
        every: Duration::from_secs(10),
        mandate: Mandate::Reopen,
    },
    // A server is locked while it is created and switched on; then its deletion takes as long again.
    vendor_takes: Duration::from_secs(2),
};

/// Everything that runs.
pub struct Site {
    pub sim: Arc<Sim>,
    pub pool: PgPool,
    pub addresses: Addresses,
    program: PathBuf,
    folder: PathBuf,
    postgres: Option<PrivatePostgres>,
    replicas: Vec<Option<Child>>,
    settings: Vec<(String, String)>,
}

impl Site {
    pub async fn start(program: PathBuf, replicas: usize) -> anyhow::Result<Self> {
        let options = SimOptions {
            action_time: (Duration::from_millis(80), Duration::from_millis(400)),
            boot_time: Duration::from_millis(300),
            // Thousands of provisions in the minutes of a campaign; full again soon after a 429.
            rate_limit: 1_000_000,
            rate_refill_per_second: 500_000.0,
            ..SimOptions::default()
        };
        let sim = Sim::start(([127, 0, 0, 1], 0).into(), options)?;
        // Short, so that the socket has its place in it and is there again after a restart.
        let folder = Path::new("/tmp").canonicalize()?.join(format!(
            "campaign-{}",
            &Uuid::new_v4().simple().to_string()[..12]
        ));
        let postgres = PrivatePostgres::start(&folder.join("data"), Durability::Kept).await?;
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(4)
            .connect_with(postgres.options())
            .await?;
        let mut site = Self {
            settings: settings(&sim, &postgres.url()),
            sim: Arc::new(sim),
            pool,
            addresses: Arc::default(),
            program,
            folder,
            postgres: Some(postgres),
            replicas: Vec::new(),
        };
        for number in 0..replicas {
            site.replicas.push(None);
            site.addresses_mut(|all| all.push(None));
            site.start_replica(number).await?;
        }
        Ok(site)
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> usize {
        self.replicas.len()
    }

    pub async fn start_replica(&mut self, number: usize) -> anyhow::Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log(number))?;
        let mut child = self
            .command(&["serve"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(url) = line.strip_prefix("listening on ") {
                    return Ok(url.to_owned());
                }
            }
            bail!(
                "replica {number} ended at its start: {}",
                self.log(number).display()
            )
        })
        .await??;
        self.replicas[number] = Some(child);
        self.addresses_mut(|all| all[number] = Some(address));
        Ok(())
    }

    /// `kill -9`. Its address is found out to be dead by those who call it.
    pub async fn kill_replica(&mut self, number: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.replicas[number].take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Nobody calls it any more.
    pub fn forget_address(&self, number: usize) {
        self.addresses_mut(|all| all[number] = None);
    }

    /// Tells a replica to stop, which it must do by itself and well.
    pub async fn stop_replica(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(mut child) = self.replicas[number].take() else {
            return Ok(());
        };
        let pid = child.id().context("it has not been waited for")?;
        signal("-TERM", &[pid]).await?;
        let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
        if !status.success() {
            bail!("replica {number} was told to stop and ended with {status}");
        }
        Ok(())
    }

    /// Kills Postgres, every process of it, and starts it again after a while.
    pub async fn kill_postgres(&mut self, down_for: Duration) -> anyhow::Result<()> {
        let mut postgres = self.postgres.take().context("Postgres runs")?;
        let main = postgres.pid();
        let mut processes = vec![main];
        processes.extend(children(main).await?);
        // Some of its processes may have ended by themselves by now.
        let _ = signal("-KILL", &processes).await;
        let _ = postgres.ended().await;
        drop(postgres);
        tokio::time::sleep(down_for).await;
        let data = self.folder.join("data");
        self.postgres = Some(PrivatePostgres::start(&data, Durability::Kept).await?);
        Ok(())
    }

    /// Kills one of Postgres' processes, so that Postgres begins anew by itself.
    pub async fn kill_backend(&mut self, draw: impl Fn(usize) -> usize) -> anyhow::Result<()> {
        let pids: Vec<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity
             where backend_type = 'client backend' and pid <> pg_backend_pid() order by pid",
        )
        .fetch_all(&self.pool)
        .await?;
        if !pids.is_empty() {
            let pid = pids[draw(pids.len())];
            // It may have ended by itself.
            let _ = signal("-KILL", &[pid.unsigned_abs()]).await;
        }
        Ok(())
    }

    /// Waits until the database answers again.
    pub async fn wait_for_database(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match sqlx::query("select 1").execute(&self.pool).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The provisions of which somebody has a step in hand, and whether a sweep is under way.
    pub async fn in_hand(&self) -> anyhow::Result<(HashSet<Uuid>, bool)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let asked = async {
                let leased: Vec<Uuid> = sqlx::query_scalar(
                    "select distinct provision_id from steps where state = 'leased'",
                )
                .fetch_all(&self.pool)
                .await?;
                let swept: bool = sqlx::query_scalar(
                    "select exists (select from sweeps where held_until is not null)",
                )
                .fetch_one(&self.pool)
                .await?;
                Ok::<_, sqlx::Error>((leased.into_iter().collect(), swept))
            };
            match asked.await {
                Ok(in_hand) => return Ok(in_hand),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// After an outage that was longer than a provision may take the service holds. An operator, who
    /// knows that it is the database that it was, lets it go on.
    pub async fn resume_if_held(
        &self,
        troubles: &Troubles,
        holds: &AtomicU64,
    ) -> anyhow::Result<()> {
        let held: Option<(DateTime<Utc>, String)> = sqlx::query_as(
            "select held_since, held_because from hearing where held_since is not null",
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some((since, reason)) = held else {
            return Ok(());
        };
        if reason != "long_gap" {
            bail!("it holds, because of {reason}");
        }
        let resumed = self.command(&["resume"]).output().await?;
        if !resumed.status.success() {
            bail!("resume: {}", String::from_utf8_lossy(&resumed.stderr));
        }
        holds.fetch_add(1, Ordering::Relaxed);
        let heard = now() + CEILING.after_silence_of_ours() + CEILING.reported();
        troubles.note(since, heard, Whose::Unreported);
        Ok(())
    }

    /// What the replicas logged that no kill explains: panics.
    pub fn panics(&self) -> Vec<String> {
        (0..self.replicas.len())
            .filter_map(|number| std::fs::read_to_string(self.log(number)).ok())
            .flat_map(|log| {
                let panics = log.lines().filter(|line| line.contains("panicked at"));
                panics.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Another command of the program, with the replicas' settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().kill_on_drop(true);
        for kept in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        let settings = self.settings.iter();
        command.envs(settings.map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Where the logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends everything. The logs are kept if something is to be found in them.
    pub async fn end(mut self, keep_logs: bool) -> anyhow::Result<()> {
        for number in 0..self.replicas.len() {
            self.kill_replica(number).await?;
        }
        self.pool.close().await;
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await?;
        }
        if !keep_logs {
            std::fs::remove_dir_all(&self.folder)?;
        }
        Ok(())
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.join(format!("replica-{number}.log"))
    }

    fn addresses_mut(&self, change: impl FnOnce(&mut Vec<Option<String>>)) {
        let mut addresses = self
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut addresses);
    }
}

fn settings(sim: &Sim, database: &str) -> Vec<(String, String)> {
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    let vendors = sim.environment().into_iter();
    // No workflow is dispatched: the campaign's begin by themselves.
    let vendors = vendors.filter(|(name, _)| !name.contains("GITHUB"));
    let ours = [
        ("DATABASE_URL", database.to_owned()),
        ("BACKSTOP_LISTEN", "127.0.0.1:0".to_owned()),
        ("BACKSTOP_CALLBACK_SECRETS", SECRET.to_owned()),
        ("BACKSTOP_OPERATOR_TOKEN", OPERATOR.to_owned()),
        (
            "BACKSTOP_PROVISION_TIMEOUT",
            seconds(CEILING.patience.provision_timeout),
        ),
        (
            "BACKSTOP_HEARTBEAT_TIMEOUT",
            seconds(CEILING.patience.heartbeat_timeout),
        ),
        ("BACKSTOP_LATE_ARRIVAL_WINDOW", seconds(LATE_ARRIVAL_WINDOW)),
        ("BACKSTOP_RETRY_BASE", "100ms".to_owned()),
        ("BACKSTOP_RETRY_CAP", seconds(CEILING.retry_cap)),
        ("BACKSTOP_SWEEP_INTERVAL", seconds(CEILING.sweep.every)),
        ("RUST_LOG", "backstop=warn,error".to_owned()),
    ];
    vendors
        .chain(ours)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

async fn signal(name: &str, pids: &[u32]) -> anyhow::Result<()> {
    let pids = pids.iter().map(u32::to_string);
    let sent = Command::new("kill")
        .arg(name)
        .args(pids)
        .stderr(Stdio::null())
        .status()
        .await?;
    if !sent.success() {
        bail!("kill {name} ended with {sent}");
    }
    Ok(())
}

async fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let listed = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output()
        .await?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (child, its_parent) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            (its_parent == parent).then_some(child)
        })
        .collect())
}
