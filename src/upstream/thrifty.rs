//! Reads a connection's frames so that many connections cost little: of some kinds there is one for each user. What is
//! there is read at once, into memory that all connections of a thread share, and only what is not handed on at once is
//! kept. Frames are handed on one by one, large ones in pieces, since tungstenite keeps a buffer as large as the largest
//! that it has seen. And the next one can be looked at before that, and skipped, when it is known.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::net::pausable::Pausable;
use crate::websocket::pieces::Pieces;

/// Bytes read at once, at most.
const SHARED_BYTES: usize = 64 * 1024;
/// The end of the answer to the upgrade request (RFC 9112 §2.1): what follows are frames.
const HEAD_END: [u8; 4] = *b"\r\n\r\n";
/// The first byte of a message in one frame, a text (RFC 6455 §5.2).
const WHOLE_TEXT: u8 = 0x81;

thread_local! {
    /// Between reads it holds nothing of anybody's.
    static SHARED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Nobody is to be woken by what comes, until it is read again.
    fn rest(&mut self);

    /// Whether it is certain that there was nothing more when it was read last.
    fn is_drained(&self) -> bool;
}

impl Stream for Pausable {
    fn rest(&mut self) {
        self.rest();
    }

    fn is_drained(&self) -> bool {
        self.is_drained()
    }
}

impl Stream for TlsStream<Pausable> {
    fn rest(&mut self) {
        self.get_mut().0.rest();
    }

    // It reads record by record.
    fn is_drained(&self) -> bool {
        false
    }
}

impl<T: Stream + ?Sized> Stream for Box<T> {
    fn rest(&mut self) {
        (**self).rest();
    }

    fn is_drained(&self) -> bool {
        (**self).is_drained()
    }
}

/// The connection.
pub struct Thrifty<S> {
    inner: S,
    unread: Unread,
    /// The last bytes of the head, until it is over.
    head: Option<[u8; 4]>,
    pieces: Pieces,
    /// What was handed on last was the rest of a frame, and nothing else: when that has been understood, whoever reads
    /// has nothing left.
    is_even: bool,
}

/// What was read and is not handed on yet.
#[derive(Debug, Default)]
struct Unread {
    bytes: Box<[u8]>,
    taken: usize,
}

impl Unread {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    fn skip(&mut self, length: usize) {
        self.taken += length;
        if self.rest().is_empty() {
            *self = Self::default();
        }
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let length = self.rest().len().min(into.len());
        if let (Some(into), Some(from)) = (into.get_mut(..length), self.rest().get(..length)) {
            into.copy_from_slice(from);
        }
        self.skip(length);
        length
    }

    /// As much as belongs to the head.
    fn take_head(&mut self, last: &mut Option<[u8; 4]>, into: &mut [u8]) -> usize {
        let mut length = 0;
        for byte in self.rest().iter().take(into.len()) {
            let Some([_, a, b, c]) = *last else { break };
            let now = [a, b, c, *byte];
            *last = (now != HEAD_END).then_some(now);
            length += 1;
        }
        self.take(into.get_mut(..length).unwrap_or_default())
    }
}

/// Where the payload of the frame at the front begins and ends, if that can be told; a server's has no mask.
fn payload(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes {
        [_, 126, a, b, ..] => Some((4, 4 + usize::from(u16::from_be_bytes([*a, *b])))),
        [_, length @ ..=125, ..] => Some((2, 2 + usize::from(*length))),
        _ => None,
    }
}

impl<S: Stream> Thrifty<S> {
    /// Of a connection over which nothing has come yet. A frame above `frame_bytes_max` is handed on as it is, to be
    /// refused.
    pub fn new(inner: S, piece_bytes: usize, frame_bytes_max: usize) -> Self {
        Self {
            inner,
            unread: Unread::default(),
            head: Some([0; 4]),
            pieces: Pieces::new(piece_bytes, frame_bytes_max),
            is_even: false,
        }
    }

