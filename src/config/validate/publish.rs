//! `[[routes.publish]]`

use std::ops::Range;

use secrecy::SecretString;

use super::channel::channel;
use super::dialect::frame;
use super::route::Context;
use super::template;
use super::values::Place;
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::legacy::dialect::Frames;
use crate::legacy::outline::Outline;
use crate::net::host;
use crate::pusher::channel::{ChannelKind, EVENT_BYTES_MAX};
use crate::routes::publish::CLIENT_PREFIX;
use crate::routes::route::{Elsewhere, Listed, PublishAction, PublishRule, TypeSet, Way};
use crate::template::{Allow, Slot, Text, Var};

/// Names that only Pusher's own server may use.
const RESERVED: [&str; 2] = ["pusher:", "pusher_internal:"];
/// Headers that the client itself sets: a request's target and framing.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What an event is called unless the rule says otherwise: nobody can take it for the server's.
const EVENT: &str = "client-{type}";

/// The route's own channel, and the values that its fields are listed to have.
#[derive(Clone, Copy)]
pub(super) struct Own<'r> {
    pub(super) channel: Option<&'r Text>,
    pub(super) listed: &'r [Listed],
}

pub(super) fn rules(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    context: &Context<'_>,
    own: Own<'_>,
) -> Vec<PublishRule> {
    let rules: &[At<raw::Publish>] = raw.publish.as_deref().unwrap_or_default();
    if let Some(first) = rules.first().filter(|_| problems.flag(raw.echo.as_ref(), false)) {
        problems.at(first.span(), "a route with `echo = true` publishes nothing");
    }
    let mut taken: Vec<String> = Vec::new();
    let mut out = Vec::new();
    for rule in rules {
        let types = types(problems, rule, context, &mut taken);
        let raw = rule.get();
        let action = match (&raw.post, raw.via.as_ref().map(At::get)) {
            (_, Some(raw::Via::Drop)) => dropped(problems, raw),
            (Some(url), _) => post(problems, url, rule, types.as_ref(), context),
            (None, _) => trigger(problems, rule, types.as_ref(), context, own),
        };
        let skip_if_empty = problems.flag(raw.skip_if_empty.as_ref(), false);
        let by_api = matches!(action, None | Some(PublishAction::Trigger { way: Way::Api, .. }));
        if let Some(at) = raw.skip_if_empty.as_ref().filter(|_| skip_if_empty && !by_api) {
            problems.at(at.span(), "only what is published as an event, by the API, is spared");
        }
        if let (Some(types), Some(action)) = (types, action) {
            out.push(PublishRule { types, action, skip_if_empty });
        }
    }
    out
}

fn types(
    problems: &mut Problems<'_>,
    rule: &At<raw::Publish>,
    context: &Context<'_>,
    taken: &mut Vec<String>,
) -> Option<TypeSet> {
    let types: &[At<String>] = rule.get().types.as_deref().unwrap_or_default();
    if types.is_empty() {
        problems.with_help(
            rule.span(),
            "a publish rule needs `types`",
            "the client's message types, or [\"*\"]",
        );
        return None;
    }
    let dialect = context.dialect;
    let auth = dialect.auth.as_ref().map(|auth| &auth.message_type);
    let control = [
        auth,
        dialect.subscribe.as_ref(),
        dialect.unsubscribe.as_ref(),
        dialect.pong.as_ref(),
        dialect.ping.as_ref(),
    ];
    for named in types {
        if control.iter().flatten().any(|control| *control == named.get()) {
            problems.at(
                named.span(),
                format!(
                    "`{}` is a control message of the dialect `{}`, never published",
                    named.get(),
                    dialect.name
                ),
            );
        }
        if taken.iter().any(|t| t == "*" || t == named.get()) {
            problems
                .at(named.span(), format!("an earlier rule, or this one, already takes `{}`", named.get()));
        }
        if named.get() == "*" && types.len() > 1 {
            problems.at(named.span(), "`*` must be the only type");
        }
        problems.text(Some(named));
        taken.push(named.get().clone());
    }
    if types.iter().any(|t| t.get() == "*") {
        return Some(TypeSet::Any);
    }
    Some(TypeSet::Listed(types.iter().map(|t| t.get().clone()).collect()))
}

