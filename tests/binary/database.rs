//! Databases and poolers that are not what backstop needs: they are refused, or told, in one sentence.

use std::time::Duration;

use backstop::postgres::PrivatePostgres;
use backstop::sim::{Sim, SimOptions};
use backstop::store;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor as _};
use uuid::Uuid;

use crate::child::{Ended, Server, command, database_url, run, settings};
use crate::harness::PATIENCE;
use crate::pooler;

/// The program with this database.
async fn say(arguments: &[&str], url: &str) -> (Option<i32>, String) {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), url.to_owned()));
    let Ended {
        code,
        stdout,
        stderr,
    } = run(command(arguments, &environment)).await;
    (code, format!("{stdout}{stderr}"))
}

async fn admin(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    options.connect().await.unwrap()
}

async fn name(db: &mut PgConnection) -> String {
    let asked = sqlx::query_scalar("select current_database()::text");
    asked.fetch_one(db).await.unwrap()
}

/// `serve` and `migrate` end with this, and `check` finds it missing.
async fn assert_refused(url: &str, sentences: &[&str]) {
    for (arguments, code) in [(&["serve"], 1), (&["migrate"], 1), (&["check"], 2)] {
        let (ended, said) = say(arguments, url).await;
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        for sentence in sentences {
            assert!(said.contains(sentence), "{arguments:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let url = database_url().await;
    let mut db = admin(&url).await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let other = format!("test_{}", Uuid::new_v4().simple());
        let make =
            format!("create database {other} encoding '{encoding}' locale 'C' template template0");
        db.execute(AssertSqlSafe(make)).await.unwrap();
        let (server, _) = url.rsplit_once('/').unwrap();
        let named = format!("encoding is {encoding}, and it must be UTF8");
        assert_refused(&format!("{server}/{other}"), &[&named]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_appears_later_is_no_new_world() {
    let url = database_url().await;
    assert_eq!(say(&["migrate"], &url).await.0, Some(0));
    let mut db = admin(&url).await;
    let role: String = sqlx::query_scalar("select current_user::text")
        .fetch_one(&mut db)
        .await
        .unwrap();
    let make = format!("create schema {role}");
    db.execute(AssertSqlSafe(make)).await.unwrap();
    let named =
        format!("go to the schema {role}, and there are tables of a backstop in the schema public");
    assert_refused(&url, &[&named]).await;
    let is_new: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("{role}._sqlx_migrations"))
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert!(!is_new, "it was migrated");
    // As the sentence says.
    let (code, said) = say(
        &["migrate"],
        &format!("{url}?options=-c%20search_path=public"),
    )
    .await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_version_is_refused_with_that_version() {
    let url = database_url().await;
    assert_eq!(say(&["migrate"], &url).await.0, Some(0));
    let mut db = admin(&url).await;
    db.execute(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'later', true, '', 0)",
    )
    .await
    .unwrap();
    assert_refused(&url, &["schema version 9999 by a newer backstop"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_gives_each_transaction_another_session_is_refused_and_left_as_it_was() {
    let url = database_url().await;
    let options: PgConnectOptions = url.parse().unwrap();
    let pooled = pooler::in_front_of(&options).await;
    assert_refused(&pooled, &["set it to session mode"]).await;
    // Whoever gets one of its sessions next finds it as the server made it.
    let through: PgConnectOptions = pooled.parse().unwrap();
    let mut next = through.connect().await.unwrap();
    for (setting, expected) in [("statement_timeout", "0"), ("lock_timeout", "0")] {
        let row = sqlx::raw_sql(AssertSqlSafe(format!("show {setting}")))
            .fetch_one(&mut next)
            .await
            .unwrap();
        let value: String = sqlx::Row::get(&row, 0);
        assert_eq!(value, expected, "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_migration_lock_is_told_and_waited_for_within_bounds() {
    let url = database_url().await;
    let options: PgConnectOptions = url.parse().unwrap();
    let sleeper = options.clone().application_name("a-sleeper");
    let mut sleeper = sleeper.connect().await.unwrap();
    let database = name(&mut sleeper).await;
    // The check value of the algorithm is tested beside the code; here sqlx itself takes the lock.
    sqlx::migrate::Migrate::lock(&mut sleeper).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut sleeper)
        .await
        .unwrap();

    let pool = store::connect(options, 2).await.unwrap();
    let error = store::migrate_within(&pool, Duration::from_secs(1))
        .await
        .unwrap_err()
        .to_string();
    let named = format!("pid {pid} (\"a-sleeper\" from a local socket) holds it");
    assert!(error.contains(&named), "{database}: {error}");

    let waiting = tokio::spawn(async move { say(&["migrate"], &url).await });
    tokio::time::sleep(Duration::from_secs(6)).await;
    sqlx::migrate::Migrate::unlock(&mut sleeper).await.unwrap();
    let (code, said) = waiting.await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&named), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_connections_than_the_pool_wants_are_told_and_used() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), database_url().await));
    environment.push(("BACKSTOP_DATABASE_CONNECTIONS".to_owned(), "300".to_owned()));
    let sentence = "BACKSTOP_DATABASE_CONNECTIONS is 300, one more listens, and the server's \
                    max_connections allows 200 in all";
    let ended = run(command(&["check"], &environment)).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stdout);
    assert!(ended.stdout.contains(sentence), "{}", ended.stdout);
    let server = Server::start(&["serve"], &environment).await;
    assert!(server.log().contains(sentence), "{}", server.log());
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_granted_fewer_connections_goes_on_with_what_it_has() {
    let postgres = PrivatePostgres::start_temporary().await.unwrap();
    let pool = store::connect(postgres.options(), 10).await.unwrap();
    // All but three of what the server grants.
    let mut others = Vec::new();
    while let Ok(other) = postgres.options().connect().await {
        others.push(other);
    }
    others.truncate(others.len() - 3);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = async |many: usize| {
        let began = std::time::Instant::now();
        let uses = (0..many).map(|_| async {
            let lent = pool.acquire().await.map(drop);
            (lent.is_ok(), began.elapsed())
        });
        futures::future::join_all(uses).await
    };
    // The first that want more find out.
    used(10).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (is_lent, took) in used(50).await {
        assert!(
            is_lent && took < Duration::from_secs(3),
            "{is_lent} {took:?}"
        );
    }
    drop(others);
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_and_durability_are_ours_whatever_the_role_is_given() {
    let url = database_url().await;
    let mut db = admin(&url).await;
    let database = name(&mut db).await;
    let set = |what: &str| format!("alter database {database} set {what}");
    for what in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "synchronous_commit = off",
    ] {
        db.execute(AssertSqlSafe(set(what))).await.unwrap();
    }
    let read = |pool: store::Pool| async move {
        let mut lent = pool.acquire().await.unwrap();
        let asked = sqlx::query_as(
            "select current_setting('transaction_isolation'),
                    current_setting('transaction_deferrable'),
                    current_setting('synchronous_commit')",
        );
        let all: (String, String, String) = asked.fetch_one(&mut *lent).await.unwrap();
        all
    };
    let options: PgConnectOptions = url.parse().unwrap();
    let (isolation, deferrable, commit) =
        read(store::connect(options.clone(), 1).await.unwrap()).await;
    assert_eq!(
        (&*isolation, &*deferrable, &*commit),
        ("read committed", "off", "on")
    );
    // Whoever asks for more gets it.
    db.execute(AssertSqlSafe(set("synchronous_commit = remote_apply")))
        .await
        .unwrap();
    let (_, _, commit) = read(store::connect(options, 1).await.unwrap()).await;
    assert_eq!(commit, "remote_apply");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_commits_is_told() {
    let postgres = PrivatePostgres::start_temporary().await.unwrap();
    let (code, said) = say(&["check"], &postgres.url()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("fsync is off"), "{said}");
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_means_that_the_database_takes_writes() {
    let postgres = PrivatePostgres::start_temporary().await.unwrap();
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), postgres.url()));
    let server = Server::start(&["serve"], &environment).await;
    let mut db = postgres.options().connect().await.unwrap();
    for (setting, expected) in [("on", 503), ("off", 200)] {
        let set = format!("alter system set default_transaction_read_only = {setting}");
        // Also when this session has just been told to take none.
        db.execute("set default_transaction_read_only = off")
            .await
            .unwrap();
        db.execute(AssertSqlSafe(set)).await.unwrap();
        db.execute("select pg_reload_conf()").await.unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let answer = reqwest::get(format!("{}/readyz", server.url))
                .await
                .unwrap();
            if answer.status().as_u16() == expected {
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{setting}: {answer:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    db.close().await.unwrap();
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));
    postgres.stop().await.unwrap();
}
