//! Pure: the frames of one direction of a WebSocket, followed in the bytes that pass (RFC 6455 §5.2) and never changed:
//! where one ends, so that another can be put behind it, and what is counted of them. Whether they mean anything is for
//! those who speak to each other.

/// Longest head of a frame: two bytes, a length of eight, a masking key.
const HEAD_BYTES_MAX: usize = 14;
const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0F;
const CLOSE: u8 = 0x8;
const MASKED: u8 = 0x80;

/// One direction.
#[derive(Debug)]
pub struct Frames {
    /// Of the frame that is under way, as far as it has come.
    head: [u8; HEAD_BYTES_MAX],
    filled: usize,
    /// What is to come of its payload.
    left: u64,
    /// What has come of it, as far as a close frame's code needs it.
    code: [u8; 2],
    passed: u64,
    /// Bytes of the message that is under way.
    message: u64,
    message_max: Option<u64>,
    too_big: bool,
    closed: bool,
    close_code: Option<u16>,
    stops: bool,
    over: bool,
    counted: Counted,
}

/// What has passed since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Messages of data that have come to their end.
    pub messages: u64,
    /// Bytes of data, of messages that have not come to it, too.
    pub bytes: u64,
}

impl Frames {
    /// `message_max`: bytes of a message, beyond which it is over.
    #[must_use]
    pub const fn new(message_max: Option<u64>) -> Self {
        Self {
            head: [0; HEAD_BYTES_MAX],
            filled: 0,
            left: 0,
            code: [0; 2],
            passed: 0,
            message: 0,
            message_max,
            too_big: false,
            closed: false,
            close_code: None,
            stops: false,
            over: false,
            counted: Counted { messages: 0, bytes: 0 },
        }
    }

    /// Follows what comes next; how much of it passes. Less than all, or [`Self::is_over`]: nothing passes behind it.
    pub fn follow(&mut self, bytes: &[u8]) -> usize {
        let (mut at, mut begun) = (0, 0);
        while !self.over {
            if self.is_between() {
                begun = at;
                if self.stops {
                    self.over = true;
                    break;
                }
            }
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { break };
            if self.left > 0 {
                at += self.payload(rest);
            } else {
                at += 1;
                if self.head(rest.first().copied().unwrap_or(0)) {
                    self.over = true;
                    return begun;
                }
            }
        }
        at
    }

    /// Takes some of the payload; how much of it.
    fn payload(&mut self, rest: &[u8]) -> usize {
        let taken = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
        if self.opcode() == CLOSE {
            for (place, byte) in rest.iter().take(taken).enumerate() {
                if let Some(kept) = self.code.get_mut(usize::try_from(self.passed).unwrap_or(2) + place) {
                    *kept = *byte;
                }
            }
        } else if self.is_data() {
            self.counted.bytes += taken as u64;
        }
        self.passed += taken as u64;
        self.left -= taken as u64;
        if self.left == 0 {
            self.ended();
        }
        taken
    }

    /// Takes a byte of the head; whether the frame makes its message larger than it may be.
    fn head(&mut self, byte: u8) -> bool {
        if let Some(place) = self.head.get_mut(self.filled) {
            *place = byte;
        }
        self.filled += 1;
        let [_, second, ..] = self.head;
        let extended = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let key = if second & MASKED == 0 { 0 } else { 4 };
        if self.filled < 2 || self.filled < 2 + extended + key {
            return false;
        }
        let length = self.head.iter().skip(2).take(extended);
        let length = length.fold(0, |length: u64, byte| length << 8 | u64::from(*byte));
        self.left = if extended == 0 { u64::from(second & !MASKED) } else { length };
        self.passed = 0;
        if self.is_data() {
            self.message = self.message.saturating_add(self.left);
            self.too_big = self.message_max.is_some_and(|max| self.message > max);
        }
        if self.left == 0 && !self.too_big {
            self.ended();
        }
        self.too_big
    }

    /// The frame is whole.
    fn ended(&mut self) {
        let [first, second, ..] = self.head;
        if self.is_data() && first & FIN != 0 {
            self.counted.messages += 1;
            self.message = 0;
        }
        if self.opcode() == CLOSE && !self.closed {
            self.closed = true;
            if self.passed >= 2 {
                let key = if second & MASKED == 0 { [0; 2] } else { self.key() };
                let [high, low] = self.code;
                self.close_code = Some(u16::from_be_bytes([high ^ key[0], low ^ key[1]]));
            }
        }
        self.filled = 0;
    }

    /// The first two bytes of the masking key, which is the end of the head.
    fn key(&self) -> [u8; 2] {
        let at = self.filled.saturating_sub(4);
        let byte = |at: usize| self.head.get(at).copied().unwrap_or(0);
        [byte(at), byte(at + 1)]
    }

    const fn opcode(&self) -> u8 {
        self.head[0] & OPCODE
    }

    /// Whether the frame is of a message, and not between two of its frames.
    const fn is_data(&self) -> bool {
        self.opcode() < CLOSE
    }

