//! Templates: text with `{placeholder}`s. Two kinds share one scanner: [`Text`] fills channel names, filter
//! values and URLs with plain text; [`Frame`] fills a JSON frame with JSON values.

mod charset;
mod choice;
mod claims;
mod frame;
mod inverse;
mod pattern;
mod text;
mod url;

pub use charset::CharSet;
pub use choice::{Choice, Values};
pub use claims::ClaimsText;
pub(crate) use frame::FramePart;
pub use frame::{Fill, Frame, Slot, escape_into};
pub use inverse::{Bound, TRIES_MAX};
pub use pattern::Pattern;
use text::TextPart;
pub use text::{Allow, Known, Text, Var};
pub use url::in_url;

/// What is wrong with a template, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Byte offset in the template.
    pub at: usize,
    /// What is wrong, as a sentence without a full stop.
    pub message: String,
    /// The nearest name that would be right.
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

/// The candidate nearest to `name`, if near enough for `name` to be a typing mistake: insertions, deletions,
/// substitutions and swaps of neighbours of at most a third of its characters.
pub fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(d, candidate)| *d > 0 && *d <= candidate.len().max(name.len()).div_ceil(3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn typing_mistakes_are_recognised() {
        let known = ["channel", "path", "dialect"];
        assert_eq!(closest("chanel", known.into_iter()), Some("channel"));
        assert_eq!(closest("pahts", known.into_iter()), Some("path"));
        assert_eq!(closest("heartbeat", known.into_iter()), None);
        assert_eq!(closest("path", known.into_iter()), None);
    }

    proptest! {
        #[test]
        fn no_template_panics(text in ".*") {
            let _ = Text::parse(&text, &[], Allow::default());
            let _ = Frame::parse(&text, &[Slot::Event]);
        }
    }
}
