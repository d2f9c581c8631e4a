//! Pure: connections whose request is not over, by client address, and which of them makes room when all
//! connections are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::one_client;

/// An address with fewer unfinished requests than this never has to make room.
pub const CROWD_MIN: usize = 16;

/// Unfinished requests. `H` is a handle that can end one.
///
/// Each address could hold as many connections as there are, for as long as a request may take. So a newcomer, when
/// nothing is free, takes the place of the oldest request of the address that has most, if that is far more than
/// its own address has.
#[derive(Debug)]
pub struct Handshakes<H> {
    // Taken twice per connection, never for a message.
    table: Mutex<Table<H>>,
    ipv6_prefix: u8,
}

#[derive(Debug)]
struct Table<H> {
    last_id: u64,
    /// The oldest of an address first.
    open: BTreeMap<(IpAddr, u64), H>,
    counts: BTreeMap<IpAddr, usize>,
    /// The same, the largest last.
    by_count: BTreeSet<(usize, IpAddr)>,
}

impl<H> Handshakes<H> {
    /// None is open. Clients are counted as by [`one_client`].
    #[must_use]
    pub fn new(ipv6_prefix: u8) -> Arc<Self> {
        let table =
            Table { last_id: 0, open: BTreeMap::new(), counts: BTreeMap::new(), by_count: BTreeSet::new() };
        Arc::new(Self { table: Mutex::new(table), ipv6_prefix })
    }

    /// Notes a request that is awaited from `peer`, until the answer is dropped.
    pub fn open(self: &Arc<Self>, peer: IpAddr, holder: H) -> Handshake<H> {
        let address = one_client(peer, self.ipv6_prefix);
        let mut table = self.table();
        table.last_id += 1;
        let id = table.last_id;
        table.open.insert((address, id), holder);
        table.recount(address, |count| count + 1);
        Handshake { table: self.clone(), address, id }
    }

    /// The request that must make room for a newcomer from `peer`. It is removed here; the caller must end it.
    #[must_use]
    pub fn make_room(&self, peer: IpAddr) -> Option<H> {
        let mut table = self.table();
        let own = table.counts.get(&one_client(peer, self.ipv6_prefix)).copied().unwrap_or(0);
        let &(most, address) = table.by_count.last()?;
        if most < own.saturating_add(CROWD_MIN) {
            return None;
        }
        let (&oldest, _) = table.open.range((address, 0)..).next()?;
        let holder = table.open.remove(&oldest);
        table.recount(address, |count| count - 1);
        holder
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.table().open.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, Table<H>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> Table<H> {
    fn recount(&mut self, address: IpAddr, change: impl FnOnce(usize) -> usize) {
        let before = self.counts.remove(&address).unwrap_or(0);
        self.by_count.remove(&(before, address));
        let after = change(before);
        if after > 0 {
            self.counts.insert(address, after);
            self.by_count.insert((after, address));
        }
    }
}

/// One unfinished request, noted until this is dropped.
#[must_use = "dropping it ends what it notes"]
#[derive(Debug)]
pub struct Handshake<H> {
    table: Arc<Handshakes<H>>,
    address: IpAddr,
    id: u64,
}

impl<H> Drop for Handshake<H> {
    fn drop(&mut self) {
        let mut table = self.table.table();
        // Unless it made room.
        if table.open.remove(&(self.address, self.id)).is_some() {
            table.recount(self.address, |count| count - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn ip(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    fn open(
        table: &Arc<Handshakes<usize>>,
        peer: IpAddr,
        holders: std::ops::Range<usize>,
    ) -> Vec<Handshake<usize>> {
        holders.map(|holder| table.open(peer, holder)).collect()
    }

    #[test]
    fn the_oldest_of_the_largest_crowd_makes_room() {
        let table = Handshakes::new(64);
        let mut crowd = open(&table, ip(1), 0..20);
        let _smaller = open(&table, ip(2), 100..119);
        assert_eq!(table.make_room(ip(3)), Some(0));
        assert_eq!(table.make_room(ip(3)), Some(100), "now this address has as many, and is the later one");
        assert_eq!(table.make_room(ip(3)), Some(1));
        crowd.truncate(10);
        assert_eq!(table.make_room(ip(3)), Some(101));
        assert_eq!(table.len(), 8 + 17);
    }

    #[test]
    fn nobody_makes_room_for_a_crowd_like_their_own() {
        let table = Handshakes::new(64);
        let mut crowd = open(&table, ip(1), 0..CROWD_MIN - 1);
        assert_eq!(table.make_room(ip(2)), None, "too few to be a crowd");
        crowd.extend(open(&table, ip(1), 50..52));
        assert_eq!(table.make_room(ip(1)), None);
        let _own = open(&table, ip(2), 100..102);
        assert_eq!(table.make_room(ip(2)), None);
        assert_eq!(table.make_room("::ffff:192.0.2.3".parse().unwrap()), Some(0));
        assert_eq!(table.make_room(ip(3)), Some(1));
        assert_eq!(table.make_room(ip(3)), None);
    }

    #[test]
    fn an_ipv6_64_is_one_crowd() {
        let table = Handshakes::new(64);
        let host = |n: usize| format!("2001:db8:0:1::{n:x}").parse().unwrap();
        let _crowd: Vec<_> = (0..CROWD_MIN).map(|n| table.open(host(n), n)).collect();
        assert_eq!(table.make_room(host(9999)), None);
        assert_eq!(table.make_room("2001:db8:0:2::1".parse().unwrap()), Some(0));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let table = Handshakes::new(64);
        let crowd = open(&table, ip(1), 0..40);
        assert_eq!(table.make_room(ip(2)), Some(0));
        drop(crowd);
        assert!(table.is_empty());
        assert_eq!(table.make_room(ip(2)), None);
        let inner = table.table();
        assert!(inner.counts.is_empty() && inner.by_count.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(u8),
        Drop(usize),
        MakeRoom(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u8..3).prop_map(Step::Open),
            1 => (0_usize..99).prop_map(Step::Drop),
            2 => (0_u8..4).prop_map(Step::MakeRoom),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_its_model(steps in prop::collection::vec(step(), 1..300)) {
            let table = Handshakes::new(64);
            let mut open: Vec<(u8, usize, Handshake<usize>)> = Vec::new();
            let mut evicted: Vec<Handshake<usize>> = Vec::new();
            for (id, step) in steps.into_iter().enumerate() {
                let count = |open: &Vec<(u8, usize, _)>, n: u8| open.iter().filter(|(of, ..)| *of == n).count();
                match step {
                    Step::Open(n) => open.push((n, id, table.open(ip(n), id))),
                    Step::Drop(at) if !open.is_empty() => drop(open.remove(at % open.len())),
                    Step::Drop(_) => drop(evicted.pop()),
                    Step::MakeRoom(n) => {
                        let (most, of) = (0..3).map(|of| (count(&open, of), of)).max().unwrap();
                        let expected = (most >= count(&open, n) + CROWD_MIN)
                            .then(|| open.iter().position(|(one, ..)| *one == of).unwrap());
                        let chosen = table.make_room(ip(n));
                        prop_assert_eq!(chosen, expected.map(|at| open[at].1));
                        if let Some(at) = expected {
                            evicted.push(open.remove(at).2);
                        }
                    }
                }
                prop_assert_eq!(table.len(), open.len());
            }
        }
    }
}
