//! What the vendors' lists show of ours, judged against what the database knows.
//!
//! [`judge`] is the whole table. It takes a list that was begun *before* the database was read, so
//! that what was made meanwhile is not judged by a database that had not heard of it. What it
//! allows is asked for, never done: whatever goes, goes through the ledger and by its checks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fields::VendorId;
use super::names::{AttemptNumber, Names, ProvisionId, Run};
use super::spelling::spelled_by_serde;
use super::step::Resource;

/// What no provision knows is left alone until it is so old. Whoever made it would have said
/// `started` by then; and whoever restored a database has had time to see what it does not know.
pub const MIN_AGE: Duration = Duration::from_secs(60 * 60);

/// How many things that no provision knows one sweep hands to the ledger. A database that is wrong
/// about more than a few is the more likely mistake.
pub const MOST_UNKNOWN: usize = 10;

/// A kind of thing that is looked for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[schema(as = OrphanKind)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A Hetzner server.
    Server,
    /// A Hetzner volume.
    Volume,
    /// A Hetzner primary IP.
    PrimaryIp,
    /// A Hetzner floating IP.
    FloatingIp,
    /// A Tailscale device.
    Device,
    /// A Tailscale auth key.
    AuthKey,
}

impl Kind {
    /// The kind of step that deletes it. `None`: it is only ever reported.
    #[must_use]
    pub fn resource(self) -> Option<Resource> {
        match self {
            Self::Server => Some(Resource::Server),
            Self::Device => Some(Resource::Device),
            Self::AuthKey => Some(Resource::AuthKey),
            Self::Volume | Self::PrimaryIp | Self::FloatingIp => None,
        }
    }

    /// Parses an id of this kind. `None` if its vendor could not have given it.
    #[must_use]
    pub fn parse_id(self, text: &str) -> Option<VendorId> {
        // All of Hetzner's ids look alike.
        VendorId::parse(self.resource().unwrap_or(Resource::Server), text)
    }

    /// Whose it is, as the API spells it.
    #[must_use]
    pub fn vendor(self) -> &'static str {
        match self {
            Self::Server | Self::Volume | Self::PrimaryIp | Self::FloatingIp => "hetzner",
            Self::Device | Self::AuthKey => "tailscale",
        }
    }
}

/// A thing that a vendor's list shows and that says it is of backstop's making.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// What it is.
    pub kind: Kind,
    /// What its vendor calls it.
    pub id: VendorId,
    /// What people call it.
    pub name: String,
    /// Whose it says it is.
    pub claim: Claim,
    /// Whether it hangs on a server. Always false for what cannot.
    pub attached: bool,
    /// When it was made, by the vendor's clock; `None` if the vendor did not say.
    pub created: Option<DateTime<Utc>>,
}

impl Sighting {
    /// What tells it from everything else that is found.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{} {}", self.kind, self.id)
    }
}

/// Whose a thing says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// All five labels, with our controller id.
    Labels(Names, Run),
    /// Our controller id, and not all five labels in order.
    Incomplete,
    /// A host name or a description. They name no controller.
    Name(Names),
    /// Another controller's, or none's.
    NotOurs,
}

impl Claim {
    /// The attempt that it names.
    #[must_use]
    pub fn names(self) -> Option<Names> {
        match self {
            Self::Labels(names, _) | Self::Name(names) => Some(names),
            Self::Incomplete | Self::NotOurs => None,
        }
    }
}

/// What the database knows of the attempt that a thing names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// No provision of that id; or one that was taken over from a vendor's list, without this
    /// earlier attempt.
    Nothing,
    /// A provision that this database gave up when it became another controller.
    Disowned,
    /// The provision, and no attempt of that number and run.
    NotThisAttempt,
    /// An attempt at work or in use.
    Live,
    /// The current attempt, which is over.
    Over(Pursuit),
    /// An attempt before the current one.
    Older(Pursuit),
}

