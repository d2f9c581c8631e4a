//! What the server counts: connections that could not be accepted, and requests by what became of them.

use std::sync::Arc;

use rustls::ProtocolVersion;

use super::announced::Unannounced;
use super::refusal::Refusal;
use crate::deprecation::Phase;
use crate::http::server::Unreadable;
use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, GaugeGuard, Named, Registry};
use crate::net::socket::tls::HandshakeFailure;
use crate::routes::edition::{PerRoute, RouteId};
use crate::session;

labels! {
    /// How a connection of HTTP/2 ended.
    pub enum Http2End: "result" {
        /// With everything answered that was asked.
        Closed = "closed",
        /// It broke, or its peer broke the protocol or a limit of it.
        Broken = "broken",
        /// No request came in time, or what was answered was not taken.
        TimedOut = "timed_out",
        /// Another connection needed its place.
        Displaced = "displaced",
    }
}

/// The server's metrics.
pub struct Metrics {
    /// Failures to accept.
    pub accept_errors: Counter,
    handshakes: Gauge,
    parked: Gauge,
    unannounced: Family<Unannounced>,
    http2_connections: Gauge,
    http2_ends: Family<Http2End>,
    tls_handshakes: Family<TlsVersion>,
    tls_failures: Family<HandshakeFailure>,
    tls_expiry: Gauge,
    /// Requests whose head cannot be read.
    unreadable: Family<Unreadable>,
    /// Refusals of requests that match no route.
    unrouted: Family<Refusal>,
    refusals: Named<Family<Refusal>>,
    deprecated: Named<Family<Phase>>,
    routes: PerRoute<RouteMetrics>,
}

labels! {
    /// What both sides speak.
    pub enum TlsVersion: "version" {
        Tls12 = "1.2",
        Tls13 = "1.3",
    }
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
            parked: registry.declare(
                "pusher_bridge_fallback_waiting_connections",
                "Clients' connections between two requests that are only a socket",
            ),
            unannounced: registry.declare(
                "pusher_bridge_proxy_protocol_refusals_total",
                "Connections closed for want of a PROXY protocol header, by reason",
            ),
            http2_connections: registry
                .declare("pusher_bridge_http2_connections", "Connections of HTTP/2 that are open"),
            http2_ends: registry.declare(
                "pusher_bridge_http2_connections_closed_total",
                "Connections of HTTP/2 that have ended, by how",
            ),
            tls_handshakes: registry
                .declare("pusher_bridge_tls_handshakes_total", "TLS connections accepted, by version"),
            tls_failures: registry.declare(
                "pusher_bridge_tls_handshake_failures_total",
                "Connections that ended before TLS began, by reason",
            ),
            tls_expiry: registry.declare(
                "pusher_bridge_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that is shown expires, Unix time; 0 without TLS",
            ),
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

    /// Counts a connection that is taken down to its socket until the guard is dropped.
    #[must_use]
    pub fn parked(&self) -> GaugeGuard {
        GaugeGuard::new(&self.parked, 1.0)
    }

    /// A connection that did not say whose it is as it must.
    pub fn unannounced(&self, why: Unannounced) {
        self.unannounced.get(why).increment(1);
    }

    /// A TLS handshake that came to its end.
    pub fn tls_accepted(&self, version: Option<ProtocolVersion>) {
        let version = match version {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        self.tls_handshakes.get(version).increment(1);
    }

    /// One that did not.
    pub fn tls_failed(&self, why: HandshakeFailure) {
        self.tls_failures.get(why).increment(1);
    }

    /// From now on a certificate is shown that expires then, Unix time.
    pub fn tls_expires(&self, not_after: Option<i64>) {
        self.tls_expiry.set(not_after.unwrap_or(0) as f64);
    }

    /// Counts a connection of HTTP/2 until the guard is dropped.
    #[must_use]
    pub fn http2_connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.http2_connections, 1.0)
    }

    /// One has ended.
    pub fn http2_ended(&self, how: Http2End) {
        self.http2_ends.get(how).increment(1);
    }

    /// A refused request; `route` when its path matched one.
    pub fn refused(&self, route: Option<(RouteId, &str)>, refusal: Refusal) {
        let Some((id, name)) = route else { return self.unrouted.get(refusal).increment(1) };
        self.of(id, name).refusals.get(refusal).increment(1);
    }

    /// A request to the route while it is in this phase of its deprecation.
    pub fn deprecated_request(&self, (id, name): (RouteId, &str), phase: Phase) {
        if phase != Phase::Current {
            self.of(id, name).deprecated.get(phase).increment(1);
        }
    }

    /// A request whose head cannot be read.
    pub fn unreadable(&self, why: Unreadable) {
        self.unreadable.get(why).increment(1);
        self.refused(None, Refusal::Malformed);
    }
}
