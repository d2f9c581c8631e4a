//! What hubs count: events by whom they reached, and how long that took.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::{Family, Histogram, Registry};
use crate::upstream::metrics::EventResult;
use crate::websocket;
use crate::websocket::metrics::Traffic;

/// The hubs' metrics.
pub struct Metrics {
    delivery_delay: Histogram,
    /// Events from Pusher.
    pub events: Family<EventResult>,
    traffic: Box<[Traffic]>,
}

impl Metrics {
    /// Declares them, for routes of these names.
    #[must_use]
    pub fn new(
        registry: &Registry,
        websocket: &websocket::metrics::Metrics,
        events: Family<EventResult>,
        routes: &[Arc<str>],
    ) -> Self {
        Self {
            delivery_delay: registry.declare(
                "pusher_bridge_delivery_delay_seconds",
                "From an event read from Pusher to its frames given to the sockets",
            ),
            events,
            traffic: routes.iter().map(|route| websocket.of(route)).collect(),
        }
    }

    /// Frames of `length` bytes went to clients of the route of this index.
    pub fn sent(&self, route: usize, frames: usize, length: usize) {
        if let Some(traffic) = self.traffic.get(route) {
            traffic.sent(frames, length);
        }
    }

    /// An event had been read at `received` and is now with its sockets.
    pub fn delivery_delay(&self, received: Instant) {
        self.delivery_delay
            .record(tokio::time::Instant::now().into_std().saturating_duration_since(received));
    }
}
