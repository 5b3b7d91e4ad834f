//! What answers look like, for the document.

use serde_json::{Value, json};

pub(super) const ID: &str = "e9488a2a-af63-4d93-9deb-89a538465aef";
pub(super) const RUN_ID: i64 = 1001;
const NAME: &str = "agent-e9488a2aaf634d939deb89a538465aef-a1";
const AT: &str = "2026-11-23T14:30:00.125Z";
const LATER: &str = "2026-11-23T14:31:07.5Z";
const DEADLINE: &str = "2026-11-23T15:00:00.125Z";

/// An answer of this operation with this status; `None` if it has no body.
pub(super) fn answer(operation: &str, status: &str) -> Option<Value> {
    Some(match (operation, status) {
        ("started", "200") => json!({
            "attempt": 1,
            "server_name": NAME,
            "labels": {
                "managed-by": "backstop",
                "backstop-controller": "d1fdf310-4b73-42d8-85dc-bdfb475d8a84",
                "backstop-provision": ID,
                "backstop-attempt": "1",
                "backstop-run": format!("{RUN_ID}.1"),
            },
            "tailscale": {
                "hostname": NAME,
                "tags": ["tag:agent"],
                "key_description": "backstop e9488a2aaf634d939deb89a538465aef-a1",
            },
            "deadline_at": DEADLINE,
        }),
        ("progress", "200") => json!({"status": "provisioning", "deadline_at": DEADLINE}),
        ("success", "200") => json!({"status": "running"}),
        ("failure", "200") => json!({"status": "failed", "rollback": rollback("done")}),
        ("failure", "202") => {
            json!({"status": "failed", "rollback": rollback("pending"), "unreadable": ["server_id"]})
        }
        ("create_provision", "200" | "201") => queued(),
        ("list_provisions", "200") => json!({"provisions": [failed()], "next_cursor": null}),
        ("show_provision", "200") => failed(),
        ("destroy_provision" | "retry_rollback", "202") => failed(),
        ("provision_events", "200") => json!({"events": [
            {"id": 7, "at": AT, "kind": "callback.started", "attempt": 1,
             "data": {"agent_id": "web-1", "region": "fsn1"}},
            {"id": 12, "at": LATER, "kind": "step.gone", "attempt": 1,
             "data": {"resource": "server", "vendor_id": "104217331", "proof": "deleted"}},
        ]}),
        ("stream", "200") => json!(format!(
            "event: provision\nid: 7421.e9488a2aaf634d939deb89a538465aef\ndata: {}\n\n",
            failed()
        )),
        ("list_orphans", "200") => json!({
            "swept_at": AT, "complete": true, "errors": [], "currency": "EUR",
            "hourly_cost": 0.006, "not_ours": 0,
            "orphans": [{
                "vendor": "hetzner", "kind": "server", "id": "104217331", "name": NAME,
                "provision_id": ID, "attempt": 1, "why": "attempt_over", "action": "rolled_back",
                "since": AT, "hourly_cost": 0.006,
            }],
        }),
        ("github_webhook", "200") => json!({"result": "recorded"}),
        ("livez", "200") => json!({"status": "live"}),
        ("readyz", "200") => json!({"status": "ready", "hold": null}),
        ("metrics", "200") => json!("backstop_provisions{status=\"running\"} 2\n"),
        ("openapi", "200") => json!({"openapi": "3.1.0"}),
        _ => return None,
    })
}

fn queued() -> Value {
    json!({
        "id": ID, "agent_id": "web-1", "region": "fsn1", "status": "queued", "attempt": 0,
        "run_id": null, "run_attempt": null, "step": null, "server_name": null,
        "server_id": null, "server_ip": null, "tailscale_ip": null,
        "error": null, "failed_step": null, "conclusion": null,
        "created_at": AT, "updated_at": AT, "last_heartbeat_at": null, "deadline_at": DEADLINE,
        "finished_at": null, "rollback": null,
    })
}

fn failed() -> Value {
    json!({
        "id": ID, "agent_id": "web-1", "region": "fsn1", "status": "failed", "attempt": 1,
        "run_id": RUN_ID, "run_attempt": 1, "step": "vm_created", "server_name": NAME,
        "server_id": "104217331", "server_ip": "192.0.2.7", "tailscale_ip": null,
        "error": "ansible failed", "failed_step": "configure", "conclusion": "failure",
        "created_at": AT, "updated_at": LATER, "last_heartbeat_at": AT, "deadline_at": null,
        "finished_at": LATER, "rollback": rollback("done"),
    })
}

fn rollback(state: &str) -> Value {
    let (step, proof, settled_at, next) = match state {
        "done" => ("gone", json!("deleted"), json!(LATER), json!(null)),
        _ => ("waiting", json!(null), json!(null), json!(LATER)),
    };
    json!({
        "state": state, "reason": "failure", "started_at": AT, "settled_at": settled_at,
        "steps": [{
            "attempt": 1, "resource": "server", "vendor_id": "104217331", "state": step,
            "stuck": false, "proof": proof, "tries": 1, "next_try_at": next,
            "last_error": null, "settled_at": settled_at,
        }],
    })
}
