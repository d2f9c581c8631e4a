//! How fast a link subscribes: after a lost connection thousands of channels do not go in one burst.

use std::time::{Duration, Instant};

/// Subscriptions in a second, behind the first [`BURST_MAX`].
pub const PER_SECOND_MAX: u32 = 1000;
/// Subscriptions sent at once, when there were none for a while.
pub const BURST_MAX: usize = 256;

/// How fast subscriptions are sent: so many at once, and [`PER_SECOND_MAX`].
#[derive(Debug, Default)]
pub struct Pace {
    /// Sent, and not made good by time yet.
    sent: u32,
    since: Option<Instant>,
    /// When the next one may be sent, while one waits for that.
    next: Option<Instant>,
}

impl Pace {
    const STEP: Duration = Duration::from_micros(1_000_000 / PER_SECOND_MAX as u64);

    /// Whether one may be sent now.
    pub fn allows(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let steps = now.saturating_duration_since(since).as_micros() / Self::STEP.as_micros();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.since = Some(if steps >= self.sent { now } else { since + Self::STEP * steps });
        self.sent = self.sent.saturating_sub(steps);
        let allows = (self.sent as usize) < BURST_MAX;
        self.sent += u32::from(allows);
        // Some together: not each of them is worth a wake-up.
        self.next = (!allows).then(|| now + Self::STEP * 16);
        allows
    }

    /// When one that waits may be sent.
    #[must_use]
    pub const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether that time has come.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.next.take_if(|at| *at <= now).is_some()
    }
}
