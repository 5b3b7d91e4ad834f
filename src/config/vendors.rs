//! The vendors' credentials and addresses.

use clap::Args;
use secrecy::SecretString;

use super::{ConfigError, given, given_text};
use crate::providers::tailscale::TailscaleCredential;
use crate::providers::{Hetzner, Tailscale};

/// What `serve` and `sweep` reach the vendors by.
#[derive(Debug, Clone, Args)]
pub struct VendorSettings {
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
}

impl VendorSettings {
    /// Checks the settings: the Hetzner project, and the tailnet with the tag that makes a device
    /// ours, if there is one.
    ///
    /// # Errors
    /// [`ConfigError`] for what is missing, half-set or cannot be used, naming the variable.
    pub fn check(&self) -> Result<(Hetzner, Option<(Tailscale, String)>), ConfigError> {
        let error = |text: &str| ConfigError(text.to_owned());
        let Some(hcloud_token) = given(self.hcloud_token.as_ref()) else {
            return Err(error(
                "HCLOUD_TOKEN is not set: a read and write token of the Hetzner project",
            ));
        };
        let hetzner = Hetzner::new(&self.hcloud_endpoint, hcloud_token)
            .map_err(|e| ConfigError(e.to_string()))?;
        Ok((hetzner, self.tailscale()?))
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
