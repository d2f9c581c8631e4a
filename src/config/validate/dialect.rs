//! `[dialects.NAME]`

use super::{door, member_or, required};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::json::Object;
use crate::legacy::dialect::{AuthMessage, Dialect, EventFrame, Frames};
use crate::legacy::error::ErrorCode;
use crate::legacy::reserved;
use crate::template::{Frame, Slot, closest};

/// Longest plain-text keepalive and answer, as long as a WebSocket ping's payload (RFC 6455 §5.5).
const KEEPALIVE_BYTES_MAX: usize = 125;

pub(super) fn dialect(
    problems: &mut Problems<'_>,
    name: &At<String>,
    at: &At<raw::Dialect>,
) -> Option<Dialect> {
    let raw = at.get();
    let nothing = raw::DialectIn::default();
    let incoming = raw.incoming.as_ref().unwrap_or(&nothing);
    let auth = incoming.auth.as_ref().and_then(|auth| {
        let message_type = required(problems, auth.get().message_type.as_ref(), auth.span(), "type")?;
        let token = member_or(problems, auth.get().token.as_ref(), "token");
        Some((message_type, AuthMessage { message_type: message_type.get().clone(), token }))
    });
    let mut message = |raw: &'_ Option<At<raw::Message>>| {
        let raw = raw.as_ref()?;
        required(problems, raw.get().message_type.as_ref(), raw.span(), "type").cloned()
    };
    let subscribe = message(&incoming.subscribe);
    let unsubscribe = message(&incoming.unsubscribe);
    let pong = message(&incoming.pong);
    let ping = message(&incoming.ping);
    distinct(
        problems,
        &[
            auth.as_ref().map(|(t, _)| *t),
            subscribe.as_ref(),
            unsubscribe.as_ref(),
            pong.as_ref(),
            ping.as_ref(),
        ],
    );
    let out = match &raw.out {
        Some(out) => frames(problems, out),
        None => {
            problems.at(name.span(), "a dialect needs `out.event` and `out.error`");
            None
        }
    };
    let error_codes = error_codes(problems, raw);
    let subprotocols = door::subprotocols(problems, raw.subprotocols.as_ref()).unwrap_or_default();
    let keepalives = keepalives(problems, incoming);
    let binary = incoming.binary.as_ref().map_or(raw::Binary::Refuse, |binary| *binary.get());
    let type_field = member_or(problems, incoming.type_field.as_ref(), "type");
    let out = out?;
    let text = |at: Option<At<String>>| at.map(|at| at.get().clone());
    let mut dialect = Dialect {
        name: name.get().as_str().into(),
        type_field,
        auth: auth.map(|(_, auth)| auth),
        subscribe: text(subscribe),
        unsubscribe: text(unsubscribe),
        pong: text(pong),
        ping: text(ping),
        keepalives,
        binary_is_json: binary == raw::Binary::Json,
        subprotocols,
        out,
        error_codes,
        reserved: Vec::new(),
    };
    dialect.reserved = reserved::names(&dialect);
    Some(dialect)
}

/// Plain texts, compared as a whole; a JSON object has its own keys.
fn keepalives(problems: &mut Problems<'_>, raw: &raw::DialectIn) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (text, answer) in raw.keepalives.iter().flatten() {
        for at in [text, answer] {
            if at.get().len() > KEEPALIVE_BYTES_MAX {
                let length = at.get().len();
                problems.at(
                    at.span(),
                    format!("a keepalive has {length} bytes of at most {KEEPALIVE_BYTES_MAX}"),
                );
            }
        }
        if text.get().is_empty() {
            problems.at(text.span(), "must not be empty");
        } else if Object::parse(text.get()).is_ok() {
            problems.with_help(
                text.span(),
                "a keepalive is plain text, and this is a JSON object",
                "name its type instead: ping = { type = \"…\" }",
            );
        }
        out.push((text.get().clone(), answer.get().clone()));
    }
    out
}

/// One type cannot mean two things.
fn distinct(problems: &mut Problems<'_>, types: &[Option<&At<String>>]) {
    let mut seen: Vec<&str> = Vec::new();
    for message_type in types.iter().flatten() {
        if seen.contains(&message_type.get().as_str()) {
            problems.at(
                message_type.span(),
                format!("two messages of this dialect have the type `{}`", message_type.get()),
            );
        }
        seen.push(message_type.get());
    }
}

fn frames(problems: &mut Problems<'_>, at: &At<raw::DialectOut>) -> Option<Frames> {
    let raw = at.get();
    let mut needed = |raw: &Option<At<String>>, key: &str, slots: &[Slot]| {
        if raw.is_none() {
            problems.at(at.span(), format!("a dialect needs `out.{key}`"));
        }
        frame(problems, raw.as_ref(), slots)
    };
    let event = needed(&raw.event, "event", Frames::EVENT);
    let error = needed(&raw.error, "error", Frames::ERROR);
    let auth_ok = frame(problems, raw.auth_ok.as_ref(), Frames::AUTH_OK);
    let auth_error = frame(problems, raw.auth_error.as_ref(), Frames::AUTH_ERROR);
    let ping = frame(problems, raw.ping.as_ref(), Frames::PING);
    let pong = frame(problems, raw.pong.as_ref(), Frames::PING);
    let subscribed = frame(problems, raw.subscribed.as_ref(), Frames::SUBSCRIBED);
    let unsubscribed = frame(problems, raw.unsubscribed.as_ref(), Frames::SUBSCRIBED);
    let members = frame(problems, raw.members.as_ref(), Frames::MEMBERS);
    let member_added = frame(problems, raw.member_added.as_ref(), Frames::MEMBER);
    let member_removed = frame(problems, raw.member_removed.as_ref(), Frames::MEMBER);
    let cache_miss = frame(problems, raw.cache_miss.as_ref(), Frames::SUBSCRIBED);
    let reply = frame(problems, raw.reply.as_ref(), Frames::REPLY);
    Some(Frames {
        event: EventFrame::new(event?),
        auth_ok,
        auth_error,
        error: error?,
        ping,
        pong,
        subscribed,
        unsubscribed,
        members,
        member_added,
        member_removed,
        cache_miss,
        reply,
    })
}

/// Parses a JSON template.
pub(super) fn frame(problems: &mut Problems<'_>, raw: Option<&At<String>>, slots: &[Slot]) -> Option<Frame> {
    let raw = problems.text(raw)?;
    match Frame::parse(raw.get(), slots) {
        Ok(frame) => Some(frame),
        Err(error) => {
            problems.template(raw, error);
            None
        }
    }
}

fn error_codes(problems: &mut Problems<'_>, raw: &raw::Dialect) -> Vec<(ErrorCode, String)> {
    let mut codes = Vec::new();
    for (code, name) in raw.error_codes.iter().flatten() {
        let Some(known) = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code.get()) else {
            let message = format!("there is no error code `{}`", code.get());
            match closest(code.get(), ErrorCode::ALL.iter().map(|code| code.as_str())) {
                Some(near) => problems.with_help(code.span(), message, format!("did you mean `{near}`?")),
                None => problems.at(code.span(), message),
            }
            continue;
        };
        if let Some(name) = problems.text(Some(name)) {
            codes.push((known, name.get().clone()));
        }
    }
    codes
}
