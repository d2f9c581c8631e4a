//! Pure: how many connections at once may hold a key. Futures come from `std` alone, so no runtime is named.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Most holders reported to a newcomer: it probes them all at once, since any of them may be dead.
pub const HOLDERS_SHOWN_MAX: usize = 1024;
/// Newcomers that wait for one key at once, at most; further ones get no [`Waiter`].
pub const WAITERS_PER_KEY_MAX: usize = 64;
/// Each with its own lock. Far more than there are workers.
const SHARDS: usize = 16;

/// What slots are counted over. It reads as the name; a group and a route of one name are two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All routes of the group of this name.
    Group(Arc<str>),
    /// The route of this name, which has no group.
    Route(Arc<str>),
}

impl std::ops::Deref for Scope {
    type Target = str;

    fn deref(&self) -> &str {
        let (Self::Group(name) | Self::Route(name)) = self;
        name
    }
}

/// How many may hold a slot, and what a conflict does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimit {
    /// How many at once; at least 1.
    pub max: usize,
    /// What happens when all are in use.
    pub on_conflict: OnConflict,
    /// How long a probed holder has to answer (default 5 s).
    pub probe_timeout: Duration,
}

/// What happens when all slots are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The holders are pinged at once; one that does not answer is replaced, else the newcomer is rejected.
    Probe,
    /// The newcomer is rejected.
    Refuse,
    /// The oldest holder is closed.
    Replace,
}

/// Slots by key: per key, up to a maximum of permits are out at any time.
///
/// `H` is what a newcomer needs to reach a holder, such as an `Arc` to its connection. Clones share the slots.
pub struct Slots<K: Eq + Hash + Clone, H: Clone> {
    table: Arc<Table<K, H>>,
}

/// The result of [`Slots::acquire`].
#[must_use]
pub enum Acquire<K: Eq + Hash + Clone, H: Clone> {
    /// The slot is held until the permit is dropped.
    Granted(Permit<K, H>),
    /// All slots are in use.
    Full {
        /// Who holds them, the oldest first, at most [`HOLDERS_SHOWN_MAX`] of them.
        holders: Vec<H>,
        /// Resolves once a slot of the key was freed since this answer; then ask again. `None`: already
        /// [`WAITERS_PER_KEY_MAX`] wait for the key.
        waiter: Option<Waiter<K, H>>,
    },
}

impl<K: Eq + Hash + Clone, H: Clone> Slots<K, H> {
    #[must_use]
    pub fn new() -> Self {
        let table = Table {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            last_id: AtomicU64::new(0),
        };
        Self { table: Arc::new(table) }
    }

    /// Acquires one of the `max` slots of `key` for `holder`.
    ///
    /// When none is free, the waiter is registered before the table is unlocked, so no release can fall
    /// between this answer and the waiting.
    pub fn acquire(&self, key: &K, max: usize, holder: H) -> Acquire<K, H> {
        let id = self.table.last_id.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.table.shard(key);
        let taken = shard.get(key).map_or(0, |entry| entry.holders.len());
        if taken < max {
            shard.entry(key.clone()).or_default().holders.push((id, holder));
            return Acquire::Granted(Permit { table: Arc::clone(&self.table), key: key.clone(), id });
        }
        let entry = shard.entry(key.clone()).or_default();
        let holders = entry.holders.iter().take(HOLDERS_SHOWN_MAX).map(|(_, h)| h.clone()).collect();
        let waiter = (entry.waiters.len() < WAITERS_PER_KEY_MAX).then(|| {
            let signal = Arc::new(Mutex::new(Signal::Waiting(None)));
            entry.waiters.push((id, Arc::clone(&signal)));
            Waiter { table: Arc::clone(&self.table), key: key.clone(), id, signal }
        });
        Acquire::Full { holders, waiter }
    }

    /// A slot of `key` for whoever is there already, even beyond what newcomers may have.
    pub fn hold(&self, key: &K, holder: H) -> Permit<K, H> {
        let id = self.table.last_id.fetch_add(1, Ordering::Relaxed);
        self.table.shard(key).entry(key.clone()).or_default().holders.push((id, holder));
        Permit { table: Arc::clone(&self.table), key: key.clone(), id }
    }

