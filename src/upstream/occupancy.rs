//! Which channels nobody is subscribed to, as far as is known: Pusher's webhooks tell when a channel is vacated and
//! when it is occupied, and hubs tell what is wanted here. What is not known counts as occupied, so that the worst that
//! a webhook which does not come can do is bounded by a time.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Channels that are remembered, at most. Of more nothing is known.
pub const CHANNELS_MAX: usize = 65_536;
/// Each with its own lock, which is taken for one look.
const SHARDS: usize = 16;
const CHANNELS_PER_SHARD_MAX: usize = CHANNELS_MAX / SHARDS;

/// What is known of channels' subscribers.
#[derive(Debug)]
pub struct Occupancy {
    /// How long a channel is believed to be vacated.
    believed_for: Duration,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    told: HashMap<Arc<str>, Told>,
    /// Hubs of this bridge that want a channel: to Pusher, their subscription is one like any other.
    here: HashMap<Arc<str>, usize>,
}

/// What Pusher said last of a channel.
#[derive(Debug)]
struct Told {
    vacated: bool,
    /// When, by Pusher's clock.
    time_ms: i64,
    until: Instant,
}

impl Occupancy {
    /// Nothing is known.
    #[must_use]
    pub fn new(believed_for: Duration) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { believed_for, hasher: RandomState::new(), shards }
    }

    fn shard(&self, channel: &str) -> Option<MutexGuard<'_, Shard>> {
        let at = self.hasher.hash_one(channel) as usize % SHARDS;
        self.shards.get(at).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pusher says that `channel` was occupied, or vacated, at `time_ms` of its clock. Webhooks may overtake each other,
    /// so the later time counts; of two equal ones, that it is occupied.
    pub fn told(&self, channel: &str, occupied: bool, time_ms: i64, now: Instant) {
        let Some(mut shard) = self.shard(channel) else { return };
        if let Some(told) = shard.told.get(channel).filter(|told| now < told.until)
            && (time_ms < told.time_ms || time_ms == told.time_ms && !occupied)
        {
            return;
        }
        if !shard.told.contains_key(channel) && shard.told.len() >= CHANNELS_PER_SHARD_MAX {
            shard.told.retain(|_, told| now < told.until);
            if shard.told.len() >= CHANNELS_PER_SHARD_MAX {
                return;
            }
        }
        let told = Told { vacated: !occupied, time_ms, until: now + self.believed_for };
        shard.told.insert(channel.into(), told);
    }

    /// One more hub of this bridge wants `channel`.
    pub fn wanted(&self, channel: &Arc<str>) {
        if let Some(mut shard) = self.shard(channel) {
            *shard.here.entry(channel.clone()).or_default() += 1;
        }
    }

    /// One hub less wants it. It may linger, and that Pusher vacates it, if it does, is told later.
    pub fn unwanted(&self, channel: &str) {
        if let Some(mut shard) = self.shard(channel) {
            let left = shard.here.get_mut(channel).map(|hubs| {
                *hubs = hubs.saturating_sub(1);
                *hubs
            });
            if left == Some(0) {
                shard.here.remove(channel);
                // What was told before is not known to hold behind it.
                if shard.told.get(channel).is_some_and(|told| told.vacated) {
                    shard.told.remove(channel);
                }
            }
        }
    }

    /// Whether it is known that nobody would get an event of `channel`.
    #[must_use]
    pub fn is_empty(&self, channel: &str, now: Instant) -> bool {
        self.shard(channel).is_some_and(|shard| {
            let vacated = shard.told.get(channel).is_some_and(|told| told.vacated && now < told.until);
            vacated && !shard.here.contains_key(channel)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_channel_is_empty_only_where_pusher_said_so_last() {
        let (occupancy, now) = (Occupancy::new(HOUR), now().mono);
        assert!(!occupancy.is_empty("a", now), "nothing is known");
        occupancy.told("a", false, 10, now);
        assert!(occupancy.is_empty("a", now) && !occupancy.is_empty("b", now));
        occupancy.told("a", true, 20, now);
        assert!(!occupancy.is_empty("a", now));
        occupancy.told("a", false, 19, now);
        assert!(!occupancy.is_empty("a", now), "an older word that comes late");
        occupancy.told("a", false, 20, now);
        assert!(!occupancy.is_empty("a", now), "of the same moment");
        occupancy.told("a", false, 21, now);
        assert!(occupancy.is_empty("a", now));
    }

    #[test]
    fn what_was_told_is_believed_for_a_while() {
        let (occupancy, now) = (Occupancy::new(HOUR), now().mono);
        occupancy.told("a", false, 10, now);
        assert!(occupancy.is_empty("a", now + HOUR - Duration::from_millis(1)));
        assert!(!occupancy.is_empty("a", now + HOUR));
    }

    #[test]
    fn what_is_wanted_here_is_not_empty() {
        let (occupancy, now, a) = (Occupancy::new(HOUR), now().mono, Arc::from("a"));
        occupancy.told("a", false, 10, now);
        occupancy.wanted(&a);
        occupancy.wanted(&a);
        assert!(!occupancy.is_empty("a", now));
        occupancy.unwanted("a");
        assert!(!occupancy.is_empty("a", now), "another hub wants it");
        occupancy.unwanted("a");
        assert!(!occupancy.is_empty("a", now), "what was told before does not hold any more");
        occupancy.told("a", false, 20, now);
        assert!(occupancy.is_empty("a", now));
        occupancy.unwanted("a");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (occupancy, now) = (Occupancy::new(HOUR), now().mono);
        for n in 0..CHANNELS_MAX * 2 {
            occupancy.told(&format!("c{n}"), false, 1, now);
        }
        let count = || occupancy.shards.iter().map(|shard| shard.lock().unwrap().told.len()).sum::<usize>();
        assert_eq!(count(), CHANNELS_MAX);
        for n in 0..CHANNELS_MAX {
            occupancy.told(&format!("d{n}"), false, 1, now + HOUR);
        }
        assert!(occupancy.is_empty("d0", now + HOUR) && count() <= CHANNELS_MAX);
    }
}
