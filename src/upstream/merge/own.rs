//! Own messages: which requests are under way, and what may be their copies.

use std::hash::Hash;
use std::time::Instant;

use super::ghosts::Ghosts;
use super::muddle::Stir;
use super::source::Source;
use super::{Merge, Out, Verdict};

#[derive(Clone, Debug)]
pub(super) struct Flight<S> {
    pub(super) id: u64,
    pub(super) since: u64,
    pub(super) digests: Vec<u64>,
    /// The source that gets no copy, and the number of its confirmation.
    pub(super) excluded: Option<(S, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct Early<S, E> {
    pub(super) flight: u64,
    pub(super) source: S,
    /// The number of the source's confirmation.
    pub(super) since: u64,
    /// The log's end when it came.
    pub(super) seen: u64,
    /// What certain sources had passed when it came.
    pub(super) horizon: Option<Instant>,
    pub(super) digest: u64,
    pub(super) event: E,
}

impl<S: Copy + Eq + Hash, E> Merge<S, E> {
    /// A request with own messages on this channel is about to be sent; `excluded` gets no copies.
    pub fn begin(&mut self, flight: u64, digests: Vec<u64>, excluded: Option<S>) {
        self.steps += 1;
        let excluded = excluded.and_then(|source| Some((source, self.sources.get(&source)?.since)));
        self.flights.push(Flight { id: flight, since: self.steps, digests, excluded });
    }

    /// Pusher has accepted the request; `events` are its messages, in the order of their digests.
    pub fn accepted(
        &mut self,
        flight: u64,
        events: impl IntoIterator<Item = E>,
        now: Instant,
        out: &mut Vec<Out<S, E>>,
    ) {
        self.ended(flight, events, now, out);
    }

    /// The request has failed, or was given up: what came and equals its messages is taken for somebody's.
    pub fn failed(&mut self, flight: u64, now: Instant, out: &mut Vec<Out<S, E>>) {
        self.ended(flight, std::iter::empty(), now, out);
    }

    fn ended(
        &mut self,
        id: u64,
        events: impl IntoIterator<Item = E>,
        now: Instant,
        out: &mut Vec<Out<S, E>>,
    ) {
        let Some(place) = self.flights.iter().position(|flight| flight.id == id) else { return };
        let flight = self.flights.remove(place);
        let (early, others) =
            std::mem::take(&mut self.early).into_iter().partition(|early| early.flight == id);
        self.early = others;
        let early: Vec<Early<S, E>> = early;
        let mut ghosts = Ghosts::default();
        for (digest, event) in flight.digests.iter().zip(events) {
            self.publish(&flight, *digest, now);
            self.await_copy(*digest, None, self.horizon, now);
            out.push(Out { event, source: None, doubtful: false });
        }
        for Early { source, since, seen, horizon, digest, event, .. } in early {
            if self.is_present(source, since) {
                match self.place(source, digest, event, now, out) {
                    Verdict::Copy => self.await_copy(digest, Some(source), horizon, now),
                    Verdict::Early => {
                        self.early.iter_mut().last().into_iter().for_each(|e| e.horizon = horizon)
                    }
                    _ => {}
                }
            } else {
                self.haunt(&mut ghosts, (source, since), seen, digest, event, false, now, out);
            }
        }
        self.progress(now, out);
    }

    /// Enters an own message, which the source that it excluded does not bring. Nor is it certain that those do that
    /// were confirmed since: what equals it is delivered in doubt, for a duplicate is better than a loss.
    fn publish(&mut self, flight: &Flight<S>, digest: u64, now: Instant) {
        let number = self.append(digest, now);
        if let Some((source, since)) = flight.excluded
            && self.sources.get(&source).is_some_and(|source| source.since == since)
        {
            self.bring(source, number);
            self.stirred(source, digest, Stir::Brought);
        }
        if self.confirmed > flight.since {
            let late = |source: &Source| source.since > flight.since && source.is_placed();
            let late: Vec<S> =
                self.sources.iter().filter(|(_, s)| late(s)).map(|(source, _)| *source).collect();
            for source in late {
                self.bring(source, number);
                let stretch = self.sources.get_mut(&source).and_then(|source| source.stretch.as_mut());
                if let Some(stretch) = stretch {
                    stretch.doubt(number, now);
                    stretch.muddles.spoil(digest);
                }
            }
        }
    }

    /// An equal event of somebody's that a certain source has yet to bring, or brought early, is taken for the copy of an
    /// own message that was accepted now, and the copy for somebody's. So what others brought or did not bring before is
    /// decided when the copy has come. `horizon` is what certain sources had passed before. (Two own messages at once,
    /// equal to each other and to somebody's, are not looked at further: that would put off the end of doubt for ever.)
    fn await_copy(&mut self, digest: u64, by: Option<S>, horizon: Option<Instant>, now: Instant) {
        for held in self.held.iter_mut().filter(|held| held.digest == digest && Some(held.source) != by) {
            if horizon < Some(held.at) {
                held.decided = now;
            }
        }
        for (_, source) in self.sources.iter_mut().filter(|(source, _)| Some(**source) != by) {
            if let Some(stretch) = source.stretch.as_mut().filter(|s| horizon < Some(s.confirmed)) {
                stretch.decided = now;
            }
        }
    }

    pub(super) fn keep_early(&mut self, flight: u64, source: S, digest: u64, event: E) {
        let (since, seen) = (self.since(source), self.log.end());
        self.early.push(Early { flight, source, since, seen, horizon: self.horizon, digest, event });
    }

    /// The request under way whose message it may be.
    pub(super) fn flight_of(&self, source: S, digest: u64) -> Option<u64> {
        let since = self.sources.get(&source)?.since;
        let may_be = |flight: &&Flight<S>| {
            let sent = flight.digests.iter().filter(|other| **other == digest).count();
            let came = |early: &&Early<S, E>| {
                (early.flight, early.source, early.since) == (flight.id, source, since)
                    && early.digest == digest
            };
            sent > 0
                && flight.excluded != Some((source, since))
                && self.early.iter().filter(came).count() < sent
        };
        self.flights.iter().find(may_be).map(|flight| flight.id)
    }
}
