//! What a link knows of cache channels.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::upstream::cached::Cached;
use crate::upstream::delivery::Event;

/// The last events, and where one may come anew.
#[derive(Debug, Default)]
pub(super) struct CacheChannels {
    /// For hubs that come later.
    last: Cached<Arc<str>, Arc<Event>>,
    /// Those that are subscribed and have had no event since: Pusher may send their last one.
    awaiting: HashSet<Arc<str>>,
}

impl CacheChannels {
    /// The channel is subscribed: what comes first may be its last event.
    pub(super) fn awaits(&mut self, channel: &str) {
        self.awaiting.insert(channel.into());
    }

    /// Whether any channel's last event may come.
    pub(super) fn awaits_last(&self) -> bool {
        !self.awaiting.is_empty()
    }

    /// The channel's last event does not come any more.
    pub(super) fn has_no_last(&mut self, channel: &str) {
        self.awaiting.remove(channel);
    }

    /// The channel is not subscribed any more. Where it is wanted still, its clients have its last event.
    pub(super) fn unsubscribed(&mut self, channel: &str, is_wanted: bool) {
        self.awaiting.remove(channel);
        if !is_wanted {
            self.last.forget(channel);
        }
    }

    /// No channel is subscribed any more; those that are `unwanted` are gone.
    pub(super) fn disconnected(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.awaiting.clear();
        self.last.forget_all(|channel| unwanted(channel));
    }

    /// Whether an event is the last one of its channel, sent to a new subscription of this link, though its clients
    /// have it already: from before the connection was lost, or because one of them wrote it.
    pub(super) fn is_had_already(&mut self, channel: &str, name: &str, data: &str, at: Instant) -> bool {
        !self.awaiting.is_empty()
            && self.awaiting.remove(channel)
            && self.last.get(channel, at).is_some_and(|last| *last.name == *name && *last.data == *data)
    }

    /// Keeps an event as its channel's last one.
    pub(super) fn keep(&mut self, event: &Arc<Event>) {
        self.last.keep(event.channel.clone(), event.clone(), event.bytes(), event.received.mono);
    }

    /// The channel's last event.
    pub(super) fn last(&self, channel: &str, now: Instant) -> Option<Arc<Event>> {
        self.last.get(channel, now)
    }
}
