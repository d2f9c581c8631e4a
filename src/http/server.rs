//! An HTTP/1 server's connection: one set-up of hyper for every place that serves requests, with its limits. Requests
//! come one after the other; the last of them may be upgraded.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use super::progress::{Progress, Warm};

use super::BoxError;
use super::multiplexed::is_preface;
use super::spelling::respell;
use super::strict::BODY_READ_BYTES;
use super::wire::Wire;
use crate::clock::Now;
use crate::metrics::label::labels;
use crate::net::socket::Socket;

/// The body of an answer, wherever it comes from.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// What a service answers.
pub type Answer = hyper::Response<Body>;

/// A timeout for what may take as long as it likes.
pub const NO_TIMEOUT: Duration = Duration::from_secs(86_400 * 365);

/// How long, and for how many bytes, the rest of a body is taken whose request is answered already.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_READ_BYTES: usize = 16 * 1024;

/// What a connection may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a request's head: after the previous answer, or as the first one's deadline says.
    pub head_timeout: Duration,
    /// Beyond that, for its answer, to the last byte.
    pub answer_timeout: Duration,
    /// Bytes of a head; at least 8192.
    pub head_bytes_max: usize,
    /// Fields of a head.
    pub headers_max: usize,
    /// Requests in all, but for those that are passed on.
    pub requests_max: usize,
    /// Requests that are passed on.
    pub passed_on_max: usize,
    /// Whether requests may be passed on, so that it must be known how others would read them.
    pub strict: bool,
    /// Whether a connection without a request is given back as [`End::Parked`], and how many are not yet.
    pub parks: Option<Arc<Warm>>,
}

impl Default for Limits {
    /// For places that no stranger reaches.
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(60),
            answer_timeout: NO_TIMEOUT,
            head_bytes_max: 64 * 1024,
            headers_max: 100,
            requests_max: usize::MAX,
            passed_on_max: 0,
            strict: false,
            parks: None,
        }
    }
}

#[derive(Debug)]
pub enum End {
    /// By a 101: here is the socket, and what came behind the request.
    Upgraded(Socket, Bytes),
    /// By the beginning of HTTP/2, all of which is in the bytes that were read; see [`super::multiplexed`].
    Multiplexed(Socket, Bytes),
    /// With everything answered that was asked: the client went, or asked for nothing more in time.
    Closed,
    /// For now: the client has asked for nothing more yet, and nothing of a request has come.
    Parked(Socket),
    /// By something that is no request. If HTTP/1 has an answer to it, it was given.
    Unreadable(Unreadable, hyper::Error),
    /// The connection broke, or the service gave it up.
    Broken(BoxError),
    /// A request or its answer took too long.
    TimedOut,
}

labels! {
    /// Why a request's head cannot be read.
    pub enum Unreadable: "cause" {
        /// It is not HTTP/1, or not well-formed.
        Malformed = "malformed",
        TargetTooLong = "target_too_long",
        /// It has too many bytes or fields.
        HeadTooLarge = "head_too_large",
    }
}

impl Unreadable {
    /// The status that says so.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// The same in words; what is wrong with a malformed one, as hyper says it.
    #[must_use]
    pub fn detail(self, error: &hyper::Error) -> Cow<'static, str> {
        match self {
            Self::Malformed => format!("the request cannot be read: {error}").into(),
            Self::TargetTooLong => "the request's target is too long".into(),
            Self::HeadTooLarge => "the request's head is too large, or has too many fields".into(),
        }
    }

    /// By what hyper said by itself.
    fn of(withheld: &[u8]) -> Self {
        let status = withheld.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok());
        Self::ALL.into_iter().find(|why| Some(why.status()) == status).unwrap_or(Self::Malformed)
    }
}

