//! What a sweep writes to the ledger.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Vendors;
use crate::domain::fields::Hint;
use crate::domain::names::{Names, ProvisionId, Run};
use crate::domain::orphans::{Action, Claim, MOST_UNKNOWN, Mandate, Orphan};
use crate::rollback::{Reopened, adopt, reopen_rollback};
use crate::store::StoreError;
use crate::store::sweeps::Findings;

/// Reopens the rollback of what is over and, if told to, hands what no provision knows to the ledger.
/// The provisions that have something to do now. What cannot be written is told in the findings,
/// and does not keep the rest from being written.
///
/// # Errors
/// [`StoreError::Away`] if the database cannot be reached.
pub(super) async fn act(
    db: &mut PgConnection,
    vendors: &Vendors,
    listed_at: DateTime<Utc>,
    findings: &mut Findings,
    mandate: Mandate,
) -> Result<Vec<ProvisionId>, StoreError> {
    let managed = vendors.managed();
    let mut reopened = Vec::new();
    if mandate >= Mandate::Reopen {
        for (names, things) in over(&findings.orphans) {
            let written = reopen_rollback(db, names, &things, listed_at, managed).await;
            note(written, names, &mut reopened, &mut findings.errors)?;
        }
    }
    if mandate >= Mandate::Delete {
        // The last attempt first: it makes the provision, the ones before are added to it.
        for ((names, run), chosen) in unknown(&findings.orphans).into_iter().rev() {
            let things: Vec<Hint> = chosen
                .iter()
                .filter_map(|index| thing(&findings.orphans[*index]))
                .collect();
            let written = adopt(db, names, run, &things, listed_at, managed).await;
            let action = match note(written, names, &mut reopened, &mut findings.errors)? {
                Reopened::Yes => Action::RolledBack,
                Reopened::NotNeeded => Action::Reported,
            };
            for index in chosen {
                findings.orphans[index].action = action;
            }
        }
    }
    Ok(reopened)
}

/// What is over, by attempt.
fn over(orphans: &[Orphan]) -> BTreeMap<Names, Vec<Hint>> {
    let mut by_attempt: BTreeMap<Names, Vec<Hint>> = BTreeMap::new();
    for orphan in orphans {
        let names = orphan.seen.claim.names();
        if let (Action::RolledBack, Some(names), Some(thing)) =
            (orphan.action, names, thing(orphan))
        {
            by_attempt.entry(names).or_default().push(thing);
        }
    }
    by_attempt
}

/// What may be deleted when told to: the oldest, and no more than a few. Places in `orphans`, by
/// attempt.
fn unknown(orphans: &[Orphan]) -> BTreeMap<(Names, Run), Vec<usize>> {
    let mut told: Vec<(usize, &Orphan)> = orphans
        .iter()
        .enumerate()
        .filter(|(_, orphan)| orphan.action == Action::DeletedWhenTold)
        .collect();
    told.sort_by_key(|(_, orphan)| orphan.seen.created);
    told.truncate(MOST_UNKNOWN);
    let mut by_attempt: BTreeMap<(Names, Run), Vec<usize>> = BTreeMap::new();
    for (index, orphan) in told {
        if let Claim::Labels(names, run) = orphan.seen.claim {
            by_attempt.entry((names, run)).or_default().push(index);
        }
    }
    by_attempt
}

fn thing(orphan: &Orphan) -> Option<Hint> {
    Some(Hint {
        resource: orphan.seen.kind.resource()?,
        vendor_id: orphan.seen.id.clone(),
    })
}

fn note(
    written: Result<Reopened, StoreError>,
    names: Names,
    reopened: &mut Vec<ProvisionId>,
    errors: &mut Vec<String>,
) -> Result<Reopened, StoreError> {
    match written {
        Ok(Reopened::Yes) => {
            reopened.push(names.provision());
            Ok(Reopened::Yes)
        }
        Ok(Reopened::NotNeeded) => Ok(Reopened::NotNeeded),
        Err(error @ StoreError::Away(_)) => Err(error),
        Err(error) => {
            tracing::error!(
                provision.id = %names.provision(), attempt = %names.attempt(), %error,
                "a sweep cannot write down what it found"
            );
            errors.push(format!(
                "attempt {} of {} could not be written down",
                names.attempt(),
                names.provision()
            ));
            Ok(Reopened::NotNeeded)
        }
    }
}