/// What the ledger has about a thing of an attempt that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pursuit {
    /// Nobody was ever after it, and nobody searches.
    None,
    /// Its own step or a search for its kind is unsettled.
    UnderWay,
    /// The same, and a person has to look.
    Stuck,
    /// Its own step settled.
    EndedAt(DateTime<Utc>),
}

/// What a list is judged on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ground {
    /// When the lists were begun, by the database's time.
    pub listed_at: DateTime<Utc>,
    /// Since when there is this database.
    pub database_since: DateTime<Utc>,
    /// Whether it is one to judge by.
    pub standing: Standing,
}

/// Whether a database is one to judge by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Sound,
    /// It holds no provision: it is new, or lost what it knew.
    Empty,
    /// It was restored, copied or out of hearing, and nobody has said yet that it may go on.
    Held,
}

impl Standing {
    /// Whether more may come of it than a report.
    fn may_act(self) -> bool {
        match self {
            Self::Sound => true,
            Self::Empty | Self::Held => false,
        }
    }
}

/// What a sighting amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is where it belongs.
    Belongs,
    /// It must go, and its rollback is at it.
    UnderWay,
    /// Another controller's: never touched.
    NotOurs,
    /// It should not be there, or something of it is not as it should be.
    Orphan(Why, Action),
}

/// Why something is an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OrphanWhy)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its attempt is the provision's current one and is over.
    AttemptOver,
    /// Its attempt is one before the current one.
    OlderAttempt,
    /// Its rollback is stuck.
    RollbackStuck,
    /// No provision of ours knows it.
    UnknownProvision,
    /// Its provision is ours, and the attempt it names is not in the database.
    UnknownAttempt,
    /// It carries our controller id, and not all five labels in order.
    LabelsIncomplete,
    /// A volume or an IP of an attempt that is not live, attached to nothing.
    OutlivedServer,
    /// A provision runs, and no server carries its labels.
    RunningWithoutServer,
}

/// What a sweep does about an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OrphanAction)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its rollback goes on, reopened where it had ended.
    RolledBack,
    /// It is only said.
    Reported,
    /// It is handed to the ledger by a sweep that was told to delete.
    DeletedWhenTold,
}

spelled_by_serde!(Kind, Why, Action);

/// What is listed as an orphan.
#[derive(Debug, Clone, PartialEq)]
pub struct Orphan {
    /// What was seen; for a provision that runs without its server, what was not.
    pub seen: Sighting,
    /// Why it is one.
    pub why: Why,
    /// What is done about it.
    pub action: Action,
    /// What it costs an hour, net; `None` for nothing, or if that is not known.
    pub hourly_cost: Option<f64>,
}

/// How far a sweep may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mandate {
    /// Say what is there.
    Report,
    /// Also reopen the rollback of what is over.
    Reopen,
    /// Also hand what no provision knows to the ledger.
    Delete,
}

/// Judges one thing of a list.
#[must_use]
pub fn judge(seen: &Sighting, known: Known, ground: &Ground) -> Verdict {
    let orphan = |why, action| {
        let action = if ground.standing.may_act() {
            action
        } else {
            Action::Reported
        };
        Verdict::Orphan(why, action)
    };
    match (seen.claim, seen.kind.resource(), known) {
        (Claim::NotOurs, ..) | (_, _, Known::Disowned) => Verdict::NotOurs,
        // Whatever it hangs on is judged itself.
        (_, None, _) if seen.attached => Verdict::Belongs,
        (Claim::Incomplete, ..) => orphan(Why::LabelsIncomplete, Action::Reported),
        (_, _, Known::Live) => Verdict::Belongs,
        (_, None, _) => orphan(Why::OutlivedServer, Action::Reported),
        (Claim::Labels(..), _, Known::Nothing) if may_go_when_told(seen, ground) => {
            orphan(Why::UnknownProvision, Action::DeletedWhenTold)
        }
        (_, _, Known::Nothing) => orphan(Why::UnknownProvision, Action::Reported),
        (_, _, Known::NotThisAttempt) => orphan(Why::UnknownAttempt, Action::Reported),
        (_, _, Known::Over(pursuit) | Known::Older(pursuit)) => match pursuit {
            Pursuit::UnderWay => Verdict::UnderWay,
            Pursuit::Stuck => orphan(Why::RollbackStuck, Action::RolledBack),
            // It was still there when the list was begun, and went before the database was read.
            Pursuit::EndedAt(at) if at >= ground.listed_at => Verdict::UnderWay,
            Pursuit::EndedAt(_) | Pursuit::None => match known {
                Known::Older(_) => orphan(Why::OlderAttempt, Action::RolledBack),
                _ => orphan(Why::AttemptOver, Action::RolledBack),
            },
        },
    }
}

