//! `[[routes]]` with `mode = "tunnel"`

use super::route::{deprecation, origins, path};
use super::{Lines, limits};
use crate::routes::tunnel::{TunnelLimits, TunnelRoute};

pub(super) fn tunnel(out: &mut Lines, route: &TunnelRoute) {
    let TunnelRoute { name, path, to, limits: _, deprecation, origins } = route;
    out.heading(name);
    self::path(out, path);
    out.fact("tunnel", format!("to {to:?}, which goes on serving it"));
    let facts: Vec<String> = facts(route).into_iter().map(|(_, fact)| fact).collect();
    out.fact("limits", if facts.is_empty() { "the server's own".to_owned() } else { facts.join("; ") });
    if let Some(policy) = deprecation {
        self::deprecation(out, policy);
    }
    self::origins(out, origins.as_ref());
}

/// Each limit that there is, by the key that sets it.
pub(super) fn facts(route: &TunnelRoute) -> Vec<(&'static str, String)> {
    let TunnelLimits { connections, connections_per_address, scope, message_bytes_max } = &route.limits;
    let mut facts = Vec::new();
    if let Some(max) = connections {
        facts.push(("limits.connections", format!("{max} connections")));
    }
    if let Some(max) = connections_per_address {
        facts.push(("limits.connections_per_address", format!("{max} per address")));
        facts.push(("group", format!("counted over {}", limits::scope(scope))));
    }
    if let Some(max) = message_bytes_max {
        facts.push(("limits.message_bytes", format!("{max} bytes a message")));
    }
    facts
}
