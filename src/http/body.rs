//! Reads what others wrote: bodies within a limit, fields with a name in every complaint.
//!
//! In every field an empty string and `null` mean absent, because a workflow's expression for an
//! output that was never set is an empty string. Unknown fields are ignored, whatever is in them: each
//! value is only read when it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures::StreamExt;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Problem;
use crate::domain::fields::{Address, VendorId};
use crate::domain::step::Resource;

/// The largest body that is read, in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// The largest that is read of a failure, which must not be lost for the length of its error.
pub(super) const FAILURE_LIMIT: usize = 1024 * 1024;
/// How many bodies longer than [`BODY_LIMIT`] are held at a time, for nobody has proven anything yet.
const LONG_BODIES: usize = 16;
static LONG_BODY: Semaphore = Semaphore::const_new(LONG_BODIES);
/// How long a body may take to arrive. Shorter than what a call may take, so that a slow caller is
/// told so.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// The longest name, in characters.
const NAME_LIMIT: usize = 255;
/// As much is kept of a text, in bytes.
const TEXT_LIMIT: usize = 64 * 1024;
/// Stands where a text was cut.
const CUT: &str = " […]";

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
    let mut long = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::malformed_body("the body ended early"))?;
        let length = bytes.len() + chunk.len();
        if length > limit {
            return Err(Problem::body_too_large(limit));
        }
        if length > BODY_LIMIT && long.is_none() {
            long = LONG_BODY.acquire().await.ok();
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
pub(super) struct Fields(BTreeMap<LossyText, Box<RawValue>>);

/// A string in which whatever is no Unicode, such as half a surrogate pair, is replaced.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LossyText(String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = LossyText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<LossyText, E> {
                Ok(LossyText(text.to_owned()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<LossyText, E> {
                Ok(LossyText(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_bytes(Text)
    }
}

impl Fields {
    /// Takes an object apart.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            if serde_json::from_slice::<&RawValue>(bytes).is_ok() {
                Problem::invalid_body("the body must be a JSON object")
            } else {
                Problem::malformed_body(format!("the body is not JSON: {error}"))
            }
        })
    }

    /// The same for what a job says, in which the output of a failed command may be any bytes: what is no
    /// UTF-8 is replaced.
    pub(super) fn parse_lossy(bytes: &[u8]) -> Result<Self, Problem> {
        Self::parse(String::from_utf8_lossy(bytes).as_bytes())
    }

    fn raw(&self, name: &str) -> Option<&str> {
        let value = self.0.get(&LossyText(name.to_owned()))?.get();
        (value != "null").then_some(value)
    }

    fn get(&self, name: &str) -> Result<Option<Value>, Problem> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        let value: Value = if raw.starts_with('"') {
            let text = serde_json::from_str(raw).map(|LossyText(text)| Value::String(text));
            text.unwrap_or(Value::Null)
        } else {
            serde_json::from_str(raw)
                .map_err(|error| Problem::invalid_body(format!("{name} cannot be read: {error}")))?
        };
        Ok(Some(value).filter(|value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            _ => true,
        }))
    }

    fn string(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.get(name)? {
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
        Ok(Some(text))
    }

    /// A text of any length, of which [`TEXT_LIMIT`] is kept. Output of failed commands may hold
    /// anything: a NUL, which Postgres does not take, is replaced rather than the whole message refused.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(text) = self.string(name)? else {
            return Ok(None);
        };
        let mut text = text.replace('\0', "\u{fffd}");
        if text.len() > TEXT_LIMIT {
            let fits = |end: &usize| text.is_char_boundary(*end);
            let end = (0..=TEXT_LIMIT - CUT.len()).rfind(fits);
            text.truncate(end.unwrap_or_default());
            text.push_str(CUT);
        }
        Ok(Some(text))
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
        let number = match self.get(name)? {
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

    /// A machine's address.
    pub(super) fn address(&self, name: &str) -> Result<Option<Address>, Problem> {
        self.value(name, "an IP address or a network")
    }

    /// A vendor's id of a `resource`; for a server also as a number.
    pub(super) fn vendor_id(
        &self,
        name: &str,
        resource: Resource,
    ) -> Result<Option<VendorId>, Problem> {
        let text = match self.get(name)? {
            None => return Ok(None),
            Some(Value::String(text)) => text,
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
        match self.get(name)? {
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

/// Reads fields for whose sake a message must not be lost: what cannot be read counts as absent.
pub(super) struct Forgiving<'a> {
    fields: &'a Fields,
    /// The names of those that were there and could not be read.
    pub(super) unreadable: Vec<&'static str>,
}

impl<'a> Forgiving<'a> {
    pub(super) fn new(fields: &'a Fields) -> Self {
        Self {
            fields,
            unreadable: Vec::new(),
        }
    }

    /// What `read` makes of the field. `None` if it is absent, or cannot be read.
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Fields, &'static str) -> Result<Option<T>, Problem>,
    ) -> Option<T> {
        read(self.fields, name).unwrap_or_else(|_| {
            self.unreadable.push(name);
            None
        })
    }

    /// The same for a vendor's id. `"null"` is none: jq and templates print it for nothing.
    pub(super) fn vendor_id(&mut self, name: &'static str, resource: Resource) -> Option<VendorId> {
        self.take(name, |fields, name| {
            match fields.vendor_id(name, resource)? {
                Some(id) if id.as_str() == "null" => Err(Problem::invalid_body("null is no id")),
                id => Ok(id),
            }
        })
    }
}

/// For a field that must be there.
pub(super) fn required<T>(name: &str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::invalid_body(format!("{name} is required")))
}
