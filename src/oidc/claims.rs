//! What a token says, and whether that makes its run one of ours.

use serde::{Deserialize, Deserializer};

use crate::domain::names::Run;

/// How long a token counts from its date, in seconds. The issuer's own `exp` lies up to hours ahead.
const LONGEST_AGE: u64 = 600;

/// Whose runs are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// The repository that the run belongs to.
    pub repository: Repository,
    /// Its id besides: a name that is given up can be taken by somebody else.
    pub repository_id: Option<u64>,
    /// Its owner's id.
    pub owner_id: Option<u64>,
    /// The workflow that was started, in that repository.
    pub workflow: WorkflowFile,
    /// Workflows that it may call, and whose jobs may speak for it:
    /// `owner/name/.github/workflows/file.yml@refs/tags/v1`.
    pub called: Vec<String>,
}

/// How a repository is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// By `owner/name`, which may be renamed.
    Name(String),
    /// By its number, which stays.
    Id(u64),
}

/// A workflow's file at a branch or tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowFile {
    /// Its name below `.github/workflows`.
    pub file: String,
    /// A branch or a tag, or either in full: `refs/heads/main`.
    pub git_ref: String,
}

/// What is wrong with a token that was signed by the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// See [`LONGEST_AGE`].
    #[error("issued more than {LONGEST_AGE} s ago")]
    TooOld,
    /// Beyond what clocks differ by.
    #[error("issued in the future")]
    NotYet,
    /// The repository's name or id.
    #[error("of another repository")]
    Repository,
    /// The owner's id.
    #[error("of another owner")]
    Owner,
    /// The file, or the branch or tag.
    #[error("of another workflow, or of ours at another ref")]
    Workflow,
    /// The job's code is in a workflow that ours called.
    #[error("of a job in a called workflow that BACKSTOP_OIDC_CALLED_WORKFLOWS does not name")]
    Called,
}

/// The claims that count. `sub` is not among them, on purpose.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Claims {
    /// Checked elsewhere. Here it has to be one: a token for us and for others may be shown to us by
    /// the others.
    #[serde(rename = "aud")]
    _audience: String,
    iat: u64,
    repository: String,
    #[serde(deserialize_with = "number")]
    repository_id: u64,
    #[serde(deserialize_with = "number")]
    repository_owner_id: u64,
    /// Of the workflow that was started.
    workflow_ref: String,
    /// Of the one that the job is written in: the same, unless it was called.
    job_workflow_ref: String,
    #[serde(deserialize_with = "number")]
    run_id: i64,
    #[serde(deserialize_with = "number")]
    run_attempt: i32,
}

impl Claims {
    /// The run, if it is one of ours. `now` and `leeway` in seconds.
    pub(super) fn run_of(&self, ours: &Ours, now: u64, leeway: u64) -> Result<Run, NotOurs> {
        if self.iat.saturating_add(LONGEST_AGE) < now {
            return Err(NotOurs::TooOld);
        }
        if self.iat > now.saturating_add(leeway) {
            return Err(NotOurs::NotYet);
        }
        let in_repository = match &ours.repository {
            // GitHub's names do not tell cases apart.
            Repository::Name(name) => self.repository.eq_ignore_ascii_case(name),
            Repository::Id(id) => self.repository_id == *id,
        };
        if !in_repository
            || ours
                .repository_id
                .is_some_and(|id| self.repository_id != id)
        {
            return Err(NotOurs::Repository);
        }
        if ours
            .owner_id
            .is_some_and(|id| self.repository_owner_id != id)
        {
            return Err(NotOurs::Owner);
        }
        if !ours.workflow.is(&self.workflow_ref, &self.repository) {
            return Err(NotOurs::Workflow);
        }
        let job = Named::parse(&self.job_workflow_ref);
        let same = |other: &str| job.is_some() && job == Named::parse(other);
        if !same(&self.workflow_ref) && !ours.called.iter().any(|called| same(called)) {
            return Err(NotOurs::Called);
        }
        Ok(Run {
            id: self.run_id,
            attempt: self.run_attempt,
        })
    }
}

