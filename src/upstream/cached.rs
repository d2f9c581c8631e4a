//! The last event of each cache channel. Pusher sends it to a new subscriber of the channel; here all clients share
//! one subscription, so whoever joins later gets it from what is kept.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long Pusher keeps a cached event (Pusher docs, "Cache channels").
const KEPT: Duration = Duration::from_secs(30 * 60);
/// Bytes kept in one place, which each link and each worker has: beyond it a channel's event is not kept.
const CACHED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Last events `E` by channel, or by link and channel.
#[derive(Debug)]
pub struct Cached<K, E> {
    events: HashMap<K, Last<E>>,
    bytes: usize,
}

#[derive(Debug)]
struct Last<E> {
    event: E,
    bytes: usize,
    at: Instant,
}

impl<K, E> Default for Cached<K, E> {
    fn default() -> Self {
        Self { events: HashMap::new(), bytes: 0 }
    }
}

impl<K: Hash + Eq, E: Clone> Cached<K, E> {
    /// Keeps the event, of so many bytes, instead of the channel's last one; not when there is no room for it, and
    /// then neither: an older event would be a wrong one.
    pub fn keep(&mut self, channel: K, event: E, bytes: usize, at: Instant) {
        self.forget(&channel);
        if self.bytes + bytes <= CACHED_BYTES_MAX {
            self.bytes += bytes;
            self.events.insert(channel, Last { event, bytes, at });
        }
    }

    /// The channel's last event, unless it is too old.
    #[must_use]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, channel: &Q, now: Instant) -> Option<E>
    where
        K: Borrow<Q>,
    {
        let last = self.events.get(channel)?;
        (now.saturating_duration_since(last.at) < KEPT).then(|| last.event.clone())
    }

    /// The channel is not subscribed any more.
    pub fn forget<Q: Hash + Eq + ?Sized>(&mut self, channel: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(last) = self.events.remove(channel) {
            self.bytes -= last.bytes;
        }
    }

    /// No channel for which `affected` holds is subscribed any more.
    pub fn forget_all(&mut self, affected: impl Fn(&K) -> bool) {
        let bytes = &mut self.bytes;
        self.events.retain(|channel, last| {
            let gone = affected(channel);
            *bytes -= if gone { last.bytes } else { 0 };
            !gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    #[test]
    fn the_last_event_of_each_channel_is_kept_for_a_time() {
        let (mut cached, at) = (Cached::default(), now().mono);
        let (a, b) = ("cache-a", "cache-b");
        cached.keep(a, 1, 10, at);
        cached.keep(a, 2, 10, at);
        cached.keep(b, 3, 10, at);
        assert_eq!(cached.get(a, at), Some(2));
        assert_eq!(cached.get(a, at + KEPT - Duration::from_secs(1)), Some(2));
        assert_eq!(cached.get(a, at + KEPT), None);
        cached.forget(a);
        assert_eq!((cached.get(a, at), cached.get(b, at)), (None, Some(3)));
        cached.forget_all(|channel| *channel == "cache-b");
        assert_eq!((cached.get(b, at), cached.bytes), (None, 0));
    }

    #[test]
    fn what_has_no_room_is_not_kept_and_what_it_replaces_neither() {
        let (mut cached, at) = (Cached::default(), now().mono);
        let (a, b) = ("cache-a", "cache-b");
        cached.keep(a, 1, 10, at);
        cached.keep(b, 2, CACHED_BYTES_MAX - 10, at);
        cached.keep(a, 3, 11, at);
        assert_eq!((cached.get(a, at), cached.get(b, at)), (None, Some(2)));
        cached.keep(a, 4, 10, at);
        assert_eq!(cached.get(a, at), Some(4));
    }
}
