//! Runs server programs so that they end with us, whatever ends us.
//!
//! Between us and the program stands a small shell script that reads a pipe only we can write to.
//! When we are gone, even by `kill -9`, the kernel closes the pipe and the script stops the
//! program. A death signal from the kernel (`PR_SET_PDEATHSIG`) was rejected: it fires when the
//! *thread* that forked ends, exists on Linux only and needs `unsafe`. std opens every pipe
//! close-on-exec, so our other children do not keep it open.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, timeout};

use super::PostgresError;
use super::account::Account;

/// `$1` is removed once the program (`$2` and on) has ended, if it is not empty.
///
/// Signals to the whole group or unit are ignored: only the pipe says stop. SIGINT is Postgres's
/// fast shutdown, SIGQUIT its immediate one, for a server that does not react.
const SUPERVISE: &str = r#"
trap '' HUP INT TERM
exec 3<&0 </dev/null
doomed=$1; shift
"$@" 3<&- & program=$!
(
    while read -r _; do :; done <&3
    kill -INT "$program"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
        sleep 1 3<&-
    done
    kill -QUIT "$program"
) & watcher=$!
exec 3<&-
wait "$program"; status=$?
kill -KILL "$watcher"
if [ -n "$doomed" ]; then cd / && rm -rf "$doomed"; fi
exit "$status"
"#;

/// Longer than the script waits before it is rude.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// A program that stops when this is dropped.
#[derive(Debug)]
pub(super) struct Supervised {
    script: Child,
    /// Held, never written to: closing it says stop.
    pipe: Option<ChildStdin>,
}

impl Supervised {
    /// Starts a program whose output is appended to `log`; `doomed` is removed after its end.
    pub(super) fn spawn(
        account: &Account,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Log,
        doomed: Option<&Path>,
    ) -> io::Result<Self> {
        let mut script = account
            .command("/bin/sh")
            .args(["-c", SUPERVISE, "backstop"])
            .arg(doomed.unwrap_or(Path::new("")))
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(log.append()?)
            .stderr(log.append()?)
            // Ctrl-C goes to the terminal's group; the server has to outlast our own shutdown.
            .process_group(0)
            .spawn()?;
        let pipe = script.stdin.take();
        Ok(Self { script, pipe })
    }

    /// Waits for the program to end by itself.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.script.wait().await
    }

    /// `None` while the program runs.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.script.try_wait()
    }

    /// Says stop and waits for the end.
    pub(super) async fn stop(mut self) -> io::Result<ExitStatus> {
        drop(self.pipe.take());
        timeout(STOP_TIMEOUT, self.script.wait()).await?
    }
}

/// The server's log, one file over all runs; what it says since this run began is what errors
/// quote.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    began_at: u64,
}

impl Log {
    const LARGE: u64 = 10 << 20;

    /// Opens the log in `data_dir`; a large one makes room and stays as `postgres.log.1`.
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("postgres.log");
        let length = path.metadata().map_or(0, |found| found.len());
        if length > Self::LARGE {
            std::fs::rename(&path, data_dir.join("postgres.log.1"))?;
            return Ok(Self { path, began_at: 0 });
        }
        Ok(Self {
            path,
            began_at: length,
        })
    }

    /// Later quotes begin here.
    pub(super) fn begin_anew(&mut self) {
        self.began_at = self.path.metadata().map_or(0, |found| found.len());
    }

    fn append(&self) -> io::Result<File> {
        // It may quote statements, so others do not read it.
        File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
    }

    /// Its last lines since this run began, to be shown after an error's own sentence.
    pub(super) fn tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let end = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(
                self.began_at.max(end.saturating_sub(8 << 10)),
            ))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// Waits until no server of a previous run holds `cluster`, and clears what one left.
///
/// Call it while holding the data folder's lock: whoever still runs there then has no owner. It is
/// stopping by itself, or lost its script too and is told to stop here.
pub(super) async fn outlast_predecessor(
    account: &Account,
    cluster: &Path,
) -> Result<(), PostgresError> {
    let pid_file = cluster.join("postmaster.pid");
    let began = Instant::now();
    let mut told_to_stop = false;
    while let Some(pid) = holder(cluster, &pid_file) {
        let waited = began.elapsed();
        if waited > STOP_TIMEOUT {
            return Err(PostgresError::InUse {
                folder: cluster.to_owned(),
                pid: pid.to_string(),
            });
        }
        if waited < Duration::from_millis(50) {
            tracing::info!(pid, "waiting for the previous private Postgres to stop");
        }
        if waited > Duration::from_secs(3) && !told_to_stop {
            tracing::warn!(
                pid,
                "the previous private Postgres still runs without an owner: stopping it"
            );
            let mut kill = account.command("/bin/sh");
            let sent = kill
                .args(["-c", "kill -INT \"$1\"", "sh", &pid.to_string()])
                .status()
                .await;
            tracing::debug!(?sent, "fast shutdown");
            told_to_stop = true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    // Postgres trusts a lock file whose pid is alive, even if that is now something else: after a
    // container restarts pids repeat, and a zombie counts as alive. Nobody works here, so it goes.
    if cfg!(target_os = "linux") && Path::new("/proc/self/cwd").exists() {
        match std::fs::remove_file(&pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PostgresError::folder(
                    "clear the lock file",
                    &pid_file,
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The pid of a server process that still works in `cluster`, the main one if it lives.
fn holder(cluster: &Path, pid_file: &Path) -> Option<u32> {
    let main = first_line(pid_file).and_then(|line| line.parse().ok());
    if cfg!(target_os = "linux") {
        // Every process of a server has the cluster as its working folder; a zombie has none.
        let works_here = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == cluster)
        };
        return main.filter(works_here).or_else(|| {
            let processes = std::fs::read_dir("/proc").ok()?;
            let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            pids.into_iter().find(works_here)
        });
    }
    let pid: u32 = main?;
    let mut ps = std::process::Command::new("ps");
    let output = ps
        .args(["-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout)
        .contains("postgres")
        .then_some(pid)
}

/// The pid of the server that runs in `cluster`.
pub(super) fn main_pid(cluster: &Path) -> Option<u32> {
    first_line(&cluster.join("postmaster.pid"))?.parse().ok()
}

fn first_line(path: &Path) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()?
        .lines()
        .next()
        .map(str::to_owned)
}
