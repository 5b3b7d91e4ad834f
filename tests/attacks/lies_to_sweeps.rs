//! What the lists of a sweep could say that is not so. A sweep sends no DELETE by itself; what it
//! hands over goes by the checks of every rollback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::domain::orphans::Mandate;
use backstop::sweep::{Vendors, sweep};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{PATIENCE, Run, TAG, labels};
use crate::liar::{End, Lie, Told, changed, made_up};
use crate::lies::{Bench, no_text_is_odd};
use crate::tables::logged;

/// What was made late, of a provision whose rollback is done, and what is somebody else's.
struct Scene {
    id: Uuid,
    late: u64,
    late_device: String,
    labels: Value,
    other: u64,
    other_device: String,
    elsewhere: String,
    token: String,
}

/// A line: its name, what is told, and what the sweep says of it, if anything.
type Line = (&'static str, fn(&Scene) -> Vec<Lie>, &'static str);

fn listed(kind: &'static str, change: impl Fn(&mut Vec<Value>) + Send + Sync + 'static) -> Lie {
    let path = match kind {
        "servers" => "/v1/servers",
        "volumes" => "/v1/volumes",
        _ => "/v1/primary_ips",
    };
    changed("GET", path, move |_, told| {
        told.changed(|body| {
            change(body[kind].as_array_mut().unwrap());
            body["meta"]["pagination"]["total_entries"] = Value::Null;
        })
    })
}

fn answer(path: &str, told: Told) -> Vec<Lie> {
    vec![made_up("GET", path, move |_| told.clone())]
}

fn server(id: impl Into<Value>, labels: &Value) -> Value {
    json!({"id": id.into(), "name": "any", "labels": labels, "created": "2026-01-01T00:00:00Z"})
}

fn mess(scene: &Scene) -> String {
    format!(
        "<img src=x>\n2026 forged\u{1b}[31m\u{202e}{}{}",
        scene.token,
        "x".repeat(1_000_000)
    )
}

fn moved(scene: &Scene, path: &str) -> Vec<Lie> {
    let to = format!("{}{path}", scene.elsewhere);
    answer(path, Told::text(307, "").header("location", to))
}

fn empty(kind: &str) -> Value {
    json!({
        kind: [], "error": {"code": "unavailable", "message": "later"},
        "meta": {"pagination": {"page": 1, "next_page": null, "total_entries": 0}},
    })
}

