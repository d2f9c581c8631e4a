//! Pure: a token bucket whose time is an argument.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// A token bucket: `burst` at once, refilled with `count` per `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Refilled per period; at least 1.
    pub count: u32,
    /// The period.
    pub per: Duration,
    /// The bucket's size; at least 1.
    pub burst: u32,
}

/// A bucket of [`Rate::burst`], refilled by one each `per / count`. 56 bytes: one per connection is meant.
///
/// A client that keeps to `count` in any `per` is never limited while `burst` is at least `count`. In its
/// first period one that does not may get `burst + count` through.
#[derive(Debug)]
pub struct RateGate {
    limiter: RateLimiter<NotKeyed, InMemoryState, CallersClock, NoOpMiddleware<Nanos>>,
    start: Option<Instant>,
}

impl RateGate {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { limiter: RateLimiter::direct_with_clock(quota(rate), CallersClock::default()), start: None }
    }

    /// Takes one from the bucket.
    ///
    /// # Errors
    /// The bucket is empty; how long until one is there. Nothing is removed then.
    pub fn check(&mut self, now: Instant) -> Result<(), Duration> {
        let start = *self.start.get_or_insert(now);
        let at = self.limiter.clock().advance(now.saturating_duration_since(start));
        self.limiter.check().map_err(|refused| refused.wait_time_from(at))
    }
}

/// [`RateGate`] for several connections: it is asked without a lock.
#[derive(Debug)]
pub struct SharedGate {
    limiter: RateLimiter<NotKeyed, InMemoryState, CallersClock, NoOpMiddleware<Nanos>>,
    start: Instant,
    /// How long an empty bucket takes to be full.
    refill: Duration,
}

impl SharedGate {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        let quota = quota(rate);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, CallersClock::default()),
            start: now,
            refill: quota.replenish_interval().saturating_mul(quota.burst_size().get()),
        }
    }

    /// Takes one from the bucket.
    ///
    /// # Errors
    /// As [`RateGate::check`].
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        let at = self.limiter.clock().advance(now.saturating_duration_since(self.start));
        self.limiter.check().map_err(|refused| refused.wait_time_from(at))
    }

    /// When it was last checked.
    #[must_use]
    pub fn last_asked(&self) -> Instant {
        self.start + Duration::from(self.limiter.clock().now())
    }

    /// Whether the bucket is full for certain.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_asked()) >= self.refill
    }
}

/// governor's form of `rate`. A zero counts as one, and a bucket that would take longer than 146 years to
/// refill is cut to that, so that governor's 64 bits of nanoseconds cannot overflow.
pub(super) fn quota(rate: Rate) -> Quota {
    const REFILL_NS_MAX: u64 = u64::MAX / 4;
    let period_ns = u64::try_from((rate.per / rate.count.max(1)).as_nanos()).unwrap_or(REFILL_NS_MAX);
    let period_ns = period_ns.clamp(1, REFILL_NS_MAX);
    let burst_max = u32::try_from(REFILL_NS_MAX / period_ns).unwrap_or(u32::MAX);
    let burst = NonZeroU32::new(rate.burst.min(burst_max)).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(Duration::from_nanos(period_ns))
        .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
        .allow_burst(burst)
}

/// governor asks its clock; this one answers with the latest time that a caller gave, in nanoseconds since the
/// limiter's start. It never goes back.
#[derive(Debug, Default)]
pub(super) struct CallersClock(AtomicU64);

impl CallersClock {
    /// Sets the time since the start and returns it, or the later one that another caller has set.
    pub(super) fn advance(&self, since_start: Duration) -> Nanos {
        let ns = u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4);
        Nanos::new(self.0.fetch_max(ns, Ordering::Relaxed).max(ns))
    }
}

