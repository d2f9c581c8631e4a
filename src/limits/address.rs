//! Pure: wrong tokens per client address, over all its connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;

use super::rate::{CallersClock, quota};
use crate::config::Rate;

/// Addresses that have a bucket of their own, at most: some 8 MiB. An address leaves when its bucket is full
/// again (see [`AddressGate::upkeep`]), so only this many within that time share the one that is left.
pub const ADDRESSES_MAX: usize = 100_000;

/// A bucket per client address; IPv6 is counted by /64, which is what one customer has.
pub struct AddressGate {
    limiter: Limiter,
    peek: Limiter<Peek>,
    start: Instant,
}

type Limiter<S = Store> = RateLimiter<AddressKey, S, CallersClock, NoOpMiddleware<Nanos>>;

impl AddressGate {
    /// Full buckets of `rate` for up to [`ADDRESSES_MAX`] addresses.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self::with_addresses_max(rate, now, ADDRESSES_MAX)
    }

    fn with_addresses_max(rate: Rate, now: Instant, addresses_max: usize) -> Self {
        let store = Store { addresses_max, tables: Arc::new(Mutex::new(Tables::default())) };
        let peek = Peek(store.clone());
        Self {
            limiter: RateLimiter::new(quota(rate), store, CallersClock::default()),
            peek: RateLimiter::new(quota(rate), peek, CallersClock::default()),
            start: now,
        }
    }

    /// Counts one wrong token from `address`.
    ///
    /// # Errors
    /// There were too many already; how long until one more is borne.
    pub fn record_failure(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        Self::ask(&self.limiter, address, now, self.start)
    }

    /// Whether a wrong token from `address` would be borne, without counting one: asked before a token is looked
    /// at.
    ///
    /// # Errors
    /// It would not; how long until it is.
    pub fn check(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        Self::ask(&self.peek, address, now, self.start)
    }

    /// Forgets the addresses whose buckets are full again. To be called by a timer, once a minute or so.
    pub fn upkeep(&self, now: Instant) {
        self.limiter.clock().advance(now.saturating_duration_since(self.start));
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    /// Addresses remembered now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.limiter.len()
    }

    /// Whether no address is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn ask<S: StateStore<Key = AddressKey>>(
        limiter: &Limiter<S>,
        address: IpAddr,
        now: Instant,
        start: Instant,
    ) -> Result<(), Duration> {
        let at = limiter.clock().advance(now.saturating_duration_since(start));
        limiter.check_key(&AddressKey::new(address)).map_err(|refused| refused.wait_time_from(at))
    }
}

impl std::fmt::Debug for AddressGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AddressGate({} addresses)", self.len())
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, which is what one customer has.
#[must_use]
pub fn one_client(address: IpAddr) -> IpAddr {
    AddressKey::new(address).0
}

/// An IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AddressKey(IpAddr);

impl AddressKey {
    fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// governor's state per address, bounded, which its own stores are not. One lock suffices: it is taken for a
/// token only, never for a message.
#[derive(Clone, Debug)]
struct Store {
    addresses_max: usize,
    tables: Arc<Mutex<Tables>>,
}

/// Theoretical arrival times (GCRA), as governor counts them.
#[derive(Debug, Default)]
struct Tables {
    by_address: HashMap<AddressKey, Nanos>,
    /// Of all addresses that found `by_address` full.
    overflow: Option<Nanos>,
}

impl Store {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn get(&self, key: AddressKey, addresses_max: usize) -> Option<Nanos> {
        match self.by_address.get(&key) {
            None if self.by_address.len() >= addresses_max => self.overflow,
            found => found.copied(),
        }
    }

    fn set(&mut self, key: AddressKey, addresses_max: usize, value: Nanos) {
        if self.by_address.len() >= addresses_max && !self.by_address.contains_key(&key) {
            self.overflow = Some(value);
        } else {
            self.by_address.insert(key, value);
        }
    }
}

impl StateStore for Store {
    type Key = AddressKey;

