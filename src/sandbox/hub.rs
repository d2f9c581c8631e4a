//! What all connections share. One mutex, never held across an await: this is a server for development and
//! tests, and its order of events is the order of the lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Options;
use super::faults::Faults;
use super::keys::Keys;
use super::members::{User, member_data};
use super::observe::{ClientEvent, Log, Published};
use super::queue::{Out, Queue, QueueReader, queue};
use super::rules::{self, Publish, Subscription, WsError};
use super::state::{ConnectionId, Joined, Left, State, Subscribed};
use super::webhooks::Hook;
use crate::pusher::channel::{ChannelKind, is_cache};
use crate::pusher::frame;

#[derive(Debug)]
pub(super) struct Hub {
    pub(super) options: Options,
    /// While true, no WebSocket is read or written.
    pub(super) silent: watch::Sender<bool>,
    inner: Mutex<Inner>,
    /// Counts the changes of `inner`.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) log: Log,
    pub(super) faults: Faults,
    pub(super) keys: Keys,
    queues: HashMap<ConnectionId, Queue>,
    /// The last event of each cache channel.
    cached: HashMap<String, Last>,
    subscription_counts: bool,
    hooks: Option<mpsc::UnboundedSender<Hook>>,
}

/// The last event of a cache channel.
#[derive(Debug)]
struct Last {
    frame: String,
    data: String,
    until: Instant,
}

/// Cache channels remembered; further ones are not.
const CACHED_MAX: usize = 1024;
/// How long Pusher keeps a cached event (Pusher docs, "Cache channels").
const CACHED_FOR: Duration = Duration::from_secs(30 * 60);

impl Hub {
    pub(super) fn new(options: Options) -> Self {
        let keys = Keys::of(&options.key, &options.secret);
        let inner = Inner { subscription_counts: options.subscription_counts, keys, ..Inner::default() };
        Self {
            options,
            silent: watch::Sender::new(false),
            inner: Mutex::new(inner),
            changes: watch::Sender::new(0),
        }
    }

    /// Changes what is shared, then wakes whoever waits for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    /// Looks at what is shared.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sees every change after this call.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Inner {
    /// How many WebSockets are established.
    pub(super) fn connections(&self) -> usize {
        self.queues.len()
    }

    fn connect(&mut self, activity_timeout_s: u64) -> (ConnectionId, String, QueueReader) {
        self.log.connections_total += 1;
        let id = self.log.connections_total;
        let socket_id = format!("{}.{id}", fastrand::u32(1..));
        self.state.connect(id, &socket_id);
        let (queue, reader) = queue();
        self.queues.insert(id, queue);
        self.send(id, frame::connection_established(&socket_id, activity_timeout_s));
        (id, socket_id, reader)
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.queues.remove(&id);
        let Some((left, offline)) = self.state.disconnect(id) else { return };
        left.into_iter().for_each(|left| self.left(left));
        if let Some(user) = offline {
            self.tell_watchers("offline", &user.id);
        }
    }

    /// Queues a frame for one connection; one that does not read is cut.
    pub(super) fn send(&mut self, id: ConnectionId, text: impl Into<Utf8Bytes>) {
        self.push(id, Out::Frame(text.into()));
    }

