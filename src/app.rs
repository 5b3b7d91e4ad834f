//! Builds the parts, runs them, stops them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::extract::Request;
use axum::middleware::{self, Next};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::check::{self, Credentials, Finding, Whose};
use crate::config::{Config, Database};
use crate::dispatch::Dispatcher;
use crate::http::failures::Failures;
use crate::http::feed::Feed;
use crate::http::serve::Limits;
use crate::http::{self, Api, router};
use crate::metrics::Metrics;
use crate::notices::Notifier;
use crate::postgres::{Durability, PrivatePostgres};
use crate::providers::Webhook;
use crate::retention::Forgetter;
use crate::rollback::worker::{Hands, Worker};
use crate::store::changes::Changes;
use crate::store::notices::Subscriber;
use crate::store::suits::{self, Unsuitable};
use crate::store::{Pool, StoreError, connect, controller_id, migrate};
use crate::sweep::periodic::Sweeper;
use crate::sweep::{Budgets, Vendors};
use crate::watch::overdue::Watcher;
use crate::watch::pulse::{Ended, Heart};
use crate::watch::shown::keep_shown;
use crate::witness::asker::Asker;

/// How long answers and steps in hand get when we stop. What is not done by then is done again
/// after the next start.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last answers get to be sent, and to be asked for by what had just come in.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The database, ours or somebody else's.
pub struct OpenDatabase {
    /// Connections.
    pub pool: Pool,
    /// The private server, if it is ours.
    private: Option<PrivatePostgres>,
}

impl OpenDatabase {
    /// Connects, starting the private Postgres if there is no other, and applies migrations.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn open(
        database: &Database,
        connections: u32,
        durability: Durability,
    ) -> anyhow::Result<Self> {
        let (options, private) = match database {
            Database::At(options) => (options.as_ref().clone(), None),
            Database::Private(folder) => {
                let private = PrivatePostgres::start(folder, durability).await?;
                tracing::info!(
                    folder = %folder.display(), version = private.version(),
                    "private Postgres is up"
                );
                (private.options(), Some(private))
            }
        };
        let unreachable = || match private {
            None => "DATABASE_URL: no connection",
            Some(_) => "the private Postgres does not take connections",
        };
        if private.is_none()
            && !suits::keeps_sessions(&options)
                .await
                .with_context(unreachable)?
        {
            bail!("DATABASE_URL: {}", Unsuitable::Pooled);
        }
        let pool = connect(options.clone(), connections)
            .await
            .with_context(unreachable)?;
        if let Some(why) = suits::unsuitable(&pool).await? {
            bail!("DATABASE_URL: {why}");
        }
        let pool = within_limits(pool, options, connections).await?;
        migrate(&pool)
            .await
            .context("the database cannot be migrated")?;
        Ok(Self { pool, private })
    }

    /// Waits until a private server ends by itself; forever if there is none.
    async fn lost(&mut self) -> anyhow::Error {
        match &mut self.private {
            Some(private) => private.ended().await.into(),
            None => std::future::pending().await,
        }
    }

    /// Closes connections and stops a private server.
    ///
    /// # Errors
    /// When the private server does not stop cleanly; its next start recovers.
    pub async fn close(self) -> anyhow::Result<()> {
        // Whoever still holds a connection by now is not waited for.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, self.pool.close()).await;
        if let Some(private) = self.private {
            private.stop().await?;
        }
        Ok(())
    }
}

/// The pool, smaller if there are fewer connections to be had than it wants: whoever asked for one more
/// would be refused, again and again, while others come back.
async fn within_limits(
    pool: Pool,
    options: PgConnectOptions,
    wanted: u32,
) -> Result<Pool, StoreError> {
    let room = suits::room(&mut *pool.acquire().await?).await?;
    let Some(too_little) = room.too_little_for(wanted) else {
        return Ok(pool);
    };
    tracing::warn!("{too_little}");
    pool.close().await;
    connect(options, room.for_pool(wanted)).await
}

/// The running service.
pub struct App {
    address: SocketAddr,
    database: OpenDatabase,
    http: JoinHandle<()>,
    calls: TaskTracker,
    heart: JoinHandle<Ended>,
    tracker: TaskTracker,
    intake: CancellationToken,
    work: CancellationToken,
    credentials: Credentials,
}

