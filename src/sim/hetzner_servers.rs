//! What Hetzner does with servers: list, create, change, delete and switch them.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    catalogue, clock, cloud_init,
    exchange::{Answer, Request, Twist},
    hetzner_json as render,
    hetzner_problem::Problem,
    listing::Listing,
    paging,
    project::{Command, NewServer, Server},
    selector::{Labels, check_labels, is_host_name},
    snapshot::{Effect, SshAccess},
    tailnet::random_word,
    world::World,
};

/// A server as tests put it there: the smallest type, without anything special.
pub(super) fn plain_server(name: &str, labels: Labels) -> NewServer {
    let machine = catalogue::server_type("cx22").expect("the catalogue has cx22");
    NewServer {
        name: name.to_owned(),
        labels,
        machine,
        image: catalogue::image_for("ubuntu-24.04", machine.architecture)
            .expect("the catalogue has ubuntu-24.04"),
        location: catalogue::location_named("fsn1").expect("the catalogue has fsn1"),
        start: true,
        enrolment: None,
        ssh: SshAccess::default(),
    }
}

pub(super) fn find(world: &World, id: u64) -> Result<&Server, Problem> {
    world
        .project
        .server(id)
        .ok_or_else(|| Problem::not_found("server", id))
}

pub(super) fn list_servers(
    world: &World,
    request: &Request,
    twist: &Twist,
) -> Result<Answer, Problem> {
    let listing = Listing::read(request)?;
    let mut servers: Vec<&Server> = world
        .project
        .servers()
        .filter(|server| listing.picks(&server.name, &server.labels))
        .filter(|server| listing.allows("status", server.status.as_str()))
        .filter(|server| !twist.omits(&[&server.id.to_string(), &server.name]))
        .collect();
    // The last key sorts first, so that the first one has the last word.
    for order in listing.values("sort").rev() {
        sort_servers(&mut servers, order)?;
    }
    let now = clock::now();
    let total = servers.len();
    let shown = listing
        .page
        .cut(&servers)
        .iter()
        .map(|server| render::server(server, world.project.belongings(), now));
    Ok(paging::answer(
        "servers",
        &shown.collect::<Vec<_>>(),
        total,
        listing.page,
        request,
    ))
}

fn sort_servers(servers: &mut [&Server], order: &str) -> Result<(), Problem> {
    let (key, direction) = order.split_once(':').unwrap_or((order, "asc"));
    match key {
        "id" => servers.sort_by_key(|server| server.id),
        "name" => servers.sort_by(|a, b| a.name.cmp(&b.name)),
        "created" => servers.sort_by_key(|server| server.created),
        _ => return Err(Problem::invalid_input("sort", "unknown field")),
    }
    match direction {
        "asc" => Ok(()),
        "desc" => {
            servers.reverse();
            Ok(())
        }
        _ => Err(Problem::invalid_input("sort", "unknown direction")),
    }
}

/// The fields of `POST /servers` that matter here.
#[derive(Deserialize)]
struct CreateBody {
    name: String,
    server_type: Value,
    image: Value,
    #[serde(default)]
    location: Option<Value>,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(default)]
    user_data: Option<String>,
    #[serde(default)]
    start_after_create: Option<bool>,
    #[serde(default)]
    ssh_keys: Option<Vec<Value>>,
}

pub(super) fn create_server(
    world: &mut World,
    request: &Request,
    twist: &Twist,
) -> Result<Answer, Problem> {
    let body: CreateBody = read_body(request)?;
    check_name(&body.name)?;
    let labels = body.labels.unwrap_or_default();
    check_labels(&labels).map_err(|complaint| Problem::invalid_input("labels", &complaint))?;
    let user_data = body.user_data.unwrap_or_default();
    if user_data.len() > 32 * 1024 {
        return Err(Problem::invalid_input("user_data", "is too long"));
    }
    let machine = catalogue::server_type(&id_or_name(&body.server_type))
        .ok_or_else(|| Problem::invalid_input("server_type", "server type not found"))?;
    let image = catalogue::image_for(&id_or_name(&body.image), machine.architecture)
        .ok_or_else(|| Problem::invalid_input("image", "image not found for the architecture"))?;
    let location = body.location.as_ref().map_or("fsn1".to_owned(), id_or_name);
    let location = catalogue::location_named(&location)
        .ok_or_else(|| Problem::invalid_input("location", "location not found"))?;
    let keys = body.ssh_keys.unwrap_or_default();
    let known_keys = catalogue::list("ssh_keys").unwrap_or_default();
    let public_key = |key: &Value| {
        let known = known_keys
            .iter()
            .find(|it| it["id"] == *key || it["name"] == *key)?;
        known["public_key"].as_str().map(str::to_owned)
    };
    let public_keys: Option<Vec<String>> = keys.iter().map(public_key).collect();
    let Some(public_keys) = public_keys else {
        return Err(Problem::invalid_input("ssh_keys", "SSH key not found"));
    };
    if world.project.is_name_taken(&body.name) {
        return Err(Problem::taken_name());
    }
    if world.project.servers().count() >= world.options.server_limit {
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            "resource_limit_exceeded",
            "server limit exceeded",
        );
        return Err(problem.with_details(json!({"limits": [{"name": "server_limit"}]})));
    }
    let now = clock::now();
    let new = NewServer {
        name: body.name.clone(),
        labels: labels.clone(),
        machine,
        image,
        location,
        start: body.start_after_create.unwrap_or(true),
        enrolment: cloud_init::enrolment(&user_data, &body.name),
        ssh: cloud_init::ssh_access(&user_data, public_keys),
    };
    let (id, actions) = world.project.create(new, now);
    if let Some(lock_for) = twist.lock_for {
        world.project.lock(id, clock::later(now, lock_for));
    }
    if let Some(code) = &twist.action_error {
        world.project.doom(actions[0], code);
    }
    let rendered: Vec<Value> = actions
        .iter()
        .filter_map(|id| world.project.action(*id))
        .map(|action| render::action(action, now))
        .collect();
    let root_password = keys.is_empty().then(|| random_word(20));
    let answer = json!({
        "server": render::server(find(world, id)?, world.project.belongings(), now),
        "action": rendered[0],
        "next_actions": rendered[1..],
        "root_password": root_password,
    });
    let effect = Effect::ServerCreated {
        id,
        name: body.name,
        labels,
    };
    Ok(Answer::json(StatusCode::CREATED, answer).with_effect(effect))
}

