//! One row type a table, and how each becomes a value that can be trusted.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StoreError;
use crate::domain::fields::{Hint, VendorId};
use crate::domain::hearing::{Fingerprint, Hearing, Hold};
use crate::domain::names::{AttemptNumber, ProvisionId, Run};
use crate::domain::provision::{Attempt, Provision, Rollback};
use crate::domain::step::Resource;

/// A row of `provisions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ProvisionRow {
    pub id: Uuid,
    pub version: i64,
    pub agent_id: Option<String>,
    pub region: Option<String>,
    pub status: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub disowned_at: Option<DateTime<Utc>>,
}

/// A row of `attempts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttemptRow {
    pub provision_id: Uuid,
    pub number: i32,
    pub run_id: Option<i64>,
    pub run_attempt: Option<i32>,
    pub job: Option<String>,
    pub step: Option<String>,
    pub server_id: Option<String>,
    pub server_ip: Option<String>,
    pub tailscale_ip: Option<String>,
    pub tailscale_key_id: Option<String>,
    pub tailscale_node_id: Option<String>,
    pub hints: BTreeSet<Hint>,
    pub error: Option<String>,
    pub failed_step: Option<String>,
    pub conclusion: Option<String>,
    pub may_exist: BTreeSet<Resource>,
    pub started_at: DateTime<Utc>,
    pub last_message_at: DateTime<Utc>,
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    pub deadline_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub reason: Option<String>,
    pub rollback_started_at: Option<DateTime<Utc>>,
    pub ended_by_github: bool,
}

/// The row of `hearing`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct HearingRow {
    pub since: Option<DateTime<Utc>>,
    pub last_pulse_at: Option<DateTime<Utc>>,
    pub pulses: i64,
    pub system_identifier: Option<i64>,
    pub database_oid: Option<i64>,
    pub table_oid: Option<i64>,
    pub public_url: Option<String>,
    pub held_since: Option<DateTime<Utc>>,
    pub held_because: Option<String>,
}

/// A row of `steps`, as far as it is shown.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StepRow {
    pub attempt: i32,
    pub resource: String,
    pub vendor_id: Option<String>,
    pub state: String,
    pub next_at: Option<DateTime<Utc>>,
    pub proof: Option<String>,
    pub tries: i32,
    pub last_error: Option<String>,
    pub unsettled_since: DateTime<Utc>,
    pub stuck_at: Option<DateTime<Utc>>,
    pub settled_at: Option<DateTime<Utc>>,
}

/// Names the place of a value, for the error if it does not parse.
pub(super) struct Place {
    pub table: &'static str,
    pub id: String,
}

