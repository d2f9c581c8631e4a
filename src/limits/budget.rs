//! Pure: what is held in memory for all clients together: parts of messages that are not complete, and frames
//! that their readers have not read. A frame for many is held once.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// Lists of large holders, each with its own lock. Far more than there are workers.
const SHARDS: usize = 16;

/// Bytes for all connections. Each has an equal share of them to itself. When more is held than there is, whoever
/// has most beyond its share has to go, so that who holds little never suffers from those who hold much, not even
/// from those who hold it and wait.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    share: usize,
    held: AtomicUsize,
    /// Bytes of connections that are being closed and are not yet gone.
    going: AtomicUsize,
    /// Those beyond their share. A list is locked when one of them comes or goes, all when one has to go.
    large: [Mutex<Vec<Arc<Large>>>; SHARDS],
    next_shard: AtomicUsize,
}

/// A connection beyond its share.
#[derive(Debug, Default)]
struct Large {
    shard: usize,
    /// Its place in that list.
    place: AtomicUsize,
    bytes: AtomicUsize,
    evicted: AtomicBool,
    /// Its part of [`Budget::going`].
    going: AtomicUsize,
    waker: AtomicWaker,
}

impl Budget {
    /// A budget for up to `connections` of them.
    #[must_use]
    pub fn new(bytes_max: usize, connections: usize) -> Arc<Self> {
        let share = bytes_max / connections.max(1);
        Arc::new(Self {
            bytes_max,
            share,
            held: AtomicUsize::new(0),
            going: AtomicUsize::new(0),
            large: Default::default(),
            next_shard: AtomicUsize::new(0),
        })
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts an encoded frame for as long as anybody holds it.
    #[must_use]
    pub fn frame(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        self.change(0, bytes.len());
        Bytes::from_owner(Frame { budget: self.clone(), bytes })
    }

    fn change(&self, before: usize, after: usize) {
        if after > before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else if after < before {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Vec<Arc<Large>>> {
        let [first, ..] = &self.large;
        self.large.get(shard).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self) -> Arc<Large> {
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut large = self.shard(shard);
        let one = Arc::new(Large { shard, place: AtomicUsize::new(large.len()), ..Large::default() });
        large.push(one.clone());
        one
    }

    /// At the same cost however many there are: when a stalled proxy goes on, all its clients leave at once.
    fn remove(&self, one: &Large) {
        let mut large = self.shard(one.shard);
        self.going.fetch_sub(one.going.load(Ordering::Relaxed), Ordering::Relaxed);
        let place = one.place.load(Ordering::Relaxed);
        if place < large.len() {
            large.swap_remove(place);
        }
        if let Some(moved) = large.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
    }

    /// Whether what stays is too much.
    fn overdrawn(&self) -> bool {
        self.held().saturating_sub(self.going.load(Ordering::Relaxed)) > self.bytes_max
    }

    /// Tells those who have most to go, until what is left fits. Frames that others hold too stay when they go: then
    /// whoever wants more next finds that out.
    fn make_room(&self) {
        let lists: [_; SHARDS] = std::array::from_fn(|shard| self.shard(shard));
        let large: Vec<&Arc<Large>> = lists.iter().flat_map(|list| list.iter()).collect();
        let staying = large.iter().enumerate().filter(|(_, one)| !one.evicted.load(Ordering::Relaxed));
        let mut staying: BinaryHeap<(usize, usize)> =
            staying.map(|(place, one)| (one.bytes.load(Ordering::Relaxed), place)).collect();
        while self.overdrawn() {
            let Some((most, one)) = staying.pop().and_then(|(most, place)| Some((most, large.get(place)?)))
            else {
                return;
            };
            one.going.store(most, Ordering::Relaxed);
            self.going.fetch_add(most, Ordering::Relaxed);
            one.evicted.store(true, Ordering::Relaxed);
            one.waker.wake();
        }
    }
}

struct Frame {
    budget: Arc<Budget>,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.budget.change(self.bytes.len(), 0);
    }
}

/// What one connection holds; given back on drop.
#[derive(Debug)]
pub struct Holding {
    budget: Arc<Budget>,
    own: usize,
    /// Counts shared frames in full.
    all: usize,
    large: Option<Arc<Large>>,
}

impl Holding {
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, own: 0, all: 0, large: None }
    }

    /// The connection now holds `own` bytes, and `frames` bytes of frames that are counted already. Where that is
    /// too much for all together, somebody is evicted, perhaps this one. `true`: it holds more than its share, and
    /// did not before; [`Self::watch`] is due.
    pub fn set(&mut self, own: usize, frames: usize) -> bool {
        let (own_before, all_before) = (self.own, self.all);
        (self.own, self.all) = (own, own + frames);
        if (own, self.all) == (own_before, all_before) {
            return false;
        }
        self.budget.change(own_before, own);
        let is_large = self.all > self.budget.share;
        let new = is_large && self.large.is_none();
        if is_large {
            let large = self.large.get_or_insert_with(|| self.budget.add());
            large.bytes.store(self.all, Ordering::Relaxed);
        } else if let Some(large) = self.large.take() {
            self.budget.remove(&large);
        }
        let evicted = self.large.as_ref().is_some_and(|large| large.evicted.load(Ordering::Relaxed));
        if self.all > all_before && !evicted && self.budget.overdrawn() {
            self.budget.make_room();
        }
        new
    }

