//! The reading half of a connection: tungstenite, which validates frames and answers pings and closes. It and
//! its buffers exist only while a message is on its way: most clients are silent for nearly all of their time.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::coop;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, WebSocket};

use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::websocket::conn::Conn;
use crate::websocket::incoming::Incoming;
use crate::websocket::outbox::Pushed;
use crate::websocket::pieces::{PIECE_BYTES, Pieces};

/// tungstenite's read buffer: it is filled with zeros before every read.
const READ_BUFFER_BYTES: usize = 1024;
/// What tungstenite may hold of its own frames; they go to the outbox at once.
const WRITE_BUFFER_BYTES_MAX: usize = 4096;
/// Reads in one turn: fragments that make no message must not keep the thread from its other connections.
const READS_PER_TURN_MAX: u32 = 8;

/// Reads one client's messages.
pub(crate) struct Reader {
    conn: Arc<Conn>,
    message_bytes_max: usize,
    socket: Option<Box<WebSocket<Wire>>>,
    /// Why there is no next message.
    ended: Option<CloseReason>,
}

impl Reader {
    /// Reads `conn`, from which `early` has been read already. Messages have at most `message_bytes_max` bytes.
    pub(crate) fn new(conn: Arc<Conn>, early: &Bytes, message_bytes_max: usize) -> Self {
        let mut reader = Self { conn, message_bytes_max, socket: None, ended: None };
        if !early.is_empty() {
            // A copy: what it is of may be far larger.
            reader.socket = Some(reader.socket(Bytes::copy_from_slice(early)));
        }
        reader
    }

    /// From now on messages have at most so many bytes; one that is under way keeps the bound it began under.
    pub(crate) fn bound(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    fn socket(&self, early: Bytes) -> Box<WebSocket<Wire>> {
        let wire = Wire {
            conn: self.conn.clone(),
            early,
            incoming: Incoming::default(),
            pieces: Pieces::new(PIECE_BYTES, self.message_bytes_max),
            reads_left: 0,
        };
        Box::new(WebSocket::from_raw_socket(wire, Role::Server, Some(config(self.message_bytes_max))))
    }

    /// Whether more of a message has come since the last call; see [`Incoming::has_progressed`].
    pub(crate) fn has_progressed(&mut self, now: Now) -> bool {
        self.socket.as_mut().is_some_and(|socket| socket.get_mut().incoming.has_progressed(now.mono))
    }

    /// The next message; after an error there is none.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, CloseReason>> {
        if let Some(reason) = self.ended {
            return Poll::Ready(Err(reason));
        }
        let turn = ready!(coop::poll_proceed(cx));
        if self.socket.is_none() {
            let Ok(()) = ready!(self.conn.poll_readable(cx)) else {
                return self.fail(CloseReason::Lost);
            };
        }
        let mut socket = self.socket.take().unwrap_or_else(|| self.socket(Bytes::new()));
        socket.get_mut().reads_left = READS_PER_TURN_MAX;
        let result = match socket.read() {
            Err(WsError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        };
        let wire = socket.get_ref();
        let (flood, invalid_text) = (wire.incoming.is_flood(), wire.incoming.is_invalid_text());
        let all_read = wire.reads_left > 0;
        // Between messages nothing is worth keeping. After a message more may be in tungstenite's buffer.
        let keep = result.is_some() || wire.incoming.bytes() > 0 || !all_read;
        self.conn.hold(if keep { wire.early.len() + wire.incoming.held() } else { 0 });
        self.socket = keep.then_some(socket);
        if flood {
            return self.fail(CloseReason::ControlFlood);
        }
        // What was complete before it comes first.
        if result.is_none() && invalid_text {
            return self.fail(CloseReason::NotUtf8);
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
        self.ended = Some(reason);
        Poll::Ready(Err(reason))
    }

    /// Nothing more will be read. What was held is given back at once: the connection's end may take its time, and
    /// others would be turned away meanwhile.
    pub(crate) fn give_back(&mut self) {
        self.socket = None;
        self.conn.hold(0);
    }
}

/// tungstenite's own bounds are far too large.
fn config(message_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
}

/// Reads `text` as a client's message, with no client there.
///
/// # Errors
/// Why the client would be closed.
pub fn try_text(text: &str, message_bytes_max: usize) -> Result<(), CloseReason> {
    let mut frame = Frame::message(text.as_bytes().to_vec(), OpCode::Data(Data::Text), true);
    frame.header_mut().mask = Some([0; 4]);
    let mut bytes = Vec::with_capacity(frame.len());
    frame.format(&mut bytes).map_err(|error| reason_of(&error))?;
    let wire = io::Cursor::new(bytes);
    let mut socket = WebSocket::from_raw_socket(wire, Role::Server, Some(config(message_bytes_max)));
    socket.read().map(drop).map_err(|error| reason_of(&error))
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
    /// Read with the request, and not yet handed on.
    early: Bytes,
    incoming: Incoming,
    pieces: Pieces,
    reads_left: u32,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { conn, early, incoming, pieces, reads_left } = self;
        pieces.read(buffer, |buffer| {
            *reads_left = reads_left.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
            let read = if early.is_empty() {
                match conn.try_read(buffer) {
                    // Not one of this turn's reads: the socket is empty, and will say when it is not.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        *reads_left += 1;
                        return Err(error);
                    }
                    result => result?,
                }
            } else {
                let part = early.split_to(early.len().min(buffer.len()));
                buffer.iter_mut().zip(&part).for_each(|(to, from)| *to = *from);
                part.len()
            };
            incoming.feed(buffer.get(..read).unwrap_or(&[]));
            Ok(read)
        })
    }
}

