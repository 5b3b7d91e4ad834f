//! Reads what others wrote: bodies within a limit, fields with a name in every complaint.
//!
//! In every field an empty string and `null` mean absent, because a workflow's expression for an
//! output that was never set is an empty string. Unknown fields are ignored.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures::StreamExt;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::Problem;
use crate::domain::fields::VendorId;
use crate::domain::step::Resource;

/// The largest body that is read, in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// How long a body may take to arrive. Shorter than what a call may take, so that a slow caller is
/// told so.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// The longest name, in characters.
const NAME_LIMIT: usize = 255;

/// Reads a body of at most [`BODY_LIMIT`], which must arrive within [`BODY_PATIENCE`].
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    read_at_most(BODY_LIMIT, headers, body).await
}

/// Reads a body of at most `limit` bytes, which must arrive within [`BODY_PATIENCE`].
pub(super) async fn read_at_most(
    limit: usize,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<u8>, Problem> {
    timeout(BODY_PATIENCE, read_all(limit, headers, body))
        .await
        .unwrap_or_else(|_| Err(Problem::body_too_slow(BODY_PATIENCE)))
}

async fn read_all(limit: usize, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Problem::body_too_large(limit));
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::malformed_body("the body ended early"))?;
        if bytes.len() + chunk.len() > limit {
            return Err(Problem::body_too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Checks that `Content-Type` says JSON.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|essence| essence.trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json") => Ok(()),
        _ => Err(Problem::unsupported_media_type()),
    }
}

/// A JSON object whose fields are taken by name.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::invalid_body("the body must be a JSON object")),
            Err(error) => Err(Problem::malformed_body(format!(
                "the body is not JSON: {error}"
            ))),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    }

    fn string(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::invalid_body(format!("{name} must be a string"))),
        }
    }

    /// A short text for people.
    pub(super) fn name(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(text) = self.string(name)? else {
            return Ok(None);
        };
        if text.chars().count() > NAME_LIMIT || text.contains('\0') {
            return Err(Problem::invalid_body(format!(
                "{name} must be at most {NAME_LIMIT} characters, none of them NUL"
            )));
        }
        Ok(Some(text.to_owned()))
    }

    /// A text of any length. Output of failed commands may hold anything: a NUL, which Postgres
    /// does not take, is replaced rather than the whole message refused.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self
            .string(name)?
            .map(|text| text.replace('\0', "\u{fffd}")))
    }

    /// One of the values that `T` spells.
    pub(super) fn value<T: FromStr>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Problem> {
        self.string(name)?
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::invalid_body(format!("{name} must be {expected}")))
            })
            .transpose()
    }

    /// A positive integer or its string.
    pub(super) fn positive<T>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T: TryFrom<i64> + Display,
    {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok()
            }
            Some(_) => None,
        };
        number
            .filter(|&number| number > 0)
            .and_then(|number| T::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| {
                Problem::invalid_body(format!(
                    "{name} must be a positive integer or a string of one"
                ))
            })
    }

    pub(super) fn ip(&self, name: &str) -> Result<Option<IpAddr>, Problem> {
        self.value(name, "an IP address")
    }

    /// A vendor's id of a `resource`; for a server also as a number.
    pub(super) fn vendor_id(
        &self,
        name: &str,
        resource: Resource,
    ) -> Result<Option<VendorId>, Problem> {
        let text = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => String::new(),
        };
        VendorId::parse(resource, &text).map(Some).ok_or_else(|| {
            Problem::invalid_body(format!(
                "{name} must be {}",
                match resource {
                    Resource::Server => "a Hetzner server id: a positive integer or its string",
                    Resource::AuthKey | Resource::Device =>
                        "a Tailscale id: at most 64 of A-Z a-z 0-9 _ -",
                }
            ))
        })
    }

    /// An array of kinds of thing. `None` if absent.
    pub(super) fn resources(&self, name: &str) -> Result<Option<BTreeSet<Resource>>, Problem> {
        let complaint = || {
            Problem::invalid_body(format!(
                "{name} must be an array of auth_key, server, device"
            ))
        };
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(kinds)) => kinds
                .iter()
                .map(|kind| kind.as_str()?.parse().ok())
                .collect::<Option<_>>()
                .map(Some)
                .ok_or_else(complaint),
            Some(_) => Err(complaint()),
        }
    }
}

/// For a field that must be there.
pub(super) fn required<T>(name: &str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::invalid_body(format!("{name} is required")))
}
