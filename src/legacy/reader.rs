//! The reading half of a connection: tungstenite, which validates frames and answers pings and closes. It and
//! its buffers exist only while a message is on its way: most clients are silent for nearly all of their time.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::coop;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, WebSocket};

use super::close::CloseReason;
use super::conn::Conn;
use super::incoming::Incoming;
use super::outbox::Pushed;

/// tungstenite's read buffer: it is filled with zeros before every read.
const READ_BUFFER_BYTES: usize = 1024;
/// What tungstenite may hold of its own frames; they go to the outbox at once.
const WRITE_BUFFER_BYTES_MAX: usize = 4096;
/// Reads in one turn: fragments that make no message must not keep the thread from its other connections.
const READS_PER_TURN_MAX: u32 = 8;

/// Reads one client's messages.
pub(super) struct Reader {
    conn: Arc<Conn>,
    message_bytes_max: usize,
    socket: Option<Box<WebSocket<Wire>>>,
}

impl Reader {
    /// Reads `conn`, from which `early` has been read already. Messages have at most `message_bytes_max` bytes.
    pub(super) fn new(conn: Arc<Conn>, early: &Bytes, message_bytes_max: usize) -> Self {
        let mut reader = Self { conn, message_bytes_max, socket: None };
        if !early.is_empty() {
            let mut wire = reader.wire(early.len());
            wire.incoming.feed(early);
            let config = reader.config();
            let socket = WebSocket::from_partially_read(wire, early.to_vec(), Role::Server, Some(config));
            reader.socket = Some(Box::new(socket));
        }
        reader
    }

    fn wire(&self, buffered: usize) -> Wire {
        Wire { conn: self.conn.clone(), incoming: Incoming::new(buffered), reads_left: 0 }
    }

    /// tungstenite's own bounds are far too large.
    fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max))
    }

    /// The next message; after an error there is none.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, CloseReason>> {
        let turn = ready!(coop::poll_proceed(cx));
        if self.socket.is_none() {
            let Ok(()) = ready!(self.conn.poll_readable(cx)) else {
                return Poll::Ready(Err(CloseReason::Lost));
            };
        }
        let mut socket = self.socket.take().unwrap_or_else(|| {
            Box::new(WebSocket::from_raw_socket(self.wire(0), Role::Server, Some(self.config())))
        });
        socket.get_mut().reads_left = READS_PER_TURN_MAX;
        let result = match socket.read() {
            Err(WsError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        };
        let wire = socket.get_ref();
        let (flood, all_read) = (wire.incoming.is_flood(), wire.reads_left > 0);
        // Between messages nothing is worth keeping. After a message more may stand in tungstenite's buffer.
        let keep = result.is_some() || wire.incoming.bytes() > 0 || !all_read;
        self.conn.hold(if keep { wire.incoming.held() } else { 0 });
        self.socket = keep.then_some(socket);
        if flood {
            return self.fail(CloseReason::ControlFlood);
        }
        match result {
            Some(Ok(message)) => {
                turn.made_progress();
                Poll::Ready(Ok(message))
            }
            Some(Err(error)) => self.fail(reason_of(&error)),
            None if all_read => match self.conn.poll_readable(cx) {
                // Readable again already, or broken: the next turn finds out.
                Poll::Ready(_) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            },
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn fail(&mut self, reason: CloseReason) -> Poll<Result<Message, CloseReason>> {
        self.give_back();
        Poll::Ready(Err(reason))
    }

    /// Nothing more will be read. What was held is given back at once: the connection's end may take its time, and
    /// others would be turned away meanwhile.
    pub(super) fn give_back(&mut self) {
        self.socket = None;
        self.conn.hold(0);
    }
}

/// Why reading ended.
fn reason_of(error: &WsError) -> CloseReason {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => CloseReason::TooBig,
        WsError::Utf8(_) => CloseReason::NotUtf8,
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseReason::Lost,
        WsError::Protocol(_) | WsError::Capacity(_) => CloseReason::Protocol,
        WsError::ConnectionClosed | WsError::AlreadyClosed => CloseReason::ByClient,
        _ => CloseReason::Lost,
    }
}

/// What tungstenite works on: it reads the socket, and what it writes, its pongs and closes, goes through the
/// outbox.
struct Wire {
    conn: Arc<Conn>,
    incoming: Incoming,
    reads_left: u32,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads_left = self.reads_left.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
        let read = match self.conn.try_read(buffer) {
            // Not one of this turn's reads: the socket is empty, and will say when it is not.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.reads_left += 1;
                return Err(error);
            }
            result => result?,
        };
        self.incoming.feed(buffer.get(..read).unwrap_or(&[]));
        Ok(read)
    }
}

impl Write for Wire {
    /// Always takes everything: tungstenite writes whole frames, and a part of one must never be left over.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        match self.conn.push(Bytes::copy_from_slice(frame)) {
            // After an overflow the session ends by itself; tungstenite need not know.
            Pushed::Written | Pushed::Queued | Pushed::Overflow => Ok(frame.len()),
            Pushed::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
