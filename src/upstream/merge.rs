//! One channel's events from several sources, each delivered once: whichever source brings an event first wins.
//! Pusher's events have no id, so copies are known by their digest and by order: a log has what was delivered, and each
//! source a position in it. Sources may differ in the order of neighbouring events.
//!
//! **A source is *certain*** when each event that is delivered from now on is one that it will bring, or has. Copies of
//! certain sources are matched one to one, so equal events are told apart by their count, in whatever order they come.
//!
//! **A source that is confirmed while another is certain is not so at once.** Of what was delivered about the time of
//! its subscription nobody knows whether it was published before it, and so whether this source will bring it. So what it
//! brings is *held*: it is either a copy, or a new event that a certain source brings as well, and delivers; nor can it
//! overtake. So nothing is lost and nothing comes twice, whatever is equal to what, while a certain source stays. When
//! that one has passed the time in doubt, what is held is forgotten, and the new source is certain soon.
//!
//! **By time it is known what a source has brought** ([`Times::settle`]), and not by an answer to a ping. An answer shows
//! only that one of Pusher's servers has handed over what it had, and not what is on its way to it yet from another.
//! So it would have to be waited for that anyway.
//!
//! **When the last certain source is lost in that time**, what is held is delivered, and so is whatever else may be new:
//! a duplicate rather than a loss. Each is flagged ([`Out::doubtful`]). It cannot be exact: `A`, the subscription, the
//! certain source's end, then `A` from the new source look the same whether one `A` was published, or a second one that
//! the other did not bring any more. [`Merge::lost`] says whether something may have been missed altogether.
//!
//! **Own messages** are entries without a source. Between [`Merge::begin`] and the request's end, what equals one of them
//! is held (*early*), for it may be its copy, and its publisher must not get it. Whether a source that was confirmed in
//! that time brings them is in doubt: what equals them is flagged, if no certain source can tell.
//!
//! The tests go through every order of events and cuts of a small world. Beyond it are several own messages at once that
//! are equal to each other and to somebody's, while a source is in doubt and the certain one is lost.
//!
//! Pure. An offer costs the same for any number of sources; a source has a few words.

mod certainty;
mod ghosts;
mod log;
mod muddle;
mod own;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use self::ghosts::Ghosts;
use self::log::{Log, Position};
use self::muddle::Stir;
use self::own::{Early, Flight};
use self::source::{Source, Stretch};

/// Doubtful copies held at most for one channel. Beyond it the oldest goes: as long as a certain source is there, it is
/// a copy, or comes again. If that one is lost meanwhile, something may have been missed.
pub const HELD_MAX: usize = 1024;

/// How often offers look whether it is time to settle, in [`Times::settle`].
const LOOKS: u32 = 16;

/// What a merge waits for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How much earlier than over another source an event may have come that was published at the same time.
    pub skew: Duration,
    /// How long it takes at most from a subscription's request to its confirmation.
    pub confirm: Duration,
    /// After this a source that is not lost is taken to have brought everything.
    /// Time proves nothing: a connection may be silent for longer before it is given up. So what a new source brought by
    /// then, and no other, is delivered in doubt. But what equals another event of that time is taken for its copy; and
    /// when the silent source is given up, the new one is taken to have had everything.
    pub settle: Duration,
}

/// An event to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out<S, E> {
    pub event: E,
    /// Who brought it; `None`: it is an own message.
    pub source: Option<S>,
    /// It may be one that was delivered before.
    pub doubtful: bool,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is delivered.
    First,
    /// Another source brought it before.
    Copy,
    /// It may be a copy of what was delivered before this source was certain.
    Held,
    /// It may be the copy of an own message whose request is under way.
    Early,
    /// It is delivered, and may be a copy: no certain source can tell.
    Doubtful,
}

