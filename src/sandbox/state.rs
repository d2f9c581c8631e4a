//! Pure: who is subscribed to what, and who receives an event.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most channels one connection may be subscribed to. Pusher has no such limit; memory has.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 100_000;

/// One WebSocket connection, never reused.
pub(crate) type ConnectionId = u64;

/// What became of a subscription that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscribed {
    /// It counts.
    Now,
    /// It waits for [`State::release`] and receives nothing before.
    Held,
}

/// Connections, channels and the subscriptions between them.
#[derive(Debug, Default)]
pub(crate) struct State {
    connections: HashMap<ConnectionId, Connection>,
    by_socket_id: HashMap<String, ConnectionId>,
    channels: BTreeMap<String, BTreeSet<ConnectionId>>,
    held_channels: BTreeSet<String>,
    /// In order of arrival.
    pending: Vec<(ConnectionId, String)>,
    /// A second subscription is confirmed, not refused.
    pub(crate) confirms_existing: bool,
}

#[derive(Debug)]
struct Connection {
    socket_id: String,
    channels: BTreeSet<String>,
}

impl State {
    /// A connection begins.
    pub(crate) fn connect(&mut self, id: ConnectionId, socket_id: &str) {
        let connection = Connection { socket_id: socket_id.to_owned(), channels: BTreeSet::new() };
        self.connections.insert(id, connection);
        self.by_socket_id.insert(socket_id.to_owned(), id);
    }

    /// A connection ended, and its subscriptions with it. Whether it was there.
    pub(crate) fn disconnect(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.remove(&id) else {
            return false;
        };
        self.by_socket_id.remove(&connection.socket_id);
        for channel in &connection.channels {
            self.remove_subscriber(id, channel);
        }
        self.pending.retain(|(other, _)| *other != id);
        true
    }

