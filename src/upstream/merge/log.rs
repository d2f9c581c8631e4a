//! What was delivered on one channel, and how far each source is in it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Entries kept at most: a source that is further behind brings what is not known any more.
pub(super) const ENTRIES_MAX: usize = 8192;
/// How long an entry is kept at most. A silent connection is given up earlier (`pusher:ping` after 120 s at most, and
/// 30 s for the answer).
pub(super) const ENTRY_KEPT_MAX: Duration = Duration::from_secs(180);
/// How long a source that has brought later events may owe an earlier one: sources differ in order by moments only.
const OWED_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
struct Entry {
    digest: u64,
    at: Instant,
    /// Sources that are to bring it yet.
    awaited: u32,
}

/// Digests of what was delivered, by a number that only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The number of the first one that is kept.
    begin: u64,
}

impl Log {
    pub(super) const fn begin(&self) -> u64 {
        self.begin
    }

    /// The number that the next one will have.
    pub(super) fn end(&self) -> u64 {
        self.begin + self.entries.len() as u64
    }

    pub(super) fn push(&mut self, digest: u64, at: Instant, awaited: u32) -> u64 {
        self.entries.push_back(Entry { digest, at, awaited });
        self.end() - 1
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.begin)?).ok()?)
    }

    /// When it was delivered.
    pub(super) fn at(&self, number: u64) -> Option<Instant> {
        let place = usize::try_from(number.checked_sub(self.begin)?).ok()?;
        self.entries.get(place).map(|entry| entry.at)
    }

    /// One source less will bring it, or it has.
    pub(super) fn brought(&mut self, number: u64) {
        if let Some(entry) = self.get_mut(number) {
            entry.awaited = entry.awaited.saturating_sub(1);
        }
    }

    /// The first that was delivered at `at` or later.
    pub(super) fn since(&self, at: Instant) -> u64 {
        self.begin + self.entries.partition_point(|entry| entry.at < at) as u64
    }

    /// The first from `from` up to `until` with this digest that is not among those `but`.
    pub(super) fn find(&self, digest: u64, from: u64, until: u64, but: impl Fn(u64) -> bool) -> Option<u64> {
        let from = from.max(self.begin);
        let skipped = usize::try_from(from - self.begin).unwrap_or(usize::MAX);
        let count = usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut numbered = (from..).zip(self.entries.iter().skip(skipped).take(count));
        numbered.find(|(number, entry)| entry.digest == digest && !but(*number)).map(|(number, _)| number)
    }

    /// Drops what is of no use any more: with `settled`, also what every source has brought and is older than `kept`.
    pub(super) fn prune(&mut self, now: Instant, kept: Duration, settled: bool) {
        while let Some(first) = self.entries.front() {
            let age = now.saturating_duration_since(first.at);
            let is_done = settled && first.awaited == 0 && age > kept;
            if !is_done && age <= ENTRY_KEPT_MAX && self.entries.len() <= ENTRIES_MAX {
                return;
            }
            self.entries.pop_front();
            self.begin += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// How far a source is among the entries that it is to bring.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The first that it has not brought.
    next: u64,
    /// Those that it has brought beyond that: bit 0 is the one after `next`.
    ahead: u64,
}

impl Position {
    pub(super) const fn at(next: u64) -> Self {
        Self { next, ahead: 0 }
    }

    fn has(&self, number: u64) -> bool {
        number < self.next
            || number.checked_sub(self.next + 1).is_some_and(|bit| bit < 64 && self.ahead >> bit & 1 == 1)
    }

    /// The first entry of this digest that it has not brought yet.
    pub(super) fn find(&self, log: &Log, digest: u64) -> Option<u64> {
        log.find(digest, self.next, u64::MAX, |number| self.has(number))
    }

    /// It has brought this one.
    pub(super) fn bring(&mut self, number: u64, log: &mut Log) {
        self.skip_forgotten(log);
        if self.has(number) {
            return;
        }
        log.brought(number);
        // What it owes still, so far behind, it will not bring.
        while number > self.next + 64 {
            log.brought(self.next);
            self.step();
        }
        if number == self.next {
            self.step();
        } else {
            self.ahead |= 1 << (number - self.next - 1);
        }
    }

    /// What the log has no more is not looked for.
    fn skip_forgotten(&mut self, log: &Log) {
        if log.begin() > self.next + 64 {
            *self = Self::at(log.begin());
        }
    }

    /// Past the first, and those behind it that it has brought.
    const fn step(&mut self) {
        loop {
            self.next += 1;
            let has_next = self.ahead & 1 == 1;
            self.ahead >>= 1;
            if !has_next {
                return;
            }
        }
    }

    /// What it has owed for long, while it brought later ones, it does not bring.
    pub(super) fn forgive(&mut self, log: &mut Log, now: Instant) {
        while self.ahead != 0
            && log.at(self.next).is_none_or(|at| now.saturating_duration_since(at) > OWED_MAX)
        {
            log.brought(self.next);
            self.step();
        }
    }

    /// One more source is here, and will bring the same.
    pub(super) fn join(&self, log: &mut Log) {
        for number in self.next.max(log.begin())..log.end() {
            if !self.has(number)
                && let Some(entry) = log.get_mut(number)
            {
                entry.awaited += 1;
            }
        }
    }

    /// It owes nothing of what came before this entry.
    pub(super) fn pass(&mut self, number: u64, log: &mut Log) {
        self.skip_forgotten(log);
        while self.next < number {
            log.brought(self.next);
            self.step();
        }
    }

    /// It brings nothing more.
    pub(super) fn leave(&self, log: &mut Log) {
        for number in self.next.max(log.begin())..log.end() {
            if !self.has(number) {
                log.brought(number);
            }
        }
    }
}
