//! What `DATABASE_URL` may look like, and that no form of it shows the password.

use backstop::sim::{Sim, SimOptions};
use sqlx::postgres::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::child::{command, database_url, run, settings};

/// What `migrate` says to this URL, and its exit code.
async fn migrate(url: &str) -> (Option<i32>, String) {
    let environment = vec![
        ("DATABASE_URL".to_owned(), url.to_owned()),
        ("RUST_LOG".to_owned(), "info".to_owned()),
    ];
    let ended = run(command(&["migrate"], &environment)).await;
    (ended.code, format!("{}{}", ended.stdout, ended.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_piece_of_the_password_is_shown_whatever_the_form_of_the_url() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let (mut problems, mut running) = (Vec::new(), JoinSet::new());
    for url in [
        "postgres://u:HEADPIECE@ss?TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE?TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE?TAILPIECE=x@127.0.0.1:1/db",
        "postgres://u:p@127.0.0.1:1/db?TAILPIECE=HEADPIECE",
        "postgres://u:p@127.0.0.1:1/db?sslmode=TAILPIECE",
        "postgres://u:p@127.0.0.1:1/db?sslmode=require&target_session_attrs=TAILPIECE",
        "postgres://u:HEADPIECE#TAILPIECE@127.0.0.1:1/db",
        "postgres://u:1#TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE/TAILPIECE@127.0.0.1:1/db",
        "postgres://u:12/TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE[TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE%zzTAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE%00TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE%ffTAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE@TAILPIECE@127.0.0.1:1/db",
        "postgres://u:HEADPIECE,TAILPIECE@127.0.0.1:1/db",
        "postgres://127.0.0.1:1/db?user=u&password=HEADPIECE&TAILPIECE",
        "postgres://127.0.0.1:1/db?user=u&password=HEADPIECE%26TAILPIECE",
        "postgres:/u:HEADPIECE@TAILPIECE",
        "u:HEADPIECE@TAILPIECE/db",
        "host=127.0.0.1 port=1 password=HEADPIECE'TAILPIECE",
    ] {
        let mut environment = settings(&sim);
        environment.push(("DATABASE_URL".to_owned(), url.to_owned()));
        environment.push(("RUST_LOG".to_owned(), "debug".to_owned()));
        running.spawn(async move {
            let ended = run(command(&["serve"], &environment)).await;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            (url, ended.code, said)
        });
    }
    for (url, code, said) in running.join_all().await {
        if said.contains("TAILPIECE") || said.contains("HEADPIECE") {
            problems.push(format!("a piece is shown of {url}: {said}"));
        }
        if code == Some(0) || !said.contains("DATABASE_URL") {
            problems.push(format!("{url}: {code:?} {said}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_in_libpqs_forms_is_taken_or_refused_with_a_sentence_that_is_true() {
    let missing = std::env::temp_dir().join(format!("no-{}.pem", Uuid::new_v4()));
    let missing = missing.to_str().unwrap();
    let here = "postgres://u@127.0.0.1:1/db";
    let mut problems = Vec::new();
    for (url, says) in [
        ("postgres://u@[::1]:1/db".to_owned(), "refused"),
        ("postgresql://u@[::1]:1/db".to_owned(), "refused"),
        ("postgres://u@[::1:1/db".to_owned(), "[ without a ]"),
        (
            "postgres://u@one:1,two:2/db?target_session_attrs=read-write".to_owned(),
            "several hosts",
        ),
        ("postgres:///db?host=one,two".to_owned(), "several hosts"),
        (format!("{here}?target_session_attrs=read-write"), "refused"),
        (
            format!("{here}?target_session_attrs=standby"),
            "takes no writes",
        ),
        (
            format!("{here}?connect_timeout=10&channel_binding=require"),
            "channel_binding has no effect",
        ),
        (
            format!("{here}?sslmode=verify-full&sslrootcert=system"),
            "sslrootcert=system, which is not supported",
        ),
        (
            format!("{here}?sslmode=verify-full&sslrootcert={missing}"),
            missing,
        ),
        (
            format!("{here}?sslmode=require&sslrootcert={missing}"),
            missing,
        ),
        (
            format!("{here}?sslmode=verify-full&sslrootcert=/dev/null"),
            "/dev/null, which has no PEM",
        ),
        (
            format!("{here}?sslmode=require&sslcert={missing}&sslkey={missing}"),
            missing,
        ),
        (
            format!("{here}?sslmode=verify-full"),
            "names no sslrootcert",
        ),
    ] {
        let (code, said) = migrate(&url).await;
        if code != Some(1) || !said.contains(says) || said.contains("not a postgres") {
            problems.push(format!("{url}: {code:?} {said}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_may_be_named_as_libpq_names_it() {
    let url = database_url().await;
    let (before, name) = url.rsplit_once('/').unwrap();
    let (login, host) = before.rsplit_once('@').unwrap();
    let (folder, port) = host.rsplit_once(':').unwrap();
    let user = login.rsplit_once("//").unwrap().1;
    let plain = folder.replace("%2F", "/");
    for url in [
        format!("postgres:///{name}?host={plain}&port={port}&user={user}"),
        format!("postgres://{user}@/{name}?host={folder}&port={port}"),
        format!("postgres://{user}@:{port}/{name}?host={folder}"),
        format!("postgresql://{user}@{folder}:{port}/{name}"),
        format!("postgres://?dbname={name}&host={folder}&port={port}&user={user}"),
    ] {
        let (code, said) = migrate(&url).await;
        assert_eq!(code, Some(0), "{url}: {said}");
    }
    assert!(PgPool::connect(&url).await.is_ok());
}