/// Where the keys stand that say how a message looks, or where it goes.
fn keys_of_events(raw: &raw::Publish) -> [(&'static str, Option<Range<usize>>); 4] {
    let raw::Publish {
        types: _,
        via: _,
        channel,
        event,
        data,
        relay,
        post: _,
        body: _,
        retry_on: _,
        reply: _,
        skip_if_empty: _,
        headers: _,
    } = raw;
    [
        ("channel", channel.as_ref().map(At::span)),
        ("event", event.as_ref().map(At::span)),
        ("data", data.as_ref().map(At::span)),
        ("relay", relay.as_ref().map(At::span)),
    ]
}

/// The same of those that go with `post`.
fn keys_of_posts(raw: &raw::Publish) -> [(&'static str, Option<Range<usize>>); 4] {
    [
        ("body", raw.body.as_ref().map(At::span)),
        ("headers", raw.headers.iter().flat_map(|headers| headers.keys()).next().map(At::span)),
        ("retry_on", raw.retry_on.iter().flatten().next().map(At::span)),
        ("reply", raw.reply.as_ref().map(At::span)),
    ]
}

fn dropped(problems: &mut Problems<'_>, raw: &raw::Publish) -> Option<PublishAction> {
    let post = [("post", raw.post.as_ref().map(At::span))];
    for (key, span) in keys_of_events(raw).into_iter().chain(post).chain(keys_of_posts(raw)) {
        if let Some(span) = span {
            problems.at(span, format!("`{key}` has no meaning with `via = \"drop\"`: nothing is sent"));
        }
    }
    Some(PublishAction::Drop)
}

// ---------------------------------------------------------------------------------------------- events

/// A rule's `channel`. A field of the client's message may stand in it where it chooses the route's own channel: there it
/// is one that the client is subscribed with.
fn elsewhere(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    context: &Context<'_>,
    own: Own<'_>,
) -> Option<Elsewhere> {
    let raw = problems.text(Some(raw))?;
    let (text, _) = channel(problems, raw, context, own.listed)?;
    let chosen = own.channel.and_then(Text::subscribe_field);
    if let Some(field) = text.subscribe_field().filter(|field| Some(*field) != chosen)
        && own.channel.is_some()
    {
        let span = problems.inside(raw, raw.get().find("{subscribe.").unwrap_or(0));
        problems.with_help(
            span,
            format!(
                "the route's `channel` has no `{{subscribe.{field}}}`: any client could choose any value here"
            ),
            "a value in band is one that the client is subscribed with",
        );
        return None;
    }
    Some(Elsewhere { channel: text, reserved: Vec::new() })
}

fn trigger(
    problems: &mut Problems<'_>,
    rule: &At<raw::Publish>,
    types: Option<&TypeSet>,
    context: &Context<'_>,
    own: Own<'_>,
) -> Option<PublishAction> {
    let raw = rule.get();
    if let Some(body) = &raw.body {
        problems.at(body.span(), "`body` goes with `post`; an event has `data`");
    }
    if let Some(header) = raw.headers.iter().flat_map(|headers| headers.keys()).next() {
        problems.at(header.span(), "`headers` go with `post`");
    }
    if let Some(status) = raw.retry_on.iter().flatten().next() {
        problems.at(status.span(), "`retry_on` goes with `post`; events are sent again until their deadline");
    }
    if let Some(reply) = &raw.reply {
        problems.at(reply.span(), "`reply` goes with `post`: an event is not answered");
    }
    let default = rule.with(EVENT.to_owned());
    let named = problems.text(raw.event.as_ref());
    let event = named.unwrap_or(&default);
    let allow = Allow { message_type: true, user: true, subscribe: false };
    let text = template(problems, event, context.path_names, allow, context.authenticated);
    if let (Some(text), Some(types)) = (&text, types) {
        check_event(problems, event, text, types);
        context.placeholders.check(problems, event, text, listed(types), Place::Plain);
    }
    let elsewhere = raw.channel.as_ref().map(|raw| elsewhere(problems, raw, context, own));
    let relay_as_sent = raw.relay.as_ref().filter(|relay| *relay.get() == raw::Relay::AsSent);
    let by_client = raw.via.as_ref().filter(|via| *via.get() == raw::Via::ClientEvent);
    if let Some(via) = by_client {
        check_client_event(problems, via, raw.channel.as_ref(), own);
        if let (Some(text), Some(types)) = (&text, types)
            && !begins_as_clients(text, types)
        {
            let span = raw.event.as_ref().map_or_else(|| via.span(), At::span);
            problems.at(
                span,
                format!("a client event's name begins with `{CLIENT_PREFIX}`, or Pusher refuses it"),
            );
        }
    }
    if let Some(relay) = relay_as_sent.filter(|_| elsewhere.is_some()) {
        problems.at(
            relay.span(),
            "on another channel nobody knows what this rule's messages were called: they are seen as published",
        );
    }
    if let (Some(text), Some(types)) = (&text, types) {
        check_shown(problems, rule, text, types, relay_as_sent.is_some(), context);
    }
    let data = raw.data.as_ref().map(|raw| body(problems, raw, context));
    if let (Some(raw), Some(Some(frame)), None) = (&raw.data, &data, &elsewhere) {
        check_filter(problems, raw, frame, context);
    }
    Some(PublishAction::Trigger {
        event: text?,
        data: match data {
            Some(data) => Some(data?),
            None => None,
        },
        relay_as_sent: relay_as_sent.is_some(),
        way: if by_client.is_some() { Way::ClientEvent } else { Way::Api },
        elsewhere: match elsewhere {
            Some(elsewhere) => Some(elsewhere?),
            None => None,
        },
    })
}

/// A client event needs a channel on which Pusher takes some, and a connection that is subscribed to it.
fn check_client_event(
    problems: &mut Problems<'_>,
    via: &At<raw::Via>,
    elsewhere: Option<&At<String>>,
    own: Own<'_>,
) {
    if let Some(channel) = elsewhere {
        problems.with_help(
            channel.span(),
            "a client event leaves on the route's own channel: a connection sends them where it is subscribed",
            "an event for another channel leaves by the API",
        );
    }
    let Some(channel) = own.channel else { return };
    let listed =
        channel.subscribe_field().and_then(|field| own.listed.iter().find(|(name, _)| name == field));
    // Up to a `{`, the name is the file's.
    let begin = |value: &str| {
        let name = channel.fill(|var| {
            Some(match var {
                Var::Subscribe(_) => value.to_owned().into(),
                _ => "{".into(),
            })
        });
        name.unwrap_or_default().split('{').next().unwrap_or("").to_owned()
    };
    let begins: Vec<String> = match listed {
        Some((_, values)) => values.iter().map(|value| begin(value.begin())).collect(),
        None => vec![begin("{")],
    };
    let kinds = begins.iter().map(|begin| ChannelKind::of(begin));
    match kinds.into_iter().find(|kind| !matches!(kind, ChannelKind::Private | ChannelKind::Presence)) {
        Some(ChannelKind::Encrypted) => problems.with_help(
            via.span(),
            "no client event leaves on an encrypted channel: servers relay those in clear",
            "by the API, which is the default, clients' messages leave encrypted",
        ),
        Some(_) => problems.at(
            via.span(),
            "Pusher takes client events on `private-` and `presence-` channels only (Pusher docs, \"Client events\")",
        ),
        None => {}
    }
}

/// Whether every name that the event can have begins as clients' do.
fn begins_as_clients(event: &Text, types: &TypeSet) -> bool {
    let of_type =
        |named: &String| event.with_type(named).literal_text_before_values().starts_with(CLIENT_PREFIX);
    match types {
        TypeSet::Any => event.literal_prefix().starts_with(CLIENT_PREFIX),
        TypeSet::Listed(types) => types.iter().all(of_type),
    }
}

/// Reports a rule whose messages would all be rejected, because old clients would take its event for the server's.
fn check_shown(
    problems: &mut Problems<'_>,
    rule: &At<raw::Publish>,
    event: &Text,
    types: &TypeSet,
    as_sent: bool,
    context: &Context<'_>,
) {
    let raw = rule.get();
    let listed = match types {
        TypeSet::Any => &[][..],
        TypeSet::Listed(types) => types,
    };
    let reserved = |name: &str| context.dialect.reserved.iter().any(|reserved| reserved == name);
    let sent = listed.iter().find(|named| as_sent && reserved(named));
    let named =
        listed.iter().filter_map(|named| event.with_type(named).fill(|_| None)).find(|name| reserved(name));
    let (span, name) = match (sent, named, &raw.relay, &raw.event) {
        (Some(name), _, Some(relay), _) => (relay.span(), name.clone()),
        (_, Some(name), _, Some(event)) => (event.span(), name),
        _ => return,
    };
    problems.with_help(
        span,
        format!(
            "old clients would take `{name}` for a frame of the server's: the dialect `{}` has one",
            context.dialect.name
        ),
        "the prefix `client-`, and `relay = \"as_published\"`, tell clients' events from it",
    );
}

/// Data without the filter's field would always be rejected.
fn check_filter(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    data: &crate::template::Frame,
    context: &Context<'_>,
) {
    let Some(field) = context.filter_field else { return };
    let has = match Outline::of(data) {
        None | Some(Outline::Slot(_)) => true,
        Some(outline) => outline.members().any(|(name, _)| Some(name) == field.first().map(String::as_str)),
    };
    if !has {
        problems.with_help(
            raw.span(),
            format!(
                "this data has no `{}`, by which the route's `filter` tells its events apart",
                field.join(".")
            ),
            "what a client publishes must carry its own filter's value",
        );
    }
}

fn listed(types: &TypeSet) -> Option<&[String]> {
    match types {
        TypeSet::Any => None,
        TypeSet::Listed(list) => Some(list),
    }
}

fn check_event(problems: &mut Problems<'_>, raw: &At<String>, text: &Text, types: &TypeSet) {
    let has_type = text.vars().any(|var| *var == Var::Type);
    let several = match types {
        TypeSet::Any => true,
        TypeSet::Listed(list) => list.len() > 1,
    };
    if several && !has_type {
        problems.at(raw.span(), "several types would all become this one event: put `{type}` into it");
    }
    let literal: usize = text.literals().map(str::len).sum();
    let longest = match types {
        TypeSet::Listed(list) if has_type => list.iter().map(String::len).max().unwrap_or(0),
        _ => 0,
    };
    if literal + longest > EVENT_BYTES_MAX {
        problems.at(
            raw.span(),
            format!("the event's name would have {} bytes of at most {EVENT_BYTES_MAX}", literal + longest),
        );
    }
    if text.literals().any(|literal| literal.chars().any(char::is_control)) {
        problems.at(raw.span(), "an event's name has no control characters");
    }
    let prefix = text.literal_prefix();
    let begins: Vec<(String, bool)> = match (text.vars().next(), types) {
        (None, _) => vec![(prefix.to_owned(), false)],
        (Some(Var::Type), TypeSet::Listed(list)) => {
            let more = text.vars().count() > 1;
            list.iter().map(|t| (text.source().replacen("{type}", t, 1), more)).collect()
        }
        (Some(_), _) => vec![(prefix.to_owned(), true)],
    };
    let reserved = begins.iter().find_map(|(begin, open)| {
        let fixed = begin.split('{').next().unwrap_or(begin);
        RESERVED.into_iter().find(|r| fixed.starts_with(r) || (*open && r.starts_with(fixed)))
    });
    if let Some(reserved) = reserved {
        problems.with_help(
            raw.span(),
            format!("this event could become `{reserved}…`, which only Pusher may send"),
            "begin it with literal text such as `client-`",
        );
    }
}

/// `{user}` needs a user.
fn body(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    context: &Context<'_>,
) -> Option<crate::template::Frame> {
    let frame = frame(problems, Some(raw), Frames::BODY)?;
    if frame.uses(Slot::User) && !context.authenticated {
        let span = problems.inside(raw, raw.get().find("{user}").unwrap_or(0));
        problems.at(span, "`{user}` needs a route with `auth.required = true`");
        return None;
    }
    Some(frame)
}

// ---------------------------------------------------------------------------------------------- posts

/// Statuses of errors, each once.
fn retry_on(problems: &mut Problems<'_>, raw: &raw::Publish) -> Vec<u16> {
    let mut statuses = Vec::new();
    for at in raw.retry_on.iter().flatten().filter(|at| !at.get().is_unset()) {
        let status = problems.number(Some(at), 400..=599, 0);
        if statuses.contains(&status) && status != 0 {
            problems.at(at.span(), format!("{status} is already in this list"));
        }
        statuses.push(status);
    }
    statuses
}

fn post(
    problems: &mut Problems<'_>,
    url: &At<String>,
    rule: &At<raw::Publish>,
    types: Option<&TypeSet>,
    context: &Context<'_>,
) -> Option<PublishAction> {
    let raw = rule.get();
    for (name, at) in keys_of_events(raw).into_iter().chain([("via", raw.via.as_ref().map(At::span))]) {
        if let Some(span) = at {
            problems.at(span, format!("`{name}` and `post` are both set: a rule triggers an event or posts"));
        }
    }
    let allow = Allow { message_type: true, user: true, subscribe: false };
    let text = template(problems, url, context.path_names, allow, context.authenticated);
    if let Some(text) = &text {
        check_url(problems, url, text);
        context.placeholders.check(problems, url, text, types.and_then(listed), Place::Url);
    }
    if raw.body.is_none() {
        problems.with_help(rule.span(), "`post` needs a `body`", "for example body = '{frame}'");
    }
    let body = raw.body.as_ref().and_then(|raw| self::body(problems, raw, context));
    let mut headers = Vec::new();
    for (name, value) in raw.headers.iter().flatten() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b);
        if name.get().is_empty() || !name.get().bytes().all(token) {
            problems.at(name.span(), "this is not a valid header name (RFC 9110 §5.1)");
        }
        if FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name.get())) {
            problems.at(name.span(), format!("`{}` is set by the request itself", name.get()));
        }
        if value.get().chars().any(|c| c.is_control() && c != '\t') {
            problems.at(value.span(), "a header's value has no control characters (RFC 9110 §5.5)");
        }
        if value.get().trim_matches([' ', '\t']) != value.get() {
            problems.at(value.span(), "this header's value begins or ends with white space (RFC 9110 §5.5)");
        }
        headers.push((name.get().clone(), SecretString::from(value.get().clone())));
    }
    let retry_on = retry_on(problems, raw);
    let replies = raw.reply.as_ref().filter(|reply| *reply.get() == raw::Reply::Json);
    if let Some(reply) = replies.filter(|_| context.dialect.out.reply.is_none()) {
        problems.with_help(
            reply.span(),
            format!("an answer needs `out.reply`, but the dialect `{}` has none", context.dialect.name),
            "for example reply = '{\"type\":\"reply\",\"to\":{type},\"data\":{data}}'",
        );
    }
    Some(PublishAction::Post { url: text?, body: body?, headers, retry_on, replies: replies.is_some() })
}

