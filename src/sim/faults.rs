//! Scripted faults: what goes wrong, where, and how often.
//!
//! A fault is matched before the vendor looks at the request at all, so it also covers calls that
//! would have been refused. Delays add up; of all other faults the first that matches is used.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of the simulated vendors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// Hetzner Cloud.
    Hetzner,
    /// Tailscale.
    Tailscale,
    /// GitHub.
    Github,
}

/// Something that goes wrong with the requests it matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Whose requests.
    pub vendor: Vendor,
    /// The method, in capitals. `None`: any.
    #[serde(default)]
    pub method: Option<String>,
    /// The path below the vendor's version prefix, `/servers/*` or `/tailnet/*/devices`: `*` stands
    /// for one segment, `**` at the end for any rest.
    pub path: String,
    /// How many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How many requests are hit after that. `None`: every one. Left out of the JSON: one.
    #[serde(default = "once")]
    pub times: Option<u32>,
    /// What happens to them.
    #[serde(flatten)]
    pub kind: FaultKind,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde wants the type of the field"
)]
fn once() -> Option<u32> {
    Some(1)
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing is done; an error is answered, in the vendor's form. Tailscale can say 200, as if it were.
    Status {
        /// The HTTP status.
        status: u16,
        /// Hetzner's error code. `None`: the usual one for the status.
        #[serde(default)]
        code: Option<String>,
        /// The message for people. `None`: the vendor's.
        #[serde(default)]
        message: Option<String>,
    },
    /// The request waits before it is carried out, also when its client has left by then.
    Delay {
        /// For how long.
        delay_ms: u64,
    },
    /// The connection is reset; nothing is done.
    ResetBefore,
    /// The request is carried out, then the connection is reset without an answer.
    ResetAfter,
    /// The request is carried out, but the answer cannot be read.
    Broken {
        /// How the body looks.
        body: BrokenBody,
        /// The status that goes with it. `None`: the true one.
        #[serde(default)]
        status: Option<u16>,
    },
    /// The action that the request starts ends in `error` (Hetzner only).
    ActionFails {
        /// Code of the action's error.
        #[serde(default = "action_failed")]
        code: String,
    },
    /// The server that the request names, or creates, is locked by something else from now on
    /// (Hetzner only). The request then goes on: a delete answers 423 `locked`.
    Locked {
        /// For how long.
        for_ms: u64,
    },
    /// An error is answered at once, and yet the request is carried out later.
    Late {
        /// How much later.
        after_ms: u64,
        /// The HTTP status that is answered.
        status: u16,
        /// Hetzner's error code. `None`: the usual one for the status.
        #[serde(default)]
        code: Option<String>,
    },
    /// A list says null where it would leave an empty field out (Tailscale only).
    Nulls,
    /// A list leaves out things that are there.
    Omit {
        /// The ids or names that are missing. Empty: everything is.
        #[serde(default)]
        only: Vec<String>,
    },
}

fn action_failed() -> String {
    "action_failed".to_owned()
}

/// How an unreadable answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokenBody {
    /// JSON that ends in the middle.
    Truncated,
    /// A proxy's error page.
    Html,
    /// Nothing at all.
    Empty,
}

impl Fault {
    /// A fault that hits the next matching request, once. `method` `*` means any.
    #[must_use]
    pub fn on(vendor: Vendor, method: &str, path: &str, kind: FaultKind) -> Fault {
        Fault {
            vendor,
            method: (method != "*").then(|| method.to_owned()),
            path: path.to_owned(),
            skip: 0,
            times: once(),
            kind,
        }
    }

    /// Hits this many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Fault {
        Fault {
            times: Some(times),
            ..self
        }
    }

    /// Hits every matching request until the faults are cleared.
    #[must_use]
    pub fn always(self) -> Fault {
        Fault {
            times: None,
            ..self
        }
    }

    /// Lets this many matching requests pass first.
    #[must_use]
    pub fn after(self, skip: u32) -> Fault {
        Fault { skip, ..self }
    }

    fn matches(&self, vendor: Vendor, method: &str, path: &str) -> bool {
        let method_matches = self
            .method
            .as_deref()
            .is_none_or(|wanted| wanted == "*" || wanted.eq_ignore_ascii_case(method));
        self.vendor == vendor && method_matches && path_matches(&self.path, path)
    }

    /// Counts a matching request; whether it is hit.
    fn hit(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl FaultKind {
    /// An error with the usual code of that status.
    #[must_use]
    pub fn status(status: u16) -> FaultKind {
        FaultKind::Status {
            status,
            code: None,
            message: None,
        }
    }

    /// An error with this status and code.
    #[must_use]
    pub fn error(status: u16, code: &str) -> FaultKind {
        FaultKind::Status {
            status,
            code: Some(code.to_owned()),
            message: None,
        }
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let mut segments = path.trim_matches('/').split('/');
    for wanted in pattern.trim_matches('/').split('/') {
        if wanted == "**" {
            return true;
        }
        match segments.next() {
            Some(segment) if wanted == "*" || wanted == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// What is to go wrong with one request.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) delay: Duration,
    pub(super) kind: Option<FaultKind>,
}

/// The faults that are still to happen, in the order in which they were scripted.
#[derive(Debug, Default)]
pub(super) struct FaultBook(Vec<Fault>);

impl FaultBook {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn list(&self) -> Vec<Fault> {
        self.0.clone()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Uses up what hits this request.
    pub(super) fn claim(&mut self, vendor: Vendor, method: &str, path: &str) -> Trouble {
        let mut trouble = Trouble::default();
        for fault in &mut self.0 {
            if !fault.matches(vendor, method, path) {
                continue;
            }
            match &fault.kind {
                FaultKind::Delay { delay_ms } => {
                    let delay = Duration::from_millis(*delay_ms);
                    if fault.hit() {
                        trouble.delay += delay;
                    }
                }
                _ if trouble.kind.is_some() => {}
                kind => {
                    let kind = kind.clone();
                    if fault.hit() {
                        trouble.kind = Some(kind);
                    }
                }
            }
        }
        self.0.retain(|fault| fault.times != Some(0));
        trouble
    }
}

#[cfg(test)]
mod tests {
    use super::path_matches;

    #[test]
    fn a_star_stands_for_exactly_one_segment() {
        for (pattern, path, matches) in [
            ("/servers", "/servers", true),
            ("/servers", "/servers/1", false),
            ("/servers/*", "/servers/1", true),
            ("/servers/*", "/servers", false),
            ("/servers/*", "/servers/1/actions", false),
            ("/servers/**", "/servers/1/actions/poweroff", true),
            ("/tailnet/*/devices", "/tailnet/-/devices", true),
            ("**", "/anything/at/all", true),
        ] {
            assert_eq!(path_matches(pattern, path), matches, "{pattern} {path}");
        }
    }
}
