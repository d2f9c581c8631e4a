//! A route that the old server goes on serving: `mode = "tunnel"`. It has no channel, no dialect and no rules, for the
//! bridge understands nothing of what passes.

use std::sync::Arc;

use super::entrance::Entrance;
use super::origins::Origins;
use super::path::PathTemplate;
use crate::deprecation::Policy;
use crate::limits::slots::Scope;
use crate::net::destination::Destination;

/// `[[routes]]` with `mode = "tunnel"`.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelRoute {
    /// The route's name: the label of its metrics.
    pub name: Arc<str>,
    /// Its values have any character: they are in no channel's name.
    pub path: PathTemplate,
    /// The old server.
    pub to: Arc<Destination>,
    pub limits: TunnelLimits,
    /// The end of this endpoint; `None`: not deprecated.
    pub deprecation: Option<Policy>,
    /// Allowed `Origin`s; `None`: any.
    pub origins: Option<Origins>,
}

/// What can be counted without touching what passes. What waits is bounded by a buffer of fixed size, not by a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLimits {
    /// Of the route at once (default none); more are answered 503.
    pub connections: Option<usize>,
    /// Per client address, over all routes of the same group (default none).
    pub connections_per_address: Option<usize>,
    /// What `connections_per_address` is counted over.
    pub scope: Scope,
    /// Largest client message in bytes, as it comes: compressed, if it is; above 1009 (default none).
    pub message_bytes_max: Option<u64>,
}

impl TunnelRoute {
    #[must_use]
    pub fn entrance(&self) -> Entrance<'_> {
        Entrance {
            name: &self.name,
            path: &self.path,
            deprecation: self.deprecation.as_ref(),
            origins: self.origins.as_ref(),
            connections_per_address: self.limits.connections_per_address,
            scope: &self.limits.scope,
        }
    }
}
