//! Every setting: its variable, type, unit and default.
//!
//! Flags and variables are parsed into [`Settings`] by clap and checked into [`Config`], which
//! can be trusted: nothing half-set, nothing empty. Secrets are redacted in `Debug`.

mod access;
mod database_url;
mod github;
mod oidc;
mod vendors;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

use crate::domain::backoff::Backoff;
use crate::domain::budget::Reserve;
use crate::domain::orphans::Mandate;
use crate::domain::overdue::Patience;
use crate::http::cors::Origins;
use crate::http::failures::Rate;
use crate::http::github::Webhooks;
use crate::http::page;
use crate::http::proof::ProofOfCaller;
use crate::http::serve::Limits;
use crate::http::tokens::Tokens;
use crate::providers::{GitHub, Hetzner, Tailscale, Webhook};
use crate::rollback::worker;
use crate::sweep::periodic;
use crate::watch;
use access::AccessSettings;
use github::GitHubSettings;
use oidc::OidcSettings;

pub use vendors::VendorSettings;

/// A setting that cannot be used. Names the variable, never a secret's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Where the database is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseSettings {
    /// Postgres 15 or newer; unset: a private Postgres
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "DATABASE_URL",
        hide_env_values = true
    )]
    pub database_url: Option<SecretString>,

    /// Where the private Postgres lives [default: /var/lib/backstop as root, else the user's data
    /// folder]
    #[arg(long, env = "BACKSTOP_DATA_DIR", value_name = "BACKSTOP_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Size of the connection pool
    #[arg(
        long,
        env = "BACKSTOP_DATABASE_CONNECTIONS",
        value_name = "BACKSTOP_DATABASE_CONNECTIONS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(3..=1000)
    )]
    pub database_connections: u32,
}

/// What `serve` takes.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Where the database is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Address of the HTTP server; port 0: any
    #[arg(
        long,
        env = "BACKSTOP_LISTEN",
        value_name = "BACKSTOP_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,

    /// Our own URL as workflows see it; another one than before holds whatever goes by time
    #[arg(long, env = "BACKSTOP_PUBLIC_URL", value_name = "BACKSTOP_PUBLIC_URL")]
    pub public_url: Option<String>,

    /// The vendors.
    #[command(flatten)]
    pub vendors: VendorSettings,

    /// The workflow that provisions.
    #[command(flatten)]
    pub github: GitHubSettings,

    /// The tokens of its jobs.
    #[command(flatten)]
    pub oidc: OidcSettings,

    /// Secrets of signed callbacks, `whsec_…`, comma separated for rotation
    #[arg(
        long,
        env = "BACKSTOP_CALLBACK_SECRETS",
        value_name = "BACKSTOP_CALLBACK_SECRETS",
        hide_env_values = true
    )]
    pub callback_secrets: Option<SecretString>,

    /// Who reads and operates, and what clients may take.
    #[command(flatten)]
    pub access: AccessSettings,

    /// Origins whose pages may call the API from a browser, comma separated
    #[arg(
        long,
        env = "BACKSTOP_CORS_ORIGINS",
        value_name = "BACKSTOP_CORS_ORIGINS"
    )]
    pub cors_origins: Option<String>,

    /// Where it is told what settles, gets stuck or is found, as a Standard Webhook
    #[arg(
        long,
        env = "BACKSTOP_WEBHOOK_URL",
        value_name = "BACKSTOP_WEBHOOK_URL",
        hide_env_values = true
    )]
    pub webhook_url: Option<SecretString>,

    /// Its secret, `whsec_…`
    #[arg(
        long,
        env = "BACKSTOP_WEBHOOK_SECRET",
        value_name = "BACKSTOP_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    pub webhook_secret: Option<SecretString>,

    /// From `started`, or creation, to a terminal callback
    #[arg(long, env = "BACKSTOP_PROVISION_TIMEOUT", value_name = "BACKSTOP_PROVISION_TIMEOUT",
          default_value = "30m", value_parser = duration)]
    pub provision_timeout: Duration,

    /// Longest silence of an attempt that has sent a heartbeat; time in which nobody could have
    /// received one does not count
    #[arg(long, env = "BACKSTOP_HEARTBEAT_TIMEOUT", value_name = "BACKSTOP_HEARTBEAT_TIMEOUT",
          default_value = "5m", value_parser = duration)]
    pub heartbeat_timeout: Duration,

    /// How long after a failure a server that was never seen is still watched for
    #[arg(long, env = "BACKSTOP_LATE_ARRIVAL_WINDOW", value_name = "BACKSTOP_LATE_ARRIVAL_WINDOW",
          default_value = "10m", value_parser = duration)]
    pub late_arrival_window: Duration,

    /// First pause after a failed delete or dispatch; doubled each time
    #[arg(long, env = "BACKSTOP_RETRY_BASE", value_name = "BACKSTOP_RETRY_BASE",
          default_value = "1s", value_parser = duration)]
    pub retry_base: Duration,

    /// Longest pause after a failed delete or dispatch
    #[arg(long, env = "BACKSTOP_RETRY_CAP", value_name = "BACKSTOP_RETRY_CAP",
          default_value = "15m", value_parser = duration)]
    pub retry_cap: Duration,

    /// Unsettled for this long: stuck, and still retried
    #[arg(long, env = "BACKSTOP_STUCK_AFTER", value_name = "BACKSTOP_STUCK_AFTER",
          default_value = "1h", value_parser = duration)]
    pub stuck_after: Duration,

    /// Share of the vendor's rate limit that is left to others, from 0 to 1
    #[arg(
        long,
        env = "BACKSTOP_RATE_RESERVE",
        value_name = "BACKSTOP_RATE_RESERVE",
        default_value = "0.2"
    )]
    pub rate_reserve: Reserve,
    /// How often the vendors' lists are compared with the database
    #[arg(long, env = "BACKSTOP_SWEEP_INTERVAL", value_name = "BACKSTOP_SWEEP_INTERVAL",
          default_value = "10m", value_parser = duration)]
    pub sweep_interval: Duration,

    /// Whether that may also delete what carries our controller id and no provision knows
    #[arg(long, env = "BACKSTOP_SWEEP_DELETE", value_name = "BACKSTOP_SWEEP_DELETE",
          default_value_t = false, action = clap::ArgAction::Set)]
    pub sweep_delete: bool,

    /// How long the history of what is over is kept, such as 90d; receipts always are [default: for
    /// ever]
    #[arg(
        long,
        env = "BACKSTOP_EVENT_RETENTION",
        value_name = "BACKSTOP_EVENT_RETENTION"
    )]
    pub event_retention: Option<String>,
}

