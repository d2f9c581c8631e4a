//! What a frame's JSON is made of: its members and elements, fixed text, and its placeholders.

use std::fmt::Write as _;

use crate::json::{self, Object};
use crate::template::{Frame, FramePart, Slot};

/// Put around a part's number in place of a placeholder. A template that has it itself has no outline.
const MARK: char = '\u{0}';
const MARK_ESCAPED: &str = "\\u0000";

/// One JSON value of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outline {
    /// A placeholder in place of a value.
    Slot(Slot),
    Text(Vec<Piece>),
    /// A number, `true`, `false` or `null`, as it is written.
    Scalar(String),
    /// An object: names and values, in order.
    Object(Vec<(Vec<Piece>, Outline)>),
    Array(Vec<Outline>),
}

/// A part of a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Fixed text, unescaped.
    Literal(String),
    Slot(Slot),
}

/// The string that `pieces` are, when no placeholder is among them.
pub(crate) fn fixed(pieces: &[Piece]) -> Option<&str> {
    match pieces {
        [] => Some(""),
        [Piece::Literal(text)] => Some(text),
        _ => None,
    }
}

impl Outline {
    /// The frame's outline; `None` when the template itself uses what placeholders are marked with.
    pub(crate) fn of(frame: &Frame) -> Option<Self> {
        let mut text = String::new();
        for (index, part) in frame.parts().iter().enumerate() {
            let mark = MARK_ESCAPED;
            let _ = match part {
                FramePart::Literal(literal) if literal.contains(mark) => return None,
                FramePart::Literal(literal) => write!(text, "{literal}"),
                FramePart::Value(_) => write!(text, "\"{mark}{index}{mark}\""),
                FramePart::InString(_) => write!(text, "{mark}{index}{mark}"),
            };
        }
        Self::parse(text.trim(), frame.parts())
    }

    /// The top-level members, by their names; none of another kind of frame, or of names with placeholders.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Self)> {
        let members = if let Self::Object(members) = self { members.as_slice() } else { &[] };
        members.iter().filter_map(|(name, value)| Some((fixed(name)?, value)))
    }

    fn parse(json: &str, parts: &[FramePart]) -> Option<Self> {
        match json.as_bytes().first()? {
            b'{' => {
                let object = Object::parse(json).ok()?;
                let members = object
                    .members()
                    .map(|(name, value)| Some((pieces(name, parts)?, Self::parse(value, parts)?)));
                Some(Self::Object(members.collect::<Option<_>>()?))
            }
            b'[' => {
                let elements = json::elements(json)?;
                Some(Self::Array(elements.iter().map(|e| Self::parse(e, parts)).collect::<Option<_>>()?))
            }
            b'"' => {
                let pieces = pieces(&json::string(json)?, parts)?;
                match pieces.as_slice() {
                    // A text slot alone in a string is the same as one in place of it.
                    [Piece::Slot(slot)] => Some(Self::Slot(*slot)),
                    _ => Some(Self::Text(pieces)),
                }
            }
            _ => Some(Self::Scalar(json.to_owned())),
        }
    }
}

fn pieces(marked: &str, parts: &[FramePart]) -> Option<Vec<Piece>> {
    let mut out = Vec::new();
    for (at, text) in marked.split(MARK).enumerate() {
        if at % 2 == 0 {
            if !text.is_empty() {
                out.push(Piece::Literal(text.to_owned()));
            }
            continue;
        }
        match parts.get(text.parse::<usize>().ok()?)? {
            FramePart::Value(slot) | FramePart::InString(slot) => out.push(Piece::Slot(*slot)),
            FramePart::Literal(_) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_tells_slots_from_text_at_any_depth() {
        let slots = &[Slot::Event, Slot::Channel, Slot::Data];
        let outline = |source: &str| Outline::of(&Frame::parse(source, slots).unwrap());
        let frame = outline(
            r#" {"t\u0079pe":"event","meta":{"name":"<{event}>","only":"{event}"},"data":{data},"n":1.50,"l":[{channel}]}"#,
        );
        let text = |text: &str| vec![Piece::Literal(text.to_owned())];
        let expected = Outline::Object(vec![
            (text("type"), Outline::Text(text("event"))),
            (
                text("meta"),
                Outline::Object(vec![
                    (
                        text("name"),
                        Outline::Text(vec![
                            Piece::Literal("<".into()),
                            Piece::Slot(Slot::Event),
                            Piece::Literal(">".into()),
                        ]),
                    ),
                    (text("only"), Outline::Slot(Slot::Event)),
                ]),
            ),
            (text("data"), Outline::Slot(Slot::Data)),
            (text("n"), Outline::Scalar("1.50".into())),
            (text("l"), Outline::Array(vec![Outline::Slot(Slot::Channel)])),
        ]);
        assert_eq!(frame.as_ref(), Some(&expected));
        let names: Vec<&str> = expected.members().map(|(name, _)| name).collect();
        assert_eq!(names, ["type", "meta", "data", "n", "l"]);
        let by_name = outline(r#"{"{event}":{data}}"#).unwrap();
        assert_eq!(by_name.members().count(), 0);
        assert_eq!(outline("{\"a\":\"\\u0000\",\"b\":{event}}"), None);
    }
}
