//! Which sources are certain, and which are by now.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Instant;

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
        while let Some(held) =
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
                        self.deliver_held(source, now, out);
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

    /// The source is certain by now, and ahead of the others: what is held is new.
    fn deliver_held(&mut self, source: S, now: Instant, out: &mut Vec<Out<S, E>>) {
        let (its, others) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.source == source);
        self.held = others;
        let its: VecDeque<Held<S, E>> = its;
        for Held { digest, event, .. } in its {
            self.deliver(source, digest, event, false, now, out);
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

    /// Whether nothing that the source brings is in doubt: it goes on alone if all others are lost.
    #[must_use]
    pub fn is_certain(&self, source: S) -> bool {
        self.sources.get(&source).is_some_and(|source| source.stretch.is_none())
    }

    /// Whether nothing is missed if the source goes on alone, though something may come twice.
    #[must_use]
    pub fn is_whole(&self, source: S) -> bool {
        self.sources.get(&source).is_some_and(Source::is_whole)
    }

    /// Whether a source that has brought all that was published before `at` is certain now: nothing that it brought
    /// is open any more.
    pub(super) fn is_over(&self, source: S, at: Instant) -> bool {
        let Some(entry) = self.sources.get(&source) else { return false };
        let Some((stretch, (_, found))) = entry.stretch.as_ref().and_then(|s| Some((s, s.until?))) else {
            return false;
        };
        // What came since the end was found, and equals nothing, is new.
        let is_open = |held: &Held<S, E>| held.of.is_some() || held.at < found;
        stretch.is_over(at)
            && !self.awaits_request(entry.since)
            && !self
                .early
                .iter()
                .any(|early| early.source == source && entry.is_open(early.digest, &self.log))
            && !self.held.iter().any(|held| held.source == source && is_open(held))
    }

    pub(super) fn prune(&mut self, now: Instant) {
        let kept = self.times.confirm + self.times.skew;
        self.log.prune(now, kept, self.open.is_empty());
    }
}
