//! In which order links connect anew, so that as few channels as can be have none meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Pool, Way};

impl Pool {
    /// The links in two rounds: in the first one those whose channels others of the second have as well. Whoever is alone
    /// on a channel is in the second.
    #[must_use]
    pub fn rounds(&self) -> [Vec<u64>; 2] {
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

    /// Whether each link has all its channels, and is certain of them.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_there = |user: &super::User| match user.way {
            Way::Open(_) => user.seats.iter().all(|seat| seat.is_live),
            _ => true,
        };
        self.settling.is_empty() && self.users.values().all(is_there)
    }

    /// Whether the link has any of its channels.
    #[must_use]
    pub fn is_live(&self, source: u64) -> bool {
        let user = self.by_source.get(&source).and_then(|key| self.users.get(key));
        user.is_some_and(|user| user.seats.iter().any(|seat| seat.is_live))
    }
}
