//! Whether an absence counts.
//!
//! A token of the wrong project or tailnet shows empty lists, and so does a vendor with a bad day.
//! If the database knows machines that should be running and the vendor shows none of them, nothing
//! is proven gone by not being there: the step fails, is shown as needing a person, and is tried
//! again. Where nothing should be running there is nothing to compare with, and absence counts.
//!
//! A list alone decides, not a server that answers to its id: a list that leaves out what is there
//! proves nothing either.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::judge::Judge;
use super::worker::Hands;
use crate::domain::names::{CONTROLLER_LABEL, ControllerId, Names, PROVISION_LABEL, ProvisionId};
use crate::domain::step::Proof;
use crate::providers::tailscale::Device;
use crate::providers::{Hetzner, Tailscale, VendorError};
use crate::store::ledger::{ClaimedStep, Outcome};
use crate::store::{Pool, StoreError, running};

/// For how long a look that showed a machine of ours counts.
const COUNTS_FOR: Duration = Duration::from_secs(60);
/// Machines that are looked for first.
const NEWEST: u32 = 25;
/// Looks, where machines stop running meanwhile.
const ROUNDS: u32 = 3;
/// The longest that it may take; a step's lease has room for it.
const AT_MOST: Duration = Duration::from_secs(20);

/// When a worker's credential last showed a machine that should be running.
#[derive(Debug, Default)]
pub(super) struct LastSight(Mutex<Option<Instant>>);

/// What a credential shows of the machines that should be running, asked once for a batch and only
/// if a step of it would settle by an absence.
pub(super) struct Sight<'a> {
    pool: &'a Pool,
    hands: &'a Hands,
    last: &'a LastSight,
    judge: Judge<'a>,
    told: OnceCell<Result<(), Blind>>,
}

/// Why an absence does not count.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Blind {
    /// None of the machines that should be running is there.
    #[error("{0}")]
    Suspect(&'static str),
    /// The vendor could not be asked.
    #[error("{0}")]
    Vendor(VendorError),
    /// The database could not be asked, or it took too long.
    #[error("{0}")]
    Unknown(String),
}

/// What the vendor's list shows of the machines that should be running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// One of them, at least.
    AMachine,
    /// No machine should be running.
    NothingToShow,
}

impl<'a> Sight<'a> {
    pub(super) fn new(
        pool: &'a Pool,
        hands: &'a Hands,
        last: &'a LastSight,
        judge: Judge<'a>,
    ) -> Self {
        Self {
            pool,
            hands,
            last,
            judge,
            told: OnceCell::new(),
        }
    }

    /// Settles a step by an absence, if it counts.
    pub(super) async fn absent(&self, step: &ClaimedStep, proof: Proof) -> Outcome {
        match self.told.get_or_init(|| self.look()).await {
            Ok(()) => Outcome::Gone(proof),
            Err(Blind::Suspect(error)) => Outcome::Failed {
                error: (*error).to_owned(),
                retry_in: self.judge.slowly(),
                needs_person: true,
            },
            Err(Blind::Vendor(error)) => self.judge.failed(step, error),
            Err(Blind::Unknown(error)) => Outcome::Failed {
                error: error.clone(),
                retry_in: self.judge.begin_anew_in(step),
                needs_person: false,
            },
        }
    }

    async fn look(&self) -> Result<(), Blind> {
        if self.last.counts() {
            return Ok(());
        }
        let look = Look {
            pool: self.pool,
            hands: self.hands,
            controller: self.judge.controller,
        };
        if look.look().await? == Shown::AMachine {
            self.last.note();
        }
        Ok(())
    }
}

/// A look at the vendor's list, for machines that should be running.
pub(crate) struct Look<'a> {
    /// Knows them.
    pub(crate) pool: &'a Pool,
    /// Shows them.
    pub(crate) hands: &'a Hands,
    /// Who this database is to the vendors.
    pub(crate) controller: ControllerId,
}

