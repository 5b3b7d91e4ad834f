//! Machines that should be running: what a credential must show us before an absence counts.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::names::{AttemptNumber, ProvisionId};

/// A provision that runs, and the server that its workflow reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningServer {
    /// The provision.
    pub provision: ProvisionId,
    /// The server's id.
    pub server_id: String,
}

/// The newest of those that run, at most `limit`.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn newest_servers(
    db: &mut PgConnection,
    limit: u32,
) -> Result<Vec<RunningServer>, StoreError> {
    let rows = sqlx::query!(
        r#"
        select p.id, a.server_id as "server_id!"
        from provisions p
        join attempts a on a.provision_id = p.id and a.number = p.attempt
        where p.status = 'running' and a.server_id is not null
        order by p.created_at desc
        limit $1
        "#,
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| RunningServer {
            provision: ProvisionId::new(row.id),
            server_id: row.server_id,
        })
        .collect())
}

/// Whether one of these servers is one that should be running.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn includes_server(db: &mut PgConnection, ids: &[String]) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        select exists (
            select from provisions p
            join attempts a on a.provision_id = p.id and a.number = p.attempt
            where p.status = 'running' and a.server_id = any($1)
        ) as "there!"
        "#,
        ids,
    )
    .fetch_one(db)
    .await?)
}

/// A provision that runs in the tailnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningDevice {
    /// The provision.
    pub provision: ProvisionId,
    /// Its attempt, which names the device.
    pub attempt: AttemptNumber,
    /// The device's node id, if its workflow reported it.
    pub node_id: Option<String>,
}

/// All that run in the tailnet. Not by their addresses: another tailnet gives out the same.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn devices(db: &mut PgConnection) -> Result<Vec<RunningDevice>, StoreError> {
    let rows = sqlx::query!(
        "select p.id, p.attempt, a.tailscale_node_id
         from provisions p
         join attempts a on a.provision_id = p.id and a.number = p.attempt
         where p.status = 'running'
           -- An address that could not be read is not kept; the device is there all the same.
           and (a.tailscale_ip is not null or a.tailscale_node_id is not null)"
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| RunningDevice {
            provision: ProvisionId::new(row.id),
            attempt: AttemptNumber::new(row.attempt).unwrap_or_default(),
            node_id: row.tailscale_node_id,
        })
        .collect())
}

/// Whether all of these still should be running.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn all_still_run(
    db: &mut PgConnection,
    provisions: &[ProvisionId],
) -> Result<bool, StoreError> {
    let ids: Vec<Uuid> = provisions.iter().map(|id| id.as_uuid()).collect();
    Ok(sqlx::query_scalar!(
        r#"
        select not exists (
            select from provisions where id = any($1) and status <> 'running'
        ) as "all!"
        "#,
        &ids,
    )
    .fetch_one(db)
    .await?)
}
