//! Delays between attempts: exponential, with full jitter, so that those who failed together do not come back
//! together.

use std::time::Duration;

/// A random delay from nothing to `first` doubled `attempt` times, at most `max`.
#[must_use]
pub fn full_jitter(attempt: u32, first: Duration, max: Duration, rng: &mut fastrand::Rng) -> Duration {
    ceiling(attempt, first, max).mul_f64(rng.f64())
}

/// What such a delay is at most.
#[must_use]
pub fn ceiling(attempt: u32, first: Duration, max: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_are_spread() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(3));
        for (attempt, ceiling) in [(0, 100), (1, 200), (3, 800), (5, 3000), (40, 3000), (u32::MAX, 3000)] {
            let delays: Vec<u128> =
                (0..200).map(|_| full_jitter(attempt, first, max, &mut rng).as_millis()).collect();
            assert!(delays.iter().all(|d| *d <= ceiling), "attempt {attempt}");
            assert!(delays.iter().any(|d| *d < ceiling / 4) && delays.iter().any(|d| *d > ceiling * 3 / 4));
        }
    }
}
