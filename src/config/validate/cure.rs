//! The `exclude` that keeps one route out of another's channels.

use super::sharing::Channels;
use crate::pusher::channel::is_channel_byte;
use crate::routes::channel::begins;
use crate::routes::route::Route;
use crate::template::{CharSet, Choice, Var};

/// What to write so that no channel is one of both, if a line in one of them does it.
pub(super) fn cure(one: &Route, other: &Route) -> Option<String> {
    of(one, other).or_else(|| of(other, one))
}

/// The line in `route` that leaves `other` its channels.
fn of(route: &Route, other: &Route) -> Option<String> {
    let mut vars = route.channel.vars();
    let var = vars.next().filter(|_| vars.next().is_none())?;
    let suffix_is_free = route.channel.source().ends_with('}');
    let values = begins(&other.channel, &other.subscribe_values).into_iter().filter_map(|(name, whole)| {
        let value = route.channel.invert(&name).filter(|value| !value.is_empty());
        value
            .filter(|_| whole || suffix_is_free)
            .map(|value| format!("{value}{}", if whole { "" } else { "*" }))
    });
    let old = match var {
        Var::Path(name) => route.path.excluded_of(name),
        Var::User => &route.value_sets.not_user,
        Var::Subscribe(field) => route.value_sets.not_of_field(field),
        Var::Type => return None,
    };
    let mut all: Vec<String> = old.iter().map(ToString::to_string).chain(values).collect();
    all.dedup();
    let legal = CharSet::of(is_channel_byte);
    let not: Vec<Choice> = all.iter().filter_map(|text| Choice::parse(text, legal).ok()).collect();
    let (mut path, mut sets) = (route.path.clone(), route.value_sets.clone());
    let key = match var {
        Var::Path(name) => {
            let _ = path.exclude(name, not);
            name.clone()
        }
        Var::User => {
            sets.not_user = not;
            "\"auth.user\"".to_owned()
        }
        Var::Subscribe(field) => {
            sets.not_subscribe.retain(|(name, _)| name != field);
            sets.not_subscribe.push((field.clone(), not));
            format!("\"subscribe.{field}\"")
        }
        Var::Type => return None,
    };
    let without = Channels::within(route, &route.channel, &path, &sets);
    if without.overlap(&Channels::of(other)).is_some() {
        return None;
    }
    Some(format!("exclude the value in the route `{}`: exclude = {{ {key} = {all:?} }}", route.name))
}
