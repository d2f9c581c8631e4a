//! An accepted connection, as everybody above sees it: bytes come and go, whatever they are wrapped in.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ProtocolVersion, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use self::tls::Tls;
use super::polled::Polled;

pub mod tls;

/// A connection's socket. What does not wait can be called by anybody who shares it; [`AsyncRead`] and [`AsyncWrite`]
/// are for whoever has it alone.
#[derive(Debug)]
pub struct Socket(Kind);

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    /// Behind a pointer: those who have none pay nothing for it.
    Tls(Box<Tls>),
    Stream(Box<Polled>),
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self(Kind::Plain(tcp))
    }
}

impl From<Polled> for Socket {
    fn from(stream: Polled) -> Self {
        Self(Kind::Stream(Box::new(stream)))
    }
}

impl Socket {
    /// The server's side of TLS on `tcp`, once the client's handshake is over. It reads at most `bytes_max` bytes for it;
    /// dropping the future ends it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn secure(
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        bytes_max: usize,
    ) -> Result<Self, tls::Failure> {
        let tls = Box::new(Tls::new(tcp, config)?);
        tls.handshake(bytes_max).await?;
        Ok(Self(Kind::Tls(tls)))
    }

    /// What carries it; `None`: it is one stream among others.
    #[must_use]
    pub const fn tcp(&self) -> Option<&TcpStream> {
        match &self.0 {
            Kind::Plain(tcp) => Some(tcp),
            Kind::Tls(tls) => Some(tls.tcp()),
            Kind::Stream(_) => None,
        }
    }

    /// The version of TLS; `None`: it is plain.
    #[must_use]
    pub fn tls_version(&self) -> Option<ProtocolVersion> {
        match &self.0 {
            Kind::Plain(_) | Kind::Stream(_) => None,
            Kind::Tls(tls) => tls.version(),
        }
    }

    /// Writes what is taken at once. What TLS has made of it may still wait; see [`Self::waiting_bytes`].
    ///
    /// # Errors
    /// As a non-blocking write: `WouldBlock` when nothing is.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Plain(tcp) => tcp.try_write(bytes),
            Kind::Tls(tls) => tls.try_write(&[IoSlice::new(bytes)]),
            Kind::Stream(stream) => stream.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// The same of several.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Plain(tcp) => tcp.try_write_vectored(slices),
            Kind::Tls(tls) => tls.try_write(slices),
            Kind::Stream(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Bytes that were taken, and that the kernel has not: they leave with [`Self::poll_write_ready`].
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        match &self.0 {
            Kind::Plain(_) | Kind::Stream(_) => 0,
            Kind::Tls(tls) => tls.waiting_bytes(),
        }
    }

    /// Bytes that the kernel has taken, ever, where that is not what [`Self::try_write`] has.
    #[must_use]
    pub fn wire_bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Plain(_) | Kind::Stream(_) => None,
            Kind::Tls(tls) => Some(tls.wire_bytes()),
        }
    }

    /// Ready when nothing waits and more may be taken; only then `cx` is not woken.
    ///
    /// # Errors
    /// The connection is broken, or the runtime shuts down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Plain(tcp) => tcp.poll_write_ready(cx),
            Kind::Tls(tls) => tls.poll_flush(cx),
            Kind::Stream(stream) => stream.poll_write_ready(cx).map(Ok),
        }
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// As a non-blocking read: `WouldBlock` when nothing is.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Plain(tcp) => tcp.try_read(buffer),
            Kind::Tls(tls) => tls.try_read(buffer),
            Kind::Stream(stream) => stream.try_read(buffer),
        }
    }

    /// Ready when there may be something to read, or the connection is broken; only then `cx` is not woken.
    ///
    /// # Errors
    /// The runtime shuts down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Plain(tcp) => tcp.poll_read_ready(cx),
            Kind::Tls(tls) => tls.poll_read_ready(cx),
            Kind::Stream(stream) => stream.poll_read_ready(cx).map(Ok),
        }
    }

    /// Ends the writing side: the client reads the end after what was sent.
    pub fn shut_write(&self) {
        if let Kind::Tls(tls) = &self.0 {
            tls.close();
        }
        // It fails on a connection that is gone already.
        match &self.0 {
            Kind::Plain(tcp) => _ = SockRef::from(tcp).shutdown(Shutdown::Write),
            Kind::Tls(tls) => _ = SockRef::from(tls.tcp()).shutdown(Shutdown::Write),
            Kind::Stream(stream) => stream.shut_write(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Kind::Tls(tls) => loop {
                match tls.try_read(buffer.initialize_unfilled()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read.map(|read| buffer.advance(read))),
                }
                ready!(tls.poll_read_ready(cx))?;
            },
            Kind::Stream(stream) => Pin::new(stream.alone()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Kind::Tls(tls) => tls.poll_flush(cx),
            Kind::Stream(stream) => Pin::new(stream.alone()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.shut_write();
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Kind::Tls(tls) => loop {
                match tls.try_write(slices) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
                ready!(tls.poll_flush(cx))?;
            },
            Kind::Stream(stream) => Pin::new(stream.alone()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection has one, and most are plain.
    #[test]
    fn a_plain_socket_is_no_larger_than_its_stream() {
        assert_eq!(size_of::<Socket>(), size_of::<TcpStream>());
    }
}
