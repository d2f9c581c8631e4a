//! The outbox: the one place where bytes leave a connection, so that nothing interleaves. It holds what the
//! socket did not take at once, bounded in frames and bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

/// Most frames handed to the socket in one vectored write (Linux takes 1,024; more gains nothing).
const SLICES_MAX: usize = 64;

/// The bounds of an outbox.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Frames waiting.
    pub frames_max: usize,
    /// Bytes waiting.
    pub bytes_max: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The socket took it whole.
    Written,
    /// It waits, or a part of it does.
    Queued,
    /// It was dropped, as will be every later one: the reader is too slow.
    Overflow,
    /// The socket is broken or the outbox is shut.
    Closed,
}

impl Pushed {
    /// Whether the frame was sent, or will be if the socket takes it.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        matches!(self, Self::Written | Self::Queued)
    }
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits.
    Empty,
    /// The socket takes no more now.
    Blocked,
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Takes no more, but what waits is still written.
    Shut,
    Overflowed,
    Broken,
}

/// Frames on their way to one socket.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Bytes>,
    /// Bytes of the first frame that are already written.
    written: usize,
    bytes: usize,
    bounds: Bounds,
    state: State,
    /// Frames accepted, ever, and not given up.
    pub frames_out: u64,
    /// Bytes accepted, ever, and not given up.
    pub bytes_out: u64,
}

impl Outbox {
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            queue: VecDeque::new(),
            written: 0,
            bytes: 0,
            bounds,
            state: State::Open,
            frames_out: 0,
            bytes_out: 0,
        }
    }

    /// From now on these are its bounds. What waits already stays.
    pub const fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Hands in a frame (or several, encoded back to back). With nothing waiting, `write` is tried at once.
    /// It must behave as a non-blocking vectored write does.
    pub fn push(
        &mut self,
        frame: Bytes,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Pushed {
        self.make_room(frame.len(), &mut write);
        if self.state != State::Open || !self.queue.is_empty() {
            return self.queue_only(frame);
        }
        // Nearly always the socket takes it whole, and it need not even be queued.
        match write(&[IoSlice::new(&frame)]) {
            Ok(taken) if taken == frame.len() => {
                self.count(&frame);
                return Pushed::Written;
            }
            Ok(taken) if taken > 0 => {
                self.queue_only(frame);
                self.advance(taken);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.queue_only(frame),
            // A flush makes of it what is to be made of it.
            Ok(_) | Err(_) => {
                self.queue_only(frame);
            }
        }
        match self.flush(write) {
            Flushed::Empty => Pushed::Written,
            Flushed::Blocked => Pushed::Queued,
            Flushed::Broken => Pushed::Closed,
        }
    }

    fn count(&mut self, frame: &Bytes) {
        self.frames_out += 1;
        self.bytes_out += frame.len() as u64;
    }

    /// Where a frame of `length` bytes would not fit, the socket is tried first: a burst alone must not make
    /// a fast reader look slow.
    pub fn make_room(&mut self, length: usize, write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) {
        if self.state == State::Open && !self.has_room(length) {
            self.flush(write);
        }
    }

    fn has_room(&self, length: usize) -> bool {
        self.queue.is_empty()
            || (self.queue.len() < self.bounds.frames_max && self.counted() + length <= self.bounds.bytes_max)
    }

    /// Hands in a frame without trying the socket: several of one burst are then written together.
    pub fn queue_only(&mut self, frame: Bytes) -> Pushed {
        match self.state {
            State::Open => {}
            State::Overflowed => return Pushed::Overflow,
            State::Shut | State::Broken => return Pushed::Closed,
        }
        if !self.has_room(frame.len()) {
            self.state = State::Overflowed;
            return Pushed::Overflow;
        }
        self.count(&frame);
        self.bytes += frame.len();
        self.queue.push_back(frame);
        Pushed::Queued
    }

    /// Bytes that count for the bound. One frame may always wait, however large, for its size was bounded where
    /// it came from: a reader in the middle of it is not slow yet, so behind it there is room as ever.
    fn counted(&self) -> usize {
        let first = self.queue.front().filter(|frame| frame.len() > self.bounds.bytes_max);
        self.bytes - first.map_or(0, |frame| frame.len() - self.written)
    }

    /// Writes what waits, many frames at once, until the socket takes no more.
    pub fn flush(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> Flushed {
        while !self.queue.is_empty() {
            if self.state == State::Broken {
                return Flushed::Broken;
            }
            let skip = self.written;
            let result = if let [only] = self.queue.make_contiguous() {
                write(&[IoSlice::new(only.get(skip..).unwrap_or(&[]))])
            } else {
                let slices: Vec<IoSlice<'_>> = self
                    .queue
                    .iter()
                    .take(SLICES_MAX)
                    .enumerate()
                    .map(|(i, frame)| {
                        IoSlice::new(if i == 0 { frame.get(skip..).unwrap_or(&[]) } else { frame })
                    })
                    .collect();
                write(&slices)
            };
            match result {
                Ok(0) => return self.fail(),
                Ok(taken) => self.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.fail(),
            }
        }
        // A burst must not keep its memory for the connection's whole life.
        if self.queue.capacity() > 0 {
            self.queue = VecDeque::new();
        }
        Flushed::Empty
    }

    fn advance(&mut self, mut taken: usize) {
        self.bytes = self.bytes.saturating_sub(taken);
        while let Some(first) = self.queue.front() {
            let left = first.len() - self.written;
            if taken < left {
                self.written += taken;
                return;
            }
            taken -= left;
            self.written = 0;
            self.queue.pop_front();
        }
    }

    fn fail(&mut self) -> Flushed {
        self.bytes_out -= self.bytes as u64;
        self.frames_out -= self.queue.len() as u64;
        self.state = State::Broken;
        self.queue = VecDeque::new();
        self.written = 0;
        self.bytes = 0;
        Flushed::Broken
    }

    /// Takes `last` as the final frame. After an overflow what waits is dropped but for the frame that is
    /// already partly written, so that `last` is still at a frame's boundary.
    pub fn finish(&mut self, last: Bytes) {
        if self.state == State::Broken || self.state == State::Shut {
            return;
        }
        if self.state == State::Overflowed {
            let kept = usize::from(self.written > 0).min(self.queue.len());
            self.frames_out -= (self.queue.len() - kept) as u64;
            self.queue.truncate(kept);
            let kept = self.queue.iter().map(Bytes::len).sum::<usize>() - self.written;
            self.bytes_out -= (self.bytes - kept) as u64;
            self.bytes = kept;
        }
        self.frames_out += 1;
        self.bytes_out += last.len() as u64;
        self.bytes += last.len();
        self.queue.push_back(last);
        self.state = State::Shut;
    }

    /// Counts the reader as too slow.
    pub fn give_up(&mut self) {
        if self.state == State::Open {
            self.state = State::Overflowed;
        }
    }

    /// Whether more than half of a bound is used: time to read no more from the client.
    #[must_use]
    pub fn congested(&self) -> bool {
        self.queue.len() > self.bounds.frames_max / 2 || self.bytes > self.bounds.bytes_max / 2
    }

    /// Bytes that the socket took, ever.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.bytes_out - self.bytes as u64
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that their queue takes, without the frames themselves: others may hold those too.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.queue.len() * size_of::<Bytes>()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a frame was dropped because the reader is too slow.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.state == State::Overflowed
    }

    /// Whether writing to the socket failed.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.state == State::Broken
    }
}

