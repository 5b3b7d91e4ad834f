//! What the database holds, to be compared, and what was logged.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

/// What people and workers go by.
const TABLES: [&str; 9] = [
    "provisions",
    "attempts",
    "steps",
    "events",
    "dispatches",
    "notices",
    "orphans",
    "github_deliveries",
    "witness",
];

/// Every row of these tables, as text, in an order of its own.
pub async fn whole(pool: &PgPool) -> Vec<String> {
    let mut rows = Vec::new();
    for table in TABLES {
        let query = format!("select to_jsonb(t) from {table} t order by to_jsonb(t)::text");
        let found: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(pool)
            .await
            .unwrap();
        rows.extend(found.iter().map(|row| format!("{table} {row}")));
    }
    rows
}

/// The rows that are in one and not in the other, marked as in a patch.
pub fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let missing = before.iter().filter(|row| !after.contains(row));
    let added = after.iter().filter(|row| !before.contains(row));
    missing
        .map(|row| format!("- {row}"))
        .chain(added.map(|row| format!("+ {row}")))
        .collect()
}

/// What the whole process has logged since [`listen`] was first called.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter("backstop=debug")
        .with_writer(move || sink.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    log
});

/// Begins to keep what is logged.
pub fn listen() {
    LazyLock::force(&LOG);
}

/// What was logged.
pub fn logged() -> String {
    String::from_utf8(LOG.0.lock().unwrap().clone()).unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
