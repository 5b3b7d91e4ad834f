//! What a Hetzner project can be built from, and what an empty project has none of.
//!
//! Read-only. Enough for the vendor's own clients to create a server: they look up the type, the
//! image, the location and the SSH key by name before they ask.

use serde_json::{Value, json};

/// A kind of server.
#[derive(Debug, PartialEq)]
pub(super) struct ServerType {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) cores: u32,
    pub(super) memory: u32,
    pub(super) disk: u32,
    pub(super) dedicated: bool,
    pub(super) architecture: &'static str,
}

/// An operating system image.
#[derive(Debug, PartialEq)]
pub(super) struct Image {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) flavor: &'static str,
    pub(super) version: &'static str,
    pub(super) architecture: &'static str,
}

/// A place where servers stand.
#[derive(Debug, PartialEq)]
pub(super) struct Location {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) city: &'static str,
    pub(super) country: &'static str,
    pub(super) zone: &'static str,
    latitude: f64,
    longitude: f64,
}

const fn shared(
    id: u64,
    name: &'static str,
    architecture: &'static str,
    (cores, memory, disk): (u32, u32, u32),
) -> ServerType {
    ServerType {
        id,
        name,
        cores,
        memory,
        disk,
        dedicated: false,
        architecture,
    }
}

static SERVER_TYPES: [ServerType; 14] = [
    shared(22, "cpx11", "x86", (2, 2, 40)),
    shared(23, "cpx21", "x86", (3, 4, 80)),
    shared(45, "cax11", "arm", (2, 4, 40)),
    shared(93, "cax21", "arm", (4, 8, 80)),
    ServerType {
        id: 96,
        name: "ccx13",
        cores: 2,
        memory: 8,
        disk: 80,
        dedicated: true,
        architecture: "x86",
    },
    shared(104, "cx22", "x86", (2, 4, 40)),
    shared(105, "cx32", "x86", (4, 8, 80)),
    shared(106, "cx42", "x86", (8, 16, 160)),
    shared(109, "cpx12", "x86", (1, 2, 40)),
    shared(110, "cpx22", "x86", (2, 4, 80)),
    shared(111, "cpx32", "x86", (4, 8, 160)),
    shared(114, "cx23", "x86", (2, 4, 40)),
    shared(115, "cx33", "x86", (4, 8, 80)),
    shared(116, "cx43", "x86", (8, 16, 160)),
];

const fn image(
    id: u64,
    name: &'static str,
    flavor: &'static str,
    version: &'static str,
    architecture: &'static str,
) -> Image {
    Image {
        id,
        name,
        flavor,
        version,
        architecture,
    }
}

static IMAGES: [Image; 10] = [
    image(67_794_396, "ubuntu-22.04", "ubuntu", "22.04", "x86"),
    image(103_907_373, "ubuntu-22.04", "ubuntu", "22.04", "arm"),
    image(114_690_387, "debian-12", "debian", "12", "x86"),
    image(114_690_389, "debian-12", "debian", "12", "arm"),
    image(161_547_269, "ubuntu-24.04", "ubuntu", "24.04", "x86"),
    image(161_547_270, "ubuntu-24.04", "ubuntu", "24.04", "arm"),
    image(310_557_660, "debian-13", "debian", "13", "x86"),
    image(310_557_661, "debian-13", "debian", "13", "arm"),
    image(361_040_112, "ubuntu-26.04", "ubuntu", "26.04", "x86"),
    image(361_040_113, "ubuntu-26.04", "ubuntu", "26.04", "arm"),
];

const fn location(
    id: u64,
    name: &'static str,
    (city, country, zone): (&'static str, &'static str, &'static str),
    (latitude, longitude): (f64, f64),
) -> Location {
    Location {
        id,
        name,
        city,
        country,
        zone,
        latitude,
        longitude,
    }
}

static LOCATIONS: [Location; 6] = [
    location(
        1,
        "fsn1",
        ("Falkenstein", "DE", "eu-central"),
        (50.47612, 12.370_071),
    ),
    location(
        2,
        "nbg1",
        ("Nuremberg", "DE", "eu-central"),
        (49.452_102, 11.076_665),
    ),
    location(
        3,
        "hel1",
        ("Helsinki", "FI", "eu-central"),
        (60.169_855, 24.938_379),
    ),
    location(
        4,
        "ash",
        ("Ashburn, VA", "US", "us-east"),
        (39.045_821, -77.487_073),
    ),
    location(
        5,
        "hil",
        ("Hillsboro, OR", "US", "us-west"),
        (45.54222, -122.951_924),
    ),
    location(
        6,
        "sin",
        ("Singapore", "SG", "ap-southeast"),
        (1.283_33, 103.83333),
    ),
];

fn is_named(wanted: &str, id: u64, name: &str) -> bool {
    wanted == name || wanted == id.to_string()
}

/// The server type with that id or name.
pub(super) fn server_type(wanted: &str) -> Option<&'static ServerType> {
    SERVER_TYPES
        .iter()
        .find(|it| is_named(wanted, it.id, it.name))
}

