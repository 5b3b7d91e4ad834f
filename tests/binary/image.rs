//! The image's health check goes by `BACKSTOP_LISTEN`.

use std::process::Command;

use backstop::sim::{Sim, SimOptions};

use crate::child::{Server, database_url, settings};

fn is_healthy(listen: &str) -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/image/healthy.sh");
    let ended = Command::new("bash")
        .arg(script)
        .env("BACKSTOP_LISTEN", listen)
        .output()
        .unwrap();
    ended.status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_ready_is_healthy_at_whichever_port_it_has() {
    let sim = Sim::start(([127, 0, 0, 1], 0).into(), SimOptions::default()).unwrap();
    let mut environment = settings(&sim);
    environment.push(("DATABASE_URL".to_owned(), database_url().await));
    let server = Server::start(&["serve"], &environment).await;
    let (_, port) = server.url.rsplit_once(':').unwrap();
    for host in ["127.0.0.1", "0.0.0.0", "[::]"] {
        assert!(is_healthy(&format!("{host}:{port}")), "{host}");
    }
    // It answers, and is no service that is ready.
    assert!(!is_healthy(&sim.address().to_string()));
    let port = port.to_owned();
    let (code, _) = server.terminate().await;
    assert_eq!(code, Some(0));
    assert!(!is_healthy(&format!("127.0.0.1:{port}")));
}
