//! `[[routes]]` with `mode = "tunnel"`

use std::sync::Arc;

use super::fallback::destination;
use super::{RouteInput, deprecation, door, required};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::limits::slots::Scope;
use crate::net::destination::Destination;
use crate::proxy::settings::Settings as Fallback;
use crate::routes::tunnel::{TunnelLimits, TunnelRoute};

const COUNT_MAX: i64 = 1_000_000;
/// As on other routes.
const MESSAGE_BYTES_MAX: i64 = 64 << 20;
/// What such a route may have; all else is somebody else's to say.
const KEYS: &[&str] = &[
    "name",
    "group",
    "enabled_with",
    "path",
    "mode",
    "to",
    "slash",
    "origins",
    "deprecation",
    "limits",
    "limits.connections",
    "limits.connections_per_address",
    "limits.message_bytes",
];
/// What only such a route has.
const OWN: &[&str] = &["to", "limits.connections"];

/// Whether an old server serves the route.
pub(super) fn is_tunnel(route: &raw::Route) -> bool {
    route.mode.as_ref().is_some_and(|mode| *mode.get() == raw::Mode::Tunnel)
}

/// What a route has that Pusher serves, and has no meaning there.
pub(super) fn none_of_it(problems: &mut Problems<'_>, input: &RouteInput) {
    for (key, span) in input.own.iter().filter(|(key, _)| OWN.contains(&key.as_str())) {
        let name = key.trim_start_matches("limits.");
        let help = match name {
            "connections" => {
                "`server.limits.connections` bounds all of them, `connections_per_address` those of one"
            }
            _ => "with `mode = \"tunnel\"` this server goes on serving the route",
        };
        problems.with_help(
            span.clone(),
            format!("`{name}` has no meaning without `mode = \"tunnel\"`"),
            help,
        );
    }
}

pub(super) fn tunnel(
    problems: &mut Problems<'_>,
    input: &RouteInput,
    fallback: Option<&Fallback>,
) -> Option<TunnelRoute> {
    let raw = &input.route;
    for (key, span) in input.own.iter().filter(|(key, _)| !KEYS.contains(&key.as_str())) {
        let name = key.trim_start_matches("limits.");
        problems.with_help(
            span.clone(),
            format!("`{name}` has no meaning with `mode = \"tunnel\"`: nothing that passes is looked at"),
            help(key),
        );
    }
    let name = required(problems, raw.name.as_ref(), input.span.clone(), "name");
    if let Some(name) = name.filter(|name| !super::is_name(name.get())) {
        super::bad_name(problems, name.span(), "route");
    }
    let path = super::route::path(problems, input);
    let to = raw.to.as_ref().and_then(|to| destination(problems, to));
    let (name, path) = (name?, path?);
    let to = to.or_else(|| by_fallback(problems, input, fallback, path.source()));
    let nothing = raw::Limits::default();
    let limits = raw.limits.as_ref().unwrap_or(&nothing);
    let mut count = |raw: &Option<At<_>>, max: i64| {
        let raw = raw.as_ref().filter(|at: &&At<crate::config::scalars::Number>| !at.get().is_unset())?;
        Some(problems.number(Some(raw), 1..=max, 1_usize))
    };
    let limits = TunnelLimits {
        connections: count(&limits.connections, COUNT_MAX),
        connections_per_address: count(&limits.connections_per_address, COUNT_MAX),
        message_bytes_max: count(&limits.message_bytes, MESSAGE_BYTES_MAX).map(|bytes| bytes as u64),
        scope: match &raw.group {
            Some(group) => Scope::Group(group.get().as_str().into()),
            None => Scope::Route(name.get().as_str().into()),
        },
    };
    let free = path.names().to_vec();
    Some(TunnelRoute {
        name: name.get().as_str().into(),
        path: path.with_free_values(free).with_either_slash(super::route::either_slash(raw)),
        to: to?,
        limits,
        deprecation: deprecation::deprecation(problems, raw.deprecation.as_ref()),
        origins: door::origins(problems, raw.origins.as_ref()),
    })
}

/// Where the fallback sends the route's paths: by the rule that has all of them.
fn by_fallback(
    problems: &mut Problems<'_>,
    input: &RouteInput,
    fallback: Option<&Fallback>,
    path: &str,
) -> Option<Arc<Destination>> {
    let to = fallback.and_then(|fallback| fallback.choose(path).to.cloned());
    // A `to` that is wrong is told already.
    let said = input.route.to.as_ref().filter(|to| !to.get().is_empty());
    if to.is_none() && said.is_none() {
        let place = input.route.mode.as_ref().map_or_else(|| input.span.clone(), At::span);
        problems.with_help(
            place,
            "there is no server to serve this route: it has no `to`, and no `[fallback]` takes its path",
            "to = \"http://127.0.0.1:8010\" is the old server",
        );
    }
    to
}

/// What to do about a key that is not the bridge's to say.
fn help(key: &str) -> &'static str {
    match key {
        "values" | "exclude" => "which characters a value may have can stand in the path: `{id:[0-9]+}`",
        "refusal" | "refusal_hold" => "there is no dialect to tell a refusal in: it is told by HTTP",
        "auth" => "the old server asks for tokens itself",
        "heartbeat" => "the old server sends its own pings; `fallback.tunnel_timeout` closes what is silent",
        _ if key.starts_with("limits.") => {
            "the limits there are `connections`, `connections_per_address` and `message_bytes`"
        }
        _ => "it is needed when the route is served by Pusher: without `mode = \"tunnel\"`",
    }
}
