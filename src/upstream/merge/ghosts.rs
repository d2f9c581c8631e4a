//! What lost sources brought, and was not settled when they were lost.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use super::muddle::Stir;
use super::{Merge, Out};

/// Lost sources, by the number of their confirmation: the entries that were taken for what they brought.
pub(super) type Ghosts<S> = HashMap<(S, u64), Vec<u64>>;

impl<S: Copy + Eq + Hash, E> Merge<S, E> {
    /// The number of the source's confirmation.
    pub(super) fn since(&self, source: S) -> u64 {
        self.sources.get(&source).map_or(0, |source| source.since)
    }

    /// Whether the source is there, and has not been lost since it brought something.
    pub(super) fn is_present(&self, source: S, since: u64) -> bool {
        self.sources.get(&source).is_some_and(|source| source.since == since)
    }

    /// Enters an event as the last one.
    pub(super) fn append(&mut self, digest: u64, now: Instant) -> u64 {
        self.last = Some(digest);
        for at in 0..self.open.len() {
            if let Some(source) = self.open.get(at).copied() {
                self.stir(source, digest, now);
                self.stirred(source, digest, Stir::Delivered);
            }
        }
        self.log.push(digest, now, self.placed)
    }

    /// Delivers what a lost source brought, unless an entry from `from` on is the same event by another's account.
    #[expect(clippy::too_many_arguments, reason = "what it is, and where it goes")]
    pub(super) fn haunt(
        &mut self,
        ghosts: &mut Ghosts<S>,
        ghost: (S, u64),
        from: u64,
        digest: u64,
        event: E,
        doubtful: bool,
        now: Instant,
        out: &mut Vec<Out<S, E>>,
    ) {
        let taken = ghosts.entry(ghost).or_default();
        if let Some(number) = self.log.find(digest, from, u64::MAX, |number| taken.contains(&number)) {
            taken.push(number);
            return;
        }
        taken.push(self.append(digest, now));
        out.push(Out { event, source: Some(ghost.0), doubtful });
    }
}
