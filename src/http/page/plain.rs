//! What stands in the way, in words for somebody who was asleep a minute ago: what is, and what to do.
//!
//! Read from what the ledger keeps of a step. Its `last_error` is one line of ours: vendor, method,
//! path, status, the vendor's own code. What is not recognised is shown as it is.

use super::parts;
use crate::store::views::{RollbackView, StepView};

/// What stands in the way of a step, and what a person can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plain {
    /// One sentence.
    pub what: String,
    /// One more, if there is something to do.
    pub todo: Option<String>,
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// It looks for whatever there is of its kind.
    Search,
    /// One thing.
    Thing,
}

/// The steps of a rollback with what each is about. They come in the order of deletion, and within an
/// attempt and a kind the one that searches comes first.
pub(super) fn steps(rollback: &RollbackView) -> Vec<(About, &StepView)> {
    let mut last = None;
    let about = |step: &StepView| {
        let kind = Some((step.attempt, step.resource.clone()));
        if std::mem::replace(&mut last, kind.clone()) == kind {
            About::Thing
        } else {
            About::Search
        }
    };
    let abouts: Vec<About> = rollback.steps.iter().map(about).collect();
    abouts.into_iter().zip(&rollback.steps).collect()
}

/// Says how a step stands.
pub(super) fn step(about: About, step: &StepView) -> Plain {
    let thing = parts::thing(&step.resource);
    let sentence = |what: String| Plain { what, todo: None };
    match (about, step.state.as_str(), step.last_error.as_deref()) {
        (About::Search, "gone", _) if step.vendor_id.is_some() => sentence(format!(
            "No other {thing} of this attempt is there, and none can come."
        )),
        (_, "gone", _) => sentence(match step.proof.as_deref() {
            Some("deleted") => format!("Deleted, and the vendor's list is without the {thing}."),
            Some("already_gone") => format!("The {thing} was gone before we came."),
            _ => format!("No {thing} ever appeared, and none can any more."),
        }),
        (_, "refused", Some(error)) => sentence(format!("Left alone: {error}.")),
        (_, "refused", None) => sentence("Left alone: it is not this attempt's own.".to_owned()),
        (About::Search, "waiting", _) if !step.stuck => sentence(match step.vendor_id {
            Some(_) => format!("Looks for any other {thing} until none can come."),
            None => format!("No {thing} was seen; one that comes late is watched for."),
        }),
        (About::Thing, "waiting", _) if !step.stuck => sentence(format!(
            "The delete was accepted; waiting until the {thing} is gone."
        )),
        (_, _, Some(error)) => {
            let plain = failed(&step.resource, error);
            Plain {
                // What goes by itself asks nothing of anybody.
                todo: plain.todo.filter(|_| step.stuck),
                ..plain
            }
        }
        (_, _, None) if step.stuck => Plain {
            what: format!("The {thing} has not gone for too long, though nothing failed."),
            todo: Some(
                "Look in the vendor's console whether it is still being deleted.".to_owned(),
            ),
        },
        (_, "leased", None) => sentence(format!("The {thing} is being dealt with now.")),
        (_, _, None) => sentence(format!("The {thing} is next.")),
    }
}

/// The step that a person should be told of first, and how it stands.
pub(super) fn worst(rollback: &RollbackView) -> Option<(&StepView, Plain)> {
    let unsettled: Vec<_> = steps(rollback)
        .into_iter()
        .filter(|(_, step)| step.settled_at.is_none())
        .collect();
    let rank = |(about, it): &&(About, &StepView)| {
        (!it.stuck, it.last_error.is_none(), *about == About::Search)
    };
    let (about, worst) = unsettled.iter().min_by_key(rank)?;
    Some((worst, step(*about, worst)))
}

