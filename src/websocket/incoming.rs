//! Follows the frames among the bytes a client sends (RFC 6455 §5.2): whether part of a message is outstanding,
//! and how much of it has come. What is whole is tungstenite's to judge.

use std::time::Instant;

use crate::websocket::pieces::PIECE_BYTES;
use crate::websocket::utf8::Utf8;

/// Frames that one message may come in, beyond one for each of its bytes. Only empty fragments can be more, and
/// tungstenite would take them without end.
const FRAMES_MAX: u64 = 1024;
/// A message that comes more slowly, on average, is not a sign of life: about one full TCP segment within each
/// `heartbeat.timeout` of its default is asked for. Else a byte now and then would hold a connection, and its slots, for
/// as long as a whole message lasts.
const BYTES_PER_S_MIN: u64 = 16;
/// Bytes unmasked together. A multiple of the mask's length.
const PIECE: usize = 256;

/// Where in a frame the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Opcode,
    Length,
    /// So many bytes of the extended length are left.
    Extended(u8),
    /// So many bytes of the mask are left.
    Mask(u8),
    Payload,
}

/// What has come of a message that is not complete.
#[derive(Debug, Default)]
pub struct Incoming {
    at: At,
    last: bool,
    control: bool,
    masked: bool,
    mask: [u8; 4],
    /// The message, or the frame if it is a control frame, is text.
    text: bool,
    utf8: Utf8,
    /// Bytes of the frame's payload that are left.
    left: u64,
    /// A fragment came, and the message's last has not.
    fragmented: bool,
    /// Whole data frames of it.
    frames: u64,
    bytes: usize,
    /// `bytes` where the frame began.
    bytes_before: usize,
    /// Bytes of the current frame's payload that have come.
    frame: usize,
    /// Payloads of the message's complete fragments.
    fragments: usize,
    /// What tungstenite has collected of the message: its frames' complete pieces ([`PIECE_BYTES`]).
    collected: usize,
    /// The largest piece that was ever declared.
    reserved: usize,
    /// Whole messages so far.
    messages: u64,
    seen: Option<Seen>,
}

/// An incomplete message, as it was when last checked.
#[derive(Debug)]
struct Seen {
    message: u64,
    since: Instant,
    payload: usize,
}

impl Incoming {
    /// Takes what was read.
    pub fn feed(&mut self, mut read: &[u8]) {
        while let Some((&byte, rest)) = read.split_first() {
            if self.at == At::Payload {
                let piece = PIECE_BYTES - self.frame % PIECE_BYTES;
                let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(read.len()).min(piece);
                self.left -= part as u64;
                self.validate(read.get(..part).unwrap_or(&[]));
                self.frame += part;
                self.bytes += part;
                if part == piece && !self.control {
                    self.collected += PIECE_BYTES;
                }
                read = read.get(part..).unwrap_or(&[]);
            } else {
                self.header(byte);
                self.bytes += 1;
                read = rest;
            }
            if self.at == At::Payload && self.left == 0 {
                self.end_frame();
            }
        }
    }

    fn header(&mut self, byte: u8) {
        self.at = match self.at {
            At::Opcode => {
                self.bytes_before = self.bytes;
                self.last = byte & 0x80 != 0;
                self.control = byte & 0x08 != 0;
                if byte & 0x0F != 0 && !self.control {
                    self.text = byte & 0x0F == 1;
                }
                At::Length
            }
            At::Length => {
                self.masked = byte & 0x80 != 0;
                self.mask = [0; 4];
                self.left = 0;
                match byte & 0x7F {
                    126 => At::Extended(2),
                    127 => At::Extended(8),
                    length => {
                        self.left = length.into();
                        self.after_length()
                    }
                }
            }
            At::Extended(left) => {
                self.left = self.left << 8 | u64::from(byte);
                if left > 1 { At::Extended(left - 1) } else { self.after_length() }
            }
            At::Mask(left) => {
                self.mask.rotate_left(1);
                let [.., last] = &mut self.mask;
                *last = byte;
                if left > 1 { At::Mask(left - 1) } else { At::Payload }
            }
            At::Payload => At::Payload,
        };
    }

