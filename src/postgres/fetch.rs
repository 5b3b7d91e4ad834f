//! Fetches server programs once, through a package client that is there.
//!
//! The client brings the archive, with the registry, proxy and certificates it is set up for; we
//! check it against a digest pinned here and unpack it ourselves, so no install script runs. Only
//! complete trees appear under their final name.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::account::set_mode;
use super::archives::{ARCHIVES, Archive, Client, MAJOR};

/// How long the client gets; 12 to 55 MB come in.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);
const UNPACK_TIMEOUT: Duration = Duration::from_secs(120);

/// The folder with `initdb` and `postgres` from the cache, fetched through `client` if it is not
/// there yet. Processes that need it at the same time wait for the first. The error is for people.
pub(super) async fn programs(client: Client, cache: &Path) -> Result<PathBuf, String> {
    let archive = ARCHIVES
        .iter()
        .find(|archive| {
            archive.client == client
                && archive.os == std::env::consts::OS
                && archive.arch == std::env::consts::ARCH
        })
        .ok_or_else(|| {
            format!(
                "no package for {}-{}",
                std::env::consts::OS,
                std::env::consts::ARCH
            )
        })?;
    let tree = cache.join(archive.name());
    let bin = tree.join(archive.bin());
    if bin.is_dir() {
        return Ok(bin);
    }
    let in_cache = |error: io::Error| format!("{}: {error}", cache.display());
    if !archive.commands(cache).iter().any(is_installed) {
        return Err(format!("{client} is not installed"));
    }
    std::fs::create_dir_all(cache)
        .and_then(|()| set_mode(cache, 0o755))
        .map_err(in_cache)?;
    let _lock = lock(cache).await?;
    if bin.is_dir() {
        return Ok(bin);
    }
    remove_abandoned(cache).map_err(in_cache)?;
    let folder = cache.join(format!(".new-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).map_err(in_cache)?;
    let fetched = fetch(archive, &folder).await;
    let placed = fetched.and_then(|unpacked| std::fs::rename(unpacked, &tree).map_err(in_cache));
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::warn!(folder = %folder.display(), %error, "could not remove a temporary folder");
    }
    placed.map(|()| bin)
}

/// Fetches, checks and unpacks into `folder`; returns the tree.
async fn fetch(archive: &Archive, folder: &Path) -> Result<PathBuf, String> {
    let began = Instant::now();
    progress(&format!(
        "fetching PostgreSQL {MAJOR} with {} (tens of MB, only once)",
        archive.client
    ));
    run_first(archive.commands(folder), folder, CLIENT_TIMEOUT).await?;
    let extension = match archive.client {
        Client::Npm => "tgz",
        Client::Pip => "whl",
    };
    let file = only_file(folder, extension)?;
    let tree = folder.join("tree");
    std::fs::create_dir(&tree).map_err(|error| error.to_string())?;
    let (of, expected) = (file.clone(), archive.sha256);
    blocking(move || check(&of, expected)).await?;
    run_first(
        unpack_commands(archive.client, &file, &tree),
        folder,
        UNPACK_TIMEOUT,
    )
    .await?;
    let (unpacked, bin) = (tree.clone(), archive.bin());
    blocking(move || {
        restore_links(&unpacked.join("package")).map_err(|error| error.to_string())?;
        set_modes(&unpacked, &unpacked.join(bin)).map_err(|error| error.to_string())
    })
    .await?;
    progress(&format!(
        "fetched PostgreSQL {MAJOR} in {} s",
        began.elapsed().as_secs()
    ));
    Ok(tree)
}

fn is_installed(command: &Command) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = command.as_std().get_program();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn unpack_commands(client: Client, file: &Path, tree: &Path) -> Vec<Command> {
    let command = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).arg(file);
        command
    };
    match client {
        Client::Npm => {
            let mut tar = command("tar", &["-xzf"]);
            // Under root, tar would give the files to whoever has the packer's uid here.
            tar.args(["--no-same-owner", "-C"]).arg(tree);
            vec![tar]
        }
        Client::Pip => {
            let mut unzip = command("unzip", &["-q"]);
            unzip.arg("-d").arg(tree);
            let pythons = ["python3", "python"].map(|program| {
                let mut python = command(program, &["-m", "zipfile", "-e"]);
                python.arg(tree);
                python
            });
            std::iter::once(unzip).chain(pythons).collect()
        }
    }
}

/// Runs the first command whose program works out. A program that is not there is passed over; so
/// is one that fails, as a `python3` without pip does, but its words go into the error.
async fn run_first(commands: Vec<Command>, folder: &Path, limit: Duration) -> Result<(), String> {
    let mut complaints = Vec::new();
    for mut command in commands {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let running = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match timeout(limit, waiting(&name, running)).await {
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => {
                let said = gist(&String::from_utf8_lossy(&output.stderr));
                complaints.push(format!("{name} gave {}: {said}", output.status));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                complaints.push(format!("{name} is not installed"));
            }
            Ok(Err(error)) => complaints.push(format!("{name}: {error}")),
            Err(_) => return Err(format!("{name} was not done after {} s", limit.as_secs())),
        }
    }
    Err(complaints.join(", "))
}

