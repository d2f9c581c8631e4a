//! Frames that came lately, and the events that they were: of an event on a presence channel each member's link
//! brings a copy, letter for letter the same, and only the first is taken apart.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use crate::upstream::delivery::Event;

/// Frames that are kept, at most. Copies of one event come within the longest rest of a link.
const FRAMES_MAX: usize = 8192;
/// Bytes of these, at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// The frames, by a hash of each. Of two with one hash only the later is kept: the other one's copies are taken apart.
#[derive(Debug, Default)]
pub struct Copies {
    known: HashMap<u64, Known>,
    order: VecDeque<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    text: Box<str>,
    event: Arc<Event>,
    digest: u64,
}

impl Copies {
    /// The event that this frame is, and its digest, if one like it has just come.
    #[must_use]
    pub fn event(&self, frame: &[u8]) -> Option<(Arc<Event>, u64)> {
        let known = self.known.get(&hash(frame)).filter(|known| *known.text.as_bytes() == *frame)?;
        Some((known.event.clone(), known.digest))
    }

    /// This frame is this event.
    pub fn keep(&mut self, frame: &str, event: &Arc<Event>) {
        let hash = hash(frame.as_bytes());
        self.bytes += frame.len();
        let digest = digest(&event.name, &event.data);
        match self.known.insert(hash, Known { text: frame.into(), event: event.clone(), digest }) {
            Some(before) => self.bytes -= before.text.len(),
            None => self.order.push_back(hash),
        }
        while self.order.len() > FRAMES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(known) = self.known.remove(&oldest) {
                self.bytes -= known.text.len();
            }
        }
    }
}

/// By what copies of an event over several links are known: a client's name is not in it, since not all servers say it. By
/// keys of this process, so that nobody can make two events of one digest.
#[must_use]
pub fn digest(name: &str, data: &str) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one((name, data))
}

/// Quick, and of no use against somebody who looks for collisions: the text is compared as well.
fn hash(text: &[u8]) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = text.as_chunks::<8>();
    let (fours, words) = words.as_chunks::<4>();
    // Four at once, since none waits for another.
    let mut lanes = [text.len() as u64, 1, 2, 3];
    for four in fours {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest.iter().map(|byte| u64::from(*byte));
    lanes.into_iter().chain(words).chain(rest).fold(0, mix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::exchange::LinkId;

    fn event(name: &str) -> Arc<Event> {
        Arc::new(Event::new(LinkId(0), "c".into(), name, "{}", now(), None))
    }

    #[test]
    fn a_frame_is_known_by_every_letter() {
        let mut copies = Copies::default();
        let frame = r#"{"event":"a","channel":"c","data":"{\"n\":1}"}"#;
        copies.keep(frame, &event("a"));
        assert_eq!(copies.event(frame.as_bytes()).map(|(event, _)| event.name.clone()).as_deref(), Some("a"));
        for at in 0..frame.len() {
            let mut other = frame.as_bytes().to_vec();
            other[at] ^= 1;
            assert!(copies.event(&other).is_none());
            assert!(copies.event(&frame.as_bytes()[..at]).is_none());
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_large_ones() {
        let mut copies = Copies::default();
        for n in 0..=FRAMES_MAX {
            copies.keep(&n.to_string(), &event("a"));
            copies.keep(&n.to_string(), &event("b"));
        }
        assert!(copies.event(b"0").is_none());
        assert_eq!(copies.event(b"1").map(|(event, _)| event.name.clone()).as_deref(), Some("b"));
        assert_eq!(copies.known.len(), FRAMES_MAX);
        let large = "x".repeat(BYTES_MAX - 1);
        copies.keep(&large, &event("c"));
        assert!(copies.event(large.as_bytes()).is_some() && copies.event(b"8000").is_none());
        copies.keep(&"y".repeat(BYTES_MAX + 1), &event("d"));
        assert_eq!((copies.known.len(), copies.bytes), (0, 0));
    }
}
