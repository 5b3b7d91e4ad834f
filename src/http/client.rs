//! Whose address a call comes from.
//!
//! Behind a reverse proxy every connection is the proxy's. Only the proxies that the operator named are
//! believed when they say for whom they call, in `X-Forwarded-For`: anybody can write that header.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who calls, as far as an address tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client(IpAddr);

impl Client {
    /// What one subscriber has at his disposal: an address of IPv4, a /64 of IPv6.
    pub(super) fn network(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
            }
        }
    }

    pub(super) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

impl Client {
    /// Whose request this is. One without an address is nobody's in particular.
    pub(super) fn of(parts: &Parts) -> Self {
        let nobody = Self(Ipv6Addr::UNSPECIFIED.into());
        parts.extensions.get().copied().unwrap_or(nobody)
    }
}

/// The proxies that are believed when they say for whom they call. None by default.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    networks: Arc<[IpNet]>,
    told: Arc<AtomicBool>,
}

/// A text that is no list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("addresses read 10.0.0.7 or fd00::7, networks 10.0.0.0/8, and several have commas between")]
pub struct NoNetwork;

impl FromStr for Proxies {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let network = |text: &str| {
            let text = text.trim();
            let address = text
                .parse()
                .map(|it: IpAddr| IpNet::from(it.to_canonical()));
            address.or_else(|_| text.parse()).map_err(|_| NoNetwork)
        };
        let networks = text.split(',').map(network).collect::<Result<_, _>>()?;
        Ok(Self {
            networks,
            told: Arc::default(),
        })
    }
}

impl Proxies {
    /// Whether this is one of them.
    pub(super) fn trust(&self, client: Client) -> bool {
        self.networks.iter().any(|it| it.contains(&client.0))
    }

    /// For whom `peer` calls: the last address in `X-Forwarded-For` that is none of theirs, since each
    /// proxy adds at the end whom it got the call from. Where one of them wrote what is no address, the
    /// call is that proxy's own.
    pub(super) fn client(&self, peer: Client, headers: &HeaderMap) -> Client {
        if !self.trust(peer) {
            if headers.contains_key(X_FORWARDED_FOR) {
                self.tell_of(peer);
            }
            return peer;
        }
        let mut client = peer;
        let values = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            let Some(hop) = address(hop) else { break };
            client = hop;
            if !self.trust(hop) {
                break;
            }
        }
        client
    }

    /// Once: whoever forgot the setting shares one rate with all of the world.
    fn tell_of(&self, peer: Client) {
        let near = match peer.0 {
            IpAddr::V4(it) => it.is_loopback() || it.is_private(),
            IpAddr::V6(it) => it.is_loopback() || it.is_unique_local(),
        };
        if near && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                client.address = %peer,
                "a call has X-Forwarded-For and its sender is not in BACKSTOP_TRUSTED_PROXIES: if that \
                 is your proxy, all who come through it share one limit on failures"
            );
        }
    }
}

/// An address as proxies write it, perhaps with a port.
fn address(hop: &[u8]) -> Option<Client> {
    let hop = str::from_utf8(hop).ok()?.trim();
    let bare = hop.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = bare.unwrap_or(hop).parse::<IpAddr>();
    let address = address.or_else(|_| hop.parse().map(|it: SocketAddr| it.ip()));
    address.ok().map(Client::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Client {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn forwarded(values: &[&[u8]]) -> HeaderMap {
        let value = |value: &&[u8]| (X_FORWARDED_FOR, (*value).try_into().unwrap());
        values.iter().map(value).collect()
    }

    #[test]
    fn only_a_trusted_proxy_says_for_whom_it_calls() {
        let proxies: Proxies = "10.0.0.0/8, 192.0.2.1,fd00::/8".parse().unwrap();
        for (peer, values, client) in [
            // Nobody's word but a proxy's.
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // What is left of that, the client wrote himself.
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["198.51.100.1, 192.0.2.1 ,10.2.3.4"],
                "198.51.100.1",
            ),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|it| it.as_bytes()).collect();
            let found = proxies.client(of(peer), &forwarded(&values));
            assert_eq!(found, of(client), "{peer} {values:?}");
        }
        let none = Proxies::default();
        assert_eq!(
            none.client(of("127.0.0.1"), &forwarded(&[b"1.2.3.4"])),
            of("127.0.0.1")
        );
    }

    #[test]
    fn what_is_no_address_is_the_proxys_own_call() {
        let proxies: Proxies = "10.0.0.0/8".parse().unwrap();
        let long = "1.2.3.4,".repeat(5000) + "x";
        for value in [
            &b""[..],
            b",",
            b" ",
            b"unknown",
            b"\xff\xfe",
            b"1.2.3",
            b"1.2.3.4.5",
            b"1.2.3.4:99999999",
            b"[::1",
            b"]",
            b"[]",
            b"::1%eth0",
            b"_hidden",
            b"1.2.3.4,,",
            long.as_bytes(),
        ] {
            let found = proxies.client(of("10.0.0.1"), &forwarded(&[value]));
            assert_eq!(found, of("10.0.0.1"), "{value:?}");
        }
        // Up to the proxy that wrote it.
        let found = proxies.client(of("10.0.0.1"), &forwarded(&[b"1.1.1.1, junk, 10.0.0.2"]));
        assert_eq!(found, of("10.0.0.2"));
    }

    #[test]
    fn a_subscriber_is_an_address_or_a_64() {
        assert_eq!(of("192.0.2.7").network(), of("192.0.2.7").0);
        assert_eq!(of("2001:db8:0:1:a:b:c:d").network(), of("2001:db8:0:1::").0);
        assert_eq!(
            of("2001:db8:0:1::1").network(),
            of("2001:db8:0:1::2").network()
        );
        assert_ne!(
            of("2001:db8:0:1::1").network(),
            of("2001:db8:0:2::1").network()
        );
        assert_eq!(of("::ffff:192.0.2.7").network(), of("192.0.2.7").0);
    }

    #[test]
    fn networks_are_what_operators_write() {
        for text in [
            "",
            ",",
            "10.0.0.0/8,",
            "10.0.0.0/33",
            "proxy.example",
            "10.0.0.1:80",
            "*",
        ] {
            assert_eq!(text.parse::<Proxies>().err(), Some(NoNetwork), "{text}");
        }
    }
}
