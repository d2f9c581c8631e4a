//! Templates: text with `{placeholder}`s. Two kinds share one scanner: [`Text`] fills channel names, filter
//! values and URLs with plain text; [`Frame`] fills a JSON frame with JSON values.

mod charset;
mod frame;
mod pattern;
mod text;
mod url;

pub use charset::CharSet;
pub(crate) use frame::FramePart;
pub use frame::{Fill, Frame, Slot, escape_into};
pub use pattern::{Pattern, Values};
use text::TextPart;
pub use text::{Allow, Text, Var};
pub use url::in_url;

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
        fn no_template_panics(text in ".*") {
            let _ = Text::parse(&text, &[], Allow::default());
            let _ = Frame::parse(&text, &[Slot::Event]);
        }
    }
}
