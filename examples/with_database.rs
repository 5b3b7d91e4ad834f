//! Runs a command with `DATABASE_URL` set to a private Postgres that has every migration of
//! `./migrations`, and ends with the command's exit code:
//!
//! ```text
//! cargo run --example with_database -- cargo sqlx prepare
//! ```
//!
//! Migrations are read when it runs, so one that was built before a query was changed still does.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use backstop::postgres::PrivatePostgres;
use sqlx::migrate::Migrator;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().context("usage: with_database COMMAND …")?;

    let postgres = PrivatePostgres::start_temporary().await?;
    let pool = sqlx::PgPool::connect_with(postgres.options()).await?;
    Migrator::new(Path::new("migrations"))
        .await?
        .run(&pool)
        .await?;
    pool.close().await;

    let status = Command::new(&program)
        .args(arguments)
        .env("DATABASE_URL", postgres.url())
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    postgres.stop().await?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
