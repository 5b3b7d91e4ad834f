//! From a folder to a server that answers: owner, programs, cluster, socket, first connection.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::account::{self, Account};
use super::find::{self, Server};
use super::server::{self, Log, Supervised};
use super::{Durability, NAME, PORT, PostgresError, PrivatePostgres, Programs, Source};

/// Locked while a backstop owns the data folder; names its pid.
pub(super) const LOCK: &str = "postgres.lock";
/// Folder of the server's socket, where its path fits.
pub(super) const SOCKET_DIR: &str = "run";
/// The shortest limit of a socket's path, macOS's, is 104 bytes with a final zero.
const LONGEST_SOCKET_PATH: usize = 103;
/// How long a second process waits for the first to leave the data folder, as in a restart.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long a server may take to answer at all; while it says that it is recovering, it gets more.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of the data folder when the server has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtEnd {
    Keep,
    Remove,
}

/// Starts a server for [`PrivatePostgres`]; nothing is left running if it fails.
pub(super) async fn start(
    data_dir: &Path,
    durability: Durability,
    programs: &Programs,
    at_end: AtEnd,
) -> Result<PrivatePostgres, PostgresError> {
    let began = Instant::now();
    let cluster = find::newest_cluster(data_dir).map(|(_, path)| path);
    let account = Account::choose(cluster.as_deref())?;
    let data_dir = account.prepare_data_dir(data_dir).await?;
    let lock = lock(&data_dir).await?;
    let found = find::server(&usable_cache(programs, &data_dir), &account, &data_dir).await?;
    let mut log = Log::open(&data_dir)
        .map_err(|source| PostgresError::folder("open the log in", &data_dir, source))?;
    let cluster = data_dir.join(format!("postgres-{}", found.major));
    server::outlast_predecessor(&account, &cluster).await?;
    initialise(&found, &account, &cluster, durability, &log).await?;
    let initialised = began.elapsed();

    log.begin_anew();
    write_access_rules(&account, &data_dir)?;
    let socket_dir = socket_dir(&account, &data_dir)?;
    let doomed = match at_end {
        AtEnd::Remove => {
            // The script that removes it runs as the account. Nothing of ours is written here
            // after this.
            account
                .hand_over(&data_dir)
                .map_err(|source| PostgresError::folder("hand over", &data_dir, source))?;
            Some(data_dir.as_path())
        }
        AtEnd::Keep => (!socket_dir.starts_with(&data_dir)).then_some(socket_dir.as_path()),
    };
    let arguments = arguments(&data_dir, &cluster, &socket_dir, durability);
    let program = found.bin.join("postgres");
    let mut server = Supervised::spawn(&account, &program, arguments, &log, doomed)
        .map_err(|source| PostgresError::folder("run", &program, source))?;
    let options = connect_options(&socket_dir);
    let mut connection = answer(&mut server, &options, &log).await?;
    let here: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(NAME)
            .fetch_one(&mut connection)
            .await?;
    if !here {
        sqlx::raw_sql("create database backstop")
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    let pid = server::main_pid(&cluster)
        .ok_or_else(|| PostgresError::server("the private Postgres has no pid file", &log))?;
    tracing::info!(
        pid,
        version = found.version,
        programs = %found.bin.display(),
        folder = %data_dir.display(),
        initialised_ms = u64::try_from(initialised.as_millis()).unwrap_or(u64::MAX),
        elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "private Postgres started"
    );
    let version = found.version;
    Ok(PrivatePostgres {
        server,
        socket_dir,
        pid,
        version,
        log,
        _lock: lock,
    })
}

/// Locks the data folder for this process until the file is dropped. The kernel unlocks it when we
/// are killed; std opens it close-on-exec, so no child holds it.
async fn lock(data_dir: &Path) -> Result<File, PostgresError> {
    let path = data_dir.join(LOCK);
    let failed = |source| PostgresError::folder("lock", &path, source);
    // Others must not be able to hold it.
    let mut open = File::options();
    let open = open
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = open.open(&path).map_err(failed)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                file.read_to_string(&mut owner).map_err(failed)?;
                let pid = if owner.is_empty() { "?".into() } else { owner };
                return Err(PostgresError::InUse {
                    folder: data_dir.to_owned(),
                    pid,
                });
            }
        }
    }
    file.set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

