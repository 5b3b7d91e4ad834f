//! Follows what changes, once for all readers of the stream.
//!
//! One task a replica reads the feed and hands the same bytes to every reader, so that one who waits
//! costs no query and no copy. While nobody reads nothing is followed. A reader that falls too far
//! behind is let go: it comes back and catches up from the database, where only the newest state of
//! each provision is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::changes::{Changes, Subscription};
use crate::store::feed::{self, Piece, Position, Then};
use crate::store::{Pool, StoreError, in_time};

/// Most changes that are read at once.
const PIECE: u32 = 200;
/// Pieces that a reader may be behind before it is let go.
const BACKLOG: usize = 64;
/// How often the feed is looked at without having heard that something changed: so late is what
/// another replica wrote and did not announce.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause between two looks; what changes meanwhile is told together.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(50);
/// How often readers are told that they missed nothing: at least every 15 s.
const COMMENT_EVERY: Duration = Duration::from_secs(14);
/// How long the database may be away before readers are let go.
const AWAY_PATIENCE: Duration = Duration::from_secs(15);
/// Readers that catch up at the same time. When thousands come back at once they must leave
/// connections to callbacks.
const CATCHING_UP: usize = 2;

/// What a reader is handed.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// Changes.
    Frames(Arc<Frames>),
    /// Up to now there was nothing that the reader was not told.
    Comment,
}

/// Changes as they are sent.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: Bytes,
    /// Where each change begins.
    starts: Vec<(Position, usize)>,
    /// Where the next ones begin.
    pub(super) end: Position,
}

impl Frames {
    fn of(piece: &Piece) -> Self {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for (position, provision) in &piece.changed {
            starts.push((*position, bytes.len()));
            bytes.extend_from_slice(format!("event: provision\nid: {position}\ndata: ").as_bytes());
            serde_json::to_writer(&mut bytes, provision).expect("a view is JSON");
            bytes.extend_from_slice(b"\n\n");
        }
        Self {
            bytes: bytes.into(),
            starts,
            end: piece.end,
        }
    }

    /// What comes after this position.
    pub(super) fn after(&self, position: Position) -> Bytes {
        let known = self.starts.partition_point(|(at, _)| *at <= position);
        let from = self.starts.get(known).map(|(_, start)| *start);
        self.bytes.slice(from.unwrap_or(self.bytes.len())..)
    }
}

/// The feed, as readers of the stream share it.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    changes: Changes,
    stuck_after: Duration,
    followed: Mutex<Followed>,
    look: Notify,
    catching_up: Semaphore,
}

#[derive(Debug)]
struct Followed {
    readers: broadcast::Sender<Message>,
    /// Readers have been handed everything up to here; `None` while nobody reads.
    up_to: Option<Position>,
    /// The service stops: nobody is handed anything any more.
    stopped: bool,
}

impl Feed {
    /// A feed that nobody reads yet.
    #[must_use]
    pub fn new(pool: Pool, changes: Changes, stuck_after: Duration) -> Self {
        Self(Arc::new(Shared {
            pool,
            changes,
            stuck_after,
            followed: Mutex::new(Followed {
                readers: broadcast::channel(BACKLOG).0,
                up_to: None,
                stopped: false,
            }),
            look: Notify::new(),
            catching_up: Semaphore::new(CATCHING_UP),
        }))
    }

    /// Says that something that is shown changed, here.
    pub(super) fn look(&self) {
        self.0.look.notify_one();
    }

    /// Where a reader begins that asks to resume after `asked`. A position that this database has not
    /// come to is of one that it was restored from, or of another: such a reader is told everything.
    pub(super) async fn begin(&self, asked: Option<Position>) -> Result<Position, StoreError> {
        let _permit = self.0.catching_up.acquire().await;
        let mut db = self.0.pool.acquire().await?;
        let end = feed::end(&mut db).await?;
        Ok(match asked {
            None => end,
            Some(asked) if asked > end => Position::BEGINNING,
            Some(asked) => asked,
        })
    }

