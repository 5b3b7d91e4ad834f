//! Tailscale's API: tokens, devices and auth keys.
//!
//! Errors are only a message; whoever calls has nothing but the status to go by.
//! See <https://tailscale.com/api>.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    clock::{self, later, stamp},
    emptiness::Emptiness,
    exchange::{Answer, Request, Twist, pairs},
    options::Permission,
    snapshot::Effect,
    tailnet::{self, Device, Key, NewKey},
    world::World,
};

/// An error: a status and the vendor's message.
struct Problem(StatusCode, &'static str);

const INVALID_TOKEN: Problem = Problem(StatusCode::UNAUTHORIZED, "API token invalid");
const NOT_PERMITTED: Problem = Problem(
    StatusCode::FORBIDDEN,
    "calling actor does not have enough permissions to perform this function",
);
const UNKNOWN_PATH: Problem = Problem(StatusCode::NOT_FOUND, "404 page not found");
const NO_TAILNET: Problem = Problem(StatusCode::NOT_FOUND, "tailnet not found");
const NO_DEVICE: Problem = Problem(
    StatusCode::NOT_FOUND,
    "no manageable device matching this ID found",
);
const NO_KEY: Problem = Problem(StatusCode::NOT_FOUND, "key not found");

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A user, by an API access token.
    User,
    /// The OAuth client, by a token that it was issued.
    OauthClient,
}

/// A request that exists.
enum Route<'a> {
    IssueToken,
    ListDevices(&'a str),
    GetDevice(&'a str),
    DeleteDevice(&'a str),
    ListKeys(&'a str),
    MintKey(&'a str),
    GetKey(&'a str, &'a str),
    RevokeKey(&'a str, &'a str),
}

fn route<'a>(method: &Method, segments: &[&'a str]) -> Option<Route<'a>> {
    Some(match (method.as_str(), segments) {
        ("POST", ["oauth", "token"]) => Route::IssueToken,
        ("GET", ["tailnet", tailnet, "devices"]) => Route::ListDevices(tailnet),
        ("GET", ["device", id]) => Route::GetDevice(id),
        ("DELETE", ["device", id]) => Route::DeleteDevice(id),
        ("GET", ["tailnet", tailnet, "keys"]) => Route::ListKeys(tailnet),
        ("POST", ["tailnet", tailnet, "keys"]) => Route::MintKey(tailnet),
        ("GET", ["tailnet", tailnet, "keys", id]) => Route::GetKey(tailnet, id),
        ("DELETE", ["tailnet", tailnet, "keys", id]) => Route::RevokeKey(tailnet, id),
        _ => return None,
    })
}

/// What Tailscale does with a request and answers to it.
pub(super) fn answer(world: &mut World, request: &Request, twist: &Twist) -> Answer {
    act(world, request, twist)
        .unwrap_or_else(|Problem(status, message)| scripted_error(status, Some(message.to_owned())))
}

/// An error that a fault asks for.
pub(super) fn scripted_error(status: StatusCode, message: Option<String>) -> Answer {
    // A success that had no effect says what one that had would say, unless it is to say more.
    if status.is_success() && message.is_none() {
        return Answer::json(status, Value::Null);
    }
    let message = message.unwrap_or_else(|| usual_message(status).to_owned());
    Answer::json(status, json!({"message": message}))
}

fn usual_message(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => INVALID_TOKEN.1,
        403 => NOT_PERMITTED.1,
        404 => NO_DEVICE.1,
        429 => "rate limit exceeded",
        501 => "device not owned by tailnet",
        504 => "request took too long to process, please try again later",
        _ => status.canonical_reason().unwrap_or("error"),
    }
}

