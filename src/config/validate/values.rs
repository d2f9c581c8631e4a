//! What placeholders' values can be, and that different values never produce the same text.

use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::pusher::channel::{check_channel, is_channel_byte};
use crate::routes::path::PathTemplate;
use crate::routes::route::{Listed, ValueSets};
use crate::template::{CharSet, Choice, Pattern, Text, Values, Var, closest, in_url};

/// What a `*` in a list of values stands for: one or more of these.
pub(super) fn listed(problems: &mut Problems<'_>, raw: &At<String>) -> Option<Choice> {
    let choice = match Choice::parse(raw.get(), CharSet::of(is_channel_byte)) {
        Ok(choice) => choice,
        Err(at) => {
            let span = problems.inside(raw, at);
            problems.at(span, "a `*` stands at the end, for one or more characters");
            return None;
        }
    };
    let begin = choice.begin();
    if (choice.more().is_none() || !begin.is_empty())
        && let Err(error) = check_channel(begin)
    {
        problems.at(raw.span(), error.replace("the channel's name", "the value"));
        return None;
    }
    Some(choice)
}

/// What a route's placeholders can be.
pub(super) struct Placeholders<'r> {
    path: &'r PathTemplate,
    channel: &'r str,
    listed: &'r [Listed],
    sets: &'r ValueSets,
}

/// Where a text goes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// A channel's name, which is checked as a whole: no value in it has an illegal character.
    Channel,
    /// A text that is compared or counted.
    Plain,
    Url,
}

impl<'r> Placeholders<'r> {
    pub(super) fn new(
        path: &'r PathTemplate,
        channel: &'r str,
        listed: &'r [Listed],
        sets: &'r ValueSets,
    ) -> Self {
        Self { path, channel, listed, sets }
    }

    fn of(&self, var: &Var, types: Option<&[String]>, place: Place) -> Values {
        let (any, legal) = (CharSet::ANY, CharSet::of(is_channel_byte));
        let here = if matches!(place, Place::Channel) { legal } else { any };
        match var {
            Var::Path(name) => {
                let in_channel = self.channel.contains(&format!("{{{name}}}"));
                let set = self.path.set_of(name).unwrap_or(any).and(if in_channel { legal } else { any });
                Values::of(set.and(here)).except(self.path.excluded_of(name))
            }
            Var::User => Values::of(self.sets.user.unwrap_or(any).and(here)).except(&self.sets.not_user),
            Var::Subscribe(field) => {
                let listed = self.listed.iter().find(|(name, _)| name == field);
                let values = match listed {
                    Some((_, choices)) => Values::choices(choices, here),
                    None => Values::of(self.sets.of_field(field).unwrap_or(any).and(here)),
                };
                values.except(self.sets.not_of_field(field))
            }
            Var::Type => types.map_or(Values::of(here), Values::listed),
        }
    }

    /// All texts that `text` can produce; `types` are those of its rule, `None` where it may be any.
    pub(super) fn pattern(&self, text: &Text, types: Option<&[String]>, place: Place) -> Pattern {
        Pattern::of(text, |var| match place {
            Place::Url => in_url(self.of(var, types, place)),
            Place::Channel | Place::Plain => self.of(var, types, place),
        })
    }

    /// Reports a template for which different values produce the same text.
    pub(super) fn check(
        &self,
        problems: &mut Problems<'_>,
        raw: &At<String>,
        text: &Text,
        types: Option<&[String]>,
        place: Place,
    ) {
        let mut fields = text.vars().filter(|var| matches!(var, Var::Subscribe(_)));
        let field = fields.next();
        // A single value is always unambiguous. Two fields in one text are an error anyway.
        if text.vars().nth(1).is_none() || fields.any(|other| Some(other) != field) {
            return;
        }
        if let Some(alike) = self.pattern(text, types, place).ambiguity() {
            problems.with_help(
                raw.span(),
                format!("different values could produce the same text here, for example `{alike}`"),
                "put text between the placeholders that their values cannot contain, or say what they may contain: \
                 {name:[a-z0-9]+} in the path, or values = { \"auth.user\" = \"[a-z0-9]+\" }",
            );
        }
    }
}

