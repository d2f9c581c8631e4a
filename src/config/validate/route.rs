//! `[[routes]]`, merged with their group and the defaults

use std::sync::Arc;
use std::time::Duration;

use super::channel::{check_subscribe, subscribe_is_used, subscribe_values};
use super::limits::limits;
use super::values::{self, Place, Placeholders};
use super::{
    POSITIVE, RouteInput, Shared, deprecation, door, events, exclude, member, membership, publish, required,
    template, unknown_name,
};
use crate::auth::settings::{Ownership, RouteAuth, TokenPlace};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::legacy::dialect::Dialect;
use crate::limits::slots::Scope;
use crate::routes::entrance::Entrance;
use crate::routes::path::PathTemplate;
use crate::routes::route::{Filter, Heartbeat, HeartbeatKind, OnGap, OnUndecryptable, Route, TellRefusal};
use crate::template::{Allow, Text, Var, closest};

const AUTH_DEADLINE: Duration = Duration::from_secs(30);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(75);
/// More often is unintended load, and no client answers faster.
const HEARTBEAT_LEAST: Duration = Duration::from_millis(50);
const REFUSAL_HOLD: Duration = Duration::from_secs(30);

/// What the parts of a route need to know of it.
#[derive(Clone, Copy)]
pub(super) struct Context<'r> {
    pub(super) path_names: &'r [String],
    pub(super) authenticated: bool,
    pub(super) dialect: &'r Dialect,
    pub(super) placeholders: &'r Placeholders<'r>,
    /// Whether encrypted channels can be carried.
    pub(super) has_master_key: bool,
    /// The filter's field, by its members.
    pub(super) filter_field: Option<&'r [String]>,
}

