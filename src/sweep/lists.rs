//! The vendors' lists, and what on them says that it is of backstop's making.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Budgets, Vendors};
use crate::budget::{Asked, Budget, Permit};
use crate::domain::budget::Purpose;
use crate::domain::names::{CONTROLLER_LABEL, ControllerId, MANAGED_BY_LABEL, Names};
use crate::domain::orphans::{Claim, Kind, Sighting};
use crate::providers::hetzner::{Ip, Priced, RateLimit, Server, Volume};
use crate::providers::tailscale::{Device, Key};
use crate::providers::{Tailscale, Vendor, VendorError, one_line};
use crate::store::StoreError;

/// What the vendors' lists show.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Everything that says so.
    pub things: Vec<Listed>,
    /// What could not be read, or not to its end.
    pub unread: Vec<Kind>,
    /// Why not.
    pub errors: Vec<String>,
}

/// A thing of a list.
#[derive(Debug)]
pub(super) struct Listed {
    /// What it is and says.
    pub sighting: Sighting,
    /// What it costs by; `None` if it costs nothing.
    pub priced: Option<Priced>,
}

/// How many requests the lists of a vendor are, at least.
const LISTS_OF_HETZNER: u32 = 4;
const LISTS_OF_TAILSCALE: u32 = 2;

/// Reads every list once.
///
/// # Errors
/// [`StoreError`] if the budgets cannot be asked.
pub(super) async fn read(
    vendors: &Vendors,
    budgets: Option<&Budgets>,
) -> Result<Lists, StoreError> {
    let mut lists = Lists::default();
    let (of_hetzner, of_tailscale) = tokio::try_join!(
        read_hetzner(vendors, budgets.map(|it| &it.hetzner)),
        async {
            match &vendors.tailscale {
                Some((client, tag)) => {
                    read_tailscale(client, tag, budgets.map(|it| &it.tailscale)).await
                }
                None => Ok(Lists::default()),
            }
        },
    )?;
    for of_vendor in [of_hetzner, of_tailscale] {
        lists.things.extend(of_vendor.things);
        lists.unread.extend(of_vendor.unread);
        lists.errors.extend(of_vendor.errors);
    }
    Ok(lists)
}

async fn read_hetzner(vendors: &Vendors, budget: Option<&Budget>) -> Result<Lists, StoreError> {
    let (client, controller) = (&vendors.hetzner, vendors.controller);
    let mut lists = Lists::default();
    let told_before = client.rate();
    let Some(leave) = Leave::ask(budget, LISTS_OF_HETZNER).await? else {
        let kinds = [
            Kind::Server,
            Kind::Volume,
            Kind::PrimaryIp,
            Kind::FloatingIp,
        ];
        lists.held_back(Vendor::Hetzner, &kinds);
        return Ok(lists);
    };
    // The selector only makes the lists shorter: each label is compared here.
    let selector = format!("{MANAGED_BY_LABEL}=backstop");
    let (servers, volumes, primary, floating) = tokio::join!(
        client.servers_shown(&selector),
        client.volumes_by_label(&selector),
        client.primary_ips_by_label(&selector),
        client.floating_ips_by_label(&selector),
    );
    // What is there can be judged. What is not may be there all the same.
    let (servers, not_all) = match servers {
        Ok(shown) => (Ok(shown.things), shown.not_all),
        Err(error) => (Err(error), None),
    };
    lists.take(Kind::Server, servers, &leave, |it| {
        Some(server(it, controller))
    });
    if let Some(error) = not_all {
        lists.unread.push(Kind::Server);
        lists.errors.push(error.to_string());
    }
    lists.take(Kind::Volume, volumes, &leave, |it| {
        Some(volume(it, controller))
    });
    lists.take(Kind::PrimaryIp, primary, &leave, |it| {
        Some(ip(Kind::PrimaryIp, it, controller))
    });
    lists.take(Kind::FloatingIp, floating, &leave, |it| {
        Some(ip(Kind::FloatingIp, it, controller))
    });
    leave
        .end(client.rate().filter(|told| Some(*told) != told_before))
        .await?;
    Ok(lists)
}

async fn read_tailscale(
    client: &Tailscale,
    tag: &str,
    budget: Option<&Budget>,
) -> Result<Lists, StoreError> {
    let mut lists = Lists::default();
    let Some(leave) = Leave::ask(budget, LISTS_OF_TAILSCALE).await? else {
        lists.held_back(Vendor::Tailscale, &[Kind::Device, Kind::AuthKey]);
        return Ok(lists);
    };
    let (devices, keys) = (client.devices().await, client.keys().await);
    lists.take(Kind::Device, devices, &leave, |it| device(it, tag));
    lists.take(Kind::AuthKey, keys, &leave, key);
    leave.end(None).await?;
    Ok(lists)
}

/// Leave to read a vendor's lists.
struct Leave<'a>(Option<(&'a Budget, Permit)>);

