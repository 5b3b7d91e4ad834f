//! Tells workers and waiting callers that something changed, here and in other replicas.
//!
//! A change says "look", never what to do. It is announced after the commit, here at once and to
//! the other replicas in batches, because Postgres serialises commits that notify. A lost
//! announcement costs time, nothing else: whoever waits for one also looks by the clock.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::time::Duration;

use sqlx::Acquire;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::StoreError;
use super::connection::{Pool, answered, in_time, is_alive};
use crate::domain::names::ProvisionId;

const CHANNEL: &str = "backstop_ledger";
/// Provisions that wait to be announced to other replicas, and announcements a slow reader may
/// miss before it looks anyway.
const BACKLOG: usize = 1024;
const RECONNECT_AFTER: Duration = Duration::from_secs(2);
/// How long nothing may be heard before the connection is asked whether it is alive.
const QUIET: Duration = Duration::from_secs(10);
/// How long anything that is asked may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Announces changes and hears of them.
#[derive(Debug, Clone)]
pub struct Changes {
    here: broadcast::Sender<ProvisionId>,
    elsewhere: mpsc::Sender<ProvisionId>,
}

impl Changes {
    /// Starts listening; ends when `stop` is cancelled.
    #[must_use]
    pub fn start(pool: Pool, tracker: &TaskTracker, stop: CancellationToken) -> Self {
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

    /// Hears of every change from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.here.subscribe())
    }
}

/// Hears of changes, for whoever looks at the ledger again and again. To be made before the first
/// look, so that no change after it goes unheard.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<ProvisionId>);

impl Subscription {
    /// Forgets what was announced up to now: the look that follows sees it.
    pub fn forget(&mut self) {
        while !matches!(
            self.0.try_recv(),
            Err(TryRecvError::Empty | TryRecvError::Closed)
        ) {}
    }

    /// Until something changes, or too much has changed to say what.
    pub async fn changed(&mut self) {
        self.next().await;
    }

    /// Until this provision changes, or too much has changed to say what.
    pub async fn changed_of(&mut self, id: ProvisionId) {
        while self.next().await.is_some_and(|other| other != id) {}
    }

    /// Until something changes after `at_least`, or `at_most` has passed.
    pub async fn wait(&mut self, at_least: Duration, at_most: Duration) {
        let changed = async {
            tokio::time::sleep(at_least).await;
            self.changed().await;
        };
        // Either way it is time to look.
        let _ = tokio::time::timeout(at_most, changed).await;
    }

    /// What changes next; `None`: too much to say what.
    async fn next(&mut self) -> Option<ProvisionId> {
        match self.0.recv().await {
            Ok(id) => Some(id),
            Err(RecvError::Lagged(_)) => None,
            // Nobody is left who could announce anything: the clock will do.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn listen(pool: Pool, here: broadcast::Sender<ProvisionId>) {
    loop {
        let Err(error) = hear(&pool, &here).await;
        tracing::warn!(%error, "not hearing other replicas; listening again soon");
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

/// Until the connection is lost, or does not answer any more.
///
/// It is a connection beside the pool's. A listener that is dropped says so to the server before it
/// gives its connection back, and at a server that is silently gone that would keep a place in the
/// pool until the system gives the connection up, a quarter of an hour later.
async fn hear(
    pool: &Pool,
    here: &broadcast::Sender<ProvisionId>,
) -> Result<Infallible, sqlx::Error> {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(pool.unbounded().connect_options().as_ref().clone());
    let mut listener = answered(ANSWER_PATIENCE, PgListener::connect_with(&own)).await?;
    listener.eager_reconnect(false);
    answered(ANSWER_PATIENCE, listener.listen(CHANNEL)).await?;
    loop {
        match tokio::time::timeout(QUIET, listener.try_recv()).await {
            Ok(heard) => {
                let heard = heard?.ok_or_else(|| lost("the connection was closed"))?;
                if let Ok(id) = heard.payload().parse() {
                    let _ = here.send(id);
                }
            }
            Err(_) if is_alive(listener.acquire().await?).await => {}
            Err(_) => return Err(lost("the connection does not answer")),
        }
    }
}

fn lost(how: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionAborted, how))
}

async fn send(pool: Pool, mut outgoing: mpsc::Receiver<ProvisionId>) {
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, BACKLOG).await > 0 {
        let ids: BTreeSet<Uuid> = batch.drain(..).map(ProvisionId::as_uuid).collect();
        let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let sent = in_time(async {
            let mut db = pool.acquire().await?;
            sqlx::query!(
                r#"select pg_notify($1, id) as "sent!: ()" from unnest($2::text[]) id"#,
                CHANNEL,
                &ids
            )
            .fetch_all(&mut *db)
            .await?;
            Ok::<(), StoreError>(())
        });
        if let Err(error) = sent.await {
            tracing::warn!(%error, "other replicas were not told of a change; they will see it");
        }
    }
}