    fn after_length(&mut self) -> At {
        let declared = usize::try_from(self.left).unwrap_or(usize::MAX);
        self.reserved = self.reserved.max(declared.min(PIECE_BYTES));
        if self.masked { At::Mask(4) } else { At::Payload }
    }

    fn end_frame(&mut self) {
        self.at = At::Opcode;
        let frame = std::mem::take(&mut self.frame);
        if self.control {
            // Answered already, and the session counts them.
            self.bytes = self.bytes_before;
        } else {
            self.frames += 1;
            self.fragmented = !self.last;
            self.collected += frame % PIECE_BYTES;
            self.fragments += frame;
        }
        if !self.fragmented {
            self.frames = 0;
            self.bytes = 0;
            self.utf8 = Utf8::default();
            (self.fragments, self.collected) = (0, 0);
            self.messages += u64::from(!self.control);
        }
    }

    /// Looks at the next part of the frame's payload, unless with it the message is complete.
    fn validate(&mut self, part: &[u8]) {
        if self.text && !self.control && (self.left > 0 || !self.last) {
            let mut mask = self.mask;
            mask.rotate_left(self.frame % 4);
            let mut plain = [0; PIECE];
            for piece in part.chunks(PIECE) {
                for (to, from) in plain.chunks_mut(4).zip(piece.chunks(4)) {
                    to.iter_mut().zip(from).zip(mask).for_each(|((to, from), mask)| *to = from ^ mask);
                }
                self.utf8.feed(plain.get(..piece.len()).unwrap_or(&[]));
            }
        }
    }

    /// Whether what has come of an incomplete text is already invalid UTF-8. tungstenite checks whole frames only.
    #[must_use]
    pub const fn is_invalid_text(&self) -> bool {
        self.utf8.is_invalid()
    }

    /// Bytes that have come of the incomplete message and of an incomplete control frame, headers included; 0
    /// between messages.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that tungstenite has for all this: what it has collected of a message, and its read buffer,
    /// which has room for the largest piece that was declared and never shrinks. (What is collected is in memory
    /// that is doubled when it is full; of that only what is used is counted.)
    #[must_use]
    pub const fn held(&self) -> usize {
        self.collected + self.reserved
    }

    /// Whether more of a message's payload has come since the last call, and comes as fast as a living client
    /// sends it. Headers are none of it, so empty fragments are no progress.
    pub fn has_progressed(&mut self, now: Instant) -> bool {
        let payload = self.fragments + if self.control { 0 } else { self.frame };
        match self.seen.as_mut().filter(|seen| payload > 0 && seen.message == self.messages) {
            None => {
                self.seen = (payload > 0).then_some(Seen { message: self.messages, since: now, payload });
                payload > 0
            }
            Some(seen) => {
                let more = payload > std::mem::replace(&mut seen.payload, payload);
                let asked =
                    now.saturating_duration_since(seen.since).as_secs().saturating_mul(BYTES_PER_S_MIN);
                more && payload as u64 >= asked
            }
        }
    }

    /// Whether a message comes in more frames than it could need.
    #[must_use]
    pub const fn is_flood(&self) -> bool {
        // Each masked frame that carries something has seven bytes at least.
        self.frames > FRAMES_MAX + self.bytes as u64 / 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    use crate::clock::Now;

    /// A masked frame; the mask does not matter.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..=125 => frame.push(0x80 | length as u8),
            126..=0xFFFF => {
                frame.push(0xFE);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0xFF);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.resize(frame.len() + length, 7);
        frame
    }

    fn fed(parts: &[Vec<u8>]) -> Incoming {
        let mut incoming = Incoming::default();
        parts.iter().for_each(|part| incoming.feed(part));
        incoming
    }

