//! What a merge knows of one source.

use std::time::Instant;

use super::log::{Log, Position};

#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) position: Position,
    /// The number of its confirmation.
    pub(super) since: u64,
    pub(super) stretch: Option<Box<Stretch>>,
}

/// Entries that a source may bring, or not.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) confirmed: Instant,
    pub(super) from: u64,
    /// The end, and when it was found; `None`: all entries that come are among them yet.
    pub(super) until: Option<(u64, Instant)>,
    /// Those that it has brought, by bits: bit 0 is `from`.
    pub(super) taken: Vec<u64>,
    pub(super) is_base: bool,
}

impl Stretch {
    pub(super) fn has(&self, number: u64) -> bool {
        let bit = number - self.from;
        usize::try_from(bit / 64)
            .ok()
            .and_then(|word| self.taken.get(word))
            .is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    pub(super) fn take(&mut self, number: u64) {
        let bit = number.saturating_sub(self.from);
        let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
        if self.taken.len() <= word {
            self.taken.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.taken.get_mut(word) {
            *word |= 1 << (bit % 64);
        }
    }

    pub(super) fn find(&self, log: &Log, digest: u64) -> Option<u64> {
        let until = self.until.map_or(u64::MAX, |(until, _)| until);
        log.find(digest, self.from, until, |number| self.has(number))
    }
}

impl Source {
    /// Whether it has a position: it will bring what is delivered from there on.
    pub(super) fn is_placed(&self) -> bool {
        self.stretch.as_ref().is_none_or(|stretch| stretch.until.is_some())
    }

    pub(super) fn is_base(&self) -> bool {
        self.stretch.as_ref().is_none_or(|stretch| stretch.is_base)
    }
}
