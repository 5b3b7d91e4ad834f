//! A Postgres of a test's own, that can be killed and started again with what it held.

use std::path::{Path, PathBuf};
use std::process::Command;

use backstop::postgres::{Durability, PrivatePostgres};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

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

    /// Ends it, and waits for that.
    pub async fn end(&mut self, how: End) {
        let mut server = self.server.take().unwrap();
        let signal = match how {
            End::Killed => "-KILL",
            End::Immediate => "-QUIT",
            End::Fast => "-INT",
        };
        let pid = server.pid().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        server.ended().await;
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