    #[test]
    fn whole_messages_leave_nothing_outstanding() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            assert_eq!(fed(&[frame(0x81, length)]).bytes(), 0, "{length}");
        }
        assert_eq!(fed(&[frame(0x01, 5), frame(0x89, 3), frame(0x00, 0), frame(0x80, 2)]).bytes(), 0);
    }

    #[test]
    fn what_is_outstanding_is_counted() {
        let whole = frame(0x82, 300);
        for cut in 1..whole.len() {
            assert_eq!(fed(&[frame(0x81, 9), whole[..cut].to_vec()]).bytes(), cut);
        }
        let (first, ping) = (frame(0x01, 5), frame(0x89, 3));
        assert_eq!(fed(&[first.clone(), ping[..5].to_vec()]).bytes(), first.len() + 5);
    }

    #[test]
    fn text_is_judged_before_it_is_whole() {
        let masked = |first: u8, payload: &[u8]| {
            let mut frame = frame(first, payload.len());
            let start = frame.len() - payload.len();
            frame[start - 4..start].copy_from_slice(&[1, 2, 3, 0x80]);
            for ((place, byte), mask) in
                frame[start..].iter_mut().zip(payload).zip([1, 2, 3, 0x80].iter().cycle())
            {
                *place = byte ^ mask;
            }
            frame
        };
        let wrong = "Ünïcode".bytes().chain([0xF4, 0x90, b'!', b'!']).collect::<Vec<_>>();
        let text = masked(0x81, &wrong);
        let mut incoming = Incoming::default();
        for (n, byte) in text.iter().enumerate() {
            assert_eq!(incoming.is_invalid_text(), (text.len() - 2..text.len()).contains(&n), "{n}");
            incoming.feed(&[*byte]);
        }
        assert!(!incoming.is_invalid_text(), "now it is tungstenite's");
        let (part, ping) = (masked(0x01, &wrong[..10]), masked(0x89, &[0xFF; 9]));
        assert!(!fed(&[part.clone(), ping[..12].to_vec()]).is_invalid_text(), "a ping is no text");
        assert!(fed(&[part, ping, masked(0x00, &wrong[10..])]).is_invalid_text());
        assert!(!fed(&[masked(0x82, &wrong)[..16].to_vec()]).is_invalid_text(), "nor is a binary message");
        assert!(!fed(&[masked(0x02, &wrong), masked(0x80, &wrong)[..16].to_vec()]).is_invalid_text());
    }

    #[test]
    fn memory_outlives_the_message_it_was_for() {
        assert_eq!(fed(&[frame(0x82, 3000)[..2000].to_vec()]).held(), 3000, "declared");
        assert_eq!(fed(&[frame(0x82, 3000), frame(0x82, 9)]).held(), 3000);
        let parts = [frame(0x01, 3000), frame(0x89, 10), frame(0x00, 500)];
        assert_eq!(fed(&parts).held(), 3000 + 3500);
        assert_eq!(fed(&[&parts[..], &[frame(0x80, 0)]].concat()).held(), 3000);
    }

    #[test]
    fn a_large_frame_holds_what_has_come_of_it() {
        let mut incoming = Incoming::default();
        let large = frame(0x82, 16 << 20);
        incoming.feed(&large[..14]);
        assert_eq!(incoming.held(), PIECE_BYTES, "the header alone");
        for (come, pieces) in [(PIECE_BYTES - 1, 0), (PIECE_BYTES, 1), (5 * PIECE_BYTES + 1, 5)] {
            let mut incoming = Incoming::default();
            incoming.feed(&large[..14 + come]);
            assert_eq!(incoming.held(), (1 + pieces) * PIECE_BYTES, "{come}");
        }
        incoming.feed(&large[14..]);
        assert_eq!(incoming.held(), PIECE_BYTES, "tungstenite's buffer never shrinks");
    }

    #[test]
    fn a_message_that_comes_is_a_sign_of_life_while_it_comes_fast_enough() {
        let start = Now::read().mono;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let message = frame(0x81, 60_000);
        let mut incoming = fed(&[message[..8].to_vec()]);
        assert!(!incoming.has_progressed(at(0)), "a header is none of it");
        incoming.feed(&message[8..9]);
        assert!(incoming.has_progressed(at(0)));
        assert!(!incoming.has_progressed(at(1)), "no more has come");
        incoming.feed(&message[9..1400]);
        assert!(incoming.has_progressed(at(75)), "a segment within the silence");
        incoming.feed(&message[1400..1500]);
        assert!(!incoming.has_progressed(at(150)), "too little to be alive for");
        incoming.feed(&message[1500..8000]);
        assert!(incoming.has_progressed(at(160)), "it may catch up");
        incoming.feed(&message[8000..]);
        assert!(!incoming.has_progressed(at(170)), "a whole message counts by itself");
        incoming.feed(&message[..20]);
        assert!(incoming.has_progressed(at(9000)), "the next has its own time");
    }

    #[test]
    fn neither_a_byte_now_and_then_nor_empty_fragments_are_a_sign_of_life() {
        let start = Now::read().mono;
        let mut incoming = fed(&[frame(0x01, 0)]);
        let mut signs = 0;
        for seconds in 0..100 {
            incoming.feed(&frame(0x00, 0));
            incoming.feed(&frame(0x89, 100));
            signs += u32::from(incoming.has_progressed(start + Duration::from_secs(seconds)));
        }
        assert_eq!(signs, 0);
        for minute in 2..100 {
            incoming.feed(&frame(0x00, 1));
            signs += u32::from(incoming.has_progressed(start + Duration::from_secs(60 * minute)));
        }
        assert_eq!(signs, 1, "its first byte");
    }

    #[test]
    fn an_endless_row_of_empty_fragments_is_a_flood() {
        let mut incoming = fed(&[frame(0x01, 0)]);
        let mut frames = 1_u64;
        while !incoming.is_flood() {
            incoming.feed(&frame(0x00, 0));
            frames += 1;
            assert!(frames < 100_000, "never found out");
        }
        assert!(frames > FRAMES_MAX);
        let mut incoming = fed(&[frame(0x01, 1)]);
        for _ in 0..100_000 {
            incoming.feed(&frame(0x00, 1));
            assert!(!incoming.is_flood());
        }
    }

    #[test]
    fn control_frames_are_no_part_of_the_message() {
        let first = frame(0x01, 5);
        let mut incoming = fed(std::slice::from_ref(&first));
        for length in [0, 125].into_iter().cycle().take(100_000) {
            incoming.feed(&frame(0x89, length));
            assert_eq!((incoming.bytes(), incoming.is_flood()), (first.len(), false));
        }
        incoming.feed(&frame(0x89, 125)[..100]);
        assert_eq!(incoming.bytes(), first.len() + 100);
    }

    proptest! {
        #[test]
        fn how_it_is_cut_does_not_matter(
            frames in prop::collection::vec((any::<u8>(), 0_usize..300), 0..20),
            cuts in prop::collection::vec(1_usize..64, 1..200),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, length)| frame(*first, *length)).collect();
            let whole = fed(std::slice::from_ref(&bytes));
            let mut cut = Incoming::default();
            let mut rest = &bytes[..];
            for length in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (part, left) = rest.split_at((*length).min(rest.len()));
                cut.feed(part);
                rest = left;
            }
            prop_assert_eq!(cut.bytes(), whole.bytes());
            prop_assert_eq!(cut.is_flood(), whole.is_flood());
        }

        #[test]
        fn junk_does_no_harm(junk in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut incoming = Incoming::default();
            incoming.feed(&junk);
            prop_assert!(incoming.bytes() <= junk.len());
        }
    }
}
