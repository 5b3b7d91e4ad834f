//! Every setting: its variable, type, unit and default.
//!
//! Flags and variables are parsed into [`Settings`] by clap and checked into [`Config`], which
//! can be trusted: nothing half-set, nothing empty. Secrets are redacted in `Debug`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

use crate::domain::backoff::Backoff;
use crate::http::proof::ProofOfCaller;
use crate::http::tokens::Tokens;
use crate::providers::tailscale::TailscaleCredential;
use crate::providers::{Hetzner, Tailscale, Webhook};
use crate::rollback::worker;

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

    /// Token of the Hetzner project, read and write
    #[arg(long, env, value_name = "HCLOUD_TOKEN", hide_env_values = true)]
    pub hcloud_token: Option<SecretString>,

    /// Hetzner's API
    #[arg(
        long,
        env,
        value_name = "HCLOUD_ENDPOINT",
        default_value = "https://api.hetzner.cloud/v1"
    )]
    pub hcloud_endpoint: String,

    /// Tailscale OAuth client with the scopes devices:core and auth_keys
    #[arg(long, env, value_name = "TAILSCALE_OAUTH_CLIENT_ID")]
    pub tailscale_oauth_client_id: Option<String>,

    /// Its secret
    #[arg(
        long,
        env,
        value_name = "TAILSCALE_OAUTH_CLIENT_SECRET",
        hide_env_values = true
    )]
    pub tailscale_oauth_client_secret: Option<SecretString>,

    /// Tailscale API access token, instead of an OAuth client
    #[arg(long, env, value_name = "TAILSCALE_API_KEY", hide_env_values = true)]
    pub tailscale_api_key: Option<SecretString>,

    /// The tailnet; `-` is the credential's own
    #[arg(
        long,
        env,
        value_name = "TAILSCALE_TAILNET",
        default_value = "-",
        allow_hyphen_values = true
    )]
    pub tailscale_tailnet: String,

    /// Tailscale's API
    #[arg(
        long,
        env,
        value_name = "TAILSCALE_BASE_URL",
        default_value = "https://api.tailscale.com"
    )]
    pub tailscale_base_url: String,

    /// Only devices with this tag are ever ours
    #[arg(
        long,
        env = "BACKSTOP_TAILSCALE_TAG",
        value_name = "BACKSTOP_TAILSCALE_TAG",
        default_value = "tag:agent"
    )]
    pub tailscale_tag: String,

    /// Secrets of signed callbacks, `whsec_…`, comma separated for rotation
    #[arg(
        long,
        env = "BACKSTOP_CALLBACK_SECRETS",
        value_name = "BACKSTOP_CALLBACK_SECRETS",
        hide_env_values = true
    )]
    pub callback_secrets: Option<SecretString>,

    /// Bearer token that reads the status API
    #[arg(
        long,
        env = "BACKSTOP_READ_TOKEN",
        value_name = "BACKSTOP_READ_TOKEN",
        hide_env_values = true
    )]
    pub read_token: Option<SecretString>,

    /// Bearer token that reads the status API and changes things
    #[arg(
        long,
        env = "BACKSTOP_OPERATOR_TOKEN",
        value_name = "BACKSTOP_OPERATOR_TOKEN",
        hide_env_values = true
    )]
    pub operator_token: Option<SecretString>,

    /// Where it is told that a rollback has settled or is stuck, as a Standard Webhook
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

    /// How long after a failure a server that was never seen is still watched for
    #[arg(long, env = "BACKSTOP_LATE_ARRIVAL_WINDOW", value_name = "BACKSTOP_LATE_ARRIVAL_WINDOW",
          default_value = "10m", value_parser = duration)]
    pub late_arrival_window: Duration,

    /// First pause after a failed delete; doubled each time
    #[arg(long, env = "BACKSTOP_RETRY_BASE", value_name = "BACKSTOP_RETRY_BASE",
          default_value = "1s", value_parser = duration)]
    pub retry_base: Duration,

    /// Longest pause after a failed delete
    #[arg(long, env = "BACKSTOP_RETRY_CAP", value_name = "BACKSTOP_RETRY_CAP",
          default_value = "15m", value_parser = duration)]
    pub retry_cap: Duration,

    /// Unsettled for this long: stuck, and still retried
    #[arg(long, env = "BACKSTOP_STUCK_AFTER", value_name = "BACKSTOP_STUCK_AFTER",
          default_value = "1h", value_parser = duration)]
    pub stuck_after: Duration,
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
    /// Settles who sends a callback.
    pub proof: ProofOfCaller,
    /// Settles who reads and operates.
    pub tokens: Tokens,
    /// Where operators listen.
    pub webhook: Option<Webhook>,
    /// From `started` to a terminal callback.
    pub provision_timeout: Duration,
    /// How steps are carried out.
    pub rollback: worker::Settings,
}

