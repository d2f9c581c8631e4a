//! What sessions count: connections by phase, tokens, error frames, closes.

use std::sync::Arc;

use crate::auth::TokenResult;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, GaugeGuard, Named, Registry};
use crate::routes::edition::{PerRoute, RouteId};
use crate::websocket;
use crate::websocket::metrics::Traffic;

labels! {
    /// Where a connection is in its life.
    pub enum ConnPhase: "phase" {
        /// Its request is being read and answered.
        Handshake = "handshake",
        /// Upgraded, not yet authenticated.
        Authenticating = "authenticating",
        Live = "live",
    }
}

pub struct Metrics {
    phases: Named<Family<ConnPhase, Gauge>>,
    opened: Named<Counter>,
    tokens: Named<Family<TokenResult>>,
    errors: Named<Family<ErrorCode>>,
    closes: Named<Family<CloseReason>>,
    websocket: websocket::metrics::Metrics,
    routes: PerRoute<RouteMetrics>,
}

/// Those of one route.
pub struct RouteMetrics {
    phases: Family<ConnPhase, Gauge>,
    pub opened: Counter,
    pub tokens: Family<TokenResult>,
    pub errors: Family<ErrorCode>,
    pub closes: Family<CloseReason>,
    pub traffic: Traffic,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry, websocket: &websocket::metrics::Metrics) -> Self {
        Self {
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
            routes: PerRoute::default(),
        }
    }

    pub fn of(&self, route: RouteId, name: &str) -> Arc<RouteMetrics> {
        self.routes.get_or_make(route, || RouteMetrics {
            phases: self.phases.with_only(name, &[ConnPhase::Authenticating, ConnPhase::Live]),
            opened: self.opened.named(name),
            tokens: self.tokens.named(name),
            errors: self.errors.named(name),
            closes: self.closes.named(name),
            traffic: self.websocket.of(name),
        })
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
