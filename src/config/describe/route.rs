//! `[[routes]]`

use super::limits::limits;
use super::{Lines, auth, duration, mask, one_line};
use crate::config::OffRoute;
use crate::deprecation::Policy;
use crate::exchange::Member;
use crate::routes::events::{EventAction, EventRule};
use crate::routes::membership::Membership;
use crate::routes::origins::Origins;
use crate::routes::path::PathTemplate;
use crate::routes::route::{
    Elsewhere, Filter, Heartbeat, HeartbeatKind, OnGap, OnUndecryptable, PublishAction, PublishRule,
    PusherEvents, Route, TellRefusal, TypeSet, ValueSets, Way,
};
use crate::template::{Choice, ClaimsText};

pub(super) fn route(out: &mut Lines, route: &Route) {
    let Route {
        name,
        path,
        channel,
        subscribe_values,
        value_sets,
        shares,
        dialect,
        membership,
        auth,
        filter,
        publish,
        events,
        pusher_events,
        event_bytes_max: _, // `upstream.event_bytes`
        reserved: _,
        echo,
        heartbeat,
        limits: _, // by `limits`
        deprecation,
        refusal,
        on_gap,
        on_undecryptable,
        origins,
        subprotocols,
    } = route;
    out.heading(name);
    self::path(out, path);
    out.fact("channel", channel.source());
    for (field, values) in subscribe_values {
        out.more(format!("{{subscribe.{field}}} is one of {}", choices(values)));
    }
    let ValueSets { user, subscribe, not_user, not_subscribe } = value_sets;
    if let Some(set) = user {
        out.more(format!("{{auth.user}} is {set}"));
    }
    for (field, set) in subscribe {
        out.more(format!("{{subscribe.{field}}} is {set}"));
    }
    excluded(out, "auth.user", not_user);
    for (field, not) in not_subscribe {
        excluded(out, &format!("subscribe.{field}"), not);
    }
    if !shares.is_empty() {
        out.more(format!("may be one of {} too, whose rules differ", shares.join(", ")));
    }
    out.fact("dialect", &dialect.name);
    if let Some(membership) = membership {
        self::membership(out, membership);
    }
    out.fact("auth", auth::route(auth.as_ref()));
    if let Some(Filter { field, equals }) = filter {
        out.fact("filter", format!("only events whose {} is {}", field.join("."), equals.source()));
    }
    if *echo {
        out.fact("publish", "nothing: every frame is returned to its sender");
    } else if publish.is_empty() {
        out.fact("publish", "nothing");
    }
    for (index, rule) in publish.iter().enumerate() {
        out.fact(if index == 0 { "publish" } else { "" }, self::publish(rule));
    }
    for (index, rule) in events.iter().enumerate() {
        out.fact(if index == 0 { "events" } else { "" }, self::event(rule));
    }
    let PusherEvents { subscription_count, watchlist } = pusher_events;
    let own = [("subscription_count", subscription_count), ("watchlist_events", watchlist)];
    let own: Vec<&str> = own.into_iter().filter_map(|(name, asked)| asked.then_some(name)).collect();
    if !own.is_empty() {
        out.fact("Pusher's own", format!("as events: {}", own.join(", ")));
    }
    out.fact("heartbeat", self::heartbeat(*heartbeat));
    limits(out, route);
    if let Some(policy) = deprecation {
        self::deprecation(out, policy);
    }
    if !subprotocols.is_empty() {
        out.fact("subprotocols", subprotocols.join(", "));
    }
    self::origins(out, origins.as_ref());
    match refusal {
        TellRefusal::Http => {}
        TellRefusal::Frame { hold } => {
            out.fact("refusal", format!("by an error frame, and a close after {}", duration(*hold)));
        }
    }
    match on_gap {
        OnGap::Ignore => {}
        OnGap::Notify => out.fact("on a gap", "clients are told"),
        OnGap::Close => out.fact("on a gap", "clients are closed"),
    }
    match on_undecryptable {
        OnUndecryptable::Drop => {}
        OnUndecryptable::Notify => out.fact("undecryptable", "clients are told"),
        OnUndecryptable::Close => out.fact("undecryptable", "clients are closed"),
    }
}

pub(super) fn path(out: &mut Lines, path: &PathTemplate) {
    let slash = if path.has_either_slash() { ", with a `/` at its end or without" } else { "" };
    out.fact("path", format!("{}{slash}", path.source()));
    for name in path.names() {
        if let Some(set) = path.set_of(name).filter(|_| !path.source().contains(&format!("{{{name}:"))) {
            out.more(format!("{{{name}}} is {set}"));
        }
        excluded(out, name, path.excluded_of(name));
    }
}

pub(super) fn origins(out: &mut Lines, origins: Option<&Origins>) {
    if let Some(origins) = origins {
        let none = "none: a request with an Origin is refused".to_owned();
        out.fact("origins", if origins.list().is_empty() { none } else { origins.list().join(", ") });
    }
}

