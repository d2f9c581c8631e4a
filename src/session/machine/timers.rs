//! The deadlines of one connection: at most one of each kind, in one table.

use std::time::{Duration, Instant};

use super::{Action, Machine};
use crate::clock::Now;
use crate::legacy::close::CloseReason;

/// What a connection may wait for, in the order in which it is looked at: what ends a connection comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Its turn in a shutdown.
    Drain,
    /// Its turn to be closed for the events that it has, or may have, missed.
    Missed,
    /// A probed client must have shown that it is alive.
    Probe,
    /// The end of the current state: the auth deadline, the fixed subscription's wait, a refusal's hold.
    Phase,
    Expiry,
    /// Silence is judged. Moved only when it is due, so that a frame costs no timer.
    Silence,
    Ping,
    /// The first unconfirmed one of the chosen subscriptions must be confirmed.
    Subscriptions,
}

impl Timer {
    const ALL: [Self; 8] = [
        Self::Drain,
        Self::Missed,
        Self::Probe,
        Self::Phase,
        Self::Expiry,
        Self::Silence,
        Self::Ping,
        Self::Subscriptions,
    ];
}

/// No deadline; nor is one that is centuries ahead.
const UNSET: u64 = u64::MAX;

/// Deadlines in nanoseconds after an epoch: every connection has a table, and instants would take twice the room.
pub(super) struct TimerTable {
    epoch: Instant,
    after: [u64; Timer::ALL.len()],
}

impl TimerTable {
    /// With no timer set. No deadline is before `epoch`.
    pub(super) const fn new(epoch: Instant) -> Self {
        Self { epoch, after: [UNSET; Timer::ALL.len()] }
    }

    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.write(timer, nanos(at.saturating_duration_since(self.epoch)));
    }

    /// Sets the timer, or clears it.
    pub(super) fn put(&mut self, timer: Timer, at: Option<Instant>) {
        match at {
            Some(at) => self.set(timer, at),
            None => self.clear(timer),
        }
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.write(timer, UNSET);
    }

    pub(super) const fn clear_all(&mut self) {
        self.after = [UNSET; Timer::ALL.len()];
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.read(timer) != UNSET
    }

    #[cfg(test)]
    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.instant(self.read(timer))
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.instant(self.after.into_iter().min().unwrap_or(UNSET))
    }

    /// Whether the timer's time has come; then it is set no more.
    pub(super) fn expired(&mut self, timer: Timer, now: Now) -> bool {
        let expired =
            self.is_set(timer) && self.read(timer) <= nanos(now.mono.saturating_duration_since(self.epoch));
        if expired {
            self.clear(timer);
        }
        expired
    }

    /// Moves the deadline, if there is one, to `by` later.
    pub(super) fn postpone(&mut self, timer: Timer, by: Duration) {
        self.write(timer, self.read(timer).saturating_add(nanos(by)));
    }

    /// Moves the deadline, if there is one, to `by` earlier.
    pub(super) fn advance(&mut self, timer: Timer, by: Duration) {
        if self.is_set(timer) {
            self.write(timer, self.read(timer).saturating_sub(nanos(by)));
        }
    }

    fn read(&self, timer: Timer) -> u64 {
        self.after.get(timer as usize).copied().unwrap_or(UNSET)
    }

    fn write(&mut self, timer: Timer, after: u64) {
        if let Some(slot) = self.after.get_mut(timer as usize) {
            *slot = after;
        }
    }

    fn instant(&self, after: u64) -> Option<Instant> {
        (after != UNSET).then(|| self.epoch.checked_add(Duration::from_nanos(after))).flatten()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(UNSET)
}

impl Machine {
    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The time has come that [`Self::deadline`] said.
    pub fn timer(&mut self, now: Now, out: &mut Vec<Action>) {
        for timer in Timer::ALL {
            // A close clears all timers, so nothing comes after it.
            if !self.timers.expired(timer, now) {
                continue;
            }
            match timer {
                Timer::Drain => self.close(CloseReason::GoingAway, out),
                Timer::Missed => self.close(self.liveness.missed, out),
                Timer::Probe => self.probe_over(out),
                Timer::Phase => self.phase_over(now, out),
                Timer::Expiry => self.token_expired(now, out),
                Timer::Silence => self.judge_silence(now, out),
                Timer::Ping => self.heartbeat(now, out),
                Timer::Subscriptions => self.give_up_chosen(now, out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_is_next_and_expires_once() {
        let start = now();
        let mut table = TimerTable::new(start.mono);
        assert_eq!(table.next(), None);
        table.set(Timer::Ping, start.mono + SECOND * 2);
        table.set(Timer::Drain, start.mono + SECOND * 3);
        table.set(Timer::Expiry, start.mono + SECOND);
        table.clear(Timer::Expiry);
        assert_eq!(table.next(), Some(start.mono + SECOND * 2));
        let just_before = start.plus(SECOND * 2 - Duration::from_nanos(1));
        assert!(!table.expired(Timer::Ping, just_before));
        let at = start.plus(SECOND * 2);
        assert!(table.expired(Timer::Ping, at) && !table.expired(Timer::Ping, at));
        assert!(!table.expired(Timer::Drain, at) && table.is_set(Timer::Drain));
        table.clear_all();
        assert_eq!(table.next(), None);
    }

    #[test]
    fn a_deadline_is_moved_where_there_is_one() {
        let start = now();
        let mut table = TimerTable::new(start.mono);
        table.postpone(Timer::Phase, SECOND);
        table.advance(Timer::Phase, SECOND);
        assert_eq!(table.next(), None);
        table.set(Timer::Phase, start.mono + SECOND);
        table.postpone(Timer::Phase, SECOND * 4);
        table.advance(Timer::Phase, SECOND * 2);
        assert_eq!(table.get(Timer::Phase), Some(start.mono + SECOND * 3));
        table.advance(Timer::Phase, SECOND * 9);
        assert!(table.expired(Timer::Phase, start), "no deadline is before the connection");
    }

    #[test]
    fn no_time_is_too_far() {
        let start = now();
        let mut table = TimerTable::new(start.mono);
        table.put(Timer::Expiry, start.mono.checked_add(SECOND * u32::MAX * 9));
        assert_eq!(table.next(), None, "the next millennium");
        table.set(Timer::Expiry, start.mono + SECOND * u32::MAX);
        assert!(table.next().is_some(), "the next century");
        table.postpone(Timer::Expiry, Duration::MAX);
        assert_eq!(table.next(), None);
    }
}
