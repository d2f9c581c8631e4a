//! Routes that may share a channel: with the same rules that is fine, with different ones `shares` must say so.

use std::borrow::Cow;
use std::sync::Arc;

use super::values::{Place, Placeholders};
use super::{RouteInput, cure};
use crate::config::OffRoute;
use crate::config::problems::Problems;
use crate::config::scalars::At;
use crate::pusher::channel::kind_prefix;
use crate::routes::channel::begins;
use crate::routes::path::PathTemplate;
use crate::routes::route::{PublishAction, Route, TypeSet, ValueSets};
use crate::template::{Pattern, Text, Var, closest};

pub(super) type Valid<'i> = (&'i RouteInput, Arc<Route>);

/// Rejects channels that two routes with different rules have in common, unless one of them names the other in
/// `shares`: a client that one route keeps out would get in by the other.
pub(super) fn check(problems: &mut Problems<'_>, routes: &[Valid<'_>], off: &[OffRoute]) {
    let channels: Vec<Channels> = routes.iter().map(|(_, route)| Channels::of(route)).collect();
    let both = routes.iter().zip(&channels);
    for (index, ((input, route), own)) in both.clone().enumerate() {
        for ((earlier_input, earlier), earlier_channels) in both.clone().take(index) {
            let named = names(route, earlier) || names(earlier, route);
            let Some(rule) = different_rule(earlier, route).filter(|_| !named) else { continue };
            let Some(channel) = own.overlap(earlier_channels) else { continue };
            let Some(place) = input.route.channel.as_ref() else { continue };
            let line = earlier_input.route.channel.as_ref().map_or(0, |at| problems.line(&at.span()));
            problems.with_help(
                place.span(),
                format!(
                    "`{channel}` would be a channel of this route and of `{}` (line {line}), whose rules differ: \
                     {rule}",
                    earlier.name
                ),
                format!(
                    "{}, or accept it: shares = [\"{}\"]",
                    cure::cure(route, earlier)
                        .unwrap_or_else(|| "tell the channels apart by literal text".to_owned()),
                    earlier.name
                ),
            );
        }
        check_names(problems, (input, route, own), (routes, off), &channels);
    }
}

fn names(route: &Route, other: &Route) -> bool {
    route.shares.contains(&other.name)
}

/// Each name in `shares` must be of a route that does share a channel.
fn check_names(
    problems: &mut Problems<'_>,
    (input, route, own): (&RouteInput, &Route, &Channels),
    (routes, off): (&[Valid<'_>], &[OffRoute]),
    channels: &[Channels],
) {
    for named in input.route.shares.iter().flatten() {
        let found = routes.iter().zip(channels).find(|((_, other), _)| *other.name == **named.get());
        match found {
            Some(((_, other), _)) if other.name == route.name => {
                problems.at(named.span(), "a route shares its channels with itself anyway");
            }
            Some((_, other)) if own.overlap(other).is_none() => {
                problems.at(named.span(), format!("no channel of this route is one of `{}`", named.get()));
            }
            Some(_) => {}
            None if off.iter().any(|off| off.name == *named.get()) => {}
            None => unknown(problems, named, routes),
        }
    }
}

fn unknown(problems: &mut Problems<'_>, named: &At<String>, routes: &[Valid<'_>]) {
    let message = format!("there is no route `{}`", named.get());
    match closest(named.get(), routes.iter().map(|(_, route)| &*route.name)) {
        Some(near) => problems.with_help(named.span(), message, format!("did you mean `{near}`?")),
        None => problems.at(named.span(), message),
    }
}

/// All channels of a route, or of a text of its.
pub(super) struct Channels {
    pattern: Pattern,
    kinds: Vec<&'static str>,
}

impl Channels {
    pub(super) fn of(route: &Route) -> Self {
        Self::by(route, &route.channel)
    }

    /// Those that `channel`, a text of the route's, can be.
    pub(super) fn by(route: &Route, channel: &Text) -> Self {
        Self::within(route, channel, &route.path, &route.value_sets)
    }

    /// The same, with other values.
    pub(super) fn within(route: &Route, channel: &Text, path: &PathTemplate, sets: &ValueSets) -> Self {
        let listed = &route.subscribe_values;
        let placeholders = Placeholders::new(path, route.channel.source(), listed, sets);
        let kinds = begins(channel, listed).iter().map(|(begin, _)| kind_prefix(begin)).collect();
        Self { pattern: placeholders.pattern(channel, None, Place::Channel), kinds }
    }

    /// A channel that is one of both. A value never selects another kind, so only those of one kind can be.
    pub(super) fn overlap(&self, other: &Self) -> Option<String> {
        let one_kind = self.kinds.iter().any(|kind| other.kinds.contains(kind));
        if one_kind { self.pattern.overlap(&other.pattern) } else { None }
    }
}

/// The first rule that the two do not have in common.
fn different_rule(a: &Route, b: &Route) -> Option<&'static str> {
    let (a, b) = (Rules::of(a), Rules::of(b));
    // Rules about a value are the same only if the value has the same place in the channel. `subscribe`'s list is not a
    // rule: it says which channels a route has, and those of both are open to the same clients.
    let elsewhere = a.channel != b.channel;
    let values = elsewhere && (a.speaks_of_values || b.speaks_of_values);
    [
        ("`auth.required`", a.authenticated != b.authenticated),
        ("`auth.permissions`", a.permissions != b.permissions),
        // A user's own channel is for that user only, while the other route lets clients choose.
        ("`{auth.user}` in `channel`", elsewhere && (a.user_in_channel || b.user_in_channel)),
        ("`auth.owns`", a.owns != b.owns || (values && !a.owns.is_empty())),
        ("`filter`", a.filter != b.filter || (values && a.filter.is_some())),
        ("`publish`", a.publish != b.publish || (elsewhere && (a.publishes_values || b.publishes_values))),
        ("`origins`", a.origins != b.origins),
    ]
    .into_iter()
    .find_map(|(rule, differs)| differs.then_some(rule))
}

