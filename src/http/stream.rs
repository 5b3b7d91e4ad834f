//! `GET /v1/stream`: what changes, as server-sent events.
//!
//! A reader is told the newest state of each provision that changed, not every state in between. Its
//! events' ids only ever grow; one that comes back with the last one is told whatever has changed
//! since then, once. As long as a stream is open and a comment comes every 15 s, nothing was missed;
//! a stream that cannot keep this ends.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::feed::{Feed, Message};
use super::{Api, Problem, openapi, tokens};
use crate::store::feed::{Position, Then};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Tells what changes, as server-sent events
///
/// `event: provision`, with the provision as data, newest state only; a comment at least every 15 s.
#[utoipa::path(
    get, path = "/v1/stream", operation_id = "stream", tag = openapi::READ,
    params(("last-event-id" = Option<String>, Header, description = "The last event that was read: \
        whatever has changed since is told first")),
    responses((status = 200, description = "Events, until the reader or the service leaves",
               body = String, content_type = "text/event-stream"))
)]
pub(super) async fn stream(
    _: tokens::Reader,
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = last_event_id(&headers)?;
    let known = api.feed.begin(asked).await?;
    let reader = Reader {
        // An id without data is no event: it only tells a client from where to resume.
        greeting: Some(format!("id: {known}\n\n").into()),
        feed: api.feed,
        known,
        joined: None,
    };
    let body = stream::unfold(reader, |mut reader| async {
        let bytes = reader.next().await?;
        Some((Ok::<_, Infallible>(bytes), reader))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // A proxy that waits for more would keep events from their reader.
        (X_ACCEL_BUFFERING, "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// What the last event was that the reader got. Clients send an empty one where there was none.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let position = id.to_str().ok().and_then(|id| id.parse().ok());
    position.map(Some).ok_or_else(|| {
        Problem::invalid_parameter("Last-Event-ID must be the id of an event of this stream")
    })
}

/// One reader of the stream.
struct Reader {
    feed: Feed,
    greeting: Option<Bytes>,
    /// It was sent everything up to here.
    known: Position,
    joined: Option<Joined>,
}

struct Joined {
    messages: broadcast::Receiver<Message>,
    /// What was handed to others before it joined was sent to it as well.
    caught_up: bool,
}

impl Reader {
    /// What to send next; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            let bytes = match &mut self.joined {
                Some(joined) if joined.caught_up => match joined.messages.recv().await {
                    Ok(Message::Comment) => Bytes::from_static(b":\n\n"),
                    Ok(Message::Frames(frames)) => {
                        let bytes = frames.after(self.known);
                        self.known = self.known.max(frames.end);
                        bytes
                    }
                    // Too slow. It comes back and is told the newest state only.
                    Err(RecvError::Lagged(_)) => {
                        tracing::info!("a reader of the stream is too slow, and is let go");
                        return None;
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ => self.catch_up().await?,
            };
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
    }

    /// Reads on from the database, and joins the others once there is no more.
    async fn catch_up(&mut self) -> Option<Bytes> {
        let (frames, then) = self.feed.catch_up(self.known).await?;
        self.known = frames.end;
        match &mut self.joined {
            _ if then == Then::More => {}
            Some(joined) => joined.caught_up = true,
            None => {
                let (messages, others_know) = self.feed.join(self.known)?;
                self.joined = Some(Joined {
                    messages,
                    caught_up: others_know <= self.known,
                });
            }
        }
        Some(frames.after(Position::BEGINNING))
    }
}
