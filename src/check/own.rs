//! Our own secrets and address, which nobody need be asked about.

use secrecy::{ExposeSecret, SecretString};

use super::{Finding, Verdict};
use crate::config::Settings;

/// Characters of a token that nobody guesses, of any alphabet.
const LONG_ENOUGH: usize = 20;

const READ: &str = "BACKSTOP_READ_TOKEN";
const OPERATOR: &str = "BACKSTOP_OPERATOR_TOKEN";

/// What is to be said of the settings alone.
#[must_use]
pub fn settings(settings: &Settings) -> Vec<Finding> {
    let read = tokens(settings.access.read_token.as_ref());
    let operator = tokens(settings.access.operator_token.as_ref());
    let mut findings: Vec<Finding> = [(READ, &read), (OPERATOR, &operator)]
        .into_iter()
        .filter_map(|(name, tokens)| long_enough(name, tokens))
        .collect();
    if read.iter().any(|token| operator.contains(token)) {
        findings.push(Finding::new(
            READ,
            "only read",
            Verdict::MoreThanNeeded,
            "one is an operator's token as well: make another",
        ));
    }
    findings.extend(settings.public_url.as_deref().and_then(encrypted));
    findings
}

fn tokens(setting: Option<&SecretString>) -> Vec<&str> {
    let tokens = setting.map_or("", |it| it.expose_secret()).split(',');
    tokens.map(str::trim).filter(|it| !it.is_empty()).collect()
}

fn long_enough(name: &'static str, tokens: &[&str]) -> Option<Finding> {
    const ABILITY: &str = "not be guessed";
    let shortest = tokens.iter().map(|token| token.len()).min()?;
    match shortest {
        LONG_ENOUGH.. => Some(Finding::new(
            name,
            ABILITY,
            Verdict::Ok,
            format!("it has {LONG_ENOUGH} characters or more"),
        )),
        _ => Some(Finding::new(
            name,
            ABILITY,
            Verdict::Missing,
            format!(
                "one has fewer than {LONG_ENOUGH} characters: make one with openssl rand -hex 32"
            ),
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