pub(super) fn route(problems: &mut Problems<'_>, input: &RouteInput, shared: &Shared) -> Option<Route> {
    let raw = &input.route;
    let name = required(problems, raw.name.as_ref(), input.span.clone(), "name");
    if let Some(name) = name.filter(|name| !super::is_name(name.get())) {
        super::bad_name(problems, name.span(), "route");
    }
    super::tunnel::none_of_it(problems, input);
    let path = path(problems, input);
    let channel = required(problems, raw.channel.as_ref(), input.span.clone(), "channel");
    let dialect = dialect(problems, input, shared);
    let (name, mut path, channel, dialect) = (name?, path?, channel?, dialect?);
    let authenticated = is_authenticated(problems, raw);
    let mut value_sets = values::value_sets(problems, raw, &mut path, authenticated);
    let subscribe_values = subscribe_values(problems, raw);
    exclude::excluded(problems, raw, &mut path, &mut value_sets, (authenticated, &subscribe_values));
    let placeholders = Placeholders::new(&path, channel.get(), &subscribe_values, &value_sets);
    let context = Context {
        path_names: path.names(),
        authenticated,
        dialect: &dialect,
        placeholders: &placeholders,
        has_master_key: shared.has_master_key,
        filter_field: None,
    };
    let auth = auth(problems, raw, shared, &context);
    let channel = if channel.get().starts_with('#') {
        membership::user_channel(problems, channel, authenticated).map(|channel| (channel, false))
    } else {
        super::channel::channel(problems, channel, &context, &subscribe_values)
    };
    if let (Some(span), Some((_, false))) = (input.own_undecryptable.clone(), &channel) {
        problems.at(span, "`on_undecryptable` has no meaning on a channel that is not encrypted");
    }
    let channel = channel.map(|(channel, _)| channel);
    let membership = channel.as_ref().and_then(|channel| {
        let names = (channel, subscribe_values.as_slice());
        membership::membership(problems, raw, names, authenticated, &shared.observer)
    });
    let filter = filter(problems, raw.filter.as_ref(), &context);
    let echo = problems.flag(raw.echo.as_ref(), false);
    if let Some(field) = raw.filter.as_ref().and_then(|raw| raw.field.as_ref()).filter(|_| echo) {
        problems.at(field.span(), "`filter` has no meaning with `echo = true`: no event comes");
    }
    let events = events::rules(problems, raw, &context, echo);
    let pusher_events = events::pushers_own(problems, raw, echo);
    subscribe_is_used(problems, raw, channel.as_ref(), filter.as_ref());
    let texts = [channel.as_ref(), filter.as_ref().map(|f| &f.equals)];
    values::sets_are_used(problems, raw, &path, &value_sets, &texts);
    let free = free_values(&path, channel.as_ref());
    if let Some(auth) = &auth {
        owned_is_used(problems, raw, auth, &texts);
    }
    let filter_field = filter.as_ref().map(|filter| filter.field.as_slice());
    let own = publish::Own { channel: channel.as_ref(), listed: &subscribe_values };
    let publish = publish::rules(problems, raw, &Context { filter_field, ..context }, own);
    let scope = match &raw.group {
        Some(group) => Scope::Group(group.get().as_str().into()),
        None => Scope::Route(name.get().as_str().into()),
    };
    let limits = limits(problems, raw.limits.as_ref(), &context, scope, shared.event_bytes_max);
    if let Some(span) = input.own_asks.clone().filter(|_| !authenticated) {
        problems.at(span, "`also_from` and `deadline` have no meaning without `auth.required = true`");
    }
    if let Some(span) = input.own_slots.clone().filter(|_| !authenticated) {
        problems.with_help(
            span,
            "`connections_per_user` has no meaning without `auth.required = true`: nobody has a name",
            "for addresses there is `connections_per_address`",
        );
    }
    let heartbeat = heartbeat(problems, raw, &context);
    let deprecation = deprecation::deprecation(problems, raw.deprecation.as_ref());
    let hold = problems.duration(raw.refusal_hold.as_ref(), Duration::ZERO, REFUSAL_HOLD);
    let refusal = match raw.refusal.as_ref().map(At::get) {
        Some(raw::Refusal::Frame) => TellRefusal::Frame { hold },
        _ => TellRefusal::Http,
    };
    let subprotocols = door::subprotocols(problems, raw.subprotocols.as_ref());
    let channel = channel?;
    Some(Route {
        name: name.get().as_str().into(),
        path: path.with_free_values(free).with_channel(channel.clone()).with_either_slash(either_slash(raw)),
        channel,
        subscribe_values,
        value_sets,
        shares: raw.shares.iter().flatten().map(|name| name.get().as_str().into()).collect(),
        membership,
        auth,
        filter,
        publish,
        events,
        pusher_events,
        event_bytes_max: shared.event_bytes_max,
        reserved: Vec::new(),
        echo,
        heartbeat,
        limits,
        deprecation,
        refusal,
        on_gap: match raw.on_gap.as_ref().map(At::get) {
            None | Some(raw::OnGap::Ignore) => OnGap::Ignore,
            Some(raw::OnGap::Notify) => OnGap::Notify,
            Some(raw::OnGap::Close) => OnGap::Close,
        },
        on_undecryptable: match raw.on_undecryptable.as_ref().map(At::get) {
            None | Some(raw::OnUndecryptable::Drop) => OnUndecryptable::Drop,
            Some(raw::OnUndecryptable::Notify) => OnUndecryptable::Notify,
            Some(raw::OnUndecryptable::Close) => OnUndecryptable::Close,
        },
        origins: door::origins(problems, raw.origins.as_ref()),
        subprotocols: subprotocols.unwrap_or_else(|| dialect.subprotocols.clone()),
        dialect,
    })
}

pub(super) fn path(problems: &mut Problems<'_>, input: &RouteInput) -> Option<PathTemplate> {
    let at = required(problems, input.route.path.as_ref(), input.span.clone(), "path")?;
    PathTemplate::parse(at.get())
        .map_err(|error| {
            let span = problems.inside(at, error.at);
            problems.at(span, error.message);
        })
        .ok()
}

pub(super) fn either_slash(raw: &raw::Route) -> bool {
    raw.slash.as_ref().is_some_and(|slash| *slash.get() == raw::Slash::Either)
}

/// Placeholders of the path that are not in the channel's name: filters, slots and URLs allow more characters.
fn free_values(path: &PathTemplate, channel: Option<&Text>) -> Vec<String> {
    let in_channel = |name: &String| {
        channel.is_none_or(|text| text.vars().any(|var| matches!(var, Var::Path(used) if used == name)))
    };
    path.names().iter().filter(|name| !in_channel(name)).cloned().collect()
}

