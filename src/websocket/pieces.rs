//! Large frames, handed on in pieces. tungstenite reserves the length that a frame's header declares, before any of it
//! has come: fourteen bytes would be enough to have the largest message's memory reserved. So it is given a large
//! frame as fragments (RFC 6455 §5.4), each begun when the one before has come, and reserves no more than one of them.

use std::io;

/// The largest fragment, in bytes of its payload. A multiple of the mask's length, so that all have the frame's mask.
pub const PIECE_BYTES: usize = 4096;
/// The longest header of a frame (RFC 6455 §5.2).
const HEADER_BYTES_MAX: usize = 14;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The header of a frame, or a part of it.
#[derive(Debug, Default)]
struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    length: usize,
}

impl Header {
    fn of(first: u8, payload: u64, mask: Option<[u8; 4]>) -> Self {
        let mut header = Self::default();
        let masked = if mask.is_some() { MASKED } else { 0 };
        match payload {
            0..=125 => header.put(&[first, masked | payload as u8]),
            126..=0xFFFF => {
                header.put(&[first, masked | 126]);
                header.put(&(payload as u16).to_be_bytes());
            }
            _ => {
                header.put(&[first, masked | 127]);
                header.put(&payload.to_be_bytes());
            }
        }
        header.put(mask.as_ref().map_or(&[], |mask| &mask[..]));
        header
    }

    fn put(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *to = *from;
            self.length += 1;
        }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    const fn first(&self) -> u8 {
        let [first, ..] = self.bytes;
        first
    }

    const fn second(&self) -> u8 {
        let [_, second, ..] = self.bytes;
        second
    }

    /// As long as it is to be, as far as that is known.
    const fn whole(&self) -> usize {
        if self.length < 2 {
            return 2;
        }
        let extended = match self.second() & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.second() & MASKED != 0 { 4 } else { 0 }
    }

    const fn is_whole(&self) -> bool {
        self.length == self.whole()
    }

    fn payload(&self) -> u64 {
        let extended = |bytes: usize| {
            let bytes = self.bytes.get(2..2 + bytes).unwrap_or(&[]);
            bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))
        };
        match self.second() & 0x7F {
            126 => extended(2),
            127 => extended(8),
            length => length.into(),
        }
    }

    fn mask(&self) -> Option<[u8; 4]> {
        let (_, mask) = self.get().split_last_chunk()?;
        (self.second() & MASKED != 0).then_some(*mask)
    }
}

/// Where in a client's stream of frames the next byte is, and what is to be handed on before it.
#[derive(Debug)]
pub struct Pieces {
    piece_bytes: u64,
    /// Frames that declare more are handed on as they are, for tungstenite to reject by their header.
    bytes_max: u64,
    /// What has come of a header. It is handed on when it is whole.
    header: Header,
    /// The header that is handed on next, and how much of it has been.
    due: Header,
    handed: usize,
    /// Left of the current piece, and of the frame behind it.
    piece: u64,
    behind: u64,
    /// Of the frame: whether it is its message's last, and its mask.
    last: u8,
    mask: Option<[u8; 4]>,
}

impl Pieces {
    /// Hands frames of up to `bytes_max` on in pieces of `piece_bytes`, a multiple of four.
    #[must_use]
    pub fn new(piece_bytes: usize, bytes_max: usize) -> Self {
        Self {
            piece_bytes: piece_bytes as u64,
            bytes_max: bytes_max as u64,
            header: Header::default(),
            due: Header::default(),
            handed: 0,
            piece: 0,
            behind: 0,
            last: 0,
            mask: None,
        }
    }

    /// Whether all frames that have begun have been handed on, to their ends.
    #[must_use]
    pub const fn is_between_frames(&self) -> bool {
        self.header.length == 0 && self.left() == 0 && self.handed >= self.due.length
    }

