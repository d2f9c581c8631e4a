//! An HTTP/1 client that says whether a failed request may have been processed.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Method, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use super::BoxError;
use crate::clock::Now;
use crate::net::Connector;
use crate::net::proxies::Proxies;

/// Idle connections kept per host. The publisher has 4 lanes by default.
pub const IDLE_PER_HOST_MAX: usize = 16;
/// How long an idle connection is kept: below the 60 s after which usual load balancers drop one, so that
/// a request is seldom sent into a connection that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest response head, bytes.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

/// A request, its body complete.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    /// Absolute: scheme and host are needed.
    pub uri: Uri,
    /// Further headers; `Host`, `Content-Length` and, unless it is there, `User-Agent` are added.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
}

/// Headers and bodies carry secrets, queries carry signatures: only where it goes is shown.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.method, place(&self.uri), self.body.len())
    }
}

/// A response, its body complete as far as its server says where it ends.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status. Redirects are not followed.
    pub status: StatusCode,
    /// `Retry-After`, counted from the response's arrival.
    pub retry_after: Option<Duration>,
    /// `Date`: the server's clock, Unix seconds.
    pub date: Option<i64>,
    /// What it says that its body is.
    pub content_type: Option<HeaderValue>,
    /// The body can be judged: its end was told beforehand or by chunks (RFC 9112 §6.3), not by a close that may have
    /// come early, and no coding hides it.
    pub readable: bool,
    /// The body, within the limit that was given.
    pub body: Bytes,
}

/// Why there is no response. The kinds differ in whether the request may be sent again.
#[derive(Debug)]
pub enum HttpError {
    /// The request was certainly not processed: no address, no connection, no TLS, or its first byte was
    /// never written.
    NotSent(Failure),
    /// The request may have been processed: it broke or timed out after writing began.
    Ambiguous(Failure),
    /// The request was answered, by a body larger than the limit.
    TooLarge {
        /// The answer, but for its body, which is empty here.
        answer: Response,
        failure: Failure,
    },
    /// The request was answered, and the answer's body did not come to its end: it broke off, or took too long.
    BrokenOff {
        /// The answer, but for its body, which is empty here.
        answer: Response,
        failure: Failure,
    },
}

impl HttpError {
    /// The kind as a metric's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "not_sent",
            Self::Ambiguous(_) => "ambiguous",
            Self::TooLarge { .. } => "too_large",
            Self::BrokenOff { .. } => "broken_off",
        }
    }

    const fn failure(&self) -> &Failure {
        match self {
            Self::NotSent(failure)
            | Self::Ambiguous(failure)
            | Self::TooLarge { failure, .. }
            | Self::BrokenOff { failure, .. } => failure,
        }
    }
}

/// What happened, and why.
#[derive(Debug)]
pub struct Failure {
    message: String,
    source: Option<BoxError>,
}

/// The whole chain in one line, for a log.
impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failure().message)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for HttpError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.failure().source.as_ref().map(|source| &**source as _)
    }
}

/// The client: a bounded pool of kept-alive connections. Cheap to share by `Arc`.
#[derive(Clone, Debug)]
pub struct Client {
    pool: hyper_util::client::legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl Client {
    /// A client for `http:` and, with `tls`, `https:`, which reaches every host directly.
    #[must_use]
    pub fn new(tls: &Arc<rustls::ClientConfig>) -> Self {
        Self::by(Arc::default(), tls)
    }

    /// A client that reaches hosts by these proxies.
    ///
    /// hyper-util's `retry_canceled_requests` stays on: it sends again only a request that hyper hands back
    /// whole because its connection was found dead before the first byte was written, so nothing ambiguous
    /// hides behind it. A request that broke later is never repeated.
    #[must_use]
    pub fn by(proxies: Arc<Proxies>, tls: &Arc<rustls::ClientConfig>) -> Self {
        let mut tls = rustls::ClientConfig::clone(tls);
        tls.alpn_protocols.clear();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector(proxies));
        let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_buf_size(RESPONSE_HEAD_BYTES_MAX)
            .retry_canceled_requests(true)
            .build(connector);
        Self { pool }
    }

