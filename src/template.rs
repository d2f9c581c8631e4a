//! Templates: text with `{placeholder}`s. Two kinds share one scanner: [`Text`] fills channel names, filter
//! values and URLs with plain text; [`Frame`] fills a JSON frame with JSON values.

use std::fmt::Write as _;

/// Where a template went wrong: a byte offset into it, what is wrong, and the nearest right name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Byte offset of the offence in the template.
    pub at: usize,
    /// What is wrong, as a sentence without a full stop.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl TemplateError {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), suggestion: None }
    }
}

/// The pieces of a template: literal text, and names between braces with the offset of their brace.
enum Piece<'a> {
    Literal(&'a str),
    Name { at: usize, name: &'a str },
}

/// A placeholder is `{`, a name of `[A-Za-z_][A-Za-z0-9_.]*`, `}`. In a JSON template any other brace is
/// JSON's own (an object's `{` is never followed by a letter), which `braces_are_text` says.
fn pieces(template: &str, braces_are_text: bool) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut out = Vec::new();
    let mut literal_from = 0;
    let mut at = 0;
    let bytes = template.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' => {
                let rest = template.get(at + 1..).unwrap_or("");
                let length = rest
                    .bytes()
                    .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
                    .count();
                let name = rest.get(..length).unwrap_or("");
                let closed = rest.as_bytes().get(length) == Some(&b'}');
                let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if closed && starts_well {
                    if let Some(text) = template.get(literal_from..at).filter(|t| !t.is_empty()) {
                        out.push(Piece::Literal(text));
                    }
                    out.push(Piece::Name { at, name });
                    at += length + 2;
                    literal_from = at;
                } else if braces_are_text {
                    at += 1;
                } else {
                    return Err(TemplateError::new(
                        at,
                        "`{` must be followed by a placeholder's name and `}`",
                    ));
                }
            }
            b'}' if !braces_are_text => {
                return Err(TemplateError::new(at, "`}` without its `{`"));
            }
            _ => at += 1,
        }
    }
    if let Some(text) = template.get(literal_from..).filter(|t| !t.is_empty()) {
        out.push(Piece::Literal(text));
    }
    Ok(out)
}

// ------------------------------------------------------------------------------------------------- Text

/// What a placeholder of a [`Text`] stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Var {
    /// `{name}`: a value of the path template.
    Path(String),
    /// `{subscribe.field}`: a field of the in-band `subscribe` message.
    Subscribe(String),
    /// `{auth.user}`: the authenticated user's id.
    User,
    /// `{type}`: the client message's type.
    Type,
}

/// Text with placeholders for path values, subscribe fields, the user or a message's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    source: String,
    parts: Vec<TextPart>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TextPart {
    Literal(String),
    Var(Var),
}

/// Which variables a [`Text`] may use, beside the path's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allow {
    /// `{subscribe.x}`
    pub subscribe: bool,
    /// `{auth.user}`
    pub user: bool,
    /// `{type}`
    pub message_type: bool,
}

impl Text {
    /// Parses a template whose path placeholders must be among `path_names`.
    ///
    /// # Errors
    /// An unknown placeholder, one not allowed here, or a stray brace.
    pub fn parse(source: &str, path_names: &[String], allow: Allow) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        for piece in pieces(source, false)? {
            parts.push(match piece {
                Piece::Literal(text) => TextPart::Literal(text.to_owned()),
                Piece::Name { at, name } => TextPart::Var(Self::var(at, name, path_names, allow)?),
            });
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    fn var(at: usize, name: &str, paths: &[String], allow: Allow) -> Result<Var, TemplateError> {
        if paths.iter().any(|p| p == name) {
            return Ok(Var::Path(name.to_owned()));
        }
        if let Some(field) = name.strip_prefix("subscribe.").filter(|f| !f.is_empty()) {
            if allow.subscribe {
                return Ok(Var::Subscribe(field.to_owned()));
            }
            return Err(TemplateError::new(at, "`{subscribe.…}` has no meaning here"));
        }
        if name == "auth.user" && allow.user {
            return Ok(Var::User);
        }
        if name == "type" && allow.message_type {
            return Ok(Var::Type);
        }
        let mut known: Vec<&str> = paths.iter().map(String::as_str).collect();
        if allow.user {
            known.push("auth.user");
        }
        if allow.message_type {
            known.push("type");
        }
        Err(TemplateError {
            at,
            message: format!("unknown placeholder `{{{name}}}`: the path has no such value"),
            suggestion: closest(name, known.into_iter()).map(|n| format!("{{{n}}}")),
        })
    }

    /// The template as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The variables used, in order.
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.parts.iter().filter_map(|part| match part {
            TextPart::Var(var) => Some(var),
            TextPart::Literal(_) => None,
        })
    }