    /// Slots of `key` in use.
    #[must_use]
    pub fn len(&self, key: &K) -> usize {
        self.table.shard(key).get(key).map_or(0, |entry| entry.holders.len())
    }

    /// Whether no slot of any key is in use and nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.shards.iter().all(|shard| lock(shard).is_empty())
    }
}

impl<K: Eq + Hash + Clone, H: Clone> Default for Slots<K, H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash + Clone, H: Clone> Clone for Slots<K, H> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

/// A slot that is held. Dropping it frees the slot and wakes everybody who waits for the key.
#[must_use = "dropping the permit frees the slot"]
pub struct Permit<K: Eq + Hash + Clone, H: Clone> {
    table: Arc<Table<K, H>>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash + Clone, H: Clone> Permit<K, H> {
    /// What it is a slot of.
    pub const fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash + Clone, H: Clone> Drop for Permit<K, H> {
    fn drop(&mut self) {
        let mut shard = self.table.shard(&self.key);
        let Some(entry) = shard.get_mut(&self.key) else { return };
        let place = entry.holders.iter().position(|(id, _)| *id == self.id);
        let holder = place.map(|place| entry.holders.remove(place));
        let waiters = std::mem::take(&mut entry.waiters);
        if entry.holders.is_empty() {
            shard.remove(&self.key);
        }
        // A holder's drop and a waker may do anything, even ask for slots.
        drop(shard);
        drop(holder);
        for (_, signal) in waiters {
            free(&signal);
        }
    }
}

fn free(signal: &Mutex<Signal>) {
    let before = std::mem::replace(&mut *lock(signal), Signal::Freed);
    if let Signal::Waiting(Some(waker)) = before {
        waker.wake();
    }
}

/// Resolves once a slot of its key was freed. All waiters of a key are woken by one release, and whoever
/// asks first gets it. May be polled again after it resolved. Dropping it ends the waiting.
pub struct Waiter<K: Eq + Hash + Clone, H: Clone> {
    table: Arc<Table<K, H>>,
    key: K,
    id: u64,
    signal: Arc<Mutex<Signal>>,
}

enum Signal {
    Waiting(Option<Waker>),
    Freed,
}

impl<K: Eq + Hash + Clone, H: Clone> Future for Waiter<K, H> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *lock(&self.signal) {
            Signal::Freed => Poll::Ready(()),
            Signal::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl<K: Eq + Hash + Clone, H: Clone> Drop for Waiter<K, H> {
    fn drop(&mut self) {
        let mut shard = self.table.shard(&self.key);
        let Some(entry) = shard.get_mut(&self.key) else { return };
        entry.waiters.retain(|(id, _)| *id != self.id);
        if entry.holders.is_empty() && entry.waiters.is_empty() {
            shard.remove(&self.key);
        }
    }
}

// A waiter is not self-referential, whatever its key is.
impl<K: Eq + Hash + Clone, H: Clone> Unpin for Waiter<K, H> {}

struct Table<K, H> {
    hasher: RandomState,
    shards: [Shard<K, H>; SHARDS],
    last_id: AtomicU64,
}

type Shard<K, H> = Mutex<HashMap<K, Entry<H>>>;

struct Entry<H> {
    /// The oldest first.
    holders: Vec<(u64, H)>,
    waiters: Vec<(u64, Arc<Mutex<Signal>>)>,
}

impl<H> Default for Entry<H> {
    fn default() -> Self {
        Self { holders: Vec::new(), waiters: Vec::new() }
    }
}

impl<K: Eq + Hash + Clone, H> Table<K, H> {
    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, Entry<H>>> {
        let [first, ..] = &self.shards;
        let place = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        lock(self.shards.get(place).unwrap_or(first))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Keys and holders name users and addresses: none of them is shown.

impl<K: Eq + Hash + Clone, H: Clone> fmt::Debug for Slots<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slots")
    }
}

impl<K: Eq + Hash + Clone, H: Clone> fmt::Debug for Permit<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.id)
    }
}

