//! What every route has at the door, whatever serves it: who is let in is decided by this alone.

use std::sync::Arc;

use super::origins::Origins;
use super::path::PathTemplate;
use super::route::Route;
use crate::deprecation::Policy;
use crate::limits::slots::Scope;

/// A route as a request meets it.
#[derive(Clone, Copy, Debug)]
pub struct Entrance<'r> {
    /// The route's name: the label of its metrics.
    pub name: &'r Arc<str>,
    pub path: &'r PathTemplate,
    /// The end of this endpoint; `None`: not deprecated.
    pub deprecation: Option<&'r Policy>,
    /// Allowed `Origin`s; `None`: any.
    pub origins: Option<&'r Origins>,
    /// Per client address; `None`: any number.
    pub connections_per_address: Option<usize>,
    /// What that is counted over.
    pub scope: &'r Scope,
}

impl Route {
    #[must_use]
    pub const fn entrance(&self) -> Entrance<'_> {
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