fn act(world: &mut World, request: &Request, twist: &Twist) -> Result<Answer, Problem> {
    let segments = request.segments();
    let route = route(&request.method, &segments).ok_or(UNKNOWN_PATH)?;
    if let Route::IssueToken = route {
        return issue_token(world, request);
    }
    let caller = authenticate(world, request)?;
    check_scope(world, caller, &route)?;
    let now = clock::now();
    match route {
        Route::IssueToken => issue_token(world, request),
        Route::ListDevices(tailnet) => {
            check_tailnet(world, tailnet)?;
            Ok(list_devices(world, request, twist))
        }
        Route::GetDevice(id) => {
            let device = world.tailnet.device(id).ok_or(NO_DEVICE)?;
            let mut fields = device_json(device, wants_all_fields(&request.query()));
            twist.emptiness.tell(&mut fields, &["tags"]);
            Ok(Answer::json(StatusCode::OK, Value::Object(fields)))
        }
        Route::DeleteDevice(id) => {
            let device = world.tailnet.remove_device(id, now).ok_or(NO_DEVICE)?;
            Ok(empty().with_effect(Effect::DeviceDeleted {
                node_id: device.node_id,
                hostname: device.hostname,
                tags: device.tags,
            }))
        }
        Route::ListKeys(tailnet) => {
            check_tailnet(world, tailnet)?;
            Ok(list_keys(world, request, caller, twist))
        }
        Route::MintKey(tailnet) => {
            check_tailnet(world, tailnet)?;
            mint_key(world, request, caller)
        }
        Route::GetKey(tailnet, id) => {
            check_tailnet(world, tailnet)?;
            if id == world.options.oauth_client_id {
                return Ok(Answer::json(StatusCode::OK, client_json(world)));
            }
            let key = world.tailnet.key(id).ok_or(NO_KEY)?;
            Ok(Answer::json(StatusCode::OK, key_json(key, twist.emptiness)))
        }
        Route::RevokeKey(tailnet, id) => {
            check_tailnet(world, tailnet)?;
            let key = world.tailnet.revoke(id, now).ok_or(NO_KEY)?;
            let effect = Effect::KeyRevoked {
                id: key.id.clone(),
                description: key.allows.description.clone(),
            };
            Ok(empty().with_effect(effect))
        }
    }
}

fn empty() -> Answer {
    Answer {
        status: StatusCode::OK,
        headers: Vec::new(),
        body: None,
        effect: None,
    }
}

/// What the OAuth client's scopes let it do: <https://tailscale.com/kb/1623/trust-credentials#scopes>.
/// A user may do everything.
fn check_scope(world: &World, caller: Caller, route: &Route<'_>) -> Result<(), Problem> {
    let options = &world.options;
    let (area, level) = match route {
        Route::ListDevices(_) | Route::GetDevice(_) => ("devices:core", Permission::Read),
        Route::DeleteDevice(_) => ("devices:core", Permission::Write),
        // "for itself only", whatever its scopes: https://tailscale.com/kb/1215/oauth-clients
        Route::GetKey(_, id) if *id == options.oauth_client_id => return Ok(()),
        Route::GetKey(..) => ("auth_keys", Permission::Read),
        Route::MintKey(_) | Route::RevokeKey(..) => ("auth_keys", Permission::Write),
        // What it may not see is left out in silence.
        Route::IssueToken | Route::ListKeys(_) => return Ok(()),
    };
    if caller == Caller::User || may(&options.grants.oauth_scopes, area, level) {
        Ok(())
    } else {
        Err(NOT_PERMITTED)
    }
}

fn may(scopes: &[String], area: &str, level: Permission) -> bool {
    scopes.iter().any(|scope| {
        let (name, read_only) = match scope.strip_suffix(":read") {
            Some(name) => (name, true),
            None => (scope.as_str(), false),
        };
        (name == "all" || name == area) && (level == Permission::Read || !read_only)
    })
}

/// `-` is the credential's own tailnet, the only one that it may see.
fn check_tailnet(world: &World, tailnet: &str) -> Result<(), Problem> {
    if tailnet == "-" || tailnet == world.options.tailnet {
        Ok(())
    } else {
        Err(NO_TAILNET)
    }
}

/// Bearer, or the token as the user name of basic authentication.
fn authenticate(world: &World, request: &Request) -> Result<Caller, Problem> {
    let header = request.authorization.as_deref().ok_or(INVALID_TOKEN)?;
    let basic = basic_credentials(header);
    let token = match (&basic, header.strip_prefix("Bearer ")) {
        (Some((user, _)), _) => user,
        (None, Some(token)) => token.trim(),
        (None, None) => return Err(INVALID_TOKEN),
    };
    if token == world.options.tailscale_api_key {
        Ok(Caller::User)
    } else if world.tailnet.is_live_token(token, clock::now()) {
        Ok(Caller::OauthClient)
    } else {
        Err(INVALID_TOKEN)
    }
}

