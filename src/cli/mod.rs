//! `backstop list`, `show` and `watch`: what a running service shows, for people and scripts.
//!
//! They talk to it over HTTP as any dashboard does. Answers are taken as they come, so that a server of
//! another version is shown too, and printed without control characters: what a workflow says must
//! not move anybody's cursor.

mod server;
mod text;

use std::io::{ErrorKind, Write};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use secrecy::SecretString;
use serde_json::Value;

use crate::domain::names::ProvisionId;
use server::{Server, Stream};

/// Which server, and by which token.
#[derive(Debug, Clone, Args)]
pub struct ServerSettings {
    /// Where the service is
    #[arg(
        long,
        env = "BACKSTOP_URL",
        value_name = "BACKSTOP_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,

    /// Bearer token of the status API
    #[arg(
        long,
        env = "BACKSTOP_READ_TOKEN",
        value_name = "BACKSTOP_READ_TOKEN",
        hide_env_values = true
    )]
    read_token: Option<SecretString>,

    /// The operator's does as well
    #[arg(
        long,
        env = "BACKSTOP_OPERATOR_TOKEN",
        value_name = "BACKSTOP_OPERATOR_TOKEN",
        hide_env_values = true
    )]
    operator_token: Option<SecretString>,

    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What `list` takes.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// queued, provisioning, running, failed or destroyed
    #[arg(long)]
    status: Option<String>,
    /// With this agent id
    #[arg(long)]
    agent_id: Option<String>,
    /// pending, done or stuck
    #[arg(long)]
    rollback: Option<String>,
    /// How many, up to 200
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Where to go on: `next_cursor` of the page before
    #[arg(long)]
    cursor: Option<String>,
    /// Which server.
    #[command(flatten)]
    server: ServerSettings,
}

/// What `show` takes.
#[derive(Debug, Clone, Args)]
pub struct Show {
    /// The provision
    id: ProvisionId,
    /// Which server.
    #[command(flatten)]
    server: ServerSettings,
}

/// What `watch` takes.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Only this provision, beginning with what it is now
    id: Option<ProvisionId>,
    /// Which server.
    #[command(flatten)]
    server: ServerSettings,
}

/// The first pause before a stream that broke off is taken up again; doubled each time.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Prints a page of provisions, newest first.
///
/// # Errors
/// One sentence: the server cannot be reached, or refuses.
pub async fn list(asked: List) -> anyhow::Result<()> {
    let server = Server::new(&asked.server)?;
    let limit = asked.limit.to_string();
    let query: Vec<(&str, &str)> = [
        ("status", asked.status.as_deref()),
        ("agent_id", asked.agent_id.as_deref()),
        ("rollback", asked.rollback.as_deref()),
        ("limit", Some(&*limit)),
        ("cursor", asked.cursor.as_deref()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let page = server.get(&["v1", "provisions"], &query).await?;
    if asked.server.json {
        return print_json(&page);
    }
    print(&text::list(&page["provisions"]))?;
    if let Some(cursor) = page["next_cursor"].as_str() {
        eprintln!("there are more: --cursor {cursor}");
    }
    Ok(())
}

/// Prints a provision with its steps and its history.
///
/// # Errors
/// One sentence: the server cannot be reached, refuses, or does not know the provision.
pub async fn show(asked: Show) -> anyhow::Result<()> {
    let server = Server::new(&asked.server)?;
    let id = asked.id.to_string();
    let mut provision = server.get(&["v1", "provisions", &id], &[]).await?;
    let history = server
        .get(&["v1", "provisions", &id, "events"], &[])
        .await?;
    if asked.server.json {
        provision["events"] = history["events"].clone();
        return print_json(&provision);
    }
    print(&text::provision(&provision))?;
    print(&text::history(&history["events"]))
}

/// Prints a line for each change, until it is interrupted. A stream that breaks off is taken up where
/// it was.
///
/// # Errors
/// One sentence: the server refuses. One that cannot be reached is asked again, once it was.
pub async fn watch(asked: Watch) -> anyhow::Result<()> {
    let server = Server::new(&asked.server)?;
    let only = asked.id.map(|id| id.to_string());
    let tell = |provision: &Value| {
        if only.as_deref().is_some_and(|id| provision["id"] != id) {
            Ok(())
        } else if asked.server.json {
            print(&format!("{provision}\n"))
        } else {
            print(&text::line(provision))
        }
    };
    let mut stream = server.stream(None).await?;
    if let Some(id) = &only {
        tell(&server.get(&["v1", "provisions", id], &[]).await?)?;
    } else if !asked.server.json {
        print(&text::line_head())?;
    }
    loop {
        while let Some(provision) = stream.next().await {
            tell(&provision)?;
        }
        stream = again(&server, &stream).await?;
    }
}

async fn again(server: &Server, stream: &Stream) -> anyhow::Result<Stream> {
    eprintln!("the stream broke off; it is taken up again");
    let mut pause = RECONNECT_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        match server.stream(stream.last_id()).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.is_final() => bail!(error),
            Err(_) => pause = LONGEST_PAUSE.min(pause * 2),
        }
    }
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{value:#}\n"))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has had enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        printed => Ok(printed?),
    }
}