/// Names and paths must be distinct.
pub(super) fn distinct(problems: &mut Problems<'_>, routes: &[(&RouteInput, Entrance<'_>)]) {
    for (index, (input, route)) in routes.iter().enumerate() {
        for (earlier_input, earlier) in routes.iter().take(index) {
            let line = |problems: &Problems<'_>, at: Option<&At<String>>| {
                problems.line(&at.map_or_else(|| earlier_input.span.clone(), At::span))
            };
            if let Some(name) = input.route.name.as_ref().filter(|_| earlier.name == route.name) {
                let line = line(problems, earlier_input.route.name.as_ref());
                problems
                    .at(name.span(), format!("the route on line {line} has the name `{}` too", route.name));
            }
            if let Some(path) = input.route.path.as_ref().filter(|_| earlier.path.overlaps(route.path)) {
                let line = line(problems, earlier_input.route.path.as_ref());
                problems.at(
                    path.span(),
                    format!(
                        "one path can match both this and `{}` of the route `{}` (line {line})",
                        earlier.path.source(),
                        earlier.name
                    ),
                );
            }
        }
    }
}

fn dialect(problems: &mut Problems<'_>, input: &RouteInput, shared: &Shared) -> Option<Arc<Dialect>> {
    let name = required(problems, input.route.dialect.as_ref(), input.span.clone(), "dialect")?;
    match shared.dialects.get(name.get()) {
        Some(dialect) => dialect.clone(),
        None => {
            let names: Vec<&str> = shared.dialects.keys().map(String::as_str).collect();
            unknown_name(problems, name, "dialect", &names);
            None
        }
    }
}

fn is_authenticated(problems: &mut Problems<'_>, raw: &raw::Route) -> bool {
    raw.auth.as_ref().is_some_and(|auth| problems.flag(auth.required.as_ref(), false))
}

/// A value that is owned must select what is read, or its owner would read what belongs to others.
fn owned_is_used(problems: &mut Problems<'_>, raw: &raw::Route, auth: &RouteAuth, texts: &[Option<&Text>]) {
    let used = |var: &Var| texts.iter().flatten().any(|text| text.vars().any(|used| used == var));
    if texts.first().is_none_or(Option::is_none)
        || (raw.filter.is_some() && texts.iter().any(Option::is_none))
    {
        return;
    }
    let places = raw.auth.iter().flat_map(|auth| auth.owns.iter().flatten());
    for own in &auth.owns {
        let Some(Var::Path(name)) = own.contains.vars().find(|var| !used(var)) else { continue };
        let place = places.clone().filter_map(|place| place.get().contains.as_ref());
        let Some(place) = place.into_iter().find(|place| place.get() == own.contains.source()) else {
            continue;
        };
        problems.with_help(
            place.span(),
            format!(
                "neither `channel` nor `filter` has `{{{name}}}`: who owns one would read what belongs to all others"
            ),
            "put it into the channel, or filter by it",
        );
    }
}

fn auth(
    problems: &mut Problems<'_>,
    route: &raw::Route,
    shared: &Shared,
    context: &Context<'_>,
) -> Option<RouteAuth> {
    let (path_names, dialect) = (context.path_names, context.dialect);
    let raw = route.auth.as_ref()?;
    if !problems.flag(raw.required.as_ref(), false) {
        let asked = raw.permissions.iter().flatten().map(At::span).next();
        if let Some(span) = asked.or_else(|| raw.owns.iter().flatten().map(At::span).next()) {
            problems.at(span, "`permissions` and `owns` have no meaning without `auth.required = true`");
        }
        return None;
    }
    let places: Vec<TokenPlace> =
        raw.also_from.iter().flatten().filter_map(|place| token_place(problems, place)).collect();
    if let Some(flag) = &raw.required {
        if !shared.has_keys {
            problems.at(flag.span(), "authentication needs a key, but there is no [[auth.keys]]");
        }
        if dialect.auth.is_none() {
            problems.at(
                flag.span(),
                format!(
                    "authentication needs an `auth` message, but the dialect `{}` has none",
                    dialect.name
                ),
            );
        }
    }
    let mut owns = Vec::new();
    for own in raw.owns.iter().flatten() {
        let claim = required(problems, own.get().claim.as_ref(), own.span(), "claim");
        let claim = claim.and_then(|claim| member(problems, Some(claim)));
        let contains = required(problems, own.get().contains.as_ref(), own.span(), "contains");
        let contains = contains.and_then(|raw| template(problems, raw, path_names, Allow::default(), false));
        if let (Some(raw), Some(text)) = (&own.get().contains, &contains) {
            context.placeholders.check(problems, raw, text, None, Place::Plain);
        }
        if let (Some(claim), Some(contains)) = (claim, contains) {
            owns.push(Ownership { claim: claim.get().clone(), contains });
        }
    }
    let permissions = raw.permissions.iter().flatten();
    Some(RouteAuth {
        permissions: permissions.filter_map(|p| problems.text(Some(p)).map(|p| p.get().clone())).collect(),
        owns,
        deadline: problems.duration(raw.deadline.as_ref(), POSITIVE, AUTH_DEADLINE),
        also_from: places,
    })
}

