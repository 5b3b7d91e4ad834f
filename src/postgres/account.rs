//! Whose processes and files the server's are.
//!
//! Postgres refuses to run as root, so under root everything that touches the cluster runs as an
//! unprivileged account. What root itself writes later (settings, log, lock) never lies in a
//! folder that account may write to: a planted symlink must not turn its rights into root's.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::PostgresError;

/// Accounts that root hands the server to, first choice first.
const UNPRIVILEGED: [&str; 4] = ["backstop", "postgres", "_postgres", "nobody"];

/// The account that the server runs as, and ours.
#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    /// The server's user name.
    pub(super) name: String,
    /// Our own user name; the same unless we are root.
    pub(super) our_name: String,
    drops_root: bool,
}

impl Account {
    /// Chooses the account. Under root a cluster that is there already decides, so that a user
    /// added later does not lock us out of our own data.
    pub(super) fn choose(cluster: Option<&Path>) -> Result<Self, PostgresError> {
        let our_name = id(&["-un"]).ok_or_else(|| {
            PostgresError::Account(format!(
                "Postgres needs a user with a name, and uid {} has none: add it to /etc/passwd, \
                 run as another user, or set DATABASE_URL",
                own_uid().map_or_else(|| "?".into(), |uid| uid.to_string())
            ))
        })?;
        let uid = number(&["-u"])?;
        let gid = number(&["-g"])?;
        let owner = cluster
            .and_then(|path| path.metadata().ok())
            .map(|found| found.uid());
        if uid != 0 {
            if let (Some(owner), Some(cluster)) = (owner.filter(|&owner| owner != uid), cluster) {
                return Err(not_ours(cluster, owner, &our_name));
            }
            return Ok(Self {
                uid,
                gid,
                name: our_name.clone(),
                our_name,
                drops_root: false,
            });
        }
        for name in UNPRIVILEGED {
            let Ok(uid) = number(&["-u", name]) else {
                continue;
            };
            if uid != 0 && owner.is_none_or(|owner| owner == uid) {
                let gid = number(&["-g", name])?;
                return Ok(Self {
                    uid,
                    gid,
                    name: name.into(),
                    our_name,
                    drops_root: true,
                });
            }
        }
        Err(match (owner, cluster) {
            (Some(owner), Some(cluster)) => {
                not_ours(cluster, owner, "an unprivileged user of ours")
            }
            _ => PostgresError::Account(
                "Postgres refuses to run as root, and there is no unprivileged user to run it: \
                 create one with `useradd --system backstop`"
                    .into(),
            ),
        })
    }

    /// A command as this account: none of our `PG*` variables, messages in English, and not in
    /// our own working folder, which the account may be unable to enter.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::null());
        if self.drops_root {
            // std also drops the supplementary groups when it sets a uid as root.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Creates a folder that only this account (and root) can enter.
    pub(super) fn create_private_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)?;
        set_mode(path, 0o700)?;
        self.hand_over(path)
    }

    /// Gives a path to the account; nothing to do unless we are root.
    pub(super) fn hand_over(&self, path: &Path) -> io::Result<()> {
        if self.drops_root {
            std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }

    /// Makes `path` and checks that the account can get there.
    pub(super) async fn prepare_data_dir(&self, path: &Path) -> Result<PathBuf, PostgresError> {
        let folder = |source| PostgresError::folder("use the data folder", path, source);
        let existed = path.is_dir();
        std::fs::create_dir_all(path).map_err(|error| {
            PostgresError::Account(format!(
                "cannot make the data folder {}: choose one that you can write to with \
                 BACKSTOP_DATA_DIR ({error})",
                path.display()
            ))
        })?;
        let path = path.canonicalize().map_err(folder)?;
        let found = path.metadata().map_err(folder)?;
        if self.drops_root {
            // The account only passes through; it must not list or write here.
            set_mode(&path, found.mode() & 0o777 | 0o711).map_err(folder)?;
        } else if found.uid() != self.uid {
            return Err(not_ours(&path, found.uid(), &self.name));
        } else if !existed {
            set_mode(&path, 0o700).map_err(folder)?;
        }
        let entered = self
            .command("/bin/sh")
            .args(["-c", ":"])
            .current_dir(&path)
            .status()
            .await;
        if let Err(source) = entered {
            return Err(match source.kind() {
                io::ErrorKind::PermissionDenied if self.drops_root => {
                    PostgresError::Account(format!(
                        "user {} of the private Postgres cannot enter {}: choose a folder that it \
                         can with BACKSTOP_DATA_DIR, such as /var/lib/backstop, or run as a normal \
                         user ({source})",
                        self.name,
                        path.display()
                    ))
                }
                _ => PostgresError::folder("enter the data folder", &path, source),
            });
        }
        Ok(path)
    }
}

/// The user id we run as; `None` if `id` is nowhere to be found.
pub(super) fn own_uid() -> Option<u32> {
    id(&["-u"])?.parse().ok()
}

/// The home folder: `HOME`, else the one in `/etc/passwd`; `None` if neither names one.
pub(super) fn home() -> Option<PathBuf> {
    let usable = |path: &PathBuf| path.is_absolute() && path.parent().is_some();
    let from_env = std::env::var_os("HOME").map(PathBuf::from).filter(usable);
    from_env.or_else(|| {
        let uid = own_uid()?.to_string();
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        let entry = passwd
            .lines()
            .find(|line| line.split(':').nth(2) == Some(&uid))?;
        entry.split(':').nth(5).map(PathBuf::from).filter(usable)
    })
}

/// Sets permission bits whatever the umask is.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn not_ours(path: &Path, owner: u32, name: &str) -> PostgresError {
    PostgresError::Account(format!(
        "{} belongs to uid {owner}, not to {name}: run as that user, hand the folder over with \
         chown, or choose another with BACKSTOP_DATA_DIR",
        path.display()
    ))
}

fn number(args: &[&str]) -> Result<u32, PostgresError> {
    id(args).and_then(|text| text.parse().ok()).ok_or_else(|| {
        PostgresError::Account(format!(
            "`id {}` gives no number: is coreutils installed?",
            args.join(" ")
        ))
    })
}

/// Asks `id`, which also knows users that `/etc/passwd` does not; the calls behind it are `unsafe`
/// in Rust. It takes about a millisecond.
fn id(args: &[&str]) -> Option<String> {
    let ask = |program| {
        std::process::Command::new(program)
            .args(args)
            .stderr(Stdio::null())
            .output()
    };
    let output = ask("id").or_else(|_| ask("/usr/bin/id")).ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
