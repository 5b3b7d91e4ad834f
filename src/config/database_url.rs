//! `DATABASE_URL`, read by libpq's rules before anything else sees it.
//!
//! A password with `/`, `?`, `#` or `@` in it that was not percent-encoded falls apart into what looks
//! like a host, a port or parameters, and whoever reports one of those reports a piece of the password.
//! So the URL is taken apart here, an error names nothing but libpq's own words, and sqlx, which warns
//! of each parameter that it does not know together with its value, only gets what it knows.

use std::path::Path;

use percent::decoded;
use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Whose certificates are trusted.
const ROOT_CERTIFICATE: &str = "sslrootcert";

/// Parameters that sqlx knows, by libpq's name, after its own spellings.
const KNOWN: &[(&str, &str)] = &[
    ("sslmode", "sslmode"),
    ("ssl-mode", "sslmode"),
    (ROOT_CERTIFICATE, ROOT_CERTIFICATE),
    ("ssl-root-cert", ROOT_CERTIFICATE),
    ("ssl-ca", ROOT_CERTIFICATE),
    ("sslcert", "sslcert"),
    ("ssl-cert", "sslcert"),
    ("sslkey", "sslkey"),
    ("ssl-key", "sslkey"),
    ("statement-cache-capacity", "statement-cache-capacity"),
    ("host", "host"),
    ("hostaddr", "hostaddr"),
    ("port", "port"),
    ("dbname", "dbname"),
    ("user", "user"),
    ("password", "password"),
    ("application_name", "application_name"),
    ("options", "options"),
    ("target_session_attrs", "target_session_attrs"),
];

/// libpq's other words. A URL that other programs use may have them; they change nothing here.
const IGNORED: &[&str] = &[
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "tcp_user_timeout",
];

const ENCODE: &str =
    "write each / ? # @ : and % of a user or password percent-encoded, such as %2F for a /";

