//! The vendors' lists as sweeps take them, for `fuzz/`: see [`crate::fuzzing`].

use std::sync::Arc;

use chrono::DateTime;
use uuid::Uuid;

use super::{Vendors, lists};
use crate::domain::names::ControllerId;
use crate::domain::orphans::{Action, Claim, Ground, Known, Standing, Verdict, judge};
use crate::fuzzing::block_on;
use crate::providers::fuzzing::Script;
use crate::providers::tailscale::TailscaleCredential;
use crate::providers::{Hetzner, Tailscale, hetzner, tailscale};

const TAG: &str = "tag:agent";

/// Hetzner's answers, to whom asks for a thing or a list, or sweeps (`sweep`: the four lists in turn).
pub fn hetzner_answers(input: &[u8]) {
    let (asked, script) = Script::read(input);
    let client = Hetzner::scripted(&script);
    if asked == "sweep" {
        let client = Arc::new(client);
        is_judged(client.clone(), None);
        hetzner::fuzzing::budget(&client);
    } else {
        let result = block_on(hetzner::fuzzing::ask(&client, &script, asked));
        hetzner::fuzzing::told(result);
        hetzner::fuzzing::budget(&client);
    }
}

/// Tailscale's answers, to whom asks for a thing or a list, or sweeps; with a key, or (`oauth …`) with a
/// client that asks for a token first.
pub fn tailscale_answers(input: &[u8]) {
    let (asked, script) = Script::read(input);
    let (asked, credential) = match asked.strip_prefix("oauth ") {
        Some(asked) => (
            asked,
            TailscaleCredential::OAuth {
                client_id: "fuzzing".to_owned(),
                client_secret: "fuzzing".into(),
            },
        ),
        None => (asked, TailscaleCredential::ApiKey("fuzzing".into())),
    };
    let client = Tailscale::scripted(&script, credential);
    if asked == "sweep" {
        // Nothing is there for Hetzner's.
        let hetzner = Hetzner::scripted(&Script::default());
        is_judged(Arc::new(hetzner), Some(client));
    } else {
        let result = block_on(tailscale::fuzzing::ask(&client, &script, asked));
        hetzner::fuzzing::told(result);
    }
}

/// Whatever a list shows can be written down and is judged, and nothing that does not say that it is
/// ours is anything to us.
fn is_judged(hetzner: Arc<Hetzner>, tailscale: Option<Tailscale>) {
    let vendors = Vendors {
        hetzner,
        tailscale: tailscale.map(|client| (Arc::new(client), TAG.to_owned())),
        controller: ControllerId::new(Uuid::nil()),
    };
    let lists = block_on(lists::read(&vendors, None)).expect("nobody's budget is asked");
    assert_eq!(lists.unread.is_empty(), lists.errors.is_empty());
    let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
    let ground = Ground {
        listed_at: at(1_800_000_000),
        database_since: at(1_700_000_000),
        standing: Standing::Sound,
    };
    for thing in &lists.things {
        let seen = &thing.sighting;
        assert!(!seen.name.contains(char::is_control));
        assert!(!seen.name.contains('\0') && seen.subject().len() < 100);
        let verdict = judge(seen, Known::Nothing, &ground);
        match (seen.claim, verdict) {
            (Claim::NotOurs, verdict) => assert_eq!(verdict, Verdict::NotOurs),
            (Claim::Labels(..), _) => {}
            (_, Verdict::Orphan(_, action)) => assert_eq!(action, Action::Reported),
            _ => {}
        }
    }
}
