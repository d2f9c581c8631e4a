//! Plain text with placeholders.

use super::{Piece, TemplateError, closest, pieces};

/// What a placeholder of a [`Text`] means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Var {
    /// `{name}`: a value of the path template.
    Path(String),
    /// `{subscribe.field}`: a field of the in-band `subscribe` message, or the path to one.
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
    pub(super) parts: Vec<TextPart>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TextPart {
    Literal(String),
    Var(Var),
}

/// What is known of a variable's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// All of it.
    Whole(std::borrow::Cow<'a, str>),
    /// What it begins with.
    Begin(&'a str),
    Nothing,
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
            if field.split('.').any(str::is_empty) {
                return Err(TemplateError::new(at, "a name beside a `.` of this placeholder is empty"));
            }
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

    /// As [`Self::literal_prefix`], where literals may stand side by side ([`Self::with_type`]).
    #[must_use]
    pub fn literal_text_before_values(&self) -> String {
        let literal = |part: &TextPart| match part {
            TextPart::Literal(text) => Some(text.clone()),
            TextPart::Var(_) => None,
        };
        self.parts.iter().map_while(literal).collect()
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

    /// The same template with this message type in place of `{type}`.
    #[must_use]
    pub fn with_type(&self, message_type: &str) -> Self {
        let parts = self.parts.iter().map(|part| match part {
            TextPart::Var(Var::Type) => TextPart::Literal(message_type.to_owned()),
            part => part.clone(),
        });
        Self { source: self.source.clone(), parts: parts.collect() }
    }

    /// Whether some values make this template `filled`. Any text counts as a value, so it errs only towards yes.
    #[must_use]
    pub fn could_be(&self, filled: &str) -> bool {
        let mut rest = filled;
        let mut open = false;
        let last = self.parts.len().saturating_sub(1);
        for (at, part) in self.parts.iter().enumerate() {
            let TextPart::Literal(literal) = part else {
                open = true;
                continue;
            };
            let left = if !open {
                rest.strip_prefix(literal.as_str())
            } else if at == last {
                return rest.ends_with(literal.as_str());
            } else {
                rest.split_once(literal.as_str()).map(|(_, left)| left)
            };
            let Some(left) = left else { return false };
            rest = left;
            open = false;
        }
        open || rest.is_empty()
    }

    /// Whether this and `other` could be filled to the same text, as far as how they begin and end can tell.
    #[must_use]
    pub fn could_equal(&self, other: &Self) -> bool {
        let begins = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
        let ends = |a: &str, b: &str| a.ends_with(b) || b.ends_with(a);
        match (self.vars().next(), other.vars().next()) {
            (None, _) => other.could_be(&self.source),
            (_, None) => self.could_be(&other.source),
            _ => {
                begins(self.literal_prefix(), other.literal_prefix())
                    && ends(self.literal_suffix(), other.literal_suffix())
            }
        }
    }

    /// The literal text behind the last placeholder.
    fn literal_suffix(&self) -> &str {
        match self.parts.last() {
            Some(TextPart::Literal(text)) => text,
            _ => "",
        }
    }

    /// The filled text as far as it is known from its beginning, and whether that is all of it.
    pub fn beginning<'a>(&self, known: impl Fn(&Var) -> Known<'a>) -> (String, bool) {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                TextPart::Literal(text) => out.push_str(text),
                TextPart::Var(var) => match known(var) {
                    Known::Whole(value) => out.push_str(&value),
                    Known::Begin(begin) => {
                        out.push_str(begin);
                        return (out, false);
                    }
                    Known::Nothing => return (out, false),
                },
            }
        }
        (out, true)
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_text_begins_with_what_is_known() {
        let text = Text::parse("a-{id}-{x}b", &names(&["id", "x"]), Allow::default()).unwrap();
        let begin = |id: Known<'static>, x: Known<'static>| {
            text.beginning(|var| if *var == Var::Path("id".into()) { id.clone() } else { x.clone() })
        };
        let whole = |text: &'static str| Known::Whole(text.into());
        for (id, x, begins) in [
            (whole("1"), whole("2"), ("a-1-2b", true)),
            (whole("1"), Known::Begin("2"), ("a-1-2", false)),
            (whole("1"), Known::Nothing, ("a-1-", false)),
            (Known::Begin("1"), whole("2"), ("a-1", false)),
            (Known::Nothing, whole("2"), ("a-", false)),
        ] {
            assert_eq!(begin(id, x), (begins.0.to_owned(), begins.1));
        }
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
    fn what_a_text_could_be() {
        let allow = Allow { user: true, message_type: true, subscribe: true };
        let text = |source: &str| Text::parse(source, &names(&["id"]), allow).unwrap();
        for (source, filled, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("{id}", "", true),
            ("a-{id}", "a-x", true),
            ("a-{id}", "b-x", false),
            ("a-{id}-z", "a-x-z", true),
            ("a-{id}-z", "a-x-y", false),
            ("a-{id}-z", "a-z", false),
            ("a-{id}-m-{type}", "a-1-m-2", true),
            ("a-{id}-m-{type}-z", "a-1-m-2-z", true),
            ("a-{id}-m-{type}-z", "a-1-n-2-z", false),
            ("{id}{type}", "x", true),
            ("{id}x{type}", "y", false),
        ] {
            assert_eq!(text(source).could_be(filled), expected, "{source} {filled}");
        }
        assert!(text("{type}-{id}").with_type("go").could_be("go-1"));
        assert!(!text("{type}-{id}").with_type("go").could_be("stop-1"));
        for (a, b, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a-{id}", "a-b", true),
            ("a-{id}", "b", false),
            ("a-{id}", "a-b-{id}", true),
            ("a-{id}", "{subscribe.c}", true),
            ("a-{id}", "b-{id}", false),
            ("{id}-a", "{id}-b", false),
            ("x{id}-a", "{id}-b-a", true),
        ] {
            assert_eq!(text(a).could_equal(&text(b)), expected, "{a} {b}");
            assert_eq!(text(b).could_equal(&text(a)), expected, "{b} {a}");
        }
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
}
