//! A JSON frame with placeholders.

use std::fmt::Write as _;

use super::{Piece, TemplateError, closest, pieces};

/// What can be between braces in a [`Frame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Event,
    /// The channel, by the name the client knows.
    Channel,
    /// The event's or the message's data, raw.
    Data,
    /// The whole client frame, raw.
    Frame,
    Type,
    /// The time, RFC 3339.
    Now,
    User,
    /// The user's role, or null.
    Role,
    /// The user's permissions, an array.
    Permissions,
    Code,
    Message,
    /// An error's details, an object.
    Details,
    /// The member who sent a client event, or null.
    Sender,
    /// How many members a channel has.
    Count,
    /// The members, an array.
    Members,
    /// The id of a member who comes or leaves.
    MemberId,
    /// What is told of him, or null.
    Info,
}

impl Slot {
    /// Whether it may be any JSON value.
    const fn is_json(self) -> bool {
        matches!(
            self,
            Self::Data | Self::Frame | Self::Permissions | Self::Details | Self::Members | Self::Info
        )
    }

    /// The name in the template.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Channel => "channel",
            Self::Data => "data",
            Self::Frame => "frame",
            Self::Type => "type",
            Self::Now => "now",
            Self::User => "user",
            Self::Role => "role",
            Self::Permissions => "permissions",
            Self::Code => "code",
            Self::Message => "message",
            Self::Details => "details",
            Self::Sender => "sender",
            Self::Count => "count",
            Self::Members => "members",
            Self::MemberId => "member_id",
            Self::Info => "info",
        }
    }
}

/// A value for a [`Slot`].
#[derive(Clone, Copy, Debug)]
pub enum Fill<'a> {
    /// JSON text, inserted as it is.
    Json(&'a str),
    /// Plain text, inserted as a JSON string.
    Text(&'a str),
}

/// A JSON frame with placeholders. Outside of a JSON string a placeholder becomes a JSON value; inside of one
/// it becomes escaped text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    source: String,
    parts: Vec<FramePart>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FramePart {
    /// JSON text.
    Literal(String),
    /// A placeholder in place of a value.
    Value(Slot),
    /// A placeholder within a string.
    InString(Slot),
}

impl Frame {
    /// Parses a JSON template that may use `allowed`.
    ///
    /// # Errors
    /// An unknown placeholder, `{data}`-like values inside of a string, or text that is not JSON once the
    /// placeholders are filled.
    pub fn parse(source: &str, allowed: &[Slot]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut sample = String::new();
        let mut in_string = false;
        for piece in pieces(source, true)? {
            match piece {
                Piece::Literal(text) => {
                    in_string = ends_in_string(text, in_string);
                    sample.push_str(text);
                    parts.push(FramePart::Literal(text.to_owned()));
                }
                Piece::Name { at, name } => {
                    let Some(slot) = allowed.iter().copied().find(|slot| slot.name() == name) else {
                        return Err(Self::unknown(at, name, allowed));
                    };
                    if in_string && slot.is_json() {
                        return Err(TemplateError::new(
                            at,
                            format!("`{{{name}}}` is a JSON value and is not allowed inside of a string"),
                        ));
                    }
                    sample.push_str(if in_string { "x" } else { "null" });
                    parts.push(if in_string { FramePart::InString(slot) } else { FramePart::Value(slot) });
                }
            }
        }
        match serde_json::from_str::<serde::de::IgnoredAny>(&sample) {
            Ok(_) => Ok(Self { source: source.to_owned(), parts }),
            Err(error) => Err(TemplateError::new(
                0,
                format!("the template is not JSON once its placeholders are filled: {error}"),
            )),
        }
    }

    fn unknown(at: usize, name: &str, allowed: &[Slot]) -> TemplateError {
        let names: Vec<String> = allowed.iter().map(|slot| format!("{{{}}}", slot.name())).collect();
        TemplateError {
            at,
            message: format!("unknown placeholder `{{{name}}}`: here there are {}", names.join(", ")),
            suggestion: closest(name, allowed.iter().map(|slot| slot.name())).map(|n| format!("{{{n}}}")),
        }
    }

    /// The template as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    #[must_use]
    pub fn uses(&self, slot: Slot) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, FramePart::Value(s) | FramePart::InString(s) if *s == slot))
    }

    /// Appends the filled frame to `out`.
    pub fn render<'a>(&self, out: &mut String, fill: impl Fn(Slot) -> Fill<'a>) {
        for part in &self.parts {
            match part {
                FramePart::Literal(text) => out.push_str(text),
                FramePart::Value(slot) => match fill(*slot) {
                    Fill::Json(json) => out.push_str(json),
                    Fill::Text(text) => {
                        out.push('"');
                        escape_into(out, text);
                        out.push('"');
                    }
                },
                FramePart::InString(slot) => {
                    let (Fill::Json(text) | Fill::Text(text)) = fill(*slot);
                    escape_into(out, text);
                }
            }
        }
    }

    /// The template's pieces, in order.
    pub(crate) fn parts(&self) -> &[FramePart] {
        &self.parts
    }
}

/// Whether a JSON scan that was `in_string` before `text` is inside a string after it.
pub(super) fn ends_in_string(text: &str, mut in_string: bool) -> bool {
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    in_string
}

/// Appends `text` as the inside of a JSON string (RFC 8259 §7).
pub fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < '\u{20}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_fill_values_and_strings() {
        let frame = Frame::parse(r#"{"t":{event},"s":"pre-{event}","d":{data}}"#, &[Slot::Event, Slot::Data])
            .unwrap();
        let mut out = String::new();
        frame.render(&mut out, |slot| match slot {
            Slot::Event => Fill::Text("a\"b"),
            _ => Fill::Json("1.50"),
        });
        assert_eq!(out, r#"{"t":"a\"b","s":"pre-a\"b","d":1.50}"#);
    }

    #[test]
    fn frames_refuse_what_cannot_be_json() {
        let slots = &[Slot::Event, Slot::Data];
        for (bad, what) in [
            (r#"{"a":{event}"#, "not JSON"),
            (r#"{"a":{evnt}}"#, "unknown placeholder"),
            (r#"{"a":"{data}"}"#, "not allowed inside of a string"),
            (r#"{"a":{event}{data}}"#, "not JSON"),
            ("", "not JSON"),
        ] {
            let error = Frame::parse(bad, slots).unwrap_err();
            assert!(error.message.contains(what), "{bad}: {}", error.message);
        }
        let error = Frame::parse(r#"{"a":{evnt}}"#, slots).unwrap_err();
        assert_eq!((error.at, error.suggestion.as_deref()), (5, Some("{event}")));
    }

    proptest! {
        #[test]
        fn filled_frames_are_json_whatever_the_text(text in ".*") {
            let frame = Frame::parse(r#"{"v":{event},"s":"<{event}>"}"#, &[Slot::Event]).unwrap();
            let mut out = String::new();
            frame.render(&mut out, |_| Fill::Text(&text));
            let value: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(value["v"].as_str(), Some(text.as_str()));
            let wrapped = format!("<{text}>");
            prop_assert_eq!(value["s"].as_str(), Some(wrapped.as_str()));
        }
    }
}
