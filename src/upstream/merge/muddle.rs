//! Equal events that come without end: which of them are whose copies is known by their pauses.
//!
//! Of a digest that a source has brought both in doubt and for certain nobody knows which it has yet to bring, until both
//! it and certain sources were silent about it for [`Times::settle`](super::Times). Where that does not happen a shorter
//! pause has to do, the widest that there is: if between two of them a source has brought as many as were delivered, then
//! it has brought all. It is wrong where sources differ by more than the time between two equal events.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::Merge;

/// So long after the end of a stretch pauses may be shorter, in [`super::Times::settle`].
const SHORTER_AFTER: u32 = 2;
/// They are halved so often in that time.
const HALVED_PER_SETTLE: u32 = 2;
/// And so often at most: to 78 ms of 5 s. Two connections may be as far apart, so what comes still denser stays in doubt.
const HALVED_MAX: u32 = 6;

/// By digest.
#[derive(Clone, Debug, Default)]
pub(super) struct Muddles(BTreeMap<u64, Muddle>);

#[derive(Clone, Debug)]
struct Muddle {
    /// When the last entry was delivered that may as well be one of the stretch.
    crossed: Instant,
    /// When one was delivered or brought last, since pauses may be shorter.
    last: Option<Instant>,
    /// How many were delivered and how many brought since the last pause; `None`: there was none.
    since_pause: Option<[u32; 2]>,
}

/// What happens with an event of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stir {
    Delivered,
    Brought,
}

/// How long a pause is that tells, so long after the end of the stretch was found.
fn pause(age: Duration, settle: Duration) -> Option<Duration> {
    let shorter = age.checked_sub(settle * SHORTER_AFTER)?;
    let halved = shorter.as_nanos() * u128::from(HALVED_PER_SETTLE) / settle.as_nanos().max(1);
    Some(settle / (2 << u32::try_from(halved).unwrap_or(u32::MAX).min(HALVED_MAX - 1)))
}

impl Muddles {
    /// An entry that was delivered then may be this one, or one of the stretch.
    pub(super) fn crossed(&mut self, digest: u64, at: Instant) {
        let new = || Muddle { crossed: at, last: None, since_pause: None };
        let muddle = self.0.entry(digest).or_insert_with(new);
        muddle.crossed = muddle.crossed.max(at);
    }

    /// Whether all of that was delivered before `at`.
    pub(super) fn are_before(&self, at: Instant) -> bool {
        self.0.values().all(|muddle| muddle.crossed < at)
    }

    /// Whether there was a pause before now that tells that all was brought; `age` is the time since the end was found.
    fn is_even(&mut self, digest: u64, age: Duration, settle: Duration, now: Instant) -> bool {
        let Some(muddle) = self.0.get_mut(&digest) else { return false };
        let Some(pause) = pause(age, settle) else { return false };
        let last = muddle.last.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) < pause) {
            return false;
        }
        let before = muddle.since_pause.replace([0; 2]);
        before.is_some_and(|[delivered, brought]| delivered == brought && brought > 0)
    }

    fn count(&mut self, digest: u64, stir: Stir) {
        let counts = self.0.get_mut(&digest).and_then(|muddle| muddle.since_pause.as_mut());
        if let Some([delivered, brought]) = counts {
            *match stir {
                Stir::Delivered => delivered,
                Stir::Brought => brought,
            } += 1;
        }
    }

    /// What was counted is of no use.
    pub(super) fn spoil(&mut self, digest: u64) {
        self.0.entry(digest).and_modify(|muddle| muddle.since_pause = None);
    }
}

impl<S: Copy + Eq + Hash, E> Merge<S, E> {
    /// An event of this digest is about to be delivered, or the source brings it.
    pub(super) fn stir(&mut self, source: S, digest: u64, now: Instant) {
        let settle = self.times.settle;
        let Some(stretch) = self.sources.get_mut(&source).and_then(|source| source.stretch.as_mut()) else {
            return;
        };
        let Some((_, found)) = stretch.until.filter(|_| !stretch.is_base) else { return };
        let age = now.saturating_duration_since(found);
        // What may be an own message's copy counts when it is known whether it is.
        let is_open = self.flights.iter().any(|flight| flight.digests.contains(&digest));
        if !is_open && stretch.muddles.is_even(digest, age, settle, now) {
            self.even(source, digest);
        }
    }

    /// It has happened.
    pub(super) fn stirred(&mut self, source: S, digest: u64, stir: Stir) {
        let stretch = self.sources.get_mut(&source).and_then(|source| source.stretch.as_mut());
        stretch.into_iter().for_each(|stretch| stretch.muddles.count(digest, stir));
    }

    /// The source has brought all that was delivered of this digest, and nothing else: what is held is a copy.
    fn even(&mut self, source: S, digest: u64) {
        let Some(entry) = self.sources.get_mut(&source) else { return };
        while entry.bring_next(digest, &mut self.log) {}
        if let Some(stretch) = &mut entry.stretch {
            while let Some(number) = stretch.find(&self.log, digest) {
                stretch.take(number);
            }
            stretch.muddles.0.remove(&digest);
        }
        self.held.retain(|held| held.source != source || held.digest != digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_it_takes_the_shorter_a_pause_tells() {
        let settle = Duration::from_secs(5);
        for (age_s, pause_ms) in [
            (0.0, None),
            (9.9, None),
            (10.0, Some(2500)),
            (12.4, Some(2500)),
            (12.5, Some(1250)),
            (15.0, Some(625)),
            (22.5, Some(78)),
            (25.0, Some(78)),
            (1e9, Some(78)),
        ] {
            let came = pause(Duration::from_secs_f64(age_s), settle).map(|pause| pause.as_millis());
            assert_eq!(came, pause_ms, "{age_s}");
        }
    }
}
