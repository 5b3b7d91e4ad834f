//! A real dump of last night's database takes the place of today's, and `backstop resume` says what
//! is to become of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::postgres::PrivatePostgres;
use backstop::sim::{Sim, SimOptions};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::child::{Ended, Server, command, run, settings};
use crate::harness::PATIENCE;
use crate::workflows::{Client, make_all};

/// A cluster's programs and data, and the database that is used of it.
struct Cluster {
    postgres: PrivatePostgres,
}

impl Cluster {
    async fn start() -> Self {
        let postgres = PrivatePostgres::start_temporary().await.unwrap();
        Self { postgres }
    }

    fn at(&self, name: &str) -> String {
        let url = self.postgres.url();
        let (server, _) = url.rsplit_once('/').unwrap();
        format!("{server}/{name}")
    }

    async fn create(&self, name: &str, how: &str) {
        let admin = PgPool::connect(&self.at("postgres")).await.unwrap();
        let create = format!("create database {name} {how}");
        sqlx::query(AssertSqlSafe(create))
            .execute(&admin)
            .await
            .unwrap();
        admin.close().await;
    }
}

/// The folder of a `pg_dump` that can read this server.
fn dump_programs(server: &str) -> Option<PathBuf> {
    let major = |version: &str| -> Option<u32> {
        let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = (15..40).map(|it| PathBuf::from(format!("/usr/lib/postgresql/{it}/bin")));
    std::env::var_os("PG_BINDIR")
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(installed)
        .find(|folder| {
            let asked = Command::new(folder.join("pg_dump"))
                .arg("--version")
                .output();
            let text = asked.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
            let version = text.unwrap_or_default();
            let version = version.split(") ").nth(1).and_then(major);
            version >= major(server) && folder.join("pg_restore").exists()
        })
}

fn ends_well(program: &Path, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", program.display());
}

/// Last night's database as it was, in another place: a dump restored into another cluster, or where
/// there are no programs for that, a copy in the same one.
struct Backup<'a> {
    original: &'a Cluster,
    dump: Option<(PathBuf, PathBuf)>,
}

impl<'a> Backup<'a> {
    async fn take(original: &'a Cluster, folder: &Path) -> Self {
        let dump = dump_programs(original.postgres.version()).map(|programs| {
            let file = folder.join("last-night.dump");
            ends_well(
                &programs.join("pg_dump"),
                &["-Fc", "-f", file.to_str().unwrap(), &original.at("live")],
            );
            (programs, file)
        });
        if dump.is_none() {
            println!("no pg_dump for this Postgres: copying the database instead");
            original.create("kept", "template live").await;
        }
        Self { original, dump }
    }

    async fn restore(&self, into: &Cluster) -> String {
        let Some((programs, file)) = &self.dump else {
            return self.original.at("kept");
        };
        into.create("restored", "").await;
        let url = into.at("restored");
        ends_well(
            &programs.join("pg_restore"),
            &["--no-owner", "-d", &url, file.to_str().unwrap()],
        );
        url
    }
}

/// Settings for a database; a short time-out, so that pulses come fast.
fn environment(sim: &Sim, url: &str) -> Vec<(String, String)> {
    let mut environment = settings(sim);
    for (name, value) in [
        ("DATABASE_URL", url),
        ("BACKSTOP_HEARTBEAT_TIMEOUT", "12s"),
        ("BACKSTOP_PUBLIC_URL", "https://backstop.example.com/"),
    ] {
        environment.push((name.to_owned(), value.to_owned()));
    }
    environment
}

async fn resume(url: &str, arguments: &[&str]) -> Ended {
    let environment = [("DATABASE_URL".to_owned(), url.to_owned())];
    run(command(&[&["resume"], arguments].concat(), &environment)).await
}

async fn hold(server: &Server) -> Value {
    let client = backstop::providers::loopback_client().unwrap();
    let ready = client.get(format!("{}/readyz", server.url)).send().await;
    let ready = ready.unwrap();
    assert_eq!(ready.status().as_u16(), 200);
    let body: Value = ready.json().await.unwrap();
    assert_eq!(body["status"], "ready");
    body["hold"].clone()
}

async fn until(mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < deadline, "it never was");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pulsed(pool: &PgPool) {
    let pulses = async || -> i64 {
        let pulses = sqlx::query_scalar("select pulses from hearing");
        pulses.fetch_one(pool).await.unwrap()
    };
    let before = pulses().await;
    until(async || pulses().await >= before + 2).await;
}

async fn later(pool: &PgPool, by: &str) {
    sqlx::query("update controller set clock_offset = clock_offset + $1::interval")
        .bind(by)
        .execute(pool)
        .await
        .unwrap();
}

