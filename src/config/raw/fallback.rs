//! What `[fallback]` says.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Num, Str};
use crate::config::scalars::At;
use crate::config::schema as s;

/// Where requests go that no route, no endpoint and not the health path takes: they are passed on as a reverse proxy
/// does, and upgraded ones as bytes. Without it they are answered 404.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = s::one_of(&["to", "rules"])))]
pub(in crate::config) struct Fallback {
    /// The server behind: http://HOST[:PORT] or https://HOST[:PORT], without a path; "" is none (default none).
    #[schemars(extend("pattern" = s::UPSTREAM_OR_NONE))]
    pub(in crate::config) to: Str,
    /// What goes elsewhere. The most exact path counts, whatever their order.
    pub(in crate::config) rules: Option<Vec<At<FallbackRule>>>,
    /// For a connection to the server behind (default 5s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) connect_timeout: Str,
    /// Until the answer begins, counted from the last byte that was taken of the request (default 60s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) answer_timeout: Str,
    /// How long a body may pause, in either direction, and a client take nothing of an answer (default 60s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) idle_timeout: Str,
    /// For a request's whole body (default 10m).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) body_timeout: Str,
    /// How long a connection is kept without a request, a client's or one to the server behind (default 60s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) keep_alive: Str,
    /// How long an upgraded connection may be silent (default 1h).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) tunnel_timeout: Str,
    /// Bounds.
    pub(in crate::config) limits: Option<FallbackLimits>,
}

/// `[[fallback.rules]]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["path", "to"]))]
pub(in crate::config) struct FallbackRule {
    /// A path, or with /* at its end that path and all below it.
    #[schemars(extend("pattern" = s::FALLBACK_PATH, "not" = s::plain(r"/\.{1,2}(/|$)")))]
    pub(in crate::config) path: Str,
    /// The server behind; "" is none: what is there is answered 404.
    #[schemars(extend("pattern" = s::UPSTREAM_OR_NONE))]
    pub(in crate::config) to: Str,
}

/// `[fallback.limits]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FallbackLimits {
    /// Requests under way at once; more are answered 503 (default 2048).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) requests: Num,
    /// Those of one address; more are answered 429 (default 64).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) requests_per_address: Num,
    /// Upgraded connections at once; more are answered 503 (default 10000).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) tunnels: Num,
    /// Those of one address; more are answered 429 (default 64).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) tunnels_per_address: Num,
    /// Largest body of a request, bytes; more is answered 413. Without it the server behind has the say.
    #[schemars(extend("minimum" = 1, "maximum" = 1_099_511_627_776_u64))]
    pub(in crate::config) body_bytes: Num,
    /// Connections that each worker keeps to each server behind (default 32).
    #[schemars(extend("minimum" = 1, "maximum" = 10_000))]
    pub(in crate::config) idle_connections: Num,
}
