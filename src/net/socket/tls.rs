//! The server's side of TLS on an accepted connection. rustls does no I/O; here its records are read and written without
//! waiting, so that an event's frame can be encrypted and sent from the fan-out itself.

use std::io::{self, BufRead as _, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::{CertificateError, Error, PeerIncompatible, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::metrics::label::labels;

/// Of what is written, so many bytes become records at once: two of the largest. They are what may wait for the kernel,
/// beside the outbox.
const RECORD_BYTES_MAX: usize = 32 * 1024;
/// The first byte of TLS: a record with a part of the handshake (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

labels! {
    /// Why a handshake did not come to its end.
    pub enum HandshakeFailure: "reason" {
        /// A request in plain HTTP came instead.
        PlainHttp = "plain_http",
        /// Something that is neither.
        NotTls = "not_tls",
        /// It was not over in time.
        Timeout = "timeout",
        /// The client ended the connection.
        Closed = "closed",
        /// The client's part of it is larger than a request's head may be.
        TooLarge = "too_large",
        /// Both sides have no version, cipher or group in common.
        Incompatible = "incompatible",
        /// They have no protocol in common: it is not HTTP/1.1 that the client wants.
        Alpn = "alpn",
        /// The client shows no certificate, and needs one.
        NoCertificate = "no_certificate",
        /// It shows one that is not taken.
        BadCertificate = "bad_certificate",
        /// The client does not take ours, or something else about us.
        Alert = "alert",
        /// It is not what TLS says.
        Malformed = "malformed",
    }
}

/// The same, and what rustls or the system says.
#[derive(Debug)]
pub struct Failure {
    pub why: HandshakeFailure,
    pub error: Option<io::Error>,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { why: HandshakeFailure::Closed, error: Some(error) }
    }
}

impl From<HandshakeFailure> for Failure {
    fn from(why: HandshakeFailure) -> Self {
        Self { why, error: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use HandshakeFailure as Why;
        let why = match &error {
            Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => {
                Why::BadCertificate
            }
            Error::PeerIncompatible(_) => Why::Incompatible,
            Error::NoApplicationProtocol => Why::Alpn,
            Error::NoCertificatesPresented => Why::NoCertificate,
            Error::InvalidCertificate(CertificateError::BadEncoding) => Why::Malformed,
            Error::InvalidCertificate(_) | Error::UnsupportedNameType => Why::BadCertificate,
            Error::AlertReceived(_) => Why::Alert,
            _ => Why::Malformed,
        };
        Self { why, error: Some(io::Error::new(io::ErrorKind::InvalidData, error)) }
    }
}

/// What begins a connection where TLS is expected: `None` is TLS.
#[must_use]
pub const fn not_tls(first: u8) -> Option<HandshakeFailure> {
    match first {
        HANDSHAKE_RECORD => None,
        // A method.
        b'A'..=b'Z' => Some(HandshakeFailure::PlainHttp),
        _ => Some(HandshakeFailure::NotTls),
    }
}

/// A stream, and what encrypts it.
#[derive(Debug)]
pub struct Tls {
    tcp: TcpStream,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    session: ServerConnection,
    /// Records that the kernel has not taken, and how much of them it has.
    waiting: Vec<u8>,
    left: usize,
    wire_bytes: u64,
    closed: bool,
}

impl Tls {
    pub(super) fn new(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, Failure> {
        let mut session = ServerConnection::new(config)?;
        session.set_buffer_limit(Some(RECORD_BYTES_MAX));
        let state = State { session, waiting: Vec::new(), left: 0, wire_bytes: 0, closed: false };
        Ok(Self { tcp, state: Mutex::new(state) })
    }

    /// A panic elsewhere must not take this connection along.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn version(&self) -> Option<ProtocolVersion> {
        self.state().session.protocol_version()
    }

    pub(super) async fn handshake(&self, bytes_max: usize) -> Result<(), Failure> {
        let mut read = 0;
        loop {
            {
                let state = &mut *self.state();
                state.flush(&self.tcp)?;
                // What goes on being written, tickets perhaps, goes before whatever follows.
                if !state.session.is_handshaking() {
                    break;
                }
                match state.session.read_tls(&mut Wire(&self.tcp)) {
                    Ok(0) => return Err(HandshakeFailure::Closed.into()),
                    Ok(bytes) => {
                        read += bytes;
                        if let Err(error) = state.session.process_new_packets() {
                            // It is told why.
                            let _ = state.flush(&self.tcp);
                            return Err(error.into());
                        }
                        if read > bytes_max && state.session.is_handshaking() {
                            return Err(HandshakeFailure::TooLarge.into());
                        }
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            std::future::poll_fn(|cx| {
                let more = self.tcp.poll_read_ready(cx);
                if self.waiting_bytes() > 0 && self.poll_flush(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                more
            })
            .await?;
        }
        // What was read was there, and tokio takes the socket for readable until somebody has looked in vain.
        let mut first = [0];
        std::future::poll_fn(|cx| {
            let _ = self.tcp.poll_peek(cx, &mut ReadBuf::new(&mut first));
            Poll::Ready(Ok(()))
        })
        .await
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.state();
        if !state.flush(&self.tcp)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = state.session.writer().write_vectored(slices)?;
        state.flush(&self.tcp)?;
        Ok(taken)
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.state().waiting_bytes()
    }

    pub(super) fn wire_bytes(&self) -> u64 {
        self.state().wire_bytes
    }

    /// Ready when nothing waits.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.state().flush(&self.tcp)? {
            // The write found the socket full and cleared its readiness; this registers for its return.
            ready!(self.tcp.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.state();
        loop {
            match state.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Without a goodbye: what is carried here has ends of its own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            state.session.read_tls(&mut Wire(&self.tcp))?;
            let processed = state.session.process_new_packets();
            if state.session.wants_write() {
                // An alert, or the answer to new keys. If it must wait it goes with what is written next.
                let _ = state.flush(&self.tcp);
            }
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Also for what is decrypted already, which the kernel knows nothing of.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let decrypted = self.state().session.reader().fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        if decrypted { Poll::Ready(Ok(())) } else { self.tcp.poll_read_ready(cx) }
    }

    /// Says that nothing follows.
    pub(super) fn close(&self) {
        let state = &mut *self.state();
        if !std::mem::replace(&mut state.closed, true) {
            state.session.send_close_notify();
            let _ = state.flush(&self.tcp);
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn waiting_bytes(&self) -> usize {
        self.waiting.len() - self.left
    }

    /// Writes records as far as the kernel takes them. `false`: some wait.
    fn flush(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        loop {
            let waiting = self.waiting.get(self.left..).unwrap_or(&[]);
            let written = if !waiting.is_empty() {
                let written = tcp.try_write(waiting);
                self.left += written.as_ref().ok().copied().unwrap_or(0);
                written
            } else if self.session.wants_write() {
                self.session.write_tls(&mut Wire(tcp))
            } else {
                // A burst must not keep its memory for the connection's whole life.
                if self.left > 0 {
                    (self.waiting, self.left) = (Vec::new(), 0);
                }
                return Ok(true);
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.wire_bytes += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // Out of rustls, so that it is known how much there is.
        if self.left == self.waiting.len() {
            (self.waiting, self.left) = (Vec::new(), 0);
        }
        while self.session.wants_write() {
            self.session.write_tls(&mut self.waiting)?;
        }
        Ok(false)
    }
}

/// The kernel's side, for rustls.
struct Wire<'a>(&'a TcpStream);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