impl<K: Eq + Hash + Clone, H: Clone> fmt::Debug for Waiter<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiter({})", self.id)
    }
}

impl<K: Eq + Hash + Clone, H: Clone> fmt::Debug for Acquire<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(permit) => write!(f, "Granted({permit:?})"),
            Self::Full { holders, waiter } => write!(f, "Full({} holders, {waiter:?})", holders.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    impl<K: Eq + Hash + Clone, H: Clone> Acquire<K, H> {
        fn granted(self) -> Permit<K, H> {
            match self {
                Self::Granted(permit) => permit,
                full @ Self::Full { .. } => panic!("{full:?}"),
            }
        }

        fn full(self) -> (Vec<H>, Option<Waiter<K, H>>) {
            match self {
                Self::Full { holders, waiter } => (holders, waiter),
                granted @ Self::Granted(_) => panic!("{granted:?}"),
            }
        }
    }

    #[test]
    fn who_is_there_holds_even_beyond_the_maximum_and_counts() {
        let slots = Slots::new();
        let key = "k".to_owned();
        let first = slots.acquire(&key, 1, 1).granted();
        let second = slots.hold(&key, 2);
        assert_eq!((slots.len(&key), second.key()), (2, &key));
        drop(first);
        assert_eq!(slots.acquire(&key, 1, 3).full().0, [2]);
        drop(second);
        assert!(slots.is_empty());
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn is_ready<K: Eq + Hash + Clone, H: Clone>(waiter: &mut Waiter<K, H>, wakes: &Arc<Wakes>) -> bool {
        let waker = Waker::from(Arc::clone(wakes));
        Pin::new(waiter).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn holders_are_shown_oldest_first_and_bounded() {
        const MAX: usize = HOLDERS_SHOWN_MAX + 4;
        let slots: Slots<&str, usize> = Slots::new();
        let mut permits: Vec<_> = (0..MAX).map(|n| slots.acquire(&"k", MAX, n).granted()).collect();
        let (holders, _) = slots.acquire(&"k", MAX, 9999).full();
        assert_eq!(holders, (0..HOLDERS_SHOWN_MAX).collect::<Vec<_>>());
        drop(permits.remove(0));
        permits.push(slots.acquire(&"k", MAX, MAX).granted());
        assert_eq!(slots.acquire(&"k", MAX, 9999).full().0, (1..=HOLDERS_SHOWN_MAX).collect::<Vec<_>>());
        assert_eq!(slots.len(&"k"), MAX);
        let other = slots.acquire(&"other", 1, 0).granted();
        drop(permits);
        assert_eq!((slots.len(&"k"), slots.len(&"other")), (0, 1));
        drop(other);
        assert!(slots.is_empty());
    }

    #[test]
    fn a_release_wakes_all_waiters_of_its_key_only() {
        let slots: Slots<&str, ()> = Slots::new();
        let (permit, other) =
            (slots.acquire(&"k", 1, ()).granted(), slots.acquire(&"other", 1, ()).granted());
        let wakes = Arc::new(Wakes::default());
        let mut waiters: Vec<_> = (0..3).map(|_| slots.acquire(&"k", 1, ()).full().1.unwrap()).collect();
        let mut elsewhere = slots.acquire(&"other", 1, ()).full().1.unwrap();
        assert!(waiters.iter_mut().all(|waiter| !is_ready(waiter, &wakes)));
        assert!(!is_ready(&mut elsewhere, &wakes));
        waiters.pop();
        drop(permit);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2, "the dropped waiter is not woken");
        assert!(waiters.iter_mut().all(|waiter| is_ready(waiter, &wakes)));
        assert!(!is_ready(&mut elsewhere, &wakes));
        drop((waiters, elsewhere, other));
        assert!(slots.is_empty());
    }

    #[test]
    fn a_release_before_the_first_poll_is_not_lost() {
        let slots: Slots<&str, ()> = Slots::new();
        let permit = slots.acquire(&"k", 1, ()).granted();
        let mut waiter = slots.acquire(&"k", 1, ()).full().1.unwrap();
        drop(permit);
        assert!(is_ready(&mut waiter, &Arc::default()));
        assert!(is_ready(&mut waiter, &Arc::default()), "and stays ready");
    }

    #[test]
    fn waiters_are_bounded() {
        let slots: Slots<&str, ()> = Slots::new();
        let _permit = slots.acquire(&"k", 1, ()).granted();
        let waiters: Vec<_> =
            (0..WAITERS_PER_KEY_MAX).map(|_| slots.acquire(&"k", 1, ()).full().1.unwrap()).collect();
        assert!(slots.acquire(&"k", 1, ()).full().1.is_none());
        drop(waiters);
        assert!(slots.acquire(&"k", 1, ()).full().1.is_some());
    }

    #[test]
    fn a_holder_that_asks_for_slots_when_dropped_does_not_deadlock() {
        #[derive(Clone)]
        struct Nosy(Slots<u8, Option<Arc<Nosy>>>);
        impl Drop for Nosy {
            fn drop(&mut self) {
                assert_eq!(self.0.len(&1), 0);
            }
        }
        let slots = Slots::new();
        let holder = Some(Arc::new(Nosy(slots.clone())));
        drop(slots.acquire(&1, 1, holder).granted());
        assert!(slots.is_empty());
    }

    /// Wakes the thread that polls, as a runtime would.
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Threads that fight for two slots and wait only for being woken: one lost wake-up and this hangs.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        let slots: Slots<u8, usize> = Slots::new();
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for id in 0..8 {
                let (slots, inside) = (&slots, &inside);
                scope.spawn(move || {
                    let waker = Waker::from(Arc::new(Unpark(thread::current())));
                    for _ in 0..500 {
                        let permit = loop {
                            match slots.acquire(&7, 2, id) {
                                Acquire::Granted(permit) => break permit,
                                Acquire::Full { waiter, .. } => {
                                    let mut waiter = waiter.unwrap();
                                    let mut cx = Context::from_waker(&waker);
                                    while Pin::new(&mut waiter).poll(&mut cx).is_pending() {
                                        thread::park();
                                    }
                                }
                            }
                        };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(slots.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Acquire(u8),
        DropPermit(usize),
        DropWaiter(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u8..4).prop_map(Step::Acquire),
            2 => (0_usize..8).prop_map(Step::DropPermit),
            1 => (0_usize..8).prop_map(Step::DropWaiter),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_its_model(max in 1_usize..4, steps in prop::collection::vec(step(), 1..200)) {
            let slots: Slots<u8, usize> = Slots::new();
            let mut permits: Vec<(u8, usize, Permit<u8, usize>)> = Vec::new();
            // With each waiter, whether a slot of its key was freed since.
            let mut waiters: Vec<(u8, bool, Waiter<u8, usize>)> = Vec::new();
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Acquire(key) => {
                        let held: Vec<usize> =
                            permits.iter().filter(|(k, ..)| *k == key).map(|(_, id, _)| *id).collect();
                        match slots.acquire(&key, max, id) {
                            Acquire::Granted(permit) => {
                                prop_assert!(held.len() < max);
                                permits.push((key, id, permit));
                            }
                            Acquire::Full { holders, waiter } => {
                                prop_assert_eq!(&holders, &held);
                                prop_assert_eq!(held.len(), max);
                                if let Some(waiter) = waiter {
                                    waiters.push((key, false, waiter));
                                }
                            }
                        }
                    }
                    Step::DropPermit(place) if place < permits.len() => {
                        let (key, ..) = permits.remove(place);
                        waiters.iter_mut().filter(|(k, ..)| *k == key).for_each(|(_, freed, _)| *freed = true);
                    }
                    Step::DropWaiter(place) if place < waiters.len() => drop(waiters.remove(place)),
                    Step::DropPermit(_) | Step::DropWaiter(_) => {}
                }
                for (_, freed, waiter) in &mut waiters {
                    prop_assert_eq!(is_ready(waiter, &Arc::default()), *freed);
                }
                for key in 0..4 {
                    let held = permits.iter().filter(|(k, ..)| *k == key).count();
                    prop_assert_eq!(slots.len(&key), held);
                }
            }
            drop((permits, waiters));
            prop_assert!(slots.is_empty());
        }
    }
}