fn basic_credentials(header: &str) -> Option<(String, String)> {
    let decoded = BASE64.decode(header.strip_prefix("Basic ")?.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// OAuth's client credentials, in the form or as basic authentication.
fn issue_token(world: &mut World, request: &Request) -> Result<Answer, Problem> {
    let form = pairs(&String::from_utf8_lossy(&request.body));
    let field = |name: &str| {
        form.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let basic = request.authorization.as_deref().and_then(basic_credentials);
    let in_form = field("client_id").zip(field("client_secret"));
    let (id, secret) = in_form.or(basic).ok_or(INVALID_TOKEN)?;
    let is_grant = field("grant_type").is_none_or(|grant| grant == "client_credentials");
    let options = &world.options;
    if id != options.oauth_client_id || secret != options.oauth_client_secret {
        return Err(INVALID_TOKEN);
    }
    if !is_grant {
        return Err(Problem(StatusCode::BAD_REQUEST, "unsupported grant type"));
    }
    let lasts = options.oauth_token_lifetime;
    let scope = options.grants.oauth_scopes.join(" ");
    let token = world.tailnet.issue_token(later(clock::now(), lasts));
    let body = json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": lasts.as_secs(),
        "scope": scope,
    });
    Ok(Answer::json(StatusCode::OK, body).with_effect(Effect::TokenIssued))
}

fn list_devices(world: &World, request: &Request, twist: &Twist) -> Answer {
    let query = request.query();
    let all_fields = wants_all_fields(&query);
    let devices: Vec<Value> = world
        .tailnet
        .devices()
        .filter(|device| !twist.omits(&[&device.node_id, &device.id.to_string(), &device.hostname]))
        .map(|device| device_json(device, true))
        .filter(|device| {
            query
                .iter()
                .all(|(field, wanted)| has(device, field, wanted))
        })
        .map(|mut device| {
            if !all_fields {
                drop_details(&mut device);
            }
            twist.emptiness.tell(&mut device, &["tags"]);
            Value::Object(device)
        })
        .collect();
    Answer::json(StatusCode::OK, json!({"devices": devices}))
}

fn wants_all_fields(query: &[(String, String)]) -> bool {
    query
        .iter()
        .any(|(key, value)| key == "fields" && value == "all")
}

/// Whether a filter lets the device through. Fields that a device does not have filter nothing.
fn has(device: &Map<String, Value>, field: &str, wanted: &str) -> bool {
    match device.get(field) {
        Some(Value::Array(items)) => items.iter().any(|item| item == wanted),
        Some(Value::String(text)) => text == wanted,
        Some(Value::Bool(flag)) => flag.to_string() == wanted,
        Some(Value::Number(number)) => number.to_string() == wanted,
        Some(Value::Null | Value::Object(_)) | None => true,
    }
}

/// The fields that are there only when all are asked for.
const DETAILS: [&str; 3] = ["enabledRoutes", "advertisedRoutes", "clientConnectivity"];

fn drop_details(fields: &mut Map<String, Value>) {
    for field in DETAILS {
        fields.remove(field);
    }
}

fn device_json(device: &Device, all_fields: bool) -> Map<String, Value> {
    let value = json!({
        "addresses": [device.ipv4(), device.ipv6()],
        "id": device.id.to_string(),
        "nodeId": device.node_id,
        "user": "agents@example.com",
        "name": device.name(),
        "hostname": device.hostname,
        "clientVersion": "1.98.2-t4f1d6ed3b",
        "updateAvailable": false,
        "os": "linux",
        "created": stamp(device.created),
        "connectedToControl": true,
        "keyExpiryDisabled": true,
        "expires": "",
        "authorized": device.authorized,
        "isExternal": false,
        "machineKey": "",
        "nodeKey": format!("nodekey:{:016x}", device.id),
        "blocksIncomingConnections": false,
        "tailnetLockKey": "",
        "tailnetLockError": "",
        "tags": device.tags,
        "isEphemeral": device.ephemeral,
        "enabledRoutes": [],
        "advertisedRoutes": [],
        "clientConnectivity": {"endpoints": [], "mappingVariesByDestIP": false, "latency": {}},
    });
    let Value::Object(mut fields) = value else {
        return Map::new();
    };
    if !all_fields {
        drop_details(&mut fields);
    }
    fields
}

/// Without `all`, a user sees the keys that users made, and the OAuth client sees only itself.
fn list_keys(world: &World, request: &Request, caller: Caller, twist: &Twist) -> Answer {
    let all = request
        .query()
        .iter()
        .any(|(key, value)| key == "all" && value == "true");
    let now = clock::now();
    let scopes = &world.options.grants.oauth_scopes;
    let sees_keys = caller == Caller::User || may(scopes, "auth_keys", Permission::Read);
    let mut keys: Vec<Value> = world
        .tailnet
        .keys()
        .filter(|_| sees_keys)
        .filter(|key| !key.is_invalid(now))
        .filter(|key| all || (caller == Caller::User && !key.allows.by_oauth_client))
        .filter(|key| !twist.omits(&[&key.id, &key.allows.description]))
        .map(|key| key_json(key, twist.emptiness))
        .collect();
    if all || caller == Caller::OauthClient {
        keys.push(client_json(world));
    }
    Answer::json(StatusCode::OK, json!({"keys": keys}))
}

/// The OAuth client, as it stands among the keys.
fn client_json(world: &World) -> Value {
    let options = &world.options;
    json!({
        "id": options.oauth_client_id,
        "keyType": "client",
        "created": "2025-11-02T09:14:12Z",
        "scopes": options.grants.oauth_scopes,
        "tags": options.oauth_tags,
        "description": "backstop",
    })
}

/// The fields of a request for an auth key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MintBody {
    capabilities: Capabilities,
    #[serde(default)]
    expiry_seconds: Option<u64>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    key_type: Option<String>,
}

