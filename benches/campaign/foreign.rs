//! What is somebody else's: things of no relation, and things that look like an attempt's own.

use backstop::sim::{LifeKind, Sim};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use uuid::Uuid;

use crate::book::{Book, Names};
use crate::calls::TAG;
use crate::plan::LookAlike;

/// One foreign thing of each kind.
pub struct OneOfEach {
    pub server: String,
    pub device: String,
    pub key: String,
}

/// What is there before the campaign begins.
pub fn settle_in(sim: &Sim, book: &Book) {
    let controller = Uuid::new_v4().to_string();
    for number in 0..10 {
        let name = format!("database-{number}");
        let server = sim.add_server(&name, [("team", "finance")]);
        book.is_foreign(LifeKind::Server, &server);
        let provision = Uuid::new_v4();
        let name = format!("agent-{}-a1", provision.simple());
        let labels = [
            ("managed-by", "backstop".to_owned()),
            ("backstop-controller", controller.clone()),
            ("backstop-provision", provision.to_string()),
            ("backstop-attempt", "1".to_owned()),
            ("backstop-run", format!("{}.1", 900 + number)),
        ];
        book.is_foreign(LifeKind::Server, &sim.add_server(&name, labels));
        book.is_foreign(LifeKind::Device, &sim.add_device(&name, &[TAG]));
        let description = format!("backstop {}-a1", provision.simple());
        book.is_foreign(LifeKind::AuthKey, &sim.add_key(&description, &[TAG]));
        book.is_foreign(LifeKind::Device, &sim.add_device("laptop", &[]));
        book.is_foreign(LifeKind::AuthKey, &sim.add_key("of a person", &[TAG]));
    }
}

/// Adds something that looks like what has these names; what it is, for people.
pub fn add(sim: &Sim, book: &Book, names: &Names, kind: LookAlike) -> String {
    let server = |suffix: &str, labels: Vec<(String, String)>| {
        let id = sim.add_server(&format!("{}{suffix}", names.server), labels);
        book.is_foreign(LifeKind::Server, &id);
        id.to_string()
    };
    let with = |changed: &str, value: &str| {
        let mut labels = names.labels.clone();
        for (key, old) in &mut labels {
            if key == changed {
                value.clone_into(old);
            }
        }
        labels
    };
    let device = |hostname: &str, tags: &[&str]| {
        let id = sim.add_device(hostname, tags);
        book.is_foreign(LifeKind::Device, &id);
        id
    };
    let key = |description: &str| {
        let id = sim.add_key(description, &[TAG]);
        book.is_foreign(LifeKind::AuthKey, &id);
        id
    };
    let id = match kind {
        LookAlike::FourLabels(missing) => {
            let mut labels = names.labels.clone();
            labels.remove(missing % labels.len());
            server("-t", labels)
        }
        LookAlike::OtherController => server(
            "-t",
            with("backstop-controller", &Uuid::new_v4().to_string()),
        ),
        LookAlike::OtherRun => server("-t", with("backstop-run", "77.1")),
        LookAlike::OtherAttempt => server("-t", with("backstop-attempt", "99")),
        LookAlike::SameName => server("", Vec::new()),
        LookAlike::SimilarName => server("0", Vec::new()),
        LookAlike::NoTag => device(&names.hostname, &[]),
        LookAlike::OtherTag => device(&names.hostname, &["tag:web"]),
        LookAlike::SuffixedName => device(&format!("{}-1", names.hostname), &[TAG]),
        LookAlike::TagAlone => device("agent", &[TAG]),
        LookAlike::LongerDescription => key(&format!("{} 2", names.description)),
        LookAlike::OtherDescription => {
            let (stem, _) = names.description.rsplit_once("-a").unwrap_or_default();
            key(&format!("{stem}-a99"))
        }
    };
    format!("{kind:?} {id}")
}

/// One foreign thing of each kind, drawn.
pub fn one_of_each(book: &Book, rng: &mut StdRng) -> OneOfEach {
    let foreign = book.foreign();
    let mut draw = |kind| {
        let of_kind = foreign.iter().filter(|(it, _)| *it == kind);
        of_kind
            .choose(rng)
            .map_or(String::new(), |(_, id)| id.clone())
    };
    OneOfEach {
        server: draw(LifeKind::Server),
        device: draw(LifeKind::Device),
        key: draw(LifeKind::AuthKey),
    }
}