#[derive(Clone, Debug)]
pub struct Merge<S, E> {
    times: Times,
    log: Log,
    /// Those that are confirmed.
    sources: HashMap<S, Source>,
    /// Sources that have an open stretch.
    open: Vec<S>,
    /// Sources that are never held back, since what they bring is complete or as complete as can be.
    bases: usize,
    /// Sources that have a position.
    placed: u32,
    /// All that was published before is delivered.
    horizon: Option<Instant>,
    held: VecDeque<Held<S, E>>,
    flights: Vec<Flight<S>>,
    early: Vec<Early<S, E>>,
    /// Of what was delivered last, also when the log has it no more.
    last: Option<u64>,
    /// Confirmations and requests, numbered.
    steps: u64,
    /// The last confirmation's number.
    confirmed: u64,
    /// When offers look again at whether it is time to settle.
    look: Option<Instant>,
    let_go: u64,
}

#[derive(Clone, Debug)]
struct Held<S, E> {
    source: S,
    /// The number of the source's confirmation.
    since: u64,
    digest: u64,
    event: E,
    at: Instant,
    /// It is decided when certain sources have passed this.
    decided: Instant,
    /// The entry in doubt that it may be a copy of; `None`: there was no equal one.
    of: Option<u64>,
}

/// An entry that may be the one that was brought.
enum Match {
    Certain,
    Early(u64),
    Doubtful(Option<u64>),
    None,
}

impl<S: Copy + Eq + Hash, E> Merge<S, E> {
    /// Of a channel that no source has yet.
    #[must_use]
    pub fn new(times: Times) -> Self {
        Self {
            times,
            log: Log::default(),
            sources: HashMap::new(),
            open: Vec::new(),
            bases: 0,
            placed: 0,
            horizon: None,
            held: VecDeque::new(),
            flights: Vec::new(),
            early: Vec::new(),
            last: None,
            steps: 0,
            confirmed: 0,
            look: None,
            let_go: 0,
        }
    }

    /// Whether any source has the channel.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Whether this source has it.
    #[must_use]
    pub fn has(&self, source: S) -> bool {
        self.sources.contains_key(&source)
    }