const LINES: &[Line] = &[
    (
        "somebody else's server",
        |scene| {
            let other = server(scene.other, &json!({"team": "finance"}));
            vec![listed("servers", move |all| all.push(other.clone()))]
        },
        "",
    ),
    (
        "somebody else's server with four of our labels",
        |scene| {
            let mut labels = scene.labels.clone();
            labels.as_object_mut().unwrap().remove("backstop-attempt");
            let other = server(scene.other, &labels);
            vec![listed("servers", move |all| all.push(other.clone()))]
        },
        "",
    ),
    (
        "somebody else's server with another controller's id",
        |scene| {
            let mut labels = scene.labels.clone();
            labels["backstop-controller"] = json!(Uuid::new_v4());
            let other = server(scene.other, &labels);
            vec![listed("servers", move |all| all.push(other.clone()))]
        },
        "",
    ),
    (
        "somebody else's server twice, once as ours",
        |scene| {
            let (other, own) = (scene.other, scene.labels.clone());
            vec![listed("servers", move |all| {
                all.push(server(other, &json!({"team": "finance"})));
                all.push(server(other, &own));
            })]
        },
        "contradicts itself",
    ),
    (
        "a server whose name is a mess",
        |scene| {
            let mut labels = scene.labels.clone();
            labels.as_object_mut().unwrap().remove("backstop-attempt");
            let mut odd = server(scene.other, &labels);
            odd["name"] = json!(mess(scene));
            vec![listed("servers", move |all| all.push(odd.clone()))]
        },
        "",
    ),
    (
        "a server whose id is none and whose name is a mess",
        |scene| {
            let mut odd = server(u64::MAX, &scene.labels);
            odd["name"] = json!(mess(scene));
            vec![listed("servers", move |all| all.push(odd.clone()))]
        },
        "",
    ),
    (
        "a server with a negative id",
        |scene| {
            let odd = server(-1, &scene.labels);
            vec![listed("servers", move |all| all.push(odd.clone()))]
        },
        "no list of servers",
    ),
    (
        "a page with more than was asked for",
        |_| {
            vec![listed("servers", |all| {
                all.extend((1..=60_u64).map(|id| server(1_000_000 + id, &json!({}))));
            })]
        },
        "more than was asked for",
    ),
    (
        "no servers, and an error",
        |_| answer("/v1/servers", Told::json(200, &empty("servers"))),
        "an error",
    ),
    (
        "no volumes, and an error",
        |_| answer("/v1/volumes", Told::json(200, &empty("volumes"))),
        "an error",
    ),
    (
        "a list without an end",
        |_| {
            let told = Told::text(200, &" ".repeat(64 * 1024)).ending(End::Never);
            answer("/v1/servers", told)
        },
        "more than",
    ),
    (
        "servers elsewhere",
        |scene| moved(scene, "/v1/servers"),
        "a redirect",
    ),
    (
        "volumes elsewhere",
        |scene| moved(scene, "/v1/volumes"),
        "a redirect",
    ),
    (
        "primary IPs elsewhere",
        |scene| moved(scene, "/v1/primary_ips"),
        "a redirect",
    ),
    (
        "floating IPs elsewhere",
        |scene| moved(scene, "/v1/floating_ips"),
        "a redirect",
    ),
    (
        "devices elsewhere",
        |scene| moved(scene, "/devices"),
        "a redirect",
    ),
    (
        "keys elsewhere",
        |scene| moved(scene, "/keys"),
        "a redirect",
    ),
    ("prices elsewhere", |scene| moved(scene, "/v1/pricing"), ""),
    (
        "prices that are a mess",
        |scene| {
            let mess = mess(scene);
            let body = json!({"pricing": {
                "currency": mess, "server_types": [
                    {"name": mess, "prices": [{"location": mess, "price_hourly": {"net": "1e999"}}]},
                    {"name": "cx22", "prices": [{"location": "fsn1", "price_hourly": {"net": "-5"}}]},
                    {"name": "cx23", "prices": [{"location": "fsn1", "price_hourly": {"net": "NaN"}}]},
                ],
            }});
            answer("/v1/pricing", Told::json(200, &body))
        },
        "",
    ),
    (
        "another's device with our host name and a longer tag",
        |scene| {
            let id = scene.other_device.clone();
            let late = scene.late_device.clone();
            vec![changed("GET", "/devices", move |_, told| {
                told.changed(|body| {
                    let devices = body["devices"].as_array_mut().unwrap();
                    let name = devices.iter().find(|it| it["nodeId"] == late.as_str());
                    let name = name.map_or(json!("any"), |it| it["hostname"].clone());
                    let other = devices
                        .iter_mut()
                        .find(|it| it["nodeId"] == id.as_str())
                        .unwrap();
                    (other["hostname"], other["tags"]) = (name, json!(["tag:agents"]));
                })
            })]
        },
        "",
    ),
    (
        "no devices, and an error",
        |_| {
            answer(
                "/devices",
                Told::json(200, &json!({"devices": [], "message": "later"})),
            )
        },
        "an error",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_to_a_sweep_deletes_what_is_not_ours_or_leaves_what_is() {
    let bench = Bench::start().await;
    let vendors = bench.vendors().await;
    let mut failures = Vec::new();
    for (name, lies, said) in LINES {
        if let Err(problem) = try_out(&bench, &vendors, *lies, said).await {
            failures.push(format!("{name}: {problem}"));
        }
    }
    let (count, all) = (failures.len(), LINES.len());
    assert!(count == 0, "{count} of {all}:\n{}", failures.join("\n"));
}

async fn try_out(
    bench: &Bench,
    vendors: &Vendors,
    lies: fn(&Scene) -> Vec<Lie>,
    said: &str,
) -> Result<(), String> {
    let (service, liar) = (&bench.service, &bench.liar);
    let scene = scene(bench).await;
    let deleted_before = liar.asked_to_delete().len();
    let logged_before = logged().len();
    liar.tell(lies(&scene));
    let begun = service.begin_sweep().await;
    let swept = Box::pin(sweep(service.app.pool(), vendors, &begun, Mandate::Delete)).await;
    let errors = swept.unwrap().findings.errors;
    if said.is_empty() != errors.is_empty() || !errors.join(" ").contains(said) {
        return Err(format!("the sweep said {errors:?}"));
    }
    // What it handed over is looked at while the lie is still told.
    service.advance(Duration::ZERO).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    while Instant::now() < deadline {
        service.advance(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let orphans = service.orphans().await;
    no_text_is_odd(&orphans)?;

    liar.tell(Vec::new());
    let deadline = Instant::now() + PATIENCE;
    let is_there = || {
        let devices = service.sim.devices();
        devices.iter().any(|it| it.node_id == scene.late_device)
            || service.sim.servers().iter().any(|it| it.id == scene.late)
    };
    while is_there() {
        if Instant::now() > deadline {
            return Err(format!("left it: {:#}", service.provision(scene.id).await));
        }
        let begun = service.begin_sweep().await;
        Box::pin(sweep(service.app.pool(), vendors, &begun, Mandate::Delete))
            .await
            .unwrap();
        service.advance(Duration::from_secs(10)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ours = [scene.late.to_string(), scene.late_device.clone()];
    let asked = liar.asked_to_delete().split_off(deleted_before);
    if asked.iter().any(|id| !ours.contains(id)) {
        return Err(format!(
            "asked to delete {asked:?}, of which ours are {ours:?}"
        ));
    }
    let others_live = service.sim.servers().iter().any(|it| it.id == scene.other)
        && service
            .sim
            .devices()
            .iter()
            .any(|it| it.node_id == scene.other_device);
    if !others_live {
        return Err("somebody else's is gone".to_owned());
    }
    let shown = json!([
        service.provision(scene.id).await,
        service.events(scene.id).await
    ]);
    no_text_is_odd(&shown)?;
    bench.nothing_leaked(&format!("{shown} {orphans}"), logged_before)
}

async fn scene(bench: &Bench) -> Scene {
    let service = &bench.service;
    let (id, run) = (Uuid::new_v4(), Run(100, 1));
    let started = service.started(id, run).await;
    let nothing = json!({"may_exist": []});
    service.callback("failure", id, run, nothing).await;
    service.settled(id).await;
    let name = started["server_name"].as_str().unwrap();
    let own: serde_json::Map<_, _> = labels(&started)
        .into_iter()
        .map(|(key, value)| (key, json!(value)))
        .collect();
    let sim = &service.sim;
    Scene {
        id,
        late: sim.add_server(name, labels(&started)),
        late_device: sim.add_device(name, &[TAG]),
        labels: own.into(),
        other: sim.add_server(&format!("finance-{}", id.simple()), [("team", "finance")]),
        other_device: sim.add_device("laptop", &["tag:people"]),
        elsewhere: bench.elsewhere.url.clone(),
        token: bench.token(),
    }
}

impl Bench {
    /// The vendors as a sweep reaches them.
    async fn vendors(&self) -> Vendors {
        let (hetzner, tailscale) = self.liar.clients(self.options());
        Vendors {
            hetzner: Arc::new(hetzner),
            tailscale: Some((Arc::new(tailscale), TAG.to_owned())),
            controller: self.service.vendors().await.controller,
        }
    }
}
