//! Sweeps: the vendors' lists against the database.
//!
//! What no message reports and no search waits for any more is found here: a server that its vendor
//! made an hour after it had said no, a device that came back, a key that nobody recorded. The lists
//! are begun first and the database is read after them, so that what a provision makes meanwhile is
//! not judged by a database that had not heard of it.
//!
//! `domain::orphans` judges. A sweep itself deletes nothing: what must go is written to the ledger by
//! `rollback`, and goes by the checks that everything goes by.
//!
//! - [`look`]: reads the lists and judges them; writes nothing.
//! - [`sweep`]: also does what its mandate allows, and writes down what it found.
//! - [`periodic`]: the sweeps of `serve`. [`table`]: what `backstop sweep` prints.

mod act;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lists;
pub mod periodic;
pub mod table;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::budget::Budget;
use crate::domain::budget::Reserve;
use crate::domain::names::{ControllerId, Names, ProvisionId};
use crate::domain::orphans::{Kind, Known, Mandate, Orphan, Sighting, Verdict, judge};
use crate::domain::step::Resource;
use crate::providers::hetzner::Priced;
use crate::providers::{Hetzner, Tailscale, Vendor};
use crate::store::notices::Subscriber;
use crate::store::sweeps::{self, Findings, Sweep};
use crate::store::{Pool, StoreError};
use lists::{Listed, Lists};

/// The vendors whose lists are looked at.
#[derive(Debug, Clone)]
pub struct Vendors {
    /// Servers, volumes and IPs.
    pub hetzner: Arc<Hetzner>,
    /// Devices and auth keys, and the tag without which no device is ours; `None` without Tailscale.
    pub tailscale: Option<(Arc<Tailscale>, String)>,
    /// Who this database is to them.
    pub controller: ControllerId,
}

/// What sweeps may send: the vendors' rate budgets, which they share with deletes.
pub struct Budgets {
    hetzner: Budget,
    tailscale: Budget,
}

impl Budgets {
    /// `reserve` is the share of a vendor's limit that is left to others.
    #[must_use]
    pub fn new(pool: &Pool, reserve: Reserve) -> Self {
        let budget = |vendor| Budget::new(pool.clone(), vendor, reserve);
        Self {
            hetzner: budget(Vendor::Hetzner),
            tailscale: budget(Vendor::Tailscale),
        }
    }
}

/// What a sweep did.
#[derive(Debug)]
pub struct Swept {
    /// What it found, and what is done about it.
    pub findings: Findings,
    /// The provisions that have something to do now. The caller announces them.
    pub reopened: Vec<ProvisionId>,
}

/// Reads the lists, which are begun after `listed_at`, and judges them. Writes nothing but what
/// `budgets` keep; without them, as for somebody who waits, the vendors are asked in any case.
///
/// # Errors
/// [`StoreError`] if the database cannot be read. A list that cannot be read is told in the findings.
pub async fn look(
    pool: &Pool,
    vendors: &Vendors,
    budgets: Option<&Budgets>,
    listed_at: DateTime<Utc>,
) -> Result<Findings, StoreError> {
    // All six lists at once are too much to carry about.
    let Lists {
        things,
        unread,
        errors,
    } = Box::pin(lists::read(vendors, budgets)).await?;

    let (seen, priced): (Vec<Sighting>, Vec<Option<Priced>>) = things
        .into_iter()
        .map(|Listed { sighting, priced }| (sighting, priced))
        .unzip();
    let mut db = pool.acquire().await?;
    let ground = sweeps::ground(&mut db, listed_at).await?;
    let known = sweeps::known(&mut db, &seen).await?;
    let mut findings = Findings {
        unread,
        errors,
        ..Findings::default()
    };
    if !findings.unread.contains(&Kind::Server) {
        let live: Vec<Names> = seen
            .iter()
            .zip(&known)
            .filter(|(thing, known)| thing.kind == Kind::Server && **known == Known::Live)
            .filter_map(|(thing, _)| thing.claim.names())
            .collect();
        findings.orphans = sweeps::running_without_server(&mut db, &live, listed_at).await?;
    }
    drop(db);

    let mut costing = Vec::new();
    for ((thing, priced), known) in seen.into_iter().zip(priced).zip(known) {
        match judge(&thing, known, &ground) {
            Verdict::Belongs => {}
            Verdict::UnderWay => findings.under_way.push(thing),
            Verdict::NotOurs => findings.not_ours += 1,
            Verdict::Orphan(why, action) => {
                if let Some(priced) = priced {
                    costing.push((findings.orphans.len(), priced));
                }
                findings.orphans.push(Orphan {
                    seen: thing,
                    why,
                    action,
                    hourly_cost: None,
                });
            }
        }
    }
    if !costing.is_empty() {
        price(&vendors.hetzner, &mut findings, &costing).await;
    }
    Ok(findings)
}

/// Without a price list nobody knows what it costs, and everything else is as true.
async fn price(hetzner: &Hetzner, findings: &mut Findings, costing: &[(usize, Priced)]) {
    match hetzner.prices().await {
        Ok(prices) => {
            for (index, priced) in costing {
                findings.orphans[*index].hourly_cost = prices.hourly(priced);
            }
            findings.currency = Some(prices.currency.clone());
        }
        Err(error) => tracing::warn!(%error, "what the orphans cost is not known"),
    }
}

/// Looks, does what `mandate` allows, and writes down what was found.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or written. What was reopened by then stays so.
pub async fn sweep(
    pool: &Pool,
    vendors: &Vendors,
    sweep: &Sweep,
    mandate: Mandate,
) -> Result<Swept, StoreError> {
    let findings = look(pool, vendors, None, sweep.started_at).await?;
    // Whoever asked for it sees what it found.
    let nobody = Subscriber::Nobody;
    conclude(pool, vendors, sweep, findings, mandate, nobody).await
}

async fn conclude(
    pool: &Pool,
    vendors: &Vendors,
    sweep: &Sweep,
    mut findings: Findings,
    mandate: Mandate,
    subscriber: Subscriber,
) -> Result<Swept, StoreError> {
    let mut db = pool.acquire().await?;
    let reopened = act::act(&mut db, vendors, sweep.started_at, &mut findings, mandate).await?;
    let new = sweeps::finish(&mut db, sweep, &findings, subscriber).await?;
    for orphan in &findings.orphans {
        if new.contains_key(&orphan.subject()) {
            tracing::warn!(
                vendor = orphan.seen.kind.vendor(), orphan.kind = %orphan.seen.kind,
                orphan.id = %orphan.seen.id, orphan.name = orphan.seen.name,
                orphan.why = %orphan.why, orphan.action = %orphan.action,
                "a sweep found what should not be there"
            );
        }
    }
    Ok(Swept { findings, reopened })
}

impl Vendors {
    /// The kinds of thing that this installation can delete.
    #[must_use]
    pub fn managed(&self) -> &'static [Resource] {
        match self.tailscale {
            Some(_) => &Resource::ALL,
            None => &[Resource::Server],
        }
    }
}
