//! Paths in, channels out: path templates, the router over them, and what a channel name may be.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::pusher::channel::{check_channel, kind_prefix};
use crate::template::{CharSet, Choice, Known, Text, Var};

/// Longest value of a path that is in no channel's name, in bytes.
pub const VALUE_BYTES_MAX: usize = 256;

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Value(Placeholder),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Placeholder {
    name: String,
    /// The characters that its values may have, where the file says it.
    set: Option<CharSet>,
    /// Values that it must not have.
    excluded: Vec<Choice>,
}

impl Placeholder {
    fn allows(&self, value: &str) -> bool {
        self.set.is_none_or(|set| set.fits(value)) && !self.is_excluded(value)
    }

    fn is_excluded(&self, value: &str) -> bool {
        self.excluded.iter().any(|choice| choice.fits(value))
    }

    /// Why it does not allow `value`.
    fn refusal(&self, value: &str) -> BadValue {
        let name = &self.name;
        if self.is_excluded(value) {
            BadValue::Excluded(format!("`{name}` in the path has a value that it must not have"))
        } else {
            BadValue::Illegal(format!("`{name}` in the path has a character that it may not have"))
        }
    }
}

/// Why a path's values are not acceptable, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadValue {
    /// One that no channel's name may have, or not this one.
    Illegal(String),
    /// One that the file excludes.
    Excluded(String),
    /// Together they make the channel one of another kind.
    Kind(String),
}

/// A path template such as `/ws/content/{session_id}` or `/ws/{tenant:[a-z0-9]+}`: a placeholder is a whole
/// segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    source: String,
    /// A path that ends in `/` ends in an empty literal, and `/` is nothing but one.
    segments: Vec<Segment>,
    names: Vec<String>,
    /// Whether the `/` at its end may be there or not.
    either_slash: bool,
    /// Placeholders whose values need not be legal in a channel's name.
    free: Vec<String>,
    /// The channel, whose kind the values must not change.
    channel: Option<Text>,
}

/// What is wrong with a path template: a byte offset and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    /// Byte offset in the template.
    pub at: usize,
    pub message: String,
}

impl PathTemplate {
    /// Parses `source`.
    ///
    /// # Errors
    /// No leading `/`, an empty segment, a character that a path cannot hold plainly, a placeholder that is
    /// only a part of its segment, or one name twice.
    pub fn parse(source: &str) -> Result<Self, PathError> {
        let fail = |at: usize, message: String| Err(PathError { at, message });
        let Some(rest) = source.strip_prefix('/') else {
            return fail(0, "a path starts with `/`".to_owned());
        };
        let mut segments = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut at = 1;
        let last = rest.split('/').count();
        for (n, text) in rest.split('/').enumerate() {
            let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
            if text.is_empty() && n + 1 == last {
                segments.push(Segment::Literal(String::new()));
            } else if text.is_empty() {
                return fail(at, "an empty segment: two `/` in a row".to_owned());
            } else if let Some(inner) = inner {
                let (name, set) = match inner.split_once(':') {
                    None => (inner, None),
                    Some((name, class)) => match CharSet::parse(class) {
                        Ok(set) => (name, Some(set)),
                        Err(message) => return fail(at, message),
                    },
                };
                let legal = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if !legal {
                    return fail(
                        at,
                        format!(
                            "`{{{name}}}` is not a valid placeholder: a letter or `_`, then letters, digits, `_`"
                        ),
                    );
                }
                if names.iter().any(|n| n == name) {
                    return fail(at, format!("`{{{name}}}` is in this path twice"));
                }
                names.push(name.to_owned());
                let placeholder = Placeholder { name: name.to_owned(), set, excluded: Vec::new() };
                segments.push(Segment::Value(placeholder));
            } else if let Some(offset) = text.find(['{', '}']) {
                return fail(at + offset, "a placeholder must be a whole segment of the path".to_owned());
            } else if let Some(offset) =
                text.find(|c: char| !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:@".contains(c))
            {
                return fail(
                    at + offset,
                    "this character is not allowed in a path (RFC 3986 §3.3)".to_owned(),
                );
            } else if matches!(text, "." | "..") {
                return fail(at, "`.` and `..` are resolved away before a server sees them".to_owned());
            } else {
                segments.push(Segment::Literal(text.to_owned()));
            }
            at += text.len() + 1;
        }
        let source = source.to_owned();
        Ok(Self { source, segments, names, either_slash: false, free: Vec::new(), channel: None })
    }

    /// The template as it was written; also the `url.path` of logs.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The placeholders' names, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn placeholder(&self, name: &str) -> Option<&Placeholder> {
        self.segments.iter().find_map(|segment| match segment {
            Segment::Value(placeholder) if placeholder.name == name => Some(placeholder),
            _ => None,
        })
    }

