//! Where a provision stands, and what moves it.
//!
//! [`transition`] is the whole table. The database says the same again in the constraint
//! `provisions_transition`, and a test holds the two against each other. Who may cause which move
//! is [`super::callback`]'s matter.

use serde::{Deserialize, Serialize};

use super::spelling::spelled_by_serde;

/// Where a provision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
}

/// A move that the table does not list. A bug in the caller; nothing changes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a provision that is {from:?} cannot be moved by {by:?}")]
pub struct IllegalMove {
    from: Option<Status>,
    by: Move,
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
        (None | Some(S::Queued | S::Provisioning | S::Running), Move::Failure) => Ok(S::Failed),
        (
            Some(status @ (S::Provisioning | S::Running | S::Failed | S::Destroyed)),
            Move::Late | Move::Retry,
        ) => Ok(status),
        (Some(S::Queued | S::Provisioning | S::Running | S::Failed), Move::Destroyed) => {
            Ok(S::Destroyed)
        }
        (from, by) => Err(IllegalMove { from, by }),
    }
}

spelled_by_serde!(Status, Move);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_status_and_move_is_as_the_contract_says() {
        const NO: &str = "-";
        let moves = [
            Move::Created,
            Move::Started,
            Move::Progress,
            Move::Success,
            Move::Failure,
            Move::Late,
            Move::Retry,
            Move::Destroyed,
        ];
        // columns as in `moves`
        let table = [
            (
                None,
                [
                    "queued",
                    "provisioning",
                    "provisioning",
                    "running",
                    "failed",
                    NO,
                    NO,
                    NO,
                ],
            ),
            (
                Some(Status::Queued),
                [
                    NO,
                    "provisioning",
                    "provisioning",
                    "running",
                    "failed",
                    NO,
                    NO,
                    "destroyed",
                ],
            ),
            (
                Some(Status::Provisioning),
                [
                    NO,
                    "provisioning",
                    "provisioning",
                    "running",
                    "failed",
                    "provisioning",
                    "provisioning",
                    "destroyed",
                ],
            ),
            (
                Some(Status::Running),
                [
                    NO,
                    "running",
                    "running",
                    "running",
                    "failed",
                    "running",
                    "running",
                    "destroyed",
                ],
            ),
            (
                Some(Status::Failed),
                [
                    NO,
                    "provisioning",
                    NO,
                    NO,
                    NO,
                    "failed",
                    "failed",
                    "destroyed",
                ],
            ),
            (
                Some(Status::Destroyed),
                [NO, NO, NO, NO, NO, "destroyed", "destroyed", NO],
            ),
        ];
        for (from, row) in table {
            for (by, expected) in moves.into_iter().zip(row) {
                let to = transition(from, by).map_or(NO.to_owned(), |to| to.to_string());
                assert_eq!(to, expected, "{from:?} moved by {by:?}");
            }
        }
    }
}
