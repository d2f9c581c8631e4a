//! Sets of hubs.

/// Hubs by their numbers, which are below [`Hubs::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hubs(u64);

impl Hubs {
    /// One more than the largest number.
    pub const MAX: usize = u64::BITS as usize;

    /// This one alone.
    #[must_use]
    pub const fn only(hub: usize) -> Self {
        Self(1 << (hub % Self::MAX))
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// These and the others.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These but for the others.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl Iterator for Hubs {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let hub = (self.0 != 0).then(|| self.0.trailing_zeros() as usize);
        self.0 &= self.0.wrapping_sub(1);
        hub
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_give_their_members_in_order() {
        let set = [63, 0, 5, 5].map(Hubs::only).into_iter().fold(Hubs::default(), Hubs::with);
        assert_eq!((set.len(), set.collect::<Vec<_>>()), (3, vec![0, 5, 63]));
        assert_eq!(set.without(Hubs::only(5)).collect::<Vec<_>>(), [0, 63]);
        assert_eq!(Hubs::default().next(), None);
        assert!(Hubs::default().is_empty() && !set.is_empty());
    }
}
