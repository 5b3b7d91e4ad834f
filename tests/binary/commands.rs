//! Commands that end by themselves, and what they print.

use std::sync::Arc;
use std::time::Instant;

use backstop::sim::{Sim, SimOptions};
use serde_json::json;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::child::{Server, command, database_url, run, settings};
use crate::harness::{OPERATOR, PATIENCE, READER, SECRET};
use crate::workflows::{Book, Client, fail_many, settle_all};

fn sim() -> Arc<Sim> {
    Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap())
}

fn at(url: &str) -> Vec<(String, String)> {
    vec![("DATABASE_URL".to_owned(), url.to_owned())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_can_be_run_twice() {
    let url = database_url().await;
    for _ in 0..2 {
        let ended = run(command(&["migrate"], &at(&url))).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    }
    let pool = PgPool::connect(&url).await.unwrap();
    let controllers: i64 = sqlx::query_scalar("select count(*) from controller")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(controllers, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_knows_its_provisions() {
    let sim = sim();
    let url = database_url().await;
    let mut environment = settings(&sim);
    environment.extend(at(&url));
    let server = Server::start(&["serve"], &environment).await;
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let known = Uuid::new_v4();
    client
        .callback("failure", known, &json!({"may_exist": []}))
        .await;

    let ended = run(command(&["rollback", &known.to_string()], &at(&url))).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let unknown = Uuid::new_v4().to_string();
    let ended = run(command(&["rollback", &unknown], &at(&url))).await;
    assert_eq!(ended.code, Some(1));
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&unknown), "{lines:?}");

    for bad in ["", "no-uuid", "00000000-0000-0000-0000-00000000000g"] {
        let ended = run(command(&["rollback", bad], &at(&url))).await;
        assert_eq!(ended.code, Some(2), "{bad}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_database_is_made_to_look_for_a_provision_in() {
    let folder = tempfile::tempdir().unwrap();
    let id = Uuid::new_v4().to_string();
    let environment = [(
        "BACKSTOP_DATA_DIR".to_owned(),
        folder.path().display().to_string(),
    )];
    for arguments in [&["rollback", &id][..], &["resume"]] {
        let ended = run(command(arguments, &environment)).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}");
        assert!(
            ended.stderr.contains("there is no database in"),
            "{}",
            ended.stderr
        );
        assert_eq!(
            folder.path().read_dir().unwrap().count(),
            0,
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_makes_a_sleeping_step_due_and_a_running_service_takes_it_up() {
    let sim = sim();
    let url = database_url().await;
    let mut environment = settings(&sim);
    environment.extend(at(&url));
    let server = Server::start(&["serve"], &environment).await;
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let id = Uuid::new_v4();
    client
        .callback("failure", id, &json!({"may_exist": ["server"]}))
        .await;
    let pool = PgPool::connect(&url).await.unwrap();
    let waits = "select count(*) from steps where searches and resource = 'server'
                 and state = 'waiting' and tries > 0";
    until(&pool, waits, 1).await;
    let fence = "select fence from steps where searches and resource = 'server'";
    let before: i64 = sqlx::query_scalar(fence).fetch_one(&pool).await.unwrap();
    let ended = run(command(&["rollback", &id.to_string()], &at(&url))).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // Asked for, claimed, reported: three writers, each of which bumps it.
    let deadline = Instant::now() + PATIENCE;
    while before + 3
        > sqlx::query_scalar::<_, i64>(fence)
            .fetch_one(&pool)
            .await
            .unwrap()
    {
        assert!(Instant::now() < deadline, "nobody took it up");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn until(pool: &PgPool, count: &'static str, is: i64) {
    let deadline = Instant::now() + PATIENCE;
    while is
        != sqlx::query_scalar::<_, i64>(count)
            .fetch_one(pool)
            .await
            .unwrap()
    {
        assert!(Instant::now() < deadline, "not {is}: {count}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

const SENT: &str = "select count(*) from dispatches where state = 'sent'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_dispatches_with_what_sim_exports_and_not_without_a_credential() {
    let sim = sim();
    for (token, repository, dispatches) in [
        (true, "example/agents", true),
        // A repository alone is whose workflows may call us.
        (false, "example/agents", false),
        (false, "1296269", false),
        (false, "", false),
    ] {
        let url = database_url().await;
        let mut environment = settings(&sim);
        environment.extend(at(&url));
        environment.push((
            "BACKSTOP_GITHUB_REPOSITORY".to_owned(),
            repository.to_owned(),
        ));
        if !token {
            environment.push(("GITHUB_TOKEN".to_owned(), String::new()));
        }
        let before = sim.runs().len();
        let server = Server::start(&["serve"], &environment).await;
        let (_urls, seen) = watch::channel(vec![server.url.clone()]);
        let id = Client::new(seen).ask_for_one().await.unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        until(&pool, SENT, i64::from(dispatches)).await;
        until(
            &pool,
            "select count(*) from dispatches",
            i64::from(dispatches),
        )
        .await;
        let runs = sim.runs().split_off(before);
        let of: Vec<&String> = runs.iter().map(|run| &run.inputs["provision_id"]).collect();
        assert_eq!(of.len(), usize::from(dispatches));
        assert!(of.iter().all(|it| **it == id.to_string()), "{of:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sim_prints_what_to_export() {
    let server = Server::start(&["sim", "--listen", "127.0.0.1:0"], &[]).await;
    for name in [
        "HCLOUD_TOKEN",
        "HCLOUD_ENDPOINT",
        "TAILSCALE_OAUTH_CLIENT_ID",
        "TAILSCALE_OAUTH_CLIENT_SECRET",
        "TAILSCALE_TAILNET",
        "TAILSCALE_BASE_URL",
        "GITHUB_TOKEN",
        "GITHUB_API_URL",
        "BACKSTOP_GITHUB_REPOSITORY",
    ] {
        let start = format!("export {name}=");
        let said = server.printed.iter().find(|line| line.starts_with(&start));
        assert!(
            said.is_some_and(|line| line.len() > start.len()),
            "{name}: {:?}",
            server.printed
        );
    }
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_logged_even_when_everything_is() {
    let sim = sim();
    let url = database_url().await;
    let password = "pa55word-of-the-database";
    let with_password = url.replacen('@', &format!(":{password}@"), 1);
    let mut environment = settings(&sim);
    environment.extend(at(&with_password));
    environment.push(("RUST_LOG".to_owned(), "trace".to_owned()));
    // Nobody there takes it, which is logged.
    let webhook_token = "t0ken-of-the-webhook";
    let webhook_url = format!("http://{}/hook?token={webhook_token}", sim.address());
    environment.push(("BACKSTOP_WEBHOOK_URL".to_owned(), webhook_url));
    let webhook_secret = "whsec_d2ViaG9vay1zZWNyZXQtb2YtdGhlLW9wZXJhdG9ycw==";
    environment.push((
        "BACKSTOP_WEBHOOK_SECRET".to_owned(),
        webhook_secret.to_owned(),
    ));
    let server = Server::start(&["serve"], &environment).await;
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let book = Arc::new(Book::default());
    assert!(client.ask_for_one().await.is_some());
    // A wrong token makes errors, and a renewed one.
    sim.fault(backstop::sim::Fault::on(
        backstop::sim::Vendor::Tailscale,
        "GET",
        "**",
        backstop::sim::FaultKind::status(401),
    ));
    fail_many(&client, &sim, &book, 3, 3).await;
    let pool = PgPool::connect(&url).await.unwrap();
    settle_all(&pool).await;
    until(&pool, SENT, 1).await;
    let deadline = Instant::now() + PATIENCE;
    while !server.log().contains("the webhook was not told") {
        assert!(Instant::now() < deadline, "the webhook was not tried");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let log = server.log();
    assert!(log.contains("TRACE"), "no trace was logged");
    let options = sim.options();
    for secret in [
        SECRET,
        SECRET.trim_start_matches("whsec_"),
        READER,
        OPERATOR,
        password,
        webhook_token,
        webhook_secret,
        webhook_secret.trim_start_matches("whsec_"),
        options.hcloud_token.as_str(),
        options.oauth_client_secret.as_str(),
        options.github_token.as_str(),
    ] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
    // Access tokens that the OAuth client was issued.
    assert!(!log.contains("tskey-"), "the log shows a token");
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cause_of_a_500_is_logged_under_the_requests_id() {
    let sim = sim();
    let url = database_url().await;
    let mut environment = settings(&sim);
    environment.extend(at(&url));
    let server = Server::start(&["serve"], &environment).await;
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let id = Uuid::new_v4();
    client.callback("started", id, &json!({})).await;
    // What no version of the program writes.
    let pool = PgPool::connect(&url).await.unwrap();
    sqlx::query("update attempts set server_ip = 'nowhere'")
        .execute(&pool)
        .await
        .unwrap();
    let (status, problem) = client
        .callback_once("progress", id, &json!({"step": "booted"}))
        .await
        .unwrap();
    assert_eq!((status, &problem["code"]), (500, &json!("internal")));
    assert!(!problem.to_string().contains("server_ip"), "{problem}");
    let (log, request_id) = (server.log(), problem["request_id"].as_str().unwrap());
    let told = |line: &&str| line.contains("server_ip") && line.contains(request_id);
    assert!(log.lines().any(|line| told(&line)), "{log}");
}
