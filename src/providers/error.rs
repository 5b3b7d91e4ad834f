//! What can go wrong with a vendor, sorted by what the caller does next.
//!
//! For a rollback nothing here is final: it keeps retrying every one of these. They differ in how
//! soon, and in whether a person has to be told. A dispatch is given up on a refusal.

use std::time::Duration;

use super::Vendor;

/// Why a vendor did not do as asked.
///
/// Displays as one line for `last_error`: vendor, method, path, status, the vendor's own code; for
/// GitHub, which has no codes, its sentence. Never a query, a body or a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VendorError {
    /// Something else is running on the resource (423 `locked`, 409 `conflict`). Common right
    /// after a server was created, and over in seconds: try again soon.
    #[error("{0}")]
    Locked(FailedCall),
    /// Too many requests. Everything at this vendor waits, not only this resource.
    #[error("{call}")]
    RateLimited {
        /// The call that was turned away.
        call: FailedCall,
        /// The least to wait, by the vendor's own clock; `None` when it did not say.
        retry_after: Option<Duration>,
    },
    /// Delete protection is on (423 `protected`); it stays until a person takes it off.
    #[error("{0}")]
    Protected(FailedCall),
    /// The credential is wrong, revoked or expired (401): a person must replace it.
    #[error("{0}")]
    Unauthorized(FailedCall),
    /// The credential may not do this (403, or a read-only token): a person must widen it.
    #[error("{0}")]
    Forbidden(FailedCall),
    /// No usable answer: 5xx, a time-out, a broken connection or body, a redirect, a list that
    /// contradicts itself, or a 404 that speaks of the route instead of the resource. The request
    /// may or may not have had its effect: look, then try again with back-off.
    #[error("{0}")]
    Unavailable(FailedCall),
    /// The vendor understood and refused (any other 4xx, and 501), or the request was not worth
    /// sending. The same request will most likely be refused again.
    #[error("{0}")]
    Rejected(FailedCall),
}

impl VendorError {
    /// Whether only a person can clear this: a credential, a permission or a protection.
    #[must_use]
    pub const fn needs_person(&self) -> bool {
        match self {
            Self::Protected(_) | Self::Unauthorized(_) | Self::Forbidden(_) => true,
            Self::Locked(_)
            | Self::RateLimited { .. }
            | Self::Unavailable(_)
            | Self::Rejected(_) => false,
        }
    }

    /// Whether the vendor understood and refused: the request had no effect, and the same one would
    /// be refused again. Otherwise it may have had its effect, or may have it later.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Protected(_) | Self::Unauthorized(_) | Self::Forbidden(_) | Self::Rejected(_) => {
                true
            }
            Self::Locked(_) | Self::RateLimited { .. } | Self::Unavailable(_) => false,
        }
    }

    /// The least to wait before the next request, if the vendor named it. `None` leaves it to the
    /// caller's own back-off.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            Self::Locked(_)
            | Self::Protected(_)
            | Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::Unavailable(_)
            | Self::Rejected(_) => None,
        }
    }

    /// The call that failed.
    #[must_use]
    pub const fn call(&self) -> &FailedCall {
        match self {
            Self::RateLimited { call, .. }
            | Self::Locked(call)
            | Self::Protected(call)
            | Self::Unauthorized(call)
            | Self::Forbidden(call)
            | Self::Unavailable(call)
            | Self::Rejected(call) => call,
        }
    }
}

/// The call an error is about. Displays as the error's one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    vendor: Vendor,
    status: Option<u16>,
    code: Option<Box<str>>,
    line: Box<str>,
}

impl FailedCall {
    pub(super) fn new(
        vendor: Vendor,
        (method, path): (&str, &str),
        status: Option<u16>,
        code: Option<&str>,
        detail: &str,
    ) -> Self {
        let code = code.and_then(machine_code);
        let status_and_code = [status.map(|s| s.to_string()), code.map(str::to_owned)];
        let outcome: Vec<_> = status_and_code.into_iter().flatten().collect();
        let mut parts = vec![outcome.join(" "), one_line(detail)];
        parts.retain(|part| !part.is_empty());
        // A vendor may have had its say in the path, too.
        let line = format!("{vendor} {method} {}: {}", one_line(path), parts.join(", "));
        Self {
            vendor,
            status,
            code: code.map(Box::from),
            line: line.into(),
        }
    }

    /// Whose call it was.
    #[must_use]
    pub const fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The HTTP status; `None` when there was no answer.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        self.status
    }

    /// The vendor's own code for the error; `None` when it gave none (Tailscale never does, but
    /// for its OAuth endpoint).
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl std::fmt::Display for FailedCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line)
    }
}

/// A vendor's client could not be made from its settings. The message names the setting and never
/// shows its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub(super) String);

/// Codes are the vendor's text, and end up in the ledger and on the dashboard: only what looks
/// like a code is one.
fn machine_code(code: &str) -> Option<&str> {
    let well_formed = !code.is_empty()
        && code.len() <= 64
        && code
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    well_formed.then_some(code)
}

/// Makes text fit for a log line or a table cell: no characters that control, break or turn a line, at
/// most 200 characters.
pub(crate) fn one_line(text: &str) -> String {
    let spoils = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if spoils(c) { ' ' } else { c })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_vendor_says_a_failed_call_is_one_short_line() {
        let long = "/x\u{1b}\n".repeat(10_000);
        let call = FailedCall::new(
            Vendor::Issuer,
            ("GET", &long),
            Some(200),
            Some(&long),
            &long,
        );
        let line = call.to_string();
        assert!(line.starts_with("issuer GET /x"), "{line}");
        assert!(
            line.len() < 500 && !line.contains(char::is_control),
            "{line}"
        );
    }
}
