//! `[[routes.events]]` and `pusher_events`

use super::dialect::frame;
use super::required;
use super::route::Context;
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::legacy::dialect::Frames;
use crate::legacy::lookalike;
use crate::pusher::channel::EVENT_BYTES_MAX;
use crate::pusher::frame::is_pushers_own;
use crate::routes::events::{EventAction, EventRule, NamePattern};
use crate::routes::route::PusherEvents;
use crate::template::Frame;

pub(super) fn rules(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    context: &Context<'_>,
    echo: bool,
) -> Vec<EventRule> {
    let rules: &[At<raw::Events>] = raw.events.as_deref().unwrap_or_default();
    if let Some(first) = rules.first().filter(|_| echo) {
        problems.at(first.span(), "`events` has no meaning with `echo = true`: no event comes");
    }
    let mut out: Vec<EventRule> = Vec::new();
    for rule in rules {
        let raw = rule.get();
        let names = required(problems, raw.names.as_ref(), rule.span(), "match");
        let parsed = names.and_then(|names| pattern(problems, names));
        let action = action(problems, rule, parsed.as_ref(), context);
        if let (Some(at), Some(parsed)) = (names, &parsed)
            && out.iter().any(|earlier| earlier.names.covers(parsed))
        {
            problems.at(at.span(), "an earlier rule already takes every event of this one");
        }
        if let (Some(names), Some(action)) = (parsed, action) {
            out.push(EventRule { names, action });
        }
    }
    out
}

fn pattern(problems: &mut Problems<'_>, raw: &At<String>) -> Option<NamePattern> {
    if raw.get().len() > EVENT_BYTES_MAX {
        problems.at(
            raw.span(),
            format!("an event's name has {} bytes of at most {EVENT_BYTES_MAX}", raw.get().len()),
        );
    }
    if raw.get().chars().any(char::is_control) {
        problems.at(raw.span(), "an event's name has no control characters");
    }
    let pattern = NamePattern::parse(raw.get());
    if pattern.is_none() {
        problems.at(raw.span(), "a name has one `*` at most");
    }
    pattern
}

fn action(
    problems: &mut Problems<'_>,
    rule: &At<raw::Events>,
    names: Option<&NamePattern>,
    context: &Context<'_>,
) -> Option<EventAction> {
    let raw = rule.get();
    if problems.flag(raw.drop.as_ref(), false) {
        let others = [("as", &raw.name), ("data", &raw.data)];
        for (key, at) in others.into_iter().filter_map(|(key, at)| Some((key, at.as_ref()?))) {
            problems
                .at(at.span(), format!("`{key}` has no meaning with `drop = true`: nobody gets the event"));
        }
        return Some(EventAction::Drop);
    }
    if raw.name.is_none() && raw.data.is_none() {
        problems.with_help(
            rule.span(),
            "this rule changes nothing",
            "it needs `as`, `data` or `drop = true`",
        );
    }
    let name = raw.name.as_ref().map(|raw| new_name(problems, raw, names, context));
    let data = raw.data.as_ref().map(|raw| data(problems, raw, context));
    Some(EventAction::Show {
        name: match name {
            Some(name) => Some(name?),
            None => None,
        },
        data: match data {
            Some(data) => Some(data?),
            None => None,
        },
    })
}

fn new_name(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    names: Option<&NamePattern>,
    context: &Context<'_>,
) -> Option<NamePattern> {
    let raw = problems.text(Some(raw))?;
    let name = pattern(problems, raw)?;
    if name.has_star() && names.is_some_and(|names| !names.has_star()) {
        let span = problems.inside(raw, raw.get().find('*').unwrap_or(0));
        problems.at(span, "there is no `*` in `match` that this could stand for");
    }
    if is_pushers_own(raw.get()) {
        problems.at(raw.span(), "names that begin with `pusher:` or `pusher_internal:` are Pusher's own");
    }
    if context.dialect.reserved.iter().any(|reserved| reserved == raw.get()) {
        problems.at(
            raw.span(),
            format!(
                "old clients would take `{}` for another frame of the server's: the dialect `{}` has one",
                raw.get(),
                context.dialect.name
            ),
        );
    }
    Some(name)
}

/// Data must not make the event another frame, where only data tells them apart.
fn data(problems: &mut Problems<'_>, raw: &At<String>, context: &Context<'_>) -> Option<Frame> {
    let frame = frame(problems, Some(raw), Frames::RESHAPED)?;
    let alike = lookalike::of(context.dialect, Some(&frame));
    if !alike.is_empty() {
        problems.with_help(
            raw.span(),
            format!(
                "with this data old clients could take the event for the server's `{}`, by the dialect `{}`",
                alike.join("`, `"),
                context.dialect.name
            ),
            "put {event}, or a text that those frames have not, into `out.event` or into the data",
        );
    }
    Some(frame)
}

pub(super) fn pushers_own(problems: &mut Problems<'_>, raw: &raw::Route, echo: bool) -> PusherEvents {
    let mut own = PusherEvents::default();
    for at in raw.pusher_events.iter().flatten() {
        if echo {
            problems.at(at.span(), "`pusher_events` has no meaning with `echo = true`: no event comes");
        }
        let asked = match at.get() {
            raw::PusherEvent::SubscriptionCount => &mut own.subscription_count,
            raw::PusherEvent::Watchlist => &mut own.watchlist,
        };
        if std::mem::replace(asked, true) {
            problems.at(at.span(), "this is already in the list");
        }
    }
    own
}
