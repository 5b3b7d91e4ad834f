//! What Tailscale could say that is not so.

use serde_json::{Value, json};

use crate::harness::TAG;
use crate::liar::{End, Lie, Told, changed, made_up};
use crate::lies::Kind::{AuthKey, Device};
use crate::lies::Meanwhile::{Refused, Settled, Unsettled};
use crate::lies::{Bench, Line, World};

const DEVICES: &str = "/devices";
const KEYS: &str = "/keys";

fn devices(change: impl Fn(&mut Vec<Value>) + Send + Sync + 'static) -> Lie {
    changed("GET", DEVICES, move |_, told| {
        told.changed(|body| change(body["devices"].as_array_mut().unwrap()))
    })
}

fn keys(change: impl Fn(&mut Vec<Value>) + Send + Sync + 'static) -> Lie {
    changed("GET", KEYS, move |_, told| {
        told.changed(|body| change(body["keys"].as_array_mut().unwrap()))
    })
}

/// Somebody else's device is shown with these names.
fn other_is(world: &World, hostname: String, tags: Value) -> Vec<Lie> {
    let id = world.others.device.clone().unwrap();
    vec![devices(move |devices| {
        let other = devices.iter_mut().find(|it| it["nodeId"] == id.as_str());
        let other = other.unwrap();
        (other["hostname"], other["tags"]) = (json!(hostname), tags.clone());
    })]
}

fn without_our_device(world: &World) -> Lie {
    let id = world.device().to_owned();
    devices(move |devices| devices.retain(|it| it["nodeId"] != id.as_str()))
}

fn without_our_key(world: &World) -> Lie {
    let id = world.key().to_owned();
    keys(move |keys| keys.retain(|it| it["id"] != id.as_str()))
}

fn device_says(world: &World, told: Told) -> Vec<Lie> {
    let path = format!("/device/{}", world.device());
    vec![
        without_our_device(world),
        made_up("GET", &path, move |_| told.clone()),
    ]
}

fn key_says(world: &World, told: Told) -> Vec<Lie> {
    let path = format!("/keys/{}", world.key());
    vec![
        without_our_key(world),
        made_up("GET", &path, move |_| told.clone()),
    ]
}

fn answer(method: &'static str, path: &str, told: Told) -> Lie {
    made_up(method, path, move |_| told.clone())
}

fn deleting_device(world: &World, told: Told) -> Lie {
    answer("DELETE", &format!("/device/{}", world.device()), told)
}

fn deleting_key(world: &World, told: Told) -> Lie {
    answer("DELETE", &format!("/keys/{}", world.key()), told)
}

/// Lists as long as they are asked for again; from the first on, ours is not on them.
fn later_without_our_device(world: &World) -> Lie {
    let (id, lists) = (
        world.device().to_owned(),
        std::sync::atomic::AtomicUsize::new(0),
    );
    changed("GET", DEVICES, move |_, told| {
        if lists.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 1 {
            return told;
        }
        told.changed(|body| {
            let devices = body["devices"].as_array_mut().unwrap();
            devices.retain(|it| it["nodeId"] != id.as_str());
        })
    })
}

fn moved(world: &World, path: &str, status: u16) -> Vec<Lie> {
    let to = format!("{}/api/v2", world.elsewhere);
    vec![answer(
        "GET",
        path,
        Told::text(status, "").header("location", to),
    )]
}

fn own_device(world: &World, id: Value) -> Value {
    json!({"nodeId": id, "hostname": world.name(), "tags": [TAG]})
}

fn auth_key(id: &str, description: &str) -> Value {
    json!({
        "id": id, "keyType": "auth", "description": description,
        "capabilities": {"devices": {"create": {"tags": [TAG]}}},
    })
}

fn refusal() -> Value {
    json!({"message": "calling actor does not have enough permissions"})
}