/// Why an attempt was given up.
pub(super) fn reason(reason: &str, failed_step: Option<&str>, error: Option<&str>) -> String {
    let at = failed_step
        .map(|step| format!(" in {step}"))
        .unwrap_or_default();
    let said = error.map(|error| format!(": {error}")).unwrap_or_default();
    match reason {
        "failure" => format!("Failed{at}{said}"),
        "cancelled" => format!("Cancelled{at}{said}"),
        "timed_out" => format!("Ran out of time{at}{said}"),
        "superseded" => "A later attempt of the same run took over".to_owned(),
        "silent" => "Fell silent: its heartbeats stopped".to_owned(),
        "deadline" => "Not done by its deadline".to_owned(),
        "never_started" => "No run ever took it".to_owned(),
        "dispatch_failed" => format!("GitHub refused to start the workflow{said}"),
        "destroyed" => "Somebody had it destroyed".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Says what a failed try means, and what a person can do if it stays so.
pub(super) fn failed(resource: &str, error: &str) -> Plain {
    let thing = parts::thing(resource);
    let plain = |what: String, todo: &str| Plain {
        what,
        todo: (!todo.is_empty()).then(|| todo.to_owned()),
    };
    if let Some(why) = told_by_ourselves(thing, error) {
        return why;
    }
    let Some(call) = Call::parse(error) else {
        return plain(format!("{}.", error.trim_end_matches('.')), "");
    };
    let (vendor, setting) = match call.vendor {
        "hetzner" => ("Hetzner", "HCLOUD_TOKEN"),
        "tailscale" => ("Tailscale", "the Tailscale credential"),
        other => (other, "the credential"),
    };
    let deletes = call.method == "DELETE";
    match (call.status, call.code) {
        (_, Some("protected")) => plain(
            format!("{vendor} refuses: delete protection is on."),
            "Switch it off in the console, then retry.",
        ),
        (_, Some("locked" | "conflict")) => plain(
            format!("{vendor} is still busy with this {thing}."),
            "If it stays locked, ask the vendor's support.",
        ),
        (Some(401), _) => plain(
            format!("{vendor} no longer takes our credential."),
            &format!("Replace {setting}, restart backstop, then retry."),
        ),
        (Some(403), _) => plain(
            format!(
                "{vendor} does not let our credential {} this {thing}.",
                if deletes { "delete" } else { "look for" }
            ),
            match call.vendor {
                "hetzner" => {
                    "HCLOUD_TOKEN must be read and write, and of this project. Then retry."
                }
                "tailscale" => {
                    "Its OAuth client needs devices:core and auth_keys, for this tag. Then retry."
                }
                _ => "",
            },
        ),
        (Some(429), _) => plain(format!("{vendor} asks us to slow down."), ""),
        (Some(status @ 500..), _) => plain(
            format!("{vendor} has trouble of its own ({status})."),
            "Look at the vendor's status page.",
        ),
        (Some(404), _) => plain(
            format!("{vendor} does not know what we asked for (404), and a moment ago it did."),
            "",
        ),
        (Some(status), _) => plain(
            format!(
                "{vendor} refuses to {} this {thing} ({status}).",
                if deletes { "delete" } else { "show" }
            ),
            "Read what it said below; deleting it by hand helps as well.",
        ),
        (None, _) => plain(
            format!("{vendor} cannot be reached, or does not answer properly."),
            "Look at the vendor's status page, and at our way out.",
        ),
    }
}

/// What we write ourselves when no call of a vendor failed.
fn told_by_ourselves(thing: &str, error: &str) -> Option<Plain> {
    let (what, todo) = if error.starts_with("held back") {
        (
            "Waiting for the vendor's rate limit, which others have used up.".to_owned(),
            None,
        )
    } else if error.contains("none of the machines that should be running") {
        (
            format!(
                "The vendor shows none of the machines that should be running, so an absent {thing} \
                 proves nothing."
            ),
            Some(
                "Most likely the credential is another project's: put the right one in place, then \
                 retry. If all were deleted by hand, destroy their provisions."
                    .to_owned(),
            ),
        )
    } else if error.starts_with("was this attempt's own") {
        (
            format!(
                "The {thing} has lost the labels or the name that made it ours, so it is not touched."
            ),
            Some(
                "Look at it in the console: delete it there, or give it its labels back and retry."
                    .to_owned(),
            ),
        )
    } else if error.contains("delete action ended in error") {
        (
            format!("Hetzner began to delete the {thing} and failed."),
            None,
        )
    } else if error.contains("a moment ago it was there") {
        (
            format!("The vendor answers as if the {thing} were gone, and still lists it."),
            None,
        )
    } else {
        return None;
    };
    Some(Plain { what, todo })
}

/// A failed call of a vendor, as `last_error` has it: `hetzner DELETE /servers/42: 423 locked, …`.
struct Call<'a> {
    vendor: &'a str,
    method: &'a str,
    status: Option<u16>,
    code: Option<&'a str>,
}

impl<'a> Call<'a> {
    fn parse(error: &'a str) -> Option<Self> {
        let (call, outcome) = error.split_once(": ")?;
        let mut words = call.split(' ');
        let (vendor, method) = (words.next()?, words.next()?);
        if !method.bytes().all(|b| b.is_ascii_uppercase()) || !words.next()?.starts_with('/') {
            return None;
        }
        let outcome = outcome.split(',').next().unwrap_or_default();
        let mut words = outcome.split(' ');
        let status = words.next().and_then(|word| word.parse().ok());
        let code = status.and(words.next());
        Some(Self {
            vendor,
            method,
            status,
            code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuck(resource: &str, state: &str, last_error: Option<&str>) -> StepView {
        StepView {
            attempt: 1,
            resource: resource.to_owned(),
            vendor_id: Some("42".to_owned()),
            state: state.to_owned(),
            stuck: true,
            proof: None,
            tries: 3,
            next_try_at: None,
            last_error: last_error.map(str::to_owned),
            settled_at: None,
        }
    }

    #[test]
    fn what_a_person_must_do_is_said_with_what_is() {
        for (resource, error, what, todo) in [
            (
                "server",
                "hetzner DELETE /v1/servers/42: 423 protected, server deletion is protected",
                "Hetzner refuses: delete protection is on.",
                "Switch it off in the console, then retry.",
            ),
            (
                "server",
                "hetzner GET /v1/servers: 401 unauthorized, unable to authenticate",
                "Hetzner no longer takes our credential.",
                "Replace HCLOUD_TOKEN, restart backstop, then retry.",
            ),
            (
                "device",
                "tailscale DELETE /api/v2/device/n1: 403, calling actor does not have enough permissions",
                "Tailscale does not let our credential delete this device.",
                "Its OAuth client needs devices:core and auth_keys, for this tag. Then retry.",
            ),
            (
                "auth_key",
                "tailscale GET /api/v2/tailnet/-/keys: 503",
                "Tailscale has trouble of its own (503).",
                "Look at the vendor's status page.",
            ),
            (
                "server",
                "hetzner DELETE /v1/servers/42: timed out",
                "Hetzner cannot be reached, or does not answer properly.",
                "Look at the vendor's status page, and at our way out.",
            ),
            (
                "server",
                "was this attempt's own when it was first seen, and now: server 42 does not carry all",
                "The server has lost the labels or the name that made it ours, so it is not touched.",
                "Look at it in the console: delete it there, or give it its labels back and retry.",
            ),
            (
                "server",
                "hetzner DELETE /v1/servers/42: 422 invalid_input, no",
                "Hetzner refuses to delete this server (422).",
                "Read what it said below; deleting it by hand helps as well.",
            ),
        ] {
            let plain = step(About::Thing, &stuck(resource, "due", Some(error)));
            assert_eq!(plain.what, what);
            assert_eq!(plain.todo.as_deref(), Some(todo), "{what}");
        }
    }

    #[test]
    fn an_error_that_is_not_known_is_shown_as_it_is() {
        for error in [
            "something new",
            "the vendor lists \"x: y\", which is no server's id",
        ] {
            let plain = step(About::Thing, &stuck("server", "due", Some(error)));
            assert_eq!(plain.what, format!("{error}."));
        }
    }

    #[test]
    fn what_goes_by_itself_asks_nothing_of_anybody() {
        for (state, error) in [
            (
                "due",
                Some("hetzner DELETE /v1/servers/42: 423 locked, busy"),
            ),
            (
                "due",
                Some("hetzner DELETE /v1/servers/42: 429 rate_limit_exceeded"),
            ),
            ("due", Some("held back: the vendor's rate limit is down")),
            ("waiting", None),
            ("leased", None),
            ("due", None),
        ] {
            let calm = StepView {
                stuck: false,
                ..stuck("server", state, error)
            };
            assert_eq!(step(About::Thing, &calm).todo, None, "{state} {error:?}");
        }
    }
}
