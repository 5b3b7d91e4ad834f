//! The Tailscale credential.

use std::sync::Arc;

use super::{Finding, Known, Verdict, hetzner};
use crate::providers::Tailscale;
use crate::providers::tailscale::Grant;
use crate::rollback::worker::Hands;

const CLIENT: &str = "TAILSCALE_OAUTH_CLIENT_ID";
const TOKEN: &str = "TAILSCALE_API_KEY";
const DEVICES: &str = "list and delete devices";
const KEYS: &str = "list and revoke auth keys";
const TAGGED: &str = "manage the agents' tag";
const NOTHING_ELSE: &str = "nothing else";
const REMEDY: &str = "use an OAuth client with the scopes devices:core and auth_keys";

/// What is needed: a scope, and what it is for. <https://tailscale.com/kb/1623/trust-credentials#scopes>
const NEEDED: [(&str, &str); 2] = [("devices:core", DEVICES), ("auth_keys", KEYS)];

pub(super) async fn look(
    client: &Arc<Tailscale>,
    tag: &str,
    known: Option<Known<'_>>,
) -> Vec<Finding> {
    let mut findings = match client.grant().await {
        Ok(Grant::Scoped { scopes, tags }) => scoped(&scopes, &tags, tag),
        Ok(Grant::AsItsUser) => as_its_user(client).await,
        Ok(Grant::Unknown) => by_its_lists(CLIENT, client).await,
        Err(error) => {
            return vec![Finding::of_error(CLIENT, DEVICES, &error, REMEDY)];
        }
    };
    if findings
        .iter()
        .all(|it| it.ability != DEVICES || it.verdict != Verdict::Missing)
    {
        let hands = Hands::Tailscale {
            client: client.clone(),
            tag: tag.to_owned(),
        };
        let credential = findings.first().map_or(CLIENT, |it| it.credential);
        findings.extend(hetzner::sees(credential, &hands, known).await);
    }
    findings
}

fn scoped(scopes: &[String], tags: &[String], tag: &str) -> Vec<Finding> {
    let has = |name: &str| scopes.iter().any(|scope| scope == name);
    let mut findings: Vec<Finding> = NEEDED
        .iter()
        .map(|&(scope, ability)| {
            if has(scope) || has("all") {
                let sentence = format!("it has the scope {scope}");
                Finding::new(CLIENT, ability, Verdict::Ok, sentence)
            } else {
                let sentence = format!(
                    "its scopes are {}: give it {scope}, for writing",
                    listed(scopes)
                );
                Finding::new(CLIENT, ability, Verdict::Missing, sentence)
            }
        })
        .collect();

    let more: Vec<String> = scopes
        .iter()
        .filter(|scope| {
            let name = scope.strip_suffix(":read").unwrap_or(scope);
            NEEDED.iter().all(|(needed, _)| *needed != name)
        })
        .cloned()
        .collect();
    if !more.is_empty() {
        let sentence = format!("backstop never uses {}: take it away", listed(&more));
        findings.push(Finding::new(
            CLIENT,
            NOTHING_ELSE,
            Verdict::MoreThanNeeded,
            sentence,
        ));
    }

    findings.push(if tags.iter().any(|it| it == tag) {
        Finding::new(CLIENT, TAGGED, Verdict::Ok, format!("it carries {tag}"))
    } else {
        let sentence = format!(
            "it carries {}: whether that owns {tag} is in the tailnet's policy (tagOwners), which \
             backstop does not read; else make a client that carries {tag}",
            listed(tags)
        );
        Finding::new(CLIENT, TAGGED, Verdict::CouldNotBeTold, sentence)
    });
    findings
}

async fn as_its_user(client: &Tailscale) -> Vec<Finding> {
    let mut findings = by_its_lists(TOKEN, client).await;
    if findings
        .iter()
        .any(|it| it.verdict == Verdict::CouldNotBeTold)
    {
        findings.push(Finding::new(
            TOKEN,
            NOTHING_ELSE,
            Verdict::MoreThanNeeded,
            format!("it can do whatever its user can, and ends within 90 days: {REMEDY}"),
        ));
    }
    findings
}

/// For a credential that names no scopes. What it can read tells that it works.
async fn by_its_lists(credential: &'static str, client: &Tailscale) -> Vec<Finding> {
    let read = [
        (DEVICES, client.devices().await.err()),
        (KEYS, client.keys().await.err()),
    ];
    let finding = |(ability, error)| match error {
        None => Finding::new(
            credential,
            ability,
            Verdict::CouldNotBeTold,
            "it lists them; whether it may also delete them, nobody says beforehand",
        ),
        Some(error) => Finding::of_error(credential, ability, &error, REMEDY),
    };
    read.into_iter().map(finding).collect()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
