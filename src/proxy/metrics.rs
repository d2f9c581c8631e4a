//! What is counted of requests that are passed on, by upstream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;

use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, Histogram, Named, Registry};

labels! {
    /// The first digit of an answer's status.
    pub enum StatusClass: "status" {
        Switched = "1xx",
        Success = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
    }
}

impl StatusClass {
    #[must_use]
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Switched,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

labels! {
    /// Why a request was not passed on, or has no whole answer.
    pub enum Failure: "reason" {
        /// It can be read in two ways.
        Malformed = "malformed",
        /// Its body is larger than it may be.
        BodyTooLarge = "body_too_large",
        /// Its body came too slowly.
        BodyTimeout = "body_timeout",
        /// Its body broke off.
        BodyBroken = "body_broken",
        /// Too many are under way.
        Requests = "requests",
        /// Too many of its address are.
        RequestsPerAddress = "requests_per_address",
        Tunnels = "tunnels",
        TunnelsPerAddress = "tunnels_per_address",
        /// The upstream cannot be reached.
        Connect = "connect",
        ConnectTimeout = "connect_timeout",
        /// Its answer has not begun in time.
        AnswerTimeout = "answer_timeout",
        /// The connection broke before its answer.
        Broken = "broken",
        /// Its answer can be read in two ways, or not at all.
        BadAnswer = "bad_answer",
        /// The answer's body broke off.
        AnswerBroken = "answer_broken",
        /// The answer's body paused for too long.
        AnswerIdle = "answer_idle",
        /// The client went before the whole answer was there.
        ClientGone = "client_gone",
        /// The client wants it to go no further than here (`Max-Forwards: 0`).
        MaxForwards = "max_forwards",
    }
}

labels! {
    /// Whose bytes.
    pub enum Direction: "direction" {
        /// To the upstream.
        In = "in",
        /// To clients.
        Out = "out",
    }
}

/// The metrics of all upstreams.
pub struct Metrics {
    requests: Named<Family<StatusClass>>,
    failures: Named<Family<Failure>>,
    seconds: Named<Histogram>,
    bytes: Named<Family<Direction>>,
    under_way: Named<Gauge>,
    connections: Named<Counter>,
    tunnels: Named<Gauge>,
    tunnels_opened: Named<Counter>,
    tunnel_bytes: Named<Family<Direction>>,
    of: Mutex<HashMap<String, Arc<OfUpstream>>>,
}

/// Those of one.
pub struct OfUpstream {
    /// Answers, by status.
    pub requests: Family<StatusClass>,
    pub failures: Family<Failure>,
    /// From a request's head to the last byte of its answer.
    pub seconds: Histogram,
    /// Of bodies.
    pub bytes: Family<Direction>,
    pub under_way: Gauge,
    /// Connections that were made.
    pub connections: Counter,
    pub tunnels: Gauge,
    pub tunnels_opened: Counter,
    pub tunnel_bytes: Family<Direction>,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let key = "upstream";
        Self {
            requests: registry.declare_named(
                key,
                "pusher_bridge_fallback_answers_total",
                "Answers passed on to clients, by status",
            ),
            failures: registry.declare_named(
                key,
                "pusher_bridge_fallback_failures_total",
                "Requests that were not passed on, or have no whole answer",
            ),
            seconds: registry.declare_named(
                key,
                "pusher_bridge_fallback_request_seconds",
                "From a request's head to the last byte of its answer",
            ),
            bytes: registry.declare_named(
                key,
                "pusher_bridge_fallback_body_bytes_total",
                "Bytes of bodies passed on, in to the upstream, out to clients",
            ),
            under_way: registry.declare_named(
                key,
                "pusher_bridge_fallback_requests",
                "Requests under way now",
            ),
            connections: registry.declare_named(
                key,
                "pusher_bridge_fallback_connects_total",
                "Connections made to the upstream",
            ),
            tunnels: registry.declare_named(
                key,
                "pusher_bridge_fallback_tunnels",
                "Upgraded connections now, passed on as bytes",
            ),
            tunnels_opened: registry.declare_named(
                key,
                "pusher_bridge_fallback_tunnels_opened_total",
                "Upgraded connections in all",
            ),
            tunnel_bytes: registry.declare_named(
                key,
                "pusher_bridge_fallback_tunnel_bytes_total",
                "Bytes of upgraded connections, in to the upstream, out to clients",
            ),
            of: Mutex::default(),
        }
    }

    /// The handles of an upstream, which are of the file: as many as it has named since the start.
    pub fn of(&self, name: &str) -> Arc<OfUpstream> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            Arc::new(OfUpstream {
                requests: self.requests.named(name),
                failures: self.failures.named(name),
                seconds: self.seconds.named(name),
                bytes: self.bytes.named(name),
                under_way: self.under_way.named(name),
                connections: self.connections.named(name),
                tunnels: self.tunnels.named(name),
                tunnels_opened: self.tunnels_opened.named(name),
                tunnel_bytes: self.tunnel_bytes.named(name),
            })
        };
        of.entry(name.to_owned()).or_insert_with(make).clone()
    }
}
