//! GitHub's answers, for `fuzz/`: see [`crate::fuzzing`].

use std::collections::BTreeMap;

use super::{Access, GitHub, GitHubCredential, Look, Repository, Workflow};
use crate::domain::names::Run;
use crate::fuzzing::block_on;
use crate::providers::fuzzing::{Script, is_told};
use crate::providers::http::Http;
use crate::providers::{Vendor, VendorError};

impl GitHub {
    fn scripted(script: &Script) -> Self {
        let credential = GitHubCredential::Token("fuzzing".into());
        Self {
            http: Http::scripted(Vendor::GitHub, "https://github.example/api/v3", script),
            workflow: Workflow {
                repository: Repository::parse("acme/agents").expect("owner and name"),
                file: "provision-agent.yml".to_owned(),
                git_ref: "main".to_owned(),
            },
            access: Access::new(&credential).expect("it is visible ASCII"),
        }
    }
}

/// What GitHub answers to whom starts a workflow (`dispatch`) or looks at a run (`run 1001 2 "tag"`). What is
/// answered is about what was asked.
pub fn github_answers(input: &[u8]) {
    let (asked, script) = Script::read(input);
    if let Err(error) = block_on(ask(&GitHub::scripted(&script), &script, asked)) {
        is_told(&error);
    }
}

async fn ask(client: &GitHub, script: &Script, asked: &str) -> Result<(), VendorError> {
    let mut words = asked.splitn(4, ' ');
    if words.next() == Some("run") {
        let run = Run {
            id: words.next().and_then(|id| id.parse().ok()).unwrap_or(1001),
            attempt: words.next().and_then(|it| it.parse().ok()).unwrap_or(1),
        };
        let etag = words
            .next()
            .filter(|etag| etag.bytes().all(|b| (b' '..b'\x7f').contains(&b)));
        match client.run_attempt(run, etag).await? {
            Look::Unchanged => assert!(etag.is_some()),
            Look::Seen { etag, .. } => {
                assert!(etag.is_none_or(|etag| etag.len() <= 200));
                let (_, body) = script.played().pop().expect("it was answered");
                if let Some(body) = body {
                    assert_eq!(body["id"].as_i64(), Some(run.id));
                    assert_eq!(body["run_attempt"].as_i64(), Some(run.attempt.into()));
                }
            }
        }
    } else {
        let inputs = BTreeMap::from([("provision_id", "any".to_owned())]);
        let started = client.dispatch(&inputs).await?;
        let status = script.last_status();
        assert!(status.is_some_and(|status| status.is_success()));
        if let Some(run) = started {
            assert!(run.id > 0);
            let link = run.html_url.unwrap_or("https://".to_owned());
            assert!(
                link.starts_with("https://") || link.starts_with("http://"),
                "{link}"
            );
        }
    }
    Ok(())
}