/// Who may read and write a route's channel, in a form that can be compared: placeholders of the path by where they
/// stand, whatever they are called.
struct Rules {
    channel: String,
    user_in_channel: bool,
    speaks_of_values: bool,
    publishes_values: bool,
    authenticated: bool,
    permissions: Vec<String>,
    owns: Vec<(String, String)>,
    filter: Option<(String, String)>,
    publish: Vec<String>,
    origins: Option<Vec<String>>,
}

impl Rules {
    fn of(route: &Route) -> Self {
        let mut order: Vec<Var> = Vec::new();
        let filter = route.filter.as_ref();
        let owns = route.auth.iter().flat_map(|auth| &auth.owns);
        let events = route.publish.iter().flat_map(|rule| match &rule.action {
            PublishAction::Trigger { event, elsewhere, .. } => {
                [Some(event), elsewhere.as_ref().map(|elsewhere| &elsewhere.channel)]
            }
            PublishAction::Post { .. } | PublishAction::Drop => [None, None],
        });
        let events = events.flatten();
        let texts = [&route.channel]
            .into_iter()
            .chain(filter.map(|filter| &filter.equals))
            .chain(owns.clone().map(|own| &own.contains))
            .chain(events.clone());
        for var in texts.flat_map(Text::vars) {
            if !order.contains(var) {
                order.push(var.clone());
            }
        }
        let named = |text: &Text| {
            let place = |var: &Var| match var {
                // No text of a file has this character.
                Var::Path(_) => Cow::Owned(format!("\0{:?}\0", order.iter().position(|v| v == var))),
                Var::Subscribe(field) => Cow::Owned(format!("\0subscribe.{field}\0")),
                Var::User => Cow::Borrowed("\0user\0"),
                Var::Type => Cow::Borrowed("\0type\0"),
            };
            text.fill(|var| Some(place(var))).unwrap_or_default()
        };
        let sorted = |mut list: Vec<String>| {
            list.sort_unstable();
            list.dedup();
            list
        };
        let mut owned: Vec<_> = owns.clone().map(|own| (own.claim.clone(), named(&own.contains))).collect();
        owned.sort_unstable();
        let publish = route.publish.iter().filter_map(|rule| {
            let PublishAction::Trigger { event, data, relay_as_sent, elsewhere, way: _ } = &rule.action
            else {
                return None;
            };
            let types = match &rule.types {
                TypeSet::Any => "*".to_owned(),
                TypeSet::Listed(list) => sorted(list.clone()).join("\0"),
            };
            let data = data.as_ref().map_or("", |data| data.source());
            let place = elsewhere.as_ref().map(|elsewhere| named(&elsewhere.channel)).unwrap_or_default();
            Some(format!("{types}\0\0{}\0\0{data}\0\0{relay_as_sent}\0\0{place}", named(event)))
        });
        Self {
            channel: named(&route.channel),
            user_in_channel: route.channel.vars().any(|var| *var == Var::User),
            publishes_values: events
                .flat_map(Text::vars)
                .any(|var| matches!(var, Var::Path(_) | Var::Subscribe(_))),
            speaks_of_values: owns
                .clone()
                .map(|own| &own.contains)
                .chain(filter.map(|f| &f.equals))
                .any(|text| text.vars().next().is_some()),
            authenticated: route.auth.is_some(),
            permissions: sorted(route.auth.iter().flat_map(|auth| auth.permissions.clone()).collect()),
            owns: owned,
            filter: filter.map(|filter| (filter.field.join("."), named(&filter.equals))),
            publish: publish.collect(),
            origins: route.origins.as_ref().map(|origins| sorted(origins.list().to_vec())),
        }
    }
}