/// Settings that have been checked.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the database is.
    pub database: Database,
    /// Size of the connection pool.
    pub database_connections: u32,
    /// The Hetzner project.
    pub hetzner: Hetzner,
    /// The tailnet, and the tag that makes a device ours. `None`: no key and device steps.
    pub tailscale: Option<(Tailscale, String)>,
    /// The workflow that is dispatched for a provision, and whose runs are looked at. `None`: none.
    pub github: Option<GitHub>,
    /// Settles which webhooks are GitHub's. `None`: none are taken.
    pub webhooks: Option<Webhooks>,
    /// What the page has to know besides.
    pub page: page::Settings,
    /// Settles who sends a callback.
    pub proof: ProofOfCaller,
    /// Settles who reads and operates.
    pub tokens: Tokens,
    /// How often an address may fail to prove who it is.
    pub failures: Rate,
    /// What connections may take.
    pub limits: Limits,
    /// Pages of other origins that may call.
    pub origins: Origins,
    /// Where operators listen.
    pub webhook: Option<Webhook>,
    /// From `started` to a terminal callback.
    pub provision_timeout: Duration,
    /// How steps are carried out.
    pub rollback: worker::Settings,
    /// How provisions are watched over.
    pub watch: watch::Settings,
    /// How the vendors' lists are swept.
    pub sweep: periodic::Settings,
    /// How long the history of what is over is kept. `None`: for ever.
    pub event_retention: Option<Duration>,
}

/// Where the database is.
#[derive(Clone)]
pub enum Database {
    /// Somebody else runs it.
    At(Box<PgConnectOptions>),
    /// We run a private one in this folder.
    Private(PathBuf),
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // The options' own output has the password in it.
            Self::At(_) => f.debug_tuple("At").finish_non_exhaustive(),
            Self::Private(folder) => f.debug_tuple("Private").field(folder).finish(),
        }
    }
}