    /// The text of the next message, if all that was handed on has been understood, and it is there as a whole.
    #[must_use]
    pub fn peek(&self) -> Option<&[u8]> {
        let rest =
            self.is_even.then(|| self.unread.rest()).filter(|rest| rest.first() == Some(&WHOLE_TEXT))?;
        let (from, until) = payload(rest)?;
        rest.get(from..until)
    }

    /// Passes over what [`Self::peek`] gives.
    pub fn skip(&mut self) {
        if self.peek().is_some()
            && let Some((_, until)) = payload(self.unread.rest())
        {
            self.unread.skip(until);
        }
    }

    /// Whether there was nothing more when it was read last.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_even && self.unread.rest().is_empty() && self.inner.is_drained()
    }

    /// Nobody is to be woken by what comes, until it is read again.
    pub fn rest(&mut self) {
        self.inner.rest();
    }

    /// Reads what is there; `false`: it is the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut shared = SHARED.take();
        shared.resize(SHARED_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut shared);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut buffer);
        let is_any = !buffer.filled().is_empty();
        if is_any {
            self.unread = Unread { bytes: buffer.filled().into(), taken: 0 };
        }
        SHARED.set(shared);
        read.map_ok(|()| is_any)
    }

    /// Hands on of what is there. 0: it needs more.
    fn hand_on(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Self { unread, head, pieces, is_even, .. } = self;
        if head.is_some() {
            let read = unread.take_head(head, into);
            *is_even = head.is_none();
            return Ok(read);
        }
        // No further than to the frame's end, where that is known.
        let mut left = if pieces.is_between_frames() {
            payload(unread.rest()).map(|(_, until)| until)
        } else {
            usize::try_from(pieces.left()).ok().filter(|left| *left > 0)
        };
        *is_even = false;
        let read = pieces.read(into, |part| {
            let most = left.unwrap_or(usize::MAX).min(part.len());
            let read = unread.take(part.get_mut(..most).unwrap_or_default());
            left = left.map(|left| left - read);
            if read == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(read) }
        });
        *is_even = left.is_some() && pieces.is_between_frames();
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }
}

