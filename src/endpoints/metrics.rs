//! What the endpoints count.

use super::reply::EndpointResult;
use super::settings::Endpoint;
use super::webhooks::WebhookEvent;
use crate::metrics::{Family, Registry};

pub struct Metrics {
    /// Requests, by what became of them.
    pub requests: Family<Endpoint, Family<EndpointResult>>,
    /// Events that Pusher's webhooks told of.
    pub webhook_events: Family<WebhookEvent>,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            requests: registry.declare(
                "pusher_bridge_endpoint_requests_total",
                "Requests of new clients, publishers and Pusher, by what became of them",
            ),
            webhook_events: registry
                .declare("pusher_bridge_webhook_events_total", "Events that Pusher's webhooks told of"),
        }
    }
}