impl App {
    /// Starts everything; when this returns, calls are answered.
    ///
    /// # Errors
    /// One sentence that says what to do.
    #[expect(
        clippy::too_many_lines,
        reason = "the parts, in the order in which they begin"
    )]
    pub async fn start(config: Config, durability: Durability) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("BACKSTOP_LISTEN: cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        // Boxed: it holds much while it looks at the database, and nothing after.
        let opening = OpenDatabase::open(&config.database, config.database_connections, durability);
        let database = Box::pin(opening).await?;
        let pool = &database.pool;
        let controller = controller_id(pool).await?;

        let tracker = TaskTracker::new();
        let (intake, work) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Metrics::new();
        tracker.spawn(metrics.clone().upkeep(work.clone()));
        let changes = Changes::start(pool.clone(), &tracker, work.clone());
        config.tokens.tell();
        let tag = config.tailscale.as_ref().map(|(_, tag)| tag.clone());
        let stuck_after = config.rollback.stuck_after;
        let subscriber = subscriber(config.webhook, stuck_after, pool, &tracker, &work);
        let vendors = Vendors {
            hetzner: Arc::new(config.hetzner.counted_in(&metrics)),
            tailscale: config
                .tailscale
                .map(|(client, tag)| (Arc::new(client.counted_in(&metrics)), tag)),
            controller,
        };
        let proof = Arc::new(config.proof);
        let whose = match database.private {
            Some(_) => Whose::Ours,
            None => Whose::Theirs,
        };
        let mut credentials = Credentials {
            hetzner: vendors.hetzner.clone(),
            tailscale: vendors.tailscale.clone(),
            github: None,
            proof: proof.clone(),
            database: check::Database::Open(pool.clone(), whose, config.database_connections),
        };
        for hands in hands(&vendors) {
            let worker = Worker::new(
                pool.clone(),
                changes.clone(),
                metrics.clone(),
                config.rollback,
                hands,
                controller,
                work.clone(),
            );
            tracker.spawn(worker.telling(subscriber).run(tracker.clone()));
        }
        let managed = vendors.managed();
        let github = config
            .github
            .map(|github| Arc::new(github.counted_in(&metrics)));
        credentials.github.clone_from(&github);
        let outbox = github.clone().map(|github| {
            Dispatcher::new(
                pool.clone(),
                changes.clone(),
                config.rollback.retry,
                github,
                work.clone(),
            )
        });
        let asker = github.map(|github| {
            Asker::new(
                pool.clone(),
                changes.clone(),
                metrics.clone(),
                config.watch.patience,
                github,
                managed,
                work.clone(),
            )
        });
        let watcher = Watcher::new(
            pool.clone(),
            changes.clone(),
            config.watch.patience,
            managed,
            work.clone(),
        );
        let sweeper = Sweeper::new(
            pool.clone(),
            changes.clone(),
            config.sweep,
            vendors,
            Budgets::new(pool, config.rollback.rate_reserve),
            work.clone(),
        )
        .telling(subscriber);
        if let Some(keep_for) = config.event_retention {
            let forgetter = Forgetter::new(pool.clone(), keep_for, work.clone());
            tracker.spawn(forgetter.run());
        }
        let stuck_after = config.rollback.stuck_after;
        let api = Api {
            pool: pool.clone(),
            feed: follow(pool, &changes, stuck_after, &tracker, &intake),
            changes,
            proof,
            tokens: Arc::new(config.tokens),
            failures: Arc::new(Failures::new(config.failures)),
            origins: config.origins,
            webhooks: config.webhooks.map(Arc::new),
            controller,
            tailscale_tag: tag,
            dispatches: outbox.is_some(),
            managed,
            provision_timeout: config.provision_timeout,
            stuck_after,
            page: config.page,
            metrics,
            counted: Arc::default(),
            stop: intake.clone(),
        };
        let calls = TaskTracker::new();
        let http = serve(listener, api, config.limits, calls.clone(), intake.clone());
        // Only now can callbacks be heard; and only once that is known may one be missed.
        let begun = CancellationToken::new();
        let heart = Heart::new(pool.clone(), config.watch, controller, intake.clone());
        let heart = tokio::spawn(heart.run(begun.clone()));
        tracker.spawn(watcher.run(begun.clone()));
        tracker.spawn(sweeper.run(begun.clone()));
        if let Some(asker) = asker {
            tracker.spawn(asker.run(begun.clone()));
        }
        if let Some(outbox) = outbox {
            tracker.spawn(outbox.run(tracker.clone(), begun));
        }
        tracing::info!(%address, controller.id = %controller, "listening on http://{address}");
        Ok(Self {
            address,
            database,
            http,
            calls,
            heart,
            tracker,
            intake,
            work,
            credentials,
        })
    }

    /// Has the log say, beside all else, what is amiss with the credentials and what `own` found.
    pub fn check_credentials(&self, own: Vec<Finding>) {
        let looking = check::look_and_log(own, self.credentials.clone());
        let stop = self.work.clone();
        self.tracker.spawn(stop.run_until_cancelled_owned(looking));
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The database's connections.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.database.pool
    }

    /// Runs until `stop` is ready, then stops in order.
    ///
    /// # Errors
    /// When the service cannot go on.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let lost = tokio::select! {
            () = stop => None,
            lost = self.database.lost() => Some(lost),
            ended = &mut self.http => Some(match ended {
                Ok(()) => anyhow::anyhow!("the HTTP server ended by itself"),
                Err(error) => anyhow::Error::new(error).context("the HTTP server ended"),
            }),
            ended = &mut self.heart => Some(match ended {
                Ok(Ended::OtherController) => anyhow::anyhow!(
                    "this database has become another controller: start again"
                ),
                Ok(Ended::Closed) => anyhow::anyhow!("the intake was closed"),
                Err(error) => anyhow::Error::new(error).context("the pulse ended"),
            }),
        };
        match lost {
            None => self.stop().await,
            Some(lost) => {
                self.intake.cancel();
                self.work.cancel();
                Err(lost)
            }
        }
    }

    /// Closes the intake, finishes what is in hand, closes the database.
    ///
    /// # Errors
    /// When a private Postgres does not stop cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.intake.cancel();
        // Not after the last answer: a caller who is slow must not take the steps' time.
        self.work.cancel();
        self.calls.close();
        self.tracker.close();
        let in_hand = async {
            tokio::join!(
                answered(self.http, &self.calls),
                self.tracker.wait(),
                self.heart
            )
        };
        if tokio::time::timeout(STOP_PATIENCE, in_hand).await.is_err() {
            tracing::warn!("stopping with work in hand; it is taken up again at the next start");
        }
        self.database.close().await
    }
}

