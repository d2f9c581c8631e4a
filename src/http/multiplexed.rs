//! An HTTP/2 server's connection: many requests at once, one stream each, and WebSockets within them (RFC 8441). One
//! set-up of hyper, with limits for everything a peer can make it hold; what abuse there is was tried against it.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};

use super::BoxError;
use super::server::{Answer, Body};

/// What every client of HTTP/2 begins with (RFC 9113 §3.4). No request of HTTP/1 does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of that, what HTTP/1 takes for a first line, and cannot read.
const FIRST_LINE_BYTES: usize = b"PRI * HTTP/2.0".len();

/// Bytes of a stream that may be under way to us; the protocol's own default (RFC 9113 §6.9.2).
const STREAM_WINDOW_BYTES: u32 = 65_535;
/// Bytes of a whole connection that may be under way to us, and so at most what its streams hold unread.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of a stream that hyper holds for a peer that takes none.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// Bytes of a frame; the least that there may be (RFC 9113 §4.2).
const FRAME_BYTES: u32 = 16 * 1024;
/// Streams that the peer has reset before anybody looked at them; more end the connection ("rapid reset").
const RESET_STREAMS_MAX: usize = 20;
/// Streams that were reset here because of what the peer did; more end the connection.
const FAULTY_STREAMS_MAX: usize = 100;
/// A silent connection is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// And is gone when it does not answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it is looked for answers that are not taken.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether bytes that HTTP/1 cannot read begin a connection of HTTP/2. Fewer than all of the preface do as well: nothing
/// else has this version in its first line.
#[must_use]
pub fn is_preface(begin: &[u8]) -> bool {
    begin.starts_with(PREFACE) || begin.len() >= FIRST_LINE_BYTES && PREFACE.starts_with(begin)
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the first request.
    pub first_timeout: Duration,
    /// Without any stream: then the connection ends.
    pub idle_timeout: Duration,
    /// For each part of an answer, from when it could be taken.
    pub untaken_timeout: Duration,
    /// Bytes of a request's head, uncompressed, 32 more counted for each field (RFC 9113 §10.5.1).
    pub head_bytes_max: u32,
    /// Streams at once.
    pub streams_max: u32,
}

/// What the streams of a connection share.
struct Streams {
    open: watch::Sender<usize>,
    began: Instant,
    /// Since when an answer's part waits for its client, milliseconds after `began`, and 0 for none.
    untaken: Mutex<Vec<Weak<AtomicU64>>>,
}

impl Streams {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether a client has left something untaken for longer than this.
    fn is_stuck(&self, timeout: Duration) -> bool {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let now = self.elapsed();
        let mut stuck = false;
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner).retain(|since| {
            let since = since.upgrade().map(|since| since.load(Ordering::Relaxed));
            stuck |= since.is_some_and(|since| since != 0 && now.saturating_sub(since) > timeout);
            since.is_some()
        });
        stuck
    }
}

/// One stream, for as long as anybody has it.
pub struct Stream(Arc<Streams>);

impl Stream {
    fn open(streams: &Arc<Streams>) -> Self {
        streams.open.send_modify(|open| *open += 1);
        Self(streams.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// Keeps `stream` and whatever else counts for it until the answer is taken.
pub fn until_taken(answer: Answer, stream: Stream, counted: impl Send + 'static) -> Answer {
    let since = Arc::new(AtomicU64::new(0));
    stream.0.untaken.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&since));
    answer.map(|body| Watched { body, since, stream, _counted: counted }.boxed_unsync())
}

/// A body that is looked at: whether its client takes it.
struct Watched<C> {
    body: Body,
    since: Arc<AtomicU64>,
    stream: Stream,
    _counted: C,
}

// Nothing in it is pinned but the body, which is so by itself.
impl<C> Unpin for Watched<C> {}

impl<C> HttpBody for Watched<C> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // hyper asks for the next part when the client has taken this one.
        let since = if frame.is_ready() { self.stream.0.elapsed() } else { 0 };
        self.since.store(since, Ordering::Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// With everything answered that was asked.
    Closed,
    /// It broke, or its peer broke the protocol, or asked for too much.
    Broken(hyper::Error),
    /// No request came in time, or what was answered was not taken.
    TimedOut,
}

/// Serves `io`, from which `early` has been read already. The service keeps its [`Stream`] until the stream is over, also
/// as a WebSocket. When `draining` resolves no more requests are taken, and it ends with the last stream.
pub async fn serve<I, S, F>(
    io: I,
    early: Bytes,
    limits: Limits,
    service: S,
    draining: impl Future<Output = ()>,
) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>, Stream) -> F,
    F: Future<Output = Answer> + Send + 'static,
{
    let streams =
        Arc::new(Streams { open: watch::Sender::new(0), began: Instant::now(), untaken: Mutex::default() });
    let mut open = streams.open.subscribe();
    let opening = streams.clone();
    let service = service_fn(move |request| {
        let answer = service(request, Stream::open(&opening));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_header_list_size(limits.head_bytes_max)
            .max_concurrent_streams(limits.streams_max)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(FAULTY_STREAMS_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(Prefixed { early, io }), service)
    );
    let silent = async {
        let mut patience = limits.first_timeout;
        while timeout(patience, open.wait_for(|open| *open > 0)).await.is_ok_and(|open| open.is_ok()) {
            let _ = open.wait_for(|open| *open == 0).await;
            patience = limits.idle_timeout;
        }
        patience == limits.first_timeout
    };
    let stuck = async {
        let mut looks = interval(LOOK_INTERVAL);
        while !streams.is_stuck(limits.untaken_timeout) {
            looks.tick().await;
        }
    };
    let mut stuck = pin!(stuck);
    tokio::select! {
        ended = &mut connection => return End::from(ended),
        () = &mut stuck => return End::TimedOut,
        // Who has asked for nothing yet has nothing to be told.
        is_first = silent => if is_first { return End::TimedOut },
        () = draining => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => End::from(ended),
        () = stuck => End::TimedOut,
    }
}

impl From<hyper::Result<()>> for End {
    fn from(ended: hyper::Result<()>) -> Self {
        ended.map_or_else(Self::Broken, |()| Self::Closed)
    }
}

/// A stream of which the beginning was read already.
struct Prefixed<I> {
    early: Bytes,
    io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let read = self.early.len().min(buffer.remaining());
        buffer.put_slice(self.early.get(..read).unwrap_or(&[]));
        self.early.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
