//! Runs the program: an environment that is only what the test says, a death with the test.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use backstop::postgres::{Durability, PrivatePostgres};
use backstop::sim::Sim;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::harness::{OPERATOR, PATIENCE, READER, SECRET};

/// URL of one Postgres for the whole process.
static POSTGRES: LazyLock<String> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            // As a server should be, or `check` would say so.
            let started = PrivatePostgres::start_temporary_with(Durability::Kept).await;
            let postgres = started.unwrap();
            sender.send(postgres.url()).unwrap();
            // Ends with the process.
            std::future::pending::<()>().await;
            drop(postgres);
        });
    });
    receiver.recv().expect("the private Postgres starts")
});

/// URL of a new, empty database.
pub async fn database_url() -> String {
    let url = tokio::task::spawn_blocking(|| POSTGRES.clone())
        .await
        .unwrap();
    let name = format!("test_{}", Uuid::new_v4().simple());
    let admin = PgPool::connect(&url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&admin)
        .await
        .unwrap();
    admin.close().await;
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// Settings with which `serve` works, on any port.
pub fn settings(sim: &Sim) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = sim
        .environment()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for (name, value) in [
        ("BACKSTOP_LISTEN", "127.0.0.1:0"),
        ("BACKSTOP_CALLBACK_SECRETS", SECRET),
        ("BACKSTOP_READ_TOKEN", READER),
        ("BACKSTOP_OPERATOR_TOKEN", OPERATOR),
        ("BACKSTOP_RETRY_BASE", "20ms"),
        ("BACKSTOP_RETRY_CAP", "200ms"),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    settings
}

pub fn command<'a>(
    arguments: &[&str],
    environment: impl IntoIterator<Item = &'a (String, String)>,
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(arguments).env_clear();
    for kept in ["PATH", "HOME", "TMPDIR", "PG_BINDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    for (name, value) in environment {
        command.env(name, value);
    }
    command
}

/// What a command that ends by itself said.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, which must come soon.
pub async fn run(mut command: Command) -> Ended {
    tokio::task::spawn_blocking(move || {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        // Both at once: a pipe that nobody reads is full some time.
        let stdout = all_of(child.0.stdout.take().unwrap());
        let stderr = all_of(child.0.stderr.take().unwrap());
        let status = wait(&mut child.0, PATIENCE).expect("the command ends by itself");
        Ended {
            code: status.code(),
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    })
    .await
    .unwrap()
}

fn all_of(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    })
}

/// Dies with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running `serve` or `sim`.
pub struct Server {
    child: Killed,
    /// What it printed before and with its address.
    pub printed: Vec<String>,
    pub url: String,
    stderr: PathBuf,
}

impl Server {
    /// Starts it and waits for its address.
    pub async fn start(arguments: &[&str], environment: &[(String, String)]) -> Self {
        let mut command = command(arguments, environment);
        tokio::task::spawn_blocking(move || {
            let stderr = std::env::temp_dir().join(format!("backstop-{}.log", Uuid::new_v4()));
            let mut child = Killed(
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(std::fs::File::create(&stderr).unwrap())
                    .spawn()
                    .unwrap(),
            );
            let mut printed = Vec::new();
            let mut url = None;
            for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
                let line = line.unwrap();
                url = line.strip_prefix("listening on ").map(str::to_owned);
                printed.push(line);
                if url.is_some() {
                    break;
                }
            }
            let url = url.unwrap_or_else(|| {
                let log = std::fs::read_to_string(&stderr).unwrap();
                panic!("it ended without an address: {printed:?}\n{log}")
            });
            Self {
                child,
                printed,
                url,
                stderr,
            }
        })
        .await
        .unwrap()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// `kill -9`, and buried.
    pub fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// `SIGTERM`; how it ended and how long that took.
    pub async fn terminate(mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        let pid = self.child.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        tokio::task::spawn_blocking(move || {
            let status = wait(&mut self.child.0, PATIENCE);
            (status.and_then(|it| it.code()), began.elapsed())
        })
        .await
        .unwrap()
    }

    /// Waits for it to end by itself, which must come soon; how it ended.
    pub fn ends(&mut self) -> Option<i32> {
        tokio::task::block_in_place(|| wait(&mut self.child.0, PATIENCE))
            .expect("it ends by itself")
            .code()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.stderr);
    }
}
