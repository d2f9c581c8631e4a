//! A route's `limits`

use super::{Lines, duration, rate};
use crate::limits::slots::{OnConflict, Scope, SlotLimit};
use crate::routes::route::{Exclusive, Limits, Route};

pub(super) fn limits(out: &mut Lines, route: &Route) {
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
        facts.push(format!("{} per user", slots(limit)));
    }
    if let Some(max) = connections_per_address {
        facts.push(format!("{max} per address"));
    }
    if !facts.is_empty() {
        facts.push(format!("counted over {}", self::scope(scope)));
    }
    if let Some(Exclusive { key, slots }) = exclusive {
        facts.push(format!("{} per {}", self::slots(*slots), key.source()));
    }
    facts.push(format!("messages {}", rate(*messages)));
    if let Some(messages) = messages_per_user.filter(|_| authenticated) {
        facts.push(format!("{} per user, counted over {}", rate(Some(messages)), self::scope(scope)));
    }
    if authenticated {
        facts.push(format!("auth {}", rate(*auth_attempts)));
    }
    facts.push(format!("{message_bytes_max} bytes a message"));
    facts.push(format!("outbox {outbox_frames_max} frames or {outbox_bytes_max} bytes"));
    out.fact("limits", facts.join("; "));
    let mut facts = vec![
        format!("control frames {}", rate(Some(*control_frames))),
        format!("messages {depth_max} levels deep"),
    ];
    if route.channel_is_chosen() || route.filter_is_chosen() {
        facts.push(format!("{subscriptions_max} subscriptions"));
    }
    out.more(facts.join("; "));
}

fn scope(scope: &Scope) -> String {
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
