//! What must not be there is not there: the imports that ARCHITECTURE.md rules out.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below a folder, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no source");
    found
}

/// Code without comments, so that a mention is no use.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .filter(|line| !line.trim().is_empty())
}

#[track_caller]
fn nothing_below(folder: &str, uses: &[&str]) {
    for (path, text) in sources(folder) {
        for line in code(&text) {
            for name in uses {
                assert!(!line.contains(name), "{}: {}", path.display(), line.trim());
            }
        }
    }
}

#[test]
fn domain_imports_nobody_and_does_no_io() {
    let others = [
        "crate::app",
        "crate::budget",
        "crate::check",
        "crate::config",
        "crate::demo",
        "crate::dispatch",
        "crate::http",
        "crate::metrics",
        "crate::oidc",
        "crate::postgres",
        "crate::providers",
        "crate::rollback",
        "crate::sim",
        "crate::store",
        "crate::sweep",
        "crate::witness",
        "sqlx",
        "reqwest",
        "tokio",
        "axum",
        "tracing",
    ];
    nothing_below("src/domain", &others);
}

#[test]
fn http_calls_no_vendor_and_no_worker() {
    nothing_below(
        "src/http",
        &[
            "crate::providers",
            "crate::budget",
            "crate::check",
            "rollback::worker",
            "crate::dispatch",
            "witness::asker",
            "crate::sim",
            "reqwest",
        ],
    );
}

#[test]
fn rollback_knows_no_http_of_ours() {
    nothing_below(
        "src/rollback",
        &[
            "crate::http",
            "crate::sweep",
            "axum",
            "crate::sim",
            "crate::dispatch",
        ],
    );
}

#[test]
fn a_sweep_deletes_nothing_itself() {
    nothing_below(
        "src/sweep",
        &[
            "delete_server",
            "delete_device",
            "delete_key",
            "crate::http",
            "crate::sim",
            "axum",
        ],
    );
}

#[test]
fn watch_calls_no_vendor_and_knows_no_http_of_ours() {
    nothing_below(
        "src/watch",
        &[
            "crate::http",
            "crate::providers",
            "rollback::worker",
            "axum",
            "crate::sim",
        ],
    );
}

#[test]
fn the_witness_deletes_nothing_and_knows_no_http_of_ours() {
    nothing_below(
        "src/witness",
        &["crate::http", "crate::sim", "rollback::worker", "axum"],
    );
}

#[test]
fn store_and_providers_know_nothing_above_them() {
    let above = [
        "crate::http",
        "crate::rollback",
        "crate::sweep",
        "crate::dispatch",
        "crate::witness",
        "crate::app",
        "crate::check",
        "crate::sim",
        "crate::demo",
    ];
    nothing_below("src/store", &above);
    nothing_below("src/providers", &above);
    nothing_below("src/providers", &["crate::store", "crate::budget", "sqlx"]);
}

#[test]
fn nothing_is_counted_for_the_whole_process() {
    let global = [
        "set_global_recorder",
        "install_recorder",
        "counter!(",
        "gauge!(",
        "histogram!(",
    ];
    nothing_below("src", &global);
}

#[test]
fn the_simulation_shares_nothing_with_the_clients_and_only_the_demo_uses_it() {
    let ours = [
        "crate::providers",
        "crate::domain",
        "crate::store",
        "crate::http",
        "crate::rollback",
        "crate::dispatch",
        "crate::config",
    ];
    nothing_below("src/sim", &ours);
    for (path, text) in sources("src") {
        let may = ["demo", "sim"]
            .iter()
            .any(|part| path.iter().any(|p| p == *part))
            || path.ends_with("main.rs");
        assert!(
            may || code(&text).all(|line| !line.contains("crate::sim")),
            "{}",
            path.display()
        );
    }
}

#[test]
fn sql_lives_in_store_and_postgres_only() {
    for (path, text) in sources("src") {
        let may = ["store", "postgres"]
            .iter()
            .any(|part| path.iter().any(|p| p == *part));
        let queries = code(&text).any(|line| {
            ["sqlx::query", "query!(", "query_as!(", "query_scalar!("]
                .iter()
                .any(|q| line.contains(q))
        });
        assert!(may || !queries, "{}", path.display());
    }
}

#[test]
fn http_clients_are_built_in_one_place() {
    for (path, text) in sources("src") {
        let builds = code(&text).any(|line| {
            line.contains("reqwest::Client::builder") || line.contains("reqwest::Client::new")
        });
        assert!(
            !builds || path.ends_with("providers/http.rs"),
            "{}",
            path.display()
        );
    }
}

/// What comes back to sqlx's own pool comes back without a bound.
#[test]
fn connections_are_lent_by_store_only() {
    for (path, text) in sources("src") {
        let may = path.iter().any(|part| part == "store");
        assert!(
            may || code(&text).all(|line| !line.contains("PgPool")),
            "{}",
            path.display()
        );
    }
}

/// Where anything is sent is the settings' matter: nobody else makes a client of a vendor's, of the
/// issuer's or of the operators' webhook, so that no address comes out of what a caller or a vendor said.
#[test]
fn addresses_come_from_the_settings_alone() {
    let made = [
        "Hetzner::new(",
        "Tailscale::new(",
        "GitHub::new(",
        "Issuer::new(",
        "Webhook::new(",
        "status_client(",
        "loopback_client(",
    ];
    for (path, text) in sources("src") {
        let may = ["config", "demo", "sim", "cli", "providers"]
            .iter()
            .any(|part| path.iter().any(|p| p == *part))
            || ["config.rs", "signing.rs"]
                .iter()
                .any(|file| path.ends_with(file));
        let product = text.split("#[cfg(test)]").next().unwrap();
        for line in code(product) {
            let makes = made.iter().any(|name| line.contains(name));
            assert!(may || !makes, "{}: {}", path.display(), line.trim());
        }
    }
}

/// What a caller says of hosts is compared, in forms of the page, and never used.
#[test]
fn no_answer_is_made_of_what_a_caller_says_of_hosts() {
    for (path, text) in sources("src/http") {
        let text = text.to_ascii_lowercase();
        for line in code(&text) {
            let names = [
                "header::host",
                "host,",
                "\"host\"",
                "forwarded-host",
                "\"forwarded\"",
            ];
            let uses = names.iter().any(|name| line.contains(name));
            let may = path.ends_with("http/session.rs");
            assert!(may || !uses, "{}: {}", path.display(), line.trim());
        }
    }
}
