//! The vendors' lists, and what on them says that it is of backstop's making.

use std::collections::BTreeMap;

use crate::domain::names::{CONTROLLER_LABEL, ControllerId, MANAGED_BY_LABEL, Names};
use crate::domain::orphans::{Claim, Kind, Sighting};
use crate::providers::hetzner::{Ip, Priced, Server, Volume};
use crate::providers::tailscale::{Device, Key};
use crate::providers::{Hetzner, Tailscale, VendorError};

/// What the vendors' lists show.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Everything that says so.
    pub things: Vec<Listed>,
    /// The lists that could not be read, and why.
    pub unread: Vec<(Kind, VendorError)>,
}

/// A thing of a list.
#[derive(Debug)]
pub(super) struct Listed {
    /// What it is and says.
    pub sighting: Sighting,
    /// What it costs by; `None` if it costs nothing.
    pub priced: Option<Priced>,
}

/// Reads every list once.
pub(super) async fn read(
    hetzner: &Hetzner,
    tailscale: Option<(&Tailscale, &str)>,
    controller: ControllerId,
) -> Lists {
    // The selector only makes the lists shorter: each label is compared here.
    let selector = format!("{MANAGED_BY_LABEL}=backstop");
    let (servers, volumes, primary, floating, tailnet) = tokio::join!(
        hetzner.servers_by_label(&selector),
        hetzner.volumes_by_label(&selector),
        hetzner.primary_ips_by_label(&selector),
        hetzner.floating_ips_by_label(&selector),
        async {
            match tailscale {
                Some((client, tag)) => Some((client.devices().await, client.keys().await, tag)),
                None => None,
            }
        },
    );
    let mut lists = Lists::default();
    lists.take(Kind::Server, servers, |it| Some(server(it, controller)));
    lists.take(Kind::Volume, volumes, |it| Some(volume(it, controller)));
    lists.take(Kind::PrimaryIp, primary, |it| {
        Some(ip(Kind::PrimaryIp, it, controller))
    });
    lists.take(Kind::FloatingIp, floating, |it| {
        Some(ip(Kind::FloatingIp, it, controller))
    });
    if let Some((devices, keys, tag)) = tailnet {
        lists.take(Kind::Device, devices, |it| device(it, tag));
        lists.take(Kind::AuthKey, keys, key);
    }
    lists
}

impl Lists {
    fn take<T>(
        &mut self,
        kind: Kind,
        list: Result<Vec<T>, VendorError>,
        read: impl Fn(T) -> Option<Seen>,
    ) {
        match list {
            Ok(things) => self.things.extend(
                things
                    .into_iter()
                    .filter_map(read)
                    .filter_map(|seen| seen.listed(kind)),
            ),
            Err(error) => self.unread.push((kind, error)),
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
        let Some(id) = kind.parse_id(&self.id) else {
            tracing::error!(%kind, name = self.name, "a list shows a thing whose id is no id");
            return None;
        };
        Some(Listed {
            sighting: Sighting {
                kind,
                id,
                // It ends up in the database, and on somebody's terminal.
                name: self.name.chars().filter(|c| !c.is_control()).collect(),
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
