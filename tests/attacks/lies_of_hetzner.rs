//! What Hetzner could say that is not so.

use serde_json::{Value, json};

use crate::liar::{End, Lie, Told, changed, made_up};
use crate::lies::Kind::Server;
use crate::lies::Meanwhile::{Refused, Settled, Unsettled};
use crate::lies::{Bench, Line, World, own_labels};

const LIST: &str = "/v1/servers";

/// The list with other servers on it; its count agrees.
fn listed(change: impl Fn(&mut Vec<Value>) + Send + Sync + 'static) -> Lie {
    changed("GET", LIST, move |_, told| {
        told.changed(|body| {
            let servers = body["servers"].as_array_mut().unwrap();
            change(servers);
            let count = servers.len();
            body["meta"]["pagination"]["total_entries"] = json!(count);
        })
    })
}

/// The list with other pages; nobody counts.
fn paged(next: impl Fn(u64) -> Option<u64> + Send + Sync + 'static) -> Lie {
    changed("GET", LIST, move |asked, told| {
        let page = asked.number("page");
        told.changed(|body| {
            body["meta"]["pagination"] =
                json!({"page": page, "next_page": next(page), "total_entries": null});
        })
    })
}

fn list_says(status: u16, body: Value) -> Vec<Lie> {
    vec![made_up("GET", LIST, move |_| Told::json(status, &body))]
}

fn list_is(told: Told) -> Vec<Lie> {
    vec![made_up("GET", LIST, move |_| told.clone())]
}

fn without_ours(world: &World) -> Lie {
    let id = world.server();
    listed(move |servers| servers.retain(|server| server["id"] != id))
}

fn server(id: impl Into<Value>, labels: Value) -> Value {
    json!({"id": id.into(), "name": "any", "labels": labels, "status": "running"})
}

/// The server's own answer, while the list does not show it.
fn one_says(world: &World, told: Told) -> Vec<Lie> {
    let path = format!("/servers/{}", world.server());
    vec![
        without_ours(world),
        made_up("GET", &path, move |_| told.clone()),
    ]
}

fn deleting_says(world: &World, told: Told) -> Lie {
    let path = format!("/servers/{}", world.server());
    made_up("DELETE", &path, move |_| told.clone())
}

/// An action that is nobody's in truth.
fn action(of: u64, command: &str, status: &str) -> Value {
    json!({
        "id": 987_654, "command": command, "status": status, "progress": 0, "error": null,
        "resources": [{"id": of, "type": "server"}],
    })
}

fn delete_of(server: u64) -> Told {
    Told::json(
        200,
        &json!({"action": action(server, "delete_server", "running")}),
    )
}

fn actions_say(action: &Value) -> Lie {
    let body = json!({"actions": [action]});
    made_up("GET", "/v1/actions", move |_| Told::json(200, &body))
}

fn error(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "details": null}})
}

/// What would make a mess of a log or a terminal, and holds a secret.
fn mess(world: &World) -> String {
    format!(
        "no {}\n2026-01-01T00:00:00Z  INFO backstop: forged\r\u{1b}[31m\u{202e}{}",
        world.token,
        "x".repeat(10_000),
    )
}