impl DatabaseSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`] for a URL that does not parse.
    pub fn check(&self) -> Result<Database, ConfigError> {
        match given(self.database_url.as_ref()) {
            Some(url) => database_url::parse(url.expose_secret())
                .map(|options| Database::At(Box::new(options)))
                .map_err(|why| ConfigError(format!("DATABASE_URL {why}"))),
            None => Ok(Database::Private(
                self.data_dir
                    .clone()
                    .filter(|folder| !folder.as_os_str().is_empty())
                    .unwrap_or_else(crate::postgres::default_data_dir),
            )),
        }
    }
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`] for what is missing, half-set or cannot be used, naming the variable.
    pub fn check(self) -> Result<Config, ConfigError> {
        let error = |text: &str| ConfigError(text.to_owned());
        let (hetzner, tailscale) = self.vendors.check()?;
        let page = page::Settings {
            public_url: self.public_url()?,
            runs_url: self.github.runs_url(),
            reserve: self.rate_reserve,
        };
        let github = self.github.check()?;
        let webhook = self.webhook()?;
        let webhooks = self.github.check_webhooks()?;

        let secrets: Vec<SecretString> = given(self.callback_secrets.as_ref())
            .map(|secrets| {
                secrets
                    .expose_secret()
                    .split(',')
                    .map(|secret| SecretString::from(secret.trim()))
                    .collect()
            })
            .unwrap_or_default();
        let public_url = self.public_url()?;
        let tokens = self.oidc.check(&self.github, public_url.as_deref())?;
        if secrets.is_empty() && tokens.is_none() {
            return Err(error(
                "nobody could prove a callback: set BACKSTOP_CALLBACK_SECRETS, or \
                 BACKSTOP_GITHUB_REPOSITORY and BACKSTOP_PUBLIC_URL for the tokens of its jobs",
            ));
        }
        let mut proof = ProofOfCaller::by_signature(&secrets)
            .map_err(|e| ConfigError(format!("BACKSTOP_CALLBACK_SECRETS: {e}")))?;
        if let Some(tokens) = tokens {
            proof = proof.or_by_token(tokens);
        }

        if self.retry_base > self.retry_cap {
            return Err(error(
                "BACKSTOP_RETRY_BASE is longer than BACKSTOP_RETRY_CAP",
            ));
        }

        let patience = Patience {
            heartbeat_timeout: self.heartbeat_timeout,
            provision_timeout: self.provision_timeout,
        };
        Ok(Config {
            listen: self.listen,
            database: self.database.check()?,
            database_connections: self.database.database_connections,
            hetzner,
            tailscale,
            github,
            webhooks,
            page,
            proof,
            tokens: self.access.tokens()?,
            failures: Rate::default(),
            limits: self.access.limits()?,
            origins: self.origins()?,
            webhook,
            provision_timeout: self.provision_timeout,
            rollback: worker::Settings {
                retry: Backoff {
                    base: self.retry_base,
                    cap: self.retry_cap,
                },
                stuck_after: self.stuck_after,
                late_arrival_window: self.late_arrival_window,
                rate_reserve: self.rate_reserve,
            },
            event_retention: given_text(self.event_retention.as_deref())
                .map(duration)
                .transpose()
                .map_err(|e| ConfigError(format!("BACKSTOP_EVENT_RETENTION: {e}")))?,
            sweep: periodic::Settings {
                every: self.sweep_interval,
                mandate: if self.sweep_delete {
                    Mandate::Delete
                } else {
                    Mandate::Reopen
                },
            },
            watch: watch::Settings {
                patience,
                public_url,
                pulse_every: patience.longest_breath() / 3,
            },
        })
    }

    fn origins(&self) -> Result<Origins, ConfigError> {
        given_text(self.cors_origins.as_deref())
            .map(str::parse)
            .transpose()
            .map(Option::unwrap_or_default)
            .map_err(|error| ConfigError(format!("BACKSTOP_CORS_ORIGINS: {error}")))
    }

    fn webhook(&self) -> Result<Option<Webhook>, ConfigError> {
        let error = |text: &str| Err(ConfigError(text.to_owned()));
        match (
            given(self.webhook_url.as_ref()),
            given(self.webhook_secret.as_ref()),
        ) {
            (None, None) => Ok(None),
            (Some(url), Some(secret)) => Webhook::new(url, secret)
                .map(Some)
                .map_err(|e| ConfigError(e.to_string())),
            (Some(_), None) => {
                error("BACKSTOP_WEBHOOK_URL is set and BACKSTOP_WEBHOOK_SECRET is not")
            }
            (None, Some(_)) => {
                error("BACKSTOP_WEBHOOK_SECRET is set and BACKSTOP_WEBHOOK_URL is not")
            }
        }
    }

    /// Without a slash at its end, so that one URL has one spelling.
    fn public_url(&self) -> Result<Option<String>, ConfigError> {
        let Some(text) = given_text(self.public_url.as_deref()) else {
            return Ok(None);
        };
        reqwest::Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty())
            .map(|url| Some(url.as_str().trim_end_matches('/').to_owned()))
            .ok_or_else(|| {
                ConfigError("BACKSTOP_PUBLIC_URL must be an http:// or https:// URL".to_owned())
            })
    }
}

/// An empty variable is an unset one: that is how CI and compose pass what they do not have.
fn given(secret: Option<&SecretString>) -> Option<&SecretString> {
    secret.filter(|secret| !secret.expose_secret().is_empty())
}

fn given_text(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Ten years: anything longer is a typing error, and dates stay in range.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "a duration reads 30s, 10m or 1h".to_owned())?;
    if duration.is_zero() || duration > LONGEST {
        return Err("a duration is longer than zero and at most ten years".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown_by_debug() {
        let settings = DatabaseSettings {
            database_url: Some("postgres://me:hunter2@db.example/backstop".into()),
            data_dir: None,
            database_connections: 10,
        };
        let shown = format!("{settings:?} {:?}", settings.check().unwrap());
        assert!(
            shown.contains("At") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