impl Place {
    pub(super) fn corrupt(&self, column: &'static str, problem: impl Display) -> StoreError {
        StoreError::Corrupt {
            table: self.table,
            column,
            id: self.id.clone(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(
        &self,
        column: &'static str,
        text: &str,
    ) -> Result<T, StoreError> {
        text.parse().map_err(|error| self.corrupt(column, error))
    }

    fn parse_some<T: FromStr<Err: Display>>(
        &self,
        column: &'static str,
        text: Option<&str>,
    ) -> Result<Option<T>, StoreError> {
        text.map(|text| self.parse(column, text)).transpose()
    }

    pub(super) fn vendor_id(
        &self,
        column: &'static str,
        resource: Resource,
        text: Option<&str>,
    ) -> Result<Option<VendorId>, StoreError> {
        text.map(|text| {
            VendorId::parse(resource, text)
                .ok_or_else(|| self.corrupt(column, format!("{text:?} is no {resource}'s id")))
        })
        .transpose()
    }
}

impl ProvisionRow {
    pub(super) fn with_attempt(self, attempt: Attempt) -> Result<Provision, StoreError> {
        let place = Place {
            table: "provisions",
            id: self.id.to_string(),
        };
        Ok(Provision {
            id: ProvisionId::new(self.id),
            version: self.version,
            agent_id: self.agent_id,
            region: self.region,
            status: place.parse("status", &self.status)?,
            created_at: self.created_at,
            updated_at: self.updated_at,
            disowned_at: self.disowned_at,
            attempt,
        })
    }
}

impl AttemptRow {
    pub(super) fn new(provision: ProvisionId, attempt: &Attempt) -> Self {
        let attempt = attempt.clone();
        Self {
            provision_id: provision.as_uuid(),
            number: attempt.number.as_i32(),
            run_id: attempt.run.map(|run| run.id),
            run_attempt: attempt.run.map(|run| run.attempt),
            job: attempt.job,
            step: attempt.step,
            server_id: attempt.server_id.map(|id| id.to_string()),
            server_ip: attempt.server_ip.map(|ip| ip.to_string()),
            tailscale_ip: attempt.tailscale_ip.map(|ip| ip.to_string()),
            tailscale_key_id: attempt.tailscale_key_id.map(|id| id.to_string()),
            tailscale_node_id: attempt.tailscale_node_id.map(|id| id.to_string()),
            hints: attempt.hints,
            error: attempt.error,
            failed_step: attempt.failed_step,
            conclusion: attempt.conclusion.map(|c| c.to_string()),
            may_exist: attempt.may_exist,
            started_at: attempt.started_at,
            last_message_at: attempt.last_message_at,
            last_heartbeat_at: attempt.last_heartbeat_at,
            deadline_at: attempt.deadline_at,
            finished_at: attempt.finished_at,
            reason: attempt.rollback.map(|r| r.reason.to_string()),
            rollback_started_at: attempt.rollback.map(|r| r.started_at),
            ended_by_github: attempt.ended_by_github,
        }
    }

    pub(super) fn parse(self) -> Result<Attempt, StoreError> {
        let place = Place {
            table: "attempts",
            id: format!("{} attempt {}", self.provision_id, self.number),
        };
        let rollback = match (&self.reason, self.rollback_started_at) {
            (Some(reason), Some(started_at)) => Some(Rollback {
                reason: place.parse("reason", reason)?,
                started_at,
            }),
            (None, None) => None,
            _ => return Err(place.corrupt("rollback_started_at", "is set without reason")),
        };
        Ok(Attempt {
            number: AttemptNumber::new(self.number)
                .ok_or_else(|| place.corrupt("number", "is negative"))?,
            run: self
                .run_id
                .zip(self.run_attempt)
                .map(|(id, attempt)| Run { id, attempt }),
            job: self.job,
            step: self.step,
            server_id: place.vendor_id("server_id", Resource::Server, self.server_id.as_deref())?,
            server_ip: place.parse_some("server_ip", self.server_ip.as_deref())?,
            tailscale_ip: place.parse_some("tailscale_ip", self.tailscale_ip.as_deref())?,
            tailscale_key_id: place.vendor_id(
                "tailscale_key_id",
                Resource::AuthKey,
                self.tailscale_key_id.as_deref(),
            )?,
            tailscale_node_id: place.vendor_id(
                "tailscale_node_id",
                Resource::Device,
                self.tailscale_node_id.as_deref(),
            )?,
            hints: self.hints,
            error: self.error,
            failed_step: self.failed_step,
            conclusion: place.parse_some("conclusion", self.conclusion.as_deref())?,
            may_exist: self.may_exist,
            started_at: self.started_at,
            last_message_at: self.last_message_at,
            last_heartbeat_at: self.last_heartbeat_at,
            deadline_at: self.deadline_at,
            finished_at: self.finished_at,
            rollback,
            ended_by_github: self.ended_by_github,
        })
    }
}

impl HearingRow {
    pub(super) fn parse(self) -> Result<Hearing, StoreError> {
        let place = Place {
            table: "hearing",
            id: "1".to_owned(),
        };
        let fingerprint = self.database_oid.zip(self.table_oid);
        let hold = match (self.held_since, &self.held_because) {
            (Some(since), Some(reason)) => Some(Hold {
                since,
                reason: place.parse("held_because", reason)?,
            }),
            (None, None) => None,
            _ => return Err(place.corrupt("held_since", "is set without held_because")),
        };
        Ok(Hearing {
            since: self.since,
            last_pulse_at: self.last_pulse_at,
            pulses: self.pulses,
            fingerprint: fingerprint.map(|(database_oid, table_oid)| Fingerprint {
                system_identifier: self.system_identifier,
                database_oid,
                table_oid,
            }),
            public_url: self.public_url,
            hold,
        })
    }
}
