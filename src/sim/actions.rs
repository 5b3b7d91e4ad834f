//! State of GitHub: workflow runs, and the tokens of the app's installation.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{
    options::Permission,
    snapshot::{RunAttempt, WorkflowRun},
    tailnet::random_word,
};

/// The first run's id is beyond this one: real ones do not fit 32 bits.
const RUNS_BEFORE: u64 = 17_402_115_000;

/// Runs and tokens.
#[derive(Debug, Default)]
pub(super) struct Actions {
    runs: BTreeMap<u64, WorkflowRun>,
    tokens: BTreeMap<String, (Permission, DateTime<Utc>)>,
}

impl Actions {
    /// Starts a run, which waits for a runner until it is told otherwise; its id.
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
            attempts: vec![attempt("queued", None, now)],
        };
        self.runs.insert(id, run);
        id
    }

    /// Lets the latest attempt of a run stand so. False: there is no such run.
    pub(super) fn change(
        &mut self,
        id: u64,
        status: &str,
        conclusion: Option<&str>,
        now: DateTime<Utc>,
    ) -> bool {
        let latest = self
            .runs
            .get_mut(&id)
            .and_then(|run| run.attempts.last_mut());
        latest
            .map(|latest| *latest = attempt(status, conclusion, now))
            .is_some()
    }

    /// Runs it once more. False: there is no such run.
    pub(super) fn rerun(&mut self, id: u64, now: DateTime<Utc>) -> bool {
        let run = self.runs.get_mut(&id);
        run.map(|run| run.attempts.push(attempt("queued", None, now)))
            .is_some()
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

fn attempt(status: &str, conclusion: Option<&str>, now: DateTime<Utc>) -> RunAttempt {
    RunAttempt {
        status: status.to_owned(),
        conclusion: conclusion.map(str::to_owned),
        updated: now,
    }
}
