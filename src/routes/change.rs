//! What tells one version of a route from the next, and what that means for who is connected. Settings are taken apart
//! without `..`: of a key that is new it must be said whether live connections can take it over, or it does not compile.

use std::any::Any;

use secrecy::{ExposeSecret as _, SecretString};

use super::membership::Membership;
use super::path::PathTemplate;
use super::route::{Heartbeat, Limits, PusherEvents, Route, ValueSets};
use super::tunnel::{TunnelLimits, TunnelRoute};
use crate::auth::settings::RouteAuth;
use crate::deprecation::Policy;
use crate::legacy::dialect::{Dialect, Frames};

/// What becomes of those who are connected when a key of their route changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They go on, and it holds for them from then on; or it concerns only who comes.
    TakenOver,
    /// They are closed: what they were told when they came would not be true any more.
    Closes,
}

/// The keys in which two versions of a route differ, as the file calls them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteChange {
    /// Of [`Effect::TakenOver`].
    pub taken_over: Vec<&'static str>,
    /// Of [`Effect::Closes`].
    pub closing: Vec<&'static str>,
}

impl RouteChange {
    /// What changes from one to the other, both of the same name.
    #[must_use]
    pub fn between(before: &Route, after: &Route) -> Self {
        let mut keys = differences(&route(before), &route(after));
        keys.extend(differences(&limits(&before.limits), &limits(&after.limits)));
        keys.extend(differences(&heartbeat(before.heartbeat), &heartbeat(after.heartbeat)));
        keys.extend(differences(&dialect(&before.dialect), &dialect(&after.dialect)));
        let optional = (before.auth.as_ref(), after.auth.as_ref());
        keys.extend(of_optional(optional, ("auth.required", Effect::Closes), auth));
        let optional = (before.deprecation.as_ref(), after.deprecation.as_ref());
        keys.extend(of_optional(optional, ("deprecation", Effect::TakenOver), deprecation));
        let optional = (before.membership.as_ref(), after.membership.as_ref());
        keys.extend(of_optional(optional, ("presence", Effect::Closes), membership));
        Self::of(keys)
    }

    /// The same where an old server serves the route before and after.
    #[must_use]
    pub fn between_tunnels(before: &TunnelRoute, after: &TunnelRoute) -> Self {
        let mut keys = differences(&tunnel(before), &tunnel(after));
        let optional = (before.deprecation.as_ref(), after.deprecation.as_ref());
        keys.extend(of_optional(optional, ("deprecation", Effect::TakenOver), deprecation));
        Self::of(keys)
    }

    /// What it is where the route is served by something else from then on.
    #[must_use]
    pub fn of_mode() -> Self {
        Self { taken_over: Vec::new(), closing: vec!["mode"] }
    }

