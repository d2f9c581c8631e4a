//! An attacker's connection, plain or by TLS: what is read and written is the same.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::tls::{Authority, Pair};

/// Whether the listener speaks TLS, and how.
pub static TLS: OnceLock<Tls> = OnceLock::new();

pub struct Tls {
    /// What the listener shows.
    pub pair: Pair,
    /// Who trusts it. Nobody comes back with a ticket: an attacker has the bridge sign for each connection.
    pub client: Arc<ClientConfig>,
}

impl Tls {
    pub fn new() -> Self {
        let authority = Authority::new();
        let mut client = ClientConfig::clone(&authority.plain_client());
        client.resumption = Resumption::disabled();
        Self { pair: authority.sign("bridge.example"), client: Arc::new(client) }
    }
}

/// Connections by TLS at once, now and at most.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The most connections by TLS at once since the last call.
pub fn most_at_once() -> usize {
    MOST.swap(OPEN.load(Ordering::Relaxed), Ordering::Relaxed)
}

/// One connection by TLS.
struct Counted;

impl Counted {
    fn new() -> Self {
        MOST.fetch_max(OPEN.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

pub struct Stream(Kind);

enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, Counted),
}

impl Stream {
    /// Nothing but the connection: where the listener speaks TLS, the handshake has not begun.
    pub const fn bare(tcp: TcpStream) -> Self {
        Self(Kind::Plain(tcp))
    }

    /// What the listener speaks, on this connection to it.
    pub async fn over(tcp: TcpStream, to: SocketAddr) -> io::Result<Self> {
        let Some(tls) = TLS.get() else { return Ok(Self(Kind::Plain(tcp))) };
        let counted = Counted::new();
        let stream = TlsConnector::from(tls.client.clone()).connect(ServerName::from(to.ip()), tcp).await?;
        Ok(Self(Kind::Tls(Box::new(stream), counted)))
    }

    /// Both directions at once, within one task.
    pub fn split(&mut self) -> (ReadHalf<&mut Self>, WriteHalf<&mut Self>) {
        tokio::io::split(self)
    }

    /// The bytes as they are on the wire, from now on.
    pub fn wire(&mut self) -> &mut TcpStream {
        match &mut self.0 {
            Kind::Plain(tcp) => tcp,
            Kind::Tls(tls, _) => tls.get_mut().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Kind::Tls(tls, _) => {
                // Records may wait that were written before: whoever reads lets them go. If that fails, reading tells.
                let _ = Pin::new(&mut *tls).poll_flush(cx);
                Pin::new(tls).poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Kind::Tls(tls, _) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Kind::Tls(tls, _) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Kind::Tls(tls, _) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
