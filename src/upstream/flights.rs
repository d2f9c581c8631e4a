//! Publishing requests under way on one link's channels, and which of them could still deliver a copy to the
//! link. Every request names the link's socket id, so that Pusher sends its events to everybody but this
//! bridge, which delivers them itself. A request that names another connection, or none, does not exclude the
//! present one: its channels are not subscribed before it has ended.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::delivery::Sent;
use crate::pusher::frame::text_json;

/// How long after a request's end its copies may still come, for Pusher answers before it delivers. So long its channels
/// wait with a connection that it does not exclude.
pub const DELIVERY_TIME: Duration = Duration::from_millis(250);

/// Requests under way, and the socket id that new ones name.
#[derive(Debug, Default)]
pub struct Flights {
    socket_id: Option<Arc<str>>,
    next_id: u64,
    /// At most one for each lane.
    under_way: HashMap<u64, Flight>,
    /// The channels of those that ended a moment ago.
    ended: VecDeque<(Instant, Vec<Arc<str>>)>,
    /// While the connection is replaced: which of the two has that socket id. The link is told of requests, then.
    side: Option<usize>,
}

/// What must not be subscribed yet on a new connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// One for each [`Flights::end`] that has to come first.
    pub by_requests: Vec<Arc<str>>,
    /// For [`DELIVERY_TIME`].
    pub for_a_moment: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Flight {
    channels: Vec<Arc<str>>,
    /// Its messages on cache channels.
    cached: Vec<Arc<Sent>>,
    /// It was sent before the present connection was established.
    stale: bool,
}

/// The requests under way on one link's channels.
#[derive(Clone, Debug, Default)]
pub struct SharedFlights(Arc<Mutex<Flights>>);

impl SharedFlights {
    /// Valid between any two calls, whatever panicked.
    pub fn lock(&self) -> MutexGuard<'_, Flights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flights {
    /// A request for events on `channels` is about to be sent. Gives its number, for [`Self::end`], and the
    /// socket id to exclude; `None` while there is no connection.
    pub fn begin(&mut self, channels: Vec<Arc<str>>) -> (u64, Option<Arc<str>>) {
        let id = self.next_id;
        self.next_id += 1;
        self.under_way.insert(id, Flight { channels, cached: Vec::new(), stale: false });
        (id, self.socket_id.clone())
    }

    /// The request carries these messages of cache channels, which Pusher may send as last events before it answers.
    pub fn carries(&mut self, id: u64, cached: Vec<Arc<Sent>>) {
        if let Some(flight) = self.under_way.get_mut(&id) {
            flight.cached = cached;
        }
    }

    /// The message that this event of a cache channel is, if a request carries it. `data` is JSON.
    #[must_use]
    pub fn carried(&self, channel: &str, name: &str, data: &str) -> Option<Arc<Sent>> {
        let mut carried = self.under_way.values().flat_map(|flight| &flight.cached);
        let is = |sent: &&Arc<Sent>| {
            *sent.channel == *channel && sent.event == name && text_json(&sent.data) == data
        };
        carried.find(is).cloned()
    }

    /// The request has ended, whether it was answered or given up. Gives the channels that it kept from being
    /// subscribed.
    pub fn end(&mut self, id: u64, now: Instant) -> Vec<Arc<str>> {
        self.forget(now);
        match self.under_way.remove(&id) {
            Some(Flight { channels, stale: true, .. }) => channels,
            Some(Flight { channels, .. }) => {
                self.ended.push_back((now, channels));
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.ended.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= DELIVERY_TIME) {
            self.ended.pop_front();
        }
    }

    /// A new connection is established.
    pub fn connected(&mut self, socket_id: &str, now: Instant) -> Held {
        self.forget(now);
        self.socket_id = Some(socket_id.into());
        let for_a_moment = self.ended.drain(..).flat_map(|(_, channels)| channels).collect();
        let mut held = Held { for_a_moment, ..Held::default() };
        for flight in self.under_way.values_mut() {
            flight.stale = true;
            held.by_requests.extend_from_slice(&flight.channels);
        }
        held
    }

    pub fn disconnected(&mut self) {
        self.socket_id = None;
    }

    /// Whether there is a connection.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.socket_id.is_some()
    }

    /// The connection is being replaced, or not any more; which of both requests exclude.
    pub const fn replacing(&mut self, side: Option<usize>) {
        self.side = side;
    }

    /// Which of two connections requests exclude; `None`: there are not two.
    #[must_use]
    pub const fn side(&self) -> Option<usize> {
        self.side
    }

    /// From now on requests exclude this socket, on which everything is subscribed.
    pub fn moved(&mut self, socket_id: &str) {
        self.socket_id = Some(socket_id.into());
    }

    /// The numbers of the requests under way.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        self.under_way.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    fn channels(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_request_names_the_connection_that_it_was_sent_under() {
        let (mut flights, at) = (Flights::default(), now().mono);
        assert_eq!(flights.begin(channels(&["a"])).1, None);
        flights.connected("1.1", at);
        assert_eq!(flights.begin(channels(&["a"])).1.as_deref(), Some("1.1"));
        flights.disconnected();
        assert_eq!(flights.begin(channels(&["a"])).1, None);
        flights.connected("2.2", at);
        assert_eq!(flights.begin(channels(&["a"])).1.as_deref(), Some("2.2"));
    }

    #[test]
    fn what_does_not_name_the_present_connection_holds_its_channels() {
        let (mut flights, at) = (Flights::default(), now().mono);
        let by_requests = |names| Held { by_requests: channels(names), ..Held::default() };
        let (before, _) = flights.begin(channels(&["a", "b"]));
        assert_eq!(flights.connected("1.1", at), by_requests(&["a", "b"]));
        let (here, _) = flights.begin(channels(&["a"]));
        assert_eq!(flights.end(here, at), channels(&[]));
        let late = at + DELIVERY_TIME;
        assert_eq!(flights.end(before, late), channels(&["a", "b"]));
        assert_eq!(flights.end(before, late), channels(&[]), "once");

        let (older, _) = flights.begin(channels(&["a"]));
        flights.disconnected();
        let (between, _) = flights.begin(channels(&["a"]));
        assert_eq!(flights.connected("2.2", late), by_requests(&["a", "a"]));
        let ended = [flights.end(older, late), flights.end(between, late)];
        assert_eq!(ended, [channels(&["a"]), channels(&["a"])]);
    }

    #[test]
    fn what_ended_a_moment_before_a_connection_holds_its_channels_for_a_moment() {
        let (mut flights, at) = (Flights::default(), now().mono);
        flights.connected("1.1", at);
        let (early, _) = flights.begin(channels(&["a"]));
        let (late, _) = flights.begin(channels(&["b"]));
        flights.end(early, at);
        flights.end(late, at + DELIVERY_TIME / 2);
        flights.disconnected();
        let held = flights.connected("2.2", at + DELIVERY_TIME);
        assert_eq!(held, Held { for_a_moment: channels(&["b"]), ..Held::default() });
    }
}