    fn of(keys: Vec<(&'static str, Effect)>) -> Self {
        let mut change = Self::default();
        for (key, effect) in keys {
            let list = match effect {
                Effect::TakenOver => &mut change.taken_over,
                Effect::Closes => &mut change.closing,
            };
            if !list.contains(&key) {
                list.push(key);
            }
        }
        change
    }

    /// Whether who is connected cannot stay.
    #[must_use]
    pub const fn closes(&self) -> bool {
        !self.closing.is_empty()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.closing.is_empty() && self.taken_over.is_empty()
    }
}

/// What can be compared with another of its type.
pub trait Value {
    /// Whether it is the same.
    fn is(&self, other: &dyn Value) -> bool;
    fn as_any(&self) -> &dyn Any;
}

impl<T: PartialEq + 'static> Value for T {
    fn is(&self, other: &dyn Value) -> bool {
        other.as_any().downcast_ref::<T>().is_some_and(|other| other == self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a key says.
pub enum Said<'a> {
    Plain(&'a dyn Value),
    /// What is worked out of several settings, or of a part of one.
    Made(Box<dyn Value>),
    Secret(&'a SecretString),
}

impl Said<'_> {
    fn is(&self, other: &Said<'_>) -> bool {
        match (self, other) {
            (Self::Plain(one), Said::Plain(other)) => one.is(*other),
            (Self::Made(one), Said::Made(other)) => one.is(&**other),
            (Self::Secret(one), Said::Secret(other)) => one.expose_secret() == other.expose_secret(),
            (Self::Plain(_) | Self::Made(_) | Self::Secret(_), _) => false,
        }
    }
}

/// A key, what its change means, and what it says.
pub type Key<'a, E> = (&'static str, E, Said<'a>);

/// The keys of two versions of the same settings that do not say the same.
pub fn differences<E: Copy>(before: &[Key<'_, E>], after: &[Key<'_, E>]) -> Vec<(&'static str, E)> {
    let both = before.iter().zip(after);
    both.filter(|((_, _, one), (_, _, other))| !one.is(other))
        .map(|((key, effect, _), _)| (*key, *effect))
        .collect()
}

/// The same of settings that may not be there; `whole` is what has changed where only one of them is.
pub fn of_optional<'a, T, E: Copy>(
    (before, after): (Option<&'a T>, Option<&'a T>),
    whole: (&'static str, E),
    keys: impl Fn(&'a T) -> Vec<Key<'a, E>>,
) -> Vec<(&'static str, E)> {
    match (before, after) {
        (Some(before), Some(after)) => differences(&keys(before), &keys(after)),
        (None, None) => Vec::new(),
        (Some(_), None) | (None, Some(_)) => vec![whole],
    }
}

/// A key that is one setting.
pub fn plain<'a, E>(key: &'static str, effect: E, value: &'a dyn Value) -> Key<'a, E> {
    (key, effect, Said::Plain(value))
}

/// A key that is worked out of settings.
pub fn made<'a, E>(key: &'static str, effect: E, value: impl PartialEq + 'static) -> Key<'a, E> {
    (key, effect, Said::Made(Box::new(value)))
}

fn route(route: &Route) -> Vec<Key<'_, Effect>> {
    use Effect::{Closes, TakenOver};
    let Route {
        name: _, // by it routes are told apart
        path,
        channel,
        subscribe_values,
        value_sets,
        shares,
        dialect: _,
        membership: _,
        auth: _,
        filter,
        publish,
        events,
        pusher_events: PusherEvents { subscription_count, watchlist },
        event_bytes_max,
        reserved,
        echo,
        heartbeat: _,
        limits: _,
        deprecation: _,
        refusal,
        on_gap,
        on_undecryptable,
        origins,
        subprotocols,
    } = route;
    let ValueSets { user, subscribe, not_user, not_subscribe } = value_sets;
    let mut keys = self::path(path);
    keys.extend([
        plain("channel", Closes, channel),
        plain("subscribe", Closes, subscribe_values),
        plain("values", Closes, user),
        plain("values", Closes, subscribe),
        plain("exclude", Closes, not_user),
        plain("exclude", Closes, not_subscribe),
        plain("shares", TakenOver, shares),
        plain("filter", Closes, filter),
        plain("publish", TakenOver, publish),
        plain("events", TakenOver, events),
        plain("pusher_events", TakenOver, subscription_count),
        plain("pusher_events", TakenOver, watchlist),
        plain("upstream.event_bytes", TakenOver, event_bytes_max),
        // Of the dialects of all routes that may share the channel.
        plain("reserved names", TakenOver, reserved),
        plain("echo", TakenOver, echo),
        plain("refusal", TakenOver, refusal),
        plain("on_gap", TakenOver, on_gap),
        plain("on_undecryptable", TakenOver, on_undecryptable),
        plain("origins", TakenOver, origins),
        plain("subprotocols", TakenOver, subprotocols),
    ]);
    keys
}

fn tunnel(route: &TunnelRoute) -> Vec<Key<'_, Effect>> {
    use Effect::TakenOver;
    let TunnelRoute { name: _, path, to, limits, deprecation: _, origins } = route;
    let TunnelLimits { connections, connections_per_address, scope, message_bytes_max } = limits;
    let mut keys = self::path(path);
    keys.extend([
        // Who is connected stays with the server that has him.
        plain("to", TakenOver, to),
        plain("origins", TakenOver, origins),
        plain("group", TakenOver, scope),
        plain("limits.connections", TakenOver, connections),
        plain("limits.connections_per_address", TakenOver, connections_per_address),
        plain("limits.message_bytes", TakenOver, message_bytes_max),
    ]);
    keys
}

fn path(path: &PathTemplate) -> Vec<Key<'_, Effect>> {
    let names = || path.names().iter();
    let sets: Vec<_> = names().map(|name| path.set_of(name)).collect();
    let excluded: Vec<_> = names().map(|name| path.excluded_of(name).to_vec()).collect();
    vec![
        made("path", Effect::Closes, path.source().to_owned()),
        made("slash", Effect::TakenOver, path.has_either_slash()),
        made("values", Effect::Closes, sets),
        made("exclude", Effect::Closes, excluded),
    ]
}

fn limits(limits: &Limits) -> Vec<Key<'_, Effect>> {
    use Effect::TakenOver;
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
    } = limits;
    vec![
        plain("limits.connections_per_user", TakenOver, connections_per_user),
        plain("limits.connections_per_address", TakenOver, connections_per_address),
        plain("limits.exclusive", TakenOver, exclusive),
        plain("group", TakenOver, scope),
        plain("limits.messages", TakenOver, messages),
        plain("limits.messages_per_user", TakenOver, messages_per_user),
        plain("limits.auth_attempts", TakenOver, auth_attempts),
        plain("limits.control_frames", TakenOver, control_frames),
        plain("limits.message_bytes", TakenOver, message_bytes_max),
        plain("limits.depth", TakenOver, depth_max),
        plain("limits.subscriptions", TakenOver, subscriptions_max),
        plain("limits.outbox_frames", TakenOver, outbox_frames_max),
        plain("limits.outbox_bytes", TakenOver, outbox_bytes_max),
    ]
}

