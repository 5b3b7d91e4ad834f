//! Values that callbacks report, parsed once at the edge and trusted from there.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::spelling::spelled_by_serde;
use super::step::Resource;

/// The id a vendor gave a thing. Only characters that cannot change a URL's path:
/// for a server decimal digits, for a key or a device `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VendorId(String);

impl VendorId {
    /// The longest id that is accepted, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Parses the id of a `resource`. `None` if that vendor could not have given it.
    #[must_use]
    pub fn parse(resource: Resource, text: &str) -> Option<Self> {
        let valid = match resource {
            // Hetzner's ids are positive 64-bit integers; no leading zero, so that one server
            // has one spelling.
            Resource::Server => {
                !text.starts_with('0')
                    && text.bytes().all(|b| b.is_ascii_digit())
                    && text.parse::<i64>().is_ok_and(|id| id > 0)
            }
            Resource::AuthKey | Resource::Device => {
                (1..=Self::MAX_LEN).contains(&text.len())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            }
        };
        valid.then(|| Self(text.to_owned()))
    }

    /// The id as the vendor writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VendorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A machine's address, for people: IPv4, IPv6, or a network, for that is what Hetzner calls a server's
/// IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// One address.
    Ip(IpAddr),
    /// Such as `2001:db8::/64`.
    Network(IpNet),
}

/// A text that is no [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither an IP address nor a network")]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        text.parse()
            .map(Self::Ip)
            .or_else(|_| text.parse().map(Self::Network))
            .map_err(|_| NoAddress)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An id that a callback named. A hint, never a licence to delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hint {
    /// What the id is said to be of.
    pub resource: Resource,
    /// The id.
    pub vendor_id: VendorId,
}

/// How a workflow says it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// A step failed.
    Failure,
    /// Somebody cancelled the run.
    Cancelled,
    /// The job's time was up.
    TimedOut,
}

/// Why an attempt is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The workflow reported a failure.
    Failure,
    /// The workflow reported that it was cancelled.
    Cancelled,
    /// The workflow reported that its time was up.
    TimedOut,
    /// A later attempt of the same run started.
    Superseded,
    /// Its heartbeats stopped.
    Silent,
    /// No terminal callback came in time.
    Deadline,
    /// No run ever took the provision.
    NeverStarted,
    /// The workflow could not be dispatched.
    DispatchFailed,
    /// Somebody asked for the provision to be destroyed.
    Destroyed,
}

impl Reason {
    /// Whether a watcher guessed this, so that the workflow's own word replaces it.
    #[must_use]
    pub fn is_a_watchers(self) -> bool {
        match self {
            Self::Silent | Self::Deadline | Self::NeverStarted | Self::DispatchFailed => true,
            Self::Failure
            | Self::Cancelled
            | Self::TimedOut
            | Self::Superseded
            | Self::Destroyed => false,
        }
    }
}

impl From<Option<Conclusion>> for Reason {
    fn from(conclusion: Option<Conclusion>) -> Self {
        match conclusion {
            None | Some(Conclusion::Failure) => Self::Failure,
            Some(Conclusion::Cancelled) => Self::Cancelled,
            Some(Conclusion::TimedOut) => Self::TimedOut,
        }
    }
}

spelled_by_serde!(Conclusion, Reason);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_ids_cannot_alter_a_path() {
        for text in [
            "",
            "0",
            "042",
            "-1",
            "4 2",
            "../1",
            "42/actions",
            "9223372036854775808",
            "null",
        ] {
            assert_eq!(VendorId::parse(Resource::Server, text), None, "{text:?}");
        }
        for text in ["", "n1/../x", "n1?x", "n 1", "é", &"n".repeat(65)] {
            assert_eq!(VendorId::parse(Resource::Device, text), None, "{text:?}");
            assert_eq!(VendorId::parse(Resource::AuthKey, text), None, "{text:?}");
        }
        assert!(VendorId::parse(Resource::Server, "9223372036854775807").is_some());
        assert!(VendorId::parse(Resource::Device, "n292kg92CNTRL").is_some());
    }

    #[test]
    fn reasons_are_spelled_as_the_contract_spells_them() {
        assert_eq!(Reason::NeverStarted.to_string(), "never_started");
        assert_eq!("timed_out".parse(), Ok(Reason::TimedOut));
        assert!("nonsense".parse::<Reason>().is_err());
    }
}