/// One that does not exist, and why.
pub(super) fn off(out: &mut Lines, off: &OffRoute) {
    let OffRoute { name, path, variables } = off;
    out.heading(name);
    out.fact("path", path);
    let why = match variables.as_slice() {
        [] => "its `enabled_with` is empty".to_owned(),
        [one] => format!("{one} has no value (`enabled_with`)"),
        all => format!("none of {} has a value (`enabled_with`)", all.join(", ")),
    };
    out.fact("off", format!("{why}: its paths are answered 404"));
}

fn choices(choices: &[Choice]) -> String {
    choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn excluded(out: &mut Lines, name: &str, not: &[Choice]) {
    if !not.is_empty() {
        out.more(format!("{{{name}}} is none of {}", choices(not)));
    }
}

fn membership(out: &mut Lines, membership: &Membership) {
    let told = |info: &Option<ClaimsText>| {
        info.as_ref().map_or_else(|| "nothing else".to_owned(), |info| one_line(info.source()))
    };
    match membership {
        Membership::EachUser { info } => {
            out.fact("members", "each user, by a connection to Pusher of his own");
            out.more(format!("of whom is told: {}", told(info)));
        }
        Membership::Observe(observer) => {
            let Member { named_by: _, user_id, info, user_data: _ } = &**observer;
            out.fact("members", format!("this bridge alone, as {user_id}, and no client"));
            if let Some(info) = info {
                out.more(format!("of which is told: {info}"));
            }
        }
        Membership::SignedIn { info, watchlist } => {
            out.fact("signed in", "each user, by a connection to Pusher of his own");
            out.more(format!("of whom is told: {}", told(info)));
            if let Some(claim) = watchlist {
                out.more(format!("who watches those in the claim {claim}"));
            }
        }
    }
}

fn event(rule: &EventRule) -> String {
    let EventRule { names, action } = rule;
    let names = names.with("*");
    match action {
        EventAction::Drop => format!("{names} to nobody"),
        EventAction::Show { name, data } => {
            let name = name.as_ref().map(|name| format!(" as {}", name.with("*")));
            let data = data.as_ref().map(|data| format!(" with the data {}", one_line(data.source())));
            format!("{names}{}{}", name.unwrap_or_default(), data.unwrap_or_default())
        }
    }
}

fn publish(rule: &PublishRule) -> String {
    let PublishRule { types, action, skip_if_empty } = rule;
    let spared = if *skip_if_empty { ", unless nobody is subscribed" } else { "" };
    let types = match types {
        TypeSet::Any => "every type".to_owned(),
        TypeSet::Listed(types) => types.join(", "),
    };
    match action {
        PublishAction::Drop => format!("{types} nowhere: counted, and the sender is not told"),
        PublishAction::Trigger { event, data, relay_as_sent, elsewhere, way } => {
            let what = match way {
                Way::Api => "event",
                Way::ClientEvent => "client event",
            };
            let place = elsewhere
                .as_ref()
                .map(|Elsewhere { channel, reserved: _ }| format!(" on the channel {}", channel.source()));
            let data = data.as_ref().map(|data| format!(", with the data {}", one_line(data.source())));
            let relay = if *relay_as_sent { ", relayed as sent" } else { "" };
            let place = place.unwrap_or_default();
            format!(
                "{types} as the {what} {}{place}{spared}{relay}{}",
                event.source(),
                data.unwrap_or_default()
            )
        }
        PublishAction::Post { url, body, headers, retry_on, replies } => {
            let mut text = format!("{types} by POST {}", mask::url(url.source()));
            if !retry_on.is_empty() {
                let statuses: Vec<String> = retry_on.iter().map(ToString::to_string).collect();
                text += &format!(", again after a status of {}", statuses.join(" or "));
            }
            if !headers.is_empty() {
                let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
                text += &format!(", with the headers {}", names.join(", "));
            }
            text += &format!(", with the body {}", one_line(body.source()));
            if *replies { text + ", and its answer goes to the sender" } else { text }
        }
    }
}

fn heartbeat(heartbeat: Heartbeat) -> String {
    let Heartbeat { kind, every, timeout } = heartbeat;
    let kind = match kind {
        HeartbeatKind::Json => "json ping",
        HeartbeatKind::WebSocket => "WebSocket ping",
        HeartbeatKind::Both => "json and WebSocket ping",
        HeartbeatKind::None => return "none".to_owned(),
    };
    format!("{kind} every {}, closed after {} of silence", duration(every), duration(timeout))
}

pub(super) fn deprecation(out: &mut Lines, policy: &Policy) {
    let Policy { deprecated_at, sunset_at, refuse_after_sunset, documentation, sunset_policy, successor } =
        policy;
    let mut dates = Vec::new();
    if let Some(at) = deprecated_at {
        dates.push(format!("since {}", date(*at)));
    }
    if let Some(at) = sunset_at {
        let then = if *refuse_after_sunset { "then refused" } else { "then still served" };
        dates.push(format!("sunset {}, {then}", date(*at)));
    }
    out.fact("deprecated", if dates.is_empty() { "no dates".into() } else { dates.join("; ") });
    for (name, url) in [("see", documentation), ("policy", sunset_policy), ("successor", successor)] {
        if let Some(url) = url {
            out.more(format!("{name} {}", mask::url(url)));
        }
    }
}

fn date(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map_or_else(|_| unix_seconds.to_string(), |at| at.to_string())
}