    /// Subscribes `id` to `channel`, or puts it among the pending where the channel is held.
    ///
    /// # Errors
    /// What Pusher answers: already subscribed.
    pub(crate) fn subscribe(&mut self, id: ConnectionId, channel: &str) -> Result<Subscribed, String> {
        let pending = self.is_pending(id, channel);
        let count = self.pending.iter().filter(|(other, _)| *other == id).count();
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err("The connection has ended".to_owned());
        };
        if self.confirms_existing && connection.channels.contains(channel) {
            return Ok(Subscribed::Now);
        }
        if pending || connection.channels.contains(channel) {
            return Err(format!("Existing subscription to channel {channel}"));
        }
        if connection.channels.len() + count >= SUBSCRIPTIONS_PER_CONNECTION_MAX {
            return Err(format!(
                "More than {SUBSCRIPTIONS_PER_CONNECTION_MAX} subscriptions on a connection"
            ));
        }
        if self.held_channels.contains(channel) {
            self.pending.push((id, channel.to_owned()));
            return Ok(Subscribed::Held);
        }
        connection.channels.insert(channel.to_owned());
        self.channels.entry(channel.to_owned()).or_default().insert(id);
        Ok(Subscribed::Now)
    }

    /// Ends a subscription. A pending one stays, as Pusher's message says.
    ///
    /// # Errors
    /// What Pusher answers: not subscribed, or not yet.
    pub(crate) fn unsubscribe(&mut self, id: ConnectionId, channel: &str) -> Result<(), String> {
        let removed = self.connections.get_mut(&id).is_some_and(|c| c.channels.remove(channel));
        if !removed {
            return Err(format!("No current subscription to channel {channel}, or subscription in progress"));
        }
        self.remove_subscriber(id, channel);
        Ok(())
    }

    /// Ends every subscription to `channel`, of which nobody is told.
    pub(crate) fn forget(&mut self, channel: &str) {
        for id in self.channels.remove(channel).unwrap_or_default() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.channels.remove(channel);
            }
        }
    }

    /// The same for all channels.
    pub(crate) fn forget_all(&mut self) {
        self.channels.clear();
        self.connections.values_mut().for_each(|connection| connection.channels.clear());
    }

    /// From now on subscriptions to `channel` are pending.
    pub(crate) fn hold(&mut self, channel: &str) {
        self.held_channels.insert(channel.to_owned());
    }

    /// Lets the pending subscriptions to `channel` count; theirs are the connections given, in order.
    pub(crate) fn release(&mut self, channel: &str) -> Vec<ConnectionId> {
        self.held_channels.remove(channel);
        let released: Vec<_> =
            self.pending.iter().filter(|(_, on)| on == channel).map(|(id, _)| *id).collect();
        self.pending.retain(|(_, on)| on != channel);
        for id in &released {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.channels.insert(channel.to_owned());
                self.channels.entry(channel.to_owned()).or_default().insert(*id);
            }
        }
        released
    }

    /// Who receives an event on `channel`, but for the connection with the id `except`.
    pub(crate) fn receivers(&self, channel: &str, except: Option<&str>) -> Vec<ConnectionId> {
        let except = except.and_then(|socket_id| self.by_socket_id.get(socket_id));
        let all = self.channels.get(channel).into_iter().flatten();
        all.filter(|id| Some(*id) != except).copied().collect()
    }

    /// Whether `id` is subscribed to `channel`.
    pub(crate) fn is_subscribed(&self, id: ConnectionId, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|ids| ids.contains(&id))
    }

    /// How many connections are subscribed to `channel`.
    pub(crate) fn count(&self, channel: &str) -> usize {
        self.channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// How many subscriptions to `channel` are pending.
    pub(crate) fn pending(&self, channel: &str) -> usize {
        self.pending.iter().filter(|(_, on)| on == channel).count()
    }

    /// Every occupied channel with the number of its connections, by name.
    pub(crate) fn channels(&self) -> impl Iterator<Item = (&str, usize)> {
        self.channels.iter().map(|(channel, ids)| (channel.as_str(), ids.len()))
    }

    fn is_pending(&self, id: ConnectionId, channel: &str) -> bool {
        self.pending.iter().any(|(other, on)| *other == id && on == channel)
    }

    fn remove_subscriber(&mut self, id: ConnectionId, channel: &str) {
        if let Some(ids) = self.channels.get_mut(channel) {
            ids.remove(&id);
            if ids.is_empty() {
                self.channels.remove(channel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> State {
        let mut state = State::default();
        state.connect(1, "10.1");
        state.connect(2, "10.2");
        state
    }

    #[test]
    fn events_reach_subscribers_but_the_excluded() {
        let mut state = two();
        assert_eq!(state.subscribe(1, "a"), Ok(Subscribed::Now));
        assert_eq!(state.subscribe(2, "a"), Ok(Subscribed::Now));
        assert_eq!(state.subscribe(2, "b"), Ok(Subscribed::Now));
        assert_eq!(state.receivers("a", None), [1, 2]);
        assert_eq!(state.receivers("a", Some("10.1")), [2]);
        assert_eq!(state.receivers("a", Some("9.9")), [1, 2]);
        assert_eq!(state.receivers("c", None), [0; 0]);
        assert_eq!(state.channels().collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
        assert!(state.disconnect(2));
        assert!(!state.disconnect(2));
        assert_eq!(state.channels().collect::<Vec<_>>(), [("a", 1)]);
        assert!(state.is_subscribed(1, "a") && !state.is_subscribed(2, "a"));
    }

    #[test]
    fn a_second_subscription_and_an_absent_one_are_errors() {
        let mut state = two();
        assert_eq!(state.subscribe(1, "a"), Ok(Subscribed::Now));
        assert_eq!(state.subscribe(1, "a"), Err("Existing subscription to channel a".to_owned()));
        assert_eq!(state.unsubscribe(1, "a"), Ok(()));
        let error = "No current subscription to channel a, or subscription in progress";
        assert_eq!(state.unsubscribe(1, "a"), Err(error.to_owned()));
        assert_eq!(state.count("a"), 0);
        assert_eq!(state.subscribe(1, "a"), Ok(Subscribed::Now));
        assert!(state.subscribe(3, "a").is_err());
    }

    #[test]
    fn held_subscriptions_count_when_released() {
        let mut state = two();
        state.hold("a");
        assert_eq!(state.subscribe(2, "a"), Ok(Subscribed::Held));
        assert_eq!(state.subscribe(1, "a"), Ok(Subscribed::Held));
        assert!(state.subscribe(1, "a").is_err() && state.unsubscribe(1, "a").is_err());
        assert_eq!((state.pending("a"), state.count("a")), (2, 0));
        assert_eq!(state.subscribe(1, "b"), Ok(Subscribed::Now));
        assert_eq!(state.release("a"), [2, 1]);
        assert_eq!((state.pending("a"), state.count("a")), (0, 2));
        assert_eq!(state.subscribe(1, "a"), Err("Existing subscription to channel a".to_owned()));

        state.hold("c");
        assert_eq!(state.subscribe(1, "c"), Ok(Subscribed::Held));
        state.disconnect(1);
        assert_eq!(state.release("c"), [0; 0]);
    }
}
