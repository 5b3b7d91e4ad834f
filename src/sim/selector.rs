//! Labels and label selectors, as Hetzner's documentation defines them.
//!
//! Owns the grammar only: what a key and a value may look like, and which labels a selector picks.
//! As in Kubernetes, where the language comes from, `k!=v` and `k notin (…)` also pick what has
//! no `k` at all.

use std::collections::BTreeMap;

/// Labels of one resource.
pub(super) type Labels = BTreeMap<String, String>;

/// Which labels a list asks for: every requirement must hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, PartialEq, Eq)]
enum Requirement {
    Present(String),
    Absent(String),
    OneOf(String, Vec<String>),
    NoneOf(String, Vec<String>),
}

/// The selector does not follow the grammar; holds what was wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadSelector(pub(super) String);

impl Selector {
    /// Reads a selector. Nothing but blanks selects everything.
    pub(super) fn parse(text: &str) -> Result<Selector, BadSelector> {
        let mut rest = text.trim();
        let mut requirements = Vec::new();
        while !rest.is_empty() {
            let (requirement, after) = requirement(rest)?;
            requirements.push(requirement);
            rest = match after.strip_prefix(',') {
                Some(next) if next.trim().is_empty() => {
                    return Err(BadSelector("ends with a comma".to_owned()));
                }
                Some(next) => next.trim_start(),
                None if after.is_empty() => after,
                None => return Err(BadSelector(format!("unexpected `{after}`"))),
            };
        }
        Ok(Selector(requirements))
    }

    /// Whether `labels` meet every requirement.
    pub(super) fn picks(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Present(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::OneOf(key, values) => {
                labels.get(key).is_some_and(|value| values.contains(value))
            }
            Requirement::NoneOf(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
        })
    }
}

/// The first requirement of `text` and what follows it, both without blanks around.
fn requirement(text: &str) -> Result<(Requirement, &str), BadSelector> {
    if let Some(rest) = text.strip_prefix('!') {
        let (key, rest) = key(rest.trim_start())?;
        return Ok((Requirement::Absent(key), rest));
    }
    let (key, rest) = key(text)?;
    if let Some(rest) = rest.strip_prefix("!=") {
        let (value, rest) = value(rest)?;
        return Ok((Requirement::NoneOf(key, vec![value]), rest));
    }
    if let Some(rest) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        let (value, rest) = value(rest)?;
        return Ok((Requirement::OneOf(key, vec![value]), rest));
    }
    if let Some(rest) = set_operator(rest, "notin") {
        let (values, rest) = values(rest)?;
        return Ok((Requirement::NoneOf(key, values), rest));
    }
    if let Some(rest) = set_operator(rest, "in") {
        let (values, rest) = values(rest)?;
        return Ok((Requirement::OneOf(key, values), rest));
    }
    Ok((Requirement::Present(key), rest))
}

fn set_operator<'a>(text: &'a str, operator: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(operator)?.trim_start();
    rest.starts_with('(').then_some(rest)
}

/// `(v1, v2)` and what follows.
fn values(text: &str) -> Result<(Vec<String>, &str), BadSelector> {
    let unclosed = || BadSelector("a set of values needs `(` and `)`".to_owned());
    let inner = text.strip_prefix('(').ok_or_else(unclosed)?;
    let (inner, rest) = inner.split_once(')').ok_or_else(unclosed)?;
    let mut values = Vec::new();
    for item in inner.split(',') {
        let (value, extra) = value(item)?;
        if !extra.is_empty() {
            return Err(BadSelector(format!("unexpected `{extra}`")));
        }
        values.push(value);
    }
    Ok((values, rest.trim_start()))
}

fn key(text: &str) -> Result<(String, &str), BadSelector> {
    let (key, rest) = word(text, |c| is_label_char(c) || c == '/');
    check_key(key).map_err(BadSelector)?;
    Ok((key.to_owned(), rest))
}

fn value(text: &str) -> Result<(String, &str), BadSelector> {
    let (value, rest) = word(text, is_label_char);
    check_value(value).map_err(BadSelector)?;
    Ok((value.to_owned(), rest))
}

