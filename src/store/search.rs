//! Finds provisions by what people have in hand: an agent's name, an id, an address, a run.
//!
//! Every way of finding has an index, or looks at a bounded number of rows.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::views::{Position, ProvisionView, RollbackState, provisions_with_ids};
use super::{StoreError, interval};
use crate::domain::fields::Address;
use crate::domain::transition::Status;

/// What is looked for. Everything that is `None` does not restrict.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// With this status.
    pub status: Option<Status>,
    /// With exactly this agent id.
    pub agent_id: Option<String>,
    /// Whose rollback stands so.
    pub rollback: Option<RollbackState>,
    /// Which of these a person meant is found out by looking.
    pub text: Option<Text>,
}

/// A page of what was found, newest first.
#[derive(Debug)]
pub struct Found {
    /// At most as many as were asked for.
    pub provisions: Vec<ProvisionView>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// A search text, by what it could be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The beginning of an agent's id, or a part of it.
    pub agent: String,
    /// First and last of the provision ids that begin so.
    pub ids: Option<(Uuid, Uuid)>,
    /// The address of a server or a device.
    pub ip: Option<Address>,
    /// The id of a server or a run.
    pub number: Option<i64>,
}

/// Provisions that begin so, are called so or hang together with that: so many are considered.
const MOST_EXACT: i64 = 200;
/// A part of an agent's id is looked for in this many provisions, the newest.
const NEWEST: i64 = 5000;

/// A page of `limit` after that position.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn search(
    db: &mut PgConnection,
    search: &Search,
    after: Option<Position>,
    limit: u32,
    stuck_after: Duration,
) -> Result<Found, StoreError> {
    let mut transaction = db.begin().await?;
    // A plan for whatever could be asked is one that walks all provisions.
    sqlx::query!("set local plan_cache_mode = force_custom_plan")
        .execute(&mut *transaction)
        .await?;
    let exact = match &search.text {
        Some(text) => Some(exact(&mut transaction, text).await?),
        None => None,
    };
    let prefix = search
        .text
        .as_ref()
        .map(|text| format!("{}%", literal(&text.agent)));
    let status = search.status.map(|status| status.to_string());
    let (after_at, after_id) = (after.map(|it| it.created_at), after.map(|it| it.id));
    let agent_id = search.agent_id.as_deref();
    let mut ids = match search.rollback {
        Some(RollbackState::Pending | RollbackState::Stuck) => {
            sqlx::query_scalar!(
                r#"
                select p.id
                from (
                    select provision_id,
                           bool_or(stuck_at is not null
                                   or unsettled_since <= (select backstop_now()) - $8::interval)
                               as stuck
                    from steps
                    where next_at is not null
                    group by provision_id
                ) unsettled
                join provisions p on p.id = unsettled.provision_id
                where unsettled.stuck = $7
                  and ($1::text is null or p.status = $1)
                  and ($2::text is null or lower(p.agent_id) like $2 or p.id = any ($3::uuid[]))
                  and ($4::timestamptz is null or (p.created_at, p.id) < ($4, $5::uuid))
                  and ($9::text is null or p.agent_id = $9)
                order by p.created_at desc, p.id desc
                limit $6
                "#,
                status,
                prefix,
                exact.as_deref(),
                after_at,
                after_id,
                i64::from(limit) + 1,
                search.rollback == Some(RollbackState::Stuck),
                interval(stuck_after),
                agent_id,
            )
            .fetch_all(&mut *transaction)
            .await?
        }
        Some(RollbackState::Done) | None => {
            sqlx::query_scalar!(
                r#"
                select p.id
                from provisions p
                where ($1::text is null or p.status = $1)
                  and ($2::text is null or lower(p.agent_id) like $2 or p.id = any ($3::uuid[]))
                  and ($4::timestamptz is null or (p.created_at, p.id) < ($4, $5::uuid))
                  and ($8::text is null or p.agent_id = $8)
                  and (not $7::boolean
                       or (select true from attempts a
                           where a.provision_id = p.id and a.reason is not null
                           limit 1)
                          and (select true from steps s
                               where s.provision_id = p.id and s.settled_at is null
                               limit 1) is null)
                order by p.created_at desc, p.id desc
                limit $6
                "#,
                status,
                prefix,
                exact.as_deref(),
                after_at,
                after_id,
                i64::from(limit) + 1,
                search.rollback.is_some(),
                agent_id,
            )
            .fetch_all(&mut *transaction)
            .await?
        }
    };
    let more = ids.len() > limit as usize;
    ids.truncate(limit as usize);
    let provisions = in_order(&mut transaction, &ids, stuck_after).await?;
    transaction.commit().await?;
    Ok(Found { provisions, more })
}