const LINES: &[Line] = &[
    (
        "the list shows somebody else's server as well",
        Server,
        |world| {
            let other = world.others.server;
            vec![listed(move |servers| {
                servers.push(server(other, json!({"team": "finance"})));
            })]
        },
        Settled,
    ),
    (
        "it shows one with four of our five labels",
        Server,
        |world| {
            let (other, mut labels) = (world.others.server, own_labels(world));
            labels.as_object_mut().unwrap().remove("backstop-run");
            vec![listed(move |servers| {
                servers.push(server(other, labels.clone()));
            })]
        },
        Settled,
    ),
    (
        "it shows one with our labels in another case",
        Server,
        |world| {
            let (other, labels) = (world.others.server, own_labels(world));
            let labels: Value = serde_json::from_str(&labels.to_string().to_uppercase()).unwrap();
            vec![listed(move |servers| {
                servers.push(server(other, labels.clone()));
            })]
        },
        Settled,
    ),
    (
        "our id answers with another server",
        Server,
        |world| {
            let told = json!({"server": server(world.others.server, json!({"team": "finance"}))});
            one_says(world, Told::json(200, &told))
        },
        Unsettled("another server"),
    ),
    (
        "our id answers with our labels and another id",
        Server,
        |world| {
            let told = json!({"server": server(world.others.server, own_labels(world))});
            one_says(world, Told::json(200, &told))
        },
        Unsettled("another server"),
    ),
    (
        "our id answers with another's labels",
        Server,
        |world| {
            let told = json!({"server": server(world.server(), json!({"team": "finance"}))});
            one_says(world, Told::json(200, &told))
        },
        Refused("five labels"),
    ),
    (
        "our id answers 200 with an error",
        Server,
        |world| {
            one_says(
                world,
                Told::json(200, &error("not_found", "server not found")),
            )
        },
        Unsettled("broken body"),
    ),
    (
        "our id answers with our server and an error",
        Server,
        |world| {
            let mut told = error("unavailable", "later");
            told["server"] = server(world.server(), json!({}));
            one_says(world, Told::json(200, &told))
        },
        Unsettled("an error"),
    ),
    (
        "our id answers 404 for the route",
        Server,
        |world| {
            one_says(
                world,
                Told::json(404, &error("not_found", "api route not found")),
            )
        },
        Unsettled("unexpected 404"),
    ),
    (
        "the list repeats its page for ever",
        Server,
        |_| vec![paged(|page| Some(page + 1))],
        Unsettled("repeats itself"),
    ),
    (
        "the list begins again and again",
        Server,
        |_| vec![paged(|_| Some(1))],
        Unsettled("repeats itself"),
    ),
    (
        "the list goes down",
        Server,
        |_| vec![paged(|page| Some(page.saturating_sub(1)))],
        Unsettled("repeats itself"),
    ),
    (
        "the list never ends, and always has another",
        Server,
        |_| {
            vec![made_up("GET", LIST, |asked| {
                let page = asked.number("page");
                let next = json!({"page": page, "next_page": page + 1, "total_entries": null});
                let servers = json!([server(1_000_000 + page, json!({}))]);
                Told::json(
                    200,
                    &json!({"servers": servers, "meta": {"pagination": next}}),
                )
            })]
        },
        Unsettled("never ends"),
    ),
    (
        "a page has more than was asked for",
        Server,
        |_| {
            vec![listed(|servers| {
                servers.extend((1..=60_u64).map(|id| server(1_000_000 + id, json!({}))));
            })]
        },
        Unsettled("more than was asked for"),
    ),
    (
        "the list has our server twice",
        Server,
        |world| {
            let id = world.server();
            vec![listed(move |servers| {
                let again = servers.iter().find(|server| server["id"] == id).cloned();
                servers.extend(again);
            })]
        },
        Unsettled("does not add up"),
    ),
    (
        "it has our server twice, once as somebody else's",
        Server,
        |world| {
            let id = world.server();
            vec![changed("GET", LIST, move |_, told| {
                told.changed(|body| {
                    body["meta"]["pagination"]["total_entries"] = Value::Null;
                    let servers = body["servers"].as_array_mut().unwrap();
                    servers.push(server(id, json!({"team": "finance"})));
                })
            })]
        },
        Unsettled("contradicts itself"),
    ),
    (
        "it has somebody else's server twice, once as ours",
        Server,
        |world| {
            let (other, own) = (world.others.server, own_labels(world));
            vec![changed("GET", LIST, move |_, told| {
                told.changed(|body| {
                    body["meta"]["pagination"]["total_entries"] = Value::Null;
                    let servers = body["servers"].as_array_mut().unwrap();
                    servers.push(server(other, json!({"team": "finance"})));
                    servers.push(server(other, own.clone()));
                })
            })]
        },
        Unsettled("contradicts itself"),
    ),
    (
        "an id is a text",
        Server,
        |_| vec![listed(|servers| servers.push(server("42", json!({}))))],
        Unsettled("no list of servers"),
    ),
    (
        "an id is negative",
        Server,
        |_| vec![listed(|servers| servers.push(server(-42, json!({}))))],
        Unsettled("no list of servers"),
    ),
    (
        "an id is a fraction",
        Server,
        |_| vec![listed(|servers| servers.push(server(42.5, json!({}))))],
        Unsettled("no list of servers"),
    ),
    (
        "an id is too large for an id",
        Server,
        |world| {
            let own = own_labels(world);
            vec![listed(move |servers| {
                servers.push(server(u64::MAX, own.clone()));
            })]
        },
        Unsettled("no server's id"),
    ),
    (
        "an id is nought",
        Server,
        |world| {
            let own = own_labels(world);
            vec![listed(move |servers| servers.push(server(0, own.clone())))]
        },
        Unsettled("no server's id"),
    ),
    (
        "the list is an error with 200",
        Server,
        |_| list_says(200, error("unavailable", "later")),
        Unsettled("broken body"),
    ),
    (
        "the list is empty and an error",
        Server,
        |_| {
            let mut body = error("unavailable", "later");
            body["servers"] = json!([]);
            body["meta"] =
                json!({"pagination": {"page": 1, "next_page": null, "total_entries": 0}});
            list_says(200, body)
        },
        Unsettled("an error"),
    ),
    (
        "the list is an empty object",
        Server,
        |_| list_says(200, json!({})),
        Unsettled("broken body"),
    ),
    (
        "the list is null",
        Server,
        |_| list_says(200, json!(null)),
        Unsettled("broken body"),
    ),
    (
        "the list is a bare array",
        Server,
        |_| list_says(200, json!([])),
        Unsettled("broken body"),
    ),
    (
        "the list is a page of a proxy",
        Server,
        |_| list_is(Told::text(200, "<html>login</html>")),
        Unsettled("broken body"),
    ),
    (
        "the list is nothing",
        Server,
        |_| list_is(Told::text(204, "")),
        Unsettled("broken body"),
    ),
    (
        "the list is 17 MiB",
        Server,
        |_| list_is(Told::text(200, &" ".repeat(17 * 1024 * 1024))),
        Unsettled("more than"),
    ),
    (
        "the list's body never ends",
        Server,
        |_| list_is(Told::text(200, &" ".repeat(64 * 1024)).ending(End::Never)),
        Unsettled("more than"),
    ),
    (
        "the list comes a byte at a time",
        Server,
        |_| list_is(Told::text(200, &" ".repeat(10_000)).ending(End::Slowly)),
        Unsettled("timed out"),
    ),
    (
        "the list is compressed, though nobody asked for that",
        Server,
        |_| list_is(Told::text(200, "\u{1f}\u{8b}").header("content-encoding", "gzip")),
        Unsettled("broken body"),
    ),
    (
        "the list says where to go on",
        Server,
        |world| {
            let next = format!("{}/v1/servers?page=2", world.elsewhere);
            vec![changed("GET", LIST, move |_, told| {
                told.header("link", format!("<{next}>; rel=\"next\""))
                    .header("location", &next)
                    .header("content-location", &next)
                    .header("refresh", format!("0; url={next}"))
                    .changed(|body| {
                        body["next"] = json!(next);
                        body["meta"]["pagination"]["next"] = json!(next);
                    })
            })]
        },
        Settled,
    ),
    (
        "the delete starts an action of somebody else's server",
        Server,
        |world| vec![deleting_says(world, delete_of(world.others.server))],
        Unsettled("no delete of this server"),
    ),
    (
        "it starts one of somebody else's, which ends well, and the list has lost ours",
        Server,
        |world| {
            vec![
                deleting_says(world, delete_of(world.others.server)),
                actions_say(&action(world.others.server, "delete_server", "success")),
                without_ours_once_deleted(world),
            ]
        },
        Unsettled("no delete of this server"),
    ),
    (
        "it starts another action than a delete",
        Server,
        |world| {
            let told = json!({"action": action(world.server(), "poweroff", "running")});
            vec![deleting_says(world, Told::json(200, &told))]
        },
        Unsettled("no delete"),
    ),
    (
        "its action turns out to be somebody else's",
        Server,
        |world| {
            vec![
                deleting_says(world, delete_of(world.server())),
                actions_say(&action(world.others.server, "delete_server", "success")),
                without_ours_once_deleted(world),
            ]
        },
        Unsettled(""),
    ),
    (
        "its action ends well, and the server is still there",
        Server,
        |world| {
            vec![
                deleting_says(world, delete_of(world.server())),
                actions_say(&action(world.server(), "delete_server", "success")),
            ]
        },
        Unsettled(""),
    ),
    (
        "the actions are others than were asked after",
        Server,
        |world| {
            let mut other = action(world.server(), "delete_server", "success");
            other["id"] = json!(1);
            vec![
                deleting_says(world, delete_of(world.server())),
                actions_say(&other),
            ]
        },
        Unsettled(""),
    ),
    (
        "the delete is answered 200 with an error",
        Server,
        |world| {
            vec![deleting_says(
                world,
                Told::json(200, &error("locked", "later")),
            )]
        },
        Unsettled("broken body"),
    ),
    (
        "the delete is answered with an action and an error",
        Server,
        |world| {
            let mut told = error("locked", "later");
            told["action"] = action(world.server(), "delete_server", "running");
            vec![deleting_says(world, Told::json(200, &told))]
        },
        Unsettled("an error"),
    ),
    (
        "the delete is answered 404, and the list shows it",
        Server,
        |world| {
            let told = Told::json(404, &error("not_found", "server not found"));
            vec![deleting_says(world, told)]
        },
        Unsettled("a moment ago it was there"),
    ),
    (
        "the list moves to another host, 301",
        Server,
        |world| moved(world, 301),
        Unsettled("a redirect"),
    ),
    (
        "the list moves to another host, 302",
        Server,
        |world| moved(world, 302),
        Unsettled("a redirect"),
    ),
    (
        "the list moves to another host, 303",
        Server,
        |world| moved(world, 303),
        Unsettled("a redirect"),
    ),
    (
        "the list moves to another host, 307",
        Server,
        |world| moved(world, 307),
        Unsettled("a redirect"),
    ),
    (
        "the list moves to another host, 308",
        Server,
        |world| moved(world, 308),
        Unsettled("a redirect"),
    ),
    (
        "the delete moves to another host, 307",
        Server,
        |world| {
            let to = format!("{}/v1/servers/{}", world.elsewhere, world.server());
            vec![deleting_says(
                world,
                Told::text(307, "").header("location", to),
            )]
        },
        Unsettled("a redirect"),
    ),
    (
        "a refusal shows our token as its code",
        Server,
        |world| {
            vec![deleting_says(
                world,
                Told::json(422, &error(&world.token, "")),
            )]
        },
        Unsettled("422"),
    ),
    (
        "a refusal has a mess for a message",
        Server,
        |world| {
            vec![deleting_says(
                world,
                Told::json(422, &error("odd", &mess(world))),
            )]
        },
        Unsettled("422 odd"),
    ),
    (
        "a refusal has a mess for a code",
        Server,
        |world| {
            vec![deleting_says(
                world,
                Told::json(422, &error(&mess(world), "")),
            )]
        },
        Unsettled("422"),
    ),
    (
        "an action fails with a mess",
        Server,
        |world| {
            let mut failed = action(world.server(), "delete_server", "error");
            failed["error"] = json!({"code": mess(world), "message": mess(world)});
            vec![
                deleting_says(world, delete_of(world.server())),
                actions_say(&failed),
            ]
        },
        Unsettled("ended in error"),
    ),
    (
        "an action has a mess for a status",
        Server,
        |world| {
            let odd = action(world.server(), "delete_server", &mess(world));
            vec![
                deleting_says(world, delete_of(world.server())),
                actions_say(&odd),
            ]
        },
        Unsettled("ended in error"),
    ),
    (
        "an action's id is the largest",
        Server,
        |world| {
            let mut odd = action(world.server(), "delete_server", "running");
            odd["id"] = json!(u64::MAX);
            vec![deleting_says(
                world,
                Told::json(200, &json!({"action": odd})),
            )]
        },
        Unsettled(""),
    ),
    (
        "the rate limit is nought, for ever",
        Server,
        |_| vec![rate_is("0", "0", "9223372036854775807")],
        Settled,
    ),
    (
        "the rate limit is as large as numbers get",
        Server,
        |_| {
            vec![rate_is(
                "18446744073709551615",
                "18446744073709551615",
                "-9223372036854775808",
            )]
        },
        Settled,
    ),
    (
        "the vendor's clock is in another century",
        Server,
        |_| {
            vec![changed("GET", LIST, |_, told| {
                let mut told = told;
                told.headers.retain(|(name, _)| *name != "date");
                told.header("date", "Fri, 31 Dec 9999 23:59:59 GMT")
            })]
        },
        Settled,
    ),
    (
        "too many requests, and wait for ever",
        Server,
        |_| {
            let told = Told::json(429, &error("rate_limit_exceeded", "limit"));
            list_is(told.header("retry-after", u64::MAX))
        },
        Unsettled("429"),
    ),
    (
        "a header without an end",
        Server,
        |_| list_is(Told::text(200, "{}").header("x-odd", "x".repeat(2_000_000))),
        Unsettled("connection broke"),
    ),
];

