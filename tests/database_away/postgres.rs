//! A Postgres of a test's own, that can be killed and started again with what it held.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use backstop::postgres::{Durability, PrivatePostgres};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::PATIENCE;

/// How a server ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// `kill -9`.
    Killed,
    /// An immediate shutdown: nothing is finished, nothing is written.
    Immediate,
    /// A fast shutdown: what is open is rolled back, what is committed written.
    Fast,
}

/// A server in a folder of its own.
pub struct Postgres {
    folder: TempDir,
    server: Option<PrivatePostgres>,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: TempDir) -> Self {
        let mut postgres = Self {
            folder,
            server: None,
        };
        postgres.start_again().await;
        postgres
    }

    pub fn options(&self) -> PgConnectOptions {
        self.server.as_ref().unwrap().options()
    }

    /// Ends it, and waits for that. Its processes outlive a killed one for a moment, and would answer.
    pub async fn end(&mut self, how: End) {
        let mut server = self.server.take().unwrap();
        let signal = match how {
            End::Killed => "-KILL",
            End::Immediate => "-QUIT",
            End::Fast => "-INT",
        };
        let pid = server.pid().to_string();
        let children = children(&pid);
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        server.ended().await;
        let deadline = Instant::now() + PATIENCE;
        while children.iter().any(|child| is_alive(child)) {
            assert!(Instant::now() < deadline, "{how:?}: its processes go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// With what it held.
    pub async fn start_again(&mut self) {
        // Kept, for nothing else can be a standby later; it costs these tests little.
        let started = PrivatePostgres::start(self.folder.path(), Durability::Kept).await;
        self.server = Some(started.unwrap());
    }

    /// A server that has ended, and one that starts from a copy of what it held.
    pub async fn copy(&self) -> Self {
        Self::start_in(self.copied()).await
    }

    /// The same as a standby, which takes no writes until it is promoted.
    pub async fn standby(&self) -> Self {
        let folder = self.copied();
        std::fs::write(cluster(folder.path()).join("standby.signal"), "").unwrap();
        Self::start_in(folder).await
    }

    fn copied(&self) -> TempDir {
        assert!(self.server.is_none(), "a running server cannot be copied");
        let folder = tempfile::tempdir().unwrap();
        let from = cluster(self.folder.path());
        let copied = Command::new("cp")
            .arg("-a")
            .args([&from, folder.path()])
            .status()
            .unwrap();
        assert!(copied.success());
        folder
    }
}

fn cluster(folder: &Path) -> PathBuf {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("PG_VERSION").exists())
        .unwrap()
}

/// What the kernel says of a process after its name, which may have anything in it: state, parent, …
fn stat(pid: &str) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.split_whitespace().map(str::to_owned).collect())
}

fn children(parent: &str) -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|pid| stat(pid).is_some_and(|stat| stat[1] == parent))
        .collect()
}

fn is_alive(pid: &str) -> bool {
    stat(pid).is_some_and(|stat| stat[0] != "Z")
}
