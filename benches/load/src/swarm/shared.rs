//! What the workers count and the scenarios read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;

/// Events whose sending times are remembered; a delivery is timed against the latest of its slot.
const SENT_SLOTS: usize = 1 << 16;
/// Failures kept word by word; the others are only counted.
const FAILURES_KEPT: usize = 5;

pub(super) struct Shared {
    epoch: Instant,
    /// Of an event's data.
    pub(super) event_bytes: usize,
    ready: AtomicUsize,
    warm: AtomicUsize,
    delivered: AtomicU64,
    /// Deliveries at which the waiting scenario is woken; before, it would only steal time.
    goal: AtomicU64,
    /// When the latest delivery was read, nanoseconds since `epoch`.
    last: AtomicU64,
    /// When events were triggered, likewise, by sequence.
    sent: Box<[AtomicU64]>,
    failures: Mutex<Failures>,
    changed: Condvar,
}

#[derive(Default)]
struct Failures {
    count: u64,
    first: Vec<String>,
}

impl Shared {
    pub(super) fn new(epoch: Instant, event_bytes: usize) -> Self {
        Self {
            epoch,
            event_bytes,
            ready: AtomicUsize::new(0),
            warm: AtomicUsize::new(0),
            delivered: AtomicU64::new(0),
            goal: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            sent: (0..SENT_SLOTS).map(|_| AtomicU64::new(0)).collect(),
            failures: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn warm(&self) -> usize {
        self.warm.load(Ordering::Acquire)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    pub(super) fn set_goal(&self, goal: u64) {
        self.goal.store(goal, Ordering::Release);
    }

    pub(super) fn forget_clients(&self) {
        self.ready.store(0, Ordering::Release);
        self.warm.store(0, Ordering::Release);
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn mark_sent(&self, sequence: u32) {
        if let Some(slot) = self.sent.get(sequence as usize % SENT_SLOTS) {
            slot.store(self.now(), Ordering::Release);
        }
    }

    pub(super) fn sent(&self, sequence: u32) -> u64 {
        self.sent.get(sequence as usize % SENT_SLOTS).map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    pub(super) fn last_delay(&self, sequence: u32) -> Duration {
        Duration::from_nanos(self.last.load(Ordering::Acquire).saturating_sub(self.sent(sequence)))
    }

    /// What a worker found in one turn of its loop.
    pub(super) fn add(&self, turn: &Turn) {
        self.last.fetch_max(turn.last, Ordering::AcqRel);
        let delivered = self.delivered.fetch_add(turn.delivered, Ordering::AcqRel) + turn.delivered;
        self.ready.fetch_add(turn.ready, Ordering::AcqRel);
        self.warm.fetch_add(turn.warm, Ordering::AcqRel);
        let reached = turn.delivered > 0 && delivered >= self.goal.load(Ordering::Acquire);
        if reached || turn.ready > 0 || turn.warm > 0 {
            self.wake();
        }
    }

    pub(super) fn fail(&self, failure: String) {
        let mut failures = self.failures();
        failures.count += 1;
        if failures.first.len() < FAILURES_KEPT {
            failures.first.push(failure);
        }
        self.changed.notify_all();
    }

    pub(super) fn check(&self) -> Result<()> {
        let failures = self.failures();
        if failures.count == 0 {
            return Ok(());
        }
        Err(format!("{} failures of clients, first: {}", failures.count, failures.first.join("; ")).into())
    }

    /// Waits until `value` is at least `goal`; fails as soon as any client does.
    pub(super) fn wait(
        &self,
        timeout: Duration,
        what: &str,
        goal: u64,
        value: impl Fn(&Self) -> u64,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut failures = self.failures();
        while value(self) < goal && failures.count == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("only {} of {goal} {what} within {timeout:?}", value(self)).into());
            }
            failures = self.changed.wait_timeout(failures, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(failures);
        self.check()
    }

    fn wake(&self) {
        // Under the lock, or the wake-up could fall between the waiter's look and its sleep.
        let _guard = self.failures();
        self.changed.notify_all();
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts of one turn.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) ready: usize,
    pub(super) warm: usize,
    pub(super) delivered: u64,
    /// When the latest was read.
    pub(super) last: u64,
}