/// Whether a thing that no provision knows is old enough, and not older than what judges it.
fn may_go_when_told(seen: &Sighting, ground: &Ground) -> bool {
    seen.created
        .is_some_and(|at| at + MIN_AGE <= ground.listed_at && at > ground.database_since)
}

impl Orphan {
    /// A provision runs whose server the list does not show. `id` is what its workflow reported.
    #[must_use]
    pub fn running_without_server(names: Names, run: Run, id: VendorId) -> Self {
        Self {
            seen: Sighting {
                kind: Kind::Server,
                id,
                name: names.server_name(),
                claim: Claim::Labels(names, run),
                attached: false,
                created: None,
            },
            why: Why::RunningWithoutServer,
            action: Action::Reported,
            hourly_cost: None,
        }
    }

    /// What tells it from everything else that is found. A server that is missing may be there, under
    /// other labels, and be found as well.
    #[must_use]
    pub fn subject(&self) -> String {
        match (self.why, self.provision()) {
            (Why::RunningWithoutServer, Some(provision)) => format!("provision {provision}"),
            _ => self.seen.subject(),
        }
    }

    /// The provision that it names.
    #[must_use]
    pub fn provision(&self) -> Option<ProvisionId> {
        self.seen.claim.names().map(|names| names.provision())
    }

