//! How old orphans got, against the ceiling that the settings give.

use std::collections::{BTreeMap, HashMap};

use backstop::sim::{Life, LifeKind};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::book::{Attempt, Book, Record};
use crate::driver::needed_until;
use crate::site::CEILING;
use crate::troubles::{Class, Trouble, disturbed};

/// The age of one orphan, and how much of it counts.
#[derive(Debug, Clone, Copy)]
struct Age {
    whole: TimeDelta,
    undisturbed: TimeDelta,
}

/// The ages of all orphans.
#[derive(Default)]
pub struct Ages(BTreeMap<Class, Vec<Age>>);

/// Which attempt a thing was made by, read from its name. `None`: it is nobody's here.
pub fn maker(life: &Life) -> Option<(Uuid, i64)> {
    let name = match life.kind {
        LifeKind::AuthKey => life.name.strip_prefix("backstop ")?,
        LifeKind::Server | LifeKind::Device => life.name.strip_prefix("agent-")?,
    };
    let (id, attempt) = name.split_once("-a")?;
    Some((id.parse().ok()?, attempt.parse().ok()?))
}

/// Measures everything that outlived its need, and finds what got too old.
pub fn measure(
    lives: &[(&Life, Uuid, i64)],
    records: &HashMap<Uuid, Record>,
    troubles: &[Trouble],
    book: &Book,
) -> Ages {
    let mut ages = Ages::default();
    for (life, provision, number) in lives {
        let Some(attempt) = records.get(provision).and_then(|it| it.attempt(*number)) else {
            continue;
        };
        let needed = needed_until(attempt);
        let (from, Some(to)) = (life.began.max(needed), life.ended) else {
            continue;
        };
        if to <= from {
            continue;
        }
        let (class, ceiling) = ceiling(attempt, life.began, needed);
        let whole = to - from;
        let broken = disturbed(troubles, *provision, class, from, to);
        let age = Age {
            whole,
            undisturbed: whole - broken,
        };
        if age.undisturbed > ceiling {
            let what = format!(
                "{:?} {} got {} old, {} of it undisturbed; the ceiling is {} ({class:?}). It was \
                 made at {} and needed until {needed}",
                life.kind,
                life.id,
                seconds(whole),
                seconds(age.undisturbed),
                seconds(ceiling),
                life.began,
            );
            book.violation(Some(*provision), what);
        }
        ages.0.entry(class).or_default().push(age);
    }
    ages
}

/// By what an orphan of that attempt is noticed, and how old it may get.
fn ceiling(attempt: &Attempt, began: DateTime<Utc>, needed: DateTime<Utc>) -> (Class, TimeDelta) {
    let unheard = attempt.doomed.and_then(|it| it.acknowledged);
    let (class, ceiling) = match unheard {
        // Until somebody heard it, it was nobody's to act on.
        Some(at) => (Class::Reported, CEILING.reported() + since(needed, at)),
        None if attempt.heartbeat => (Class::Silent, CEILING.silent()),
        None => (Class::Unreported, CEILING.unreported()),
    };
    let (class, ceiling) = if began > needed {
        (Class::Late, ceiling + CEILING.late())
    } else {
        (class, ceiling)
    };
    (
        class,
        TimeDelta::from_std(ceiling).unwrap_or(TimeDelta::MAX),
    )
}

fn since(from: DateTime<Utc>, to: DateTime<Utc>) -> std::time::Duration {
    (to - from).to_std().unwrap_or_default()
}

impl Ages {
    /// The distribution, for people.
    pub fn print(&self) {
        println!("\n  orphans, by how they were noticed: age from when they were needed no more");
        println!(
            "  {:<12} {:>7} {:>8} {:>8} {:>8} {:>8}   undisturbed: max, of a ceiling of",
            "", "number", "half", "90 %", "99 %", "max"
        );
        for (class, ages) in &self.0 {
            let mut whole: Vec<TimeDelta> = ages.iter().map(|it| it.whole).collect();
            whole.sort();
            let at = |percent: usize| {
                let index = (whole.len() * percent / 100).min(whole.len() - 1);
                seconds(whole[index])
            };
            let undisturbed = ages.iter().map(|it| it.undisturbed).max();
            let ceiling = match class {
                Class::Reported => CEILING.reported(),
                Class::Silent => CEILING.silent(),
                Class::Unreported => CEILING.unreported(),
                Class::Late => CEILING.late(),
            };
            println!(
                "  {:<12} {:>7} {:>8} {:>8} {:>8} {:>8}   {}, of {} s",
                format!("{class:?}").to_lowercase(),
                whole.len(),
                at(50),
                at(90),
                at(99),
                at(100),
                seconds(undisturbed.unwrap_or_default()),
                ceiling.as_secs(),
            );
        }
    }
}

fn seconds(delta: TimeDelta) -> String {
    let tenths = delta.num_milliseconds() / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}
