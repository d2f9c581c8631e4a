//! The time, as an argument: pure code is handed a [`Now`] and never asks a clock.

use std::time::{Duration, Instant};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: every deadline and rate is measured on it.
    pub mono: Instant,
    /// Milliseconds since the Unix epoch: token expiry, deprecation dates and timestamps in frames.
    pub unix_ms: i64,
}

impl Now {
    /// Reads the clocks. For drivers only; under tokio's paused clock the monotonic part follows it.
    #[must_use]
    #[allow(clippy::disallowed_methods)]
    pub fn read() -> Self {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            mono: tokio::time::Instant::now().into_std(),
            unix_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.unix_ms.div_euclid(1000)
    }

    /// The same moment `by` later, on both clocks.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self {
            mono: self.mono + by,
            unix_ms: self.unix_ms.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// The same moment, its wall clock `by` earlier: for what must not age while it waits here.
    #[must_use]
    pub fn with_wall_earlier(self, by: Duration) -> Self {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self { unix_ms: self.unix_ms.saturating_sub(by_ms), ..self }
    }

    /// RFC 3339, UTC, whole seconds, as the old server wrote its timestamps: `2025-01-21T10:00:00Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_second(self.unix_seconds()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
    }
}

/// When within `window` one of many has its turn, so that they do not all come at once: `share` is a random number of
/// its own, at least 0 and below 1.
#[must_use]
pub fn spread(window: Duration, share: f64) -> Duration {
    window.mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A moment of the old server's time.
    pub(crate) fn now() -> Now {
        Now { unix_ms: 1_737_453_660_000, ..Now::read() }
    }

    #[test]
    fn many_are_spread_evenly_over_a_window() {
        const MANY: usize = 10_000;
        let window = Duration::from_secs(10);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut tenths = [0; 10];
        for _ in 0..MANY {
            let turn = spread(window, rng.f64());
            assert!(turn < window);
            tenths[turn.as_secs() as usize] += 1;
        }
        assert!(
            tenths.iter().all(|count| (MANY / 10 * 9 / 10..MANY / 10 * 11 / 10).contains(count)),
            "{tenths:?}"
        );
        assert_eq!(spread(Duration::ZERO, 0.9), Duration::ZERO);
        assert_eq!(spread(window, f64::INFINITY), window);
    }

    #[test]
    fn timestamps_have_the_old_servers_shape() {
        let now = Now { mono: Now::read().mono, unix_ms: 1_737_453_600_999 };
        assert_eq!(now.rfc3339(), "2025-01-21T10:00:00Z");
        assert_eq!(now.plus(Duration::from_millis(1)).rfc3339(), "2025-01-21T10:00:01Z");
    }
}