    fn push(&mut self, id: ConnectionId, out: Out) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        if queue.push(out).is_err() {
            tracing::warn!(connection = id, "the sandbox drops a WebSocket that does not read");
            queue.cut();
            self.log.slow_readers_dropped += 1;
            self.disconnect(id);
        }
    }

    /// Queues a frame for the subscribers of `channel`, but for `except`.
    pub(super) fn send_to_channel(&mut self, channel: &str, except: Option<&str>, text: String) {
        let text = Utf8Bytes::from(text);
        for id in self.state.receivers(channel, except) {
            self.send(id, text.clone());
        }
    }

    /// Queues a frame for every connection.
    pub(super) fn send_to_all(&mut self, text: &str) {
        let text = Utf8Bytes::from(text);
        for id in self.ids() {
            self.send(id, text.clone());
        }
    }

    /// Queues the end for the connections signed in as a user.
    pub(super) fn terminate(&mut self, user_id: &str) {
        const REASON: &str = "Connection terminated by the application";
        for id in self.state.signed_in(user_id) {
            self.send(id, frame::error(Some(4009), REASON));
            self.push(id, Out::Close(4009, REASON.to_owned()));
        }
    }

    /// Queues the end for every connection.
    pub(super) fn close_all(&mut self, code: u16, reason: &str) {
        for id in self.ids() {
            self.push(id, Out::Close(code, reason.to_owned()));
        }
    }

    /// Breaks every connection.
    pub(super) fn cut_all(&mut self) {
        for id in self.ids() {
            if let Some(queue) = self.queues.get(&id) {
                queue.cut();
            }
            self.disconnect(id);
        }
    }

    /// Delivers an event on each of its channels.
    pub(super) fn publish(&mut self, publish: &Publish) {
        for channel in &publish.channels {
            let text = frame::event(&publish.event, channel, &publish.data, None);
            if is_cache(channel) && (self.cached.len() < CACHED_MAX || self.cached.contains_key(channel)) {
                let until = Instant::now() + CACHED_FOR;
                let last = Last { frame: text.clone(), data: publish.data.clone(), until };
                self.cached.insert(channel.clone(), last);
            }
            self.send_to_channel(channel, publish.socket_id.as_deref(), text);
            self.log.publish(Published {
                channel: channel.clone(),
                event: publish.event.clone(),
                data: publish.data.clone(),
                socket_id: publish.socket_id.clone(),
            });
        }
    }

    /// Lets the pending subscriptions to `channel` succeed.
    pub(super) fn release_subscriptions(&mut self, channel: &str) {
        for (id, joined) in self.state.release(channel) {
            self.joined(id, channel, joined);
        }
    }

    /// A subscription counts.
    fn joined(&mut self, id: ConnectionId, channel: &str, joined: Joined) {
        self.confirm(id, channel);
        if joined.occupied {
            self.hook(|| Hook::Occupied(channel.to_owned()));
        }
        if let Some(member) = joined.added {
            let data = member_data(&member.user_id, member.info.as_deref());
            let text = frame::event("pusher_internal:member_added", channel, &data, None);
            let others = self.state.receivers(channel, None).into_iter().filter(|other| *other != id);
            others.for_each(|other| self.send(other, text.clone()));
            self.hook(|| Hook::MemberAdded(channel.to_owned(), member.user_id.clone()));
        }
        self.count(channel);
    }

    /// A subscription has ended.
    fn left(&mut self, left: Left) {
        let Left { channel, vacated, removed } = left;
        if let Some(user) = removed {
            let data = member_data(&user, None);
            let text = frame::event("pusher_internal:member_removed", &channel, &data, None);
            self.send_to_channel(&channel, None, text);
            self.hook(|| Hook::MemberRemoved(channel.clone(), user.clone()));
        }
        if vacated {
            self.hook(|| Hook::Vacated(channel.clone()));
        } else {
            self.count(&channel);
        }
    }

    /// Tells the subscribers how many they are, where that is asked for.
    fn count(&mut self, channel: &str) {
        if !self.subscription_counts || ChannelKind::of(channel) == ChannelKind::Presence {
            return;
        }
        let count = self.state.count(channel);
        let data = format!(r#"{{"subscription_count":{count}}}"#);
        let text = frame::event("pusher_internal:subscription_count", channel, &data, None);
        self.send_to_channel(channel, None, text);
        self.hook(|| Hook::SubscriptionCount(channel.to_owned(), count));
    }

    /// Confirms a subscription, and sends the last event of a cache channel, or that there is none.
    fn confirm(&mut self, id: ConnectionId, channel: &str) {
        let data = self.state.members(channel).map(super::members::Members::snapshot);
        self.send(id, frame::subscription_succeeded(channel, data.as_deref().unwrap_or("{}")));
        if !is_cache(channel) {
            return;
        }
        match self.last(channel).map(|last| last.frame.clone()) {
            Some(frame) => self.send(id, frame),
            None => {
                self.send(id, frame::event_raw("pusher:cache_miss", Some(channel), None, None));
                self.hook(|| Hook::CacheMiss(channel.to_owned()));
            }
        }
    }

    fn last(&self, channel: &str) -> Option<&Last> {
        self.cached.get(channel).filter(|last| last.until > Instant::now())
    }

    /// The data of a cache channel's last event, and for how many seconds it is kept.
    pub(super) fn cached(&self, channel: &str) -> Option<(&str, u64)> {
        let last = self.last(channel)?;
        Some((&last.data, last.until.duration_since(Instant::now()).as_secs()))
    }

    /// Forgets a cache channel's last event.
    pub(super) fn forget_cached(&mut self, channel: &str) {
        self.cached.remove(channel);
    }

    fn signed_in(&mut self, id: ConnectionId, user_data: &str, user: &User, is_first: bool) {
        let mut data = String::from(r#"{"user_data":"#);
        frame::string_into(&mut data, user_data);
        data.push('}');
        self.send(id, frame::event_raw("pusher:signin_success", None, Some(&data), None));
        let (online, offline): (Vec<&String>, Vec<&String>) =
            user.watchlist.iter().partition(|watched| self.state.is_online(watched));
        let events: Vec<String> = [("online", online), ("offline", offline)]
            .into_iter()
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(name, ids)| watchlist_event(name, ids.into_iter().map(String::as_str)))
            .collect();
        if !events.is_empty() {
            self.send(id, watchlist_frame(&events.join(",")));
        }
        if is_first {
            self.tell_watchers("online", &user.id);
        }
    }

    fn tell_watchers(&mut self, name: &str, user_id: &str) {
        let text = watchlist_frame(&watchlist_event(name, std::iter::once(user_id)));
        for id in self.state.watchers(user_id) {
            self.send(id, text.clone());
        }
    }

    pub(super) fn send_hooks(&mut self, hooks: mpsc::UnboundedSender<Hook>) {
        self.hooks = Some(hooks);
    }

    fn hook(&self, hook: impl FnOnce() -> Hook) {
        if let Some(hooks) = &self.hooks {
            let _ = hooks.send(hook());
        }
    }

    /// In the order they connected.
    fn ids(&self) -> Vec<ConnectionId> {
        let mut ids: Vec<_> = self.queues.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

fn watchlist_event<'a>(name: &str, ids: impl Iterator<Item = &'a str>) -> String {
    let mut list = String::new();
    for id in ids {
        list.push_str(if list.is_empty() { "" } else { "," });
        frame::string_into(&mut list, id);
    }
    format!(r#"{{"name":"{name}","user_ids":[{list}]}}"#)
}

fn watchlist_frame(events: &str) -> String {
    let data = format!(r#"{{"events":[{events}]}}"#);
    let mut token = String::new();
    frame::string_into(&mut token, &data);
    frame::event_raw("pusher_internal:watchlist_events", None, Some(&token), None)
}

/// One established connection; dropping it ends its subscriptions.
#[derive(Debug)]
pub(super) struct Session {
    hub: Arc<Hub>,
    id: ConnectionId,
    socket_id: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.change(|inner| inner.disconnect(self.id));
    }
}

impl Session {
    /// Begins with `connection_established` in the queue.
    pub(super) fn begin(hub: Arc<Hub>) -> (Self, QueueReader) {
        let activity_timeout_s = hub.options.activity_timeout.as_secs().max(1);
        let (id, socket_id, reader) = hub.change(|inner| inner.connect(activity_timeout_s));
        (Self { hub, id, socket_id }, reader)
    }

    pub(super) fn send(&self, text: impl Into<Utf8Bytes>) {
        self.hub.change(|inner| inner.send(self.id, text));
    }

    pub(super) fn error(&self, error: &WsError) {
        self.send(frame::error(error.code, &error.message));
    }

    /// Queues a `pusher:error` and the end, with the same code.
    pub(super) fn close(&self, code: u16, reason: &str) {
        self.hub.change(|inner| {
            inner.send(self.id, frame::error(Some(code), reason));
            inner.push(self.id, Out::Close(code, reason.to_owned()));
        });
    }

    pub(super) fn subscribe(&self, channel: &str, auth: Option<&str>, channel_data: Option<&str>) {
        let options = &self.hub.options;
        self.hub.change(|inner| {
            inner.log.subscribe(channel);
            let keys = inner.judge_auth(auth);
            let asked = Subscription { channel, auth, channel_data, user: inner.state.user(self.id) };
            let (key, secret) = keys;
            let checked = rules::check_subscribe(&key, &secret, &self.socket_id, asked);
            let refused = inner.faults.refusal(channel).map_or(Ok(()), Err);
            let subscribed = refused.and(checked).and_then(|member| {
                let subscribed = inner.state.subscribe(self.id, channel, member, options.members_max);
                subscribed.map_err(WsError::plain)
            });
            match subscribed {
                Ok(Subscribed::Now(joined)) => inner.joined(self.id, channel, joined),
                Ok(Subscribed::Already) => inner.confirm(self.id, channel),
                Ok(Subscribed::Held) => {}
                Err(error) => inner.send(self.id, frame::error(error.code, &error.message)),
            }
        });
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        self.hub.change(|inner| match inner.state.unsubscribe(self.id, channel) {
            Ok(left) => inner.left(left),
            Err(message) => inner.send(self.id, frame::error(None, &message)),
        });
    }

    pub(super) fn sign_in(&self, auth: &str, user_data: &str) {
        let (key, secret) = self.hub.change(|inner| inner.judge_auth(Some(auth)));
        let checked = rules::check_sign_in(&key, &secret, &self.socket_id, auth, user_data);
        self.hub.change(|inner| {
            let signed_in = checked.and_then(|user| {
                let is_first = inner.state.sign_in(self.id, user.clone()).map_err(WsError::plain)?;
                Ok((user, is_first))
            });
            match signed_in {
                Ok((user, is_first)) => inner.signed_in(self.id, user_data, &user, is_first),
                Err(error) => inner.send(self.id, frame::error(error.code, &error.message)),
            }
        });
    }

    /// Forwards a client event to the other subscribers, its data as it came (as soketi does).
    pub(super) fn client_event(&self, event: &str, channel: &str, data: Option<&str>) {
        self.hub.change(|inner| {
            let subscribed = inner.state.is_subscribed(self.id, channel);
            let checked = rules::check_client_event(event, channel, data.unwrap_or_default(), subscribed);
            if let Err(error) = checked {
                inner.send(self.id, frame::error(error.code, &error.message));
                return;
            }
            let members = inner.state.members(channel);
            let user_id = members.and_then(|members| members.user_of(self.id)).map(str::to_owned);
            let text = frame::event_raw(event, Some(channel), data, user_id.as_deref());
            inner.send_to_channel(channel, Some(&self.socket_id), text);
            inner.hook(|| Hook::ClientEvent {
                channel: channel.to_owned(),
                event: event.to_owned(),
                data: frame::data_json(data).into_owned(),
                socket_id: self.socket_id.clone(),
                user_id,
            });
            inner.log.client_event(ClientEvent {
                channel: channel.to_owned(),
                event: event.to_owned(),
                data: data.map(str::to_owned),
                socket_id: self.socket_id.clone(),
            });
        });
    }

    /// Whether the next client event is refused as one too many.
    pub(super) fn is_limited(&self) -> bool {
        self.hub.change(|inner| inner.faults.limits_client_event())
    }

    pub(super) fn ping(&self) {
        self.hub.change(|inner| {
            inner.log.pings += 1;
            inner.send(self.id, frame::PONG);
        });
    }
}
