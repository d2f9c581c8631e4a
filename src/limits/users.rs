//! Pure: rates per user. A bucket outlives its user's connections until it is full again, so that reconnecting does
//! not refill it. Locks are for connecting users, never for a message.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::rate::SharedGate;
use crate::limits::rate::Rate;

/// Users without a connection whose buckets are remembered, at most. Beyond, those are forgotten that have been quiet
/// for longest.
pub const DEPARTED_MAX: usize = 1 << 16;
/// Each with its own lock.
const SHARDS: usize = 16;
const DEPARTED_PER_SHARD_MAX: usize = DEPARTED_MAX / SHARDS;
/// A table of so many is not looked through for who has gone.
const SHARD_SMALL: usize = 64;

/// The buckets of users. `K` names a user, and what the rate is counted over.
pub struct UserRates<K: Eq + Hash> {
    hasher: RandomState,
    shards: [Mutex<Shard<K>>; SHARDS],
}

struct Shard<K> {
    gates: HashMap<(K, Rate), Arc<SharedGate>>,
    /// With so many of them, it is time to see who has gone.
    full: usize,
}

impl<K: Eq + Hash> Default for UserRates<K> {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { gates: HashMap::new(), full: SHARD_SMALL });
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| shard()) }
    }
}

impl<K: Eq + Hash> UserRates<K> {
    /// The bucket of a user, which all its connections share. Where routes that count together have different rates,
    /// there is one of each.
    pub fn gate(&self, user: K, rate: Rate, now: Instant) -> Arc<SharedGate> {
        let shard = self.hasher.hash_one(&user) as usize % SHARDS;
        let Some(shard) = self.shards.get(shard) else { return Arc::new(SharedGate::new(rate, now)) };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.gates.len() >= shard.full {
            shard.sweep(now);
        }
        shard.gates.entry((user, rate)).or_insert_with(|| Arc::new(SharedGate::new(rate, now))).clone()
    }

    /// Removes full buckets of users without connections.
    pub fn upkeep(&self, now: Instant) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        let count =
            |shard: &Mutex<Shard<K>>| shard.lock().unwrap_or_else(PoisonError::into_inner).gates.len();
        self.shards.iter().map(count).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash> Shard<K> {
    fn sweep(&mut self, now: Instant) {
        let has_gone = |gate: &Arc<SharedGate>| Arc::strong_count(gate) == 1;
        self.gates.retain(|_, gate| !has_gone(gate) || !gate.is_full(now));
        let mut quiet: Vec<Instant> =
            self.gates.values().filter(|gate| has_gone(gate)).map(|gate| gate.last_asked()).collect();
        let departed = quiet.len();
        if departed > DEPARTED_PER_SHARD_MAX / 2 {
            // Half of what may be, so that this is not done for each who comes.
            quiet.sort_unstable();
            let before = quiet.get(departed - DEPARTED_PER_SHARD_MAX / 2).copied().unwrap_or(now);
            self.gates.retain(|_, gate| !has_gone(gate) || gate.last_asked() >= before);
        }
        let connected = self.gates.values().filter(|gate| !has_gone(gate)).count();
        self.full = (2 * self.gates.len()).clamp(SHARD_SMALL, connected + DEPARTED_PER_SHARD_MAX);
        if self.gates.capacity() > 4 * self.gates.len().max(SHARD_SMALL) {
            self.gates.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::clock::Now;

    const RATE: Rate = Rate { count: 10, per: Duration::from_secs(10), burst: 5 };

    #[test]
    fn connecting_anew_does_not_refill() {
        let (rates, now) = (UserRates::default(), Now::read().mono);
        for connection in 0..3 {
            let gate = rates.gate("ann", RATE, now);
            for n in 0..5 {
                assert_eq!(gate.check(now).is_ok(), connection == 0, "{connection} {n}");
            }
        }
        assert!(rates.gate("bob", RATE, now).check(now).is_ok(), "another user");
        let (one, two) = (rates.gate("ann", RATE, now), rates.gate("ann", RATE, now));
        let later = now + Duration::from_secs(2);
        assert!(one.check(later).is_ok() && two.check(later).is_ok());
        assert_eq!(two.check(later), Err(Duration::from_secs(1)));
    }

    #[test]
    fn routes_of_different_rates_have_buckets_of_their_own() {
        let (rates, now) = (UserRates::default(), Now::read().mono);
        let narrow = Rate { burst: 1, ..RATE };
        assert!(rates.gate("ann", narrow, now).check(now).is_ok());
        assert!(rates.gate("ann", narrow, now).check(now).is_err());
        assert!(rates.gate("ann", RATE, now).check(now).is_ok());
    }

    #[test]
    fn who_has_gone_is_forgotten_when_the_bucket_is_full() {
        let (rates, now) = (UserRates::default(), Now::read().mono);
        let stays = rates.gate("ann", RATE, now);
        assert!(rates.gate("bob", RATE, now).check(now).is_ok());
        assert!(stays.check(now).is_ok());
        rates.upkeep(now + Duration::from_secs(4));
        assert_eq!(rates.len(), 2);
        rates.upkeep(now + Duration::from_secs(5));
        assert_eq!(rates.len(), 1, "one is connected");
        drop(stays);
        rates.upkeep(now + Duration::from_secs(5));
        assert!(rates.is_empty());
    }

    #[test]
    fn a_crowd_that_comes_and_goes_is_bounded() {
        let (rates, start) = (UserRates::default(), Now::read().mono);
        let slow = Rate { count: 1, per: Duration::from_secs(86_400), burst: 1 };
        let mut now = start;
        let kept = rates.gate(u64::MAX, slow, now);
        assert!(kept.check(now).is_ok());
        for user in 0..3 * DEPARTED_MAX as u64 {
            now = start + Duration::from_micros(user);
            assert!(rates.gate(user, slow, now).check(now).is_ok());
        }
        assert!(rates.len() <= DEPARTED_MAX + SHARDS, "{}", rates.len());
        assert!(rates.gate(u64::MAX, slow, now).check(now).is_err(), "who is connected is never forgotten");
        let last = 3 * DEPARTED_MAX as u64 - 1;
        assert!(rates.gate(last, slow, now).check(now).is_err(), "nor who was here just now");
    }

    #[test]
    fn many_threads_share_a_bucket() {
        let (rates, now) = (UserRates::default(), Now::read().mono);
        let passed = AtomicU64::new(0);
        let rate = Rate { burst: 1000, ..RATE };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let ok = rates.gate("ann", rate, now).check(now).is_ok();
                        passed.fetch_add(u64::from(ok), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 1000);
    }
}