    /// Whether the last frame has come to its end, and nothing of the next has come.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.filled == 0 && self.left == 0
    }

    /// From now on nothing passes behind the frame that is under way.
    pub const fn stop(&mut self) {
        self.stops = true;
        if self.is_between() {
            self.over = true;
        }
    }

    /// Whether nothing more passes: what has passed ends with a frame, unless a message is too large.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether that is because of a message that is too large.
    #[must_use]
    pub const fn is_too_big(&self) -> bool {
        self.too_big
    }

    /// Whether a close frame has passed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The code of the first one, if it had one.
    #[must_use]
    pub const fn close_code(&self) -> Option<u16> {
        self.close_code
    }

    /// What has passed since this was asked last.
    pub const fn take_counted(&mut self) -> Counted {
        let counted = self.counted;
        self.counted = Counted { messages: 0, bytes: 0 };
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as a server sends it, or with a key as a client does.
    fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
        let masked = if key.is_some() { MASKED } else { 0 };
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(masked | u8::try_from(length).unwrap()),
            length @ 126..65_536 => {
                out.push(masked | 126);
                out.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(key.iter().flatten());
        out.extend(payload.iter().zip((0..4).cycle()).map(|(byte, at)| byte ^ key.map_or(0, |key| key[at])));
        out
    }

    fn all(frames: &mut Frames, bytes: &[u8], pieces: usize) -> usize {
        bytes.chunks(pieces).map(|piece| frames.follow(piece)).sum()
    }

    #[test]
    fn messages_are_counted_whatever_their_pieces() {
        let key = Some([1, 2, 3, 4]);
        for key in [None, key] {
            let stream = [
                frame(0x81, b"hello", key),
                frame(0x02, &[7; 126], key),
                frame(0x89, b"ping", key),
                frame(0x00, &[7; 70_000], key),
                frame(0x80, b"", key),
                frame(0xC1, b"compressed", key),
                frame(0x88, &[0x03, 0xE9, b'x'], key),
            ]
            .concat();
            for pieces in [1, 2, 3, 13, 14, 15, 127, 70_000, 200_000] {
                let mut frames = Frames::new(None);
                assert_eq!(all(&mut frames, &stream, pieces), stream.len());
                assert!(frames.is_between() && frames.is_closed() && !frames.is_over());
                assert_eq!(frames.close_code(), Some(1001), "in pieces of {pieces}");
                let counted = Counted { messages: 3, bytes: 5 + 126 + 70_000 + 10 };
                assert_eq!(frames.take_counted(), counted);
                assert_eq!(frames.take_counted(), Counted::default());
            }
        }
    }

    #[test]
    fn a_close_without_a_code_has_none() {
        let mut frames = Frames::new(None);
        frames.follow(&frame(0x88, b"", None));
        assert!(frames.is_closed());
        assert_eq!(frames.close_code(), None);
        // The first one counts.
        frames.follow(&frame(0x88, &[3, 232], None));
        assert_eq!(frames.close_code(), None);
    }

    #[test]
    fn what_stops_stops_behind_the_frame_that_is_under_way() {
        let (one, two) = (frame(0x81, &[1; 300], None), frame(0x81, &[2; 300], None));
        let both = [one.clone(), two].concat();
        for before in 0..one.len() {
            let mut frames = Frames::new(None);
            assert_eq!(frames.follow(&both[..before]), before);
            frames.stop();
            assert_eq!(frames.is_over(), before == 0, "between two frames it is over at once");
            assert_eq!(frames.follow(&both[before..]), if before == 0 { 0 } else { one.len() - before });
            assert!(frames.is_over());
            assert_eq!(frames.follow(b"more"), 0);
        }
        let mut frames = Frames::new(None);
        frames.follow(&one);
        frames.stop();
        assert!(frames.is_over());
    }

    #[test]
    fn a_message_that_is_too_large_does_not_pass_in_one_frame_or_in_several() {
        let key = Some([9, 8, 7, 6]);
        let small = frame(0x81, &[0; 100], key);
        let large = frame(0x82, &[0; 101], key);
        for pieces in [1, 5, 1000] {
            let mut frames = Frames::new(Some(100));
            all(&mut frames, &[small.clone(), small.clone()].concat(), pieces);
            assert!(!frames.is_over());
            let passed = all(&mut frames, &large, pieces);
            assert!(frames.is_over() && frames.is_too_big());
            assert!(passed < 6, "nothing of the payload: {passed}");
        }
        let parts = [frame(0x01, &[0; 60], key), frame(0x89, &[0; 100], key), frame(0x00, &[0; 40], key)];
        let mut frames = Frames::new(Some(100));
        let stream = [parts.concat(), frame(0x80, &[0], key)].concat();
        assert_eq!(frames.follow(&stream), parts.concat().len());
        assert!(frames.is_too_big());
        assert_eq!(frames.take_counted(), Counted { messages: 0, bytes: 100 });
    }

    proptest! {
        /// Whatever comes, in whatever pieces: no panic, and what passes is the same.
        #[test]
        fn pieces_change_nothing(bytes: Vec<u8>, pieces in 1_usize..20, max: Option<u64>) {
            let (mut whole, mut cut) = (Frames::new(max), Frames::new(max));
            let passed = whole.follow(&bytes);
            let in_pieces = all(&mut cut, &bytes, pieces);
            // A head that is half there when it proves too large may have begun to pass.
            prop_assert!(in_pieces >= passed && in_pieces - passed < HEAD_BYTES_MAX);
            prop_assert_eq!(whole.is_over(), cut.is_over());
            prop_assert_eq!(whole.close_code(), cut.close_code());
            prop_assert_eq!(whole.take_counted(), cut.take_counted());
        }
    }
}
