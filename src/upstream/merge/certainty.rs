//! Which sources are certain, and which are by now.

use std::hash::Hash;
use std::time::Instant;

use super::log::Position;
use super::source::Source;
use super::{LOOKS, Merge};

impl<S: Copy + Eq + Hash, E> Merge<S, E> {
    /// Goes on with whatever is certain by now.
    pub(super) fn progress(&mut self, now: Instant) {
        if let Some(settle) = self.times.settle.filter(|_| self.bases > 0) {
            self.horizon = self.horizon.max(now.checked_sub(settle));
        }
        self.look = self.times.settle.map(|settle| now + settle / LOOKS);
        let passed = |at: Instant| self.horizon.is_some_and(|horizon| at <= horizon);
        while self.held.front().is_some_and(|held| passed(held.at)) {
            self.held.pop_front();
        }
        for source in self.open.clone() {
            let Some(entry) = self.sources.get(&source) else { continue };
            let Some(stretch) = &entry.stretch else { continue };
            match stretch.until {
                None => {
                    // A message of an earlier request may come over it, or not; what is held may be from before.
                    let waits = self.flights.iter().any(|flight| flight.since < entry.since)
                        || !self.early.is_empty();
                    if !waits && self.horizon.is_some_and(|horizon| stretch.confirmed <= horizon) {
                        self.find_end(source, now);
                    }
                }
                Some((_, found)) => {
                    if self.times.settle.is_some_and(|settle| found + settle <= now) {
                        self.close(source);
                    }
                }
            }
        }
    }

    /// The source is certain to bring what is delivered from now on.
    fn find_end(&mut self, source: S, now: Instant) {
        let Some(source) = self.sources.get_mut(&source) else { return };
        let end = self.log.end();
        if let Some(stretch) = source.stretch.as_mut().filter(|stretch| stretch.until.is_none()) {
            stretch.until = Some((end, now));
            source.position = Position::at(end);
            self.placed += 1;
        }
    }

    /// The source has brought what it will of its stretch.
    pub(super) fn close(&mut self, source: S) {
        if let Some(stretch) = self.sources.get_mut(&source).and_then(|source| source.stretch.take()) {
            self.bases += usize::from(!stretch.is_base);
            self.open.retain(|other| *other != source);
        }
    }

    /// There is no certain source: those that there are have to do.
    pub(super) fn promote(&mut self, now: Instant) {
        for source in self.open.clone() {
            self.find_end(source, now);
            let stretch = self.sources.get_mut(&source).and_then(|source| source.stretch.as_mut());
            if let Some(stretch) = stretch.filter(|stretch| !stretch.is_base) {
                stretch.is_base = true;
                self.bases += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, source: S) -> bool {
        let Some(entry) = self.sources.remove(&source) else { return false };
        if entry.is_placed() {
            entry.position.leave(&mut self.log);
            self.placed -= 1;
        }
        self.bases -= usize::from(entry.is_base());
        self.open.retain(|other| *other != source);
        true
    }

    /// Those of these sources that are lost have their say once more: copies that they brought are told from each other.
    pub(super) fn raise(&mut self, sources: impl Iterator<Item = S>) -> Vec<S> {
        let mut ghosts = Vec::new();
        for source in sources {
            if !self.has(source) {
                let position = Position::at(self.log.end());
                self.sources.insert(source, Source { position, since: 0, stretch: None });
                self.placed += 1;
                self.bases += 1;
                ghosts.push(source);
            }
        }
        ghosts
    }

    pub(super) fn lay(&mut self, ghosts: Vec<S>) {
        ghosts.into_iter().for_each(|ghost| {
            self.remove(ghost);
        });
    }

    pub(super) fn prune(&mut self, now: Instant) {
        let kept = self.times.confirm + self.times.skew;
        self.log.prune(now, kept, self.open.is_empty());
    }
}
