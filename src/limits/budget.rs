//! Pure: what is held in memory for all clients together: parts of messages that are not complete, and frames
//! that their readers have not taken. A frame for many is held once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Bytes for all connections. Each has an equal share of them to itself, half for each direction, and only one
/// that wants more than its share is turned away when all is used up. So at most twice the budget is held, and
/// who holds little never suffers from those who hold much.
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
        Arc::new(Self { bytes_max, share: bytes_max / connections.max(1) / 2, held: AtomicUsize::new(0) })
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a connection that has come to hold `bytes` in one direction may go on; else it should be closed.
    #[must_use]
    pub fn allows(&self, bytes: usize) -> bool {
        bytes <= self.share || self.held() <= self.bytes_max
    }

    /// Counts an encoded frame for as long as anybody holds it.
    #[must_use]
    pub fn frame(self: &Arc<Self>, frame: Vec<u8>) -> Bytes {
        let mut holding = Holding::new(self.clone());
        holding.set(frame.len());
        Bytes::from_owner(Frame { bytes: frame, _holding: holding })
    }
}

/// What somebody holds; given back on drop.
#[derive(Debug)]
pub struct Holding {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Holding {
    /// Nothing held.
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// `bytes` are held now.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.budget.held.fetch_add(bytes - before, Ordering::Relaxed);
        } else if bytes < before {
            self.budget.held.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// As [`Self::set`], for what one connection holds in one direction. `false`: it holds more than before, and
    /// all together too much.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let before = self.bytes;
        self.set(bytes);
        bytes <= before || self.budget.allows(bytes)
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

struct Frame {
    bytes: Vec<u8>,
    _holding: Holding,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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
        assert!(greedy.grow(1000));
        assert!(!greedy.grow(1001));
        let mut modest = Holding::new(budget.clone());
        assert!(modest.grow(50), "half its share");
        assert!(!modest.grow(51));
        assert!(modest.grow(40), "less than before is always welcome");
        drop(greedy);
        assert!(modest.grow(1000));
        drop(modest);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_frame_is_held_once_and_until_the_last_lets_go() {
        let budget = Budget::new(1000, 10);
        let frame = budget.frame(vec![7; 300]);
        let copies = vec![frame.clone(); 100];
        assert_eq!((&*frame, budget.held()), (&[7; 300][..], 300));
        drop(frame);
        assert_eq!(budget.held(), 300);
        drop(copies);
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
                    let grew = amount > bytes[which];
                    bytes[which] = amount;
                    let sum: usize = bytes.iter().sum();
                    prop_assert_eq!(holdings[which].grow(amount), !grew || amount <= 50 || sum <= 1000);
                    prop_assert_eq!(budget.held(), sum);
                }
            }
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