/// Serves `stream`, as far as `progress` and `limits` let it; dropping the future cuts the connection. What is not
/// readable is answered by `explain`, and is the last.
pub async fn serve<S, F, E>(
    stream: Socket,
    progress: &Arc<Progress>,
    limits: &Limits,
    service: S,
    explain: impl FnOnce(Unreadable, &hyper::Error) -> hyper::Response<Bytes>,
) -> End
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Answer, E>>,
    E: Into<BoxError>,
{
    let upgraded = AtomicBool::new(false);
    let service = service_fn(|request| {
        progress.request_read();
        let answer = service(request);
        let upgraded = &upgraded;
        Box::pin(async move {
            let mut answer = answer.await?;
            let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
            upgraded.store(switches, Ordering::Relaxed);
            if progress.is_last(limits) && !switches {
                close(&mut answer);
            }
            let progress = progress.clone();
            Ok::<_, E>(answer.map(|body| Tracked { body, progress }))
        })
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(false)
        .max_headers(limits.headers_max)
        // Where heads are looked at, they are limited there.
        .max_buf_size(limits.head_bytes_max.max(if limits.strict { BODY_READ_BYTES } else { 0 }))
        .serve_connection(Wire::new(TokioIo::new(stream), progress.clone()), service);
    let mut timer = pin!(sleep_until(progress.deadline()));
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Some(ended));
        }
        let deadline = progress.deadline();
        // A later one is set when it goes off: deadlines move with every step, and timers are dear.
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    });
    let ended = ended.await;
    let parts = connection.into_parts();
    let Some(ended) = ended else {
        if progress.is_waiting() && progress.is_within_a_body() {
            return match parts.io.into_inner().await {
                Ok((io, _)) => over(io.into_inner()).await,
                Err(error) => End::Broken(error.into()),
            };
        }
        let nothing_asked = progress.is_idle() && parts.read_buf.is_empty();
        if !nothing_asked {
            return End::TimedOut;
        }
        // Nothing is left to write: the next request is waited for.
        return match parts.io.into_inner().await {
            Ok((io, _)) if limits.parks.is_some() => {
                progress.parked();
                End::Parked(io.into_inner())
            }
            _ => End::Closed,
        };
    };
    let deadline = progress.deadline() + limits.answer_timeout;
    let (mut stream, withheld) = match timeout_at(deadline, parts.io.into_inner()).await {
        Ok(Ok((io, withheld))) => (io.into_inner(), withheld),
        Ok(Err(error)) => return End::Broken(error.into()),
        Err(_) => return End::TimedOut,
    };
    match ended {
        Ok(()) if upgraded.load(Ordering::Relaxed) => End::Upgraded(stream, parts.read_buf),
        // Where its end is not known, more of a body may come as well.
        Ok(()) if progress.is_within_a_body() || progress.wrong().is_some() => over(stream).await,
        Ok(()) => End::Closed,
        Err(error) if error.is_parse() && is_preface(&parts.read_buf) => {
            End::Multiplexed(stream, parts.read_buf)
        }
        Err(error) if progress.is_too_large() => {
            let why = Unreadable::HeadTooLarge;
            let _ = timeout_at(deadline, stream.write_all(&written(explain(why, &error)))).await;
            End::Unreadable(why, error)
        }
        Err(error) if error.is_parse() => {
            let why = Unreadable::of(&withheld);
            if !withheld.is_empty() {
                let _ = timeout_at(deadline, stream.write_all(&written(explain(why, &error)))).await;
            }
            End::Unreadable(why, error)
        }
        Err(error) => End::Broken(error.into()),
    }
}

/// The last answer was given, and more of a body may come.
async fn over(stream: Socket) -> End {
    let _ = timeout_at(Instant::now() + LINGER_TIMEOUT, linger(&stream)).await;
    End::Closed
}

/// Takes what a client still sends of a body that nobody reads, behind the last answer: what is left unread makes the
/// kernel reset the connection, by which the answer may be lost (RFC 9112 §9.6).
async fn linger(stream: &Socket) {
    stream.shut_write();
    let (mut buffer, mut left) = (vec![0; LINGER_READ_BYTES], LINGER_BYTES_MAX);
    while left > 0 && std::future::poll_fn(|cx| stream.poll_read_ready(cx)).await.is_ok() {
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Says of an answer that it is the last.
pub fn close<B>(answer: &mut hyper::Response<B>) {
    let upgrade = answer.headers().get(CONNECTION).is_some_and(|value| value == "Upgrade");
    let value = if upgrade { "Upgrade, close" } else { "close" };
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static(value));
}

/// A body that is at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An error as `application/problem+json` (RFC 9457).
#[must_use]
pub fn problem(status: StatusCode, detail: &str) -> hyper::Response<Bytes> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut answer = hyper::Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

/// What is not readable, explained to whoever is no client.
#[must_use]
pub fn explain(why: Unreadable, error: &hyper::Error) -> hyper::Response<Bytes> {
    problem(why.status(), &why.detail(error))
}

/// An answer that is the last, as it is written where hyper does not.
#[must_use]
pub fn written(mut answer: hyper::Response<Bytes>) -> Vec<u8> {
    close(&mut answer);
    let status = answer.status();
    let mut head =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("Error"));
    for (name, value) in answer.headers() {
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or(""));
    }
    let since_epoch = Duration::from_millis(u64::try_from(Now::read().unix_ms).unwrap_or(0));
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_epoch);
    let length = answer.body().len();
    let _ = write!(head, "content-length: {length}\r\ndate: {date}\r\n\r\n");
    let mut bytes = head.into_bytes();
    respell(&mut bytes);
    bytes.extend_from_slice(answer.body());
    bytes
}

/// A body whose end is noted.
struct Tracked {
    body: Body,
    progress: Arc<Progress>,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// hyper drops a body when it has all of it.
impl Drop for Tracked {
    fn drop(&mut self) {
        self.progress.answer_made();
    }
}

#[cfg(test)]
mod tests;
