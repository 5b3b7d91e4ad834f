//! Servers: what a look shows, and what a step makes of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::judge::{Judge, POLL, may_lag, pace};
use super::sight::Sight;
use crate::domain::fields::VendorId;
use crate::domain::names::{Names, PROVISION_LABEL};
use crate::domain::step::Proof;
use crate::providers::hetzner::{Action, ActionStatus, Deletion, Server};
use crate::providers::{Hetzner, VendorError};
use crate::store::ledger::{ClaimedStep, Outcome, Subject};

/// How many lists and polls a look is.
pub(super) fn looks(steps: &[ClaimedStep]) -> u32 {
    let polls = steps.iter().filter_map(action_of).count();
    let polls = polls.div_ceil(Hetzner::ACTIONS_A_CALL);
    1 + u32::try_from(polls).unwrap_or(u32::MAX)
}

/// What one look shows, for a whole batch. The list is begun after the actions were asked after, so
/// that it can prove what they claim.
pub(super) struct View {
    actions: HashMap<u64, Action>,
    servers: Vec<Server>,
}

pub(super) async fn look(client: &Hetzner, steps: &[ClaimedStep]) -> Result<View, VendorError> {
    let ids: Vec<u64> = steps.iter().filter_map(action_of).collect();
    let mut actions = HashMap::new();
    if !ids.is_empty() {
        for action in client.actions(&ids).await? {
            actions.insert(action.id, action);
        }
    }
    let provisions: BTreeSet<String> = steps
        .iter()
        .filter(|step| !is_running(step, &actions))
        .map(|step| step.provision.to_string())
        .collect();
    let mut servers = Vec::new();
    if !provisions.is_empty() {
        let provisions = provisions.into_iter().collect::<Vec<_>>().join(",");
        let selector = format!("{PROVISION_LABEL} in ({provisions})");
        servers = client.servers_by_label(&selector).await?;
    }
    Ok(View { actions, servers })
}

pub(super) async fn carry_out(
    client: &Hetzner,
    view: &Result<View, VendorError>,
    step: Arc<ClaimedStep>,
    judge: &Judge<'_>,
    sight: &Sight<'_>,
) -> Outcome {
    let view = match view {
        Ok(view) => view,
        Err(error) => return judge.failed(&step, error),
    };
    let outcome = match &step.subject {
        Subject::Search => Ok(search(view, &step, judge, sight).await),
        Subject::Id(id) => remove(client, view, &step, id, judge, sight).await,
    };
    outcome.unwrap_or_else(|error| judge.failed(&step, &error))
}

async fn search(view: &View, step: &ClaimedStep, judge: &Judge<'_>, sight: &Sight<'_>) -> Outcome {
    let own = view
        .servers
        .iter()
        .filter(|server| is_own(server, step, judge));
    judge
        .found(step, own.map(|server| server.id.to_string()), sight)
        .await
}

async fn remove(
    client: &Hetzner,
    view: &View,
    step: &ClaimedStep,
    vendor_id: &VendorId,
    judge: &Judge<'_>,
    sight: &Sight<'_>,
) -> Result<Outcome, VendorError> {
    let Ok(id) = vendor_id.as_str().parse::<u64>() else {
        let because = format!("{vendor_id} is no server id");
        return Ok(judge.not_ours(step, because));
    };
    let action = status_of(step, &view.actions);
    let listed = view.servers.iter().find(|server| server.id == id);

    match (&step.accepted, action) {
        (Some(accepted), Some(ActionStatus::Running)) => {
            return Ok(Outcome::UnderWay {
                look_in: pace(accepted.since),
            });
        }
        (Some(_), Some(ActionStatus::Error { code, message })) => {
            return Ok(Outcome::DeleteFailed {
                error: format!("Hetzner's delete action ended in error {code}: {message}"),
                retry_in: judge.begin_anew_in(step),
            });
        }
        // The vendor's own word, which needs no other evidence.
        (Some(_), Some(ActionStatus::Success)) if listed.is_none() => {
            return Ok(Outcome::Gone(Proof::Deleted));
        }
        (Some(_), Some(ActionStatus::Success)) => {
            if let Some(outcome) = may_lag(step) {
                return Ok(outcome);
            }
        }
        _ => {}
    }
    if !judge.permit.one_more(client.rate()) {
        return Ok(judge.held_back(client.rate()));
    }

    // What the list does not show is asked for by its id: it may carry other labels, or none.
    let asked;
    let server = if let Some(server) = listed {
        server
    } else if let Some(server) = client.server(id).await? {
        asked = server;
        &asked
    } else {
        let proof = match step.accepted {
            Some(_) => Proof::Deleted,
            None => Proof::AlreadyGone,
        };
        return Ok(sight.absent(step, proof).await);
    };
    if !is_own(server, step, judge) {
        let because = format!("server {id} does not carry all five labels of this attempt");
        return Ok(judge.not_ours(step, because));
    }
    let deletion = client.delete_server(id).await;
    fail::fail_point!("deleted");
    Ok(match deletion? {
        Deletion::Accepted(action) => Outcome::Accepted {
            action_id: Some(action.id),
            look_in: POLL.0,
        },
        Deletion::AlreadyGone => judge.absent_but_seen(step, vendor_id),
    })
}

/// Whether a server carries all five labels of the step's attempt.
fn is_own(server: &Server, step: &ClaimedStep, judge: &Judge<'_>) -> bool {
    Names::new(step.provision, step.attempt)
        .labels(judge.controller, step.run)
        .iter()
        .all(|(key, value)| server.labels.get(key) == Some(value))
}

fn action_of(step: &ClaimedStep) -> Option<u64> {
    step.accepted.as_ref()?.action_id
}

/// How far the delete is; `None` also if the vendor now says that it is another server's.
fn status_of<'a>(
    step: &ClaimedStep,
    actions: &'a HashMap<u64, Action>,
) -> Option<&'a ActionStatus> {
    let Subject::Id(id) = &step.subject else {
        return None;
    };
    let action = actions.get(&action_of(step)?)?;
    (action.deletes?.to_string() == id.as_str()).then_some(&action.status)
}

fn is_running(step: &ClaimedStep, actions: &HashMap<u64, Action>) -> bool {
    status_of(step, actions) == Some(&ActionStatus::Running)
}
