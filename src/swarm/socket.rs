//! A client's end of a connection: from an address of its choice, plain or by TLS, never waited for.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

/// The connection is being made.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

/// Begins to connect.
///
/// # Errors
/// No connection can be begun: there are no descriptors or ports left, or the address is not this machine's.
pub fn connect(source: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// How a server is spoken to by TLS: what is trusted, and the name that its certificate must have.
pub type Secured = (Arc<ClientConfig>, ServerName<'static>);

/// A connection's bytes.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(TcpStream, Box<ClientConnection>),
}

impl Link {
    pub(super) fn new(socket: TcpStream, secured: Option<Secured>) -> io::Result<Self> {
        let Some((config, name)) = secured else { return Ok(Self::Plain(socket)) };
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::Tls(socket, Box::new(session)))
    }

    pub(super) const fn socket(&mut self) -> &mut TcpStream {
        let (Self::Plain(socket) | Self::Tls(socket, _)) = self;
        socket
    }

    /// Whether a read that does not fill its buffer was the last for now.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (socket, session) = match self {
            Self::Plain(socket) => return socket.read(buffer),
            Self::Tls(socket, session) => (socket, session),
        };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            let came = session.read_tls(socket)?;
            let processed = session.process_new_packets();
            // Its answers, and alerts to what is wrong.
            let written = Self::flush_tls(socket, session);
            processed.map_err(io::Error::other)?;
            written?;
            if came == 0 {
                return Ok(0);
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(socket, session) => {
                let taken = session.writer().write(bytes)?;
                Self::flush_tls(socket, session)?;
                // Its buffer is full: the socket has to take something first.
                if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
            }
        }
    }

    /// Writes what TLS itself has to say, such as the first words.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(socket, session) => Self::flush_tls(socket, session),
        }
    }

    fn flush_tls(socket: &mut TcpStream, session: &mut ClientConnection) -> io::Result<()> {
        while session.wants_write() {
            match session.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
