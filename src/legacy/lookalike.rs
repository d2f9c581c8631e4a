//! Whether an event that a client wrote could be taken for another frame of the server's: whether all that tells
//! them apart is data, which the client chooses.

use crate::legacy::dialect::Dialect;
use crate::legacy::error::ErrorCode;
use crate::legacy::outline::{Outline, Piece};
use crate::legacy::reserved::{invert, is_invertible, texts};
use crate::template::{CharSet, Frame, Pattern, Slot, Values};

type Member = (Vec<Piece>, Outline);

/// Which of the dialect's other frames an event could be taken for, by their keys. `data` is what a publish rule makes
/// of a client's message; `None`: what the client likes.
///
/// Two frames are told apart by the kind of a value, by a text that differs, by a member of the other frame's that no
/// event has, and by a text of the event's in a member that the other frame has not. `{event}` is as good as a text
/// where the reserved names keep it from being the other one's.
#[must_use]
pub(crate) fn of(dialect: &Dialect, data: Option<&Frame>) -> Vec<&'static str> {
    let judge = Judge { reserved: &dialect.reserved, codes: ErrorCode::ALL.map(|code| dialect.code(code)) };
    let event = Outline::of(dialect.out.event.template());
    let data = data.and_then(Outline::of);
    // What has no outline could be anything.
    let told_apart = |frame: &Frame| {
        let (Some(event), Some(frame)) = (&event, Outline::of(frame)) else { return false };
        !judge.may_be(event, &frame, data.as_ref())
    };
    dialect.server_frames().filter(|(_, frame)| !told_apart(frame)).map(|(key, _)| key).collect()
}

struct Judge<'d> {
    reserved: &'d [String],
    codes: [&'d str; ErrorCode::ALL.len()],
}

impl Judge<'_> {
    fn may_be(&self, event: &Outline, other: &Outline, data: Option<&Outline>) -> bool {
        match (event, other) {
            (Outline::Slot(Slot::Data | Slot::Frame), _) => {
                data.is_none_or(|data| self.may_be(data, other, None))
            }
            (
                _,
                Outline::Slot(
                    Slot::User
                    | Slot::Role
                    | Slot::Permissions
                    | Slot::Details
                    | Slot::Data
                    | Slot::Count
                    | Slot::Members
                    | Slot::MemberId
                    | Slot::Info,
                ),
            )
            | (Outline::Slot(Slot::User | Slot::Sender), Outline::Scalar(_)) => true,
            (Outline::Scalar(a), Outline::Scalar(b)) => {
                let numbers = (a.parse::<f64>(), b.parse::<f64>());
                a == b || matches!(numbers, (Ok(a), Ok(b)) if a.total_cmp(&b).is_eq())
            }
            (Outline::Object(event), Outline::Object(other)) => self.objects(event, other, data),
            (Outline::Array(event), Outline::Array(other)) => {
                event.len() == other.len()
                    && event.iter().zip(other).all(|(event, other)| self.may_be(event, other, data))
            }
            (Outline::Slot(event), Outline::Slot(other)) => {
                self.strings(&[Piece::Slot(*event)], &[Piece::Slot(*other)])
            }
            (Outline::Slot(event), Outline::Text(other)) => self.strings(&[Piece::Slot(*event)], other),
            (Outline::Text(event), Outline::Slot(other)) => self.strings(event, &[Piece::Slot(*other)]),
            (Outline::Text(event), Outline::Text(other)) => self.strings(event, other),
            _ => false,
        }
    }

    fn objects(&self, event: &[Member], other: &[Member], data: Option<&Outline>) -> bool {
        let has = |name: &[Piece], value: &Outline| {
            event.iter().any(|(own, inner)| self.strings(own, name) && self.may_be(inner, value, data))
        };
        // Of members of one name some readers take the first and others the last.
        let lacks = other.iter().any(|(name, _)| {
            other.iter().filter(|(same, _)| same == name).all(|(_, value)| !has(name, value))
        });
        let marked = event.iter().any(|(own, value)| {
            (is_mark(value) || own.contains(&Piece::Slot(Slot::Event)) || other.is_empty())
                && !other.iter().any(|(name, _)| self.strings(own, name))
        });
        !lacks && !marked
    }

    /// Whether both can come out as one string.
    fn strings(&self, event: &[Piece], other: &[Piece]) -> bool {
        if let (true, Some(texts)) = (is_invertible(event), texts(other, &self.codes)) {
            let mut names = texts.iter().filter_map(|text| invert(event, text));
            return names.any(|name| !name.is_empty() && !self.reserved.contains(&name));
        }
        self.pattern(event).overlap(&self.pattern(other)).is_some()
    }

    fn pattern(&self, pieces: &[Piece]) -> Pattern {
        let mut pattern = Pattern::default();
        for piece in pieces {
            match piece {
                Piece::Literal(text) => pattern.push_literal(text),
                Piece::Slot(Slot::Event | Slot::Channel) => pattern.push(&Values::of(CharSet::ANY)),
                Piece::Slot(Slot::Code) => {
                    pattern.push(&Values::listed(self.codes.iter().copied()));
                }
                // RFC 3339.
                Piece::Slot(Slot::Now) => {
                    pattern.push(&Values::of(CharSet::of(|b| b.is_ascii_digit() || b"TZ:.+-".contains(&b))));
                }
                Piece::Slot(_) => pattern.push_anything(),
            }
        }
        pattern
    }
}