    fn measure_and_replace<T, F, E>(&self, key: &AddressKey, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut tables = self.tables();
        let (outcome, next) = f(tables.get(*key, self.addresses_max))?;
        tables.set(*key, self.addresses_max, next);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<AddressKey> for Store {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut tables = self.tables();
        tables.by_address.retain(|_, arrival| *arrival > drop_below);
        tables.overflow = tables.overflow.filter(|arrival| *arrival > drop_below);
    }

    fn shrink_to_fit(&self) {
        self.tables().by_address.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.tables().by_address.len()
    }

    fn is_empty(&self) -> bool {
        self.tables().by_address.is_empty()
    }
}

/// The same state, measured and not replaced.
struct Peek(Store);

impl StateStore for Peek {
    type Key = AddressKey;

    fn measure_and_replace<T, F, E>(&self, key: &AddressKey, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let state = self.0.tables().get(*key, self.0.addresses_max);
        f(state).map(|(outcome, _)| outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;

    const RATE: Rate = Rate { count: 20, per: Duration::from_secs(60), burst: 2 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_refused_alone() {
        let now = Now::read().mono;
        let gate = AddressGate::new(RATE, now);
        assert_eq!(gate.record_failure(ip("192.0.2.1"), now), Ok(()));
        assert_eq!(gate.check(ip("192.0.2.1"), now), Ok(()));
        assert_eq!(gate.check(ip("192.0.2.1"), now), Ok(()), "asking counts nothing");
        assert_eq!(gate.record_failure(ip("192.0.2.1"), now), Ok(()));
        assert_eq!(gate.check(ip("192.0.2.1"), now), Err(Duration::from_secs(3)));
        assert_eq!(gate.record_failure(ip("::ffff:192.0.2.1"), now), Err(Duration::from_secs(3)));
        assert_eq!(gate.record_failure(ip("192.0.2.2"), now), Ok(()));
        let later = now + Duration::from_secs(3);
        assert_eq!(gate.check(ip("192.0.2.1"), later), Ok(()));
        assert_eq!(gate.record_failure(ip("192.0.2.1"), later), Ok(()));
    }

    #[test]
    fn one_client_is_an_address_or_a_64() {
        assert_eq!(one_client(ip("192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(one_client(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(one_client(ip("2001:db8:0:1:ffff::2")), ip("2001:db8:0:1::"));
    }

    #[test]
    fn ipv6_is_counted_by_64_bits() {
        let now = Now::read().mono;
        let gate = AddressGate::new(RATE, now);
        for host in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
            assert_eq!(gate.record_failure(ip(host), now), Ok(()));
        }
        assert!(gate.record_failure(ip("2001:db8:0:1:1:2:3:4"), now).is_err());
        assert_eq!(gate.record_failure(ip("2001:db8:0:2::1"), now), Ok(()));
        assert_eq!(gate.len(), 2);
    }

    #[test]
    fn upkeep_forgets_full_buckets_only() {
        let now = Now::read().mono;
        let gate = AddressGate::new(RATE, now);
        gate.record_failure(ip("192.0.2.1"), now).unwrap();
        let later = now + Duration::from_secs(60);
        gate.record_failure(ip("192.0.2.2"), later).unwrap();
        gate.record_failure(ip("192.0.2.2"), later).unwrap();
        gate.upkeep(later);
        assert_eq!(gate.len(), 1);
        assert!(gate.record_failure(ip("192.0.2.2"), later).is_err(), "its bucket is still empty");
        gate.upkeep(later + Duration::from_secs(60));
        assert!(gate.is_empty());
    }

    #[test]
    fn a_full_table_leaves_one_bucket_for_the_rest() {
        let now = Now::read().mono;
        let gate = AddressGate::with_addresses_max(RATE, now, 2);
        for host in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
            assert_eq!(gate.record_failure(ip(host), now), Ok(()), "{host}");
        }
        assert_eq!(gate.len(), 2);
        assert!(gate.record_failure(ip("192.0.2.5"), now).is_err(), "shares the bucket of .3 and .4");
        assert!(gate.check(ip("192.0.2.6"), now).is_err());
        assert_eq!(gate.record_failure(ip("192.0.2.1"), now), Ok(()), "has a bucket of its own");
        let later = now + Duration::from_secs(60);
        gate.upkeep(later);
        assert_eq!(gate.record_failure(ip("192.0.2.5"), later), Ok(()));
        assert_eq!(gate.len(), 1);
    }
}