    fn placeholder_mut(&mut self, name: &str) -> Option<&mut Placeholder> {
        self.segments.iter_mut().find_map(|segment| match segment {
            Segment::Value(placeholder) if placeholder.name == name => Some(placeholder),
            _ => None,
        })
    }

    /// The characters that values of `name` may have, where the file says it.
    #[must_use]
    pub fn set_of(&self, name: &str) -> Option<CharSet> {
        self.placeholder(name)?.set
    }

    /// The values that `name` must not have.
    #[must_use]
    pub fn excluded_of(&self, name: &str) -> &[Choice] {
        self.placeholder(name).map_or(&[], |placeholder| &placeholder.excluded)
    }

    /// Whether a path could give `name` this value.
    #[must_use]
    pub fn takes(&self, name: &str, value: &str) -> bool {
        let allowed = self.placeholder(name).is_some_and(|placeholder| placeholder.allows(value));
        allowed && check_value(value, self.is_free(name)).is_ok()
    }

    fn is_free(&self, name: &str) -> bool {
        self.free.iter().any(|free| free == name)
    }

    /// Restricts the values of `name`; `false`: there is no such placeholder.
    #[must_use]
    pub fn restrict(&mut self, name: &str, to: CharSet) -> bool {
        self.placeholder_mut(name).map(|placeholder| placeholder.set = Some(to)).is_some()
    }

    /// Says what values `name` must not have; `false`: there is no such placeholder.
    #[must_use]
    pub fn exclude(&mut self, name: &str, not: Vec<Choice>) -> bool {
        self.placeholder_mut(name).map(|placeholder| placeholder.excluded = not).is_some()
    }

    /// Says which channel the values go into: they must not make it one of another kind than its literal beginning
    /// says.
    #[must_use]
    pub fn with_channel(mut self, channel: Text) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Says whose values are in no channel's name: they may have any character but control characters.
    #[must_use]
    pub fn with_free_values(mut self, free: Vec<String>) -> Self {
        self.free = free;
        self
    }

    /// Whether a path that has, or lacks, the `/` at the end of this one is the same.
    #[must_use]
    pub const fn with_either_slash(mut self, either: bool) -> Self {
        self.either_slash = either;
        self
    }

    #[must_use]
    pub const fn has_either_slash(&self) -> bool {
        self.either_slash
    }

    /// Its segments with the `/` at the end and without, as far as it may be there or not.
    fn forms(&self) -> Vec<Vec<&Segment>> {
        const END: &Segment = &Segment::Literal(String::new());
        let mut forms = vec![self.segments.iter().collect::<Vec<_>>()];
        if self.either_slash {
            let mut other: Vec<&Segment> = self.segments.iter().collect();
            if other.last() != Some(&END) {
                other.push(END);
                forms.push(other);
            } else if other.len() > 1 {
                other.pop();
                forms.push(other);
            }
        }
        forms
    }