    /// Bytes of the current frame's payload that are still to come.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.piece + self.behind
    }

    /// Reads from `source` into `buffer`; 0 is the end.
    ///
    /// # Errors
    /// Those of `source`.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut source: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            if self.piece == 0 && self.behind > 0 {
                self.next_piece();
            }
            let due = self.due.get().get(self.handed..).unwrap_or(&[]);
            if !due.is_empty() {
                let part = due.len().min(buffer.len());
                buffer.iter_mut().zip(due).for_each(|(to, from)| *to = *from);
                self.handed += part;
                return Ok(part);
            }
            if self.header.length > 0 {
                // Without the bytes behind it: what is handed on instead may be further on in the buffer.
                let missing = self.header.length..self.header.whole();
                match source(self.header.bytes.get_mut(missing).unwrap_or(&mut []))? {
                    0 => return Ok(0),
                    read => self.header.length += read,
                }
                if self.header.is_whole() {
                    self.begin_frame();
                }
                continue;
            }
            // A piece that begins in this buffer must end behind it.
            let bound = if self.behind > 0 { self.piece } else { self.piece_bytes };
            let part = buffer.len().min(usize::try_from(bound).unwrap_or(usize::MAX));
            let buffer = buffer.get_mut(..part).unwrap_or(&mut []);
            let read = source(buffer)?;
            let handed = self.follow(buffer.get_mut(..read).unwrap_or(&mut []));
            if read == 0 || handed > 0 {
                return Ok(handed);
            }
        }
    }

    /// Puts what is to be handed on of `read` at its front; gives how much.
    fn follow(&mut self, read: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        while from < read.len() {
            if self.piece > 0 {
                let part = usize::try_from(self.piece).unwrap_or(usize::MAX).min(read.len() - from);
                if from > to {
                    read.copy_within(from..from + part, to);
                }
                self.piece -= part as u64;
                (from, to) = (from + part, to + part);
                continue;
            }
            self.header.put(read.get(from..=from).unwrap_or(&[]));
            from += 1;
            if self.header.is_whole() {
                self.begin_frame();
                // It is no longer than what it is for.
                let due = self.due.get();
                read.iter_mut().skip(to).zip(due).for_each(|(to, from)| *to = *from);
                to += due.len();
                self.handed = due.len();
            }
        }
        to
    }

    fn begin_frame(&mut self) {
        let header = std::mem::take(&mut self.header);
        self.handed = 0;
        self.piece = header.payload();
        if self.piece <= self.piece_bytes || self.piece > self.bytes_max {
            self.due = header;
            return;
        }
        self.behind = self.piece - self.piece_bytes;
        self.piece = self.piece_bytes;
        self.last = header.first() & FIN;
        self.mask = header.mask();
        self.due = Header::of(header.first() & !FIN, self.piece, self.mask);
    }

    fn next_piece(&mut self) {
        self.piece = self.behind.min(self.piece_bytes);
        self.behind -= self.piece;
        let last = if self.behind == 0 { self.last } else { 0 };
        // A continuation frame's opcode is 0.
        self.due = Header::of(last, self.piece, self.mask);
        self.handed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECE: usize = 8;
    const MAX: usize = 200;
    const MASK: [u8; 4] = [1, 2, 3, 0x80];

    /// What is handed on when `bytes` come as `cuts` say, and are read into buffers of `room` bytes.
    fn handed_on(bytes: &[u8], cuts: &[usize], room: usize) -> Vec<u8> {
        let mut pieces = Pieces::new(PIECE, MAX);
        let (mut out, mut rest, mut cuts) = (Vec::new(), bytes, cuts.iter().cycle());
        loop {
            let mut buffer = vec![0; room];
            let read = pieces.read(&mut buffer, |buffer| {
                assert!(!buffer.is_empty());
                let part = buffer.len().min(*cuts.next().unwrap()).min(rest.len());
                buffer[..part].copy_from_slice(&rest[..part]);
                rest = &rest[part..];
                Ok(part)
            });
            match read.unwrap() {
                0 => return out,
                read => out.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
        let mut frame = Header::of(first, payload.len() as u64, masked.then_some(MASK)).get().to_vec();
        frame.extend_from_slice(payload);
        frame
    }

    /// The same frames as fragments, by the book.
    fn fragmented(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
        if payload.len() <= PIECE || payload.len() > MAX {
            return frame(first, payload, masked);
        }
        let count = payload.len().div_ceil(PIECE);
        let part = |(n, part): (usize, &[u8])| {
            let opcode = if n == 0 { first & !FIN } else { 0 };
            frame(opcode | if n + 1 == count { first & FIN } else { 0 }, part, masked)
        };
        payload.chunks(PIECE).enumerate().flat_map(part).collect()
    }

    #[test]
    fn a_header_alone_asks_for_one_piece() {
        let header = [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, MAX as u8, 1, 2, 3, 0x80];
        assert_eq!(handed_on(&header, &[100], 100), [0x02, 0x80 | PIECE as u8, 1, 2, 3, 0x80]);
        for cut in 1..14 {
            assert!(
                handed_on(&header[..cut], &[1, 3], 100).is_empty(),
                "a part of a header asks for nothing"
            );
        }
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_header() {
        let header = [&[0x82, 0xFF][..], &(MAX as u64 + 1).to_be_bytes(), &MASK].concat();
        assert_eq!(handed_on(&header, &[100], 100), header);
    }

    proptest! {
        #[test]
        fn large_frames_become_fragments_however_they_come(
            frames in prop::collection::vec((any::<u8>(), 0_usize..250, any::<bool>()), 0..20),
            cuts in prop::collection::vec(1_usize..40, 1..50),
            room in 1_usize..60,
        ) {
            let payload = |length: usize| (0..length).map(|n| n as u8).collect::<Vec<_>>();
            let bytes: Vec<u8> =
                frames.iter().flat_map(|(first, length, masked)| frame(*first, &payload(*length), *masked)).collect();
            let expected: Vec<u8> = frames
                .iter()
                .flat_map(|(first, length, masked)| fragmented(*first, &payload(*length), *masked))
                .collect();
            prop_assert_eq!(handed_on(&bytes, &cuts, room), expected);
        }

        #[test]
        fn junk_does_no_harm(
            junk in prop::collection::vec(any::<u8>(), 0..500),
            cuts in prop::collection::vec(1_usize..40, 1..50),
            room in 1_usize..60,
        ) {
            handed_on(&junk, &cuts, room);
        }
    }
}