/// The cache, or one in the data folder where the usual one cannot be made (no home folder).
fn usable_cache(programs: &Programs, data_dir: &Path) -> Programs {
    let mut programs = programs.clone();
    let needed = !matches!(programs.source, Source::Installed | Source::Folder(_));
    if needed && !programs.cache.is_dir() && !can_create(&programs.cache) {
        programs.cache = data_dir.join("programs");
    }
    programs
}

/// Whether the nearest ancestor that exists is ours to write to. Asked with `test`, so that no
/// folder is made before something is fetched.
fn can_create(path: &Path) -> bool {
    let Some(ancestor) = path.ancestors().find(|ancestor| ancestor.exists()) else {
        return false;
    };
    let mut test = std::process::Command::new("/bin/sh");
    let tested = test
        .args(["-c", "test -w \"$1\"", "sh"])
        .arg(ancestor)
        .status();
    tested.is_ok_and(|status| status.success())
}

/// Makes the cluster unless it is there. It is made beside its place and renamed, so a cluster in
/// its place is complete.
async fn initialise(
    found: &Server,
    account: &Account,
    cluster: &Path,
    durability: Durability,
    log: &Log,
) -> Result<(), PostgresError> {
    let failed = |source| PostgresError::folder("initialise", cluster, source);
    let is_complete = cluster.join("PG_VERSION").try_exists().map_err(failed)?;
    if is_complete {
        return Ok(());
    }
    // Only an empty folder goes away here.
    match std::fs::remove_dir(cluster) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            return Err(PostgresError::server(
                format!(
                    "{} is neither empty nor a complete PostgreSQL cluster: move it away to begin empty",
                    cluster.display()
                ),
                log,
            ));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    remove_half_made(cluster).map_err(failed)?;
    let temporary = cluster.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    account.create_private_dir(&temporary).map_err(failed)?;
    let mut args: Vec<&OsStr> = ["-U", NAME, "--encoding=UTF8", "--locale=C"]
        .map(AsRef::as_ref)
        .into();
    args.extend(["--data-checksums", "--no-instructions"].map(OsStr::new));
    // What initdb writes about access is not used; this only keeps it from writing `trust`.
    args.extend(["--auth-local=peer", "--auth-host=reject", "-D"].map(OsStr::new));
    args.push(temporary.as_os_str());
    if durability == Durability::Disposable {
        args.push("--no-sync".as_ref());
    }
    let program = found.bin.join("initdb");
    let mut initdb = Supervised::spawn(account, &program, args, log, None)
        .map_err(|source| PostgresError::folder("run", &program, source))?;
    let status = initdb.wait().await.map_err(failed)?;
    if !status.success() {
        return Err(PostgresError::server(
            format!("initdb failed ({status})"),
            log,
        ));
    }
    std::fs::rename(&temporary, cluster).map_err(failed)?;
    if let (Durability::Kept, Some(data_dir)) = (durability, cluster.parent()) {
        File::open(data_dir)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

/// What an initialisation that was killed left. One that still runs, its owner just gone, is
/// stopping; its folder goes next time.
fn remove_half_made(cluster: &Path) -> io::Result<()> {
    let (Some(data_dir), Some(name)) = (cluster.parent(), cluster.file_name()) else {
        return Ok(());
    };
    let prefix = [name.as_bytes(), b".new-"].concat();
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(&prefix)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(folder = %entry.path().display(), %error, "could not remove a half-made cluster");
        }
    }
    Ok(())
}

/// Writes who may connect. Outside the cluster, see [`account`]; at each start, because it depends
/// on who we are.
fn write_access_rules(account: &Account, data_dir: &Path) -> Result<(), PostgresError> {
    let users: String = [&account.our_name, &account.name]
        .map(|name| format!("{NAME} \"{}\" {NAME}\n", name.replace('"', "\"\"")))
        .concat();
    let rules = format!("local all all peer map={NAME}\n");
    for (name, text) in [("postgres-hba.conf", rules), ("postgres-ident.conf", users)] {
        let path = data_dir.join(name);
        std::fs::write(&path, text)
            .and_then(|()| account::set_mode(&path, 0o644))
            .map_err(|source| PostgresError::folder("write", &path, source))?;
    }
    Ok(())
}

