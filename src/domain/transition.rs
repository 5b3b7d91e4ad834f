//! Where a provision stands, and what moves it.
//!
//! [`transition`] is the whole table. The database says the same again in the constraint
//! `provisions_transition`, and a test holds the two against each other. Who may cause which move
//! is [`super::callback`]'s matter.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spelling::spelled_by_serde;

/// Where a provision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Asked for; no run has taken it.
    Queued,
    /// A run is at work.
    Provisioning,
    /// A run succeeded; the machine is in use.
    Running,
    /// The current attempt failed and is rolled back.
    Failed,
    /// Somebody asked for it to be destroyed.
    Destroyed,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Provisioning,
        Self::Running,
        Self::Failed,
        Self::Destroyed,
    ];
}

/// What moves a provision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Move {
    /// An operator asked for it.
    Created,
    /// The current attempt's run, or that of the attempt this opens, sent `started`.
    Started,
    /// The current attempt's run sent `progress`.
    Progress,
    /// The current attempt's run sent `success`.
    Success,
    /// The current attempt's run sent `failure`.
    Failure,
    /// Something was heard or seen of an attempt that is over.
    Late,
    /// An operator wants what is unsettled to be tried now.
    Retry,
    /// Somebody asked for it to be destroyed.
    Destroyed,
    /// GitHub refused to start its workflow.
    DispatchFailed,
    /// Its time is up.
    Overdue,
    /// GitHub says that its run has failed.
    RunFailed,
    /// GitHub says that its run has ended without failing, which nobody told us.
    Discrepancy,
    /// This database became another controller, and gave it up.
    Disowned,
}

/// A move that the table does not list. A bug in the caller; nothing changes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a provision that is {from:?} cannot be moved by {by:?}")]
pub struct IllegalMove {
    pub(super) from: Option<Status>,
    pub(super) by: Move,
}

/// The table. `from` is `None` for a provision that is not in the database yet.
///
/// # Errors
/// [`IllegalMove`] for what the table does not list.
pub fn transition(from: Option<Status>, by: Move) -> Result<Status, IllegalMove> {
    use Status as S;
    match (from, by) {
        (None, Move::Created) => Ok(S::Queued),
        (None | Some(S::Queued | S::Provisioning | S::Failed), Move::Started)
        | (None | Some(S::Queued | S::Provisioning), Move::Progress) => Ok(S::Provisioning),
        (Some(S::Running), Move::Started | Move::Progress)
        | (None | Some(S::Queued | S::Provisioning | S::Running), Move::Success) => Ok(S::Running),
        (None | Some(S::Queued | S::Provisioning | S::Running), Move::Failure)
        | (Some(S::Queued | S::Provisioning), Move::Overdue | Move::RunFailed) => Ok(S::Failed),
        (Some(status @ (S::Queued | S::Provisioning)), Move::Discrepancy) => Ok(status),
        (
            Some(status @ (S::Provisioning | S::Running | S::Failed | S::Destroyed)),
            Move::Late | Move::Retry,
        ) => Ok(status),
        (Some(S::Queued), Move::DispatchFailed) => Ok(S::Failed),
        (Some(S::Queued | S::Provisioning | S::Running | S::Failed), Move::Destroyed)
        | (Some(_), Move::Disowned) => Ok(S::Destroyed),
        (from, by) => Err(IllegalMove { from, by }),
    }
}

spelled_by_serde!(Status, Move);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_status_and_move_is_as_the_contract_says() {
        let moves = [
            Move::Created,
            Move::Started,
            Move::Progress,
            Move::Success,
            Move::Failure,
            Move::Late,
            Move::Retry,
            Move::Destroyed,
            Move::DispatchFailed,
            Move::Overdue,
            Move::RunFailed,
            Move::Discrepancy,
            Move::Disowned,
        ];
        // columns as in `moves`; P: provisioning
        let table = [
            (None, "queued P P running failed - - - - - - - -"),
            (
                Some(Status::Queued),
                "- P P running failed - - destroyed failed failed failed queued destroyed",
            ),
            (
                Some(Status::Provisioning),
                "- P P running failed P P destroyed - failed failed P destroyed",
            ),
            (
                Some(Status::Running),
                "- running running running failed running running destroyed - - - - destroyed",
            ),
            (
                Some(Status::Failed),
                "- P - - - failed failed destroyed - - - - destroyed",
            ),
            (
                Some(Status::Destroyed),
                "- - - - - destroyed destroyed - - - - - destroyed",
            ),
        ];
        for (from, row) in table {
            let row: Vec<&str> = row.split(' ').collect();
            assert_eq!(row.len(), moves.len());
            for (by, expected) in moves.into_iter().zip(row) {
                let expected = if expected == "P" {
                    "provisioning"
                } else {
                    expected
                };
                let to = transition(from, by).map_or("-".to_owned(), |to| to.to_string());
                assert_eq!(to, expected, "{from:?} moved by {by:?}");
            }
        }
    }
}
