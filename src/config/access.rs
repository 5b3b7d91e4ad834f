//! Who reads and operates, and what clients may take of us.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, given, given_text};
use crate::http::client::Proxies;
use crate::http::serve::Limits;
use crate::http::tokens::Tokens;

/// Tokens of the status API, and limits.
#[derive(Debug, Clone, Args)]
pub struct AccessSettings {
    /// Bearer tokens that read the status API, comma separated for rotation
    #[arg(
        long,
        env = "BACKSTOP_READ_TOKEN",
        value_name = "BACKSTOP_READ_TOKEN",
        hide_env_values = true
    )]
    pub read_token: Option<SecretString>,

    /// Bearer tokens that read the status API and change things, comma separated for rotation
    #[arg(
        long,
        env = "BACKSTOP_OPERATOR_TOKEN",
        value_name = "BACKSTOP_OPERATOR_TOKEN",
        hide_env_values = true
    )]
    pub operator_token: Option<SecretString>,

    /// Most connections at once, a quarter of them from one address
    #[arg(
        long,
        env = "BACKSTOP_MAX_CONNECTIONS",
        value_name = "BACKSTOP_MAX_CONNECTIONS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(16..=1_000_000)
    )]
    pub max_connections: u32,

    /// Reverse proxies that are believed when X-Forwarded-For says for whom they call: addresses or
    /// networks, comma separated
    #[arg(
        long,
        env = "BACKSTOP_TRUSTED_PROXIES",
        value_name = "BACKSTOP_TRUSTED_PROXIES"
    )]
    pub trusted_proxies: Option<String>,
}

impl AccessSettings {
    /// Checks who reads and operates.
    pub(super) fn tokens(&self) -> Result<Tokens, ConfigError> {
        let read = tokens("BACKSTOP_READ_TOKEN", self.read_token.as_ref())?;
        let operator = tokens("BACKSTOP_OPERATOR_TOKEN", self.operator_token.as_ref())?;
        if read.is_empty() && operator.is_empty() {
            return Err(ConfigError(
                "neither BACKSTOP_READ_TOKEN nor BACKSTOP_OPERATOR_TOKEN is set: nobody could \
                 read the status"
                    .to_owned(),
            ));
        }
        Ok(Tokens::new(read, operator))
    }

    /// Checks what clients may take.
    pub(super) fn limits(&self) -> Result<Limits, ConfigError> {
        let proxies = given_text(self.trusted_proxies.as_deref())
            .map_or_else(|| Ok(Proxies::default()), str::parse)
            .map_err(|error| ConfigError(format!("BACKSTOP_TRUSTED_PROXIES: {error}")))?;
        Ok(Limits {
            connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            proxies,
            ..Limits::default()
        })
    }
}

fn tokens(name: &str, setting: Option<&SecretString>) -> Result<Vec<SecretString>, ConfigError> {
    let Some(setting) = given(setting) else {
        return Ok(Vec::new());
    };
    let tokens = setting.expose_secret().split(',').map(str::trim);
    if tokens.clone().any(str::is_empty) {
        return Err(ConfigError(format!(
            "{name} has a comma and no token beside it"
        )));
    }
    Ok(tokens.map(SecretString::from).collect())
}