impl<S: Stream> AsyncRead for Thrifty<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.unread.rest().is_empty() && !ready!(this.fill(cx))? {
                return Poll::Ready(Ok(()));
            }
            let read = this.hand_on(buf.initialize_unfilled())?;
            if read > 0 {
                buf.advance(read);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: Stream> AsyncWrite for Thrifty<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    const PIECE: usize = 2048;

    /// What comes at once each time; empty is nothing for now.
    struct Script(VecDeque<Vec<u8>>);

    impl AsyncRead for Script {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.get_mut().0.pop_front() {
                Some(part) if part.is_empty() => Poll::Pending,
                Some(part) => {
                    buf.put_slice(&part);
                    Poll::Ready(Ok(()))
                }
                None => Poll::Ready(Ok(())),
            }
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Stream for Script {
        fn rest(&mut self) {}

        fn is_drained(&self) -> bool {
            true
        }
    }

    /// What it hands on when these come, and it is read into buffers of `room` bytes; and what it held at most when
    /// there was nothing more.
    fn handed_on(parts: Vec<Vec<u8>>, room: usize) -> (Vec<u8>, usize) {
        let mut stream = Thrifty::new(Script(parts.into()), PIECE, 1 << 20);
        let (mut out, mut held) = (Vec::new(), 0);
        loop {
            let mut bytes = vec![0; room];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Pending => held = held.max(stream.unread.bytes.len()),
                Poll::Ready(read) => {
                    read.unwrap();
                    if buffer.filled().is_empty() {
                        return (out, held);
                    }
                    out.extend_from_slice(buffer.filled());
                }
            }
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            0..=125 => frame.push(payload.len() as u8),
            126..=0xFFFF => {
                frame.push(126);
                frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            }
            _ => unreachable!("no payload here is so long"),
        }
        frame.extend_from_slice(payload);
        frame
    }

    /// What comes in these parts, over and over.
    fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let (mut parts, mut rest) = (Vec::new(), bytes);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || cuts.iter().all(|cut| *cut == 0) {
                break;
            }
            let (part, behind) = rest.split_at(rest.len().min(*cut));
            parts.push(part.to_vec());
            rest = behind;
        }
        parts.push(rest.to_vec());
        parts
    }

    proptest! {
        #[test]
        fn the_head_is_handed_on_as_it_is_and_the_frames_in_pieces(
            head in "[ -~]{0,200}",
            lengths in prop::collection::vec(0_usize..9000, 0..6),
            cuts in prop::collection::vec(0_usize..5000, 1..50),
            room in 1_usize..6000,
        ) {
            let head = format!("HTTP/1.1 101 {head}\r\n\r\n");
            let (mut bytes, mut expected) = (head.clone().into_bytes(), head.into_bytes());
            for length in lengths {
                let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
                bytes.extend(frame(0x81, &payload));
                let pieces = payload.chunks(PIECE).count().max(1);
                let of = |n: usize| u8::from(n == 0) | if n + 1 == pieces { 0x80 } else { 0 };
                if payload.is_empty() {
                    expected.extend(frame(0x81, &[]));
                }
                let chunks = payload.chunks(PIECE).enumerate();
                chunks.for_each(|(n, piece)| expected.extend(frame(of(n), piece)));
            }
            let (out, held) = handed_on(cut(&bytes, &cuts), room);
            prop_assert_eq!(out, expected);
            prop_assert_eq!(held, 0, "memory while nothing comes");
        }

        /// Some are looked at and skipped, as soon as they can be; the others are read, by who reads a frame when it
        /// has one and asks for more only when it has none.
        #[test]
        fn who_skips_some_messages_gets_the_others_in_their_order(
            lengths in prop::collection::vec(0_usize..5000, 1..30),
            cuts in prop::collection::vec(0_usize..9000, 1..50),
            room in 1_usize..6000,
        ) {
            let head = b"HTTP/1.1 101 x\r\n\r\n".to_vec();
            let message = |(n, length): (usize, &usize)| -> Vec<u8> {
                [&n.to_be_bytes()[..], &vec![b'x'; *length]].concat()
            };
            let messages: Vec<Vec<u8>> = lengths.iter().enumerate().map(message).collect();
            let frames = messages.iter().flat_map(|message| frame(0x81, message));
            let bytes: Vec<u8> = head.iter().copied().chain(frames).collect();
            let mut stream = Thrifty::new(Script(cut(&bytes, &cuts).into()), PIECE, 1 << 20);
            let (mut seen, mut buffered, mut collected) = (Vec::new(), Vec::new(), Vec::new());
            let mut is_head = true;
            loop {
                // As tungstenite: all that it has before it reads.
                while !is_head && let Some((from, until)) = payload(&buffered) && until <= buffered.len() {
                    let first = buffered[0];
                    collected.extend_from_slice(&buffered[from..until]);
                    buffered.drain(..until);
                    if first & 0x80 != 0 {
                        seen.push(std::mem::take(&mut collected));
                    }
                    while let Some(text) = stream.peek() {
                        prop_assert!(buffered.is_empty() && collected.is_empty());
                        seen.push(text.to_vec());
                        stream.skip();
                    }
                }
                let mut bytes = vec![0; room];
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                    Poll::Pending => {}
                    Poll::Ready(read) => {
                        read.unwrap();
                        if buffer.filled().is_empty() {
                            break;
                        }
                        buffered.extend_from_slice(buffer.filled());
                        if is_head && buffered.ends_with(&HEAD_END) {
                            is_head = false;
                            buffered.clear();
                        }
                    }
                }
            }
            prop_assert_eq!(seen, messages);
        }
    }
}
