//! What sessions count: connections by phase, tokens, error frames, closes.

use std::sync::Arc;

use crate::auth::TokenResult;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, GaugeGuard, Named, Registry};
use crate::websocket;
use crate::websocket::metrics::Traffic;

labels! {
    /// Where a connection is in its life.
    pub enum ConnPhase: "phase" {
        /// Its request is being read and answered.
        Handshake = "handshake",
        /// Upgraded, not yet authenticated.
        Authenticating = "authenticating",
        /// In service.
        Live = "live",
    }
}

/// The sessions' metrics.
pub struct Metrics {
    phases: Named<Family<ConnPhase, Gauge>>,
    opened: Named<Counter>,
    tokens: Named<Family<TokenResult>>,
    errors: Named<Family<ErrorCode>>,
    closes: Named<Family<CloseReason>>,
    websocket: websocket::metrics::Metrics,
    routes: Box<[Arc<RouteMetrics>]>,
}

/// Those of one route.
pub struct RouteMetrics {
    phases: Family<ConnPhase, Gauge>,
    /// Connections upgraded.
    pub opened: Counter,
    /// Tokens judged.
    pub tokens: Family<TokenResult>,
    /// Error frames.
    pub errors: Family<ErrorCode>,
    /// Connections closed.
    pub closes: Family<CloseReason>,
    /// Messages.
    pub traffic: Traffic,
}

impl Metrics {
    /// Declares them, for routes of these names.
    #[must_use]
    pub fn new(registry: &Registry, websocket: &websocket::metrics::Metrics, routes: &[Arc<str>]) -> Self {
        let mut metrics = Self {
            phases: registry.declare_named(
                "route",
                "pusher_bridge_connections",
                "Connections now, by route and phase",
            ),
            opened: registry.declare_named(
                "route",
                "pusher_bridge_connections_total",
                "Connections upgraded",
            ),
            tokens: registry.declare_named("route", "pusher_bridge_auth_total", "Tokens judged, by result"),
            errors: registry.declare_named(
                "route",
                "pusher_bridge_client_errors_total",
                "Error frames sent to old clients, by code",
            ),
            closes: registry.declare_named(
                "route",
                "pusher_bridge_closes_total",
                "Connections closed, by reason",
            ),
            websocket: websocket.clone(),
            routes: Box::default(),
        };
        metrics.routes = routes.iter().map(|route| Arc::new(metrics.of(route))).collect();
        metrics
    }

    /// The handles of the route of this name.
    #[must_use]
    pub fn of(&self, route: &str) -> RouteMetrics {
        RouteMetrics {
            phases: self.phases.with_only(route, &[ConnPhase::Authenticating, ConnPhase::Live]),
            opened: self.opened.named(route),
            tokens: self.tokens.named(route),
            errors: self.errors.named(route),
            closes: self.closes.named(route),
            traffic: self.websocket.of(route),
        }
    }

    /// The handles of the route of this index.
    #[must_use]
    pub fn route(&self, index: usize) -> Arc<RouteMetrics> {
        self.routes.get(index).cloned().unwrap_or_else(|| Arc::new(self.of("none")))
    }

    /// The gauge of connections in their handshake, which belong to no route yet.
    pub fn handshakes(&self) -> Gauge {
        self.phases.with_only("none", &[ConnPhase::Handshake]).get(ConnPhase::Handshake).clone()
    }
}

impl RouteMetrics {
    /// Counts a connection in `phase` until the guard is dropped.
    #[must_use]
    pub fn in_phase(&self, phase: ConnPhase) -> GaugeGuard {
        GaugeGuard::new(self.phases.get(phase), 1.0)
    }
}
