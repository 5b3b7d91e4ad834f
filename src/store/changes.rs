//! Tells workers and waiting callers that something changed, here and in other replicas.
//!
//! A change says "look", never what to do. It is announced after the commit, here at once and to
//! the other replicas in batches, because Postgres serialises commits that notify. A lost
//! announcement costs time, nothing else: whoever waits for one also looks by the clock.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::domain::names::ProvisionId;

const CHANNEL: &str = "backstop_ledger";
/// Provisions that wait to be announced to other replicas, and announcements a slow reader may
/// miss before it looks anyway.
const BACKLOG: usize = 1024;
const RECONNECT_AFTER: Duration = Duration::from_secs(2);

/// Announces changes and hears of them.
#[derive(Debug, Clone)]
pub struct Changes {
    here: broadcast::Sender<ProvisionId>,
    elsewhere: mpsc::Sender<ProvisionId>,
}

impl Changes {
    /// Starts listening; ends when `stop` is cancelled.
    #[must_use]
    pub fn start(pool: PgPool, tracker: &TaskTracker, stop: CancellationToken) -> Self {
        let (here, _) = broadcast::channel(BACKLOG);
        let (elsewhere, outgoing) = mpsc::channel(BACKLOG);
        tracker.spawn(
            stop.clone()
                .run_until_cancelled_owned(listen(pool.clone(), here.clone())),
        );
        tracker.spawn(stop.run_until_cancelled_owned(send(pool, outgoing)));
        Self { here, elsewhere }
    }

    /// Says that the ledger of this provision changed. To be called after the commit.
    pub fn announce(&self, provision: ProvisionId) {
        // Nobody listening here, or a full backlog: they look by the clock.
        let _ = self.here.send(provision);
        let _ = self.elsewhere.try_send(provision);
    }

    /// From now on, every provision whose ledger changes.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<ProvisionId> {
        self.here.subscribe()
    }
}

async fn listen(pool: PgPool, here: broadcast::Sender<ProvisionId>) {
    loop {
        if let Err(error) = hear(&pool, &here).await {
            tracing::warn!(%error, "not hearing other replicas; listening again soon");
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

async fn hear(pool: &PgPool, here: &broadcast::Sender<ProvisionId>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        let notification = listener.recv().await?;
        if let Ok(id) = notification.payload().parse() {
            let _ = here.send(id);
        }
    }
}

async fn send(pool: PgPool, mut outgoing: mpsc::Receiver<ProvisionId>) {
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, BACKLOG).await > 0 {
        let ids: BTreeSet<Uuid> = batch.drain(..).map(ProvisionId::as_uuid).collect();
        let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let sent = sqlx::query!(
            r#"select pg_notify($1, id) as "sent!: ()" from unnest($2::text[]) id"#,
            CHANNEL,
            &ids
        )
        .fetch_all(&pool)
        .await;
        if let Err(error) = sent {
            tracing::warn!(%error, "other replicas were not told of a change; they will see it");
        }
    }
}
