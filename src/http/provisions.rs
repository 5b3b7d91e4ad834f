//! The status API: what dashboards read, and what operators change.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::DateTime;
use serde::Deserialize;
use uuid::Uuid;

use super::answers::{History, Provisions};
use super::body::{self, Fields, required};
use super::tokens::{Operator, Reader};
use super::{Api, Problem, etag, openapi};
use crate::domain::names::ProvisionId;
use crate::domain::provision::{BY, Provision};
use crate::domain::transition::Status;
use crate::rollback::{Retried, retry_rollback, rollback_failed_provision};
use crate::store::StoreError;
use crate::store::provisions::{Written, read, write};
use crate::store::search::{Found, Search, search};
use crate::store::views::{self, Position, ProvisionView, RollbackState};

const DEFAULT_LIMIT: u32 = 50;
const LARGEST_LIMIT: u32 = 200;

type IdInPath = Result<Path<String>, PathRejection>;

/// Asks for a provision
///
/// The workflow is dispatched where GitHub is configured. The same `id` again changes nothing.
#[utoipa::path(
    post, path = "/v1/provisions", operation_id = "create_provision", tag = openapi::OPERATE,
    responses(
        (status = 200, description = "There was one with this id already", body = ProvisionView),
        (status = 201, description = "The provision, queued", body = ProvisionView,
         headers(("location" = String, description = "Its path"))),
    )
)]
pub(super) async fn create(
    operator: Operator,
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = body::read(&headers, body).await?;
    body::require_json(&headers)?;
    let fields = Fields::parse(&body)?;
    let agent_id = required("agent_id", fields.name("agent_id")?)?;
    let region = fields.name("region")?;
    let id: ProvisionId = fields
        .value("id", "a UUID")?
        .unwrap_or_else(|| ProvisionId::new(Uuid::new_v4()));
    if id.as_uuid().is_nil() {
        return Err(Problem::malformed_body(NIL));
    }

    let mut db = api.pool.acquire().await?;
    let created = match read(&mut db, id).await? {
        (Some(_), _) => false,
        (None, now) => {
            let mut change = Provision::create(id, agent_id, region, now, api.provision_timeout)
                .map_err(StoreError::from)?;
            change.note("created", BY, &operator.by);
            change.dispatch = api.dispatches;
            write(&mut db, &change).await? == Written::Yes
        }
    };
    if created {
        api.feed.look();
    }
    if created && api.dispatches {
        api.changes.announce(id);
    }
    let view = view(&api, &mut db, id).await?;
    if created {
        let location = format!("/v1/provisions/{id}");
        Ok((StatusCode::CREATED, [(LOCATION, location)], Json(view)).into_response())
    } else {
        Ok(Json(view).into_response())
    }
}

#[derive(Deserialize)]
pub(super) struct ListQuery {
    status: Option<String>,
    agent_id: Option<String>,
    rollback: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// Lists provisions, newest first
#[utoipa::path(
    get, path = "/v1/provisions", operation_id = "list_provisions", tag = openapi::READ,
    params(
        ("status" = Option<Status>, Query, description = "With this status"),
        ("agent_id" = Option<String>, Query, description = "With this agent id"),
        ("rollback" = Option<RollbackState>, Query, description = "Whose rollback stands so"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200,
         description = "How many; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = Provisions))
)]
pub(super) async fn list(
    _: Reader,
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Provisions>, Problem> {
    let Query(query) = query.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    let given = |value: Option<String>| value.filter(|text| !text.is_empty());
    let wanted = Search {
        status: given(query.status)
            .map(|status| {
                status.parse().map_err(|_| {
                    Problem::invalid_parameter(
                        "status must be queued, provisioning, running, failed or destroyed",
                    )
                })
            })
            .transpose()?,
        agent_id: given(query.agent_id),
        rollback: given(query.rollback)
            .map(|state| {
                state.parse().map_err(|_| {
                    Problem::invalid_parameter("rollback must be pending, done or stuck")
                })
            })
            .transpose()?,
        text: None,
    };
    if wanted.agent_id.as_ref().is_some_and(|id| id.contains('\0')) {
        return Err(Problem::invalid_parameter("agent_id must not hold a NUL"));
    }
    let limit = given(query.limit).map_or(Ok(DEFAULT_LIMIT), |limit| {
        limit
            .parse()
            .ok()
            .filter(|limit| (1..=LARGEST_LIMIT).contains(limit))
            .ok_or_else(|| {
                Problem::invalid_parameter(format!("limit must be from 1 to {LARGEST_LIMIT}"))
            })
    })?;
    let after = given(query.cursor)
        .map(|cursor| {
            decode_cursor(&cursor).ok_or_else(|| {
                Problem::invalid_parameter("cursor must be a next_cursor of an earlier answer")
            })
        })
        .transpose()?;

    let mut db = api.pool.acquire().await?;
    let Found { provisions, more } =
        search(&mut db, &wanted, after, limit, api.stuck_after).await?;
    let next_cursor = provisions.last().filter(|_| more).map(encode_cursor);
    Ok(Json(Provisions {
        provisions,
        next_cursor,
    }))
}

/// Shows a provision
#[utoipa::path(
    get, path = "/v1/provisions/{id}", operation_id = "show_provision", tag = openapi::READ,
    params(
        ("id" = Uuid, Path, description = "The provision"),
        ("if-none-match" = Option<String>, Header, description = "Tags of what is there already"),
    ),
    responses(
        (status = 200, description = "The provision", body = ProvisionView,
         headers(("etag" = String, description = "Changes with whatever is shown"))),
        (status = 304, description = "It is as it was with that tag"),
    )
)]
pub(super) async fn show(
    _: Reader,
    State(api): State<Api>,
    headers: HeaderMap,
    id: IdInPath,
) -> Result<Response, Problem> {
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    let view = view(&api, &mut db, id).await?;
    Ok(etag::answer(&headers, &view))
}