    /// Whether [`Self::settle`] would change anything, sooner or later.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.open.is_empty() || !self.held.is_empty()
    }

    /// Entries of the log, and copies that are held.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.log.len(), self.held.len() + self.early.len())
    }

    /// How many held copies there was no room for, since this was asked last.
    pub fn take_let_go(&mut self) -> u64 {
        std::mem::take(&mut self.let_go)
    }

    // ------------------------------------------------------------------------------------------------- the sources

    /// The source's subscription, which it asked for at `asked` or later, is confirmed.
    pub fn confirmed(&mut self, source: S, asked: Instant, now: Instant, out: &mut Vec<Out<S, E>>) {
        if self.has(source) {
            self.lost(source, now, out);
        }
        self.steps += 1;
        self.confirmed = self.steps;
        let from = self.log.since(asked.checked_sub(self.times.skew).unwrap_or(asked));
        let stretch = Stretch::begin(from, now);
        let position = Position::at(self.log.end());
        self.sources.insert(source, Source { position, since: self.steps, stretch: Some(Box::new(stretch)) });
        self.open.push(source);
        if self.bases == 0 {
            self.promote(now);
        }
        self.progress(now, out);
    }

    /// The source's subscription began, in the order of what `other` brings, where that one is now: it brings what that one
    /// has yet to bring, and nothing else. `false`: nothing is changed, for that one is not certain, or this one is there.
    pub fn confirmed_like(&mut self, source: S, other: S) -> bool {
        let certain = self.sources.get(&other).filter(|other| other.is_base() && other.is_placed());
        let Some(Source { position, since, .. }) = certain.filter(|_| !self.has(source)) else {
            return false;
        };
        let (position, since) = (position.clone(), *since);
        position.join(&mut self.log);
        self.sources.insert(source, Source { position, since, stretch: None });
        self.placed += 1;
        self.bases += 1;
        true
    }

    /// The source has the channel no more. `true`: no other is certain to have had all that it did not bring, so events
    /// may have been missed.
    pub fn lost(&mut self, source: S, now: Instant, out: &mut Vec<Out<S, E>>) -> bool {
        self.progress(now, out);
        let bases = self.bases;
        if !self.remove(source) || bases == 0 || self.bases > 0 {
            return false;
        }
        let is_covered =
            self.open.iter().any(|source| self.sources.get(source).is_some_and(Source::is_whole));
        self.promote(now);
        let (begin, mut ghosts) = (self.log.end(), Ghosts::default());
        for held in std::mem::take(&mut self.held) {
            let Held { source, since, digest, event, of, .. } = held;
            if !self.is_present(source, since) {
                self.haunt(&mut ghosts, (source, since), begin, digest, event, true, now, out);
            } else if !self.passes_for_copy(source, digest, of) {
                self.deliver(source, digest, event, true, now, out);
            }
        }
        !is_covered
    }

    /// When [`Self::settle`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let stretches = self.open.iter().filter_map(|source| self.sources.get(source)?.stretch.as_ref());
        let stretches = stretches.map(|stretch| stretch.until.map_or(stretch.decided, |(_, found)| found));
        let due = self.held.front().map(|held| held.decided).into_iter().chain(stretches).min()?;
        let due = due + self.times.settle;
        // What waits for a request's end as well is looked at now and then.
        Some(self.look.map_or(due, |look| due.max(look)))
    }

    /// Time has passed.
    pub fn settle(&mut self, now: Instant, out: &mut Vec<Out<S, E>>) {
        self.progress(now, out);
        self.prune(now);
    }

    // -------------------------------------------------------------------------------------------------- the events

    /// The source brings an event. What is to be delivered is added to `out`.
    pub fn offer(
        &mut self,
        source: S,
        digest: u64,
        event: E,
        now: Instant,
        out: &mut Vec<Out<S, E>>,
    ) -> Verdict {
        // Not each time: of many sources, many may be new.
        if self.is_in_doubt() && self.look.is_none_or(|look| look <= now) {
            self.progress(now, out);
        }
        self.prune(now);
        self.place(source, digest, event, now, out)
    }

    /// The source brings the last event of a cache channel, as the first one after its confirmation. It is no copy of
    /// one that the source will bring, or has brought.
    pub fn offer_last(
        &mut self,
        source: S,
        digest: u64,
        event: E,
        now: Instant,
        out: &mut Vec<Out<S, E>>,
    ) -> Verdict {
        let from = self.sources.get(&source).and_then(|source| Some(source.stretch.as_ref()?.from));
        let others = self.sources.len() > 1;
        let is_known =
            from.is_some_and(|from| others && self.log.find(digest, from, u64::MAX, |_| false).is_some());
        if self.last == Some(digest) || is_known {
            return Verdict::Copy;
        }
        if let Some(flight) = self.flight_of(source, digest) {
            self.keep_early(flight, source, digest, event);
            return Verdict::Early;
        }
        self.deliver(source, digest, event, false, now, out);
        Verdict::First
    }

    fn place(&mut self, source: S, digest: u64, event: E, now: Instant, out: &mut Vec<Out<S, E>>) -> Verdict {
        self.stir(source, digest, now);
        let found = self.find(source, digest, now);
        if !matches!(found, Match::Early(_)) {
            self.stirred(source, digest, Stir::Brought);
        }
        match found {
            Match::Certain => Verdict::Copy,
            Match::Early(flight) => {
                self.keep_early(flight, source, digest, event);
                Verdict::Early
            }
            // New ones, too: they must not overtake.
            Match::Doubtful(of) if self.is_held_back(source) => {
                self.hold(source, digest, event, now, of);
                Verdict::Held
            }
            Match::None if self.is_held_back(source) => {
                self.hold(source, digest, event, now, None);
                Verdict::Held
            }
            Match::Doubtful(_) => {
                self.deliver(source, digest, event, true, now, out);
                Verdict::Doubtful
            }
            Match::None => {
                self.deliver(source, digest, event, false, now, out);
                Verdict::First
            }
        }
    }

    /// What the source may have brought; it has, then. A certain match goes first: one that is left over would be taken
    /// for a later event's.
    fn find(&mut self, source: S, digest: u64, now: Instant) -> Match {
        let Some(entry) = self.sources.get_mut(&source) else {
            let is_known = self.log.find(digest, 0, u64::MAX, |_| false).is_some();
            return if is_known { Match::Doubtful(None) } else { Match::None };
        };
        if entry.is_placed() {
            entry.position.forgive(&mut self.log, now);
            if entry.bring_certain(digest, &mut self.log).is_some() {
                return Match::Certain;
            }
        }
        if let Some(flight) = self.flight_of(source, digest) {
            return Match::Early(flight);
        }
        let Some(stretch) = self.sources.get_mut(&source).and_then(|source| source.stretch.as_mut()) else {
            return Match::None;
        };
        match stretch.find(&self.log, digest) {
            Some(number) => {
                stretch.take(number);
                Match::Doubtful(Some(number))
            }
            None => Match::None,
        }
    }

    /// Whether certain sources deliver what this one brings.
    fn is_held_back(&self, source: S) -> bool {
        self.bases > 0 && self.sources.get(&source).is_some_and(|source| !source.is_base())
    }

    /// A certain source delivered what others may have brought before it. Of those that have a position this is certain;
    /// else it remains in doubt. It is taken by the first that was held, also by one that may be a copy of an earlier
    /// entry: if it is, the next one takes its place. So no more is taken for copies than is certain to be.
    fn find_held(&mut self, digest: u64, number: u64) {
        let mut found: Vec<S> = Vec::new();
        let (sources, log) = (&mut self.sources, &mut self.log);
        self.held.retain_mut(|held| {
            if held.digest != digest || found.contains(&held.source) {
                return true;
            }
            let source = sources.get_mut(&held.source).filter(|source| source.since == held.since);
            let Some(source) = source else { return true };
            if source.is_placed() {
                held.of.into_iter().for_each(|of| source.give_back(of));
                source.bring_this(number, digest, log);
            } else if held.of.is_none() {
                held.of = Some(number);
                source.take(number);
            } else {
                return true;
            }
            found.push(held.source);
            !source.is_placed()
        });
    }

    /// What was held is delivered by now: which entry it is. `false`: nothing equal is.
    pub(super) fn settle_held(&mut self, source: S, digest: u64, of: Option<u64>) -> bool {
        if of.is_some() {
            self.passes_for_copy(source, digest, of);
            return true;
        }
        let Some(entry) = self.sources.get_mut(&source) else { return true };
        let from = entry.stretch.as_ref().map_or(0, |stretch| stretch.from);
        if entry.bring_certain(digest, &mut self.log).is_none()
            && let Some(stretch) = &mut entry.stretch
            && let Some(number) = stretch.find(&self.log, digest)
        {
            stretch.take(number);
        }
        // Of equal ones, a certain source may have brought this under the name of another.
        self.log.find(digest, from, u64::MAX, |_| false).is_some()
    }

    fn hold(&mut self, source: S, digest: u64, event: E, at: Instant, of: Option<u64>) {
        if self.held.len() >= HELD_MAX {
            if let Some(held) = self.held.pop_front()
                && let Some(source) = self.sources.get_mut(&held.source).filter(|s| s.since == held.since)
                && let Some(stretch) = &mut source.stretch
            {
                stretch.let_go = Some((at, false));
            }
            self.let_go += 1;
        }
        let since = self.since(source);
        self.held.push_back(Held { source, since, digest, event, at, decided: at, of });
    }

    /// Whether what was held may as well be the copy of an entry that the source is certain to bring; then it is, and
    /// the one in doubt is open again.
    pub(super) fn passes_for_copy(&mut self, source: S, digest: u64, of: Option<u64>) -> bool {
        let (Some(entry), Some(of)) = (self.sources.get_mut(&source), of) else { return false };
        entry.give_back(of);
        let is_copy = entry.bring_certain(digest, &mut self.log).is_some();
        if !is_copy {
            entry.take(of);
        }
        is_copy
    }

    fn deliver(
        &mut self,
        source: S,
        digest: u64,
        event: E,
        doubtful: bool,
        now: Instant,
        out: &mut Vec<Out<S, E>>,
    ) {
        let number = self.append(digest, now);
        self.bring(source, number);
        self.find_held(digest, number);
        out.push(Out { event, source: Some(source), doubtful });
    }

    /// The source has brought this entry, or never will.
    fn bring(&mut self, source: S, number: u64) {
        let Some(source) = self.sources.get_mut(&source) else { return };
        match source.stretch.as_mut().filter(|stretch| stretch.until.is_none()) {
            Some(stretch) => stretch.take(number),
            None => source.position.bring(number, &mut self.log),
        }
    }
}
