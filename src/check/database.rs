//! The database's role.

use std::time::Duration;

use super::{Database, Finding, Verdict};
use crate::config;
use crate::domain::names::ControllerId;
use crate::postgres::PrivatePostgres;
use crate::store::role::{self, Migrated, Role};
use crate::store::suits::{self, Room, Unsuitable};
use crate::store::{Pool, StoreError, connect, controller_id, in_time};

const CONNECTIONS: u32 = 2;
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

const CREDENTIAL: &str = "DATABASE_URL";
const CONNECTS: &str = "connect and write";
const VERSION: &str = "Postgres 15 or newer";
const MIGRATES: &str = "make and change its tables";
const USES: &str = "use its tables";
const LISTENS: &str = "hear other replicas";
const SUITS: &str = "keep every text, in its own tables";
const KEEPS: &str = "keep what was acknowledged";
const ENOUGH: &str = "have enough connections";
const NOTHING_ELSE: &str = "nothing else";

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Our own child, where we are everything.
    Ours,
    /// Somebody else's, where a role is enough.
    Theirs,
}

impl Database {
    /// Connects to the database as it stands: none is started, made or migrated for it.
    pub async fn open(named: &config::Database, wanted: u32) -> Self {
        let (options, whose) = match named {
            config::Database::At(options) => (options.as_ref().clone(), Whose::Theirs),
            config::Database::Private(folder) => match PrivatePostgres::running_in(folder) {
                Some(options) => (options, Whose::Ours),
                None => return Self::NotRunning,
            },
        };
        match suits::keeps_sessions(&options).await {
            Ok(true) => {}
            Ok(false) => return Self::Closed(Unsuitable::Pooled.to_string()),
            Err(error) => return Self::Closed(error.to_string()),
        }
        match connect(options, CONNECTIONS).await {
            Ok(pool) => Self::Open(pool, whose, wanted),
            Err(error) => Self::Closed(error.to_string()),
        }
    }

    /// Closes what was opened.
    pub async fn close(self) {
        if let Self::Open(pool, ..) = self {
            let _ = tokio::time::timeout(CLOSE_PATIENCE, pool.close()).await;
        }
    }
}

/// What is known of the database.
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    /// Who it is to the vendors; `None` if it is no database of ours yet, or was not read.
    pub(super) controller: Option<ControllerId>,
}

pub(super) async fn look(database: &Database) -> Looked {
    let alone = |finding| Looked {
        findings: vec![finding],
        controller: None,
    };
    match database {
        Database::NotRunning => alone(finding(
            CONNECTS,
            Verdict::Ok,
            "it is unset: serve starts a private Postgres, which does not run at present",
        )),
        Database::Closed(why) => alone(finding(CONNECTS, Verdict::Missing, why.clone())),
        Database::Open(pool, whose, wanted) => match in_time(ask(pool)).await {
            Ok(told) => judged(pool, told, *whose, *wanted).await,
            Err(error) => alone(unanswered(CONNECTS, &error)),
        },
    }
}

/// What the database says.
struct Told {
    unsuitable: Option<Unsuitable>,
    may_lose: Vec<&'static str>,
    room: Room,
    role: Role,
    migrated: Migrated,
}

async fn ask(pool: &Pool) -> Result<Told, StoreError> {
    let unsuitable = suits::unsuitable(pool).await?;
    let mut db = pool.acquire().await?;
    let role = role::of(&mut db).await?;
    let migrated = role::migrated(&mut db, &role).await?;
    Ok(Told {
        unsuitable,
        may_lose: suits::may_lose(&mut db).await?,
        room: suits::room(&mut db).await?,
        role,
        migrated,
    })
}

