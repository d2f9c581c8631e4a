//! A route's `limits`

use super::{Lines, duration, rate};
use crate::limits::slots::{OnConflict, Scope, SlotLimit};
use crate::routes::route::{Exclusive, Limits, Route};

pub(super) fn limits(out: &mut Lines, route: &Route) {
    let facts = facts(route);
    let second = facts.iter().position(|(key, _)| *key == "limits.control_frames");
    let (first, second) = facts.split_at(second.unwrap_or(facts.len()));
    let line = |facts: &[(_, String)]| facts.iter().map(|(_, fact)| &**fact).collect::<Vec<_>>().join("; ");
    out.fact("limits", line(first));
    out.more(line(second));
}

/// Each limit that there is, by the key that sets it.
pub(super) fn facts(route: &Route) -> Vec<(&'static str, String)> {
    let Limits {
        connections_per_user,
        connections_per_address,
        exclusive,
        scope,
        messages,
        messages_per_user,
        auth_attempts,
        control_frames,
        message_bytes_max,
        depth_max,
        subscriptions_max,
        outbox_frames_max,
        outbox_bytes_max,
    } = &route.limits;
    // What is counted by user has no meaning where there is none.
    let authenticated = route.auth.is_some();
    let mut facts = Vec::new();
    if let Some(limit) = connections_per_user.filter(|_| authenticated) {
        facts.push(("limits.connections_per_user", format!("{} per user", slots(limit))));
    }
    if let Some(max) = connections_per_address {
        facts.push(("limits.connections_per_address", format!("{max} per address")));
    }
    if !facts.is_empty() {
        facts.push(("group", format!("counted over {}", self::scope(scope))));
    }
    if let Some(Exclusive { key, slots }) = exclusive {
        facts.push(("limits.exclusive", format!("{} per {}", self::slots(*slots), key.source())));
    }
    facts.push(("limits.messages", format!("messages {}", rate(*messages))));
    if let Some(messages) = messages_per_user.filter(|_| authenticated) {
        let scope = self::scope(scope);
        let fact = format!("{} per user, counted over {scope}", rate(Some(messages)));
        facts.push(("limits.messages_per_user", fact));
    }
    if authenticated {
        facts.push(("limits.auth_attempts", format!("auth {}", rate(*auth_attempts))));
    }
    facts.push(("limits.message_bytes", format!("{message_bytes_max} bytes a message")));
    let outbox = format!("outbox {outbox_frames_max} frames or {outbox_bytes_max} bytes");
    facts.push(("limits.outbox_frames", outbox));
    facts.push(("limits.control_frames", format!("control frames {}", rate(Some(*control_frames)))));
    facts.push(("limits.depth", format!("messages {depth_max} levels deep")));
    if route.channel_is_chosen() || route.filter_is_chosen() {
        facts.push(("limits.subscriptions", format!("{subscriptions_max} subscriptions")));
    }
    facts
}

pub(super) fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Group(name) => format!("the group {name}"),
        Scope::Route(name) => format!("the route {name}"),
    }
}

fn slots(limit: SlotLimit) -> String {
    let SlotLimit { max, on_conflict, probe_timeout } = limit;
    match on_conflict {
        OnConflict::Probe => format!("{max} (probe, {})", duration(probe_timeout)),
        OnConflict::Refuse => format!("{max} (refuse)"),
        OnConflict::Replace => format!("{max} (replace)"),
    }
}