/// WebSocket opcodes this server sends itself (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
}

/// One unfragmented, unmasked frame (RFC 6455 §5.2).
#[must_use]
pub fn encode_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.push(0x80 | opcode as u8);
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// A close frame; the reason is cut at 123 bytes (RFC 6455 §5.5.1).
#[must_use]
pub fn encode_close(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    payload.extend_from_slice(reason.get(..end).unwrap_or("").as_bytes());
    encode_frame(Opcode::Close, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { frames_max: 4, bytes_max: 100 };

    /// A socket with room for `room` bytes.
    struct Socket {
        room: usize,
        got: Vec<u8>,
        writes: usize,
    }

    impl Socket {
        fn new(room: usize) -> Self {
            Self { room, got: Vec::new(), writes: 0 }
        }

        fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.writes += 1;
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut taken = 0;
            for slice in slices {
                let part = slice.len().min(self.room);
                self.got.extend_from_slice(&slice[..part]);
                self.room -= part;
                taken += part;
            }
            Ok(taken)
        }
    }

    fn frame(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn frames_go_at_once_while_the_socket_takes_them() {
        let (mut outbox, mut socket) = (Outbox::new(BOUNDS), Socket::new(5));
        assert_eq!(outbox.push(frame("abc"), |s| socket.write(s)), Pushed::Written);
        assert_eq!(outbox.push(frame("def"), |s| socket.write(s)), Pushed::Queued);
        let writes = socket.writes;
        assert_eq!(outbox.push(frame("ghi"), |s| socket.write(s)), Pushed::Queued);
        assert_eq!(socket.writes, writes, "with frames waiting the socket is not tried");
        socket.room = 100;
        assert_eq!(outbox.flush(|s| socket.write(s)), Flushed::Empty);
        assert_eq!(socket.writes, writes + 1, "waiting frames are written together");
        assert_eq!(socket.got, b"abcdefghi");
        assert_eq!((outbox.frames_out, outbox.bytes_out), (3, 9));
    }

    #[test]
    fn overflow_is_final_and_ends_at_a_frame_boundary() {
        let (mut outbox, mut socket) = (Outbox::new(BOUNDS), Socket::new(1));
        for text in ["ab", "cd", "ef", "gh"] {
            assert_eq!(outbox.push(frame(text), |s| socket.write(s)), Pushed::Queued);
        }
        assert_eq!(outbox.push(frame("ij"), |s| socket.write(s)), Pushed::Overflow);
        assert!(outbox.overflowed());
        outbox.finish(frame("BYE"));
        assert_eq!(outbox.push(frame("kl"), |s| socket.write(s)), Pushed::Closed);
        assert_eq!(outbox.taken(), 1, "what is dropped was not taken");
        socket.room = 100;
        assert_eq!(outbox.flush(|s| socket.write(s)), Flushed::Empty);
        assert_eq!(socket.got, b"abBYE", "the frame under way is completed, the rest is dropped");
        assert_eq!((outbox.taken(), outbox.frames_out, outbox.bytes_out), (5, 2, 5));
    }

    #[test]
    fn bytes_are_bounded_but_one_frame_always_fits() {
        let (mut outbox, mut socket) = (Outbox::new(BOUNDS), Socket::new(7));
        assert_eq!(outbox.push(frame(&"x".repeat(500)), |s| socket.write(s)), Pushed::Queued);
        assert_eq!(outbox.push(frame(&"y".repeat(99)), |s| socket.write(s)), Pushed::Queued);
        assert_eq!(outbox.push(frame("y"), |s| socket.write(s)), Pushed::Queued);
        assert_eq!(outbox.push(frame("y"), |s| socket.write(s)), Pushed::Overflow);
        let (mut outbox, mut socket) = (Outbox::new(BOUNDS), Socket::new(0));
        assert_eq!(outbox.push(frame("y"), |s| socket.write(s)), Pushed::Queued);
        assert_eq!(outbox.push(frame(&"x".repeat(500)), |s| socket.write(s)), Pushed::Overflow);
    }

    #[test]
    fn a_burst_beyond_the_bounds_is_no_overflow_while_the_socket_takes_it() {
        let (mut outbox, mut socket) = (Outbox::new(BOUNDS), Socket::new(usize::MAX / 2));
        for n in 0..100 {
            outbox.make_room(30, |s| socket.write(s));
            assert_eq!(outbox.queue_only(frame(&"x".repeat(30))), Pushed::Queued, "{n}");
        }
        assert!(socket.writes >= 100 / 4 && socket.writes < 100, "{}", socket.writes);
        socket.room = 0;
        let refused = (0..100).find(|_| {
            outbox.make_room(30, |s| socket.write(s));
            outbox.queue_only(frame(&"x".repeat(30))) == Pushed::Overflow
        });
        assert!(refused.is_some(), "a reader that takes nothing is slow all the same");
    }

    #[test]
    fn a_broken_socket_is_noticed() {
        let mut outbox = Outbox::new(BOUNDS);
        let broken = |_: &[IoSlice<'_>]| Err(io::ErrorKind::BrokenPipe.into());
        assert_eq!(outbox.push(frame("a"), broken), Pushed::Closed);
        assert!(outbox.broken() && outbox.is_empty());
        assert_eq!(outbox.push(frame("b"), broken), Pushed::Closed);
        assert_eq!((outbox.frames_out, outbox.bytes_out), (0, 0));
    }

    #[test]
    fn frames_have_the_rfcs_lengths() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = encode_frame(Opcode::Text, &vec![b'x'; length]);
            assert_eq!(frame.len(), length + header);
            assert_eq!(frame[0], 0x81);
        }
        assert_eq!(&encode_frame(Opcode::Text, &[b'x'; 300])[1..4], &[126, 1, 44]);
        assert_eq!(&encode_close(1001, "bye")[..], &[0x88, 5, 3, 233, b'b', b'y', b'e']);
        assert_eq!(encode_close(1000, &"é".repeat(100)).len(), 2 + 2 + 122);
    }

    proptest! {
        #[test]
        fn every_accepted_byte_leaves_once_and_in_order(
            steps in proptest::collection::vec((0_usize..8, 0_usize..6), 0..60)
        ) {
            let bounds = Bounds { frames_max: 5, bytes_max: 20 };
            let (mut outbox, mut socket) = (Outbox::new(bounds), Socket::new(0));
            let mut accepted = Vec::new();
            for (i, (length, room)) in steps.into_iter().enumerate() {
                socket.room += room;
                let bytes: Vec<u8> = std::iter::repeat_n(i as u8, length + 1).collect();
                match outbox.push(bytes.clone().into(), |s| socket.write(s)) {
                    Pushed::Written | Pushed::Queued => accepted.extend(bytes),
                    Pushed::Overflow => break,
                    Pushed::Closed => prop_assert!(false, "nothing closed it"),
                }
                prop_assert!(outbox.queue.len() <= 5);
                if room % 2 == 0 {
                    outbox.flush(|s| socket.write(s));
                }
            }
            socket.room = usize::MAX / 2;
            prop_assert_eq!(outbox.flush(|s| socket.write(s)), Flushed::Empty);
            prop_assert_eq!(&socket.got, &accepted);
        }
    }
}