    /// The subscribe field this text needs, if any (the first one).
    #[must_use]
    pub fn subscribe_field(&self) -> Option<&str> {
        self.vars().find_map(|var| match var {
            Var::Subscribe(field) => Some(field.as_str()),
            _ => None,
        })
    }

    /// The literal text before the first placeholder: what a value can never change.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        match self.parts.first() {
            Some(TextPart::Literal(text)) => text,
            _ => "",
        }
    }

    /// The literal pieces, in order.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TextPart::Literal(text) => Some(text.as_str()),
            TextPart::Var(_) => None,
        })
    }

    /// The value that filled this template's only placeholder to make `filled`; `None` for another shape.
    #[must_use]
    pub fn invert<'a>(&self, filled: &'a str) -> Option<&'a str> {
        match self.parts.as_slice() {
            [TextPart::Var(_)] => Some(filled),
            [TextPart::Literal(before), TextPart::Var(_)] => filled.strip_prefix(before.as_str()),
            [TextPart::Var(_), TextPart::Literal(after)] => filled.strip_suffix(after.as_str()),
            [TextPart::Literal(before), TextPart::Var(_), TextPart::Literal(after)] => {
                filled.strip_prefix(before.as_str())?.strip_suffix(after.as_str())
            }
            _ => None,
        }
    }

    /// Fills the template in; `None` when `lookup` has no value for a variable.
    pub fn fill<'a>(&self, lookup: impl Fn(&Var) -> Option<std::borrow::Cow<'a, str>>) -> Option<String> {
        let mut out = String::with_capacity(self.source.len() + 16);
        for part in &self.parts {
            match part {
                TextPart::Literal(text) => out.push_str(text),
                TextPart::Var(var) => out.push_str(&lookup(var)?),
            }
        }
        Some(out)
    }
}

// ------------------------------------------------------------------------------------------------ Frame

/// What can stand between braces in a [`Frame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The event's name.
    Event,
    /// The channel, by the name the client knows.
    Channel,
    /// The event's or the message's data, raw.
    Data,
    /// The whole client frame, raw.
    Frame,
    /// The client message's type.
    Type,
    /// The time, RFC 3339.
    Now,
    /// The user's id.
    User,
    /// The user's role, or null.
    Role,
    /// The user's permissions, an array.
    Permissions,
    /// An error's code.
    Code,
    /// An error's text.
    Message,
    /// An error's details, an object.
    Details,
}

