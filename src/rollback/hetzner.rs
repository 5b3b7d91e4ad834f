//! Servers: what a look shows, and what a step makes of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::judge::{Judge, nothing_found};
use crate::domain::fields::VendorId;
use crate::domain::names::{Names, PROVISION_LABEL};
use crate::domain::step::{Proof, Resource};
use crate::providers::hetzner::{ActionStatus, Deletion, Server};
use crate::providers::{Hetzner, VendorError};
use crate::store::ledger::{AcceptedDelete, ClaimedStep, Outcome, Subject};

/// How soon an action is asked after, at first and at last.
const POLL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// An action that ended well and a server that is still listed: the list may lag for so long.
const LIST_MAY_LAG: Duration = Duration::from_secs(60);

/// How many lists and polls a look is.
pub(super) fn looks(steps: &[ClaimedStep]) -> u32 {
    let polls = steps.iter().filter_map(action_of).count();
    let polls = polls.div_ceil(Hetzner::ACTIONS_A_CALL);
    1 + u32::try_from(polls).unwrap_or(u32::MAX)
}

/// What one look shows, for a whole batch. The list is begun after the actions were asked after, so
/// that it can prove what they claim.
pub(super) struct View {
    actions: HashMap<u64, ActionStatus>,
    servers: Vec<Server>,
}

pub(super) async fn look(client: &Hetzner, steps: &[ClaimedStep]) -> Result<View, VendorError> {
    let ids: Vec<u64> = steps.iter().filter_map(action_of).collect();
    let mut actions = HashMap::new();
    if !ids.is_empty() {
        for action in client.actions(&ids).await? {
            actions.insert(action.id, action.status);
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
) -> Outcome {
    let view = match view {
        Ok(view) => view,
        Err(error) => return judge.failed(&step, error),
    };
    let outcome = match &step.subject {
        Subject::Search => Ok(search(view, &step, judge)),
        Subject::Id(id) => remove(client, view, &step, id, judge).await,
    };
    outcome.unwrap_or_else(|error| judge.failed(&step, &error))
}

fn search(view: &View, step: &ClaimedStep, judge: &Judge<'_>) -> Outcome {
    let found: BTreeSet<VendorId> = view
        .servers
        .iter()
        .filter(|server| is_own(server, step, judge))
        .filter_map(|server| VendorId::parse(Resource::Server, &server.id.to_string()))
        .collect();
    if found.is_empty() {
        nothing_found(step)
    } else {
        Outcome::Found(found)
    }
}

async fn remove(
    client: &Hetzner,
    view: &View,
    step: &ClaimedStep,
    vendor_id: &VendorId,
    judge: &Judge<'_>,
) -> Result<Outcome, VendorError> {
    let Ok(id) = vendor_id.as_str().parse::<u64>() else {
        let because = format!("{vendor_id} is no server id");
        return Ok(judge.not_ours(step, because));
    };
    let action = action_of(step).and_then(|id| view.actions.get(&id));
    let listed = view.servers.iter().find(|server| server.id == id);

    match (&step.accepted, action) {
        (Some(accepted), Some(ActionStatus::Running)) => {
            return Ok(Outcome::UnderWay {
                look_in: pace(accepted),
            });
        }
        (Some(_), Some(ActionStatus::Error { code, message })) => {
            return Ok(Outcome::DeleteFailed {
                error: format!("Hetzner's delete action ended in error {code}: {message}"),
                retry_in: judge.begin_anew_in(step),
            });
        }
        (Some(_), Some(ActionStatus::Success)) if listed.is_none() => {
            return Ok(Outcome::Gone(Proof::Deleted));
        }
        (Some(accepted), Some(ActionStatus::Success)) if accepted.since < LIST_MAY_LAG => {
            return Ok(Outcome::UnderWay {
                look_in: pace(accepted),
            });
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
        return Ok(Outcome::Gone(match step.accepted {
            Some(_) => Proof::Deleted,
            None => Proof::AlreadyGone,
        }));
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
        // It was there a moment ago. One 404 is weak evidence: look again.
        Deletion::AlreadyGone => Outcome::NotSeen { look_in: POLL.0 },
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

fn is_running(step: &ClaimedStep, actions: &HashMap<u64, ActionStatus>) -> bool {
    action_of(step).and_then(|id| actions.get(&id)) == Some(&ActionStatus::Running)
}

/// The longer a delete has been under way, the less often it is asked after.
fn pace(accepted: &AcceptedDelete) -> Duration {
    (accepted.since / 2).clamp(POLL.0, POLL.1)
}
