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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_the_old_servers_shape() {
        let now = Now { mono: Now::read().mono, unix_ms: 1_737_453_600_999 };
        assert_eq!(now.rfc3339(), "2025-01-21T10:00:00Z");
        assert_eq!(now.plus(Duration::from_millis(1)).rfc3339(), "2025-01-21T10:00:01Z");
    }
}