async fn status(client: &Client, id: Uuid) -> String {
    let provision = client.provision(id).await.unwrap();
    provision["status"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_nights_dump_is_held_until_somebody_resumes_and_nothing_that_runs_is_deleted() {
    let sim = Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap());
    let (live, other) = (Cluster::start().await, Cluster::start().await);
    let folder = tempfile::tempdir().unwrap();
    live.create("live", "").await;
    let server = Server::start(&["serve"], &environment(&sim, &live.at("live"))).await;
    let (urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let pool = PgPool::connect(&live.at("live")).await.unwrap();
    let mut made = Vec::new();
    let [runs, fails, forgotten] = [(); 3].map(|()| Uuid::new_v4());
    for id in [runs, fails, forgotten] {
        let started = client.callback("started", id, &json!({})).await;
        made.push(make_all(&sim, &started));
    }
    pulsed(&pool).await;
    pool.close().await;
    server.terminate().await;
    let backup = Backup::take(&live, folder.path()).await;

    // The night: one succeeds, one fails and is rolled back.
    let server = Server::start(&["serve"], &environment(&sim, &live.at("live"))).await;
    urls.send(vec![server.url.clone()]).unwrap();
    client.callback("success", runs, &made[0].ids()).await;
    client.callback("failure", fails, &made[1].ids()).await;
    until(async || {
        let provision = client.provision(fails).await.unwrap();
        provision["rollback"]["state"] == "done"
    })
    .await;
    server.terminate().await;
    let machines = sim.servers().len();
    assert_eq!(machines, 2);

    // The morning: everything of the night is lost.
    let restored = backup.restore(&other).await;
    let pool = PgPool::connect(&restored).await.unwrap();
    later(&pool, "10 hours").await;
    let server = Server::start(&["serve"], &environment(&sim, &restored)).await;
    urls.send(vec![server.url.clone()]).unwrap();
    until(async || !hold(&server).await.is_null()).await;
    assert_eq!(hold(&server).await["reason"], "other_database");
    assert!(server.log().contains("ERROR"), "{}", server.log());
    pulsed(&pool).await;
    for id in [runs, fails, forgotten] {
        assert_eq!(status(&client, id).await, "provisioning");
    }
    server.kill();
    let server = Server::start(&["serve"], &environment(&sim, &restored)).await;
    urls.send(vec![server.url.clone()]).unwrap();
    pulsed(&pool).await;
    assert!(server.log().contains("still held"), "{}", server.log());
    assert_eq!(sim.servers().len(), machines);

    // Somebody looks, and says for one of them what is known of it.
    let ended = resume(&restored, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for id in [runs, fails, forgotten] {
        assert!(ended.stdout.contains(&id.to_string()), "{}", ended.stdout);
    }
    client.callback("success", runs, &made[0].ids()).await;
    until(async || {
        status(&client, fails).await == "failed" && status(&client, forgotten).await == "failed"
    })
    .await;
    assert_eq!(hold(&server).await, Value::Null);
    until(async || sim.servers().len() == 1).await;
    assert_eq!(sim.servers()[0].id, made[0].server);
    assert_eq!(status(&client, runs).await, "running");

    let ended = resume(&restored, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, "nothing was held\n");
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lives_beside_the_original_becomes_a_controller_of_its_own() {
    let sim = Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap());
    let cluster = Cluster::start().await;
    cluster.create("live", "").await;
    let server = Server::start(&["serve"], &environment(&sim, &cluster.at("live"))).await;
    let (urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let id = Uuid::new_v4();
    let started = client.callback("started", id, &json!({})).await;
    make_all(&sim, &started);
    let pool = PgPool::connect(&cluster.at("live")).await.unwrap();
    pulsed(&pool).await;
    pool.close().await;
    server.terminate().await;
    cluster.create("beside", "template live").await;
    let url = cluster.at("beside");

    let server = Server::start(&["serve"], &environment(&sim, &url)).await;
    urls.send(vec![server.url.clone()]).unwrap();
    until(async || !hold(&server).await.is_null()).await;
    let refused = resume(&url, &["--new-controller"]).await;
    assert_eq!(refused.code, Some(1));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("stop every"), "{}", refused.stderr);
    server.terminate().await;

    let pool = PgPool::connect(&url).await.unwrap();
    later(&pool, "31 seconds").await;
    let ended = resume(&url, &["--new-controller"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let controller: Uuid = sqlx::query_scalar("select id from controller")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(ended.stdout.contains(&controller.to_string()));
    assert!(ended.stdout.contains("original's: 1"), "{}", ended.stdout);

    let server = Server::start(&["serve"], &environment(&sim, &url)).await;
    urls.send(vec![server.url.clone()]).unwrap();
    pulsed(&pool).await;
    assert_eq!(hold(&server).await, Value::Null);
    assert_eq!(status(&client, id).await, "destroyed");
    let own = Uuid::new_v4();
    let started = client.callback("started", own, &json!({})).await;
    let label = &started["labels"]["backstop-controller"];
    assert_eq!(*label, json!(controller));
    assert_eq!(sim.servers().len(), 1);
    server.terminate().await;
}
