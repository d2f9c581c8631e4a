//! Connections to upstreams: each worker has its own, and keeps them between requests.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::Outgoing;
use super::heads::Heads;
use crate::http::{BoxError, RESPONSE_HEAD_BYTES_MAX};
use crate::net::destination::Destination;
use crate::net::proxies::Proxies;
use crate::net::reach;

/// Fields of an answer's head.
const HEADERS_MAX: usize = 256;

/// A socket to an upstream.
pub struct Io {
    kind: Kind,
    heads: SharedHeads,
}

enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Between who reads and who sends; both are of one thread, so never contended.
#[derive(Clone, Default)]
struct SharedHeads(Arc<Mutex<Heads>>);

impl SharedHeads {
    fn lock(&self) -> MutexGuard<'_, Heads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! either {
    ($io:expr, $inner:ident => $call:expr) => {
        match $io {
            Kind::Plain($inner) => $call,
            Kind::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(either!(&mut self.kind, inner => Pin::new(inner).poll_read(cx, buffer)))?;
        let read = buffer.filled().get(before..).unwrap_or(&[]);
        Poll::Ready(match self.heads.lock().read(read) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "a line of a head ends with LF alone")),
        })
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut self.kind, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.kind, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.kind, inner => Pin::new(inner).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.kind, inner => Pin::new(inner).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.kind, inner => inner.is_write_vectored())
    }
}

/// How upstreams are reached.
pub struct Dialer {
    proxies: Arc<Proxies>,
    tls: Arc<rustls::ClientConfig>,
}

impl Dialer {
    #[must_use]
    pub fn new(proxies: Arc<Proxies>, tls: &Arc<rustls::ClientConfig>) -> Self {
        let mut tls = rustls::ClientConfig::clone(tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { proxies, tls: Arc::new(tls) }
    }

    async fn dial(&self, to: &Destination) -> Result<Kind, BoxError> {
        let stream = reach(&self.proxies, to.tls, &to.host, to.port).await?;
        if !to.tls {
            return Ok(Kind::Plain(stream));
        }
        let name = ServerName::try_from(to.host.clone())?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        Ok(Kind::Tls(Box::new(stream)))
    }
}

/// A worker's connections that wait for a request.
pub struct Pool {
    dialer: Arc<Dialer>,
    // Of one thread: never contended.
    idle: Mutex<HashMap<Arc<Destination>, Vec<Waiting>>>,
}

/// The task that carries a connection's bytes. Without it hyper would wait for ever, with all it holds, for an upstream that
/// takes nothing of a body that nobody sends any more.
struct Carrying(AbortHandle);

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Waiting {
    sender: SendRequest<Outgoing>,
    heads: SharedHeads,
    carrying: Carrying,
    until: Instant,
}

/// A connection that carries a request.
pub struct Lease {
    pub sender: SendRequest<Outgoing>,
    /// It has carried another before: the upstream may be closing it.
    pub was_idle: bool,
    heads: SharedHeads,
    carrying: Carrying,
    to: Arc<Destination>,
    pool: Arc<Pool>,
    keep_alive: Duration,
    idle_max: usize,
}

impl Lease {
    /// A request is about to be sent.
    pub fn begin(&self) {
        self.heads.lock().expect();
    }

    /// Whether its answer's head has lines that can be read in two ways.
    #[must_use]
    pub fn has_wrong_lines(&self) -> bool {
        self.heads.lock().is_wrong()
    }

    /// The answer was read to its end.
    pub fn give_back(self) {
        let Self { sender, heads, carrying, to, pool, keep_alive, idle_max, .. } = self;
        if sender.is_closed() {
            return;
        }
        let mut idle = pool.idle();
        if idle.is_empty() {
            tokio::spawn(expire(pool.clone(), keep_alive));
        }
        let waiting = idle.entry(to).or_default();
        if waiting.len() >= idle_max {
            // The one that has waited longest.
            waiting.remove(0);
        }
        waiting.push(Waiting { sender, heads, carrying, until: Instant::now() + keep_alive });
    }
}

/// Closes what nobody needs any more, until there is nothing left.
async fn expire(pool: Arc<Pool>, keep_alive: Duration) {
    loop {
        sleep(keep_alive.max(Duration::from_secs(1))).await;
        let now = Instant::now();
        let mut idle = pool.idle();
        idle.retain(|_, waiting| {
            waiting.retain(|one| one.until > now && !one.sender.is_closed());
            !waiting.is_empty()
        });
        if idle.is_empty() {
            return;
        }
    }
}

impl Pool {
    #[must_use]
    pub fn new(dialer: Arc<Dialer>) -> Arc<Self> {
        Arc::new(Self { dialer, idle: Mutex::default() })
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Arc<Destination>, Vec<Waiting>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that waits, the one used last.
    pub(super) fn waiting(
        self: &Arc<Self>,
        to: &Arc<Destination>,
        like: &super::settings::Settings,
    ) -> Option<Lease> {
        let mut idle = self.idle();
        let waiting = idle.get_mut(to)?;
        waiting.retain(|one| !one.sender.is_closed());
        let last = waiting.iter().rposition(|one| one.sender.is_ready())?;
        let Waiting { sender, heads, carrying, .. } = waiting.remove(last);
        Some(self.lease((sender, heads, carrying), to, like, true))
    }

    /// A new one. Only its connection may be kept back by time: whoever waits has the limit.
    pub(super) async fn connect(
        self: &Arc<Self>,
        to: &Arc<Destination>,
        like: &super::settings::Settings,
    ) -> Result<Lease, BoxError> {
        let heads = SharedHeads::default();
        let io = Io { kind: self.dialer.dial(to).await?, heads: heads.clone() };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(RESPONSE_HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .title_case_headers(true)
            .handshake(TokioIo::new(io))
            .await?;
        // What breaks it is told to whoever waits for an answer.
        let carrying = tokio::spawn(async move { _ = connection.with_upgrades().await });
        Ok(self.lease((sender, heads, Carrying(carrying.abort_handle())), to, like, false))
    }

    fn lease(
        self: &Arc<Self>,
        (sender, heads, carrying): (SendRequest<Outgoing>, SharedHeads, Carrying),
        to: &Arc<Destination>,
        like: &super::settings::Settings,
        was_idle: bool,
    ) -> Lease {
        Lease {
            sender,
            heads,
            carrying,
            was_idle,
            to: to.clone(),
            pool: self.clone(),
            keep_alive: like.keep_alive,
            idle_max: like.limits.idle_connections_max,
        }
    }
}
