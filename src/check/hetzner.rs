//! The Hetzner token.

use std::sync::Arc;

use super::{Finding, Known, Verdict};
use crate::providers::Hetzner;
use crate::rollback::worker::Hands;
use crate::rollback::{Blind, Look, Shown};

const CREDENTIAL: &str = "HCLOUD_TOKEN";
const READ: &str = "list servers";
const WRITE: &str = "delete servers";
pub(super) const SEES: &str = "see what runs";

pub(super) async fn look(client: &Arc<Hetzner>, known: Option<Known<'_>>) -> Vec<Finding> {
    let remedy = "make a token with Read & Write in the agents' project";
    let count = match client.count_servers().await {
        Ok(count) => count,
        Err(error) => return vec![Finding::of_error(CREDENTIAL, READ, &error, remedy)],
    };
    let sentence = match count {
        Some(count) => format!("servers in its project: {count}"),
        None => "its project's servers are listed".to_owned(),
    };
    let mut findings = vec![Finding::new(CREDENTIAL, READ, Verdict::Ok, sentence)];
    findings.push(match client.may_write().await {
        Ok(()) => {
            let sentence = "it may do everything in its project: Hetzner has no narrower token, so \
                            keep nothing else in there";
            Finding::new(CREDENTIAL, WRITE, Verdict::Ok, sentence)
        }
        Err(error) => Finding::of_error(CREDENTIAL, WRITE, &error, remedy),
    });
    let hands = Hands::Hetzner(client.clone());
    findings.extend(sees(CREDENTIAL, &hands, known).await);
    findings
}

/// Whether the list shows what the database says runs. Without any such machine nobody can tell one
/// project or tailnet from another.
pub(super) async fn sees(
    credential: &'static str,
    hands: &Hands,
    known: Option<Known<'_>>,
) -> Option<Finding> {
    let Known { pool, controller } = known?;
    let look = Look {
        pool,
        hands,
        controller,
    };
    let finding = |verdict, sentence: &str| Some(Finding::new(credential, SEES, verdict, sentence));
    match look.look().await {
        Ok(Shown::AMachine) => finding(
            Verdict::Ok,
            "it shows a machine that the database knows to run",
        ),
        Ok(Shown::NothingToShow) => finding(
            Verdict::CouldNotBeTold,
            "no machine runs, so that nothing tells whether it is the right project or tailnet",
        ),
        Err(Blind::Suspect(why)) => finding(Verdict::Missing, why),
        Err(Blind::Vendor(error)) => Some(Finding::of_error(credential, SEES, &error, "widen it")),
        Err(Blind::Unknown(why)) => finding(Verdict::NotAnswered, &why),
    }
}