#[derive(Deserialize)]
struct UpdateBody {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: Option<Labels>,
}

pub(super) fn update_server(
    world: &mut World,
    id: u64,
    request: &Request,
) -> Result<Answer, Problem> {
    let body: UpdateBody = read_body(request)?;
    let current = find(world, id)?.name.clone();
    if let Some(name) = &body.name {
        check_name(name)?;
        if *name != current && world.project.is_name_taken(name) {
            return Err(Problem::taken_name());
        }
    }
    if let Some(labels) = &body.labels {
        check_labels(labels).map_err(|complaint| Problem::invalid_input("labels", &complaint))?;
    }
    if let Some(server) = world.project.server_mut(id) {
        if let Some(name) = body.name {
            server.name = name;
        }
        if let Some(labels) = body.labels {
            server.labels = labels;
        }
    }
    let server = render::server(find(world, id)?, world.project.belongings(), clock::now());
    let answer = Answer::json(StatusCode::OK, json!({"server": server}));
    Ok(answer.with_effect(Effect::ServerChanged { id }))
}

pub(super) fn delete_server(world: &mut World, id: u64, twist: &Twist) -> Result<Answer, Problem> {
    let server = find(world, id)?;
    let effect = Effect::ServerDeleted {
        id,
        name: server.name.clone(),
        labels: server.labels.clone(),
    };
    let action = begin(world, id, Command::Delete, twist)?;
    Ok(Answer::json(StatusCode::OK, json!({"action": action})).with_effect(effect))
}

pub(super) fn start_action(
    world: &mut World,
    id: u64,
    command: Command,
    twist: &Twist,
) -> Result<Answer, Problem> {
    let action = begin(world, id, command, twist)?;
    let effect = Effect::ActionStarted {
        server: id,
        command: command.as_str().to_owned(),
    };
    Ok(Answer::json(StatusCode::CREATED, json!({"action": action})).with_effect(effect))
}

#[derive(Deserialize)]
struct ProtectionBody {
    #[serde(default)]
    delete: Option<bool>,
    #[serde(default)]
    rebuild: Option<bool>,
}

pub(super) fn change_protection(
    world: &mut World,
    id: u64,
    request: &Request,
    twist: &Twist,
) -> Result<Answer, Problem> {
    let body: ProtectionBody = read_body(request)?;
    let now = find(world, id)?.protected;
    let (delete, rebuild) = (body.delete.unwrap_or(now), body.rebuild.unwrap_or(now));
    if delete != rebuild {
        let complaint = "delete and rebuild protection need to have the same value";
        return Err(Problem::invalid_input("delete", complaint));
    }
    let command = if delete {
        Command::Protect
    } else {
        Command::Unprotect
    };
    start_action(world, id, command, twist)
}

/// Begins an action on a server that is neither locked nor protected against it.
fn begin(world: &mut World, id: u64, command: Command, twist: &Twist) -> Result<Value, Problem> {
    let now = clock::now();
    find(world, id)?;
    if let Some(lock_for) = twist.lock_for {
        world.project.lock(id, clock::later(now, lock_for));
    }
    find(world, id)?.check(command, now)?;
    let action = world.project.begin(id, command, now);
    if let Some(code) = &twist.action_error {
        world.project.doom(action, code);
    }
    let action = world.project.action(action);
    Ok(action.map_or(Value::Null, |action| render::action(action, now)))
}

fn check_name(name: &str) -> Result<(), Problem> {
    if is_host_name(name) {
        return Ok(());
    }
    Err(Problem::invalid_input("name", "is not a valid host name"))
}

/// The vendor takes an id as a number or a string, and a name.
pub(super) fn id_or_name(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn read_body<T: for<'de> Deserialize<'de>>(request: &Request) -> Result<T, Problem> {
    let value: Value = serde_json::from_slice(&request.body).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "json_error",
            "the request body is not valid JSON",
        )
    })?;
    serde_json::from_value(value)
        .map_err(|error| Problem::invalid_input("body", &error.to_string()))
}
