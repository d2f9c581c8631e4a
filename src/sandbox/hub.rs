//! What all connections share. One mutex, never held across an await: this is a server for development and
//! tests, and its order of events is the order of the lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Options;
use super::faults::Faults;
use super::observe::{ClientEvent, Log, Published};
use super::queue::{Out, Queue, QueueReader, queue};
use super::rules::{self, Publish, WsError};
use super::state::{ConnectionId, State, Subscribed};
use crate::pusher::channel::is_cache;
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
    queues: HashMap<ConnectionId, Queue>,
    /// The last event's frame of each cache channel.
    cached: HashMap<String, String>,
}

/// Cache channels remembered; further ones are not.
const CACHED_MAX: usize = 1024;

impl Hub {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            silent: watch::Sender::new(false),
            inner: Mutex::default(),
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
        self.state.disconnect(id);
        self.queues.remove(&id);
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
                self.cached.insert(channel.clone(), text.clone());
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
        for id in self.state.release(channel) {
            self.confirm(id, channel);
        }
    }

    /// Confirms a subscription, and sends the last event of a cache channel, or that there is none.
    fn confirm(&mut self, id: ConnectionId, channel: &str) {
        self.send(id, frame::subscription_succeeded(channel, "{}"));
        if is_cache(channel) {
            let cached = self.cached.get(channel).cloned();
            let miss = || frame::event_raw("pusher:cache_miss", Some(channel), None, None);
            self.send(id, cached.unwrap_or_else(miss));
        }
    }

    /// In the order they connected.
    fn ids(&self) -> Vec<ConnectionId> {
        let mut ids: Vec<_> = self.queues.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
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

    pub(super) fn subscribe(&self, channel: &str, auth: Option<&str>) {
        let options = &self.hub.options;
        let checked = rules::check_subscribe(&options.key, &options.secret, &self.socket_id, channel, auth);
        self.hub.change(|inner| {
            inner.log.subscribe(channel);
            let subscribed =
                checked.and_then(|()| inner.state.subscribe(self.id, channel).map_err(WsError::plain));
            match subscribed {
                Ok(Subscribed::Now) => inner.confirm(self.id, channel),
                Ok(Subscribed::Held) => {}
                Err(error) => inner.send(self.id, frame::error(error.code, &error.message)),
            }
        });
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        self.hub.change(|inner| {
            if let Err(message) = inner.state.unsubscribe(self.id, channel) {
                inner.send(self.id, frame::error(None, &message));
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
            let text = frame::event_raw(event, Some(channel), data, None);
            inner.send_to_channel(channel, Some(&self.socket_id), text);
            inner.log.client_event(ClientEvent {
                channel: channel.to_owned(),
                event: event.to_owned(),
                data: data.map(str::to_owned),
                socket_id: self.socket_id.clone(),
            });
        });
    }

    pub(super) fn ping(&self) {
        self.hub.change(|inner| {
            inner.log.pings += 1;
            inner.send(self.id, frame::PONG);
        });
    }
}
