//! Pure: which worker accepts. One does at a time, until it has more connections than another, or has accepted many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of the connections that the worker with fewest has, another may have one more for each so many: passing a turn on
/// wakes a thread, and among many connections a few do not matter.
const SHARE: usize = 16;
/// The largest difference: whoever accepts all of a herd serves it alone meanwhile.
const DIFFERENCE_MAX: usize = 32;
/// Connections of one turn where the workers are even: those that do not stay are work too.
const TURN_MAX: usize = 32;

/// How many connections each worker has.
#[derive(Debug)]
pub struct Loads(Box<[Arc<AtomicUsize>]>);

impl Loads {
    /// None has any.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// Counts a connection of `worker`, until the answer is dropped.
    pub fn add(&self, worker: usize) -> Load {
        let count = self.0.get(worker).cloned().unwrap_or_default();
        count.fetch_add(1, Ordering::Relaxed);
        Load(count)
    }

    /// Whose turn it is when `worker` has accepted so many in its own; `None`: still its own.
    #[must_use]
    pub fn next(&self, worker: usize, accepted: usize) -> Option<usize> {
        let load = |count: &Arc<AtomicUsize>| count.load(Ordering::Relaxed);
        let own = self.0.get(worker).map(load)?;
        // From the next one on, so that equals come in turn.
        let others = (1..self.0.len()).map(|distance| (worker + distance) % self.0.len());
        let (other, least) = others
            .filter_map(|other| Some((other, load(self.0.get(other)?))))
            .min_by_key(|(_, load)| *load)?;
        let uneven = own > least + (least / SHARE).min(DIFFERENCE_MAX);
        (uneven || accepted >= TURN_MAX && own >= least).then_some(other)
    }
}

/// A connection's share of its worker's load, given back on drop.
#[must_use = "dropping it gives it back"]
#[derive(Debug)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    /// One more of the same worker.
    pub fn another(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `workers` have after `connections` have come one after the other, and how often a turn was passed on.
    fn after(workers: usize, connections: usize) -> (Vec<usize>, usize) {
        let loads = Loads::new(workers);
        let (mut turn, mut accepted, mut passed) = (0, 0, 0);
        let _open: Vec<Load> = (0..connections)
            .map(|_| {
                let load = loads.add(turn);
                accepted += 1;
                if let Some(next) = loads.next(turn, accepted) {
                    (turn, accepted) = (next, 0);
                    passed += 1;
                }
                load
            })
            .collect();
        (loads.0.iter().map(|count| count.load(Ordering::Relaxed)).collect(), passed)
    }

    #[test]
    fn a_few_connections_are_dealt_out_one_by_one() {
        assert_eq!(after(4, 4).0, [1, 1, 1, 1]);
        assert_eq!(after(4, 6).0, [2, 1, 1, 2]);
        assert_eq!(after(2, 3).0.iter().sum::<usize>(), 3);
    }

    #[test]
    fn among_many_turns_are_passed_on_seldom() {
        let (loads, passed) = after(2, 10_000);
        assert!(loads.iter().all(|load| (4_950..=5_050).contains(load)), "{loads:?}");
        assert!(passed < 600, "{passed}");
    }

    #[test]
    fn one_worker_has_every_turn() {
        assert_eq!(after(1, 100), (vec![100], 0));
        assert_eq!(Loads::new(0).next(0, 1), None);
    }

    #[test]
    fn a_worker_whose_connections_have_gone_is_next() {
        let loads = Loads::new(3);
        let mut open: Vec<Vec<Load>> =
            (0..3).map(|worker| (0..40).map(|_| loads.add(worker)).collect()).collect();
        assert_eq!(loads.next(0, 1), None);
        open[2].truncate(10);
        assert_eq!(loads.next(0, 1), Some(2));
        drop(open);
        assert_eq!(loads.next(0, 1), None);
    }

    #[test]
    fn those_that_do_not_stay_are_shared_too() {
        let loads = Loads::new(3);
        let (mut turn, mut accepted, mut served) = (0, 0, [0; 3]);
        for _ in 0..9_000 {
            served[turn] += 1;
            accepted += 1;
            drop(loads.add(turn));
            if let Some(next) = loads.next(turn, accepted) {
                (turn, accepted) = (next, 0);
            }
        }
        assert!(served.iter().all(|served| (2_900..=3_100).contains(served)), "{served:?}");
        // But whoever has fewest goes on until it no longer has.
        let _busy: Vec<Load> =
            [1, 2].into_iter().flat_map(|w| (0..100).map(move |_| w)).map(|w| loads.add(w)).collect();
        assert_eq!(loads.next(0, 1_000), None);
    }

    proptest! {
        #[test]
        fn loads_stay_even(workers in 1..9_usize, connections in 0..3_000_usize) {
            let (loads, _) = after(workers, connections);
            let (least, most) = (*loads.iter().min().unwrap(), *loads.iter().max().unwrap());
            prop_assert_eq!(loads.iter().sum::<usize>(), connections);
            prop_assert!(most <= least + (least / SHARE).min(DIFFERENCE_MAX) + 1, "{:?}", loads);
        }
    }
}