/// Where the database is.
#[derive(Debug, Clone)]
pub enum Database {
    /// Somebody else runs it.
    At(Box<PgConnectOptions>),
    /// We run a private one in this folder.
    Private(PathBuf),
}

impl DatabaseSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`] for a URL that does not parse.
    pub fn check(&self) -> Result<Database, ConfigError> {
        match given(self.database_url.as_ref()) {
            Some(url) => url
                .expose_secret()
                .parse()
                .map(|options| Database::At(Box::new(options)))
                // The parser's own message may quote the URL, and with it the password.
                .map_err(|_| ConfigError("DATABASE_URL is not a postgres:// URL".to_owned())),
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
        let Some(hcloud_token) = given(self.hcloud_token.as_ref()) else {
            return Err(error(
                "HCLOUD_TOKEN is not set: a read and write token of the Hetzner project",
            ));
        };
        let hetzner = Hetzner::new(&self.hcloud_endpoint, hcloud_token)
            .map_err(|e| ConfigError(e.to_string()))?;
        let tailscale = self.tailscale()?;
        let webhook = self.webhook()?;

        let secrets: Vec<SecretString> = given(self.callback_secrets.as_ref())
            .map(|secrets| {
                secrets
                    .expose_secret()
                    .split(',')
                    .map(|secret| SecretString::from(secret.trim()))
                    .collect()
            })
            .unwrap_or_default();
        if secrets.is_empty() {
            return Err(error(
                "BACKSTOP_CALLBACK_SECRETS is not set: nobody could prove a callback",
            ));
        }
        let proof = ProofOfCaller::by_signature(&secrets)
            .map_err(|e| ConfigError(format!("BACKSTOP_CALLBACK_SECRETS: {e}")))?;

        let tokens = Tokens {
            read: given(self.read_token.as_ref()).cloned(),
            operator: given(self.operator_token.as_ref()).cloned(),
        };
        if tokens.read.is_none() && tokens.operator.is_none() {
            return Err(error(
                "neither BACKSTOP_READ_TOKEN nor BACKSTOP_OPERATOR_TOKEN is set: nobody could \
                 read the status",
            ));
        }
        if self.retry_base > self.retry_cap {
            return Err(error(
                "BACKSTOP_RETRY_BASE is longer than BACKSTOP_RETRY_CAP",
            ));
        }

        Ok(Config {
            listen: self.listen,
            database: self.database.check()?,
            database_connections: self.database.database_connections,
            hetzner,
            tailscale,
            proof,
            tokens,
            webhook,
            provision_timeout: self.provision_timeout,
            rollback: worker::Settings {
                retry: Backoff {
                    base: self.retry_base,
                    cap: self.retry_cap,
                },
                stuck_after: self.stuck_after,
                late_arrival_window: self.late_arrival_window,
            },
        })
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

    fn tailscale(&self) -> Result<Option<(Tailscale, String)>, ConfigError> {
        let error = |text: &str| ConfigError(text.to_owned());
        let client_id = given_text(self.tailscale_oauth_client_id.as_deref());
        let client_secret = given(self.tailscale_oauth_client_secret.as_ref());
        let api_key = given(self.tailscale_api_key.as_ref());
        let credential = match (client_id, client_secret, api_key) {
            (None, None, None) => return Ok(None),
            (Some(client_id), Some(client_secret), None) => TailscaleCredential::OAuth {
                client_id: client_id.to_owned(),
                client_secret: client_secret.clone(),
            },
            (None, None, Some(api_key)) => TailscaleCredential::ApiKey(api_key.clone()),
            (Some(_), None, _) => {
                return Err(error(
                    "TAILSCALE_OAUTH_CLIENT_ID is set and TAILSCALE_OAUTH_CLIENT_SECRET is not",
                ));
            }
            (None, Some(_), _) => {
                return Err(error(
                    "TAILSCALE_OAUTH_CLIENT_SECRET is set and TAILSCALE_OAUTH_CLIENT_ID is not",
                ));
            }
            (Some(_), Some(_), Some(_)) => {
                return Err(error(
                    "TAILSCALE_API_KEY and TAILSCALE_OAUTH_CLIENT_ID are both set: use one",
                ));
            }
        };
        let named = self.tailscale_tag.strip_prefix("tag:").is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        if !named {
            return Err(error(
                "BACKSTOP_TAILSCALE_TAG must be `tag:` and a name of A-Z a-z 0-9 -",
            ));
        }
        let client = Tailscale::new(
            &self.tailscale_base_url,
            &self.tailscale_tailnet,
            credential,
        )
        .map_err(|e| ConfigError(e.to_string()))?;
        Ok(Some((client, self.tailscale_tag.clone())))
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
