//! Bounds and secrets, the same for all vendors.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::providers::github::{GitHubCredential, Repository};
use backstop::providers::tailscale::TailscaleCredential;
use backstop::providers::{GitHub, Hetzner, Tailscale, Timeouts};
use serde_json::json;
use tokio::net::TcpListener;

use crate::app_key::APP_KEY;
use crate::canned::{
    CLIENT_SECRET, GITHUB_TOKEN, TOKEN, kind, serve, text, token_answer, workflow,
};

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_held() {
    let huge = " ".repeat(17 * 1024 * 1024);
    let vendor = serve(move |_| text(200, &huge)).await;
    let error = vendor.hetzner().servers_by_label("a").await.unwrap_err();
    assert_eq!(kind(&error), "Unavailable");
    assert!(error.to_string().contains("more than"), "{error}");
}

#[tokio::test]
async fn a_refusal_with_a_huge_body_is_still_a_refusal() {
    let huge = " ".repeat(1024 * 1024);
    let vendor = serve(move |_| text(401, &huge)).await;
    let error = vendor.hetzner().server(42).await.unwrap_err();
    assert_eq!(kind(&error), "Unauthorized");
}

#[tokio::test]
async fn no_token_follows_a_redirect() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = serve(|_| text(200, "{}")).await;
        let target = format!("{}/v1/servers/42", elsewhere.url);
        let vendor = serve(move |_| text(status, "").header("location", &target)).await;
        let errors = [
            vendor.hetzner().server(42).await.unwrap_err(),
            vendor.hetzner().delete_server(42).await.unwrap_err(),
            vendor.tailscale().devices().await.unwrap_err(),
            vendor.tailscale_by_oauth().devices().await.unwrap_err(),
            vendor
                .github()
                .dispatch(&BTreeMap::new())
                .await
                .unwrap_err(),
            vendor
                .github_by_app()
                .dispatch(&BTreeMap::new())
                .await
                .unwrap_err(),
        ];
        for error in errors {
            assert_eq!(kind(&error), "Unavailable", "{error}");
            assert!(error.to_string().contains("redirect"), "{error}");
        }
        assert_eq!(elsewhere.lines(), [""; 0]);
    }
}

#[tokio::test]
async fn a_vendor_that_does_not_answer_is_unavailable() {
    let short = Timeouts {
        connect: Duration::from_millis(100),
        request: Duration::from_millis(100),
        list: Duration::from_secs(5),
    };
    // It takes connections and requests, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1", silent.local_addr().unwrap());
    let hetzner = Hetzner::new(&endpoint, &TOKEN.into()).unwrap();
    let hetzner = hetzner.with_timeouts(short).unwrap();
    let error = hetzner.delete_server(42).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "hetzner DELETE /v1/servers/42: timed out"
    );
    assert_eq!((kind(&error), error.call().status()), ("Unavailable", None));

    let short_list = Timeouts {
        list: Duration::from_millis(50),
        ..Timeouts::default()
    };
    let hetzner = hetzner.with_timeouts(short_list).unwrap();
    let error = hetzner.servers_by_label("a").await.unwrap_err();
    assert_eq!(error.to_string(), "hetzner GET /v1/servers: timed out");

    drop(silent);
    let error = hetzner.delete_server(42).await.unwrap_err();
    assert!(error.to_string().contains("could not connect"), "{error}");
    assert_eq!(kind(&error), "Unavailable");
}

