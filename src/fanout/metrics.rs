//! What hubs count: events by whom they reached, and how long that took.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Histogram, Named, Registry};
use crate::routes::edition::{PerRoute, RouteId};
use crate::upstream::metrics::EventResult;

labels! {
    /// What somebody who subscribed to a cache channel was told of its last event.
    pub enum LateJoiner: "result" {
        /// The event.
        Event = "event",
        /// That there is none.
        CacheMiss = "cache_miss",
        /// Nothing: the filter has another value, or it was the client's own.
        NotFor = "not_for",
        /// Nothing: it is not known yet, and comes when it is, or there was no room to keep it.
        Unknown = "unknown",
    }
}

pub struct Metrics {
    delivery_delay: Histogram,
    late_joiners: Family<LateJoiner>,
    /// Events from Pusher.
    pub events: Family<EventResult>,
    dropped: Named<Counter>,
    dropped_of: PerRoute<Counter>,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry, events: Family<EventResult>) -> Self {
        Self {
            delivery_delay: registry.declare(
                "pusher_bridge_delivery_delay_seconds",
                "From an event read from Pusher to its frames given to the sockets",
            ),
            late_joiners: registry.declare(
                "pusher_bridge_cache_subscriptions_total",
                "Subscriptions of clients to cache channels, by what each was told of the last event",
            ),
            events,
            dropped: registry.declare_named(
                "route",
                "pusher_bridge_events_dropped_total",
                "Events that a rule of the route keeps from its clients",
            ),
            dropped_of: PerRoute::default(),
        }
    }

    /// Events that rules of this route keep from its clients.
    pub fn dropped(&self, route: RouteId, name: &str) -> Arc<Counter> {
        self.dropped_of.get_or_make(route, || self.dropped.named(name))
    }

    /// Somebody subscribed to a cache channel.
    pub fn late_joiner(&self, told: LateJoiner) {
        self.late_joiners.get(told).increment(1);
    }

    /// An event had been read at `received` and is now with its sockets.
    pub fn delivery_delay(&self, received: Instant) {
        self.delivery_delay
            .record(tokio::time::Instant::now().into_std().saturating_duration_since(received));
    }
}
