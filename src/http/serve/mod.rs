//! Connections: who gets one, how long it may say nothing, and how it ends.
//!
//! A client that says nothing, or too slowly, costs a file descriptor and little else, and that only
//! until somebody else wants its place ([`door`]). One that does not take its answer is let go
//! ([`patient`]). An answer that is under way is never cut short for another client's sake.

mod door;
mod patient;

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{Client, Proxies};
use crate::metrics::Metrics;
use door::{Door, InHand, Seat};
use patient::Patient;

/// What connections may take of us.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many there may be. A quarter of them from one address, but for loopback and proxies.
    pub connections: usize,
    /// How long a request's head may take, from the beginning of the connection or its first byte.
    pub head_patience: Duration,
    /// How long a connection may wait for its next request.
    pub idle_patience: Duration,
    /// How long a client may take nothing of its answer.
    pub write_patience: Duration,
    /// Who is believed when he says for whom he calls.
    pub proxies: Proxies,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_patience: Duration::from_secs(10),
            // Longer than the proxies in use keep theirs, or they would send into one that just closed.
            idle_patience: Duration::from_secs(75),
            write_patience: Duration::from_secs(60),
            proxies: Proxies::default(),
        }
    }
}

/// The largest head of a request, its path included, in bytes. More is answered with 431.
const LARGEST_HEAD: usize = 16 * 1024;
/// The most headers of a request. More is answered with 431.
const MOST_HEADERS: usize = 100;
/// Files that are open besides connections: the database's, the vendors', our own.
const OTHER_FILES: u64 = 512;
/// How long nobody is let in when there is no file left, unless somebody leaves.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves calls until `stop`, then until every connection has ended.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let most = room_for(limits.connections);
    let limits = Arc::new(limits);
    let door = Arc::new(Door::new(most, limits.proxies.clone(), metrics));
    let connections = TaskTracker::new();
    let mut told = false;
    while let Some(came) = stop.run_until_cancelled(listener.accept()).await {
        match came {
            Ok((stream, peer)) => {
                told = false;
                let peer = Client::from(peer.ip());
                if let Some(seat) = door.enter(peer) {
                    let (router, limits) = (router.clone(), limits.clone());
                    connections.spawn(converse(stream, peer, seat, router, limits, stop.clone()));
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "no connection can be taken: too few open files?");
                }
                door.make_room();
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Lets us have as many open files as connections need; how many there is room for.
fn room_for(connections: usize) -> usize {
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX);
    let files = match rlimit::increase_nofile_limit(wanted.saturating_add(OTHER_FILES)) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(%error, "how many files may be open cannot be told");
            return connections;
        }
    };
    let room = files.saturating_sub(OTHER_FILES).max(files / 2).min(wanted);
    if room < wanted {
        tracing::warn!(
            files,
            connections = room,
            "fewer connections than BACKSTOP_MAX_CONNECTIONS says: raise the hard limit of open files \
             (ulimit -Hn, LimitNOFILE=)"
        );
    }
    usize::try_from(room).unwrap_or(connections)
}

/// Whether it is one client's trouble, who is gone by now.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// One connection, to its end.
async fn converse(
    stream: TcpStream,
    peer: Client,
    seat: Seat,
    router: Router,
    limits: Arc<Limits>,
    stop: CancellationToken,
) {
    // Whoever says nothing is not worth a buffer.
    let begins = tokio::time::timeout(limits.head_patience, stream.readable());
    let begun = tokio::select! {
        begun = begins => begun,
        () = seat.wanted() => return,
        () = stop.cancelled() => return,
    };
    if matches!(begun, Ok(Ok(()))) {
        answer(stream, peer, seat, router, limits, stop).await;
    }
}

/// Boxed, and not by whoever waits for it, or a silent connection would have its size.
fn answer(
    stream: TcpStream,
    peer: Client,
    seat: Seat,
    router: Router,
    limits: Arc<Limits>,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(talk(stream, peer, seat, router, limits, stop))
}

async fn talk(
    stream: TcpStream,
    peer: Client,
    seat: Seat,
    router: Router,
    limits: Arc<Limits>,
    stop: CancellationToken,
) {
    let proxies = limits.proxies.clone();
    let at = seat.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let in_hand = at.request();
        let mut request: Request = request.map(Body::new);
        let client = proxies.client(peer, request.headers());
        request.extensions_mut().insert(client);
        let answer = TowerToHyperService::new(router.clone()).call(request);
        async move {
            let response: Response = answer.await?;
            Ok::<_, Infallible>(response.map(|body| Answer {
                body,
                _in_hand: in_hand,
            }))
        }
    });
    let io = TokioIo::new(Patient::new(stream, seat.clone(), &limits));
    let mut connection = pin!(
        http1::Builder::new()
            .max_header_size(LARGEST_HEAD)
            .max_headers(MOST_HEADERS)
            // Ours knows when a head begins.
            .header_read_timeout(None)
            .serve_connection(io, service)
    );
    let ends = async {
        tokio::select! {
            () = seat.wanted() => {}
            () = seat.waited(limits.idle_patience) => {}
            () = stop.cancelled() => {}
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return told(peer, ended),
        () = ends => {}
    }
    // What is under way is answered first.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => told(peer, ended),
        () = seat.wanted_and_idle() => {}
    }
}

fn told(peer: Client, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(client.address = %peer, %error, "a connection ended early");
    }
}

/// The body of an answer; its request is in hand until it is out.
struct Answer {
    body: Body,
    _in_hand: InHand,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
