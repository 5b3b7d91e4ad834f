//! Tailscale's answers, for `fuzz/`: see [`crate::fuzzing`].

use std::collections::BTreeSet;

use super::{Access, Deletion, Tailscale, TailscaleCredential};
use crate::providers::fuzzing::Script;
use crate::providers::http::Http;
use crate::providers::{Vendor, VendorError};

impl Tailscale {
    /// A client whose vendor is a script. With an OAuth client, a token is asked for first.
    pub(crate) fn scripted(script: &Script, credential: TailscaleCredential) -> Self {
        Self {
            http: Http::scripted(Vendor::Tailscale, "https://tailscale.example", script),
            tailnet: "-".to_owned(),
            access: Access::new(credential).expect("it is visible ASCII"),
        }
    }
}

/// Asks for one thing. What is answered is what was asked for, and a list is all of it.
pub(crate) async fn ask(
    client: &Tailscale,
    script: &Script,
    asked: &str,
) -> Result<(), VendorError> {
    let (call, id) = asked.split_once(' ').unwrap_or((asked, "n1"));
    let absent = || assert_eq!(script.last_status().map(|it| it.as_u16()), Some(404));
    match call {
        "device" => match client.device(id).await? {
            Some(device) => assert!(device.answers_to(id)),
            None => absent(),
        },
        "key" => match client.key(id).await? {
            Some(key) => {
                assert_eq!(key.id, id);
                let _ = (key.is_auth_key(), key.is_live());
            }
            None => absent(),
        },
        "delete-device" | "delete-key" => {
            let deletion = match call {
                "delete-device" => client.delete_device(id).await?,
                _ => client.delete_key(id).await?,
            };
            match deletion {
                Deletion::Deleted => {
                    assert!(script.last_status().is_some_and(|it| it.is_success()));
                }
                Deletion::AlreadyGone => absent(),
            }
        }
        "keys" => {
            let keys = client.keys().await?;
            is_all_of_it(script, call, keys.iter().map(|key| key.id.as_str()));
        }
        _ => {
            let devices = client.devices().await?;
            is_all_of_it(
                script,
                "devices",
                devices.iter().map(|it| it.node_id.as_str()),
            );
        }
    }
    Ok(())
}

fn is_all_of_it<'a>(script: &Script, kind: &str, listed: impl Iterator<Item = &'a str>) {
    let (status, body) = script.played().pop().expect("it was answered");
    assert!(status.is_success());
    let Some(body) = body else {
        return;
    };
    let things = body[kind].as_array().expect("it was understood");
    let shown: BTreeSet<&str> = things
        .iter()
        .map(|thing| {
            let node_id = thing["nodeId"].as_str().filter(|id| !id.is_empty());
            let id = thing["id"].as_str();
            node_id.filter(|_| kind == "devices").or(id).expect("an id")
        })
        .collect();
    let listed: Vec<&str> = listed.collect();
    assert_eq!(listed, shown.into_iter().collect::<Vec<_>>());
}