/// What the stream tells, until `stop` is cancelled.
fn follow(
    pool: &Pool,
    changes: &Changes,
    stuck_after: Duration,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Feed {
    let feed = Feed::new(pool.clone(), changes.clone(), stuck_after);
    tracker.spawn(feed.clone().follow(stop.clone()));
    tracker.spawn(keep_shown(pool.clone(), stuck_after, stop.clone()));
    feed
}

/// One for each vendor that there is.
fn hands(vendors: &Vendors) -> impl Iterator<Item = Hands> {
    let tailscale = vendors.tailscale.clone();
    let tailscale = tailscale.map(|(client, tag)| Hands::Tailscale { client, tag });
    [Some(Hands::Hetzner(vendors.hetzner.clone())), tailscale]
        .into_iter()
        .flatten()
}

/// Who is told what happens; starts telling them.
fn subscriber(
    webhook: Option<Webhook>,
    stuck_after: Duration,
    pool: &Pool,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Subscriber {
    let Some(webhook) = webhook else {
        return Subscriber::Nobody;
    };
    let notifier = Notifier::new(pool.clone(), webhook, stuck_after, stop.clone());
    tracker.spawn(notifier.run());
    Subscriber::Webhook
}

/// Serves calls until the intake is closed. Each is in `calls` until it is answered.
fn serve(
    listener: TcpListener,
    api: Api,
    limits: Limits,
    calls: TaskTracker,
    intake: CancellationToken,
) -> JoinHandle<()> {
    let metrics = api.metrics.clone();
    let tracked = move |request: Request, next: Next| calls.track_future(next.run(request));
    let router = router(api).layer(middleware::from_fn(tracked));
    tokio::spawn(http::serve::serve(
        listener, router, limits, metrics, intake,
    ))
}

/// Waits until every call is answered. Connections on which nothing is asked close by themselves;
/// those on which a question never ends are not waited for.
async fn answered(http: JoinHandle<()>, calls: &TaskTracker) {
    let no_more = async {
        loop {
            calls.wait().await;
            tokio::time::sleep(LAST_WORDS).await;
            if calls.is_empty() {
                break;
            }
        }
    };
    tokio::select! {
        _ = http => {}
        () = no_more => {}
    }
}