/// A fresh folder for the socket: in the data folder, or a random one in `/tmp` if that path does
/// not fit or its file system has no sockets.
fn socket_dir(account: &Account, data_dir: &Path) -> Result<PathBuf, PostgresError> {
    let near = data_dir.join(SOCKET_DIR);
    // Nobody runs here, so what lies there is a dead server's.
    match std::fs::remove_dir_all(&near) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(PostgresError::folder("clear", &near, error));
        }
        _ => {}
    }
    // libpq takes a comma for the end of a host, whatever the encoding.
    let fits = near.as_os_str().len() + format!("/.s.PGSQL.{PORT}").len() <= LONGEST_SOCKET_PATH
        && !near
            .as_os_str()
            .as_bytes()
            .iter()
            .any(|byte| b",\"".contains(byte));
    if fits {
        account
            .create_private_dir(&near)
            .map_err(|source| PostgresError::folder("create", &near, source))?;
        let probe = near.join(".probe");
        if std::os::unix::net::UnixListener::bind(&probe).is_ok() {
            std::fs::remove_file(&probe)
                .map_err(|source| PostgresError::folder("clear", &probe, source))?;
            return Ok(near);
        }
    }
    let far = random_folder();
    account
        .create_private_dir(&far)
        .map_err(|source| PostgresError::folder("create the socket's folder", &far, source))?;
    Ok(far)
}

/// A name in `/tmp` that nobody can guess; the usual temporary folder may be too long for sockets.
pub(super) fn random_folder() -> PathBuf {
    let random = uuid::Uuid::new_v4().simple().to_string();
    // macOS has a link there; the server's processes are found by the real path.
    Path::new("/tmp")
        .canonicalize()
        .unwrap_or_else(|_| "/tmp".into())
        .join(format!("backstop-{}", &random[..16]))
}

fn arguments(
    data_dir: &Path,
    cluster: &Path,
    socket_dir: &Path,
    durability: Durability,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.into()];
    let mut set = |name: &str, value: &OsStr| {
        let mut setting = OsString::from(format!("{name}="));
        setting.push(value);
        arguments.extend(["-c".into(), setting]);
    };
    set("hba_file", data_dir.join("postgres-hba.conf").as_ref());
    set("ident_file", data_dir.join("postgres-ident.conf").as_ref());
    // A list: quoted, so that a comma or a space in the path stays in it.
    let mut sockets = OsString::from("\"");
    sockets.push(socket_dir);
    sockets.push("\"");
    set("unix_socket_directories", &sockets);
    let port = PORT.to_string();
    let common = [
        ("port", port.as_str()),
        ("listen_addresses", ""),
        ("max_connections", "200"),
        ("jit", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
    ];
    let kept = [("shared_buffers", "128MB")];
    // `synchronous_commit` stays on: without fsync it costs one write, and without it a killed
    // server forgets its last commits.
    let disposable = [
        ("shared_buffers", "32MB"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("log_checkpoints", "off"),
    ];
    let special: &[(&str, &str)] = match durability {
        Durability::Kept => &kept,
        Durability::Disposable => &disposable,
    };
    for (name, value) in common.iter().chain(special) {
        set(name, value.as_ref());
    }
    arguments
}

/// Options to the database that is always there.
pub(super) fn connect_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(PORT)
        .username(NAME)
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
}

/// Waits for the server's first answer. Recovery after a crash may take minutes; the server says
/// so, and is waited for as long as it does.
async fn answer(
    server: &mut Supervised,
    options: &PgConnectOptions,
    log: &Log,
) -> Result<PgConnection, PostgresError> {
    let mut since = Instant::now();
    let mut said = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let ended = server
            .ended()
            .map_err(|error| PostgresError::server(error.to_string(), log))?;
        if let Some(status) = ended {
            return Err(PostgresError::server(
                format!("the private Postgres did not start ({status})"),
                log,
            ));
        }
        let why = match timeout(Duration::from_secs(5), options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => {
                // "The database system is starting up".
                if error
                    .as_database_error()
                    .and_then(sqlx::error::DatabaseError::code)
                    .as_deref()
                    == Some("57P03")
                {
                    since = Instant::now();
                }
                error.to_string()
            }
            Err(_) => "it does not answer".into(),
        };
        if since.elapsed() > ANSWER_PATIENCE {
            return Err(PostgresError::server(
                format!("the private Postgres does not answer ({why})"),
                log,
            ));
        }
        if said.elapsed() > Duration::from_secs(5) {
            tracing::info!(why, "the private Postgres is still starting");
            said = Instant::now();
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
