//! What tests and the developer see of a sandbox.

use std::collections::{BTreeSet, VecDeque};

use super::SandboxHandle;
use super::hub::Inner;

/// Most entries of each log; the oldest make room.
pub const LOG_ENTRIES_MAX: usize = 65_536;
/// Most bytes of each log of events; the oldest make room.
pub const LOG_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most names that [`SandboxHandle::ever_subscribed`] remembers; later ones are not.
pub const EVER_SUBSCRIBED_MAX: usize = 100_000;

/// An event published by HTTP or in-process, once for each of its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its channel.
    pub channel: String,
    /// Its name.
    pub event: String,
    /// The text of its data.
    pub data: String,
    /// The connection that did not get it.
    pub socket_id: Option<String>,
}

/// A client event that was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEvent {
    /// Its channel.
    pub channel: String,
    /// Its name.
    pub event: String,
    /// Its data, raw JSON.
    pub data: Option<String>,
    /// Its sender.
    pub socket_id: String,
}

/// The signed and well-formed publishes received over HTTP, whatever was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// How many requests.
    pub count: u64,
    /// How many events each of the last [`LOG_ENTRIES_MAX`] had: 1 for `/events`, up to 10 for
    /// `/batch_events`.
    pub sizes: VecDeque<usize>,
}

/// A log bounded in entries and bytes.
#[derive(Debug)]
struct Bounded<T> {
    entries: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Bounded<T> {
    fn push(&mut self, entry: T, bytes: usize) {
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
        while self.entries.len() > LOG_ENTRIES_MAX || self.bytes > LOG_BYTES_MAX {
            let Some((_, bytes)) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= bytes;
        }
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.entries.iter().map(|(entry, _)| entry)
    }
}

/// Everything that is only observed.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) attempts: u64,
    pub(super) connections_total: u64,
    pub(super) pings: u64,
    pub(super) slow_readers_dropped: u64,
    published: Bounded<Published>,
    client_events: Bounded<ClientEvent>,
    requests: Requests,
    ever_subscribed: BTreeSet<String>,
}

impl Log {
    pub(super) fn publish(&mut self, published: Published) {
        let bytes = published.data.len() + published.event.len() + published.channel.len();
        self.published.push(published, bytes);
    }

    pub(super) fn client_event(&mut self, event: ClientEvent) {
        let bytes = event.data.as_deref().map_or(0, str::len) + event.event.len() + event.channel.len();
        self.client_events.push(event, bytes);
    }

    pub(super) fn request(&mut self, events: usize) {
        self.requests.count += 1;
        self.requests.sizes.push_back(events);
        if self.requests.sizes.len() > LOG_ENTRIES_MAX {
            self.requests.sizes.pop_front();
        }
    }

    pub(super) fn subscribe(&mut self, channel: &str) {
        if self.ever_subscribed.len() < EVER_SUBSCRIBED_MAX {
            self.ever_subscribed.insert(channel.to_owned());
        }
    }
}

/// One consistent look at a sandbox.
#[derive(Debug)]
pub struct View<'a>(&'a Inner);

impl View<'_> {
    /// WebSockets established now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections()
    }

    /// WebSockets ever established.
    #[must_use]
    pub fn connections_total(&self) -> u64 {
        self.0.log.connections_total
    }

    /// WebSockets ever asked for, those refused among them.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.0.log.attempts
    }

    /// `pusher:ping`s answered.
    #[must_use]
    pub fn pings(&self) -> u64 {
        self.0.log.pings
    }

    /// WebSockets dropped because they did not read.
    #[must_use]
    pub fn slow_readers_dropped(&self) -> u64 {
        self.0.log.slow_readers_dropped
    }

    /// Connections subscribed to `channel`.
    #[must_use]
    pub fn subscribed(&self, channel: &str) -> usize {
        self.0.state.count(channel)
    }

    /// Subscriptions to `channel` that wait for [`SandboxHandle::release_subscriptions`].
    #[must_use]
    pub fn pending(&self, channel: &str) -> usize {
        self.0.state.pending(channel)
    }

    /// Every occupied channel with the number of its connections, by name.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<(String, usize)> {
        self.0.state.channels().map(|(channel, count)| (channel.to_owned(), count)).collect()
    }

    /// The ids of a presence channel's members, in order.
    #[must_use]
    pub fn members(&self, channel: &str) -> Vec<String> {
        let members = self.0.state.members(channel);
        members.into_iter().flat_map(super::members::Members::ids).map(str::to_owned).collect()
    }

    /// Connections signed in as a user.
    #[must_use]
    pub fn signed_in(&self, user_id: &str) -> usize {
        self.0.state.signed_in(user_id).len()
    }

    /// The events published, oldest first, as far as the log reaches.
    pub fn published(&self) -> impl DoubleEndedIterator<Item = &Published> {
        self.0.log.published.iter()
    }

    /// The client events forwarded, oldest first, as far as the log reaches.
    pub fn client_events(&self) -> impl DoubleEndedIterator<Item = &ClientEvent> {
        self.0.log.client_events.iter()
    }

    /// The publishes received over HTTP.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.0.log.requests
    }

    /// Publishes that wait for their [`PublishHold`](super::PublishHold).
    #[must_use]
    pub fn held_publishes(&self) -> usize {
        self.0.faults.held_publishes()
    }

    /// Every channel anybody ever tried to subscribe to, by name.
    pub fn ever_subscribed(&self) -> impl Iterator<Item = &str> {
        self.0.log.ever_subscribed.iter().map(String::as_str)
    }
}

impl SandboxHandle {
    /// One consistent look.
    pub fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        self.hub().look(|inner| look(&View(inner)))
    }

    /// Waits until `holds` does, asking after every change. Never times out by itself.
    pub async fn wait_for(&self, mut holds: impl FnMut(&View<'_>) -> bool) {
        let mut changes = self.hub().changes();
        while !self.view(&mut holds) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// See [`View::published`].
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        self.view(|view| view.published().cloned().collect())
    }

    /// See [`View::client_events`].
    #[must_use]
    pub fn client_events(&self) -> Vec<ClientEvent> {
        self.view(|view| view.client_events().cloned().collect())
    }

    /// See [`View::requests`].
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.view(|view| view.requests().clone())
    }

    /// See [`View::subscriptions`].
    #[must_use]
    pub fn subscriptions(&self) -> Vec<(String, usize)> {
        self.view(|view| view.subscriptions())
    }

    /// See [`View::connections`].
    #[must_use]
    pub fn connections(&self) -> usize {
        self.view(|view| view.connections())
    }

    /// See [`View::ever_subscribed`].
    #[must_use]
    pub fn ever_subscribed(&self) -> Vec<String> {
        self.view(|view| view.ever_subscribed().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_forget_their_oldest() {
        let mut log = Bounded::default();
        for n in 0..=LOG_ENTRIES_MAX {
            log.push(n, 1);
        }
        assert_eq!((log.iter().next(), log.entries.len()), (Some(&1), LOG_ENTRIES_MAX));
        log.push(0, LOG_BYTES_MAX);
        assert_eq!((log.entries.len(), log.bytes), (1, LOG_BYTES_MAX));
    }
}