    /// Whether one path could match both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let others = other.forms();
        self.forms().iter().any(|form| others.iter().any(|other| Self::forms_overlap(form, other)))
    }

    fn forms_overlap(form: &[&Segment], other: &[&Segment]) -> bool {
        form.len() == other.len()
            && form.iter().zip(other).all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                (Segment::Literal(text), Segment::Value(placeholder))
                | (Segment::Value(placeholder), Segment::Literal(text)) => {
                    // No value is empty.
                    !text.is_empty() && placeholder.allows(text)
                }
                (Segment::Value(a), Segment::Value(b)) => {
                    let any = CharSet::ANY;
                    a.set.unwrap_or(any).and(b.set.unwrap_or(any)).example().is_some()
                }
            })
    }

    /// The values of `path` (as it came, percent-encoded) under this template; `None` when it does not match.
    fn match_path(&self, path: &str) -> Option<Result<PathValues, BadValue>> {
        let mut rest = path.strip_prefix('/')?;
        let mut added = None;
        if self.either_slash {
            let slash = matches!(self.segments.last(), Some(Segment::Literal(text)) if text.is_empty());
            match rest.strip_suffix('/') {
                Some(without) if !slash => rest = without,
                None if slash && !rest.is_empty() => added = Some(""),
                _ => {}
            }
        }
        let mut values = Vec::with_capacity(self.names.len());
        let mut bad = None;
        let mut parts = rest.split('/').chain(added);
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(literal) if is_literal(part, literal) => {}
                Segment::Literal(_) => return None,
                Segment::Value(placeholder) => {
                    let name = &placeholder.name;
                    match decode_value(part, self.is_free(name)) {
                        Ok(value) if placeholder.allows(&value) => values.push((name.clone(), value)),
                        Ok(value) => {
                            bad.get_or_insert_with(|| placeholder.refusal(&value));
                        }
                        Err(error) => {
                            bad.get_or_insert(BadValue::Illegal(format!("`{name}` in the path: {error}")));
                        }
                    }
                }
            }
        }
        if parts.next().is_some() {
            return None;
        }
        let values = PathValues(values.into());
        let bad = bad.or_else(|| self.other_kind(&values).map(BadValue::Kind));
        Some(bad.map_or(Ok(values), Err))
    }

    /// How the channel would be of another kind than its literal beginning. As far as the path says: what is filled in
    /// later is looked at later (`routes/channel.rs`).
    fn other_kind(&self, values: &PathValues) -> Option<String> {
        let channel = self.channel.as_ref()?;
        let (begin, _) = channel.beginning(|var| match var {
            Var::Path(name) => values.get(name).map_or(Known::Nothing, |value| Known::Whole(value.into())),
            _ => Known::Nothing,
        });
        let kind = kind_prefix(&begin);
        (kind != kind_prefix(channel.literal_prefix())).then(|| {
            format!("with the path's values the channel would be a `{kind}` channel, which this endpoint is not for")
        })
    }
}

/// Whether a segment, as it came, is `literal`, which some clients percent-encode needlessly (RFC 3986 §6.2.2.2). A
/// literal has no `/` and no `%`, so nothing leaves its segment.
fn is_literal(part: &str, literal: &str) -> bool {
    part == literal || (part.contains('%') && percent_decode_str(part).eq(literal.bytes()))
}

/// A path value, percent-decoded; unless it is `free`, it must be legal within a channel name.
fn decode_value(part: &str, free: bool) -> Result<String, String> {
    let value: Cow<'_, str> = percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| "it is not UTF-8 once percent-decoded".to_owned())?;
    check_value(&value, free)?;
    Ok(value.into_owned())
}

fn check_value(value: &str, free: bool) -> Result<(), String> {
    if !free {
        check_channel(value).map_err(|error| error.replace("the channel's name", "the value"))?;
    } else if value.is_empty() {
        return Err("it is empty".to_owned());
    } else if value.len() > VALUE_BYTES_MAX {
        return Err(format!("it has {} bytes of at most {VALUE_BYTES_MAX}", value.len()));
    } else if value.chars().any(char::is_control) {
        return Err("it has a control character".to_owned());
    }
    Ok(())
}

/// The values a path gave to its template's placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathValues(Box<[(String, String)]>);

impl PathValues {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What the router says of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    /// The template at this index, with these values.
    Route(usize, PathValues),
    /// The template at this index, but a value is not acceptable, for this reason.
    BadValue(usize, BadValue),
    Nothing,
}

/// Finds the template for a path. Templates never overlap (the configuration would not load), so the
/// order does not matter.
#[derive(Clone, Debug, Default)]
pub struct Router(Vec<PathTemplate>);

impl Router {
    /// A router over `templates`; a match names the index in this list.
    #[must_use]
    pub fn new(templates: Vec<PathTemplate>) -> Self {
        Self(templates)
    }

    /// Matches a request's path, as it came.
    #[must_use]
    pub fn find(&self, path: &str) -> Matched {
        let mut bad = Matched::Nothing;
        for (index, template) in self.0.iter().enumerate() {
            match template.match_path(path) {
                Some(Ok(values)) => return Matched::Route(index, values),
                // What one may not have, another may: `/{id:[0-9]+}` and `/{name:[a-z]+}`.
                Some(Err(reason)) if bad == Matched::Nothing => bad = Matched::BadValue(index, reason),
                _ => {}
            }
        }
        bad
    }
}

#[cfg(test)]
mod tests;
