//! Publishing requests under way on one link's channels, and which of them could still deliver a copy to the
//! link. Every request names the link's socket id, so that Pusher sends its events to everybody but this
//! bridge, which delivers them itself. A request that names another connection, or none, does not exclude the
//! present one: its channels are not subscribed before it has ended.

use std::collections::HashMap;
use std::sync::Arc;

/// Requests under way, and the socket id that new ones name.
#[derive(Debug, Default)]
pub struct Flights {
    socket_id: Option<Arc<str>>,
    next_id: u64,
    /// At most one for each lane.
    under_way: HashMap<u64, Flight>,
}

#[derive(Debug)]
struct Flight {
    channels: Vec<Arc<str>>,
    /// It was sent before the present connection was established.
    stale: bool,
}

impl Flights {
    /// A request for events on `channels` is about to be sent. Gives its number, for [`Self::end`], and the
    /// socket id to exclude; `None` while there is no connection.
    pub fn begin(&mut self, channels: Vec<Arc<str>>) -> (u64, Option<Arc<str>>) {
        let id = self.next_id;
        self.next_id += 1;
        self.under_way.insert(id, Flight { channels, stale: false });
        (id, self.socket_id.clone())
    }

    /// The request has ended, whether it was answered or given up. Gives the channels that it kept from being
    /// subscribed.
    pub fn end(&mut self, id: u64) -> Vec<Arc<str>> {
        match self.under_way.remove(&id) {
            Some(Flight { channels, stale: true }) => channels,
            _ => Vec::new(),
        }
    }

    /// A new connection is established. Gives the channels that must not be subscribed yet, one for each
    /// [`Self::end`] that has to come first.
    pub fn connected(&mut self, socket_id: &str) -> Vec<Arc<str>> {
        self.socket_id = Some(socket_id.into());
        let mut held = Vec::new();
        for flight in self.under_way.values_mut() {
            flight.stale = true;
            held.extend_from_slice(&flight.channels);
        }
        held
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        self.socket_id = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_request_names_the_connection_that_it_was_sent_under() {
        let mut flights = Flights::default();
        assert_eq!(flights.begin(channels(&["a"])).1, None);
        flights.connected("1.1");
        assert_eq!(flights.begin(channels(&["a"])).1.as_deref(), Some("1.1"));
        flights.disconnected();
        assert_eq!(flights.begin(channels(&["a"])).1, None);
        flights.connected("2.2");
        assert_eq!(flights.begin(channels(&["a"])).1.as_deref(), Some("2.2"));
    }

    #[test]
    fn what_does_not_name_the_present_connection_holds_its_channels() {
        let mut flights = Flights::default();
        let (before, _) = flights.begin(channels(&["a", "b"]));
        assert_eq!(flights.connected("1.1"), channels(&["a", "b"]));
        let (now, _) = flights.begin(channels(&["a"]));
        assert_eq!(flights.end(now), channels(&[]));
        assert_eq!(flights.end(before), channels(&["a", "b"]));
        assert_eq!(flights.end(before), channels(&[]), "once");

        let (older, _) = flights.begin(channels(&["a"]));
        flights.disconnected();
        let (between, _) = flights.begin(channels(&["a"]));
        assert_eq!(flights.connected("2.2"), channels(&["a", "a"]));
        assert_eq!([flights.end(older), flights.end(between)], [channels(&["a"]), channels(&["a"])]);
    }
}