const LINES: &[Line] = &[
    (
        "another's device has our host name and a longer tag",
        Device,
        |world| other_is(world, world.name().to_owned(), json!(["tag:agents"])),
        Settled,
    ),
    (
        "it has the tag in capitals",
        Device,
        |world| other_is(world, world.name().to_owned(), json!(["TAG:AGENT"])),
        Settled,
    ),
    (
        "it has the tag and our host name in capitals",
        Device,
        |world| other_is(world, world.name().to_uppercase(), json!([TAG])),
        Settled,
    ),
    (
        "it has the tag and our host name with letters that look alike",
        Device,
        |world| {
            other_is(
                world,
                world.name().replacen('a', "\u{430}", 1),
                json!([TAG]),
            )
        },
        Settled,
    ),
    (
        "it has the tag and our host name with a dot",
        Device,
        |world| other_is(world, format!("{}.", world.name()), json!([TAG])),
        Settled,
    ),
    (
        "it has the tag and our host name of a later attempt",
        Device,
        |world| other_is(world, format!("{}0", world.name()), json!([TAG])),
        Settled,
    ),
    (
        "our device answers as another",
        Device,
        |world| {
            let other = own_device(world, json!(world.others.device));
            device_says(world, Told::json(200, &other))
        },
        Unsettled("another device"),
    ),
    (
        "our device answers with another's name",
        Device,
        |world| {
            let other = json!({"nodeId": world.device(), "hostname": "laptop", "tags": [TAG]});
            device_says(world, Told::json(200, &other))
        },
        Refused("host name"),
    ),
    (
        "our device answers as shared in from elsewhere",
        Device,
        |world| {
            let mut other = own_device(world, json!(world.device()));
            other["isExternal"] = json!(true);
            device_says(world, Told::json(200, &other))
        },
        Refused("host name"),
    ),
    (
        "our device answers 200 with an error",
        Device,
        |world| device_says(world, Told::json(200, &refusal())),
        Unsettled("a success with an error"),
    ),
    (
        "our device answers 404 for the route",
        Device,
        |world| {
            device_says(
                world,
                Told::json(404, &json!({"message": "404 page not found"})),
            )
        },
        Unsettled("unexpected 404"),
    ),
    (
        "a device of ours has an id without an end",
        Device,
        |world| {
            let odd = own_device(world, json!("n".repeat(500_000)));
            vec![devices(move |devices| devices.push(odd.clone()))]
        },
        Unsettled("no device's id"),
    ),
    (
        "a device of ours has a mess for an id",
        Device,
        |world| {
            let id = format!("n\n2026 forged\u{1b}[31m{}/../x", "\u{202e}".repeat(100));
            let odd = own_device(world, json!(id));
            vec![devices(move |devices| devices.push(odd.clone()))]
        },
        Unsettled("no device's id"),
    ),
    (
        "a device's id is a number",
        Device,
        |world| {
            let odd = own_device(world, json!(42));
            vec![devices(move |devices| devices.push(odd.clone()))]
        },
        Unsettled("broken body"),
    ),
    (
        "a device has no id",
        Device,
        |world| {
            let odd = own_device(world, json!(null));
            vec![devices(move |devices| devices.push(odd.clone()))]
        },
        Unsettled("without an id"),
    ),
    (
        "our device is listed twice, once as another's",
        Device,
        |world| {
            let id = world.device().to_owned();
            vec![devices(move |devices| {
                devices.push(json!({"nodeId": id, "hostname": "laptop", "tags": [TAG]}));
            })]
        },
        Unsettled("contradicts itself"),
    ),
    (
        "another's device is listed twice, once as ours",
        Device,
        |world| {
            let odd = own_device(world, json!(world.others.device));
            vec![devices(move |devices| devices.push(odd.clone()))]
        },
        Unsettled("contradicts itself"),
    ),
    (
        "the devices are an error with 200",
        Device,
        |_| vec![answer("GET", DEVICES, Told::json(200, &refusal()))],
        Unsettled("broken body"),
    ),
    (
        "there are no devices, and an error",
        Device,
        |_| {
            let mut body = refusal();
            body["devices"] = json!([]);
            vec![answer("GET", DEVICES, Told::json(200, &body))]
        },
        Unsettled("an error"),
    ),
    (
        "the devices are a map",
        Device,
        |_| {
            vec![answer(
                "GET",
                DEVICES,
                Told::json(200, &json!({"devices": {}})),
            )]
        },
        Unsettled("broken body"),
    ),
    (
        "the devices are null",
        Device,
        |_| {
            vec![answer(
                "GET",
                DEVICES,
                Told::json(200, &json!({"devices": null})),
            )]
        },
        Unsettled("broken body"),
    ),
    (
        "the devices are a page of a proxy",
        Device,
        |_| {
            vec![answer(
                "GET",
                DEVICES,
                Told::text(200, "<html>login</html>"),
            )]
        },
        Unsettled("broken body"),
    ),
    (
        "the devices never end",
        Device,
        |_| {
            let told = Told::text(200, &" ".repeat(64 * 1024)).ending(End::Never);
            vec![answer("GET", DEVICES, told)]
        },
        Unsettled("more than"),
    ),
    (
        "the devices come a byte at a time",
        Device,
        |_| {
            let told = Told::text(200, &" ".repeat(10_000)).ending(End::Slowly);
            vec![answer("GET", DEVICES, told)]
        },
        Unsettled("timed out"),
    ),
    (
        "the devices move to another host, 301",
        Device,
        |it| moved(it, DEVICES, 301),
        Unsettled("a redirect"),
    ),
    (
        "the devices move to another host, 308",
        Device,
        |it| moved(it, DEVICES, 308),
        Unsettled("a redirect"),
    ),
    (
        "the device's delete is answered 200 with an error",
        Device,
        |world| vec![deleting_device(world, Told::json(200, &refusal()))],
        Unsettled("an error"),
    ),
    (
        "it is answered 200 with an error, and the list has lost it",
        Device,
        |world| {
            vec![
                deleting_device(world, Told::json(200, &refusal())),
                later_without_our_device(world),
            ]
        },
        Unsettled("an error"),
    ),
    (
        "it is answered 200, and the device is still there",
        Device,
        |world| vec![deleting_device(world, Told::text(200, "")), devices(|_| ())],
        Unsettled(""),
    ),
    (
        "it is answered 404, and the list shows it",
        Device,
        |world| {
            let told = Told::json(
                404,
                &json!({"message": "no manageable device matching this ID found"}),
            );
            vec![deleting_device(world, told)]
        },
        Unsettled("a moment ago it was there"),
    ),
    (
        "it moves to another host, 307",
        Device,
        |world| {
            let to = format!("{}/device", world.elsewhere);
            vec![deleting_device(
                world,
                Told::text(307, "").header("location", to),
            )]
        },
        Unsettled("a redirect"),
    ),
    (
        "our key answers as another",
        AuthKey,
        |world| {
            let other = auth_key(&world.others.key.clone().unwrap(), world.description());
            key_says(world, Told::json(200, &other))
        },
        Unsettled("another key"),
    ),
    (
        "our key answers with another's description",
        AuthKey,
        |world| {
            let other = auth_key(world.key(), "for people");
            key_says(world, Told::json(200, &other))
        },
        Refused("description"),
    ),
    (
        "our key answers 200 with an error",
        AuthKey,
        |world| key_says(world, Told::json(200, &refusal())),
        Unsettled("broken body"),
    ),
    (
        "an OAuth client has our key's description",
        AuthKey,
        |world| {
            let (id, description) = (
                world.others.key.clone().unwrap(),
                world.description().to_owned(),
            );
            vec![keys(move |keys| {
                let client = json!({"id": id, "keyType": "client", "description": description});
                keys.retain(|key| key["id"] != id.as_str());
                keys.push(client);
            })]
        },
        Settled,
    ),
    (
        "another's key has our description with a space",
        AuthKey,
        |world| {
            let (id, description) = (
                world.others.key.clone().unwrap(),
                format!("{} ", world.description()),
            );
            vec![keys(move |keys| {
                keys.retain(|key| key["id"] != id.as_str());
                keys.push(auth_key(&id, &description));
            })]
        },
        Settled,
    ),
    (
        "our key is listed twice, once as another's",
        AuthKey,
        |world| {
            let odd = auth_key(world.key(), "for people");
            vec![keys(move |keys| keys.push(odd.clone()))]
        },
        Unsettled("contradicts itself"),
    ),
    (
        "a key of ours has a path for an id",
        AuthKey,
        |world| {
            let odd = auth_key("../../device/x", world.description());
            vec![keys(move |keys| keys.push(odd.clone()))]
        },
        Unsettled("no auth_key's id"),
    ),
    (
        "there are no keys, and an error",
        AuthKey,
        |_| {
            let mut body = refusal();
            body["keys"] = json!([]);
            vec![answer("GET", KEYS, Told::json(200, &body))]
        },
        Unsettled("an error"),
    ),
    (
        "the keys move to another host, 302",
        AuthKey,
        |it| moved(it, KEYS, 302),
        Unsettled("a redirect"),
    ),
    (
        "the key's delete is answered 200 with an error",
        AuthKey,
        |world| vec![deleting_key(world, Told::json(200, &refusal()))],
        Unsettled("an error"),
    ),
    (
        "it moves to another host, 308",
        AuthKey,
        |world| {
            let to = format!("{}/keys", world.elsewhere);
            vec![deleting_key(
                world,
                Told::text(308, "").header("location", to),
            )]
        },
        Unsettled("a redirect"),
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_of_tailscale_deletes_what_is_not_ours_or_leaves_what_is() {
    Bench::start().await.go_through(LINES).await;
}
