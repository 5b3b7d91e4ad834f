//! What things cost an hour, net, from the vendor's own price list.
//! <https://docs.hetzner.cloud/reference/cloud#pricing>
//!
//! For people only: what the list does not say costs nothing that is known, and is no error.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use crate::providers::error::one_line;
use crate::providers::wire::null_as_default;

/// How long a price list is kept.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(6 * 60 * 60);
/// Of the average month; volumes and floating IPs are billed by it.
const HOURS_A_MONTH: f64 = 730.0;

/// Something that has a price.
#[derive(Debug, Clone, PartialEq)]
pub enum Priced {
    /// A server.
    Server {
        /// Such as `cx22`.
        server_type: String,
        /// Such as `fsn1`.
        location: String,
    },
    /// A volume, by its size in GB.
    Volume(f64),
    /// A primary IP.
    PrimaryIp {
        /// `ipv4` or `ipv6`.
        version: String,
        /// Such as `fsn1`.
        location: String,
    },
    /// A floating IP.
    FloatingIp {
        /// `ipv4` or `ipv6`.
        version: String,
        /// Such as `fsn1`.
        location: String,
    },
}

/// The price list, as far as it is about what we look for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices {
    /// Such as `EUR`.
    pub currency: String,
    servers: ByNameAndLocation,
    primary_ips: ByNameAndLocation,
    floating_ips: ByNameAndLocation,
    volume_gb: Option<f64>,
}

type ByNameAndLocation = HashMap<(String, String), f64>;

impl Prices {
    /// What it costs an hour, net. `None` if the list does not say.
    #[must_use]
    pub fn hourly(&self, thing: &Priced) -> Option<f64> {
        let (list, name, location) = match thing {
            Priced::Volume(gigabytes) => return sound(self.volume_gb? * gigabytes),
            Priced::Server {
                server_type,
                location,
            } => (&self.servers, server_type, location),
            Priced::PrimaryIp { version, location } => (&self.primary_ips, version, location),
            Priced::FloatingIp { version, location } => (&self.floating_ips, version, location),
        };
        list.get(&(name.clone(), location.clone())).copied()
    }
}

#[derive(Deserialize)]
pub(super) struct PricingAnswer {
    pricing: Pricing,
}

#[derive(Deserialize)]
struct Pricing {
    currency: String,
    #[serde(default, deserialize_with = "null_as_default")]
    server_types: Vec<Listed>,
    #[serde(default, deserialize_with = "null_as_default")]
    primary_ips: Vec<Listed>,
    #[serde(default, deserialize_with = "null_as_default")]
    floating_ips: Vec<Listed>,
    #[serde(default)]
    volume: Option<VolumePrice>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(alias = "type")]
    name: String,
    prices: Vec<InLocation>,
}

#[derive(Deserialize)]
struct InLocation {
    location: String,
    #[serde(default)]
    price_hourly: Option<Price>,
    #[serde(default)]
    price_monthly: Option<Price>,
}

#[derive(Deserialize)]
struct VolumePrice {
    price_per_gb_month: Price,
}

/// A decimal number, as text.
#[derive(Deserialize)]
struct Price {
    net: String,
}

impl Price {
    fn value(&self) -> Option<f64> {
        sound(self.net.parse().ok()?)
    }
}

fn sound(price: f64) -> Option<f64> {
    (price.is_finite() && price >= 0.0).then_some(price)
}

impl From<PricingAnswer> for Prices {
    fn from(PricingAnswer { pricing }: PricingAnswer) -> Self {
        Self {
            currency: one_line(&pricing.currency),
            servers: by_name_and_location(pricing.server_types),
            primary_ips: by_name_and_location(pricing.primary_ips),
            floating_ips: by_name_and_location(pricing.floating_ips),
            volume_gb: pricing
                .volume
                .and_then(|volume| volume.price_per_gb_month.value())
                .map(|monthly| monthly / HOURS_A_MONTH),
        }
    }
}

fn by_name_and_location(listed: Vec<Listed>) -> ByNameAndLocation {
    listed
        .into_iter()
        .flat_map(|Listed { name, prices }| {
            prices.into_iter().filter_map(move |price| {
                let hourly = price.price_hourly.and_then(|it| it.value());
                let monthly = price.price_monthly.and_then(|it| it.value());
                let hourly = hourly.or(monthly.map(|monthly| monthly / HOURS_A_MONTH))?;
                Some(((name.clone(), price.location), hourly))
            })
        })
        .collect()
}
