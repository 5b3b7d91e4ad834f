//! What can go wrong with one thing's deletion.

use backstop::sim::{BrokenBody, Fault, FaultKind, Sim, Vendor};

use crate::harness::Made;

/// A kind of thing, with where it is at its vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AuthKey,
    Server,
    Device,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    LockedTwice,
    Conflict,
    TooManyRequests,
    InternalError,
    Unavailable,
    ResetBefore,
    ResetAfter,
    Truncated,
    Html,
    Empty,
    ErrorAndLateEffect,
    ActionFails,
    ListFails,
    ListIsBroken,
    ListOmitsIt,
    NotFoundWhileListed,
    DeleteSaysNotFound,
    Unauthorized,
    Forbidden,
    Protected,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::AuthKey, Self::Server, Self::Device];

    /// Its place in the order of deletion, from 0.
    pub fn place(self) -> u32 {
        match self {
            Self::AuthKey => 0,
            Self::Server => 1,
            Self::Device => 2,
        }
    }

    fn vendor(self) -> Vendor {
        match self {
            Self::Server => Vendor::Hetzner,
            Self::AuthKey | Self::Device => Vendor::Tailscale,
        }
    }

    pub fn id(self, made: &Made) -> String {
        match self {
            Self::AuthKey => made.key.clone().unwrap(),
            Self::Server => made.server.to_string(),
            Self::Device => made.device.clone().unwrap(),
        }
    }

    fn path(self, made: &Made) -> String {
        let id = self.id(made);
        match self {
            Self::AuthKey => format!("/tailnet/*/keys/{id}"),
            Self::Server => format!("/servers/{id}"),
            Self::Device => format!("/device/{id}"),
        }
    }

    fn list(self) -> &'static str {
        match self {
            Self::AuthKey => "/tailnet/*/keys",
            Self::Server => "/servers",
            Self::Device => "/tailnet/*/devices",
        }
    }
}

impl Wrong {
    pub const ALL: [Self; 21] = [
        Self::Nothing,
        Self::LockedTwice,
        Self::Conflict,
        Self::TooManyRequests,
        Self::InternalError,
        Self::Unavailable,
        Self::ResetBefore,
        Self::ResetAfter,
        Self::Truncated,
        Self::Html,
        Self::Empty,
        Self::ErrorAndLateEffect,
        Self::ActionFails,
        Self::ListFails,
        Self::ListIsBroken,
        Self::ListOmitsIt,
        Self::NotFoundWhileListed,
        Self::DeleteSaysNotFound,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Protected,
    ];

    /// Some of it only Hetzner does.
    pub fn can_happen_to(self, kind: Kind) -> bool {
        kind == Kind::Server
            || !matches!(
                self,
                Self::LockedTwice | Self::ActionFails | Self::Protected
            )
    }

    /// Scripts it; what has to be lifted by hand is lifted by [`Wrong::lift`].
    pub fn script(self, sim: &Sim, kind: Kind, made: &Made) {
        let vendor = kind.vendor();
        let on_delete = |fault| Fault::on(vendor, "DELETE", &kind.path(made), fault);
        let on_list = |fault| Fault::on(vendor, "GET", kind.list(), fault);
        let broken = |body| FaultKind::Broken { body, status: None };
        let fault = match self {
            Self::Nothing => return,
            Self::Protected => {
                sim.protect_server(made.server);
                return;
            }
            Self::LockedTwice => on_delete(FaultKind::error(423, "locked")).times(2),
            Self::Conflict => on_delete(FaultKind::error(409, "conflict")),
            Self::TooManyRequests => on_delete(FaultKind::status(429)),
            Self::InternalError => on_delete(FaultKind::status(500)).times(2),
            Self::Unavailable => on_delete(FaultKind::status(503)),
            Self::ResetBefore => on_delete(FaultKind::ResetBefore),
            Self::ResetAfter => on_delete(FaultKind::ResetAfter),
            Self::Truncated => on_delete(broken(BrokenBody::Truncated)),
            Self::Html => on_delete(FaultKind::Broken {
                body: BrokenBody::Html,
                status: Some(502),
            }),
            Self::Empty => on_delete(broken(BrokenBody::Empty)),
            Self::ErrorAndLateEffect => on_delete(FaultKind::Late {
                after_ms: 60,
                status: 504,
                code: None,
            }),
            Self::ActionFails => on_delete(FaultKind::ActionFails {
                code: "action_failed".to_owned(),
            }),
            Self::ListFails => on_list(FaultKind::status(500)).times(2),
            Self::ListIsBroken => on_list(broken(BrokenBody::Truncated)),
            Self::ListOmitsIt => on_list(FaultKind::Omit {
                only: vec![kind.id(made)],
            }),
            Self::NotFoundWhileListed => {
                Fault::on(vendor, "GET", &kind.path(made), FaultKind::status(404)).times(3)
            }
            Self::DeleteSaysNotFound => on_delete(FaultKind::status(404)),
            Self::Unauthorized => on_delete(FaultKind::status(401)).always(),
            Self::Forbidden => on_delete(FaultKind::status(403)).always(),
        };
        sim.fault(fault);
    }

    /// Whether it lasts until somebody lifts it.
    pub fn needs_person(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Forbidden | Self::Protected)
    }

    pub fn lift(self, sim: &Sim, made: &Made) {
        if self.needs_person() {
            sim.clear_faults();
            sim.unprotect_server(made.server);
        }
    }
}