impl WorkflowFile {
    /// Whether `named` is this file of the repository.
    fn is(&self, named: &str, repository: &str) -> bool {
        Named::parse(named).is_some_and(|named| {
            let same_ref = named.git_ref == self.git_ref
                || ["refs/heads/", "refs/tags/"]
                    .iter()
                    .any(|kind| named.git_ref.strip_prefix(kind) == Some(self.git_ref.as_str()));
            named.repository.eq_ignore_ascii_case(repository) && named.file == self.file && same_ref
        })
    }
}

/// A workflow as GitHub writes it: `owner/name/.github/workflows/file.yml@refs/heads/main`.
struct Named<'a> {
    repository: &'a str,
    file: &'a str,
    git_ref: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (path, git_ref) = text.split_once('@')?;
        let (repository, file) = path.split_once("/.github/workflows/")?;
        Some(Self {
            repository,
            file,
            git_ref,
        })
    }
}

/// GitHub's names of repositories do not tell cases apart; files and refs do.
impl PartialEq for Named<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.repository.eq_ignore_ascii_case(other.repository)
            && (self.file, self.git_ref) == (other.file, other.git_ref)
    }
}

/// GitHub writes numbers as strings.
fn number<'de, D, N>(deserializer: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: std::str::FromStr + Default + PartialOrd,
{
    let text = String::deserialize(deserializer)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number| *number > N::default())
        .ok_or_else(|| serde::de::Error::custom("not a positive number in a string"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn ours() -> Ours {
        Ours {
            repository: Repository::Name("acme/agents".to_owned()),
            repository_id: Some(42),
            owner_id: Some(7),
            workflow: WorkflowFile {
                file: "provision-agent.yml".to_owned(),
                git_ref: "main".to_owned(),
            },
            called: vec!["acme/ci/.github/workflows/provision-agent.yml@refs/tags/v1".to_owned()],
        }
    }

    fn token() -> Value {
        let file = "acme/agents/.github/workflows/provision-agent.yml@refs/heads/main";
        json!({
            "aud": "us", "iat": NOW, "repository": "acme/agents", "repository_id": "42", "repository_owner_id": "7",
            "workflow_ref": file, "job_workflow_ref": file, "run_id": "1001", "run_attempt": "2",
            "sub": "repo:somebody/else:ref:refs/heads/main",
        })
    }

    fn judged(ours: &Ours, changes: &Value) -> Result<Run, NotOurs> {
        let mut token = token();
        token
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        let claims: Claims = serde_json::from_value(token).unwrap();
        claims.run_of(ours, NOW, 60)
    }

    #[test]
    fn a_token_of_our_workflow_tells_its_run() {
        let run = Run {
            id: 1001,
            attempt: 2,
        };
        let (ours, by_number) = (
            ours(),
            Ours {
                repository: Repository::Id(42),
                repository_id: None,
                owner_id: None,
                ..ours()
            },
        );
        let tag = "acme/agents/.github/workflows/provision-agent.yml@refs/tags/main";
        let called = "acme/ci/.github/workflows/provision-agent.yml@refs/tags/v1";
        for changes in [
            json!({}),
            json!({"iat": NOW - 600}),
            json!({"iat": NOW + 60}),
            json!({"job_workflow_ref": called}),
            json!({"job_workflow_ref": called.replace("acme/ci", "Acme/CI")}),
            json!({"workflow_ref": tag, "job_workflow_ref": tag}),
        ] {
            assert_eq!(judged(&ours, &changes), Ok(run), "{changes}");
            assert_eq!(judged(&by_number, &changes), Ok(run), "{changes}");
        }
        let renamed = "Acme/Agents/.github/workflows/provision-agent.yml@refs/heads/main";
        let otherwise_written = json!({"repository": "Acme/Agents", "workflow_ref": renamed,
            "job_workflow_ref": renamed});
        assert_eq!(judged(&ours, &otherwise_written), Ok(run));
        let in_part = json!({"workflow_ref": renamed});
        assert_eq!(judged(&ours, &in_part), Ok(run));
    }

    #[test]
    fn whatever_else_a_token_says_is_refused() {
        let file = |repository: &str, file: &str, git_ref: &str| {
            let named = format!("{repository}/.github/workflows/{file}@{git_ref}");
            json!({"workflow_ref": named, "job_workflow_ref": named})
        };
        let main = "refs/heads/main";
        let called = |named: &str| json!({"job_workflow_ref": named});
        for (changes, why) in [
            (json!({"iat": NOW - 601}), NotOurs::TooOld),
            (json!({"iat": 0}), NotOurs::TooOld),
            (json!({"iat": NOW + 61}), NotOurs::NotYet),
            (json!({"iat": u64::MAX}), NotOurs::NotYet),
            (json!({"repository": "acme/agents2"}), NotOurs::Repository),
            (json!({"repository": "evil/agents"}), NotOurs::Repository),
            (json!({"repository_id": "43"}), NotOurs::Repository),
            (json!({"repository_owner_id": "8"}), NotOurs::Owner),
            (file("acme/agents", "other.yml", main), NotOurs::Workflow),
            (
                file("evil/agents", "provision-agent.yml", main),
                NotOurs::Workflow,
            ),
            (
                file("acme/agents", "provision-agent.yml", "refs/heads/evil"),
                NotOurs::Workflow,
            ),
            (
                file("acme/agents", "provision-agent.yml", "refs/heads/evil/main"),
                NotOurs::Workflow,
            ),
            (
                file("acme/agents", "provision-agent.yml", "refs/pull/1/merge"),
                NotOurs::Workflow,
            ),
            (
                file("acme/agents", "provision-agent.yml@refs/heads/main", "x"),
                NotOurs::Workflow,
            ),
            (
                file("acme/agents", "a/provision-agent.yml", main),
                NotOurs::Workflow,
            ),
            (
                json!({"workflow_ref": "", "job_workflow_ref": ""}),
                NotOurs::Workflow,
            ),
            (
                called("acme/ci/.github/workflows/provision-agent.yml@refs/heads/x"),
                NotOurs::Called,
            ),
            (
                called("acme/ci/.github/workflows/provision-agent.yml@refs/tags/V1"),
                NotOurs::Called,
            ),
            (
                called("acme/ci/.github/workflows/Provision-agent.yml@refs/tags/v1"),
                NotOurs::Called,
            ),
            (
                called("acme/ci/.github/Workflows/provision-agent.yml@refs/tags/v1"),
                NotOurs::Called,
            ),
            (
                called("acme/ci2/.github/workflows/provision-agent.yml@refs/tags/v1"),
                NotOurs::Called,
            ),
            (called(""), NotOurs::Called),
            (
                json!({"workflow_ref": "acme/agents/.github/workflows/evil.yml@refs/heads/main"}),
                NotOurs::Workflow,
            ),
        ] {
            assert_eq!(judged(&ours(), &changes), Err(why), "{changes}");
        }
    }

    #[test]
    fn claims_of_another_form_are_none() {
        for (name, value) in [
            ("run_id", json!(1001)),
            ("run_id", json!("")),
            ("run_id", json!("0")),
            ("run_id", json!("-1")),
            ("run_id", json!("+1")),
            ("run_id", json!(" 1")),
            ("run_id", json!("99999999999999999999")),
            ("run_attempt", json!("3000000000")),
            ("repository_id", json!(null)),
            ("aud", json!(["us", "others"])),
            ("iat", json!("1800000000")),
            ("iat", json!(-1)),
            ("workflow_ref", json!(null)),
        ] {
            let mut token = token();
            token[name] = value.clone();
            assert!(
                serde_json::from_value::<Claims>(token).is_err(),
                "{name}: {value}"
            );
        }
        for missing in [
            "iat",
            "repository",
            "run_id",
            "run_attempt",
            "job_workflow_ref",
        ] {
            let mut token = token();
            token.as_object_mut().unwrap().remove(missing);
            assert!(
                serde_json::from_value::<Claims>(token).is_err(),
                "{missing}"
            );
        }
    }
}
