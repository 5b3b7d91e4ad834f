//! Our own secrets and address, which nobody need be asked about.

use secrecy::{ExposeSecret, SecretString};

use super::{Finding, Verdict};
use crate::config::Settings;

/// Bytes of a token that nobody guesses: what `openssl rand -hex 16` prints, half of it to spare.
const LONG_ENOUGH: usize = 16;

const READ: &str = "BACKSTOP_READ_TOKEN";
const OPERATOR: &str = "BACKSTOP_OPERATOR_TOKEN";

/// What is to be said of the settings alone.
#[must_use]
pub fn settings(settings: &Settings) -> Vec<Finding> {
    let read = settings.read_token.as_ref();
    let operator = settings.operator_token.as_ref();
    let mut findings: Vec<Finding> = [(READ, read), (OPERATOR, operator)]
        .into_iter()
        .filter_map(|(name, token)| long_enough(name, token?))
        .collect();
    if let (Some(read), Some(operator)) = (read, operator)
        && !read.expose_secret().is_empty()
        && read.expose_secret() == operator.expose_secret()
    {
        findings.push(Finding::new(
            READ,
            "only read",
            Verdict::MoreThanNeeded,
            "it is the operator's token as well: make another",
        ));
    }
    findings.extend(settings.public_url.as_deref().and_then(encrypted));
    findings
}

fn long_enough(name: &'static str, token: &SecretString) -> Option<Finding> {
    const ABILITY: &str = "not be guessed";
    let bytes = token.expose_secret().len();
    match bytes {
        0 => None,
        LONG_ENOUGH.. => Some(Finding::new(
            name,
            ABILITY,
            Verdict::Ok,
            format!("it has {LONG_ENOUGH} bytes or more"),
        )),
        _ => Some(Finding::new(
            name,
            ABILITY,
            Verdict::Missing,
            format!("it has fewer than {LONG_ENOUGH} bytes: make one with openssl rand -hex 16"),
        )),
    }
}

fn encrypted(url: &str) -> Option<Finding> {
    const NAME: &str = "BACKSTOP_PUBLIC_URL";
    const ABILITY: &str = "keep tokens from eavesdroppers";
    match url.split_once("://") {
        Some(("https", _)) => Some(Finding::new(NAME, ABILITY, Verdict::Ok, "it is https")),
        Some(_) => Some(Finding::new(
            NAME,
            ABILITY,
            Verdict::CouldNotBeTold,
            "it is http: fine on this machine or within a tailnet, which encrypts; else put TLS in \
             front and name it https",
        )),
        None => None,
    }
}