/// The image with that id or name, for that architecture.
pub(super) fn image_for(wanted: &str, architecture: &str) -> Option<&'static Image> {
    IMAGES
        .iter()
        .find(|it| is_named(wanted, it.id, it.name) && it.architecture == architecture)
}

/// The location with that id or name.
pub(super) fn location_named(wanted: &str) -> Option<&'static Location> {
    LOCATIONS.iter().find(|it| is_named(wanted, it.id, it.name))
}

/// The names of all locations.
pub(super) fn location_names() -> impl Iterator<Item = &'static str> {
    LOCATIONS.iter().map(|it| it.name)
}

/// A price as the vendor writes it.
pub(super) fn price(net: f64) -> Value {
    let gross = net * 1.19;
    json!({"net": format!("{net:.10}"), "gross": format!("{gross:.16}")})
}

/// Everything of that kind. `None`: there is no such kind.
pub(super) fn list(kind: &str) -> Option<Vec<Value>> {
    Some(match kind {
        "server_types" => SERVER_TYPES.iter().map(ServerType::to_json).collect(),
        "images" => IMAGES.iter().map(Image::to_json).collect(),
        "locations" => LOCATIONS.iter().map(Location::to_json).collect(),
        "ssh_keys" => vec![ssh_key()],
        "certificates" | "firewalls" | "isos" | "load_balancers" | "networks"
        | "placement_groups" => Vec::new(),
        _ => return None,
    })
}

/// The kind in the singular, as the answer about one of them calls it.
pub(super) fn singular(kind: &str) -> &str {
    kind.strip_suffix('s').unwrap_or(kind)
}

impl ServerType {
    pub(super) fn to_json(&self) -> Value {
        let prices: Vec<_> = LOCATIONS
            .iter()
            .map(|location| {
                json!({
                    "location": location.name,
                    "price_hourly": price(0.003 * f64::from(self.cores)),
                    "price_monthly": price(1.9 * f64::from(self.cores)),
                    "included_traffic": 21_990_232_555_520_u64,
                    "price_per_tb_traffic": price(1.0),
                })
            })
            .collect();
        let locations: Vec<_> = LOCATIONS
            .iter()
            .map(|location| {
                json!({
                    "id": location.id,
                    "name": location.name,
                    "deprecation": null,
                    "available": true,
                    "recommended": true,
                })
            })
            .collect();
        json!({
            "id": self.id,
            "name": self.name,
            "description": self.name.to_uppercase(),
            "cores": self.cores,
            "memory": f64::from(self.memory),
            "disk": self.disk,
            "deprecated": false,
            "deprecation": null,
            "prices": prices,
            "storage_type": "local",
            "cpu_type": if self.dedicated { "dedicated" } else { "shared" },
            "category": if self.dedicated { "general_purpose" } else { "cost_optimized" },
            "architecture": self.architecture,
            "locations": locations,
        })
    }
}

impl Image {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "type": "system",
            "status": "available",
            "name": self.name,
            "description": format!("{} {}", self.flavor, self.version),
            "image_size": null,
            "disk_size": 5.0,
            "created": "2025-01-15T11:34:45Z",
            "created_from": null,
            "bound_to": null,
            "os_flavor": self.flavor,
            "os_version": self.version,
            "rapid_deploy": true,
            "protection": {"delete": false},
            "deprecated": null,
            "deleted": null,
            "labels": {},
            "architecture": self.architecture,
        })
    }
}

impl Location {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": format!("{} DC Park 1", self.city),
            "country": self.country,
            "city": self.city,
            "latitude": self.latitude,
            "longitude": self.longitude,
            "network_zone": self.zone,
        })
    }
}

fn ssh_key() -> Value {
    json!({
        "id": 2_323,
        "name": "sim",
        "fingerprint": "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f",
        "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFdlIGFyZSBzaW11bGF0ZWQgYW5kIHRoYXQgaXM= sim",
        "labels": {},
        "created": "2025-01-15T11:34:45Z",
    })
}
