//! The GitHub token or app.

use super::{Depth, Finding, Verdict};
use crate::providers::github::Installation;
use crate::providers::{GitHub, VendorError};

const TOKEN: &str = "GITHUB_TOKEN";
const APP: &str = "GITHUB_APP_ID";
const SEES: &str = "see the workflow and its runs";
const STARTS: &str = "start the workflow";
const NOTHING_ELSE: &str = "nothing else";
/// What every app has.
const ALWAYS: &str = "metadata";

pub(super) async fn look(client: &GitHub, depth: Depth) -> Vec<Finding> {
    match client.installation().await {
        Ok(None) => of_token(client, depth).await,
        Ok(Some(installation)) => of_app(client, &installation).await,
        Err(error) => {
            let remedy = "install the app on the repository of BACKSTOP_GITHUB_REPOSITORY";
            vec![Finding::of_error(APP, STARTS, &error, remedy)]
        }
    }
}

async fn of_app(client: &GitHub, installation: &Installation) -> Vec<Finding> {
    let permissions = &installation.permissions;
    let mut findings = Vec::new();
    match permissions.get("actions").map(String::as_str) {
        Some("write" | "admin") => {
            findings.push(workflow(APP, client).await.0);
            findings.push(starts(APP, "the installation has actions: write"));
        }
        // Every token that backstop asks for would be refused.
        level => findings.push(Finding::new(
            APP,
            STARTS,
            Verdict::Missing,
            format!(
                "the installation has actions: {}; give the app actions: write and accept it \
                 where it is installed",
                level.unwrap_or("none")
            ),
        )),
    }
    let more: Vec<String> = permissions
        .iter()
        .filter(|(name, _)| !["actions", ALWAYS].contains(&name.as_str()))
        .map(|(name, level)| format!("{name}: {level}"))
        .collect();
    if !more.is_empty() {
        let more = more.join(", ");
        findings.push(excess(
            APP,
            format!("its key also gives {more}, which backstop never uses: take it away"),
        ));
    }
    if installation.repository_selection == "all" {
        let sentence = "it is installed on all of the owner's repositories: select the one";
        findings.push(excess(APP, sentence.to_owned()));
    }
    findings
}

async fn of_token(client: &GitHub, depth: Depth) -> Vec<Finding> {
    let (seen, scopes) = workflow(TOKEN, client).await;
    let mut findings = vec![seen];
    // What cannot be seen cannot be asked about either.
    let Some(scopes) = scopes else {
        return findings;
    };
    match scopes {
        Scopes::Classic(scopes) => {
            if scopes.iter().any(|it| it == "repo" || it == "public_repo") {
                findings.push(starts(TOKEN, "it is a classic token with the scope repo"));
            } else {
                findings.push(Finding::new(
                    TOKEN,
                    STARTS,
                    Verdict::Missing,
                    "it is a classic token without the scope repo: make a fine-grained one with \
                     actions: write on the one repository",
                ));
            }
            findings.push(excess(
                TOKEN,
                format!(
                    "a classic token ({}) reaches every repository of its user: make a \
                     fine-grained one with actions: write on the one repository, or an app",
                    scopes.join(", ")
                ),
            ));
        }
        Scopes::FineGrained if depth == Depth::WithoutDispatch => {}
        Scopes::FineGrained => findings.push(match client.may_dispatch().await {
            Ok(()) => starts(
                TOKEN,
                "a dispatch at a ref that cannot be was refused for that",
            ),
            Err(error) => Finding::of_error(
                TOKEN,
                STARTS,
                &error,
                "give it actions: write on the repository",
            ),
        }),
    }
    findings
}

/// What kind of token it is.
enum Scopes {
    Classic(Vec<String>),
    FineGrained,
}

/// The second is `None` if the workflow cannot be seen.
async fn workflow(credential: &'static str, client: &GitHub) -> (Finding, Option<Scopes>) {
    match client.workflow().await {
        Ok(seen) => {
            let finding = if seen.state == "active" {
                Finding::new(credential, SEES, Verdict::Ok, "the workflow is active")
            } else {
                Finding::new(
                    credential,
                    SEES,
                    Verdict::Missing,
                    format!(
                        "the workflow of BACKSTOP_GITHUB_WORKFLOW is {}: enable it on the \
                         repository's page of Actions",
                        seen.state
                    ),
                )
            };
            let scopes = seen
                .classic_scopes
                .map_or(Scopes::FineGrained, Scopes::Classic);
            (finding, Some(scopes))
        }
        Err(error) => (unseen(credential, &error), None),
    }
}

fn unseen(credential: &'static str, error: &VendorError) -> Finding {
    let remedy = "BACKSTOP_GITHUB_WORKFLOW must be a file in .github/workflows of \
                  BACKSTOP_GITHUB_REPOSITORY on its default branch, and the credential must have \
                  actions: write there";
    Finding::of_error(credential, SEES, error, remedy)
}

fn starts(credential: &'static str, sentence: &str) -> Finding {
    Finding::new(credential, STARTS, Verdict::Ok, sentence)
}

fn excess(credential: &'static str, sentence: String) -> Finding {
    Finding::new(credential, NOTHING_ELSE, Verdict::MoreThanNeeded, sentence)
}