    /// The attempt that it names.
    #[must_use]
    pub fn attempt(&self) -> Option<AttemptNumber> {
        self.seen.claim.names().map(|names| names.attempt())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const LISTED: i64 = 100_000;
    const SINCE: i64 = 1_000;
    const AN_HOUR: i64 = 3_600;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn ground() -> Ground {
        Ground {
            listed_at: at(LISTED),
            database_since: at(SINCE),
            standing: Standing::Sound,
        }
    }

    fn names() -> Names {
        let attempt = AttemptNumber::new(1).unwrap();
        Names::new(ProvisionId::new(Uuid::from_u128(7)), attempt)
    }

    fn seen(kind: Kind, claim: Claim) -> Sighting {
        Sighting {
            kind,
            id: kind.parse_id("42").unwrap(),
            name: "any".to_owned(),
            claim,
            attached: false,
            created: Some(at(LISTED - AN_HOUR)),
        }
    }

    fn labels() -> Claim {
        Claim::Labels(names(), Run { id: 1, attempt: 1 })
    }

    fn judged(seen: &Sighting, known: Known) -> Verdict {
        judge(seen, known, &ground())
    }

    fn everything_known() -> Vec<Known> {
        let pursuits = [
            Pursuit::None,
            Pursuit::UnderWay,
            Pursuit::Stuck,
            Pursuit::EndedAt(at(LISTED - 1)),
            Pursuit::EndedAt(at(LISTED)),
        ];
        [
            Known::Nothing,
            Known::Disowned,
            Known::NotThisAttempt,
            Known::Live,
        ]
        .into_iter()
        .chain(pursuits.map(Known::Over))
        .chain(pursuits.map(Known::Older))
        .collect()
    }

    #[test]
    fn every_claim_and_everything_known_is_judged_as_the_table_says() {
        use Action::{DeletedWhenTold, Reported, RolledBack};
        use Verdict::{Belongs, NotOurs, Orphan, UnderWay};
        use Why::{
            AttemptOver, OlderAttempt, OutlivedServer, RollbackStuck, UnknownAttempt,
            UnknownProvision,
        };
        let over = |why| {
            [
                Orphan(why, RolledBack),
                UnderWay,
                Orphan(RollbackStuck, RolledBack),
                Orphan(why, RolledBack),
                UnderWay,
            ]
        };
        let table = |unknown| -> Vec<Verdict> {
            [
                Orphan(UnknownProvision, unknown),
                NotOurs,
                Orphan(UnknownAttempt, Reported),
                Belongs,
            ]
            .into_iter()
            .chain(over(AttemptOver))
            .chain(over(OlderAttempt))
            .collect()
        };
        for (kind, claim, expected) in [
            (Kind::Server, labels(), table(DeletedWhenTold)),
            (Kind::Device, Claim::Name(names()), table(Reported)),
            (Kind::AuthKey, Claim::Name(names()), table(Reported)),
        ] {
            for (known, expected) in everything_known().into_iter().zip(expected) {
                assert_eq!(
                    judged(&seen(kind, claim), known),
                    expected,
                    "{kind} {known:?}"
                );
            }
        }
        for kind in [Kind::Volume, Kind::PrimaryIp, Kind::FloatingIp] {
            for known in everything_known() {
                let expected = match known {
                    Known::Live => Belongs,
                    Known::Disowned => NotOurs,
                    _ => Orphan(OutlivedServer, Reported),
                };
                let mut thing = seen(kind, labels());
                assert_eq!(judged(&thing, known), expected, "{kind} {known:?}");
                if known != Known::Disowned {
                    thing.attached = true;
                    assert_eq!(judged(&thing, known), Belongs, "{kind} {known:?}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_carry_our_controller_id_is_not_ours_and_what_lacks_a_label_is_only_said() {
        for kind in [Kind::Server, Kind::Volume, Kind::Device] {
            for known in everything_known() {
                assert_eq!(judged(&seen(kind, Claim::NotOurs), known), Verdict::NotOurs);
            }
            // It names no attempt that anything could be known of.
            assert_eq!(
                judged(&seen(kind, Claim::Incomplete), Known::Nothing),
                Verdict::Orphan(Why::LabelsIncomplete, Action::Reported)
            );
        }
    }

    #[test]
    fn nobody_is_told_to_delete_what_is_young_or_older_than_the_database() {
        let told = |created: Option<i64>, ground: &Ground| {
            let mut thing = seen(Kind::Server, labels());
            thing.created = created.map(at);
            match judge(&thing, Known::Nothing, ground) {
                Verdict::Orphan(Why::UnknownProvision, action) => action,
                verdict => panic!("{verdict:?}"),
            }
        };
        let sound = ground();
        for (created, action) in [
            (Some(LISTED - AN_HOUR), Action::DeletedWhenTold),
            (Some(SINCE + 1), Action::DeletedWhenTold),
            (Some(LISTED - AN_HOUR + 1), Action::Reported),
            (Some(SINCE), Action::Reported),
            (Some(SINCE - 1), Action::Reported),
            (None, Action::Reported),
        ] {
            assert_eq!(told(created, &sound), action, "{created:?}");
        }
    }

    #[test]
    fn a_database_that_is_not_one_to_judge_by_only_reports() {
        for standing in [Standing::Empty, Standing::Held] {
            let ground = Ground {
                standing,
                ..ground()
            };
            for known in everything_known() {
                let verdict = judge(&seen(Kind::Server, labels()), known, &ground);
                if let Verdict::Orphan(_, action) = verdict {
                    assert_eq!(action, Action::Reported, "{standing:?} {known:?}");
                }
            }
        }
    }

    #[test]
    fn only_what_has_steps_can_go() {
        for kind in [Kind::Server, Kind::Device, Kind::AuthKey] {
            assert!(kind.resource().is_some());
            assert_eq!(kind.to_string(), kind.resource().unwrap().to_string());
        }
        assert_eq!(Kind::PrimaryIp.to_string(), "primary_ip");
        assert_eq!(Kind::Volume.parse_id("x"), None);
    }
}
