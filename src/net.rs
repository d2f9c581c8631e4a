//! Connecting to a host by name, over whichever of its addresses answers.

pub mod destination;
pub mod host;
pub mod pausable;
pub mod polled;
pub mod proxies;
pub mod socket;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::proxies::{Proxies, Proxy};

/// Between attempts at a host's addresses (RFC 8305 §5, "Connection Attempt Delay").
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Largest head of a proxy's answer, bytes.
const PROXY_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Connects to the first of the host's addresses that answers. They are tried in the resolver's order, the next
/// one when the one before has failed or takes its time: a dead address costs a moment, not the caller's timeout.
///
/// # Errors
/// The name does not resolve, or every address fails: the last one's error.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    first_of(lookup_host((host, port)).await?).await
}

async fn first_of(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let next = addresses.next();
        let patience = if next.is_some() { NEXT_ADDRESS_AFTER } else { Duration::MAX };
        if let Some(address) = next {
            attempts.spawn(TcpStream::connect(address));
        }
        match timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Some(Ok(Err(error)))) => failure = error,
            Ok(Some(Err(error))) => failure = io::Error::other(error),
            Ok(None) => return Err(failure),
            Err(_) => {}
        }
    }
}

/// Connects to a host, for TLS or not, by the proxy that it has.
///
/// # Errors
/// See [`connect`]; the proxy does not let the connection through; it cannot be used.
pub async fn reach(proxies: &Proxies, tls: bool, host: &str, port: u16) -> io::Result<TcpStream> {
    match proxies.of_host(tls, host, port) {
        Ok(None) => connect(host, port).await,
        Ok(Some(proxy)) => {
            let stream = connect(&proxy.host, proxy.port).await;
            let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("{proxy}: {error}")))?;
            tunnel(stream, proxy, host, port).await
        }
        Err(unusable) => Err(io::Error::other(format!("{} {}", unusable.variable, unusable.why))),
    }
}

/// Asks the proxy for a tunnel (RFC 9110 §9.3.6), for plain connections too: a WebSocket needs one.
async fn tunnel(mut stream: TcpStream, proxy: &Proxy, host: &str, port: u16) -> io::Result<TcpStream> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str("Proxy-Authorization: ");
        request.push_str(authorization.expose_secret());
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to who asked for the tunnel.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_BYTES_MAX {
            return Err(io::Error::other(format!("the answer of {proxy} has no end")));
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    match head.split_ascii_whitespace().nth(1).and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=299) => Ok(stream),
        Some(status) => Err(io::Error::other(format!("{proxy} answered {status} to CONNECT {authority}"))),
        None => Err(io::Error::other(format!("{proxy} does not answer as a proxy does"))),
    }
}

/// [`reach`] for the HTTP client.
#[derive(Clone, Debug)]
pub struct Connector(pub Arc<Proxies>);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let proxies = self.0.clone();
        Box::pin(async move {
            let host = uri.host().ok_or_else(|| io::Error::other("the URL has no host"))?;
            let tls = uri.scheme_str() == Some("https");
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok(TokioIo::new(reach(&proxies, tls, host, port).await?))
        })
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// An address that answers nothing, as behind a dead network: its queue of connections is full.
    async fn black_hole() -> (SocketAddr, impl Sized) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&local(0).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(NEXT_ADDRESS_AFTER, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        (address, (socket, queued))
    }

    #[tokio::test]
    async fn a_dead_address_costs_a_moment_only() {
        let (dead, _hole) = black_hole().await;
        let refusing = TcpListener::bind(local(0)).await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let alive = listener.local_addr().unwrap();
        let begin = tokio::time::Instant::now();
        for addresses in [vec![alive], vec![refusing, alive], vec![dead, refusing, alive], vec![alive, dead]]
        {
            let stream = first_of(addresses.into_iter()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), alive);
        }
        assert!(begin.elapsed() >= NEXT_ADDRESS_AFTER, "the dead one was given its time");
    }

    #[tokio::test]
    async fn without_an_address_that_answers_the_last_error_is_told() {
        let refusing = TcpListener::bind(local(0)).await.unwrap().local_addr().unwrap();
        let error = first_of([refusing, refusing].into_iter()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = first_of(std::iter::empty()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