/// The first lines that speak of an error, else the last lines; clients say a lot around them.
fn gist(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let errors = lines
        .iter()
        .filter(|line| !line.starts_with("WARNING") && line.to_lowercase().contains("error"));
    let mut said: Vec<_> = errors.take(3).copied().collect();
    if said.is_empty() {
        said = lines[lines.len().saturating_sub(3)..].to_vec();
    }
    said.join(" / ").chars().take(400).collect()
}

/// Awaits `running`, saying every 15 s that it still does.
async fn waiting<T>(name: &str, running: impl Future<Output = T>) -> T {
    tokio::pin!(running);
    let mut elapsed = 0;
    loop {
        if let Ok(done) = timeout(Duration::from_secs(15), &mut running).await {
            return done;
        }
        elapsed += 15;
        progress(&format!("{name} is still busy after {elapsed} s"));
    }
}

/// A line for whoever waits at the terminal, also before logging is set up and in tests.
fn progress(line: &str) {
    tracing::debug!("{line}");
    // Nobody may be reading; that is no reason to stop.
    _ = writeln!(io::stderr(), "backstop: {line}");
}

/// Locks the cache until the file is dropped.
async fn lock(cache: &Path) -> Result<File, String> {
    let path = cache.join(".lock");
    // Others must not be able to hold it.
    let mut open = File::options();
    let open = open.write(true).create(true).truncate(false).mode(0o600);
    let file = open
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let locked = async {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(error)) => return Err(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let limit = CLIENT_TIMEOUT + UNPACK_TIMEOUT;
    match timeout(
        limit,
        waiting("another process that fetches PostgreSQL", locked),
    )
    .await
    {
        Ok(locked) => locked.map(|()| file),
        Err(_) => Err(format!(
            "{} stayed locked for {} s",
            path.display(),
            limit.as_secs()
        )),
    }
}

/// What a fetch that was killed left behind; call under the lock only.
fn remove_abandoned(cache: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn only_file(folder: &Path, extension: &str) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let found = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|found| found == extension));
    found.ok_or_else(|| format!("the client brought no .{extension} file"))
}

fn check(file: &Path, expected: &str) -> Result<(), String> {
    let digest = sha256(file).map_err(|error| format!("{}: {error}", file.display()))?;
    if digest == expected {
        return Ok(());
    }
    Err(format!(
        "the package has SHA-256 {digest}, not the pinned {expected}: it is not used"
    ))
}

fn sha256(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// npm packages cannot hold symbolic links; these list them, for an install script that we do not
/// run, as pairs where `target` is the link and `source` what it leads to.
fn restore_links(package: &Path) -> io::Result<()> {
    #[derive(serde::Deserialize)]
    struct Link {
        source: PathBuf,
        target: PathBuf,
    }
    let text = match std::fs::read(package.join("native/pg-symlinks.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for link in serde_json::from_slice::<Vec<Link>>(&text)? {
        // All of them are links between neighbours.
        if let Some(leads_to) = link.source.file_name()
            && link.source.parent() == link.target.parent()
        {
            symlink(leads_to, package.join(&link.target))?;
        }
    }
    Ok(())
}

/// Everything readable for the server's account, whatever our umask, and the programs executable:
/// Python's `zipfile` forgets modes.
fn set_modes(folder: &Path, bin: &Path) -> io::Result<()> {
    set_mode(folder, 0o755)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            set_modes(&entry.path(), bin)?;
        } else if kind.is_file() {
            set_mode(&entry.path(), if folder == bin { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

async fn blocking(
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_with_another_digest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.tgz");
        std::fs::write(&file, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(check(&file, abc), Ok(()));
        assert!(
            check(&file, ARCHIVES[0].sha256)
                .unwrap_err()
                .contains("not used")
        );
    }

    #[test]
    fn links_that_the_package_lists_are_restored() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("native/lib");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join("liba.so.1.2"), "a").unwrap();
        let list = r#"[{"source":"native/lib/liba.so.1.2","target":"native/lib/liba.so.1"}]"#;
        std::fs::write(folder.path().join("native/pg-symlinks.json"), list).unwrap();
        restore_links(folder.path()).unwrap();
        assert_eq!(std::fs::read(lib.join("liba.so.1")).unwrap(), b"a");
    }

    #[tokio::test]
    async fn a_missing_client_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = vec![Command::new("backstop-test-no-such-client")];
        let error = run_first(missing, folder.path(), Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(error, "backstop-test-no-such-client is not installed");
    }

    #[tokio::test]
    async fn a_failing_client_is_quoted_and_the_next_one_tried() {
        let folder = tempfile::tempdir().unwrap();
        let sh = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let limit = Duration::from_secs(10);
        let failing = || sh("echo no such package >&2; exit 3");
        assert_eq!(
            run_first(vec![failing(), sh(":")], folder.path(), limit).await,
            Ok(())
        );
        let error = run_first(vec![failing()], folder.path(), limit)
            .await
            .unwrap_err();
        assert!(error.contains("no such package"), "{error}");
    }
}