fn moved(world: &World, status: u16) -> Vec<Lie> {
    let to = format!("{}/v1/servers", world.elsewhere);
    list_is(Told::text(status, "").header("location", to))
}

fn rate_is(limit: &'static str, remaining: &'static str, reset: &'static str) -> Lie {
    changed("GET", LIST, move |_, told| {
        let mut told = told;
        told.headers
            .retain(|(name, _)| !name.starts_with("ratelimit"));
        told.header("ratelimit-limit", limit)
            .header("ratelimit-remaining", remaining)
            .header("ratelimit-reset", reset)
    })
}

/// The first list shows it, so that it is deleted; no later one does.
fn without_ours_once_deleted(world: &World) -> Lie {
    let (id, lists) = (world.server(), std::sync::atomic::AtomicUsize::new(0));
    changed("GET", LIST, move |_, told| {
        // The search and the id look together.
        if lists.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 1 {
            return told;
        }
        told.changed(|body| {
            let servers = body["servers"].as_array_mut().unwrap();
            servers.retain(|server| server["id"] != id);
            let count = servers.len();
            body["meta"]["pagination"]["total_entries"] = json!(count);
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_of_hetzner_deletes_what_is_not_ours_or_leaves_what_is() {
    Bench::start().await.go_through(LINES).await;
}