impl Write for Wire {
    /// Always takes everything: tungstenite writes whole frames, and a part of one must never be left over.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        match self.conn.push_own(frame.to_vec()) {
            // After an overflow the session ends by itself; tungstenite need not know.
            Pushed::Written | Pushed::Queued | Pushed::Overflow => Ok(frame.len()),
            Pushed::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use crate::exchange::ConnId;
    use crate::limits::budget::Budget;
    use crate::websocket::outbox::Bounds;

    const BOUNDS: Bounds = Bounds { frames_max: 1 << 20, bytes_max: 1 << 30 };
    const MESSAGE_BYTES_MAX: usize = 1 << 16;

    async fn pair(budget: &Arc<Budget>) -> (Arc<Conn>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        socket.writable().await.unwrap();
        (Conn::new(ConnId(1), socket.into(), BOUNDS, budget), client)
    }

    /// A masked frame; its length takes as many bytes as `wide` says, at least.
    fn frame(first: u8, payload: &[u8], wide: u8) -> Vec<u8> {
        let mut frame = vec![first];
        match (payload.len(), wide) {
            (length @ 0..=125, 0) => frame.push(0x80 | length as u8),
            (length @ 0..=0xFFFF, 0 | 1) => {
                frame.push(0xFE);
                frame.extend((length as u16).to_be_bytes());
            }
            (length, _) => {
                frame.push(0xFF);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 0x80];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[derive(Clone, Debug)]
    struct Part {
        length: usize,
        wide: u8,
        ping: Option<usize>,
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let length = prop_oneof![3 => Just(0), 6 => 0_usize..40, 3 => 100_usize..400, 1 => 1000_usize..5000, 1 => 4090_usize..13_000];
        let part = (length, 0_u8..3, prop::option::of(0_usize..126));
        prop::collection::vec(part.prop_map(|(length, wide, ping)| Part { length, wide, ping }), 1..4)
    }

    fn encode(messages: &[(bool, Vec<Part>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (text, parts) in messages {
            for (i, Part { length, wide, ping }) in parts.iter().enumerate() {
                let opcode = if i > 0 { 0 } else { 2 - u8::from(*text) };
                let last = if i + 1 == parts.len() { 0x80 } else { 0 };
                bytes.extend(frame(last | opcode, &vec![b'a' + i as u8; *length], *wide));
                bytes.extend(ping.iter().flat_map(|length| frame(0x89, &vec![b'p'; *length], *wide % 2)));
            }
        }
        bytes
    }

    /// What tungstenite alone makes of it.
    fn by_tungstenite(bytes: &[u8]) -> (Vec<Message>, Vec<u8>) {
        struct Both<'a>(Cursor<&'a [u8]>, Vec<u8>);
        impl Read for Both<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    read => Ok(read),
                }
            }
        }
        impl Write for Both<'_> {
            fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
                self.1.extend_from_slice(frame);
                Ok(frame.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut socket = WebSocket::from_raw_socket(Both(Cursor::new(bytes), Vec::new()), Role::Server, None);
        let messages = std::iter::from_fn(|| socket.read().ok()).collect();
        (messages, socket.into_inner().1)
    }

    async fn read_all(early: &[u8], cuts: &[&[u8]]) -> (Vec<Message>, Vec<u8>) {
        let budget = Budget::new(1 << 30, 1);
        let (conn, mut client) = pair(&budget).await;
        let early = Bytes::copy_from_slice(early);
        let mut reader = Reader::new(conn.clone(), &early, MESSAGE_BYTES_MAX);
        let mut messages = Vec::new();
        for cut in std::iter::once(&&[][..]).chain(cuts) {
            client.write_all(cut).await.unwrap();
            // As a session's: now and then the task sleeps between two cuts.
            for _ in 0..3 {
                tokio::task::yield_now().await;
                while let Poll::Ready(message) = std::future::poll_fn(|cx| Poll::Ready(reader.poll(cx))).await
                {
                    messages.push(message.unwrap());
                }
            }
        }
        client.shutdown().await.unwrap();
        while let Ok(message) = std::future::poll_fn(|cx| reader.poll(cx)).await {
            messages.push(message);
        }
        conn.shut_write();
        let mut pongs = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut client, &mut pongs).await.unwrap();
        drop((reader, conn));
        assert_eq!(budget.held(), 0);
        (messages, pongs)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_are_tungstenites_however_they_come(
            messages in prop::collection::vec((any::<bool>(), parts()), 1..8),
            lengths in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..3000], 1..50),
            early in 0_usize..400,
        ) {
            let bytes = encode(&messages);
            let (early, mut rest) = bytes.split_at(early.min(bytes.len()));
            let mut cuts = Vec::new();
            for length in lengths.iter().cycle() {
                if rest.is_empty() || cuts.len() > 300 { break; }
                let (cut, left) = rest.split_at((*length).min(rest.len()));
                cuts.push(cut);
                rest = left;
            }
            cuts.push(rest);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let read = runtime.block_on(async {
                let limit = std::time::Duration::from_secs(20);
                tokio::time::timeout(limit, read_all(early, &cuts)).await.expect("reading ended")
            });
            prop_assert_eq!(read, by_tungstenite(&bytes));
        }
    }

    #[tokio::test]
    async fn after_its_end_there_is_nothing_to_wait_for() {
        let (conn, mut client) = pair(&Budget::new(1 << 30, 1)).await;
        let mut reader = Reader::new(conn, &Bytes::new(), MESSAGE_BYTES_MAX);
        client.write_all(&frame(0x88, &[], 0)).await.unwrap();
        let close = std::future::poll_fn(|cx| reader.poll(cx)).await;
        assert_eq!(close, Ok(Message::Close(None)));
        // The goodbye may be tried again, while the client is slow to take what waits.
        for _ in 0..3 {
            let end = std::future::poll_fn(|cx| Poll::Ready(reader.poll(cx))).await;
            assert_eq!(end, Poll::Ready(Err(CloseReason::ByClient)));
        }
    }

    #[tokio::test]
    async fn between_messages_nothing_is_kept() {
        let budget = Budget::new(1 << 30, 1);
        let (conn, mut client) = pair(&budget).await;
        let mut reader = Reader::new(conn, &Bytes::new(), MESSAGE_BYTES_MAX);
        for _ in 0..3 {
            client.write_all(&frame(0x81, b"hello", 0)).await.unwrap();
            let message = std::future::poll_fn(|cx| reader.poll(cx)).await.unwrap();
            assert_eq!(message, Message::text("hello"));
            assert!(std::future::poll_fn(|cx| Poll::Ready(reader.poll(cx))).await.is_pending());
            assert!(reader.socket.is_none());
        }
    }

    #[tokio::test]
    async fn pongs_that_are_not_read_count_for_the_budget() {
        let budget = Budget::new(1 << 30, 1);
        let (conn, _client) = pair(&budget).await;
        let filling = Bytes::from(vec![7; 1 << 16]);
        while conn.push(filling.clone()) != Pushed::Queued {}
        let before = budget.held();
        let pings = Bytes::from(frame(0x89, &[b'p'; 125], 0).repeat(10));
        let mut reader = Reader::new(conn, &pings, MESSAGE_BYTES_MAX);
        while let Poll::Ready(ping) = std::future::poll_fn(|cx| Poll::Ready(reader.poll(cx))).await {
            assert!(matches!(ping.unwrap(), Message::Ping(_)));
        }
        assert!(budget.held() >= before + 10 * 127, "{} then {}", before, budget.held());
    }
}
