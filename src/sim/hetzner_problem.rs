//! Errors in Hetzner's words: a status, a code to decide by, a message for people.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{exchange::Answer, project::Refusal};

/// An error, in the vendor's words.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: String,
    message: String,
    details: Value,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Problem {
        Problem {
            status,
            code: code.to_owned(),
            message: message.into(),
            details: Value::Null,
        }
    }

    pub(super) fn with_details(self, details: Value) -> Problem {
        Problem { details, ..self }
    }

    /// 422, naming the field.
    pub(super) fn invalid_input(field: &str, complaint: &str) -> Problem {
        Problem {
            details: json!({"fields": [{"name": field, "messages": [complaint]}]}),
            ..Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_input",
                format!("invalid input in field '{field}': {complaint}"),
            )
        }
    }

    pub(super) fn not_found(what: &str, id: u64) -> Problem {
        let message = format!("{what} with ID '{id}' not found");
        Problem::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn taken_name() -> Problem {
        Problem {
            details: json!({"fields": [{"name": "name"}]}),
            ..Problem::new(
                StatusCode::CONFLICT,
                "uniqueness_error",
                "server name is already used",
            )
        }
    }

    pub(super) fn unauthorized(message: &str) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(super) fn rate_limited(limit: u32) -> Problem {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            format!("limit of {limit} requests per hour reached"),
        )
    }

    pub(super) fn into_answer(self) -> Answer {
        Answer::json(
            self.status,
            json!({"error": {"code": self.code, "message": self.message, "details": self.details}}),
        )
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::Locked => Problem::new(StatusCode::LOCKED, "locked", "server is locked"),
            Refusal::Protected => Problem::new(
                StatusCode::LOCKED,
                "protected",
                "server deletion is protected",
            ),
        }
    }
}