    /// Sends `request` and reads the whole answer, whatever its status, all within `timeout`.
    ///
    /// # Errors
    /// See [`HttpError`]. A body of more than `response_bytes_max` bytes is [`HttpError::TooLarge`]; one that
    /// breaks off, or is not complete within `timeout`, is [`HttpError::BrokenOff`]: once the status is here the
    /// request has its answer.
    pub async fn send(
        &self,
        request: Request,
        timeout: Duration,
        response_bytes_max: usize,
    ) -> Result<Response, HttpError> {
        let place = place(&request.uri);
        let mut outgoing = hyper::Request::new(Full::new(request.body));
        *outgoing.method_mut() = request.method;
        *outgoing.uri_mut() = request.uri;
        *outgoing.headers_mut() = request.headers;
        let name = HeaderValue::from_static(super::USER_AGENT);
        outgoing.headers_mut().entry(USER_AGENT).or_insert(name);
        let connection = capture_connection(&mut outgoing);
        let deadline = Instant::now() + timeout;
        let response = match timeout_at(deadline, self.pool.request(outgoing)).await {
            Ok(answered) => answered.map_err(|error| failed_request(&place, error))?,
            Err(_) => {
                return Err(timed_out(&place, timeout, connection.connection_metadata().is_some()));
            }
        };
        let (head, body) = response.into_parts();
        let answer = Response {
            status: head.status,
            retry_after: retry_after(&head.headers, Now::read()),
            date: head.headers.get(DATE).and_then(|value| unix_seconds(value.to_str().ok()?)),
            content_type: head.headers.get(CONTENT_TYPE).cloned(),
            readable: !head.headers.contains_key(CONTENT_ENCODING)
                && (body.size_hint().exact().is_some() || is_chunked(&head.headers)),
            body: Bytes::new(),
        };
        match timeout_at(deadline, Limited::new(body, response_bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(Response { body: body.to_bytes(), ..answer }),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message =
                    format!("{place} answered {} with more than {response_bytes_max} bytes", answer.status);
                Err(HttpError::TooLarge { answer, failure: Failure { message, source: None } })
            }
            Ok(Err(error)) => {
                let message = format!("{place} answered {}, but its body broke off", answer.status);
                Err(HttpError::BrokenOff { answer, failure: Failure { message, source: Some(error) } })
            }
            Err(_) => {
                let message =
                    format!("{place} answered {}, but not all of it within {timeout:?}", answer.status);
                Err(HttpError::BrokenOff { answer, failure: Failure { message, source: None } })
            }
        }
    }
}

/// Whether chunks, and no other coding, say where the body ends.
fn is_chunked(headers: &HeaderMap) -> bool {
    headers.get(TRANSFER_ENCODING).is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

fn failed_request(place: &str, error: hyper_util::client::legacy::Error) -> HttpError {
    // hyper's `canceled` is the error beside a request that was given back whole: it was never begun.
    let given_back = error
        .source()
        .and_then(|source| source.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_canceled);
    // hyper-util names a connection exactly once it has one: without it nothing can have been sent.
    let connected = error.connect_info().is_some();
    if error.is_connect() || given_back || !connected {
        let message = format!("could not connect to {place}");
        HttpError::NotSent(Failure { message, source: Some(error.into()) })
    } else {
        let message = format!("the connection to {place} broke before the answer");
        HttpError::Ambiguous(Failure { message, source: Some(error.into()) })
    }
}

fn timed_out(place: &str, timeout: Duration, connected: bool) -> HttpError {
    if connected {
        let message = format!("{place} did not answer within {timeout:?}");
        HttpError::Ambiguous(Failure { message, source: None })
    } else {
        let message = format!("no connection to {place} within {timeout:?}");
        HttpError::NotSent(Failure { message, source: None })
    }
}

/// Scheme, host and port: what may be logged of a URI.
fn place(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("(no scheme)");
    let host = uri.host().unwrap_or("(no host)");
    match uri.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date, of which the time from `now` on is given, zero when
/// it is past. Anything else is `None`.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Now) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let left = unix_seconds(value)?.saturating_mul(1000).saturating_sub(now.unix_ms);
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

/// An HTTP date (RFC 9110 §5.6.7).
fn unix_seconds(date: &str) -> Option<i64> {
    let since_epoch = httpdate::parse_http_date(date).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_secs()).ok()
}

#[cfg(test)]
mod tests;