fn token_place(problems: &mut Problems<'_>, raw: &At<String>) -> Option<TokenPlace> {
    let parameter = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.~-".contains(&b))
    };
    match raw.get().split_once(':') {
        None if raw.get() == "header" => Some(TokenPlace::Header),
        Some(("query", name)) if parameter(name) => Some(TokenPlace::Query(name.to_owned())),
        Some(("subprotocol", name)) if door::is_token(name) => Some(TokenPlace::Subprotocol(name.to_owned())),
        _ => {
            let word = raw.get().split(':').next().unwrap_or("");
            let near = closest(word, ["header", "query", "subprotocol"].into_iter());
            let help = near.map_or_else(
                || "\"header\", \"query:NAME\" or \"subprotocol:NAME\"".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            problems.with_help(raw.span(), format!("`{}` is not a place for a token", raw.get()), help);
            None
        }
    }
}

fn filter(problems: &mut Problems<'_>, raw: Option<&raw::Filter>, context: &Context<'_>) -> Option<Filter> {
    let raw = raw?;
    let place = raw.field.as_ref().or(raw.equals.as_ref()).map_or(0..0, At::span);
    let field = required(problems, raw.field.as_ref(), place.clone(), "field");
    let equals = required(problems, raw.equals.as_ref(), place, "equals");
    let (field, equals) = (field?, equals?);
    let names: Vec<String> = field.get().split('.').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        problems.at(field.span(), "a field is a name, or names with a `.` between: `agent_id`, `agent.id`");
    }
    let allow = Allow { subscribe: true, user: true, message_type: false };
    let text = template(problems, equals, context.path_names, allow, context.authenticated)?;
    check_subscribe(problems, equals, &text, context);
    context.placeholders.check(problems, equals, &text, None, Place::Plain);
    Some(Filter { field: names, equals: text })
}

// ------------------------------------------------------------------------------------------- the rest

fn heartbeat(problems: &mut Problems<'_>, raw: &raw::Route, context: &Context<'_>) -> Heartbeat {
    let nothing = raw::Heartbeat::default();
    let raw = raw.heartbeat.as_ref().unwrap_or(&nothing);
    let kind = match raw.kind.as_ref().map(At::get) {
        None | Some(raw::HeartbeatKind::WebSocket) => HeartbeatKind::WebSocket,
        Some(raw::HeartbeatKind::Json) => HeartbeatKind::Json,
        Some(raw::HeartbeatKind::Both) => HeartbeatKind::Both,
        Some(raw::HeartbeatKind::None) => HeartbeatKind::None,
    };
    if let Some(at) = raw.kind.as_ref().filter(|_| kind.json() && context.dialect.out.ping.is_none()) {
        problems.at(
            at.span(),
            format!("this heartbeat needs `out.ping`, but the dialect `{}` has none", context.dialect.name),
        );
    }
    let every = problems.duration(raw.every.as_ref(), HEARTBEAT_LEAST, HEARTBEAT_EVERY);
    let timeout = problems.duration(raw.timeout.as_ref(), POSITIVE, HEARTBEAT_TIMEOUT);
    if timeout <= every
        && let Some(place) = raw.timeout.as_ref().or(raw.every.as_ref())
    {
        problems.at(place.span(), "`timeout` must be longer than `every`, or no answer could come in time");
    }
    Heartbeat { kind, every, timeout }
}