/// `values`: sets for placeholders. Those of the path's go into the path's template.
pub(super) fn value_sets(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    path: &mut PathTemplate,
    authenticated: bool,
) -> ValueSets {
    let mut sets = ValueSets::default();
    for (name, class) in raw.values.iter().flatten() {
        let set = match CharSet::parse(class.get()) {
            Ok(set) => set,
            Err(why) => {
                problems.at(class.span(), why);
                continue;
            }
        };
        if let Some(field) = name.get().strip_prefix("subscribe.") {
            let listed = raw.subscribe.iter().flatten().any(|(listed, _)| listed.get() == field);
            if listed {
                problems.at(name.span(), format!("`subscribe` already lists the values of `{field}`"));
            }
            sets.subscribe.push((field.to_owned(), set));
        } else if name.get() == "auth.user" {
            if !authenticated {
                problems.at(name.span(), "`auth.user` needs a route with `auth.required = true`");
            }
            sets.user = Some(set);
        } else if path.set_of(name.get()).is_some() {
            problems.at(name.span(), format!("the path already says what `{}` may contain", name.get()));
        } else if !path.restrict(name.get(), set) {
            unknown_placeholder(problems, name, path);
        }
    }
    sets
}

/// Reports a name of neither a placeholder of the path nor another.
pub(super) fn unknown_placeholder(problems: &mut Problems<'_>, name: &At<String>, path: &PathTemplate) {
    let known = path.names().iter().map(String::as_str).chain(["auth.user"]);
    let message = format!("the path has no `{{{}}}`", name.get());
    match closest(name.get(), known) {
        Some(near) => problems.with_help(name.span(), message, format!("did you mean `{near}`?")),
        None => problems.with_help(
            name.span(),
            message,
            "a placeholder of the path, `auth.user` or `subscribe.FIELD`",
        ),
    }
}

/// Reports sets of characters that no template uses, and those that a channel's name cannot have.
pub(super) fn sets_are_used(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    path: &PathTemplate,
    sets: &ValueSets,
    texts: &[Option<&Text>],
) {
    let uses = |var: &Var| texts.iter().flatten().any(|text| text.vars().any(|used| used == var));
    let legal = CharSet::of(is_channel_byte);
    let channel = texts.first().copied().flatten();
    // Sets in the path itself; `values` has none for these.
    for var in channel.iter().flat_map(|text| text.vars()) {
        let Var::Path(name) = var else { continue };
        let elsewhere = raw.values.iter().flatten().any(|(said, _)| said.get() == name);
        if let (Some(set), Some(at), false) = (path.set_of(name), raw.path.as_ref(), elsewhere)
            && !set.within(legal)
        {
            let from = at.get().find(&format!("{{{name}:")).unwrap_or(0);
            let span = problems.inside(at, from);
            problems.at(span, "a channel's name has letters, digits and `_-=@,.;` only");
        }
    }
    for name in raw.exclude.iter().flat_map(|excluded| excluded.keys()) {
        let Some(field) = name.get().strip_prefix("subscribe.") else { continue };
        if !uses(&Var::Subscribe(field.to_owned())) {
            problems.at(name.span(), format!("neither `channel` nor `filter` has `{{{}}}`", name.get()));
        }
    }
    for (name, class) in raw.values.iter().flatten() {
        let (var, set) = match (name.get().strip_prefix("subscribe."), name.get().as_str()) {
            (Some(field), _) => (Var::Subscribe(field.to_owned()), sets.of_field(field)),
            (None, "auth.user") => (Var::User, sets.user),
            (None, name) => (Var::Path(name.to_owned()), path.set_of(name)),
        };
        let Some(set) = set else { continue };
        if matches!(var, Var::Subscribe(_)) && !uses(&var) {
            problems.at(name.span(), format!("neither `channel` nor `filter` has `{{{}}}`", name.get()));
        } else if channel.is_some_and(|text| text.vars().any(|used| *used == var)) && !set.within(legal) {
            problems.at(class.span(), "a channel's name has letters, digits and `_-=@,.;` only");
        }
    }
}