async fn judged(pool: &Pool, told: Told, whose: Whose, wanted: u32) -> Looked {
    let Told {
        unsuitable,
        may_lose,
        room,
        role,
        migrated,
    } = told;
    let mut findings = vec![
        finding(CONNECTS, Verdict::Ok, format!("as the role {}", role.name)),
        match &unsuitable {
            Some(old @ Unsuitable::TooOld(_)) => {
                finding(VERSION, Verdict::Missing, format!("{old}: upgrade it"))
            }
            _ => finding(VERSION, Verdict::Ok, "it is"),
        },
        match &unsuitable {
            None | Some(Unsuitable::TooOld(_)) => finding(SUITS, Verdict::Ok, "it can"),
            Some(why) => finding(SUITS, Verdict::Missing, why.to_string()),
        },
        migrates(&role, migrated),
    ];
    if whose == Whose::Theirs {
        findings.push(kept(&may_lose));
    }
    findings.push(match room.too_little_for(wanted) {
        None => finding(
            ENOUGH,
            Verdict::Ok,
            format!("{} allows {}", room.whose, room.connections),
        ),
        Some(too_little) => finding(ENOUGH, Verdict::Missing, too_little),
    });
    let mut controller = None;
    if migrated != Migrated::Not {
        // All of it is in tables that the same statements made: one that can be read stands for all.
        findings.push(match in_time(controller_id(pool)).await {
            Ok(id) => {
                controller = Some(id);
                finding(USES, Verdict::Ok, format!("it is controller {id}"))
            }
            Err(error @ StoreError::Refused(_)) if !role::is_a_poolers(&error) => finding(
                USES,
                Verdict::Missing,
                format!("{error}: give the tables to the role (alter table … owner to)"),
            ),
            Err(error) => unanswered(USES, &error),
        });
    }
    findings.push(match role::hears_itself(pool).await {
        Ok(true) => finding(LISTENS, Verdict::Ok, "a notification came through"),
        Ok(false) => pooled("a notification was sent and not heard"),
        Err(error) => unanswered(LISTENS, &error),
    });
    if whose == Whose::Theirs && !role.more_than_needed.is_empty() {
        findings.push(finding(
            NOTHING_ELSE,
            Verdict::MoreThanNeeded,
            format!(
                "the role {} is {}: one that owns its database and nothing else is enough",
                role.name,
                role.more_than_needed.join(", ")
            ),
        ));
    }
    Looked {
        findings,
        controller,
    }
}

fn kept(may_lose: &[&str]) -> Finding {
    if may_lose.is_empty() {
        finding(KEEPS, Verdict::Ok, "a commit waits for its disk")
    } else {
        finding(KEEPS, Verdict::Missing, may_lose.join("; "))
    }
}

fn migrates(role: &Role, migrated: Migrated) -> Finding {
    let Some(schema) = &role.schema else {
        return finding(
            MIGRATES,
            Verdict::Missing,
            "there is no schema that it may use: make one and name it in the role's search_path",
        );
    };
    if !role.may_create {
        return finding(
            MIGRATES,
            Verdict::Missing,
            format!(
                "it may not create in the schema {schema}: grant create on schema {schema} to {}",
                role.name
            ),
        );
    }
    if !role.owns_tables {
        return finding(
            MIGRATES,
            Verdict::Missing,
            "the tables are another role's, so that a newer version could not change them: give \
             them to the role (alter table … owner to)",
        );
    }
    let sentence = match migrated {
        Migrated::Not => "there are none yet; serve or migrate makes them",
        Migrated::InPart => "some migrations are missing; serve or migrate applies them",
        Migrated::All => "all migrations are applied",
    };
    finding(
        MIGRATES,
        Verdict::Ok,
        format!("schema {schema}: {sentence}"),
    )
}

fn unanswered(ability: &'static str, error: &StoreError) -> Finding {
    if role::is_a_poolers(error) {
        return pooled(&error.to_string());
    }
    finding(
        ability,
        Verdict::NotAnswered,
        format!("{error}: ask again later"),
    )
}

fn pooled(how: &str) -> Finding {
    finding(
        LISTENS,
        Verdict::Missing,
        format!(
            "{how}: is there a PgBouncer in transaction mode in between? It must be in session mode"
        ),
    )
}

fn finding(ability: &'static str, verdict: Verdict, sentence: impl Into<String>) -> Finding {
    Finding::new(CREDENTIAL, ability, verdict, sentence)
}
