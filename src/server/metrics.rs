//! What the server counts: connections that could not be accepted, and requests by what became of them.

use std::sync::Arc;

use super::refusal::Refusal;
use crate::deprecation::Phase;
use crate::http::server::Unreadable;
use crate::metrics::{Counter, Family, Gauge, GaugeGuard, Named, Registry};
use crate::session;

/// The server's metrics.
pub struct Metrics {
    /// Failures to accept.
    pub accept_errors: Counter,
    handshakes: Gauge,
    /// Requests whose head cannot be read.
    unreadable: Family<Unreadable>,
    /// Refusals of requests that match no route.
    unrouted: Family<Refusal>,
    refusals: Named<Family<Refusal>>,
    deprecated: Named<Family<Phase>>,
    routes: Box<[RouteMetrics]>,
}

/// Those of one route.
pub struct RouteMetrics {
    refusals: Family<Refusal>,
    deprecated: Family<Phase>,
}

impl Metrics {
    /// Declares them, for routes of these names.
    #[must_use]
    pub fn new(registry: &Registry, session: &session::metrics::Metrics, routes: &[Arc<str>]) -> Self {
        let refusals: Named<Family<Refusal>> = registry.declare_named(
            "route",
            "pusher_bridge_refusals_total",
            "Requests refused instead of being upgraded",
        );
        let mut metrics = Self {
            accept_errors: registry
                .declare("pusher_bridge_accept_errors_total", "Failures to accept a connection"),
            handshakes: session.handshakes(),
            unreadable: registry.declare(
                "pusher_bridge_unreadable_requests_total",
                "Requests whose head cannot be read, by what is wrong with it",
            ),
            unrouted: refusals.named("none"),
            refusals,
            deprecated: registry.declare_named(
                "route",
                "pusher_bridge_deprecated_requests_total",
                "Requests to deprecated endpoints, by phase",
            ),
            routes: Box::default(),
        };
        metrics.routes = routes.iter().map(|route| metrics.of(route)).collect();
        metrics
    }

    /// The handles of the route of this name.
    #[must_use]
    pub fn of(&self, route: &str) -> RouteMetrics {
        RouteMetrics { refusals: self.refusals.named(route), deprecated: self.deprecated.named(route) }
    }

    /// The handles of the route of this index.
    #[must_use]
    pub fn route(&self, index: usize) -> Option<&RouteMetrics> {
        self.routes.get(index)
    }

    /// Counts a connection whose request is not over until the guard is dropped.
    #[must_use]
    pub fn handshake(&self) -> GaugeGuard {
        GaugeGuard::new(&self.handshakes, 1.0)
    }

    /// A refused request; `route` when its path matched one.
    pub fn refused(&self, route: Option<usize>, refusal: Refusal) {
        let refusals =
            route.and_then(|index| self.route(index)).map_or(&self.unrouted, |route| &route.refusals);
        refusals.get(refusal).increment(1);
    }

    /// A request whose head cannot be read.
    pub fn unreadable(&self, why: Unreadable) {
        self.unreadable.get(why).increment(1);
        self.refused(None, Refusal::Malformed);
    }
}

impl RouteMetrics {
    /// A request to the route while it is in this phase of its deprecation.
    pub fn deprecated_request(&self, phase: Phase) {
        if phase != Phase::Current {
            self.deprecated.get(phase).increment(1);
        }
    }
}
