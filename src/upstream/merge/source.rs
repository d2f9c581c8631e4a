//! What a merge knows of one source.

use std::time::Instant;

use super::log::{Log, Position};
use super::muddle::Muddles;

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
    /// The end is found when certain sources have passed this.
    pub(super) decided: Instant,
    pub(super) from: u64,
    /// The end, and when it was found; `None`: all entries that come are among them yet.
    pub(super) until: Option<(u64, Instant)>,
    /// Those that it has brought, by bits: bit 0 is `from`.
    pub(super) taken: Vec<u64>,
    /// When what was let go was passed last: which entries it was is not known.
    pub(super) crossed: Option<Instant>,
    /// Digests of entries behind the end that it brought, though each may have been one of these, still open and equal.
    pub(super) muddles: Muddles,
    /// Own messages behind the end whose requests began before the source was confirmed: it may bring them, or not.
    pub(super) own: Vec<u64>,
    /// There was no room for something that it brought: when, and whether certain sources have passed that.
    pub(super) let_go: Option<(Instant, bool)>,
    pub(super) is_base: bool,
}

impl Stretch {
    /// From this entry on; nobody knows the end yet.
    pub(super) fn begin(from: u64, confirmed: Instant) -> Self {
        Self {
            confirmed,
            decided: confirmed,
            from,
            until: None,
            taken: Vec::new(),
            crossed: None,
            muddles: Muddles::default(),
            own: Vec::new(),
            let_go: None,
            is_base: false,
        }
    }

    /// Whether a source that has brought all that was published before `at` brings nothing more of the stretch: and
    /// what it brought of later entries was indeed theirs.
    pub(super) fn is_over(&self, at: Instant) -> bool {
        self.until.is_some_and(|(_, found)| found <= at)
            && self.crossed.is_none_or(|crossed| crossed < at)
            && self.muddles.are_before(at)
            && self.let_go.is_none_or(|(_, is_passed)| is_passed)
    }

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

    /// It has not brought this one.
    pub(super) fn give_back(&mut self, number: u64) {
        let bit = number.saturating_sub(self.from);
        if let Some(word) = usize::try_from(bit / 64).ok().and_then(|word| self.taken.get_mut(word)) {
            *word &= !(1 << (bit % 64));
        }
    }

    /// Certain sources have passed the horizon. What was let go before is delivered, and not entered as brought: that is
    /// known when this source has passed it as well.
    pub(super) fn let_go_until(&mut self, horizon: Option<Instant>, now: Instant) {
        if let Some((at, is_passed)) = &mut self.let_go
            && !*is_passed
            && Some(*at) <= horizon
        {
            *is_passed = true;
            self.crossed = self.crossed.max(Some(now));
        }
    }

    pub(super) fn find(&self, log: &Log, digest: u64) -> Option<u64> {
        let until = self.until.map_or(u64::MAX, |(until, _)| until);
        let own =
            || self.own.iter().find_map(|own| log.find(digest, *own, *own + 1, |number| self.has(number)));
        log.find(digest, self.from, until, |number| self.has(number)).or_else(own)
    }

    /// Of this own message behind the end, entered now, nobody knows whether the source brings it.
    pub(super) fn doubt(&mut self, own: u64, now: Instant) {
        if let Some((_, found)) = &mut self.until {
            *found = now;
            self.own.push(own);
        }
    }
}

impl Source {
    /// The entry that it is certain to bring and that this is a copy of: it has brought it, then.
    pub(super) fn bring_certain(&mut self, digest: u64, log: &mut Log) -> Option<u64> {
        let number = self.is_placed().then(|| self.position.find(log, digest))??;
        self.bring_this(number, digest, log);
        Some(number)
    }

    /// The same, whether it may be one of its stretch or not. `false`: there is none.
    pub(super) fn bring_next(&mut self, digest: u64, log: &mut Log) -> bool {
        let number = self.is_placed().then(|| self.position.find(log, digest)).flatten();
        number.into_iter().for_each(|number| self.position.bring(number, log));
        number.is_some()
    }

    /// Whether it may have brought, or may yet bring, an entry of this digest.
    pub(super) fn is_open(&self, digest: u64, log: &Log) -> bool {
        let of_stretch = self.stretch.as_ref().and_then(|stretch| stretch.find(log, digest));
        of_stretch.is_some() || (self.is_placed() && self.position.find(log, digest).is_some())
    }

    /// It has brought this entry, which it was certain to.
    pub(super) fn bring_this(&mut self, number: u64, digest: u64, log: &mut Log) {
        if let Some(stretch) = &mut self.stretch
            && stretch.find(log, digest).is_some()
        {
            log.at(number).into_iter().for_each(|at| stretch.muddles.crossed(digest, at));
        }
        self.position.bring(number, log);
    }

    /// It has brought this one of its stretch.
    pub(super) fn take(&mut self, number: u64) {
        self.stretch.iter_mut().for_each(|stretch| stretch.take(number));
    }

    /// It has not.
    pub(super) fn give_back(&mut self, number: u64) {
        self.stretch.iter_mut().for_each(|stretch| stretch.give_back(number));
    }

    /// Whether it has a position: it will bring what is delivered from there on.
    pub(super) fn is_placed(&self) -> bool {
        self.stretch.as_ref().is_none_or(|stretch| stretch.until.is_some())
    }

    /// Whether all is known that it brought since it has a position.
    pub(super) fn is_whole(&self) -> bool {
        self.is_placed() && self.stretch.as_ref().is_none_or(|stretch| stretch.let_go.is_none())
    }

    pub(super) fn is_base(&self) -> bool {
        self.stretch.as_ref().is_none_or(|stretch| stretch.is_base)
    }
}
