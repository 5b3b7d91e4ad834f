//! The page in a real Chromium: see `browser`.
//!
//! `tests/page/run.sh` installs what it needs and runs it. By itself this only runs where
//! `BACKSTOP_CHROMIUM` names the program and `BACKSTOP_NODE_MODULES` the packages.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../harness/mod.rs"]
mod harness;
mod seed;

use std::io::Write as _;
use std::process::Stdio;

use harness::{OPERATOR, READER, SECRET, Service};
use tokio::process::Command;

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page");

#[tokio::test(flavor = "multi_thread")]
async fn the_page_does_what_it_says_in_a_browser() {
    if std::env::var_os("BACKSTOP_CHROMIUM").is_none() {
        // Not `println!`: what a test prints is shown only when it fails.
        writeln!(
            std::io::stderr(),
            "\nNOT TESTED: the page in a browser (tests/page/run.sh does)"
        )
        .unwrap();
        return;
    }
    let empty = Service::start().await;
    // One in which things are done, and one that is only looked at.
    let busy = Service::start_with(seed::options()).await;
    seed::seed(&busy).await;
    let night = Service::start_with(seed::options()).await;
    seed::seed(&night).await;

    let output = Command::new("node")
        .args(["--test", "--test-reporter=spec"])
        .current_dir(TESTS)
        .env("EMPTY_URL", empty.url(""))
        .env("BUSY_URL", busy.url(""))
        .env("NIGHT_URL", night.url(""))
        .env("SIM_URL", format!("http://{}", busy.sim.address()))
        .env("READ_TOKEN", READER)
        .env("OPERATOR_TOKEN", OPERATOR)
        .env("CALLBACK_SECRET", SECRET)
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .status()
        .await
        .unwrap();
    assert!(output.success());
}