impl<'a> Leave<'a> {
    /// `None`: deletes go first, and there is not enough for all of it. Without a budget nobody has to
    /// be asked.
    async fn ask(budget: Option<&'a Budget>, lists: u32) -> Result<Option<Self>, StoreError> {
        let Some(budget) = budget else {
            return Ok(Some(Self(None)));
        };
        match budget.permit(Purpose::Sweep, lists).await? {
            Asked::Granted(permit) if permit.granted() >= lists => {
                // All of it is sent now.
                while permit.one_more(None) {}
                Ok(Some(Self(Some((budget, permit)))))
            }
            Asked::Granted(permit) => {
                budget.settle(permit, None).await?;
                Ok(None)
            }
            Asked::NotNow { .. } => Ok(None),
        }
    }

    fn turned_away(&self, retry_after: Option<Duration>) {
        if let Some((_, permit)) = &self.0 {
            permit.turned_away(retry_after);
        }
    }

    async fn end(self, told: Option<RateLimit>) -> Result<(), StoreError> {
        match self.0 {
            Some((budget, permit)) => budget.settle(permit, told).await,
            None => Ok(()),
        }
    }
}

impl Lists {
    fn held_back(&mut self, vendor: Vendor, kinds: &[Kind]) {
        self.unread.extend(kinds);
        self.errors.push(format!(
            "{vendor}: held back, what is left of its rate limit is for deletes"
        ));
    }

    fn take<T>(
        &mut self,
        kind: Kind,
        list: Result<Vec<T>, VendorError>,
        leave: &Leave<'_>,
        read: impl Fn(T) -> Option<Seen>,
    ) {
        match list {
            Ok(things) => self.things.extend(
                things
                    .into_iter()
                    .filter_map(read)
                    .filter_map(|seen| seen.listed(kind)),
            ),
            Err(error) => {
                if let VendorError::RateLimited { retry_after, .. } = &error {
                    leave.turned_away(*retry_after);
                }
                self.unread.push(kind);
                self.errors.push(error.to_string());
            }
        }
    }
}

/// A thing whose id is not parsed yet.
struct Seen {
    id: String,
    name: String,
    claim: Claim,
    attached: bool,
    created: Option<chrono::DateTime<chrono::Utc>>,
    priced: Option<Priced>,
}

impl Seen {
    /// `None`, and a line in the log, for an id that its vendor could not have given.
    fn listed(self, kind: Kind) -> Option<Listed> {
        // It ends up in the database, and on somebody's terminal.
        let name = one_line(&self.name);
        let Some(id) = kind.parse_id(&self.id) else {
            tracing::error!(%kind, name, "a list shows a thing whose id is no id");
            return None;
        };
        Some(Listed {
            sighting: Sighting {
                kind,
                id,
                name,
                claim: self.claim,
                attached: self.attached,
                created: self.created,
            },
            priced: self.priced,
        })
    }
}

fn server(server: Server, controller: ControllerId) -> Seen {
    Seen {
        id: server.id.to_string(),
        claim: claim(&server.labels, controller),
        attached: false,
        created: server.created,
        priced: Some(Priced::Server {
            server_type: server.server_type,
            location: server.location,
        }),
        name: server.name,
    }
}

fn volume(volume: Volume, controller: ControllerId) -> Seen {
    Seen {
        id: volume.id.to_string(),
        claim: claim(&volume.labels, controller),
        attached: volume.server.is_some(),
        created: volume.created,
        priced: Some(Priced::Volume(volume.gigabytes)),
        name: volume.name,
    }
}

fn ip(kind: Kind, ip: Ip, controller: ControllerId) -> Seen {
    let (version, location) = (ip.version, ip.location);
    Seen {
        id: ip.id.to_string(),
        claim: claim(&ip.labels, controller),
        attached: ip.server.is_some(),
        created: ip.created,
        priced: Some(match kind {
            Kind::FloatingIp => Priced::FloatingIp { version, location },
            _ => Priced::PrimaryIp { version, location },
        }),
        name: ip.name,
    }
}

/// A tailnet names no controller: what does not have the tag and a name of ours is nobody's here.
fn device(device: Device, tag: &str) -> Option<Seen> {
    let tagged = !device.is_external && device.tags.iter().any(|it| it == tag);
    let names = Names::from_server_name(&device.hostname).filter(|_| tagged)?;
    Some(Seen {
        id: device.node_id,
        name: device.hostname,
        claim: Claim::Name(names),
        attached: false,
        created: device.created,
        priced: None,
    })
}

fn key(key: Key) -> Option<Seen> {
    let usable = key.is_auth_key() && key.is_live();
    let names = Names::from_key_description(&key.description).filter(|_| usable)?;
    Some(Seen {
        id: key.id,
        name: key.description,
        claim: Claim::Name(names),
        attached: false,
        created: key.created,
        priced: None,
    })
}

fn claim(labels: &BTreeMap<String, String>, controller: ControllerId) -> Claim {
    if labels.get(CONTROLLER_LABEL) != Some(&controller.to_string()) {
        return Claim::NotOurs;
    }
    match Names::from_labels(labels, controller) {
        Some((names, run)) => Claim::Labels(names, run),
        None => Claim::Incomplete,
    }
}
