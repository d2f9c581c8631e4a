//! Names that are the server's: an event of a client by one of them would be shown to old clients as a frame that
//! only the server sends (`auth_error`, `error`, `ping` in the typed dialect).

use std::borrow::Cow;

use crate::legacy::dialect::Dialect;
use crate::legacy::error::ErrorCode;
use crate::legacy::outline::{Outline, Piece, fixed};
use crate::template::Slot;

/// A member or element on the way from a frame's root.
#[derive(Clone, PartialEq)]
enum Step {
    Member(String),
    Element(usize),
}

/// The names of events that would be taken for frames of the server's: what stands in the dialect's other frames where
/// its event frame has `{event}`, and in `type_field`, by which clients tell messages apart.
#[must_use]
pub(crate) fn names(dialect: &Dialect) -> Vec<String> {
    let Some(event) = Outline::of(dialect.out.event.template()) else { return Vec::new() };
    let mut places = Vec::new();
    shown_at(&event, &mut Vec::new(), &mut places);
    if places.is_empty() {
        return Vec::new();
    }
    // A member with dots in its name, or a path.
    let path = dialect.type_field.split('.').map(|name| Step::Member(name.to_owned())).collect();
    for type_field in [vec![Step::Member(dialect.type_field.clone())], path] {
        places.push((type_field, Place::Value(vec![Piece::Slot(Slot::Event)])));
    }
    let others: Vec<Outline> = dialect.server_frames().filter_map(|(_, frame)| Outline::of(&frame)).collect();
    let codes = ErrorCode::ALL.map(|code| dialect.code(code));
    let mut names = Vec::new();
    for (path, place) in &places {
        for frame in &others {
            let Some(value) = at(frame, path) else { continue };
            match place {
                Place::Value(pattern) => {
                    let texts = text_of(value).and_then(|pieces| texts(&pieces, &codes)).unwrap_or_default();
                    names.extend(texts.iter().filter_map(|text| invert(pattern, text)));
                }
                Place::Name(pattern) => names.extend(members(value).filter_map(|name| invert(pattern, name))),
            }
        }
        if let (Place::Name(pattern), Some(own)) = (place, at(&event, path)) {
            names.extend(members(own).filter_map(|name| invert(pattern, name)));
        }
    }
    names.sort();
    names.dedup();
    names
}

/// How `{event}` is shown at a place.
enum Place {
    /// As a string that is so made.
    Value(Vec<Piece>),
    /// As the name of a member of the object there.
    Name(Vec<Piece>),
}

fn shown_at(frame: &Outline, path: &mut Vec<Step>, places: &mut Vec<(Vec<Step>, Place)>) {
    let event = Piece::Slot(Slot::Event);
    match frame {
        Outline::Slot(Slot::Event) => places.push((path.clone(), Place::Value(vec![event]))),
        Outline::Text(pieces) if pieces.contains(&event) => {
            places.push((path.clone(), Place::Value(pieces.clone())));
        }
        Outline::Object(all) => {
            for (name, value) in all {
                if name.contains(&event) {
                    places.push((path.clone(), Place::Name(name.clone())));
                }
                if let Some(name) = fixed(name) {
                    path.push(Step::Member(name.to_owned()));
                    shown_at(value, path, places);
                    path.pop();
                }
            }
        }
        Outline::Array(all) => {
            for (index, value) in all.iter().enumerate() {
                path.push(Step::Element(index));
                shown_at(value, path, places);
                path.pop();
            }
        }
        _ => {}
    }
}

fn at<'o>(frame: &'o Outline, path: &[Step]) -> Option<&'o Outline> {
    path.iter().try_fold(frame, |frame, step| match (frame, step) {
        (Outline::Object(_), Step::Member(name)) => {
            frame.members().filter(|(n, _)| n == name).map(|(_, value)| value).last()
        }
        (Outline::Array(all), Step::Element(index)) => all.get(*index),
        _ => None,
    })
}

fn members(frame: &Outline) -> impl Iterator<Item = &str> {
    frame.members().map(|(name, _)| name)
}

fn text_of(value: &Outline) -> Option<Cow<'_, [Piece]>> {
    match value {
        Outline::Text(pieces) => Some(Cow::Borrowed(pieces)),
        Outline::Slot(slot) => Some(Cow::Owned(vec![Piece::Slot(*slot)])),
        _ => None,
    }
}

/// What a string of a server's frame can be; `None` when the file does not say it.
pub(super) fn texts(pieces: &[Piece], codes: &[&str]) -> Option<Vec<String>> {
    let filled = |code: &str| {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => Some(text.clone()),
            Piece::Slot(Slot::Code) => Some(code.to_owned()),
            Piece::Slot(_) => None,
        };
        pieces.iter().map(piece).collect::<Option<String>>()
    };
    if pieces.contains(&Piece::Slot(Slot::Code)) {
        codes.iter().map(|code| filled(code)).collect()
    } else {
        filled("").map(|text| vec![text])
    }
}

