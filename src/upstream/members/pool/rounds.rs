//! In which order links connect anew, so that as few channels as can be have none meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Pool, Way};

/// So long links are waited for before the next ones go on all the same: one of them may never have all its channels, and
/// where many come and go somebody's are always new.
const ROUND_MAX: Duration = Duration::from_secs(60);
/// How often it is looked at whether they are there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is to be done yet.
#[derive(Debug)]
pub struct Rounds {
    rounds: VecDeque<Vec<u64>>,
    /// Links that are to be there and certain before: those that stay, and then those of the round before.
    needed: Vec<u64>,
    /// Links that have been told, and have not left their connection yet.
    awaited: HashSet<u64>,
    look: Instant,
    until: Instant,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// These links are to connect anew; `None`: that was the last of it.
    pub links: Option<Vec<u64>>,
    /// Those before them were not all there in time.
    pub is_late: bool,
}

impl Rounds {
    /// Of all links that there are.
    #[must_use]
    pub fn of(pool: &Pool, now: Instant) -> Self {
        let [first, second] = pool.rounds();
        let needed = second.clone();
        let awaited = HashSet::new();
        Self { rounds: [first, second].into(), needed, awaited, look: now, until: now + ROUND_MAX }
    }

    /// When [`Self::next`] is to be asked again.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.look
    }

    /// The link has left its connection.
    pub fn left(&mut self, source: u64) {
        self.awaited.remove(&source);
    }

    /// What is to be done now, if it is time for anything. To be asked until it is not.
    pub fn next(&mut self, pool: &Pool, now: Instant) -> Option<Turn> {
        if now < self.look {
            return None;
        }
        self.awaited.retain(|source| pool.by_source.contains_key(source));
        let is_late = now >= self.until;
        let waits = || !self.awaited.is_empty() || !pool.are_settled(&self.needed);
        if !is_late && waits() {
            self.look = now + LOOK_EVERY;
            return None;
        }
        let links = self.rounds.pop_front();
        self.needed = links.clone().unwrap_or_default();
        self.awaited = self.needed.iter().copied().filter(|source| pool.is_live(*source)).collect();
        self.until = now + ROUND_MAX;
        Some(Turn { links, is_late })
    }
}

impl Pool {
    /// The links in two rounds: in the first one those whose channels others of the second have as well. Whoever is alone
    /// on a channel is in the second.
    fn rounds(&self) -> [Vec<u64>; 2] {
        let mut links: Vec<(u64, Vec<&Arc<str>>)> = self
            .users
            .values()
            .filter_map(|user| match user.way {
                Way::Open(source) => Some((source, user.seats.iter().map(|seat| &seat.channel).collect())),
                _ => None,
            })
            .collect();
        links.sort_unstable();
        let mut staying: HashMap<&Arc<str>, usize> = HashMap::new();
        for channel in links.iter().flat_map(|(_, channels)| channels) {
            *staying.entry(channel).or_default() += 1;
        }
        let [mut first, mut second] = [Vec::new(), Vec::new()];
        for (source, channels) in &links {
            let has_others = channels.iter().all(|channel| staying.get(channel).is_some_and(|n| *n > 1));
            if has_others {
                for channel in channels {
                    staying.entry(channel).and_modify(|n| *n -= 1);
                }
                first.push(*source);
            } else {
                second.push(*source);
            }
        }
        [first, second]
    }

    /// Whether these links, as far as they are there, have all their channels, and are certain of them.
    fn are_settled(&self, links: &[u64]) -> bool {
        let users = links.iter().filter_map(|source| self.users.get(self.by_source.get(source)?));
        let mut seats = users.flat_map(|user| &user.seats);
        seats.all(|seat| seat.is_live && !self.settling.contains(&seat.channel))
    }

    /// Whether the link has any of its channels.
    fn is_live(&self, source: u64) -> bool {
        let user = self.by_source.get(&source).and_then(|key| self.users.get(key));
        user.is_some_and(|user| user.seats.iter().any(|seat| seat.is_live))
    }
}
