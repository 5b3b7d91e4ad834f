//! Hetzner's answers, for `fuzz/`: see [`crate::fuzzing`].

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use serde_json::Value;
use uuid::Uuid;

use super::{ActionStatus, Deletion, Hetzner, Priced};
use crate::domain::budget::{Answer, Purpose, RateBudget, Reserve, Told};
use crate::providers::fuzzing::{Script, is_told};
use crate::providers::http::{Http, bearer};
use crate::providers::{Vendor, VendorError};

impl Hetzner {
    /// A client whose vendor is a script.
    pub(crate) fn scripted(script: &Script) -> Self {
        let token = bearer("HCLOUD_TOKEN", &"fuzzing".into());
        Self {
            http: Http::scripted(Vendor::Hetzner, "https://hetzner.example/v1", script),
            token: token.expect("it is visible ASCII"),
            rate: None.into(),
            prices: None.into(),
        }
    }
}

/// Asks for one thing. What is answered is what was asked for, and a list is all that its pages show.
pub(crate) async fn ask(client: &Hetzner, script: &Script, asked: &str) -> Result<(), VendorError> {
    let mut words = asked.split(' ');
    let call = words.next().unwrap_or_default();
    let ids: Vec<u64> = words
        .filter_map(|word| word.parse().ok())
        .take(60)
        .collect();
    let id = ids.first().copied().unwrap_or(42);
    let selector = "managed-by=backstop";
    match call {
        "server" => match client.server(id).await? {
            Some(server) => assert_eq!(server.id, id),
            None => was_absent(script),
        },
        "delete" => match client.delete_server(id).await? {
            Deletion::Accepted(_) => {
                assert!(
                    script
                        .last_status()
                        .is_some_and(|status| status.is_success())
                );
            }
            Deletion::AlreadyGone => was_absent(script),
        },
        "actions" => {
            let actions = client.actions(&ids).await?;
            assert!(actions.iter().all(|action| ids.contains(&action.id)));
            for action in actions {
                if let ActionStatus::Error { code, message } = action.status {
                    assert!(!format!("{code}{message}").contains(char::is_control));
                }
            }
        }
        "volumes" => {
            let listed = client.volumes_by_label(selector).await?;
            is_all_of_it(script, call, listed.iter().map(|it| it.id));
        }
        "primary_ips" => {
            let listed = client.primary_ips_by_label(selector).await?;
            is_all_of_it(script, call, listed.iter().map(|it| it.id));
        }
        "floating_ips" => {
            let listed = client.floating_ips_by_label(selector).await?;
            is_all_of_it(script, call, listed.iter().map(|it| it.id));
        }
        "prices" => {
            let prices = client.prices().await?;
            let volume = prices.hourly(&Priced::Volume(1e300));
            assert!(volume.unwrap_or_default().is_finite());
            assert!(
                script
                    .last_status()
                    .is_some_and(|status| status.is_success())
            );
        }
        _ => {
            let listed = client.servers_by_label(selector).await?;
            is_all_of_it(script, "servers", listed.iter().map(|it| it.id));
        }
    }
    Ok(())
}

fn was_absent(script: &Script) {
    assert_eq!(
        script.last_status().map(|status| status.as_u16()),
        Some(404)
    );
}

/// The pages of the last reading: from the first page on, each followed by the one it names, the last
/// one naming none.
fn is_all_of_it(script: &Script, kind: &str, listed: impl Iterator<Item = u64>) {
    let listed: Vec<u64> = listed.collect();
    assert!(listed.is_sorted_by(|one, next| one < next));
    let mut shown = BTreeSet::new();
    let mut page = Value::Null;
    for (status, body) in script.played().into_iter().rev() {
        assert!(status.is_success());
        let Some(body) = body else {
            return;
        };
        let told = &body["meta"]["pagination"];
        match page.as_u64() {
            None => assert!(told["next_page"].is_null()),
            Some(page) => assert_eq!(told["next_page"].as_u64(), Some(page)),
        }
        let things = body[kind].as_array().expect("it was understood");
        shown.extend(
            things
                .iter()
                .map(|thing| thing["id"].as_u64().expect("an id")),
        );
        page = told["page"].clone();
        if page.as_u64() == Some(1) {
            break;
        }
    }
    assert_eq!(page.as_u64(), Some(1));
    assert_eq!(listed, shown.into_iter().collect::<Vec<_>>());
}

/// Whatever a vendor tells of its budget, no more is granted than was asked for, and nobody is asked to
/// come back at once or never.
pub(crate) fn budget(client: &Hetzner) {
    let Some(rate) = client.rate() else {
        return;
    };
    let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a time");
    let mut budget = RateBudget::default();
    let told = Told {
        limit: rate.limit,
        remaining: rate.remaining,
        told_at: rate.told_at,
        heard_at: at(0),
    };
    budget.settle(Uuid::nil(), 0, Some(told), at(0));
    for (seconds, purpose) in [
        (0, Purpose::Delete { looks: 2 }),
        (0, Purpose::Sweep),
        (9, Purpose::Delete { looks: 0 }),
        (4000, Purpose::Sweep),
        (5000, Purpose::Delete { looks: u32::MAX }),
    ] {
        let answer = budget.ask(purpose, 50, Reserve::default(), at(seconds));
        let soon = match answer {
            Answer::Granted(grant) => {
                assert!(grant.requests <= 50);
                budget.hand_out(Uuid::nil(), &grant, at(seconds));
                budget.settle(Uuid::nil(), grant.counts, Some(told), at(seconds + 1));
                grant.rest_in
            }
            Answer::NotNow { come_back_in } => come_back_in,
        };
        assert!((Duration::from_secs(1)..=Duration::from_secs(60)).contains(&soon));
    }
    assert!(
        budget
            .remaining(at(6000))
            .is_some_and(|left| left <= rate.limit)
    );
}

/// For whoever only wants to see that nothing breaks.
pub(crate) fn told(result: Result<(), VendorError>) {
    if let Err(error) = result {
        is_told(&error);
    }
}