    /// What changed after this position, for a reader that catches up. `None` when the database is
    /// away or the service stops.
    pub(super) async fn catch_up(&self, from: Position) -> Option<(Frames, Then)> {
        let _permit = self.0.catching_up.acquire().await;
        if self.followed().stopped {
            return None;
        }
        let read = self.read(from).await;
        read.inspect_err(|error| tracing::warn!(%error, "a reader of the stream is let go"))
            .ok()
    }

    /// A reader that knows everything up to `position` is handed what comes later; and how far the
    /// readers have come that are there already. What lies between the two it has to read itself.
    /// `None` when the service stops.
    pub(super) fn join(
        &self,
        position: Position,
    ) -> Option<(broadcast::Receiver<Message>, Position)> {
        let joined = {
            let mut followed = self.followed();
            let up_to = *followed.up_to.get_or_insert(position);
            (!followed.stopped).then(|| (followed.readers.subscribe(), up_to))
        };
        self.look();
        joined
    }

    /// Follows what changes until stopped; then every reader's stream ends.
    pub async fn follow(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow_for_ever()).await;
        self.followed().stopped = true;
        self.let_go();
    }

    async fn follow_for_ever(&self) {
        let mut changes = self.0.changes.subscribe();
        let mut pause = LOOK_EVERY;
        let mut held_up = LOOK_AT_MOST_EVERY;
        let mut looked_at = Instant::now();
        let mut commented_at = Instant::now();
        loop {
            self.wait(pause, &mut changes).await;
            changes.forget();
            let Some(from) = self.readers_know() else {
                (looked_at, commented_at) = (Instant::now(), Instant::now());
                pause = Duration::MAX;
                continue;
            };
            match self.hand_on(from).await {
                Ok(then) => {
                    (pause, held_up) = match then {
                        // What has taken long takes longer.
                        Then::HeldUp => (held_up, LOOK_EVERY.min(2 * held_up)),
                        Then::Nothing | Then::More => (LOOK_EVERY, LOOK_AT_MOST_EVERY),
                    };
                    looked_at = Instant::now();
                    if commented_at.elapsed() >= COMMENT_EVERY {
                        let _ = self.followed().readers.send(Message::Comment);
                        commented_at = looked_at;
                    }
                }
                Err(error) if looked_at.elapsed() >= AWAY_PATIENCE => {
                    tracing::warn!(%error, "the stream ends: what changes cannot be read");
                    self.let_go();
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read what changed; trying again soon");
                    pause = LOOK_EVERY;
                }
            }
        }
    }

    /// Until that long has passed, or something changes.
    async fn wait(&self, pause: Duration, changes: &mut Subscription) {
        let told_to_look = async {
            tokio::time::sleep(LOOK_AT_MOST_EVERY).await;
            tokio::select! {
                () = self.0.look.notified() => {}
                () = changes.changed() => {}
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told_to_look => {}
        }
    }

    /// How far the readers have come; `None` if there are none.
    fn readers_know(&self) -> Option<Position> {
        let mut followed = self.followed();
        if followed.readers.receiver_count() == 0 {
            followed.up_to = None;
        }
        followed.up_to
    }

    /// Hands everything that is new to the readers.
    async fn hand_on(&self, mut from: Position) -> Result<Then, StoreError> {
        loop {
            let (frames, then) = self.read(from).await?;
            if frames.end > from {
                from = frames.end;
                let mut followed = self.followed();
                followed.up_to = Some(from);
                let _ = followed.readers.send(Message::Frames(Arc::new(frames)));
            }
            if then != Then::More {
                return Ok(then);
            }
        }
    }

    async fn read(&self, from: Position) -> Result<(Frames, Then), StoreError> {
        // Boxed: what it takes to read must not be kept for every reader that waits.
        let piece = Box::pin(in_time(async {
            let mut db = self.0.pool.acquire().await?;
            feed::after(&mut db, from, PIECE, self.0.stuck_after).await
        }));
        let piece = piece.await?;
        Ok((Frames::of(&piece), piece.then))
    }

    /// Ends the stream of everybody who reads.
    fn let_go(&self) {
        let mut followed = self.followed();
        followed.readers = broadcast::channel(BACKLOG).0;
        followed.up_to = None;
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        // Whoever panicked held it for an assignment or two, each of which is whole.
        self.0
            .followed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
