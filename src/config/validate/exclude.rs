//! `exclude`: values that placeholders must not have.

use super::values::unknown_placeholder;
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::pusher::channel::is_channel_byte;
use crate::routes::path::{PathTemplate, VALUE_BYTES_MAX};
use crate::routes::route::{Listed, ValueSets};
use crate::template::{CharSet, Choice};

/// Those of the path's placeholders go into the path's template, the others into `sets`.
pub(super) fn excluded(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    path: &mut PathTemplate,
    sets: &mut ValueSets,
    (authenticated, listed): (bool, &[Listed]),
) {
    let legal = CharSet::of(is_channel_byte);
    let in_channel = |name: &str| {
        raw.channel.as_ref().is_some_and(|channel| channel.get().contains(&format!("{{{name}}}")))
    };
    for (name, values) in raw.exclude.iter().flatten() {
        if values.get().is_empty() {
            problems.at(values.span(), "an empty list excludes nothing; leave it out");
        }
        let named = name.get().as_str();
        let field = named.strip_prefix("subscribe.");
        let set = match (field, named) {
            (Some(field), _) => sets.of_field(field),
            (None, "auth.user") => sets.user,
            (None, name) => path.set_of(name),
        };
        let set = set.unwrap_or(CharSet::ANY).and(if in_channel(named) { legal } else { CharSet::ANY });
        let not: Vec<Choice> =
            values.get().iter().filter_map(|value| self::value(problems, named, value, set)).collect();
        if let Some(field) = field {
            let list = listed.iter().find(|(name, _)| name == field).map_or(&[][..], |(_, list)| list);
            for choice in list.iter().filter(|choice| choice.more().is_none()) {
                if not.iter().any(|not| not.fits(choice.begin())) {
                    let message =
                        format!("`subscribe` lists `{choice}` for `{field}`, which is excluded here");
                    problems.with_help(name.span(), message, "take it off the list");
                }
            }
            sets.not_subscribe.push((field.to_owned(), not));
        } else if named == "auth.user" {
            if !authenticated {
                problems.at(name.span(), "`auth.user` needs a route with `auth.required = true`");
            }
            sets.not_user = not;
        } else if !path.exclude(named, not) {
            unknown_placeholder(problems, name, path);
        }
    }
}

fn value(problems: &mut Problems<'_>, name: &str, raw: &At<String>, set: CharSet) -> Option<Choice> {
    let raw = problems.text(Some(raw))?;
    let choice = match Choice::parse(raw.get(), CharSet::ANY) {
        Ok(choice) if choice.begin().is_empty() => {
            problems.at(raw.span(), "this would exclude every value");
            return None;
        }
        // No value is longer: a path's, a filter's, a part of a channel's name.
        Ok(choice) if choice.begin().len() > VALUE_BYTES_MAX => {
            let bytes = choice.begin().len();
            problems.at(raw.span(), format!("this has {bytes} bytes, a value has at most {VALUE_BYTES_MAX}"));
            return None;
        }
        Ok(choice) => choice,
        Err(at) => {
            let span = problems.inside(raw, at);
            problems.at(span, "a `*` stands at the end, for one or more characters");
            return None;
        }
    };
    if !set.fits(choice.begin()) && !problems.stands_in(&raw.span()) {
        problems.at(raw.span(), format!("`{}` never begins a value of `{name}` anyway", choice.begin()));
        return None;
    }
    Some(choice)
}
