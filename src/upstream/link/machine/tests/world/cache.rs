//! What holds of cache channels' last events.

use std::sync::Arc;

use super::{Answer, Happening, World};
use crate::pusher::{channel, frame};
use crate::upstream::delivery::{Delivery, Event, Kind};

impl World {
    /// What a hub is told as a channel's last event is not of a time before the link let the channel go; and where nothing
    /// is under way, and the server sends no other, it is the very last one.
    pub(super) fn check_cached(&mut self, delivery: &Delivery) {
        let Delivery::Live { channel, gap, cached: known, .. } = delivery else { return };
        let cached = known.as_ref().filter(|event| event.kind == Kind::Channel);
        assert!(cached.is_none() || self.cached.contains(channel), "{channel}: an event of another time");
        let is_settled = !gap
            && self.joins
            && !self.black_hole
            && self.pusher.subscribed.contains(channel)
            && !self.is_under_way(channel);
        if is_settled && channel::is_cache(channel) {
            let text = |event: &Arc<Event>| frame::event(&event.name, channel, &event.data, None);
            assert!(known.is_some(), "{channel}: the server has said what it has");
            assert_eq!(cached.map(text).as_ref(), self.pusher.last(channel), "the last of {channel}");
            self.saw(if cached.is_some() { "a last event" } else { "no last event" });
        }
    }

    /// Whether anything of the channel is on its way to the link.
    pub(super) fn is_under_way(&self, channel: &Arc<str>) -> bool {
        self.is_requested(channel)
            || self.agenda.values().any(|happening| {
                matches!(happening, Happening::ToLink(of, Answer::Frame(text))
                    if *of == self.connection && text.contains(&**channel))
            })
    }

    /// Whether an event of a cache channel is being published by a client, and nothing else may happen to the channel.
    pub(super) fn is_fixed(&self, channel: &Arc<str>) -> bool {
        channel::is_cache(channel) && self.is_requested(channel)
    }

    pub(super) fn is_requested(&self, channel: &Arc<str>) -> bool {
        self.requests.values().any(|request| request.sent.channel == *channel)
    }
}
