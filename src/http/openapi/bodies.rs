//! What calls take. Bodies are parsed by hand, so that each complaint names its field
//! ([`super::super::body`]); this says the same as a schema.
//!
//! In every field an empty string and `null` mean absent, and unknown fields are ignored.

use serde_json::{Value, json};

use super::examples::{ID, RUN_ID};

/// What a call takes.
pub(super) struct Body {
    /// The schema's name.
    pub name: &'static str,
    /// The schema.
    pub schema: Value,
    /// For instance.
    pub example: Value,
}

/// What this operation takes; `None` if it has no body.
pub(super) fn of(operation: &str) -> Option<Body> {
    let body = match operation {
        "started" => callback(
            "StartedCallback",
            "Sent before anything is created.",
            "started",
            &[
                ("agent_id", name("A label for people.")),
                ("region", name("Where it runs, for people.")),
            ],
            &[],
            json!({"agent_id": "web-1", "region": "fsn1"}),
        ),
        "progress" => callback(
            "ProgressCallback",
            "What was reached; without `step` a heartbeat.",
            "progress",
            &with_ids(("step", name("What was reached; absent: a heartbeat."))),
            &[],
            json!({"step": "vm_created", "server_id": "104217331", "server_ip": "192.0.2.7"}),
        ),
        "success" => callback(
            "SuccessCallback",
            "The machine is in use. `tailscale_ip` is required where Tailscale is configured.",
            "success",
            &[
                ("server_id", server_id()),
                ("server_ip", some_address("The server's public address.")),
                (
                    "tailscale_ip",
                    forgiven(&address("The device's tailnet address.")),
                ),
                ("tailscale_key_id", tailscale_id("The auth key's id.")),
                ("tailscale_node_id", tailscale_id("The device's node id.")),
            ],
            &["server_id", "server_ip"],
            json!({"server_id": "104217331", "server_ip": "192.0.2.7",
                   "tailscale_ip": "100.64.0.7", "tailscale_node_id": "nBE291FcPkCNTRL"}),
        ),
        "failure" => failure(),
        "github_webhook" => Body {
            name: "GitHubWebhook",
            schema: json!({
                "type": "object",
                "description": "An event as GitHub sends it. What is read of workflow_run and \
                                workflow_job is described; others are ignored.",
                "properties": {
                    "action": {"type": "string", "description": "Only `completed` counts."},
                    "repository": {"type": "object"},
                    "workflow_run": {"type": "object"},
                    "workflow_job": {"type": "object"},
                },
            }),
            example: json!({
                "action": "completed",
                "repository": {"id": 1_296_269, "full_name": "acme/agents"},
                "workflow_run": {"id": RUN_ID, "run_attempt": 1, "status": "completed",
                                 "conclusion": "cancelled"},
            }),
        },
        "create_provision" => Body {
            name: "NewProvision",
            schema: json!({
                "type": "object",
                "description": "A provision that is asked for.",
                "required": ["agent_id"],
                "properties": {
                    "agent_id": required_of(name("A label for people.")),
                    "region": name("Where it runs, for people."),
                    "id": absent_or(
                        json!({"type": "string", "format": "uuid"}),
                        "Its id, so that asking twice makes one; absent: a fresh one.",
                    ),
                },
            }),
            example: json!({"agent_id": "web-1", "region": "fsn1", "id": ID}),
        },
        _ => return None,
    };
    Some(body)
}

fn failure() -> Body {
    let mut fields = with_ids(("error", text("What went wrong.")));
    fields.push(("failed_step", name("Which of the workflow's steps failed.")));
    fields.push((
        "conclusion",
        absent_or(
            json!({"type": "string", "enum": ["failure", "cancelled", "timed_out"]}),
            "How the workflow ended.",
        ),
    ));
    fields.push((
        "may_exist",
        absent_or(
            json!({"type": "array",
                   "items": {"type": "string", "enum": ["auth_key", "server", "device"]}}),
            "What the workflow had begun to create; absent: all of it.",
        ),
    ));
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, field)| (name, forgiven(&field)))
        .collect();
    callback(
        "FailureCallback",
        "The attempt is over; whatever it made is rolled back. At most 1 MiB; of `error` 64 KiB \
         are kept.",
        "failure",
        &fields,
        &[],
        json!({"error": "ansible failed", "failed_step": "configure",
               "conclusion": "failure", "server_id": "104217331",
               "may_exist": ["auth_key", "server", "device"]}),
    )
}