/// The longest start of `text` made of `accepted` characters, and the rest without blanks before.
fn word(text: &str, accepted: impl Fn(char) -> bool) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(|c| !accepted(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Whether the labels may be put on a resource; else what is wrong with the first bad one.
pub(super) fn check_labels(labels: &Labels) -> Result<(), String> {
    for (key, value) in labels {
        check_key(key)?;
        if key.starts_with("hetzner.cloud/") {
            return Err(format!("label key `{key}` has a reserved prefix"));
        }
        check_value(value)?;
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), String> {
    let name = match key.rsplit_once('/') {
        Some((prefix, name)) => {
            if !is_dns_subdomain(prefix) {
                return Err(format!("label key `{key}` has an invalid prefix"));
            }
            name
        }
        None => key,
    };
    if name.is_empty() || !is_label_word(name) {
        return Err(format!("label key `{key}` is invalid"));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_word(value) {
        return Ok(());
    }
    Err(format!("label value `{value}` is invalid"))
}

fn is_label_word(word: &str) -> bool {
    word.len() <= 63
        && word.chars().all(is_label_char)
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

fn is_dns_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether `name` may be a server's name: a host name as in RFC 1123.
pub(super) fn is_host_name(name: &str) -> bool {
    is_dns_subdomain(name)
}

#[cfg(test)]
mod tests {
    use super::{Labels, Selector, check_labels};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn each_expression_picks_what_the_documentation_says() {
        let production = labels(&[("env", "production"), ("type", "web"), ("bare", "")]);
        for (selector, picked) in [
            ("", true),
            ("env=production", true),
            ("env==production", true),
            ("env=testing", false),
            ("env!=production", false),
            ("env!=testing", true),
            ("missing!=anything", true),
            ("env", true),
            ("missing", false),
            ("!env", false),
            ("!missing", true),
            ("bare=", true),
            ("env=", false),
            ("env in (testing,production)", true),
            ("env in (testing, staging)", false),
            ("env in(production)", true),
            ("env notin (testing,staging)", true),
            ("env notin (production)", false),
            ("missing notin (a)", true),
            ("missing in (a)", false),
            ("env=production,type!=database", true),
            ("env in (production,x),!missing, type", true),
            ("env in (production,x),!type", false),
            (" env = production , type == web ", true),
        ] {
            let parsed = Selector::parse(selector).unwrap();
            assert_eq!(parsed.picks(&production), picked, "selector `{selector}`");
        }
    }

    #[test]
    fn keys_named_like_operators_are_keys() {
        let odd = labels(&[("in", "a"), ("notin", "b"), ("example.com/in", "c")]);
        for selector in ["in", "in in (a)", "notin notin (a)", "example.com/in=c"] {
            assert!(Selector::parse(selector).unwrap().picks(&odd), "{selector}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_allow_is_refused() {
        for selector in [
            "=v",
            "k in v",
            "k in (a",
            "k=a b",
            "k,",
            ",k",
            "k,,l",
            "k=a=b",
            "!",
            "k>1",
            "-k=v",
            "k in (a b)",
            "k=v-",
        ] {
            assert!(Selector::parse(selector).is_err(), "selector `{selector}`");
        }
    }

    #[test]
    fn only_valid_labels_may_be_put_on_a_resource() {
        let long = "x".repeat(64);
        for (key, value, valid) in [
            ("managed-by", "backstop", true),
            ("just-a-key", "", true),
            ("example.com/my", "label", true),
            ("k", &long[..63], true),
            ("k", &long[..], false),
            (&long[..], "v", false),
            ("k", "-v", false),
            ("k", "a b", false),
            ("", "v", false),
            ("hetzner.cloud/mine", "v", false),
            ("-example.com/k", "v", false),
        ] {
            assert_eq!(
                check_labels(&labels(&[(key, value)])).is_ok(),
                valid,
                "{key}={value}"
            );
        }
    }
}