/// Shows a provision's whole history, oldest first
#[utoipa::path(
    get, path = "/v1/provisions/{id}/events", operation_id = "provision_events",
    tag = openapi::READ, params(("id" = Uuid, Path, description = "The provision")),
    responses((status = 200, description = "Its history", body = History))
)]
pub(super) async fn events(
    _: Reader,
    State(api): State<Api>,
    id: IdInPath,
) -> Result<Json<History>, Problem> {
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    let events = views::events(&mut db, id).await?.ok_or_else(unknown_id)?;
    Ok(Json(History { events }))
}

/// Destroys a provision, in any status
///
/// By the same rollback as a failure; an earlier reason is kept.
#[utoipa::path(
    delete, path = "/v1/provisions/{id}", operation_id = "destroy_provision",
    tag = openapi::OPERATE, params(("id" = Uuid, Path, description = "The provision")),
    responses((status = 202, description = "The provision, destroyed", body = ProvisionView))
)]
pub(super) async fn destroy(
    operator: Operator,
    State(api): State<Api>,
    id: IdInPath,
) -> Result<Response, Problem> {
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    destroy_now(&api, &mut db, id, &operator.by).await?;
    let view = view(&api, &mut db, id).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Makes a provision's unsettled steps due now
#[utoipa::path(
    post, path = "/v1/provisions/{id}/rollback", operation_id = "retry_rollback",
    tag = openapi::OPERATE, params(("id" = Uuid, Path, description = "The provision")),
    responses((status = 202, description = "The provision", body = ProvisionView))
)]
pub(super) async fn retry(
    operator: Operator,
    State(api): State<Api>,
    id: IdInPath,
) -> Result<Response, Problem> {
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    retry_now(&api, &mut db, id, &operator.by).await?;
    let view = view(&api, &mut db, id).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Destroys a provision. One that is destroyed already stays as it is.
pub(super) async fn destroy_now(
    api: &Api,
    db: &mut sqlx::PgConnection,
    id: ProvisionId,
    by: &str,
) -> Result<(), Problem> {
    loop {
        let (provision, now) = read(db, id).await?;
        let provision = provision.ok_or_else(unknown_id)?;
        let Some(mut change) = provision.destroy(now).map_err(StoreError::from)? else {
            return Ok(());
        };
        change.note("destroy", BY, by);
        rollback_failed_provision(&mut change, api.managed);
        if write(db, &change).await? == Written::Yes {
            api.changes.announce(id);
            return Ok(());
        }
    }
}

/// Makes whatever is unsettled of a provision due now.
pub(super) async fn retry_now(
    api: &Api,
    db: &mut sqlx::PgConnection,
    id: ProvisionId,
    by: &str,
) -> Result<(), Problem> {
    if retry_rollback(db, id, api.managed, by).await? == Retried::UnknownId {
        return Err(unknown_id());
    }
    api.changes.announce(id);
    Ok(())
}

async fn view(
    api: &Api,
    db: &mut sqlx::PgConnection,
    id: ProvisionId,
) -> Result<ProvisionView, Problem> {
    views::provision(db, id, api.stuck_after)
        .await?
        .ok_or_else(unknown_id)
}

fn unknown_id() -> Problem {
    Problem::not_found("there is no provision with this id")
}

fn id_in_path(id: IdInPath) -> Result<ProvisionId, Problem> {
    let Path(id) = id.map_err(|_| Problem::invalid_parameter("the path is not UTF-8"))?;
    parse_id(&id)
}

/// Parses a provision's id.
pub(super) fn parse_id(text: &str) -> Result<ProvisionId, Problem> {
    let id: ProvisionId = text
        .parse()
        .map_err(|_| Problem::invalid_parameter("a provision's id is a UUID"))?;
    if id.as_uuid().is_nil() {
        return Err(Problem::invalid_parameter(NIL));
    }
    Ok(id)
}

/// Why the nil UUID is refused.
const NIL: &str =
    "a provision's id is not the nil UUID, which is what an unset variable looks like";

pub(super) fn encode_cursor(last: &ProvisionView) -> String {
    spell_cursor(Position {
        created_at: last.created_at,
        id: last.id,
    })
}

pub(super) fn spell_cursor(position: Position) -> String {
    let micros = position.created_at.timestamp_micros();
    BASE64_URL_SAFE_NO_PAD.encode(format!("{micros}.{}", position.id))
}

pub(super) fn decode_cursor(cursor: &str) -> Option<Position> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (micros, id) = text.split_once('.')?;
    let position = Position {
        // An unsigned parse: Postgres has no time as far back as chrono.
        created_at: DateTime::from_timestamp_micros(micros.parse::<u64>().ok()?.try_into().ok()?)?,
        id: id.parse().ok()?,
    };
    // One spelling each.
    (spell_cursor(position) == cursor).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_cursors_decode() {
        let text = "1700000000123456.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a";
        let position = decode_cursor(&BASE64_URL_SAFE_NO_PAD.encode(text)).unwrap();
        assert_eq!(
            position.created_at.timestamp_micros(),
            1_700_000_000_123_456
        );
        for text in [
            "",
            "1",
            "1.2",
            "x.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a",
            "-1.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a",
            "+1.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a",
            "01.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a",
            "1.{0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a}",
            "9223372036854775807.0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a",
        ] {
            assert_eq!(
                decode_cursor(&BASE64_URL_SAFE_NO_PAD.encode(text)),
                None,
                "{text}"
            );
            assert_eq!(decode_cursor(text), None, "{text}");
        }
    }
}