impl Look<'_> {
    /// Looks.
    ///
    /// # Errors
    /// [`Blind`] if none of them is there, or nobody knows.
    pub(crate) async fn look(&self) -> Result<Shown, Blind> {
        let looked = timeout(AT_MOST, async {
            match self.hands {
                Hands::Hetzner(client) => self.look_for_servers(client).await,
                Hands::Tailscale { client, tag } => self.look_for_devices(client, tag).await,
            }
        });
        looked.await.unwrap_or_else(|_| {
            let error = "whether the credential shows what should be running was not known in time";
            Err(Blind::Unknown(error.to_owned()))
        })
    }

    async fn look_for_servers(&self, client: &Hetzner) -> Result<Shown, Blind> {
        for _ in 0..ROUNDS {
            let mut db = self.pool.acquire().await.map_err(StoreError::from)?;
            let expected = running::newest_servers(&mut db, NEWEST).await?;
            drop(db);
            if expected.is_empty() {
                return Ok(Shown::NothingToShow);
            }
            let ids: Vec<ProvisionId> = expected.iter().map(|it| it.provision).collect();
            let provisions: Vec<String> = ids.iter().map(ProvisionId::to_string).collect();
            let newest = format!("{PROVISION_LABEL} in ({})", provisions.join(","));
            let all = format!("{CONTROLLER_LABEL}={}", self.controller);
            for selector in [newest, all] {
                let listed = client.servers_by_label(&selector).await?;
                let listed: Vec<String> = listed.iter().map(|it| it.id.to_string()).collect();
                let mut db = self.pool.acquire().await.map_err(StoreError::from)?;
                if running::includes_server(&mut db, &listed).await? {
                    return Ok(Shown::AMachine);
                }
            }
            if self.all_still_run(&ids).await? {
                return Err(Blind::Suspect(
                    "the list of servers shows none of the machines that should be running, so \
                     that nothing is proven by it: is HCLOUD_TOKEN of another project? If all of \
                     them were deleted by hand, destroy their provisions",
                ));
            }
        }
        Err(unsteady())
    }

    async fn look_for_devices(&self, client: &Tailscale, tag: &str) -> Result<Shown, Blind> {
        for _ in 0..ROUNDS {
            let mut db = self.pool.acquire().await.map_err(StoreError::from)?;
            let expected = running::devices(&mut db).await?;
            drop(db);
            if expected.is_empty() {
                return Ok(Shown::NothingToShow);
            }
            let names: HashSet<String> = expected
                .iter()
                .map(|it| Names::new(it.provision, it.attempt).server_name())
                .collect();
            let node_ids: HashSet<&str> = expected
                .iter()
                .filter_map(|it| it.node_id.as_deref())
                .collect();
            let is_expected = |device: &Device| {
                !device.is_external
                    && device.tags.iter().any(|it| it == tag)
                    && (names.contains(&device.hostname)
                        || node_ids.contains(device.node_id.as_str()))
            };
            if client.devices().await?.iter().any(is_expected) {
                return Ok(Shown::AMachine);
            }
            let ids: Vec<ProvisionId> = expected.iter().map(|it| it.provision).collect();
            if self.all_still_run(&ids).await? {
                return Err(Blind::Suspect(
                    "the list of devices shows none of the machines that should be running, so \
                     that nothing is proven by it: is the Tailscale credential of another tailnet? \
                     If all of them were deleted by hand, destroy their provisions",
                ));
            }
        }
        Err(unsteady())
    }

    /// Looked at after the list: one that has gone meanwhile was rightly not on it.
    async fn all_still_run(&self, expected: &[ProvisionId]) -> Result<bool, Blind> {
        let mut db = self.pool.acquire().await.map_err(StoreError::from)?;
        Ok(running::all_still_run(&mut db, expected).await?)
    }
}

fn unsteady() -> Blind {
    let error = "machines stop running faster than they can be listed";
    Blind::Unknown(error.to_owned())
}

impl LastSight {
    fn counts(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|at| at.elapsed() < COUNTS_FOR)
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl From<VendorError> for Blind {
    fn from(error: VendorError) -> Self {
        Self::Vendor(error)
    }
}

impl From<StoreError> for Blind {
    fn from(error: StoreError) -> Self {
        Self::Unknown(error.to_string())
    }
}
