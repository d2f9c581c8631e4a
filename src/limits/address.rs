//! Pure: wrong tokens per client address, over all its connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;

use super::rate::{CallersClock, quota};
use crate::limits::rate::Rate;

/// Addresses that have a bucket of their own, at most: some 8 MiB. An address leaves when its bucket is full
/// again (see [`AddressGate::upkeep`]), so only this many within that time share the one that is left.
pub const ADDRESSES_MAX: usize = 100_000;

/// A bucket per client address, as [`one_client`] counts them.
pub struct AddressGate {
    limiter: Limiter,
    peek: Limiter<Peek>,
    start: Instant,
    ipv6_prefix: u8,
}

type Limiter<S = Store> = RateLimiter<AddressKey, S, CallersClock, NoOpMiddleware<Nanos>>;

impl AddressGate {
    /// Full buckets of `rate` for up to [`ADDRESSES_MAX`] addresses.
    #[must_use]
    pub fn new(rate: Rate, ipv6_prefix: u8, now: Instant) -> Self {
        Self::with_addresses_max(rate, ipv6_prefix, now, ADDRESSES_MAX)
    }

    fn with_addresses_max(rate: Rate, ipv6_prefix: u8, now: Instant, addresses_max: usize) -> Self {
        let store = Store { addresses_max, tables: Arc::new(Mutex::new(Tables::default())) };
        let peek = Peek(store.clone());
        Self {
            limiter: RateLimiter::new(quota(rate), store, CallersClock::default()),
            peek: RateLimiter::new(quota(rate), peek, CallersClock::default()),
            start: now,
            ipv6_prefix,
        }
    }

    /// Counts one wrong token from `address`.
    ///
    /// # Errors
    /// There were too many already; how long until one more is allowed.
    pub fn record_failure(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        Self::ask(&self.limiter, self.key(address), now, self.start)
    }

    /// Whether a wrong token from `address` would be allowed, without counting one: checked before a token is verified.
    ///
    /// # Errors
    /// It would not; how long until it would.
    pub fn check(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        Self::ask(&self.peek, self.key(address), now, self.start)
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

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(&self, address: IpAddr) -> AddressKey {
        AddressKey(one_client(address, self.ipv6_prefix))
    }

    fn ask<S: StateStore<Key = AddressKey>>(
        limiter: &Limiter<S>,
        key: AddressKey,
        now: Instant,
        start: Instant,
    ) -> Result<(), Duration> {
        let at = limiter.clock().advance(now.saturating_duration_since(start));
        limiter.check_key(&key).map_err(|refused| refused.wait_time_from(at))
    }
}

impl std::fmt::Debug for AddressGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AddressGate({} addresses)", self.len())
    }
}

/// The prefix under which NAT64 and stateless translators put IPv4 clients (RFC 6052 §2.1).
const NAT64: u128 = 0x0064_ff9b << 96;

/// What counts as one client: an IPv4 address, or the first `ipv6_prefix` bits of an IPv6 address, which are what one
/// customer has: /64 in most networks, /56 or /48 in others. An IPv6 address that stands for an IPv4 one (mapped, or
/// 64:ff9b::/96) counts as that: all of them have the same first 96 bits.
#[must_use]
pub fn one_client(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    let address = ipv4_within(address);
    let IpAddr::V6(v6) = address else { return address };
    let bits = v6.to_bits();
    let host_bits = 128_u32.saturating_sub(ipv6_prefix.into());
    Ipv6Addr::from_bits(bits.checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0)).into()
}

/// The IPv4 address that an IPv6 address stands for (mapped, or 64:ff9b::/96); else the address itself.
#[must_use]
pub fn ipv4_within(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.to_bits() >> 32 == NAT64 >> 32 => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        canonical => canonical,
    }
}

/// One client's address, see [`one_client`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AddressKey(IpAddr);

/// governor's state per address, bounded, which its own stores are not. One lock suffices: it is locked for
/// tokens only, never for a message.
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
        let gate = AddressGate::new(RATE, 64, now);
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
    fn one_client_is_an_address_or_a_prefix() {
        for (address, prefix, client) in [
            ("192.0.2.1", 64, "192.0.2.1"),
            ("::ffff:192.0.2.1", 64, "192.0.2.1"),
            ("2001:db8:0:1:ffff::2", 64, "2001:db8:0:1::"),
            ("2001:db8:0:1ff:ffff::2", 56, "2001:db8:0:100::"),
            ("2001:db8:1:1ff:ffff::2", 48, "2001:db8:1::"),
            ("2001:db8::1", 128, "2001:db8::1"),
            ("2001:db8::1", 32, "2001:db8::"),
            ("64:ff9b::192.0.2.1", 64, "192.0.2.1"),
            ("64:ff9b::192.0.2.1", 48, "192.0.2.1"),
            ("64:ff9b:0:0:0:1:c000:201", 64, "64:ff9b::"),
            ("64:ff9b:1::192.0.2.1", 64, "64:ff9b:1::"),
        ] {
            assert_eq!(one_client(ip(address), prefix), ip(client), "{address} /{prefix}");
        }
    }

    #[test]
    fn translated_clients_have_a_bucket_each() {
        let now = Now::read().mono;
        let gate = AddressGate::new(RATE, 64, now);
        for _ in 0..3 {
            let _ = gate.record_failure(ip("64:ff9b::192.0.2.1"), now);
        }
        assert!(gate.check(ip("192.0.2.1"), now).is_err(), "the same client, untranslated");
        assert_eq!(gate.check(ip("64:ff9b::192.0.2.2"), now), Ok(()));
        let wide = AddressGate::new(RATE, 48, now);
        for subnet in 0..3 {
            let _ = wide.record_failure(ip(&format!("2001:db8:0:{subnet}::1")), now);
        }
        assert!(wide.check(ip("2001:db8:0:9::1"), now).is_err(), "one customer's /48");
    }

    #[test]
    fn ipv6_is_counted_by_64_bits() {
        let now = Now::read().mono;
        let gate = AddressGate::new(RATE, 64, now);
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
        let gate = AddressGate::new(RATE, 64, now);
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
        let gate = AddressGate::with_addresses_max(RATE, 64, now, 2);
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