/// Whether [`invert`] finds the event's name in what `pattern` makes.
pub(super) fn is_invertible(pattern: &[Piece]) -> bool {
    let slots = pattern.iter().filter(|piece| matches!(piece, Piece::Slot(_)));
    slots.eq([&Piece::Slot(Slot::Event)])
}

/// The event's name that makes `pattern` this text.
pub(super) fn invert(pattern: &[Piece], text: &str) -> Option<String> {
    let literal = |piece: &Piece| match piece {
        Piece::Literal(text) => Some(text.clone()),
        Piece::Slot(_) => None,
    };
    let (before, after) = match pattern {
        [Piece::Slot(Slot::Event)] => (String::new(), String::new()),
        [before, Piece::Slot(Slot::Event)] => (literal(before)?, String::new()),
        [Piece::Slot(Slot::Event), after] => (String::new(), literal(after)?),
        [before, Piece::Slot(Slot::Event), after] => (literal(before)?, literal(after)?),
        _ => return None,
    };
    Some(text.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::dialect::tests::typed;
    use crate::legacy::dialect::{EventFrame, Frames};
    use crate::template::Frame;

    fn of(event: &str, error: &str, ping: Option<&str>) -> Vec<String> {
        let frame = |text: &str, slots| Frame::parse(text, slots).unwrap();
        let out = Frames {
            event: EventFrame::new(frame(event, Frames::EVENT)),
            auth_ok: None,
            auth_error: None,
            error: frame(error, Frames::ERROR),
            ping: ping.map(|text| frame(text, Frames::PING)),
            pong: None,
            subscribed: None,
            unsubscribed: None,
            members: None,
            member_added: None,
            member_removed: None,
            cache_miss: None,
            reply: None,
        };
        names(&Dialect { out, ..typed() })
    }

    #[test]
    fn the_servers_names_are_those_of_its_frames() {
        let shipped = typed();
        let found = names(&shipped);
        assert_eq!(found, shipped.reserved);
        let none: [&str; 0] = [];
        for (event, error, ping, expected) in [
            (
                r#"{"type":{event}}"#,
                r#"{"type":"error"}"#,
                Some(r#"{"type":"ping"}"#),
                &["error", "ping"][..],
            ),
            (r#"{"op":{event}}"#, r#"{"op":"oops"}"#, Some(r#"{"op":"alive?"}"#), &["alive?", "oops"]),
            (r#"{"meta":{"name":{event}}}"#, r#"{"meta":{"name":"oops"}}"#, None, &["oops"]),
            (r#"{"name":"evt:{event}"}"#, r#"{"name":"evt:error"}"#, Some(r#"{"name":"ping"}"#), &["error"]),
            (r#"[{event},{data}]"#, r#"["error",{code}]"#, None, &["error"]),
            (r#"{"{event}":{data}}"#, r#"{"error":{code},"text":{message}}"#, None, &["error", "text"]),
            (
                r#"{"{event}":{data},"at":{now}}"#,
                r#"{"error":{code}}"#,
                Some(r#"{"ping":1}"#),
                &["at", "error", "ping"],
            ),
            // Where clients tell messages apart by another member, the type of a frame is the server's, too.
            (r#"{"type":"event","name":{event}}"#, r#"{"type":"error"}"#, None, &["error"]),
            // An event's frame that does not say which event it is cannot be made to look like another frame.
            (r#"{"type":"event","data":{data}}"#, r#"{"type":"error"}"#, None, &none),
            (r#"{"type":{event}}"#, r#""error""#, None, &none),
        ] {
            assert_eq!(of(event, error, ping), expected, "{event}");
        }
        let path = Dialect { type_field: "data.error_code".into(), ..typed() };
        assert!(names(&path).contains(&"RATE_LIMITED".to_owned()));
        let answers = Dialect { keepalives: vec![("?".into(), r#"{"type":"alive"}"#.into())], ..typed() };
        assert!(names(&answers).contains(&"alive".to_owned()));
        let codes = of(r#"{"type":{event}}"#, r#"{"type":{code}}"#, None);
        assert!(codes.len() == ErrorCode::ALL.len() && codes.contains(&"RATE_LIMITED".to_owned()));
        let codes = of(r#"{"type":{event}}"#, r#"{"type":"E-{code}"}"#, None);
        assert!(codes.contains(&"E-RATE_LIMITED".to_owned()));
    }
}
