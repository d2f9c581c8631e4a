//! The last event of each cache channel. Pusher sends it to a new subscriber of the channel; here all clients share
//! one subscription, so whoever joins later gets it from what is kept.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::delivery::{Event, Kind};

/// How long Pusher keeps a cached event (Pusher docs, "Cache channels").
const KEPT: Duration = Duration::from_secs(30 * 60);
/// Bytes kept in one place, which each link and each worker has: beyond it a channel's event is not kept.
const CACHED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Channels of which something is kept in one place: beyond, nothing is of another one.
const CACHED_CHANNELS_MAX: usize = 65_536;

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

/// What is known of a channel's last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<E> {
    /// It is this.
    Last(E),
    /// It was this, too long ago: Pusher has none any more.
    Over(E),
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
        if self.bytes + bytes <= CACHED_BYTES_MAX && self.events.len() < CACHED_CHANNELS_MAX {
            self.bytes += bytes;
            self.events.insert(channel, Last { event, bytes, at });
        }
    }

    /// What is known of the channel's last event.
    #[must_use]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, channel: &Q, now: Instant) -> Option<Known<E>>
    where
        K: Borrow<Q>,
    {
        let last = self.events.get(channel)?;
        let event = last.event.clone();
        let is_over = now.saturating_duration_since(last.at) >= KEPT;
        Some(if is_over { Known::Over(event) } else { Known::Last(event) })
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

impl<K: Hash + Eq> Cached<K, Arc<Event>> {
    /// The channel's last event, or what says that it has none; `None` where neither is known.
    #[must_use]
    pub fn last<Q: Hash + Eq + ?Sized>(&self, channel: &Q, now: Instant) -> Option<Arc<Event>>
    where
        K: Borrow<Q>,
    {
        Some(match self.get(channel, now)? {
            Known::Last(event) => event,
            Known::Over(event) => over(event),
        })
    }
}

/// A channel's last event, or what says that it has none any more.
#[must_use]
pub fn unless_over(event: Arc<Event>, now: Instant) -> Arc<Event> {
    let is_over = now.saturating_duration_since(event.received.mono) >= KEPT;
    if is_over { over(event) } else { event }
}

fn over(event: Arc<Event>) -> Arc<Event> {
    match event.kind {
        Kind::Channel => {
            Arc::new(Event::cache_miss(event.link, event.channel.clone(), event.received.plus(KEPT)))
        }
        _ => event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::exchange::LinkId;

    #[test]
    fn the_last_event_of_each_channel_is_kept_for_a_time() {
        let (mut cached, at) = (Cached::default(), now().mono);
        let (a, b) = ("cache-a", "cache-b");
        cached.keep(a, 1, 10, at);
        cached.keep(a, 2, 10, at);
        cached.keep(b, 3, 10, at);
        assert_eq!(cached.get(a, at), Some(Known::Last(2)));
        assert_eq!(cached.get(a, at + KEPT - Duration::from_secs(1)), Some(Known::Last(2)));
        assert_eq!(cached.get(a, at + KEPT), Some(Known::Over(2)));
        cached.forget(a);
        assert_eq!((cached.get(a, at), cached.get(b, at)), (None, Some(Known::Last(3))));
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
        assert_eq!((cached.get(a, at), cached.get(b, at)), (None, Some(Known::Last(2))));
        cached.keep(a, 4, 10, at);
        assert_eq!(cached.get(a, at), Some(Known::Last(4)));
    }

    #[test]
    fn so_many_channels_are_kept_and_one_that_is_left_makes_room() {
        let (mut cached, at) = (Cached::default(), now().mono);
        for channel in 0..=CACHED_CHANNELS_MAX {
            cached.keep(channel, 1, 1, at);
        }
        let newest = CACHED_CHANNELS_MAX;
        assert_eq!((cached.get(&0, at), cached.get(&newest, at)), (Some(Known::Last(1)), None));
        cached.keep(0, 2, 1, at);
        assert_eq!(cached.get(&0, at), Some(Known::Last(2)), "those that are there are kept up to date");
        cached.forget(&0);
        cached.keep(newest, 3, 1, at);
        assert_eq!(cached.get(&newest, at), Some(Known::Last(3)));
    }

    #[test]
    fn an_event_is_the_last_one_for_half_an_hour_and_then_there_is_none() {
        let (mut cached, at) = (Cached::default(), now());
        let event = |data| Arc::new(Event::new(LinkId(0), "cache-a".into(), "e", data, at, None));
        cached.keep("cache-a", event("1"), 10, at.mono);
        assert_eq!(*cached.last("cache-a", at.mono).unwrap().data, *"1");
        let none = cached.last("cache-a", at.plus(KEPT).mono).unwrap();
        assert_eq!((none.kind, none.received), (Kind::CacheMiss, at.plus(KEPT)));
        let last = cached.last("cache-a", at.mono).unwrap();
        let later = |after: Duration| unless_over(last.clone(), at.mono + after);
        assert_eq!(later(KEPT - Duration::from_secs(1)).kind, Kind::Channel);
        assert_eq!((later(KEPT).kind, later(KEPT).received), (Kind::CacheMiss, at.plus(KEPT)));
        assert!(cached.last("cache-b", at.mono).is_none(), "nothing is known");
    }
}