/// Reads the URL.
///
/// # Errors
/// One sentence without any piece of the URL but libpq's own words and the names of files.
pub(super) fn parse(text: &str) -> Result<PgConnectOptions, String> {
    let rest = without_scheme(text)?;
    if text.contains(|it: char| it.is_whitespace() || it.is_control()) {
        return Err(format!("has a space or line break in it: {ENCODE}"));
    }
    if rest.contains('#') {
        return Err(format!("has a # in it: {ENCODE}"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path_and_query) = rest.split_at(end);
    if path_and_query.contains('@') {
        return Err(format!("has an @ after its first / or ?: {ENCODE}"));
    }
    let (path, query) = path_and_query
        .split_once('?')
        .unwrap_or((path_and_query, ""));
    let mut parts = Parts::default();
    parts.authority(authority)?;
    parts.set("dbname", decoded(path.trim_start_matches('/'))?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        parts.parameter(pair)?;
    }
    parts.options()
}

fn without_scheme(text: &str) -> Result<&str, String> {
    text.split_once("://")
        .filter(|(scheme, _)| {
            ["postgres", "postgresql"]
                .iter()
                .any(|it| scheme.eq_ignore_ascii_case(it))
        })
        .map(|(_, rest)| rest)
        .ok_or_else(|| "does not begin with postgres:// or postgresql://".to_owned())
}

/// What the URL says, by the names of its parameters. The last one of a name counts.
#[derive(Default)]
struct Parts(Vec<(String, String)>);

impl Parts {
    fn set(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.retain(|(known, _)| known != name);
            self.0.push((name.to_owned(), value));
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `user:password@host:port`, each of which may be missing.
    fn authority(&mut self, authority: &str) -> Result<(), String> {
        // The last @: one of a password is then taken as what was meant.
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        self.set("user", decoded(user)?);
        self.set("password", decoded(password)?);
        one_host(place)?;
        let (host, port) = if let Some(inner) = place.strip_prefix('[') {
            let (host, port) = inner.split_once(']').ok_or("has a [ without a ]")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("has something in [ ] that is not an IPv6 address".to_owned());
            }
            (host, port)
        } else {
            place.split_at(place.find(':').unwrap_or(place.len()))
        };
        self.set("host", decoded(host)?);
        self.set("port", port.trim_start_matches(':').to_owned());
        Ok(())
    }

    fn parameter(&mut self, pair: &str) -> Result<(), String> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        if let Some((_, name)) = KNOWN.iter().find(|(known, _)| *known == name) {
            // A plus is a plus to libpq. A space was always taken for it among the options.
            let value = if *name == "options" {
                value.replace('+', " ")
            } else {
                value.to_owned()
            };
            self.set(name, decoded(&value)?);
        } else if name.starts_with("options[") && name.ends_with(']') {
            self.set(&name, decoded(value)?);
        } else if let Some(name) = IGNORED.iter().find(|known| **known == name) {
            tracing::warn!("DATABASE_URL: {name} has no effect here");
        } else {
            // Not named: it may be the rest of a password.
            return Err(format!(
                "has a parameter after its ? that is none of libpq's: {ENCODE}, or take it out"
            ));
        }
        Ok(())
    }

    fn options(mut self) -> Result<PgConnectOptions, String> {
        for name in ["host", "hostaddr", "port"] {
            one_host(self.get(name).unwrap_or_default())?;
        }
        if let Some(port) = self.get("port")
            && port.parse::<u16>().is_err()
        {
            return Err(format!("has a port that is not a number: {ENCODE}"));
        }
        if let Some(address) = self.get("hostaddr")
            && address.parse::<std::net::IpAddr>().is_err()
        {
            return Err("has a hostaddr that is not an IP address".to_owned());
        }
        match self.get("target_session_attrs") {
            None | Some("any" | "read-write" | "primary") => {}
            Some("read-only" | "standby" | "prefer-standby") => {
                return Err(
                    "asks for a server that takes no writes (target_session_attrs), and backstop \
                     writes"
                        .to_owned(),
                );
            }
            Some(_) => return Err("has a target_session_attrs that libpq does not know".to_owned()),
        }
        // A server that takes no writes is never used; there is nothing else to choose.
        self.0.retain(|(name, _)| name != "target_session_attrs");
        self.certificates()?;
        if self
            .get("statement-cache-capacity")
            .is_some_and(|it| it.parse::<usize>().is_err())
        {
            return Err("has a statement-cache-capacity that is not a number".to_owned());
        }
        let url = Url::parse_with_params("postgres://", &self.0).map_err(|_| unreadable())?;
        // What the URL leaves open sqlx takes from the environment, as libpq does.
        url.as_str().parse().map_err(|_| unreadable())
    }

    /// The files are looked at here, since what goes wrong later does not say with which of them.
    fn certificates(&mut self) -> Result<(), String> {
        let mode: Option<PgSslMode> = match self.get("sslmode").map(str::parse) {
            None => None,
            Some(Ok(mode)) => Some(mode),
            Some(Err(_)) => return Err("has an sslmode that libpq does not know".to_owned()),
        };
        let of_environment = std::env::var("PGSSLROOTCERT").ok();
        let root = self
            .get(ROOT_CERTIFICATE)
            .map(str::to_owned)
            .or(of_environment.filter(|it| !it.is_empty()));
        if root.as_deref() == Some("system") {
            return Err(
                "says sslrootcert=system, which is not supported: name the file of the system's \
                 certificates, such as sslrootcert=/etc/ssl/certs/ca-certificates.crt"
                    .to_owned(),
            );
        }
        for name in [ROOT_CERTIFICATE, "sslcert", "sslkey"] {
            if let Some(value) = self.get(name) {
                readable(name, value)?;
            }
        }
        match (mode, root) {
            // As libpq does: who names a root certificate wants it looked at.
            (Some(PgSslMode::Require), Some(_)) => self.set("sslmode", "verify-ca".to_owned()),
            (Some(PgSslMode::VerifyCa | PgSslMode::VerifyFull), None) => {
                return Err(
                    "asks to verify the server's certificate and names no sslrootcert to do it with"
                        .to_owned(),
                );
            }
            _ => {}
        }
        Ok(())
    }
}

fn unreadable() -> String {
    format!("cannot be read: {ENCODE}")
}

fn one_host(place: &str) -> Result<(), String> {
    if place.contains(',') {
        return Err(
            "names several hosts, and backstop connects to one: name an address that leads to the \
             server that takes writes"
                .to_owned(),
        );
    }
    Ok(())
}

/// Whether there is a file with PEM in it. The PEM itself may stand in the file's place.
fn readable(name: &str, value: &str) -> Result<(), String> {
    if value.trim().starts_with("-----BEGIN") {
        return Ok(());
    }
    let path = Path::new(value);
    match std::fs::read(path) {
        Ok(content) if content.windows(10).any(|it| it == b"-----BEGIN") => Ok(()),
        Ok(_) => Err(format!(
            "names {name} {}, which has no PEM in it",
            path.display()
        )),
        Err(error) => Err(format!(
            "names {name} {}, which cannot be read: {error}",
            path.display()
        )),
    }
}

mod percent {
    use super::ENCODE;

    /// With its percent-encoded bytes as they are meant. A percent sign that encodes nothing is one.
    pub(super) fn decoded(text: &str) -> Result<String, String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let encoded = (first == b'%')
                .then(|| after.get(..2))
                .flatten()
                .and_then(|two| std::str::from_utf8(two).ok())
                .filter(|two| two.bytes().all(|it| it.is_ascii_hexdigit()))
                .and_then(|two| u8::from_str_radix(two, 16).ok());
            bytes.push(encoded.unwrap_or(first));
            rest = if encoded.is_some() {
                &after[2..]
            } else {
                after
            };
        }
        if bytes.contains(&0) {
            return Err(format!("has a zero byte in it: {ENCODE}"));
        }
        String::from_utf8(bytes).map_err(|_| format!("is not UTF-8 when decoded: {ENCODE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_certificate_that_is_named_is_used_as_libpq_does() {
        let pem = "-----BEGIN+CERTIFICATE-----".replace('+', "%20");
        for (mode, expected) in [
            ("require", PgSslMode::VerifyCa),
            ("verify-full", PgSslMode::VerifyFull),
            ("prefer", PgSslMode::Prefer),
        ] {
            let url = format!("postgres://u@h/d?sslmode={mode}&sslrootcert={pem}");
            let options = parse(&url).unwrap_or_else(|why| panic!("{why}"));
            assert!(
                std::mem::discriminant(&options.get_ssl_mode())
                    == std::mem::discriminant(&expected),
                "{mode}"
            );
        }
    }

    #[test]
    fn an_ipv6_address_is_given_on_without_its_brackets() {
        let options =
            parse("postgres://u:p%40w@[2001:db8::1]:6432/d").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            (options.get_host(), options.get_port()),
            ("2001:db8::1", 6432)
        );
        assert_eq!(options.get_database(), Some("d"));
    }
}
