//! The commands that ask a running service.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use backstop::sim::{Sim, SimOptions};
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::child::{Ended, Server, command, database_url, run, settings};
use crate::harness::READER;
use crate::workflows::Client;

fn as_reader(url: &str) -> Vec<(String, String)> {
    [("BACKSTOP_URL", url), ("BACKSTOP_READ_TOKEN", READER)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// A service with a provision that failed and left nothing.
async fn with_one_provision() -> (Server, Client, Uuid) {
    let sim = Arc::new(Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap());
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), database_url().await));
    let server = Server::start(&["serve"], &environment).await;
    let (_urls, seen) = watch::channel(vec![server.url.clone()]);
    let client = Client::new(seen);
    let id = Uuid::new_v4();
    let fields = json!({"may_exist": [], "error": "it\u{1b}[31m broke"});
    client.callback("failure", id, &fields).await;
    (server, client, id)
}

fn one_line(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    &ended.stderr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_and_show_print_for_people_and_for_scripts() {
    let (server, _client, id) = with_one_provision().await;
    let reader = as_reader(&server.url);
    let said = async |arguments: &[&str]| {
        let ended = run(command(arguments, &reader)).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    let id = id.to_string();
    let table = said(&["list"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("provision ") && lines.len() == 2,
        "{table}"
    );
    assert!(
        lines[1].starts_with(&id) && lines[1].contains(" failed "),
        "{table}"
    );
    assert_eq!(
        said(&["list", "--status", "running"]).await,
        "no provisions\n"
    );
    let page: Value = serde_json::from_str(&said(&["list", "--json"]).await).unwrap();
    assert_eq!(page["provisions"][0]["id"], *id);

    let shown = said(&["show", &id]).await;
    // What a workflow says must not move anybody's cursor.
    assert!(
        shown.contains("it [31m broke") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    for part in ["rollback ", "server", "history", "callback.failure"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown: Value = serde_json::from_str(&said(&["show", &id, "--json"]).await).unwrap();
    assert_eq!(shown["error"], "it\u{1b}[31m broke");
    assert_eq!(shown["events"][0]["kind"], "created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_tells_what_changes() {
    let (server, client, _) = with_one_provision().await;
    let mut child = command(&["watch", "--json"], &as_reader(&server.url))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    // It may not have begun to watch when the first of these is written.
    let mut written = Vec::new();
    let told = loop {
        let id = Uuid::new_v4();
        client.callback("started", id, &json!({})).await;
        written.push(id.to_string());
        let patience = std::time::Duration::from_millis(500);
        match tokio::time::timeout(patience, told.recv()).await {
            Ok(told) => break told.unwrap(),
            Err(_) => assert!(written.len() < 100),
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let told = told["id"].as_str().unwrap().to_owned();
    assert!(told.len() == 36, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_one_sentence() {
    let (server, _client, _) = with_one_provision().await;
    let reader = as_reader(&server.url);
    let unknown = Uuid::new_v4().to_string();
    let ended = run(command(&["show", &unknown], &reader)).await;
    assert!(one_line(&ended).contains("there is no provision with this id"));
    let ended = run(command(&["list", "--status", "lost"], &reader)).await;
    assert!(one_line(&ended).contains("status must be"));
    let ended = run(command(&["watch"], &as_reader("http://127.0.0.1:9"))).await;
    assert!(one_line(&ended).contains("http://127.0.0.1:9/"));
    let mut wrong = reader.clone();
    wrong[1].1 = "very-secret-value".to_owned();
    for arguments in [&["list"][..], &["watch"], &["show", &unknown]] {
        let ended = run(command(arguments, &wrong)).await;
        assert!(one_line(&ended).contains("BACKSTOP_READ_TOKEN"));
        assert!(!ended.stderr.contains("very-secret-value"));
    }
    for url in ["nowhere", "ftp://a.example", "http://me:pw@a.example"] {
        let ended = run(command(&["list"], &as_reader(url))).await;
        assert!(one_line(&ended).contains("BACKSTOP_URL"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_prints_what_is_served() {
    let ended = run(command(&["openapi"], &[])).await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stdout, backstop::http::openapi::document());
    assert!(ended.stdout.contains("\"openapi\": \"3.1.0\""));
}