/// Those of these provisions that there are, in this order.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn in_order(
    db: &mut PgConnection,
    ids: &[Uuid],
    stuck_after: Duration,
) -> Result<Vec<ProvisionView>, StoreError> {
    let mut found = provisions_with_ids(db, ids, stuck_after).await?;
    found.sort_by_key(|provision| ids.iter().position(|id| *id == provision.id));
    Ok(found)
}

/// Provisions that a text names, but for those whose agent's id begins with it.
async fn exact(db: &mut PgConnection, text: &Text) -> Result<Vec<Uuid>, StoreError> {
    let (first, last) = text.ids.unzip();
    Ok(sqlx::query_scalar!(
        r#"
        (select id as "id!" from provisions where id between $1 and $2 limit $7)
        union
        (select provision_id from attempts where run_id = $3 limit $7)
        union
        (select provision_id from attempts where server_id = $3::bigint::text limit $7)
        union
        (select provision_id from attempts where server_ip = $4 limit $7)
        union
        (select provision_id from attempts where tailscale_ip = $4 limit $7)
        union
        (select id
         from (select id, agent_id from provisions order by created_at desc, id desc limit $6) newest
         where lower(agent_id) like $5
         limit $7)
        "#,
        first,
        last,
        text.number,
        text.ip.map(|ip| ip.to_string()),
        format!("%{}%", literal(&text.agent)),
        NEWEST,
        MOST_EXACT,
    )
    .fetch_all(db)
    .await?)
}

/// A text as `like` takes it for itself, in lower case.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

impl Text {
    /// What a text could be. `None` for one that is empty, or that no database could hold.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.contains('\0') {
            return None;
        }
        Some(Self {
            agent: text.to_owned(),
            ids: ids(text),
            ip: text.parse().ok(),
            number: text.parse().ok().filter(|number| *number > 0),
        })
    }
}

/// Fewer hex digits than this are no beginning of an id.
const FEWEST_DIGITS: usize = 4;

/// First and last of the ids that begin with a text. A server's name begins with `agent-` and has
/// the number of an attempt at its end.
fn ids(text: &str) -> Option<(Uuid, Uuid)> {
    let text = text.strip_prefix("agent-").unwrap_or(text);
    let text = text
        .split_once("-a")
        .filter(|(id, _)| id.len() == 32)
        .map_or(text, |(id, _)| id);
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    // The parser below takes a sign.
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex || !(FEWEST_DIGITS..=32).contains(&digits.len()) {
        return None;
    }
    let edge = |fill: &str| {
        let rest = fill.repeat(32 - digits.len());
        u128::from_str_radix(&format!("{digits}{rest}"), 16).map(Uuid::from_u128)
    };
    Some((edge("0").ok()?, edge("f").ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_a_range_of_ids() {
        let id: Uuid = "0192f0c1-2b3c-7d4e-8f5a-6b7c8d9e0f1a".parse().unwrap();
        for text in [
            "0192",
            "0192f0c1",
            "0192f0c1-2b3c-7",
            "0192F0C1-2B3C-7D4E-8F5A-6B7C8D9E0F1A",
            "0192f0c12b3c7d4e8f5a6b7c8d9e0f1a",
            "agent-0192f0c12b3c7d4e8f5a6b7c8d9e0f1a-a3",
        ] {
            let (first, last) = ids(text).expect(text);
            assert!(first <= id && id <= last, "{text}");
        }
        for text in [
            "",
            "019",
            "+192f",
            "web-1",
            "----",
            "0192f0c12b3c7d4e8f5a6b7c8d9e0f1a0",
        ] {
            assert_eq!(ids(text), None, "{text}");
        }
    }

    #[test]
    fn what_like_takes_for_a_pattern_is_meant_as_it_is_written() {
        assert_eq!(literal(r"Web_1%\"), r"web\_1\%\\");
    }
}
