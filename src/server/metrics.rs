//! What the server counts: connections that could not be accepted, and requests by what became of them.

use std::sync::Arc;

use super::refusal::Refusal;
use crate::deprecation::Phase;
use crate::http::server::Unreadable;
use crate::metrics::{Counter, Family, Gauge, GaugeGuard, Named, Registry};
use crate::routes::edition::{PerRoute, RouteId};
use crate::routes::generation::RouteState;
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
    routes: PerRoute<RouteMetrics>,
}

/// Those of one route.
pub struct RouteMetrics {
    /// Requests refused.
    pub refusals: Family<Refusal>,
    deprecated: Family<Phase>,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry, session: &session::metrics::Metrics) -> Self {
        let refusals: Named<Family<Refusal>> = registry.declare_named(
            "route",
            "pusher_bridge_refusals_total",
            "Requests refused instead of being upgraded",
        );
        Self {
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
            routes: PerRoute::default(),
        }
    }

    /// The handles of a route.
    pub fn of(&self, route: RouteId, name: &str) -> Arc<RouteMetrics> {
        self.routes.get_or_make(route, || RouteMetrics {
            refusals: self.refusals.named(name),
            deprecated: self.deprecated.named(name),
        })
    }

    /// Counts a connection whose request is not over until the guard is dropped.
    #[must_use]
    pub fn handshake(&self) -> GaugeGuard {
        GaugeGuard::new(&self.handshakes, 1.0)
    }

    /// A refused request; `route` when its path matched one.
    pub fn refused(&self, route: Option<&RouteState>, refusal: Refusal) {
        let Some(route) = route else { return self.unrouted.get(refusal).increment(1) };
        self.of(route.id(), &route.name).refusals.get(refusal).increment(1);
    }

    /// A request to the route while it is in this phase of its deprecation.
    pub fn deprecated_request(&self, route: &RouteState, phase: Phase) {
        if phase != Phase::Current {
            self.of(route.id(), &route.name).deprecated.get(phase).increment(1);
        }
    }

    /// A request whose head cannot be read.
    pub fn unreadable(&self, why: Unreadable) {
        self.unreadable.get(why).increment(1);
        self.refused(None, Refusal::Malformed);
    }
}
