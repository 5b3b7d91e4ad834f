//! The vendors' APIs: what backstop can see and delete at Hetzner and at Tailscale, and start at
//! GitHub; and the keys of the issuer of its tokens.
//!
//! Owns the clients, and with them every assumption about how a vendor answers. Promises that an
//! answer is either understood in full or an error: half a list, a page of HTML or a list of
//! another shape never reads as "nothing there", because absence is what a receipt is made of.
//! Never retries on its own (two exceptions, both after a refusal: a short-lived token is renewed
//! once, and a field that an older GitHub does not know is left out), never follows a redirect, and
//! never puts a token or a body into a log, an error or `Debug`. Of GitHub's refusals the sentence
//! is shown, for nothing else says what to change.
//!
//! Read in this order: [`VendorError`] is what a caller decides on, `http` sends a request and
//! bounds it, [`hetzner`], [`tailscale`] and [`github`] know the vendors' shapes. [`Webhook`] is no
//! vendor: it is where operators listen.
//!
//! Selectors and filters of a vendor only make lists shorter. Whoever deletes compares the labels,
//! tags and names of what came back, each one.

mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
mod issuer;
mod kept_token;
mod wire;

pub mod github;
pub mod hetzner;
pub mod tailscale;
mod webhook;

pub(crate) use error::one_line;
pub use error::{FailedCall, SetupError, VendorError};
pub use github::GitHub;
pub use hetzner::Hetzner;
pub(crate) use http::bearer;
pub use http::{Timeouts, loopback_client, status_client};
pub use issuer::{Issuer, IssuerKey, IssuerKeys};
pub use tailscale::Tailscale;
pub use webhook::{Untold, Webhook};

/// Whose API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// Hetzner Cloud, which holds the servers.
    Hetzner,
    /// Tailscale, which holds the devices and auth keys.
    Tailscale,
    /// GitHub, which runs the workflows.
    GitHub,
    /// Who issues the tokens of its jobs.
    Issuer,
}

impl Vendor {
    /// The vendor's name as logs, metrics and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hetzner => "hetzner",
            Self::Tailscale => "tailscale",
            Self::GitHub => "github",
            Self::Issuer => "issuer",
        }
    }
}

impl std::fmt::Display for Vendor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