impl Clock for CallersClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use proptest::prelude::*;

    fn rate(count: u32, per_s: u64, burst: u32) -> Rate {
        Rate { count, per: Duration::from_secs(per_s), burst }
    }

    #[test]
    fn a_gate_is_small() {
        assert_eq!(size_of::<RateGate>(), 56);
    }

    #[test]
    fn the_burst_passes_then_one_per_refill() {
        let start = Now::read().mono;
        let mut gate = RateGate::new(rate(100, 60, 100));
        for n in 0..100 {
            assert_eq!(gate.check(start), Ok(()), "{n}");
        }
        assert_eq!(gate.check(start), Err(Duration::from_millis(600)));
        assert_eq!(gate.check(start + Duration::from_millis(500)), Err(Duration::from_millis(100)));
        assert_eq!(gate.check(start + Duration::from_millis(600)), Ok(()), "the refused took nothing");
        assert_eq!(gate.check(start + Duration::from_millis(600)), Err(Duration::from_millis(600)));
        assert_eq!(gate.check(start), Err(Duration::from_millis(600)), "time never goes back");
    }

    #[test]
    fn the_bucket_is_no_larger_after_a_long_pause() {
        let start = Now::read().mono;
        let mut gate = RateGate::new(rate(1, 1, 3));
        assert_eq!(gate.check(start), Ok(()));
        let later = start + Duration::from_secs(1_000_000);
        assert_eq!((0..10).filter(|_| gate.check(later).is_ok()).count(), 3);
    }

    #[test]
    fn absurd_rates_do_not_panic() {
        let start = Now::read().mono;
        for rate in [
            Rate { count: 0, per: Duration::ZERO, burst: 0 },
            Rate { count: u32::MAX, per: Duration::from_nanos(1), burst: u32::MAX },
            Rate { count: 1, per: Duration::MAX, burst: u32::MAX },
            Rate { count: 1, per: Duration::from_secs(86_400 * 365), burst: u32::MAX },
        ] {
            let mut gate = RateGate::new(rate);
            assert_eq!(gate.check(start), Ok(()), "{rate:?}");
            let _ = gate.check(start);
            let _ = gate.check(start + Duration::from_secs(3_000_000_000));
        }
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_refill(
            count in 1_u32..200,
            burst in 1_u32..200,
            steps_ms in prop::collection::vec(0_u64..300, 1..600),
        ) {
            // A period that every count divides, so that the bound is exact.
            let rate = Rate { count, per: Duration::from_nanos(u64::from(count) * 10_000_000), burst };
            let start = Now::read().mono;
            let (mut now, mut gate) = (start, RateGate::new(rate));
            let mut admitted = Vec::new();
            for step in steps_ms {
                now += Duration::from_millis(step / 20);
                match gate.check(now) {
                    Ok(()) => admitted.push(now),
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        now += wait;
                        prop_assert_eq!(gate.check(now), Ok(()), "the wait is long enough");
                        admitted.push(now);
                    }
                }
            }
            for (i, from) in admitted.iter().enumerate() {
                for (j, to) in admitted.iter().enumerate().skip(i) {
                    let elapsed = u128::from(count) * (*to - *from).as_nanos() / rate.per.as_nanos();
                    prop_assert!((j - i + 1) as u128 <= u128::from(burst) + elapsed);
                }
            }
        }

        #[test]
        fn who_keeps_the_promise_is_never_refused(
            count in 1_u32..50,
            per_ms in 1_u64..100_000,
            gaps_ms in prop::collection::vec(0_u64..5_000, 1..400),
        ) {
            let rate = Rate { count, per: Duration::from_millis(per_ms), burst: count };
            let mut now = Now::read().mono;
            let mut gate = RateGate::new(rate);
            let mut sent: Vec<Instant> = Vec::new();
            for gap in gaps_ms {
                now += Duration::from_millis(gap % (per_ms + 1));
                // As early as the promise allows: the count-th last message is a whole period ago.
                if let Some(earlier) = sent.len().checked_sub(count as usize).and_then(|i| sent.get(i)) {
                    now = now.max(*earlier + rate.per);
                }
                prop_assert_eq!(gate.check(now), Ok(()));
                sent.push(now);
            }
        }
    }
}
