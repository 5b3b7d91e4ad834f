//! What each credential can do, found out without changing anything.
//!
//! [`look`] asks the vendors and the database, side by side; [`own::settings`] looks at what needs no
//! asking. Both say [`Finding`]s, one for each credential and ability. Every request is a GET, or one
//! of three that the vendors' own documents rule out to have an effect: a short-lived token is
//! fetched, a server that cannot exist is updated with nothing, a workflow is dispatched at a ref that
//! cannot exist. The database is read, and told one thing that nobody listens to.
//!
//! `backstop check` prints them ([`table`]); `serve` logs what is amiss once, after it has started.

mod database;
mod github;
mod hetzner;
pub mod own;
pub mod table;
mod tailscale;

use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::domain::names::ControllerId;
use crate::http::proof::ProofOfCaller;
use crate::providers::{GitHub, Hetzner, Tailscale, VendorError};
use crate::store::Pool;

pub use database::Whose;

/// What there is to look at.
#[derive(Clone)]
pub struct Credentials {
    /// The Hetzner project's.
    pub hetzner: Arc<Hetzner>,
    /// The tailnet's, and the tag that makes a device ours. `None`: there is no tailnet.
    pub tailscale: Option<(Arc<Tailscale>, String)>,
    /// The workflow's. `None`: nothing is dispatched.
    pub github: Option<Arc<GitHub>>,
    /// Who may send callbacks.
    pub proof: Arc<ProofOfCaller>,
    /// The database.
    pub database: Database,
}

impl Credentials {
    /// Those of a configuration that no service runs with.
    pub async fn of(config: Config) -> Self {
        Self {
            database: Database::open(&config.database, config.database_connections).await,
            hetzner: Arc::new(config.hetzner),
            tailscale: config
                .tailscale
                .map(|(client, tag)| (Arc::new(client), tag)),
            github: config.github.map(Arc::new),
            proof: Arc::new(config.proof),
        }
    }
}

/// The database that a service works on.
#[derive(Clone)]
pub enum Database {
    /// Connections to it, whose server it is, and how many connections a service wants.
    Open(Pool, Whose, u32),
    /// It takes no connection; why.
    Closed(String),
    /// A private one that does not run at present, or is not made yet.
    NotRunning,
}

/// How a credential stands to an ability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is there.
    Ok,
    /// It is needed, and is not there.
    Missing,
    /// It is there, and is not needed.
    MoreThanNeeded,
    /// Nobody says.
    CouldNotBeTold,
    /// Whoever would say did not answer.
    NotAnswered,
}

impl Verdict {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::MoreThanNeeded => "more than needed",
            Self::CouldNotBeTold => "could not be told",
            Self::NotAnswered => "not answered",
        }
    }
}

/// What was found out about one ability of one credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The setting that holds it.
    pub credential: &'static str,
    /// What it is for.
    pub ability: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What that rests on, and what to do about it. Never a secret.
    pub sentence: String,
}

impl Finding {
    fn new(
        credential: &'static str,
        ability: &'static str,
        verdict: Verdict,
        sentence: impl Into<String>,
    ) -> Self {
        Self {
            credential,
            ability,
            verdict,
            sentence: sentence.into(),
        }
    }

    /// For an ability that the vendor refused, or did not speak of. `remedy` is what to do about a
    /// refusal.
    fn of_error(
        credential: &'static str,
        ability: &'static str,
        error: &VendorError,
        remedy: &str,
    ) -> Self {
        match error {
            VendorError::Unauthorized(_) => Self::new(
                credential,
                ability,
                Verdict::Missing,
                format!("{error}: it is wrong, revoked or expired; replace it"),
            ),
            VendorError::Forbidden(_) | VendorError::Protected(_) | VendorError::Rejected(_) => {
                let sentence = format!("{error}: {remedy}");
                Self::new(credential, ability, Verdict::Missing, sentence)
            }
            VendorError::Locked(_)
            | VendorError::RateLimited { .. }
            | VendorError::Unavailable(_) => Self::new(
                credential,
                ability,
                Verdict::NotAnswered,
                format!("{error}: ask again later"),
            ),
        }
    }
}

/// How far asking goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All that can be found out.
    Whole,
    /// But for the dispatch that GitHub refuses: a service starts often.
    WithoutDispatch,
}

/// Asks everybody at once.
pub async fn look(credentials: &Credentials, depth: Depth) -> Vec<Finding> {
    let of_database = database::look(&credentials.database).await;
    let migrated = match (&credentials.database, of_database.controller) {
        (Database::Open(pool, ..), Some(controller)) => Some(Known { pool, controller }),
        _ => None,
    };
    let (hetzner, tailscale, github, issuer) = tokio::join!(
        hetzner::look(&credentials.hetzner, migrated),
        async {
            match &credentials.tailscale {
                Some((client, tag)) => tailscale::look(client, tag, migrated).await,
                None => Vec::new(),
            }
        },
        async {
            match &credentials.github {
                Some(client) => github::look(client, depth).await,
                None => Vec::new(),
            }
        },
        issuer(&credentials.proof),
    );
    let mut findings = hetzner;
    findings.extend(tailscale);
    findings.extend(github);
    findings.extend(issuer);
    findings.extend(of_database.findings);
    findings
}

/// Looks, and says in the log what is amiss.
pub async fn look_and_log(own: Vec<Finding>, credentials: Credentials) {
    let found = look(&credentials, Depth::WithoutDispatch).await;
    for finding in own.iter().chain(&found) {
        let Finding {
            credential,
            ability,
            verdict,
            sentence,
        } = finding;
        let words = verdict.words();
        match verdict {
            Verdict::Ok => {}
            // Nothing that anybody could do about it.
            Verdict::CouldNotBeTold => {
                tracing::info!(credential, ability, verdict = words, "{sentence}");
            }
            Verdict::Missing | Verdict::MoreThanNeeded | Verdict::NotAnswered => {
                tracing::warn!(credential, ability, verdict = words, "{sentence}");
            }
        }
    }
}

/// A database that knows machines.
#[derive(Clone, Copy)]
struct Known<'a> {
    pool: &'a Pool,
    /// Who it is to the vendors.
    controller: ControllerId,
}

async fn issuer(proof: &ProofOfCaller) -> Option<Finding> {
    const CREDENTIAL: &str = "BACKSTOP_OIDC_ISSUER";
    const ABILITY: &str = "prove jobs' tokens";
    let issuer = proof.tokens()?.issuer();
    Some(match issuer.keys().await {
        Ok(keys) => {
            let sentence = format!("{} has {} keys", issuer.name(), keys.rs256.len());
            Finding::new(CREDENTIAL, ABILITY, Verdict::Ok, sentence)
        }
        Err(error) => {
            let remedy = "the issuer's keys must be within reach of this machine";
            Finding::of_error(CREDENTIAL, ABILITY, &error, remedy)
        }
    })
}
