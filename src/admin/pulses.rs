//! Pure: which workers still move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Now;

/// A worker that has not moved for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// When each worker moved last.
pub(super) struct Pulses {
    since: Instant,
    /// Milliseconds since then: monotonic, for a clock that is set must not look like a stop.
    last: Vec<AtomicU64>,
}

impl Pulses {
    /// All move.
    pub(super) fn new(workers: usize, now: Now) -> Self {
        Self { since: now.mono, last: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn pulse(&self, worker: usize, now: Now) {
        if let Some(last) = self.last.get(worker) {
            last.store(self.millis(now), Ordering::Relaxed);
        }
    }

    pub(super) fn stuck(&self, now: Now) -> usize {
        let oldest = self.millis(now).saturating_sub(STUCK_AFTER.as_millis() as u64);
        self.last.iter().filter(|last| last.load(Ordering::Relaxed) < oldest).count()
    }

    fn millis(&self, now: Now) -> u64 {
        now.mono.saturating_duration_since(self.since).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_show_itself_for_long_is_stuck_until_it_does() {
        let start = Now::read();
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        let pulses = Pulses::new(2, start);
        assert_eq!(pulses.stuck(at(30)), 0, "they have that long to begin");
        assert_eq!(pulses.stuck(at(31)), 2);
        pulses.pulse(0, at(40));
        assert_eq!(pulses.stuck(at(41)), 1, "one that moves does not move another");
        pulses.pulse(1, at(42));
        // The wall clock is set, which is no time that passes.
        assert_eq!(pulses.stuck(Now { unix_ms: i64::MAX, ..at(70) }), 0);
        assert_eq!(pulses.stuck(at(71)), 1);
        assert_eq!(pulses.stuck(at(73)), 2);
        pulses.pulse(9, at(73));
        assert_eq!(pulses.stuck(at(73)), 2, "there is no such worker");
    }
}
