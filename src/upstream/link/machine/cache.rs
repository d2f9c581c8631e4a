//! What a link knows of cache channels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::pusher::channel::ChannelKind;
use crate::upstream::cached::Cached;
use crate::upstream::delivery::{Event, Kind, Sent};

/// Events of the bridge's own clients that one channel may have before it is known what Pusher has. Beyond, what comes first
/// is taken for somebody's.
const OWN_MAX: usize = 64;

/// The last events, and where one may come anew.
#[derive(Debug, Default)]
pub(super) struct CacheChannels {
    /// For hubs that come later.
    last: Cached<Arc<str>, Arc<Event>>,
    /// Those that are subscribed and have had nothing since: Pusher sends their last event, or says that they have none
    /// (Pusher docs, "Cache channels"; sockudo, soketi and Reverb do so too).
    awaiting: HashSet<Arc<str>>,
    /// Those that had events of the bridge's own clients since the link asked for them, before it was known what Pusher
    /// has: these events, and the last one before them.
    own_came: HashMap<Arc<str>, Vec<Arc<Event>>>,
    /// Messages that came as last events before their publishing was answered. They are delivered.
    shown: Vec<Arc<Sent>>,
}

/// What an event is on a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anew {
    /// One of many.
    No,
    /// The first, and the channel's clients have it: from before the connection was lost, or because one of them wrote it.
    Had,
    /// The first: where Pusher has a last one, this is it.
    First,
    /// The same, but for one of the bridge's own clients, which is later, for it was published meanwhile.
    AfterOwn,
}

impl CacheChannels {
    /// The channel is subscribed: what comes first may be its last event.
    pub(super) fn awaits(&mut self, channel: &str) {
        self.awaiting.insert(channel.into());
    }

    /// An event of the bridge's own clients is about to be kept.
    pub(super) fn own_comes(&mut self, channel: &Arc<str>, is_subscribed: bool, now: Instant) {
        let is_known = is_subscribed && !self.awaiting.contains(channel);
        if !is_known && !self.own_came.contains_key(channel) {
            let before = self.last(channel, now).into_iter().collect();
            self.own_came.insert(channel.clone(), before);
        }
    }

    /// The channel's last event does not come any more.
    pub(super) fn has_no_last(&mut self, channel: &str) {
        self.awaiting.remove(channel);
        self.own_came.remove(channel);
    }

    /// The link asks for the channel: what came before is in what Pusher will have.
    pub(super) fn subscribes(&mut self, channel: &str) {
        self.own_came.remove(channel);
    }

    /// What an event that comes now is.
    pub(super) fn comes(&mut self, channel: &str, name: &str, data: &str, at: Instant) -> Anew {
        let Some(own) = self.first(channel) else { return Anew::No };
        let is = |last: &Arc<Event>| last.kind == Kind::Channel && *last.name == *name && *last.data == *data;
        if own.iter().chain(&self.last(channel, at)).any(is) {
            Anew::Had
        } else if own.is_empty() {
            Anew::First
        } else {
            Anew::AfterOwn
        }
    }

    /// Where what comes first on a subscription comes now: what own clients wrote meanwhile, behind what was last before.
    pub(super) fn first(&mut self, channel: &str) -> Option<Vec<Arc<Event>>> {
        (!self.awaiting.is_empty() && self.awaiting.remove(channel))
            .then(|| self.own_came.remove(channel).unwrap_or_default())
    }

    /// Pusher says that the channel has no last event. Whether that is news.
    pub(super) fn missed(&mut self, channel: &str, now: Instant) -> bool {
        let is_known = self.last(channel, now).is_some_and(|last| last.kind == Kind::CacheMiss);
        self.first(channel).is_some_and(|own| own.is_empty()) && !is_known
    }

    /// The channel is not subscribed any more. Where it is wanted still, its clients have its last event.
    pub(super) fn unsubscribed(&mut self, channel: &str, is_wanted: bool) {
        self.has_no_last(channel);
        if !is_wanted {
            self.last.forget(channel);
        }
    }

    /// No channel is subscribed any more; those that are `unwanted` are gone.
    pub(super) fn disconnected(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.awaiting.clear();
        self.own_came.clear();
        self.last.forget_all(|channel| unwanted(channel));
    }

    /// Another connection is read from, which has had the last events.
    pub(super) fn moved(&mut self) {
        self.awaiting.clear();
        self.own_came.clear();
    }

    /// A message has come as its channel's last event, before its publishing was answered.
    pub(super) fn shows(&mut self, sent: Arc<Sent>) {
        // What nobody else holds is not under way any more.
        self.shown.retain(|shown| Arc::strong_count(shown) > 1);
        self.shown.push(sent);
    }

    /// Whether a message that is accepted came as its channel's last event before.
    pub(super) fn was_shown(&mut self, sent: &Arc<Sent>) -> bool {
        let at = self.shown.iter().position(|shown| Arc::ptr_eq(shown, sent));
        at.map(|at| self.shown.swap_remove(at)).is_some()
    }

    /// Keeps an event as its channel's last one.
    pub(super) fn keep(&mut self, event: &Arc<Event>) {
        if let Some(own) = self.own_came.get_mut(&event.channel) {
            own.push(event.clone());
            if own.len() > OWN_MAX {
                self.has_no_last(&event.channel);
            }
        }
        self.last.keep(event.channel.clone(), event.clone(), event.bytes(), event.received.mono);
    }

    /// The channel's last event, or what says that it has none.
    pub(super) fn last(&self, channel: &str, now: Instant) -> Option<Arc<Event>> {
        self.last.last(channel, now)
    }
}

/// Whether an event is a client's own, sent over a WebSocket, of which Pusher keeps none (Pusher docs, "Cache channels"). Its
/// sender tells, where the channel has members. Where it has none, the name must do; on public and encrypted channels
/// no client can send any.
pub(super) fn is_client_event(channel: &str, name: &str, sender: Option<&str>) -> bool {
    sender.is_some() || (name.starts_with("client-") && ChannelKind::of(channel) == ChannelKind::Private)
}
