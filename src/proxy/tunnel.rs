//! An upgraded connection: bytes of both sides, until one of them is gone. While nothing moves it has no buffer.
//! [`super::routed`] does the same for a route.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::frames::Frames;
use super::metrics::{Direction, OfUpstream};
use super::pool::Io;
use super::serve::UnderWay;
use crate::metrics::Counter;

/// Most bytes taken from one side that the other has not taken yet.
pub const BUFFER_BYTES: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Reads what comes, for nobody; ready when no more does.
pub(super) fn discard<R: AsyncRead + Unpin>(cx: &mut Context<'_>, from: &mut R) -> Poll<()> {
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            let mut buffer = ReadBuf::new(buffer);
            match ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    })
}

/// The upstream's side, until the client's is there.
pub struct Tunnel {
    pub(super) upstream: Io,
    /// What came behind its 101.
    pub(super) early: Bytes,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<OfUpstream>,
    pub(super) held: Held,
    /// What it is called in the log.
    pub(super) name: Arc<str>,
}

/// Looks at what passes in one direction.
pub(super) trait Follow {
    /// How much of this goes on. Less than all: the rest does not, and nothing behind it.
    fn follow(&mut self, bytes: &[u8]) -> usize;
    /// Whether nothing more goes on.
    fn is_over(&self) -> bool;
}

/// Nobody looks.
impl Follow for () {
    fn follow(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn is_over(&self) -> bool {
        false
    }
}

impl Follow for Frames {
    fn follow(&mut self, bytes: &[u8]) -> usize {
        Self::follow(self, bytes)
    }

    fn is_over(&self) -> bool {
        Self::is_over(self)
    }
}

/// Which side of a direction has broken.
#[derive(Debug)]
pub(super) enum Broken {
    Source(io::ErrorKind),
    Sink(io::ErrorKind),
}

impl Broken {
    const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Source(kind) | Self::Sink(kind) => *kind,
        }
    }
}

/// What a tunnel counts for while it lives.
pub struct Held {
    pub(super) _under_way: UnderWay,
}

/// Why a tunnel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides have said that no more comes.
    Closed,
    /// Nothing moved for too long.
    Idle,
    Broken(io::ErrorKind),
    Draining,
}

/// One direction.
pub(super) struct Half<F> {
    pub(super) pending: Bytes,
    /// Its source has said that no more comes.
    pub(super) ended: bool,
    /// And its sink was told.
    pub(super) is_shut: bool,
    unflushed: bool,
    pub(super) bytes: u64,
    counter: Counter,
    pub(super) follows: F,
}

impl<F: Follow> Half<F> {
    pub(super) fn new(mut pending: Bytes, counter: Counter, mut follows: F) -> Self {
        pending.truncate(follows.follow(&pending));
        Self { pending, ended: false, is_shut: false, unflushed: false, bytes: 0, counter, follows }
    }

    fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.counter.increment(bytes as u64);
        self.unflushed = true;
    }

    /// Moves what can be moved; ready when all is, and the other side was told; or when nothing more goes on.
    pub(super) fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Broken>> {
        let sink = |error: io::Error| Broken::Sink(error.kind());
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        loop {
            while !self.pending.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.pending)).map_err(sink)? {
                    0 => return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero))),
                    written => {
                        self.pending.advance(written);
                        self.moved(written);
                    }
                }
            }
            // Nothing is held for what is not there.
            self.pending = Bytes::new();
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(sink)?;
                self.is_shut = true;
                return Poll::Ready(Ok(()));
            }
            if self.follows.is_over() {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(sink)?;
                return Poll::Ready(Ok(()));
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))
                    .map_err(|error| Broken::Source(error.kind()))?;
                let filled = buffer.filled();
                if filled.is_empty() {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                let filled = filled.get(..self.follows.follow(filled)).unwrap_or(&[]);
                if filled.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let written = match Pin::new(&mut *to).poll_write(cx, filled) {
                    Poll::Ready(written) => written.map_err(sink)?,
                    Poll::Pending => 0,
                };
                self.moved(written);
                self.pending = Bytes::copy_from_slice(filled.get(written..).unwrap_or(&[]));
                Poll::Ready(Ok::<_, Broken>(()))
            });
            match read {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if self.unflushed && Pin::new(&mut *to).poll_flush(cx).map_err(sink)?.is_ready() {
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Tunnel {
    /// Carries the bytes of `client`, of which `early` came already, until that is over, or `draining` is.
    pub async fn run<C: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut client: C,
        early: Bytes,
        draining: impl Future<Output = ()>,
    ) {
        let Self { mut upstream, early: answered, timeout, metrics, held, name } = self;
        let mut inwards = Half::new(early, metrics.tunnel_bytes.get(Direction::In).clone(), ());
        let mut outwards = Half::new(answered, metrics.tunnel_bytes.get(Direction::Out).clone(), ());
        let mut draining = pin!(draining);
        let mut last = Instant::now();
        let mut timer = pin!(sleep_until(last + timeout));
        let end = poll_fn(|cx| {
            let before = inwards.bytes + outwards.bytes;
            let polled =
                [inwards.poll(cx, &mut client, &mut upstream), outwards.poll(cx, &mut upstream, &mut client)];
            if inwards.bytes + outwards.bytes > before {
                last = Instant::now();
            }
            let mut over = true;
            for half in polled {
                match half {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(broken)) => return Poll::Ready(End::Broken(broken.kind())),
                    Poll::Pending => over = false,
                }
            }
            if over {
                return Poll::Ready(End::Closed);
            }
            if draining.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Draining);
            }
            while timer.as_mut().poll(cx).is_ready() {
                if last + timeout <= Instant::now() {
                    return Poll::Ready(End::Idle);
                }
                timer.as_mut().reset(last + timeout);
            }
            Poll::Pending
        });
        let end = end.await;
        drop(held);
        tracing::debug!(
            upstream = &*name,
            ?end,
            bytes.received = inwards.bytes,
            bytes.sent = outwards.bytes,
            "an upgraded connection ended"
        );
    }
}

#[cfg(test)]
mod tests;
