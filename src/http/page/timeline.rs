//! A provision's history as people tell it: who said or did what, and what came of it.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde_json::Value;

use super::parts::{self, Icon, Tone, icon, thing};
use super::plain;
use crate::store::views::EventView;

/// A long history is shown from its end.
const MOST: usize = 400;

/// Who said or did something.
#[derive(Clone, Copy)]
enum Who {
    Workflow,
    Operator,
    Backstop,
    Vendor(&'static str),
    Sweep,
}

struct Line {
    who: Who,
    tone: Tone,
    what: String,
}

pub(super) fn timeline(events: &[EventView], now: DateTime<Utc>) -> Markup {
    let left_out = events.len().saturating_sub(MOST);
    let began = events.first().map_or(now, |event| event.at);
    html! {
        section #timeline aria-labelledby="history" {
            h2 #history { "Timeline" }
            @if left_out > 0 {
                p.more { (left_out) " earlier lines are left out." }
            }
            ol.timeline {
                @for event in &events[left_out..] { (entry(event, began, now)) }
            }
        }
    }
}

fn entry(event: &EventView, began: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let line = line(event);
    let (shape, who) = match line.who {
        Who::Workflow => (Icon::Workflow, "workflow"),
        Who::Operator => (Icon::Person, "operator"),
        Who::Backstop => (Icon::Robot, "backstop"),
        Who::Vendor(vendor) => (Icon::Cloud, vendor),
        Who::Sweep => (Icon::Broom, "sweep"),
    };
    html! {
        li #{ "e-" (event.id) } class=(line.tone.class()) {
            span.who { (icon(shape)) }
            div {
                p.head {
                    strong { (who) }
                    @if event.attempt > 0 { span.attempt { "attempt " (event.attempt) } }
                    span.at title=(parts::exact(event.at)) { (offset(event.at - began)) }
                    span.at { (parts::when(event.at, now)) }
                }
                p { (line.what) }
                @if event.data.as_object().is_some_and(|data| !data.is_empty()) {
                    details {
                        summary { code { (event.kind) } }
                        pre { (serde_json::to_string_pretty(&event.data).unwrap_or_default()) }
                    }
                }
            }
        }
    }
}

