//! Another connection takes the place of the one that there is, with all its subscriptions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, Machine, Phase};
use crate::upstream::delivery::Event;
use crate::upstream::flights::SharedFlights;

impl Machine {
    /// The requests under way on its channels.
    #[must_use]
    pub const fn flights(&self) -> &SharedFlights {
        &self.flights
    }

    /// Whether there is a connection.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected { .. })
    }

    /// Whether the connection may be replaced now by one that has what this one has: nothing waits for an answer over it.
    /// If clients' events do, no more of them are sent for a moment.
    pub fn may_move(&mut self, now: Instant) -> bool {
        let client_events = &self.client_events;
        // A channel that nobody wants any more goes with the connection: its clients' last events leave before.
        let is_needed = || self.table.is_needed(|channel| client_events.has(channel));
        if !self.is_connected() || self.table.is_subscribing() || is_needed() {
            return false;
        }
        if !self.client_events.is_idle() {
            self.client_events.pause(now);
        }
        self.client_events.is_idle()
    }

    /// It is replaced by one of this socket id, which has all channels that are wanted. Those that linger end with the one
    /// before: whoever comes back subscribes anew.
    pub fn moved(
        &mut self,
        socket_id: &str,
        activity_timeout: Option<Duration>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.probe.disconnected();
        self.begin_connection(activity_timeout, now);
        self.flights.lock().moved(socket_id);
        self.cache.moved();
        self.client_events.moved();
        self.table.moved(&mut self.ops);
        self.carry_over(now, out);
    }

    /// Keeps what another connection brought of a cache channel.
    pub fn note_last(&mut self, event: &Arc<Event>) {
        if event.says_last() {
            self.cache.keep(event);
        }
    }
}
