//! State of GitHub: workflow runs, and the tokens of the app's installation.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{snapshot::WorkflowRun, tailnet::random_word};

/// The first run's id is beyond this one: real ones do not fit 32 bits.
const RUNS_BEFORE: u64 = 17_402_115_000;

/// What an installation token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// Read the repository's actions.
    Read,
    /// Read them and start workflows.
    Write,
}

/// Runs and tokens.
#[derive(Debug, Default)]
pub(super) struct Actions {
    runs: BTreeMap<u64, WorkflowRun>,
    tokens: BTreeMap<String, (Permission, DateTime<Utc>)>,
}

impl Actions {
    /// Starts a run, which waits for a runner for ever; its id.
    pub(super) fn dispatch(
        &mut self,
        git_ref: &str,
        inputs: BTreeMap<String, String>,
        now: DateTime<Utc>,
    ) -> u64 {
        let newest = self
            .runs
            .last_key_value()
            .map_or(RUNS_BEFORE, |(id, _)| *id);
        let id = newest + rand::random_range(1..40);
        let run = WorkflowRun {
            id,
            git_ref: git_ref.to_owned(),
            inputs,
            created: now,
        };
        self.runs.insert(id, run);
        id
    }

    /// The run with that id, and its number among the workflow's runs.
    pub(super) fn run(&self, id: u64) -> Option<(usize, &WorkflowRun)> {
        let run = self.runs.get(&id)?;
        Some((self.runs.range(..=id).count(), run))
    }

    /// Hands out an installation token that ends by itself.
    pub(super) fn issue_token(&mut self, may: Permission, until: DateTime<Utc>) -> String {
        let token = format!("ghs_{}", random_word(36));
        self.tokens.insert(token.clone(), (may, until));
        token
    }

    /// What an installation token may do. `None`: there is no such token, or it has ended.
    pub(super) fn permission(&self, token: &str, now: DateTime<Utc>) -> Option<Permission> {
        let (may, until) = self.tokens.get(token)?;
        (*until > now).then_some(*may)
    }

    /// Copies of all runs.
    pub(super) fn snapshot(&self) -> Vec<WorkflowRun> {
        self.runs.values().cloned().collect()
    }
}
