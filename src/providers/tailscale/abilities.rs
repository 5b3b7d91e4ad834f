//! What the credential may do, as the vendor says it.

use super::Tailscale;
use super::credential::Access;
use crate::providers::VendorError;

/// What a credential was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// An OAuth client: these scopes, for these tags and what they own.
    Scoped {
        /// Such as `devices:core`.
        scopes: Vec<String>,
        /// Such as `tag:agent`.
        tags: Vec<String>,
    },
    /// An API access token: whatever the person who made it may do.
    AsItsUser,
    /// An OAuth client that the vendor does not show.
    Unknown,
}

impl Tailscale {
    /// What the credential was given. An OAuth client may look at itself among the tailnet's keys,
    /// whatever its scopes are. <https://tailscale.com/kb/1215/oauth-clients>
    ///
    /// # Errors
    /// Any error, with nothing known.
    pub async fn grant(&self) -> Result<Grant, VendorError> {
        let Access::OAuth(client) = &self.access else {
            return Ok(Grant::AsItsUser);
        };
        match self.key(client.client_id()).await {
            Ok(Some(client)) => Ok(Grant::Scoped {
                scopes: client.scopes,
                tags: client.tags,
            }),
            Ok(None) | Err(VendorError::Forbidden(_)) => Ok(Grant::Unknown),
            Err(error) => Err(error),
        }
    }
}
