//! What became of every number of a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What a sender knows of a number it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken: it is to be delivered, or told.
    Taken,
    /// Nobody knows whether it was taken.
    Unknown,
}

/// What a receiver saw, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Number(u32),
    /// A notice that something may be missing: `EVENTS_MAY_BE_MISSING`, or the receiver's own cut connection.
    Gap,
}

/// The account of one stream.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub name: String,
    pub sent: usize,
    pub taken: usize,
    pub delivered: usize,
    /// Deliveries beyond the first.
    pub duplicated: usize,
    /// Taken and not delivered.
    pub missed: usize,
    /// Of those, the ones that somebody was told of.
    pub reported: usize,
    /// Told as not carried, and delivered all the same.
    pub told_in_vain: usize,
    pub gaps: usize,
    /// Numbers that came after a larger one. What was told as not carried may come late.
    pub disordered: usize,
    /// Deliveries of what was never sent.
    pub invented: usize,
    unreported: Vec<u32>,
}

impl Account {
    /// `told`: numbers that their sender was told of; `cut`: its connection was cut, which tells it of a tail.
    pub fn of(name: &str, sent: &[(u32, Fate)], marks: &[Mark], told: &BTreeSet<u32>, cut: bool) -> Self {
        let fates: BTreeMap<u32, Fate> = sent.iter().copied().collect();
        let mut places: BTreeMap<u32, usize> = BTreeMap::new();
        let mut account = Self { name: name.to_owned(), sent: fates.len(), ..Self::default() };
        let mut largest = 0;
        for (place, mark) in marks.iter().enumerate() {
            match *mark {
                Mark::Gap => account.gaps += 1,
                Mark::Number(n) if !fates.contains_key(&n) => account.invented += 1,
                Mark::Number(n) if places.contains_key(&n) => account.duplicated += 1,
                Mark::Number(n) => {
                    places.insert(n, place);
                    if !told.contains(&n) {
                        account.disordered += usize::from(n < largest);
                        largest = largest.max(n);
                    }
                }
            }
        }
        account.delivered = places.len();
        account.told_in_vain = told.iter().filter(|n| places.contains_key(n)).count();
        for (n, _) in fates.iter().filter(|(_, fate)| **fate == Fate::Taken) {
            account.taken += 1;
            if places.contains_key(n) {
                continue;
            }
            account.missed += 1;
            // One that came late, told as not carried, says nothing of what was missed before.
            let before = places.range(..n).rev().find(|(before, _)| !told.contains(before));
            let after = before.map_or(0, |(_, place)| *place);
            let gap = marks[after.min(marks.len())..].contains(&Mark::Gap);
            if gap || told.contains(n) || cut && *n > largest {
                account.reported += 1;
            } else {
                account.unreported.push(*n);
            }
        }
        account
    }

    /// What is wrong with it; `once`: a number may come once only.
    fn wrongs(&self, once: bool) -> Vec<&'static str> {
        [
            (!self.unreported.is_empty(), "missed, and nobody was told"),
            (self.disordered > 0, "out of order"),
            (self.invented > 0, "never sent"),
            (once && self.duplicated > 0, "duplicated"),
        ]
        .into_iter()
        .filter_map(|(is, wrong)| is.then_some(wrong))
        .collect()
    }

    /// Whether it shows that something happened.
    fn noticed(&self) -> bool {
        let moved = (self.missed, self.duplicated, self.gaps, self.told_in_vain) != (0, 0, 0, 0);
        moved || self.taken != self.sent || self.delivered != self.sent || self.sent == 0
    }

    /// Every number once or told, in order.
    #[track_caller]
    pub fn is_honest(&self) {
        assert_eq!(self.wrongs(true), [""; 0], "{self:?}");
    }

    /// Every number at least once or told, in order.
    #[track_caller]
    pub fn is_complete(&self) {
        assert_eq!(self.wrongs(false), [""; 0], "{self:?}");
    }

    /// Every number once, and nobody was told anything: this stream did not notice.
    #[track_caller]
    pub fn is_clean(&self) {
        self.is_honest();
        assert!(!self.noticed(), "{self:?}");
    }
}

/// The accounts as one table.
pub fn table<'a>(fault: &str, accounts: impl Iterator<Item = &'a Account>) -> String {
    let mut out = format!(
        "\n{fault:<46} {:>6} {:>6} {:>6} {:>5} {:>6} {:>8} {:>7} {:>5}\n",
        "sent", "taken", "deliv", "dupl", "missed", "reported", "in vain", "gaps"
    );
    for a in accounts {
        let _ = writeln!(
            out,
            "  {:<44} {:>6} {:>6} {:>6} {:>5} {:>6} {:>8} {:>7} {:>5}",
            a.name, a.sent, a.taken, a.delivered, a.duplicated, a.missed, a.reported, a.told_in_vain, a.gaps
        );
    }
    out
}

fn numbers(count: u32) -> Vec<(u32, Fate)> {
    (1..=count).map(|n| (n, Fate::Taken)).collect()
}

#[test]
fn the_account_itself_sees_what_it_must() {
    use Mark::{Gap, Number};
    let of = |marks: &[Mark], told: &[u32], cut| {
        Account::of("s", &numbers(4), marks, &told.iter().copied().collect(), cut)
    };
    of(&[Number(1), Number(2), Number(3), Number(4)], &[], false).is_clean();
    for (marks, told, cut) in [
        (&[Number(1), Number(2), Gap, Number(4)][..], &[][..], false),
        (&[Number(1), Number(2), Number(4), Gap], &[], false),
        (&[Number(1), Number(2), Number(4)], &[3], false),
        (&[Number(1), Number(3), Number(4), Number(2)], &[2], false),
        (&[Number(1), Number(2)], &[], true),
        (&[Gap, Number(4)], &[], false),
        (&[Number(1), Gap, Number(2), Number(3), Number(4)], &[], false),
    ] {
        let account = of(marks, told, cut);
        account.is_honest();
        assert!(account.noticed(), "{account:?}");
    }
    for (marks, told, cut, wrong) in [
        (&[Number(1), Number(2), Number(4)][..], &[][..], true, "missed, and nobody was told"),
        (&[Number(1), Gap, Number(2), Number(4)], &[], false, "missed, and nobody was told"),
        (&[Number(1), Number(2), Number(4)], &[2], false, "missed, and nobody was told"),
        (&[Number(1), Number(2), Number(2), Number(3), Number(4)], &[], false, "duplicated"),
        (&[Number(1), Number(3), Number(2), Number(4)], &[], false, "out of order"),
        (&[Number(1), Number(2), Number(3), Number(4), Number(5)], &[], false, "never sent"),
    ] {
        assert_eq!(of(marks, told, cut).wrongs(true), [wrong], "{marks:?}");
    }
}