/// Whether readers can know a frame by having this, whatever else it has.
fn is_mark(value: &Outline) -> bool {
    match value {
        Outline::Slot(slot) => matches!(slot, Slot::Event | Slot::Channel),
        Outline::Text(_) | Outline::Scalar(_) => true,
        Outline::Object(members) => members.iter().any(|(_, value)| is_mark(value)),
        Outline::Array(elements) => elements.iter().any(is_mark),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::dialect::tests::typed;
    use crate::legacy::dialect::{EventFrame, Frames};
    use crate::legacy::reserved;

    /// Whether events could be taken for this one other frame.
    fn beside(event: &str, key: &'static str, other: &str, data: Option<&str>) -> bool {
        let frame = |text: &str, slots| Frame::parse(text, slots).unwrap();
        let error = if key == "error" { other } else { r#"["no",{code},"event"]"# };
        let optional = |name: &str, slots| (key == name).then(|| frame(other, slots));
        let mut dialect = Dialect {
            out: Frames {
                event: EventFrame::new(frame(event, Frames::EVENT)),
                error: frame(error, Frames::ERROR),
                auth_ok: optional("auth_ok", Frames::AUTH_OK),
                auth_error: optional("auth_error", Frames::AUTH_ERROR),
                ping: optional("ping", Frames::PING),
                pong: None,
                subscribed: optional("subscribed", Frames::SUBSCRIBED),
                unsubscribed: optional("unsubscribed", Frames::SUBSCRIBED),
                members: optional("members", Frames::MEMBERS),
                member_added: optional("member_added", Frames::MEMBER),
                member_removed: optional("member_removed", Frames::MEMBER),
                cache_miss: optional("cache_miss", Frames::SUBSCRIBED),
                reply: optional("reply", Frames::REPLY),
            },
            keepalives: if key == "keepalives" { vec![("?".into(), other.into())] } else { Vec::new() },
            ..typed()
        };
        dialect.reserved = reserved::names(&dialect);
        of(&dialect, data.map(|data| frame(data, Frames::BODY)).as_ref()).contains(&key)
    }

    #[test]
    fn what_only_data_tells_apart_could_be_another_frame() {
        let error = r#"{"type":"auth_error","data":{"error":{code}}}"#;
        for (event, key, other) in [
            ("{data}", "auth_error", error),
            ("{data}", "ping", r#""tick""#),
            (r#"{"op":"msg","body":{data}}"#, "auth_error", r#"{"op":"msg","body":{"denied":{code}}}"#),
            (r#"{"v":1,"body":{data}}"#, "ping", r#"{"v":1.0,"body":{"ping":{now}}}"#),
            (r#"{"body":{data},"at":{now}}"#, "ping", r#"{"body":{"ping":1}}"#),
            (r#"{"body":{data},"at":{now}}"#, "ping", r#"{"body":"ping","at":{now}}"#),
            (r#"["msg",{data}]"#, "auth_error", r#"["msg",{"denied":{code}}]"#),
            (r#"{"m":{"op":"msg","body":{data}}}"#, "error", r#"{"m":{"op":"msg","body":{code}}}"#),
            (r#"{"body":{data}}"#, "members", r#"{"body":{members}}"#),
            (r#"{"body":{data},"by":{sender}}"#, "member_added", r#"{"body":{info},"by":null}"#),
            (r#"{"body":{data},"by":{sender}}"#, "member_added", r#"{"body":{info},"by":{member_id}}"#),
            // One reader takes the first of two members, and another the last.
            (r#"{"type":"event","type":{data}}"#, "ping", r#"{"type":"ping"}"#),
            (r#"{"type":"event","d":{data}}"#, "ping", r#"{"type":"event","type":"ping","d":1}"#),
            // Names that are made with more than the event's.
            (r#"{"op":"{channel}/{event}","d":{data}}"#, "subscribed", r#"{"op":"{channel}/joined","d":1}"#),
            (r#"{"op":"{channel}/{event}"}"#, "subscribed", r#"{"op":"{channel}/joined"}"#),
            (r#"{"type":{event},"data":{data}}"#, "auth_ok", r#"{"type":"{role}","data":{user}}"#),
            (r#"{"type":{event},"data":{data}}"#, "auth_ok", r#"{"type":{user}}"#),
            (r#"{"type":"e-{event}","data":{data}}"#, "auth_ok", r#"{"type":"{role}-ok"}"#),
            (r#"{"{channel}":{data}}"#, "error", r#"{"error":{code}}"#),
            (r#"{"type":{event},"data":{data}}"#, "reply", r#"{"type":"{type}_reply","data":{data}}"#),
            (r#"{"op":"event","of":{event},"d":1}"#, "reply", r#"{"op":"event","of":{data},"d":{data}}"#),
            // A template that outlines cannot read.
            ("{\"type\":\"\\u0000\",\"d\":{data}}", "ping", r#"{"type":"ping"}"#),
            ("{data}", "keepalives", r#"{"type":"pong"}"#),
        ] {
            assert!(beside(event, key, other, None), "{event} {other}");
        }
    }

    #[test]
    fn frames_are_told_apart_by_what_no_client_writes() {
        assert!(of(&typed(), None).is_empty());
        let error = r#"{"type":"error","error":{code}}"#;
        for (event, key, other) in [
            (r#"{"type":"event","channel":{channel},"data":{data},"timestamp":{now}}"#, "error", error),
            (r#"{"type":{event},"data":{data}}"#, "error", error),
            (r#"{"data":{data}}"#, "error", error),
            (r#"{"event":{event},"data":{data}}"#, "error", r#"{"data":{"error":{code}}}"#),
            (r#"{"{event}":{data}}"#, "error", r#"{"error":{code}}"#),
            (r#"{"meta":{"name":{event}},"data":{data}}"#, "error", r#"{"meta":{"name":{code}}}"#),
            (r#"{"op":"{channel}/{event}"}"#, "error", r#"{"op":"error"}"#),
            (r#"{"op":"{channel}/{event}"}"#, "subscribed", r#"{"op":"joined","c":{channel}}"#),
            (r#"{"t":"sub","op":"{channel}/{event}"}"#, "subscribed", r#"{"t":"e","op":"{channel}/joined"}"#),
            (r#"{"type":"e-{event}","data":{data}}"#, "auth_ok", r#"{"type":"welcome-{role}"}"#),
            (r#"{"v":1,"body":{data}}"#, "ping", r#"{"v":2,"body":{"ping":{now}}}"#),
            (r#"["{event} on {channel}", {data}, "{now}"]"#, "auth_ok", r#"["welcome",{user},{role}]"#),
            (r#"{"op":{event},"body":{data}}"#, "ping", r#""tick""#),
            (r#"{"body":{data}}"#, "ping", "{}"),
            (r#"{"body":{data},"by":{sender}}"#, "member_added", r#"{"body":{info},"by":{"n":1}}"#),
            ("{data}", "keepalives", "pong"),
            (r#"{"type":{event},"data":{data}}"#, "keepalives", r#"{"type":"pong"}"#),
            (r#"{"type":{event},"data":{data}}"#, "reply", r#"{"type":"reply","to":{type},"data":{data}}"#),
        ] {
            assert!(!beside(event, key, other, None), "{event} {other}");
        }
    }

    #[test]
    fn a_rules_data_is_what_a_client_cannot_choose() {
        let denied = r#"{"type":"denied","why":{code}}"#;
        for (data, could_be) in [
            (r#"{"by":{user},"message":{frame}}"#, false),
            (r#"{"type":"message","why":{data}}"#, false),
            (r#"{"type":{type},"why":{data}}"#, true),
            (r#"{"type":"denied","why":{data}}"#, true),
            ("{data}", true),
        ] {
            assert_eq!(beside("{data}", "auth_error", denied, Some(data)), could_be, "{data}");
        }
    }
}
