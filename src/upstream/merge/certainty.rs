//! Which sources are certain, and which are by now.

use std::hash::Hash;
use std::time::{Duration, Instant};

use super::log::Position;
use super::own::Early;
use super::source::Source;
use super::{Held, LOOKS, Merge, Out};

impl<S: Copy + Eq + Hash, E> Merge<S, E> {
    /// Goes on with whatever is certain by now.
    pub(super) fn progress(&mut self, now: Instant, out: &mut Vec<Out<S, E>>) {
        let passed = now.checked_sub(self.times.settle);
        if self.bases > 0 {
            self.horizon = self.horizon.max(passed);
        }
        self.look = Some(now + self.times.settle / LOOKS);
        let horizon = self.horizon;
        // A certain source's copy of what is held may be among what is early.
        let is_early = |early: &[Early<S, E>], held: &Held<S, E>| {
            early.iter().any(|early| early.digest == held.digest && early.horizon < Some(held.at))
        };
        while !self.keeps_held
            && let Some(held) =
                self.held.pop_front_if(|held| Some(held.decided) <= horizon && !is_early(&self.early, held))
        {
            // What the source is certain to bring is taken for brought first: it would be a later event's otherwise. What
            // certain sources should have brought, and did not, is delivered: one of them is behind, or will be lost.
            if self.is_present(held.source, held.since)
                && !self.settle_held(held.source, held.digest, held.of)
            {
                self.deliver(held.source, held.digest, held.event, true, now, out);
            }
        }
        for source in self.open.clone() {
            let Some(entry) = self.sources.get_mut(&source) else { continue };
            entry.stretch.iter_mut().for_each(|stretch| stretch.let_go_until(horizon, now));
            let Some(entry) = self.sources.get(&source) else { continue };
            let Some(stretch) = &entry.stretch else { continue };
            match stretch.until {
                None => {
                    // What is early may be from before.
                    let waits = self.awaits_request(entry.since)
                        || self.early.iter().any(|early| early.horizon < Some(stretch.confirmed));
                    if !waits && self.horizon.is_some_and(|horizon| stretch.decided <= horizon) {
                        self.find_end(source, now);
                    }
                }
                Some(_) => {
                    if let Some(passed) = passed.filter(|passed| self.is_over(source, *passed)) {
                        self.pass(source, passed);
                        self.close(source);
                    }
                }
            }
        }
    }

    /// Whether a request is under way that began before that confirmation: its messages may come over it, or not.
    fn awaits_request(&self, since: u64) -> bool {
        self.flights.iter().any(|flight| flight.since < since)
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

    /// The source has brought all that was delivered before `at`, if under the name of an equal one.
    pub(super) fn pass(&mut self, source: S, at: Instant) {
        // Not while it is open which one it has brought.
        if self.early.iter().any(|early| early.source == source) {
            return;
        }
        if let Some(source) = self.sources.get_mut(&source).filter(|source| source.is_placed()) {
            source.position.pass(self.log.since(at), &mut self.log);
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

    /// Whether the source may go on alone: it has a position, and what is open of it has been delivered by certain sources.
    /// It is to be asked when for `lag` nothing was offered of this source, and what is held was kept for as long before:
    /// then certain sources have brought all that it has. So it is known even where equal events come without end.
    #[must_use]
    pub fn may_lead(&self, source: S, lag: Duration, now: Instant) -> bool {
        let is_copy = |held: &Held<S, E>| {
            held.at + lag <= now
                && (held.of.is_some() || self.log.find(held.digest, 0, u64::MAX, |_| false).is_some())
        };
        self.sources.get(&source).is_some_and(Source::is_placed)
            && !self.early.iter().any(|early| early.source == source)
            && self.held.iter().filter(|held| held.source == source).all(is_copy)
    }

    /// It goes on alone: the others are lost next.
    pub fn leads(&mut self, source: S) {
        self.held.retain(|held| held.source != source);
        self.keeps_held = false;
    }

    /// From now on what is held stays held until certain sources bring it, or not any more. Otherwise a surplus one of equal
    /// events would be taken for the copy of a later one, whose own copy would be the surplus one then.
    pub const fn keep_held(&mut self, keeps: bool) {
        self.keeps_held = keeps;
    }

    /// Whether a source that has brought all that was published before `at` is certain now: nothing that it brought
    /// is open any more.
    pub(super) fn is_over(&self, source: S, at: Instant) -> bool {
        let Some(entry) = self.sources.get(&source) else { return false };
        let Some(stretch) = entry.stretch.as_ref() else { return false };
        stretch.is_over(at)
            && !self.awaits_request(entry.since)
            && !self.early.iter().any(|early| early.source == source)
            && !self.held.iter().any(|held| held.source == source)
    }

    pub(super) fn prune(&mut self, now: Instant) {
        let kept = self.times.confirm + self.times.skew;
        self.log.prune(now, kept, self.open.is_empty());
    }
}
