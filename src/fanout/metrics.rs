//! What hubs count: events by whom they reached, and how long that took.

use std::time::Instant;

use crate::metrics::{Family, Histogram, Registry};
use crate::upstream::metrics::EventResult;

pub struct Metrics {
    delivery_delay: Histogram,
    /// Events from Pusher.
    pub events: Family<EventResult>,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry, events: Family<EventResult>) -> Self {
        Self {
            delivery_delay: registry.declare(
                "pusher_bridge_delivery_delay_seconds",
                "From an event read from Pusher to its frames given to the sockets",
            ),
            events,
        }
    }

    /// An event had been read at `received` and is now with its sockets.
    pub fn delivery_delay(&self, received: Instant) {
        self.delivery_delay
            .record(tokio::time::Instant::now().into_std().saturating_duration_since(received));
    }
}