fn heartbeat<'a>(heartbeat: Heartbeat) -> Vec<Key<'a, Effect>> {
    let Heartbeat { kind, every, timeout } = heartbeat;
    vec![
        made("heartbeat.kind", Effect::TakenOver, kind),
        made("heartbeat.every", Effect::TakenOver, every),
        made("heartbeat.timeout", Effect::TakenOver, timeout),
    ]
}

fn auth(auth: &RouteAuth) -> Vec<Key<'_, Effect>> {
    let RouteAuth { permissions, owns, deadline, also_from } = auth;
    vec![
        // Their claims are not kept: they are asked again, as whoever comes.
        plain("auth.permissions", Effect::Closes, permissions),
        plain("auth.owns", Effect::Closes, owns),
        plain("auth.deadline", Effect::TakenOver, deadline),
        plain("auth.also_from", Effect::TakenOver, also_from),
    ]
}

fn deprecation(policy: &Policy) -> Vec<Key<'_, Effect>> {
    use Effect::TakenOver;
    let Policy { deprecated_at, sunset_at, refuse_after_sunset, documentation, sunset_policy, successor } =
        policy;
    vec![
        plain("deprecation.deprecated_at", TakenOver, deprecated_at),
        plain("deprecation.sunset_at", TakenOver, sunset_at),
        plain("deprecation.after_sunset", TakenOver, refuse_after_sunset),
        plain("deprecation.documentation", TakenOver, documentation),
        plain("deprecation.sunset_policy", TakenOver, sunset_policy),
        plain("deprecation.successor", TakenOver, successor),
    ]
}

fn membership(membership: &Membership) -> Vec<Key<'_, Effect>> {
    // Who is subscribed as whom is settled for the connection's life; what is told of him is what his token said.
    let (kind, observer, info, watchlist) = match membership {
        Membership::EachUser { info } => (0_u8, None, info.clone(), None),
        Membership::Observe(member) => (1, Some(member.clone()), None, None),
        Membership::SignedIn { info, watchlist } => (2, None, info.clone(), watchlist.clone()),
    };
    vec![
        made("presence", Effect::Closes, (kind, observer)),
        made("user_info", Effect::TakenOver, info),
        made("watchlist", Effect::TakenOver, watchlist),
    ]
}

fn dialect(dialect: &Dialect) -> Vec<Key<'_, Effect>> {
    use Effect::Closes;
    let Dialect {
        name,
        type_field,
        auth,
        subscribe,
        unsubscribe,
        pong,
        ping,
        keepalives,
        binary_is_json,
        subprotocols,
        out,
        error_codes,
        reserved: _, // of `out`
    } = dialect;
    let Frames {
        event,
        auth_ok,
        auth_error,
        error,
        ping: ping_out,
        pong: pong_out,
        subscribed,
        unsubscribed,
        members,
        member_added,
        member_removed,
        cache_miss,
        reply,
    } = out;
    vec![
        // The same frames by another name are the same to those who read them.
        plain("dialect", Effect::TakenOver, name),
        plain("dialect.in.type_field", Closes, type_field),
        plain("dialect.in.auth", Closes, auth),
        plain("dialect.in.subscribe", Closes, subscribe),
        plain("dialect.in.unsubscribe", Closes, unsubscribe),
        plain("dialect.in.pong", Closes, pong),
        plain("dialect.in.ping", Closes, ping),
        plain("dialect.in.keepalives", Closes, keepalives),
        plain("dialect.in.binary", Closes, binary_is_json),
        plain("dialect.subprotocols", Closes, subprotocols),
        plain("dialect.out.event", Closes, event),
        plain("dialect.out.auth_ok", Closes, auth_ok),
        plain("dialect.out.auth_error", Closes, auth_error),
        plain("dialect.out.error", Closes, error),
        plain("dialect.out.ping", Closes, ping_out),
        plain("dialect.out.pong", Closes, pong_out),
        plain("dialect.out.subscribed", Closes, subscribed),
        plain("dialect.out.unsubscribed", Closes, unsubscribed),
        plain("dialect.out.members", Closes, members),
        plain("dialect.out.member_added", Closes, member_added),
        plain("dialect.out.member_removed", Closes, member_removed),
        plain("dialect.out.cache_miss", Closes, cache_miss),
        plain("dialect.out.reply", Closes, reply),
        plain("dialect.error_codes", Closes, error_codes),
    ]
}