    /// Whether the connection has to be closed; while not, `waker` is woken when it has.
    pub fn watch(&self, waker: &Waker) -> bool {
        self.large.as_ref().is_some_and(|large| {
            large.waker.register(waker);
            large.evicted.load(Ordering::Relaxed)
        })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn evicted(holding: &Holding) -> bool {
        holding.watch(Waker::noop())
    }

    fn listed(budget: &Budget) -> usize {
        (0..SHARDS).map(|shard| budget.shard(shard).len()).sum()
    }

    #[test]
    fn who_holds_most_has_to_go() {
        let budget = Budget::new(1000, 10);
        let mut all: Vec<_> = (0..4).map(|_| Holding::new(budget.clone())).collect();
        for (holding, bytes) in all.iter_mut().zip([300, 500, 100, 100]) {
            holding.set(bytes, 0);
        }
        assert_eq!(budget.held(), 1000);
        assert!(!all.iter().any(evicted));
        all[3].set(101, 0);
        assert_eq!(all.iter().map(evicted).collect::<Vec<_>>(), [false, true, false, false]);
        all[2].set(500, 0);
        assert!(!evicted(&all[0]) && !evicted(&all[2]), "there will be room when the one told has gone");
        all[0].set(1000, 0);
        assert!(evicted(&all[0]), "it is the one that wants too much");
        all.truncate(0);
        assert_eq!((budget.held(), listed(&budget)), (0, 0));
    }

    #[test]
    fn who_holds_most_has_to_go_however_long_it_was_quiet() {
        let budget = Budget::new(1000, 10);
        let mut all: Vec<_> = (0..4).map(|_| Holding::new(budget.clone())).collect();
        for (holding, bytes) in all.iter_mut().zip([150, 140, 130]) {
            holding.set(bytes, 0);
        }
        // Room is made for one that keeps to its share, too.
        let _frame = budget.frame(vec![7; 550]);
        all[3].set(100, 0);
        assert_eq!(all.iter().map(evicted).collect::<Vec<_>>(), [true, false, false, false]);
    }

    /// When one event goes to very many stalled readers, few of them may cost what it takes to look at all.
    #[test]
    fn while_those_who_have_to_go_are_going_others_are_not_compared_again() {
        let budget = Budget::new(1000, 10);
        let mut all: Vec<_> = (0..3).map(|_| Holding::new(budget.clone())).collect();
        for (holding, bytes) in all.iter_mut().zip([600, 200, 201]) {
            holding.set(bytes, 0);
        }
        assert_eq!(all.iter().map(evicted).collect::<Vec<_>>(), [true, false, false]);
        let mut other = all.swap_remove(1);
        let locked: Vec<_> = (0..SHARDS).map(|shard| budget.shard(shard)).collect();
        let (done, is_done) = std::sync::mpsc::channel();
        let growing = std::thread::spawn(move || {
            other.set(500, 0);
            done.send(()).unwrap();
            other
        });
        is_done.recv_timeout(std::time::Duration::from_secs(20)).expect("it need not look for anybody");
        drop(locked);
        let other = growing.join().unwrap();
        assert!(!evicted(&other));
        drop((all, other));
        assert_eq!((budget.held(), budget.going.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_frame_is_held_once_and_until_the_last_lets_go() {
        let budget = Budget::new(1000, 10);
        let frame = budget.frame(vec![7; 300]);
        let mut stalled: Vec<_> = (0..10).map(|_| Holding::new(budget.clone())).collect();
        for holding in &mut stalled {
            holding.set(32, frame.len());
        }
        assert_eq!((&*frame, budget.held()), (&[7; 300][..], 620));
        assert!(!stalled.iter().any(evicted), "all of them together hold little");
        drop(stalled);
        let copy = frame.clone();
        drop(frame);
        assert_eq!(budget.held(), 300);
        drop(copy);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn who_waits_is_woken() {
        use std::sync::atomic::AtomicUsize;
        use std::task::Wake;
        #[derive(Default)]
        struct Wakes(AtomicUsize);
        impl Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let budget = Budget::new(1000, 10);
        let (mut squatter, mut other) = (Holding::new(budget.clone()), Holding::new(budget));
        let wakes = Arc::new(Wakes::default());
        assert!(squatter.set(800, 0), "to be watched from now on");
        assert!(!squatter.set(900, 0));
        assert!(!squatter.watch(&wakes.clone().into()));
        other.set(101, 0);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(squatter.watch(&wakes.into()) && !evicted(&other));
    }

    proptest! {
        #[test]
        fn the_count_is_the_sum_and_what_stays_fits(
            steps in prop::collection::vec((0_usize..5, 0_usize..900), 0..100),
        ) {
            let budget = Budget::new(1000, 10);
            let mut bytes = [0_usize; 5];
            {
                let mut holdings: Vec<_> = (0..5).map(|_| Holding::new(budget.clone())).collect();
                for (which, amount) in steps {
                    holdings[which].set(amount, 0);
                    bytes[which] = amount;
                    prop_assert_eq!(budget.held(), bytes.iter().sum::<usize>());
                    let staying = holdings.iter().zip(bytes).filter(|(holding, _)| !evicted(holding));
                    let staying = staying.map(|(_, bytes)| bytes).sum::<usize>();
                    prop_assert!(staying <= 1000, "{}", staying);
                    prop_assert_eq!(listed(&budget), bytes.iter().filter(|bytes| **bytes > 100).count());
                    for (holding, bytes) in holdings.iter_mut().zip(&mut bytes) {
                        if evicted(holding) {
                            prop_assert!(*bytes > 100);
                            holding.set(0, 0);
                            *bytes = 0;
                        }
                    }
                }
            }
            prop_assert_eq!(budget.held(), 0);
            prop_assert_eq!(budget.going.load(Ordering::Relaxed), 0);
            prop_assert_eq!(listed(&budget), 0);
        }
    }
}
