//! What the database knows, read after the vendors' lists were begun.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::names::{AttemptNumber, Names, ProvisionId, Run};
use crate::domain::orphans::{Claim, Ground, Known, Orphan, Pursuit, Sighting, Standing};
use crate::domain::step::Resource;
use crate::store::StoreError;
use crate::store::hearing::is_held;
use crate::store::rows::Place;

/// The ground on which lists begun at `listed_at` are judged.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn ground(db: &mut PgConnection, listed_at: DateTime<Utc>) -> Result<Ground, StoreError> {
    let held = is_held(db).await?;
    let row = sqlx::query!(
        r#"select created_at, exists (select from provisions) as "any!" from controller"#
    )
    .fetch_one(db)
    .await?;
    Ok(Ground {
        listed_at,
        database_since: row.created_at,
        standing: match (held, row.any) {
            (true, _) => Standing::Held,
            (false, false) => Standing::Empty,
            (false, true) => Standing::Sound,
        },
    })
}

/// What is known of the attempt that each of these names, in their order.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn known(db: &mut PgConnection, seen: &[Sighting]) -> Result<Vec<Known>, StoreError> {
    let names: Vec<Option<Names>> = seen.iter().map(|thing| thing.claim.names()).collect();
    let provisions: Vec<Option<Uuid>> = names
        .iter()
        .map(|names| names.map(|names| names.provision().as_uuid()))
        .collect();
    let attempts: Vec<Option<i32>> = names
        .iter()
        .map(|names| names.map(|names| names.attempt().as_i32()))
        .collect();
    let kinds: Vec<String> = seen.iter().map(|thing| thing.kind.to_string()).collect();
    let ids: Vec<String> = seen.iter().map(|thing| thing.id.to_string()).collect();
    let rows = sqlx::query_as!(
        KnownRow,
        r#"
        select p.attempt as "current?",
               p.disowned_at is not null as "disowned!",
               a.number as "number?",
               a.run_id as "run_id?",
               a.run_attempt as "run_attempt?",
               a.reason is not null as "over!",
               (own.id is not null and own.settled_at is null)
                   or (search.id is not null and search.settled_at is null) as "unsettled!",
               own.stuck_at is not null or search.stuck_at is not null as "stuck!",
               own.settled_at as "settled_at?"
        from unnest($1::uuid[], $2::integer[], $3::text[], $4::text[])
                 with ordinality as s (provision, attempt, kind, vendor_id, n)
        left join provisions p on p.id = s.provision
        left join attempts a on a.provision_id = p.id and a.number = s.attempt
        left join steps own
               on own.provision_id = a.provision_id and own.attempt = a.number
              and own.resource = s.kind and own.vendor_id = s.vendor_id and not own.searches
        left join steps search
               on search.provision_id = a.provision_id and search.attempt = a.number
              and search.resource = s.kind and search.searches
        order by s.n
        "#,
        &provisions as &[Option<Uuid>],
        &attempts as &[Option<i32>],
        &kinds,
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(seen
        .iter()
        .zip(rows)
        .map(|(thing, row)| row.read(thing.claim))
        .collect())
}

#[expect(clippy::struct_excessive_bools, reason = "one each for a column")]
struct KnownRow {
    current: Option<i32>,
    disowned: bool,
    number: Option<i32>,
    run_id: Option<i64>,
    run_attempt: Option<i32>,
    over: bool,
    unsettled: bool,
    stuck: bool,
    settled_at: Option<DateTime<Utc>>,
}

impl KnownRow {
    fn read(self, claim: Claim) -> Known {
        let (Some(current), Some(names)) = (self.current, claim.names()) else {
            return Known::Nothing;
        };
        if self.disowned {
            return Known::Disowned;
        }
        let Some(number) = self.number else {
            // Attempts are numbered without a gap, but where one was taken over from a list.
            return if names.attempt().as_i32() < current {
                Known::Nothing
            } else {
                Known::NotThisAttempt
            };
        };
        let owner = self
            .run_id
            .zip(self.run_attempt)
            .map(|(id, attempt)| Run { id, attempt });
        let pursuit = match self.settled_at {
            _ if self.stuck => Pursuit::Stuck,
            _ if self.unsettled => Pursuit::UnderWay,
            Some(at) => Pursuit::EndedAt(at),
            None => Pursuit::None,
        };
        match claim {
            Claim::Labels(_, run) if owner != Some(run) => Known::NotThisAttempt,
            _ if !self.over => Known::Live,
            _ if number == current => Known::Over(pursuit),
            _ => Known::Older(pursuit),
        }
    }
}

/// The most that is told of provisions without a server; where more are, something else is wrong.
const MOST_WITHOUT: i64 = 1000;

/// The provisions that ran before `listed_at` and whose attempt no server in the list names.
///
/// # Errors
/// [`StoreError`] if the database cannot be read or holds what does not parse.
pub async fn running_without_server(
    db: &mut PgConnection,
    servers: &[Names],
    listed_at: DateTime<Utc>,
) -> Result<Vec<Orphan>, StoreError> {
    let provisions: Vec<Uuid> = servers.iter().map(|it| it.provision().as_uuid()).collect();
    let attempts: Vec<i32> = servers.iter().map(|it| it.attempt().as_i32()).collect();
    let rows = sqlx::query!(
        r#"
        select p.id, p.attempt, a.server_id as "server_id!", a.run_id as "run_id!",
               a.run_attempt as "run_attempt!"
        from provisions p
        join attempts a on a.provision_id = p.id and a.number = p.attempt
        where p.status = 'running' and a.finished_at < $3 and a.server_id is not null
          and not exists (
              select from unnest($1::uuid[], $2::integer[]) as s (provision, attempt)
              where s.provision = p.id and s.attempt = p.attempt
          )
        order by a.finished_at, p.id
        limit $4
        "#,
        &provisions,
        &attempts,
        listed_at,
        MOST_WITHOUT,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let place = Place {
                table: "attempts",
                id: format!("{} attempt {}", row.id, row.attempt),
            };
            let id = place.vendor_id("server_id", Resource::Server, Some(&row.server_id))?;
            let (Some(id), Some(number)) = (id, AttemptNumber::new(row.attempt)) else {
                return Err(place.corrupt("number", "is negative"));
            };
            let run = Run {
                id: row.run_id,
                attempt: row.run_attempt,
            };
            let names = Names::new(ProvisionId::new(row.id), number);
            Ok(Orphan::running_without_server(names, run, id))
        })
        .collect()
}