impl Slot {
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum FramePart {
    Literal(String),
    Value(Slot),
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
                    if in_string
                        && matches!(slot, Slot::Data | Slot::Frame | Slot::Permissions | Slot::Details)
                    {
                        return Err(TemplateError::new(
                            at,
                            format!("`{{{name}}}` is a JSON value and cannot stand inside of a string"),
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

    /// Whether `slot` is used.
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

    /// The template's top-level members, as (name, JSON with placeholders as `null`), with the slot of each
    /// member that is one placeholder alone.
    pub(crate) fn members(&self) -> Vec<(String, Member)> {
        // Placeholders become strings that no template text can hold, so that serde_json can find members.
        const MARK: char = '\u{0}';
        let mut text = String::new();
        for part in &self.parts {
            match part {
                FramePart::Literal(literal) => text.push_str(literal),
                FramePart::Value(slot) => {
                    let _ = write!(text, "\"\\u0000{}\"", slot.name());
                }
                FramePart::InString(_) => text.push_str("\\u0000"),
            }
        }
        let Ok(serde_json::Value::Object(map)) = serde_json::from_str(&text) else {
            return Vec::new();
        };
        map.into_iter()
            .map(|(name, value)| {
                let member = match value {
                    serde_json::Value::String(s) if s.starts_with(MARK) && s.len() > 1 => {
                        let slot_name = s.trim_start_matches(MARK);
                        self.parts
                            .iter()
                            .find_map(|part| match part {
                                FramePart::Value(slot) if slot.name() == slot_name => {
                                    Some(Member::Slot(*slot))
                                }
                                _ => None,
                            })
                            .unwrap_or(Member::Other)
                    }
                    serde_json::Value::String(s) if !s.contains(MARK) => Member::Literal(s),
                    _ => Member::Other,
                };
                (name, member)
            })
            .collect()
    }
}

/// What a top-level member of a [`Frame`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// One placeholder alone.
    Slot(Slot),
    /// A fixed string.
    Literal(String),
    /// Anything else.
    Other,
}

/// Whether a JSON scan that was `in_string` before `text` is inside a string after it.
fn ends_in_string(text: &str, mut in_string: bool) -> bool {
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

/// The candidate nearest to `name`, when near enough to be a slip (at most a third of its letters).
pub fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, candidate)| *d > 0 && *d <= candidate.len().max(name.len()).div_ceil(3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let get = |row: &[usize], k: usize| row.get(k).copied().unwrap_or(usize::MAX - 1);
            let mut best = (get(&previous, j) + usize::from(ca != cb))
                .min(get(&previous, j + 1) + 1)
                .min(get(&row, j) + 1);
            if i > 0 && j > 0 && Some(ca) == b.get(j - 1) && a.get(i - 1) == Some(cb) {
                best = best.min(get(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = previous;
        previous = row;
    }
    previous.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn text_fills_its_variables() {
        let allow = Allow { subscribe: true, user: true, message_type: true };
        let text = Text::parse("a-{id}-{subscribe.env}-{auth.user}-{type}", &names(&["id"]), allow).unwrap();
        let filled = text.fill(|var| {
            Some(match var {
                Var::Path(name) => format!("<{name}>").into(),
                Var::Subscribe(field) => format!("[{field}]").into(),
                Var::User => "u".into(),
                Var::Type => "t".into(),
            })
        });
        assert_eq!(filled.as_deref(), Some("a-<id>-[env]-u-t"));
        assert_eq!(text.literal_prefix(), "a-");
        assert_eq!(text.subscribe_field(), Some("env"));
        assert_eq!(text.fill(|_| None), None);
    }

    #[test]
    fn text_inverts_one_placeholder() {
        let allow = Allow { message_type: true, ..Allow::default() };
        let invert = |source: &str, filled: &str| {
            Text::parse(source, &[], allow).unwrap().invert(filled).map(str::to_owned)
        };
        assert_eq!(invert("client-{type}", "client-run").as_deref(), Some("run"));
        assert_eq!(invert("{type}", "run").as_deref(), Some("run"));
        assert_eq!(invert("a-{type}-z", "a-run-z").as_deref(), Some("run"));
        assert_eq!(invert("client-{type}", "run"), None);
        assert_eq!(invert("fixed", "fixed"), None);
    }

    #[test]
    fn text_names_what_it_does_not_know() {
        let error = Text::parse("x-{sesion_id}", &names(&["session_id"]), Allow::default()).unwrap_err();
        assert_eq!(error.at, 2);
        assert_eq!(error.suggestion.as_deref(), Some("{session_id}"));
        for bad in ["{", "}", "a{1}", "{a", "{}", "{subscribe.x}", "{auth.user}", "{type}"] {
            assert!(Text::parse(bad, &[], Allow::default()).is_err(), "{bad}");
        }
    }

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
            (r#"{"a":"{data}"}"#, "inside of a string"),
            (r#"{"a":{event}{data}}"#, "not JSON"),
            ("", "not JSON"),
        ] {
            let error = Frame::parse(bad, slots).unwrap_err();
            assert!(error.message.contains(what), "{bad}: {}", error.message);
        }
        let error = Frame::parse(r#"{"a":{evnt}}"#, slots).unwrap_err();
        assert_eq!((error.at, error.suggestion.as_deref()), (5, Some("{event}")));
    }

    #[test]
    fn members_tell_slots_from_literals() {
        let frame = Frame::parse(
            r#"{"type":"event","channel":{channel},"data":{data},"x":"a{event}","n":1}"#,
            &[Slot::Event, Slot::Channel, Slot::Data],
        )
        .unwrap();
        let members = frame.members();
        let get = |name: &str| members.iter().find(|(n, _)| n == name).map(|(_, m)| m.clone());
        assert_eq!(get("type"), Some(Member::Literal("event".into())));
        assert_eq!(get("channel"), Some(Member::Slot(Slot::Channel)));
        assert_eq!(get("data"), Some(Member::Slot(Slot::Data)));
        assert_eq!(get("x"), Some(Member::Other));
        assert_eq!(get("n"), Some(Member::Other));
    }

    #[test]
    fn slips_are_recognised() {
        let known = ["channel", "path", "dialect"];
        assert_eq!(closest("chanel", known.into_iter()), Some("channel"));
        assert_eq!(closest("pahts", known.into_iter()), Some("path"));
        assert_eq!(closest("heartbeat", known.into_iter()), None);
        assert_eq!(closest("path", known.into_iter()), None);
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

        #[test]
        fn no_template_panics(text in ".*") {
            let _ = Text::parse(&text, &[], Allow::default());
            let _ = Frame::parse(&text, &[Slot::Event]);
        }
    }
}
