//! A socket with as much patience as its client deserves.
//!
//! hyper's own time-out for a head also runs while nothing has been asked yet, so that it would close idle
//! connections as soon as slow ones; and it has none for a client that takes nothing of its answer. For how
//! long a connection may be idle is the seat's matter, since hyper does not read while it is; how long a
//! body may take is for whoever reads it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::Limits;
use super::door::Seat;

pub(super) struct Patient {
    stream: TcpStream,
    seat: Seat,
    head_patience: Duration,
    write_patience: Duration,
    /// Until when the head must be there of the request that is waited for.
    head_by: Pin<Box<Sleep>>,
    waits_for: u64,
    has_begun: bool,
    /// Until when something must be taken; only while nothing is.
    taken_by: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Of a connection whose first bytes have come.
    pub(super) fn new(stream: TcpStream, seat: Seat, limits: &Limits) -> Self {
        Self {
            stream,
            seat,
            head_patience: limits.head_patience,
            write_patience: limits.write_patience,
            head_by: Box::pin(sleep(limits.head_patience)),
            waits_for: 0,
            has_begun: true,
            taken_by: None,
        }
    }

    /// Passes on what the socket says of a write, but for a client's patience that is at an end.
    fn taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.taken_by = None;
            return written;
        }
        let patience = self.write_patience;
        let by = self
            .taken_by
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        by.as_mut().poll(cx).map(|()| Err(too_slow()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(waits_for) = this.seat.waits_for() else {
            return read;
        };
        if waits_for != this.waits_for {
            this.waits_for = waits_for;
            this.has_begun = false;
        }
        if read.is_ready() && !this.has_begun {
            this.has_begun = true;
            let by = Instant::now() + this.head_patience;
            this.head_by.as_mut().reset(by);
        }
        if read.is_ready() || !this.has_begun {
            return read;
        }
        this.head_by.as_mut().poll(cx).map(|()| Err(too_slow()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.taken(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn too_slow() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