type Field = (&'static str, Value);

/// A callback with these fields beside the common ones.
fn callback(
    name: &'static str,
    description: &str,
    kind: &str,
    fields: &[Field],
    required: &[&str],
    more: Value,
) -> Body {
    let mut schema = json!({
        "type": "object",
        "description": description,
        "required": ["type", "provision_id", "run_id"],
        "properties": {
            "type": {"type": "string", "enum": [kind], "description": "As in the path."},
            "provision_id": {"type": "string", "format": "uuid", "description": "As in the path."},
            "run_id": required_of(positive(i64::MAX, "The workflow's run.")),
            "run_attempt": positive(i32::MAX.into(), "Which re-run of it; absent: 1."),
            "job": forgiven(&name_of_job()),
        },
    });
    let mut example = json!({"type": kind, "provision_id": ID, "run_id": RUN_ID, "run_attempt": 1});
    for (field, of) in fields {
        schema["properties"][field] = of.clone();
    }
    for field in required {
        schema["properties"][field] = required_of(schema["properties"][field].take());
        let all = schema["required"].as_array_mut();
        all.expect("it is made above").push(json!(field));
    }
    if let (Value::Object(example), Value::Object(more)) = (&mut example, more) {
        example.extend(more);
    }
    Body {
        name,
        schema,
        example,
    }
}

/// This field, and the ids and addresses that a workflow reports.
fn with_ids(field: Field) -> Vec<Field> {
    vec![
        ("server_id", server_id()),
        ("server_ip", address("The server's public address.")),
        ("tailscale_ip", address("The device's tailnet address.")),
        ("tailscale_key_id", tailscale_id("The auth key's id.")),
        ("tailscale_node_id", tailscale_id("The device's node id.")),
        field,
    ]
}

/// Postgres does not take it.
pub(super) const NO_NUL: &str = "^[^\\u0000]*$";

fn name(description: &str) -> Value {
    json!({"type": ["string", "null"], "maxLength": 255, "pattern": NO_NUL,
           "description": description})
}

fn text(description: &str) -> Value {
    json!({"type": ["string", "null"], "description": description})
}

/// An integer or its string.
fn positive(most: i64, description: &str) -> Value {
    // As many digits as surely fit.
    let digits = most.to_string().len() - 2;
    let integer = json!({"type": "integer", "minimum": 1, "maximum": most});
    let string = json!({"type": "string", "pattern": format!("^0*[1-9][0-9]{{0,{digits}}}$")});
    any_of(&[integer, string], description)
}

fn server_id() -> Value {
    let integer = json!({"type": "integer", "minimum": 1, "maximum": i64::MAX});
    let string = json!({"type": "string", "pattern": "^[1-9][0-9]{0,17}$"});
    any_of(&[integer, string], "The Hetzner server's id.")
}

fn tailscale_id(description: &str) -> Value {
    // Older ones are all digits, which a script may take for a number.
    let number = json!({"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX});
    let string = json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"});
    any_of(&[number, string], description)
}

fn name_of_job() -> Value {
    name(
        "Which job of the run this is. A `started` of another job than the one that opened a live attempt \
         is refused.",
    )
}

/// An address, or a network, which is what Hetzner calls a server's IPv6 address.
fn address(description: &str) -> Value {
    any_of(&addresses(), description)
}

fn addresses() -> [Value; 4] {
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    [
        json!({"type": "string", "format": "ipv4"}),
        json!({"type": "string", "format": "ipv6"}),
        json!({"type": "string",
               "pattern": format!("^{byte}(\\.{byte}){{3}}/(3[0-2]|[12]?[0-9])$")}),
        json!({"type": "string",
               "pattern": "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,6}::/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$"}),
    ]
}

/// An address that must be there, however it is spelled.
fn some_address(description: &str) -> Value {
    let mut all = addresses().to_vec();
    all.push(json!({"not": {"enum": ["", null]}}));
    json!({"anyOf": all, "description": description})
}

/// The same where what cannot be read counts as absent.
fn forgiven(field: &Value) -> Value {
    let description = field["description"].as_str().unwrap_or_default();
    let description = format!(
        "{description} What cannot be read counts as absent, and is named in `unreadable`."
    );
    json!({"anyOf": [field, {}], "description": description})
}

fn absent_or(schema: Value, description: &str) -> Value {
    any_of(&[schema], description)
}

fn any_of(schemas: &[Value], description: &str) -> Value {
    let mut all = schemas.to_vec();
    all.extend([
        json!({"type": "string", "maxLength": 0}),
        json!({"type": "null"}),
    ]);
    json!({"anyOf": all, "description": description})
}

/// The same where it must be there.
fn required_of(mut schema: Value) -> Value {
    if let Some(all) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        all.retain(|one| one["type"] != "null" && one["maxLength"] != 0);
    } else {
        schema["type"] = json!("string");
        schema["minLength"] = json!(1);
    }
    schema
}