#[derive(Deserialize)]
struct Capabilities {
    devices: DeviceCapabilities,
}

#[derive(Deserialize)]
struct DeviceCapabilities {
    #[serde(default)]
    create: CreateCapabilities,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CreateCapabilities {
    reusable: bool,
    ephemeral: bool,
    preauthorized: bool,
    tags: Vec<String>,
}

fn mint_key(world: &mut World, request: &Request, caller: Caller) -> Result<Answer, Problem> {
    let refused = |message| Problem(StatusCode::BAD_REQUEST, message);
    let body: MintBody =
        serde_json::from_slice(&request.body).map_err(|_| refused("invalid request body"))?;
    if body.key_type.is_some_and(|kind| kind != "auth") {
        return Err(refused("only auth keys can be created here"));
    }
    let description = body.description.unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ' ';
    if description.chars().count() > 50 || !description.chars().all(is_plain) {
        return Err(refused("invalid key description"));
    }
    let create = body.capabilities.devices.create;
    if !create.tags.iter().all(|tag| tag.starts_with("tag:")) {
        return Err(refused("tags must begin with tag:"));
    }
    let may_use = |tag: &String| world.options.oauth_tags.contains(tag);
    if caller == Caller::OauthClient && (create.tags.is_empty() || !create.tags.iter().all(may_use))
    {
        return Err(refused("requested tags are invalid or not permitted"));
    }
    let expiry = body
        .expiry_seconds
        .map_or(tailnet::DEFAULT_EXPIRY, Duration::from_secs);
    if expiry > tailnet::DEFAULT_EXPIRY {
        return Err(refused("expirySeconds is too large"));
    }
    let allows = NewKey {
        description: description.clone(),
        tags: create.tags,
        reusable: create.reusable,
        ephemeral: create.ephemeral,
        preauthorized: create.preauthorized,
        expiry,
        by_oauth_client: caller == Caller::OauthClient,
    };
    let (id, secret) = world.tailnet.mint(allows, clock::now());
    let mut body = world
        .tailnet
        .key(&id)
        .map_or(Value::Null, |key| key_json(key, Emptiness::default()));
    body["key"] = Value::String(secret);
    let effect = Effect::KeyCreated { id, description };
    Ok(Answer::json(StatusCode::OK, body).with_effect(effect))
}

fn key_json(key: &Key, emptiness: Emptiness) -> Value {
    let mut create = json!({
        "reusable": key.allows.reusable,
        "ephemeral": key.allows.ephemeral,
        "preauthorized": key.allows.preauthorized,
        "tags": key.allows.tags,
    });
    let mut body = json!({
        "id": key.id,
        "keyType": "auth",
        "expirySeconds": key.allows.expiry.as_secs(),
        "created": stamp(key.created),
        "expires": stamp(key.expires),
        "description": key.allows.description,
    });
    if let (Some(create), Some(body)) = (create.as_object_mut(), body.as_object_mut()) {
        emptiness.tell(create, &["tags"]);
        emptiness.tell(body, &["description"]);
    }
    body["capabilities"] = json!({"devices": {"create": create}});
    if !key.allows.by_oauth_client {
        body["userId"] = json!("uSimuLatedDEVEL");
    }
    if let Some(revoked) = key.revoked {
        body["revoked"] = json!(stamp(revoked));
    }
    if key.is_invalid(clock::now()) {
        body["invalid"] = json!(true);
    }
    body
}