#[tokio::test]
async fn settings_that_cannot_work_are_named_and_not_shown() {
    for token in ["", "secret\n", "secret two", "sécret"] {
        let error = Hetzner::new("http://localhost/v1", &token.into()).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(
            said.contains("HCLOUD_TOKEN") && !said.contains("cret"),
            "{said}"
        );

        let client = TailscaleCredential::OAuth {
            client_id: "id".to_owned(),
            client_secret: token.into(),
        };
        let error = Tailscale::new("http://localhost", "-", client).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(
            said.contains("TAILSCALE_OAUTH_CLIENT_SECRET") && !said.contains("cret"),
            "{said}"
        );

        let token = GitHubCredential::Token(token.into());
        let error = GitHub::new("http://localhost", workflow(), &token).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(
            said.contains("GITHUB_TOKEN") && !said.contains("cret"),
            "{said}"
        );
    }
    for endpoint in [
        "",
        "api.hetzner.cloud",
        "ftp://x/v1",
        "https://me:secret@x/v1",
        "https://x/?a=secret",
    ] {
        let error = Hetzner::new(endpoint, &TOKEN.into())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HCLOUD_ENDPOINT") && !error.contains("secret"),
            "{error}"
        );
    }
    let token = GitHubCredential::Token(GITHUB_TOKEN.into());
    for (setting, file, git_ref) in [
        ("BACKSTOP_GITHUB_WORKFLOW", "", "main"),
        (
            "BACKSTOP_GITHUB_WORKFLOW",
            ".github/workflows/a.yml",
            "main",
        ),
        ("BACKSTOP_GITHUB_WORKFLOW", "..", "main"),
        ("BACKSTOP_GITHUB_REF", "a.yml", ""),
        ("BACKSTOP_GITHUB_REF", "a.yml", "main\n"),
    ] {
        let mut workflow = workflow();
        (workflow.file, workflow.git_ref) = (file.to_owned(), git_ref.to_owned());
        let error = GitHub::new("http://localhost", workflow, &token).unwrap_err();
        assert!(error.to_string().contains(setting), "{error}");
    }
    for repository in [
        "",
        "agents",
        "/agents",
        "octo-org/",
        "a/b/c",
        "a/..",
        "a b/c",
        "é/c",
    ] {
        let error = Repository::parse(repository).unwrap_err().to_string();
        assert!(error.contains("BACKSTOP_GITHUB_REPOSITORY"), "{error}");
    }
    let public = APP_KEY.public.replace("PUBLIC", "RSA PRIVATE");
    for (setting, id, private_key) in [
        ("GITHUB_APP_PRIVATE_KEY", "1", "secret"),
        ("GITHUB_APP_PRIVATE_KEY", "1", APP_KEY.public.as_str()),
        ("GITHUB_APP_PRIVATE_KEY", "1", &public),
        ("GITHUB_APP_ID", "", &APP_KEY.private),
        ("GITHUB_APP_ID", "1\n", &APP_KEY.private),
    ] {
        let app = GitHubCredential::App {
            id: id.to_owned(),
            private_key: private_key.into(),
        };
        let error = GitHub::new("http://localhost", workflow(), &app).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains(setting) && !said.contains("MII"), "{said}");
    }
    for tailnet in ["", ".", "..", "a/b", "a b"] {
        let key = TailscaleCredential::ApiKey("key".into());
        assert!(
            Tailscale::new("http://localhost", tailnet, key).is_err(),
            "{tailnet}"
        );
    }
}

#[tokio::test]
async fn secrets_are_in_no_log_error_or_debug() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = LogSink(log.clone());
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || sink.clone())
        .finish();
    // For the whole process: what the other tests log must hold no secret either.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let echo = format!("{TOKEN} {CLIENT_SECRET} tskey-api-secret minted-token in the body");
    let vendor = serve(move |seen| match seen.line.as_str() {
        "POST /api/v2/oauth/token" => token_answer("minted-token", 3600),
        "GET /repos/octo-org/agents/installation" => text(200, r#"{"id": 7}"#),
        "POST /app/installations/7/access_tokens" => text(201, r#"{"token": "ghs_secret"}"#),
        _ => text(200, &json!({"servers": echo, "devices": echo}).to_string()),
    })
    .await;
    let (hetzner, by_key) = (vendor.hetzner(), vendor.tailscale());
    let by_oauth = vendor.tailscale_by_oauth();
    let (by_token, by_app) = (vendor.github(), vendor.github_by_app());
    let errors = [
        hetzner.servers_by_label("a").await.unwrap_err(),
        by_key.devices().await.unwrap_err(),
        by_oauth.devices().await.unwrap_err(),
        by_token.dispatch(&BTreeMap::new()).await.unwrap_err(),
        by_app.dispatch(&BTreeMap::new()).await.unwrap_err(),
    ];
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert!(log.contains("vendor=\"hetzner\""), "{log}");
    assert!(
        log.contains("path=\"/api/v2/tailnet/-/devices\" status=200"),
        "{log}"
    );
    let said = format!(
        "{log} {hetzner:?} {by_key:?} {by_oauth:?} {by_token:?} {by_app:?} {errors:?} {errors:#?}"
    );
    for secret in [
        TOKEN,
        CLIENT_SECRET,
        "tskey-api-secret",
        "minted-token",
        GITHUB_TOKEN,
        "ghs_secret",
        // The beginning of every proof that an app signs.
        "eyJ",
        "PRIVATE KEY",
        "in the body",
    ] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
}

#[derive(Clone)]
struct LogSink(Arc<Mutex<Vec<u8>>>);

impl Write for LogSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