/// How long after the beginning: `+0.4 s`, `+2:42`, `+1:02:03`.
fn offset(since: TimeDelta) -> String {
    let seconds = since.num_seconds().max(0);
    if seconds < 60 {
        return format!("+{seconds}.{} s", since.subsec_millis().max(0) / 100);
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("+{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("+{minutes}:{seconds:02}")
    }
}

fn line(event: &EventView) -> Line {
    let data = &event.data;
    let (who, tone, what) = match event.kind.split_once('.') {
        Some(("callback", kind)) => said(kind, data),
        Some(("dispatch", kind)) => dispatched(kind, data),
        Some(("step", kind)) => stepped(kind, data),
        Some(("github", kind)) => testified(kind, data),
        Some(("sweep", _)) => (
            Who::Sweep,
            Tone::Undoing,
            format!(
                "Saw {} in the vendor's list, where nothing of it should be.",
                things(data)
            ),
        ),
        Some(("rollback", "done")) => {
            let what = format!(
                "Attempt {} is undone: all of it is proven gone.",
                event.attempt
            );
            (Who::Backstop, Tone::Good, what)
        }
        _ => decided(&event.kind, data),
    };
    Line { who, tone, what }
}

/// What a workflow said.
fn said(kind: &str, data: &Value) -> (Who, Tone, String) {
    let text = |key: &str| data[key].as_str();
    let (tone, what) = match kind {
        "started" => (
            Tone::Busy,
            format!("Started: run {}, and nothing is made yet", run(data)),
        ),
        "progress" => (Tone::Busy, reached(text("step")) + &named(data)),
        "success" => (
            Tone::Good,
            format!("Succeeded: the machine is in use{}", named(data)),
        ),
        "failure" => {
            let conclusion = text("conclusion").unwrap_or("failure");
            let reason = plain::reason(conclusion, text("failed_step"), text("error"));
            (Tone::Bad, reason + &named(data))
        }
        other => (Tone::Calm, other.replace('_', " ")),
    };
    let refused = match text("refused") {
        Some(code) => format!(" – too late, and told so ({})", code.replace('_', " ")),
        None => String::new(),
    };
    (Who::Workflow, tone, format!("{what}{refused}."))
}

/// What GitHub made of being asked to start a workflow.
fn dispatched(kind: &str, data: &Value) -> (Who, Tone, String) {
    let error = data["error"].as_str().unwrap_or("no reason given");
    let (tone, what) = match (kind, data["run_id"].as_i64()) {
        ("sent", Some(id)) => (
            Tone::Calm,
            format!("Was asked to start the workflow, and did: run {id}."),
        ),
        ("sent", None) => (
            Tone::Calm,
            "Was asked to start the workflow, and took it.".to_owned(),
        ),
        ("refused", _) => (Tone::Bad, format!("Refused to start the workflow: {error}")),
        _ => (
            Tone::Undoing,
            format!("Was asked to start the workflow: {error}; asked again."),
        ),
    };
    (Who::Vendor("GitHub"), tone, what)
}

/// What GitHub says of a run's end.
fn testified(kind: &str, data: &Value) -> (Who, Tone, String) {
    let conclusion = data["conclusion"].as_str().unwrap_or("end");
    let ended = format!(
        "Says that run {} ended in {}",
        run(data),
        conclusion.replace('_', " ")
    );
    let (tone, what) = match kind {
        "run_failed" => (Tone::Bad, format!("{ended}: this attempt is over.")),
        _ => (
            Tone::Undoing,
            format!(
                "{ended}, and no success was heard from it. Nothing is done until the deadline."
            ),
        ),
    };
    (Who::Vendor("GitHub"), tone, what)
}

/// What became of something that must go.
fn stepped(kind: &str, data: &Value) -> (Who, Tone, String) {
    let text = |key: &str| data[key].as_str();
    let resource = text("resource").unwrap_or_default();
    let thing = thing(resource);
    let id = text("vendor_id");
    let subject = match id {
        Some(id) => format!("{thing} {id}"),
        None => format!("any {thing}"),
    };
    let error = text("error").unwrap_or("no reason given");
    let vendor = Who::Vendor(if resource == "server" {
        "Hetzner"
    } else {
        "Tailscale"
    });
    let (tone, what) = match (kind, text("proof")) {
        ("deleting", _) => {
            let action = data["action_id"].as_u64();
            let action = action.map_or_else(String::new, |id| format!(", as action {id}"));
            let request = request(resource, id.unwrap_or_default());
            return (
                vendor,
                Tone::Undoing,
                format!("{request} – accepted{action}."),
            );
        }
        ("failed", _) => return (vendor, Tone::Undoing, call(error)),
        ("found", _) => (
            Tone::Undoing,
            format!("Found {subject} by the name or labels of this attempt."),
        ),
        ("reopened", _) => (
            Tone::Undoing,
            format!("Looks for any {thing} again, for something of this attempt has turned up."),
        ),
        ("refused", _) => (Tone::Calm, format!("Left {subject} alone: {error}.")),
        ("stuck", _) => (
            Tone::Bad,
            format!(
                "Needs a person for {subject}. {}",
                in_words(resource, error)
            ),
        ),
        ("gone", Some("deleted" | "already_gone")) if id.is_none() => (
            Tone::Good,
            format!("Proved that no other {thing} of this attempt is there or can come."),
        ),
        ("gone", Some("deleted")) => (
            Tone::Good,
            format!("Proved {subject} gone: it was deleted, and the list is without it."),
        ),
        ("gone", Some("already_gone")) => (
            Tone::Good,
            format!("Proved {subject} gone: it was gone before we came."),
        ),
        ("gone", _) => (
            Tone::Good,
            format!("Proved that no {thing} appeared or can appear any more."),
        ),
        (other, _) => (
            Tone::Calm,
            format!("{}: {subject}", other.replace('_', " ")),
        ),
    };
    (Who::Backstop, tone, what)
}

/// What we or an operator decided.
fn decided(kind: &str, data: &Value) -> (Who, Tone, String) {
    let (who, tone, what) = match kind {
        "created" => (Who::Backstop, Tone::Calm, "First heard of it."),
        "superseded" => (
            Who::Backstop,
            Tone::Undoing,
            "Gave this attempt up: a later attempt of the same run took over.",
        ),
        "deadline" => {
            let reason = plain::reason(data["reason"].as_str().unwrap_or(kind), None, None);
            return (Who::Backstop, Tone::Bad, format!("Gave it up. {reason}."));
        }
        "destroy" | "retry" => {
            let what = if kind == "destroy" {
                "Asked to destroy it"
            } else {
                "Asked to try again now"
            };
            let by = data["by"].as_str();
            let by = by.map(|by| format!(", by {by}")).unwrap_or_default();
            return (Who::Operator, Tone::Undoing, format!("{what}{by}."));
        }
        "disowned" => (
            Who::Operator,
            Tone::Calm,
            "Gave it to another controller; it is never touched again.",
        ),
        other => return (Who::Backstop, Tone::Calm, other.replace(['.', '_'], " ")),
    };
    (who, tone, what.to_owned())
}

/// A failed call without its vendor, who is named beside it.
fn call(error: &str) -> String {
    let call = error
        .strip_prefix("hetzner ")
        .or_else(|| error.strip_prefix("tailscale "))
        .unwrap_or(error);
    match call.split_once(": ") {
        Some((request, answer)) if request.contains(" /") => format!("{request} – {answer}."),
        _ => call.to_owned(),
    }
}

fn in_words(resource: &str, error: &str) -> String {
    let plain = plain::failed(resource, error);
    match plain.todo {
        Some(todo) => format!("{} {todo}", plain.what),
        None => plain.what,
    }
}

/// The request that deletes a thing, as its vendor documents it.
fn request(resource: &str, id: &str) -> String {
    match resource {
        "server" => format!("DELETE /servers/{id}"),
        "device" => format!("DELETE /device/{id}"),
        _ => format!("DELETE /tailnet/-/keys/{id}"),
    }
}

fn reached(step: Option<&str>) -> String {
    step.map_or_else(|| "Reported".to_owned(), |step| format!("Reached {step}"))
}

fn run(data: &Value) -> String {
    let number = |key: &str| data[key].as_i64().unwrap_or_default();
    format!("{} try {}", number("run_id"), number("run_attempt").max(1))
}

/// The ids that a callback named.
fn named(data: &Value) -> String {
    let ids: Vec<String> = [
        ("server_id", "server"),
        ("tailscale_key_id", "auth key"),
        ("tailscale_node_id", "device"),
        ("server_ip", "at"),
    ]
    .iter()
    .filter_map(|(key, name)| Some(format!("{name} {}", data[*key].as_str()?)))
    .collect();
    if ids.is_empty() {
        String::new()
    } else {
        format!(" ({})", ids.join(", "))
    }
}

fn things(data: &Value) -> String {
    let things: Vec<String> = data["things"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default();
            format!("{} {}", thing(text("resource")), text("vendor_id"))
        })
        .collect();
    if things.is_empty() {
        "something".to_owned()
    } else {
        things.join(", ")
    }
}