/// The host must be literal: a client's value must never say where the bridge connects to.
fn check_url(problems: &mut Problems<'_>, raw: &At<String>, text: &Text) {
    let prefix = text.literal_prefix();
    let rest = ["http://", "https://"].iter().find_map(|scheme| prefix.strip_prefix(scheme));
    let Some(rest) = rest else {
        problems.at(raw.span(), "a URL starts with `http://` or `https://` and a host");
        return;
    };
    let end = rest.find(['/', '?', '#']);
    let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or("");
    if end.is_none() && text.vars().next().is_some() {
        let span = problems.inside(raw, prefix.len());
        problems
            .at(span, "a value may not reach the host: only the path and the query may have placeholders");
    } else if let Err(why) = host::authority(authority) {
        problems.at(raw.span(), format!("this is not a valid host: {why}"));
    } else if let Some((at, why)) = bad_target(raw.get(), text) {
        let span = problems.inside(raw, at);
        problems.at(span, why);
    } else if text.fill_url(|_| Some("x".into())).is_none() {
        problems.at(raw.span(), "a value cannot share a segment with an encoded `/`, `\\`, `?` or `#`");
    }
}

/// What in the literal text behind the host cannot be in a request, and where.
fn bad_target(source: &str, text: &Text) -> Option<(usize, &'static str)> {
    let mut from = 0;
    for (index, literal) in text.literals().enumerate() {
        let start = source.get(from..)?.find(literal)? + from;
        from = start + literal.len();
        // The first one begins with the scheme and the host.
        let host = if index == 0 { literal.find("://")? + 3 } else { 0 };
        let target = literal.get(host..)?.find(['/', '?', '#']).map_or(literal.len(), |at| host + at);
        let target = if index == 0 { target } else { 0 };
        if let Err((at, why)) = host::check_target(literal.get(target..)?) {
            return Some((start + target + at, why));
        }
    }
    None
}
