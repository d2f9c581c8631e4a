//! `channel`, and the values of `[routes.subscribe]` that go into it.

use super::route::Context;
use super::template;
use super::values::{self, Place};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::pusher::channel::{
    CHANNEL_BYTES_MAX, ChannelKind, check_channel, cut_kind_prefix, is_channel_byte,
};
use crate::routes::channel::begins;
use crate::routes::route::{Filter, Listed};
use crate::template::{Allow, Text, Var, closest};

pub(super) fn subscribe_values(problems: &mut Problems<'_>, raw: &raw::Route) -> Vec<Listed> {
    let mut out = Vec::new();
    for (field, values) in raw.subscribe.iter().flatten() {
        if values.get().is_empty() {
            problems.at(values.span(), "an empty list would let nothing be subscribed; leave it out for any");
        }
        let choices = values.get().iter().filter_map(|value| values::listed(problems, value));
        out.push((field.get().clone(), choices.collect()));
    }
    out
}

/// Reports a list of values for a field that nothing uses.
pub(super) fn subscribe_is_used(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    channel: Option<&Text>,
    filter: Option<&Filter>,
) {
    let (Some(channel), true) = (channel, filter.is_some() || raw.filter.is_none()) else { return };
    let texts = [Some(channel), filter.map(|f| &f.equals)];
    let used: Vec<&str> = texts
        .into_iter()
        .flatten()
        .flat_map(Text::vars)
        .filter_map(|var| match var {
            Var::Subscribe(field) => Some(field.as_str()),
            _ => None,
        })
        .collect();
    for field in raw.subscribe.iter().flat_map(|fields| fields.keys()) {
        if used.contains(&field.get().as_str()) {
            continue;
        }
        let message = format!("neither `channel` nor `filter` has `{{subscribe.{}}}`", field.get());
        match closest(field.get(), used.iter().copied()) {
            Some(near) => problems.with_help(field.span(), message, format!("did you mean `{near}`?")),
            None => problems.at(field.span(), message),
        }
    }
}

/// In-band subscriptions need the dialect's `subscribe` message, and one field per template.
pub(super) fn check_subscribe(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    text: &Text,
    context: &Context<'_>,
) {
    let mut fields = text.vars().filter_map(|var| match var {
        Var::Subscribe(field) => Some(field),
        _ => None,
    });
    let Some(field) = fields.next() else { return };
    let at = |field: &str| raw.get().find(&format!("{{subscribe.{field}}}")).unwrap_or(0);
    if context.dialect.subscribe.is_none() {
        let span = problems.inside(raw, at(field));
        problems.at(
            span,
            format!(
                "`{{subscribe.…}}` needs a `subscribe` message, but the dialect `{}` has none",
                context.dialect.name
            ),
        );
    }
    if let Some(other) = fields.find(|other| *other != field) {
        let span = problems.inside(raw, at(other));
        problems.at(span, "one template can ask for one field of a `subscribe` message only");
    }
}

/// The channel, and whether it can be an encrypted one.
pub(super) fn channel(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    context: &Context<'_>,
    listed: &[Listed],
) -> Option<(Text, bool)> {
    let allow = Allow { subscribe: true, user: true, message_type: false };
    let text = template(problems, raw, context.path_names, allow, context.authenticated)?;
    check_subscribe(problems, raw, &text, context);
    let mut length = 0;
    let mut from = 0;
    for literal in text.literals() {
        length += literal.len();
        let start = raw.get().get(from..).and_then(|rest| rest.find(literal)).unwrap_or(0) + from;
        from = start + literal.len();
        if let Err(error) = check_channel(literal)
            && literal.len() <= CHANNEL_BYTES_MAX
        {
            let legal = |c: char| c.is_ascii() && is_channel_byte(c as u8);
            let bad = literal.find(|c| !legal(c)).unwrap_or(0);
            let span = problems.inside(raw, start + bad);
            problems.at(span, error);
        }
    }
    if length > CHANNEL_BYTES_MAX {
        problems
            .at(raw.span(), format!("the channel's name has {length} bytes of at most {CHANNEL_BYTES_MAX}"));
    }
    let is_encrypted = check_kind(problems, raw, &text, listed, context.has_master_key);
    context.placeholders.check(problems, raw, &text, None, Place::Channel);
    Some((text, is_encrypted))
}

/// The channel's kind must be supported, and must not depend on what a client writes. A value that would make it
/// another kind is refused when it comes; but behind literal text that is only a part of a kind's prefix no value could
/// be told from one that does, so that is an error here.
/// Gives whether it can be an encrypted one.
fn check_kind(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    text: &Text,
    listed: &[Listed],
    has_master_key: bool,
) -> bool {
    let mut is_encrypted = false;
    for (begin, whole) in begins(text, listed) {
        if !whole && let Some(kind) = cut_kind_prefix(&begin) {
            let prefix = text.literal_prefix();
            let span = if begin == prefix { problems.inside(raw, prefix.len()) } else { raw.span() };
            problems.with_help(
                span,
                format!("a value here could make this a `{kind}` channel"),
                "put literal text before it, or list the values in [routes.subscribe]",
            );
            return is_encrypted || ChannelKind::of(&begin) == ChannelKind::Encrypted;
        }
        match ChannelKind::of(&begin) {
            ChannelKind::Encrypted if !has_master_key => {
                problems.with_help(
                    raw.span(),
                    "an encrypted channel needs `upstream.encryption_master_key`",
                    "the key that the app's backends have: base64 of 32 bytes, often by a variable: \
                     encryption_master_key = \"${PUSHER_ENCRYPTION_MASTER_KEY:-}\"; where it may be missing, let the \
                     route be off: enabled_with = \"${PUSHER_ENCRYPTION_MASTER_KEY:-}\"",
                );
                return true;
            }
            ChannelKind::Encrypted => is_encrypted = true,
            ChannelKind::Public | ChannelKind::Private | ChannelKind::Presence => {}
        }
    }
    is_encrypted
}
