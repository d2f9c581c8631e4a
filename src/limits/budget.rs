//! Pure: what all connections together may hold in memory for their clients: parts of messages that are not
//! complete, and frames that their readers have not taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes for all connections. Each has an equal share to itself, which is not even counted; what one holds
/// beyond its share is, and only such a one is ever turned away. So at most twice the budget is held, and who
/// holds little never suffers from those who hold much.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    share: usize,
    held: AtomicUsize,
}

impl Budget {
    /// A budget for up to `connections` of them.
    #[must_use]
    pub fn new(bytes_max: usize, connections: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, share: bytes_max / connections.max(1), held: AtomicUsize::new(0) })
    }

    /// Bytes held beyond the connections' shares.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// What one connection holds in one place; given back on drop.
#[derive(Debug)]
pub struct Holding {
    budget: Arc<Budget>,
    /// Beyond the share.
    counted: usize,
}

impl Holding {
    /// Nothing held.
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, counted: 0 }
    }

    /// The connection now holds `bytes`. `false`: it holds more than before, and all together too much; it
    /// should be closed.
    pub fn set(&mut self, bytes: usize) -> bool {
        let before = self.counted;
        self.counted = bytes.saturating_sub(self.budget.share);
        if self.counted <= before {
            if self.counted < before {
                self.budget.held.fetch_sub(before - self.counted, Ordering::Relaxed);
            }
            return true;
        }
        let more = self.counted - before;
        self.budget.held.fetch_add(more, Ordering::Relaxed) + more <= self.budget.bytes_max
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_holds_little_is_never_turned_away() {
        let budget = Budget::new(1000, 10);
        let mut greedy = Holding::new(budget.clone());
        assert!(greedy.set(1100), "its share and the whole rest");
        assert!(!greedy.set(1101));
        let mut modest = Holding::new(budget.clone());
        assert!(modest.set(100));
        assert!(!modest.set(101));
        assert!(modest.set(50), "less than before is always welcome");
        drop(greedy);
        assert!(modest.set(1100));
        drop(modest);
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        #[test]
        fn the_count_is_the_sum(steps in prop::collection::vec((0_usize..5, 0_usize..500), 0..100)) {
            let budget = Budget::new(1000, 10);
            let mut bytes = [0_usize; 5];
            {
                let mut holdings: Vec<_> = (0..5).map(|_| Holding::new(budget.clone())).collect();
                for (which, amount) in steps {
                    let before: usize = bytes.iter().map(|held| held.saturating_sub(100)).sum();
                    let accepted = holdings[which].set(amount);
                    let grew = amount.saturating_sub(100) > bytes[which].saturating_sub(100);
                    bytes[which] = amount;
                    let sum: usize = bytes.iter().map(|held| held.saturating_sub(100)).sum();
                    prop_assert_eq!(budget.held(), sum);
                    prop_assert_eq!(accepted, !grew || sum <= 1000, "before: {}", before);
                }
            }
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
