//! What is wrong with a file, and where: shown as rustc shows it, with the line and a caret.

use std::fmt;
use std::ops::Range;

use super::mask;

use crate::text::printable;

/// A file's name and its text. Relative paths in it start at its folder.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name as the user gave it.
    pub name: String,
    /// The text.
    pub text: String,
}

/// One error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file's name.
    pub file: String,
    /// What is wrong, a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The text of that line, secrets masked.
    pub text: String,
    /// How many characters are wrong; at least 1.
    pub width: usize,
}

impl Diagnostic {
    /// An error at the byte range `span` of `source`.
    #[must_use]
    pub fn new(source: &Source, span: Range<usize>, message: String, help: Option<String>) -> Self {
        Self::shown_in(source, &mask::file(&source.text), span, message, help)
    }

    /// The same, where the file's text is masked already.
    pub(super) fn shown_in(
        source: &Source,
        masked: &str,
        span: Range<usize>,
        message: String,
        help: Option<String>,
    ) -> Self {
        let place = Place::of(&source.text, span.start);
        let marked = source.text.get(place.start..span.end).unwrap_or("");
        let marked = marked.lines().next().unwrap_or("").trim_end().chars().count();
        Self {
            file: source.name.clone(),
            message: mask::sentence(&message),
            help,
            line: place.line,
            column: place.column,
            text: masked.lines().nth(place.line - 1).unwrap_or("").to_owned(),
            width: marked.max(1),
        }
    }
}

/// Where a byte offset is.
pub(super) struct Place {
    /// The offset, moved back to a character's start.
    start: usize,
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    column: usize,
}

impl Place {
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let mut start = offset.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = text.get(..start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            start,
            line: before.matches('\n').count() + 1,
            column: text.get(line_start..start).unwrap_or("").chars().count() + 1,
        }
    }
}

/// A diagnostic shown as a warning.
#[derive(Clone, Copy, Debug)]
pub struct Warning<'d>(pub &'d Diagnostic);

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, "warning")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "error")
    }
}

impl Diagnostic {
    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{kind}: {}", printable(&self.message))?;
        writeln!(f, "{gutter}--> {}:{}:{}", printable(&self.file), self.line, self.column)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", printable(&self.text))?;
        // Escapes are wider on the screen than in the file.
        let before: String = self.text.chars().take(self.column - 1).collect();
        let marked: String = self.text.chars().skip(self.column - 1).take(self.width).collect();
        let indent = " ".repeat(printable(&before).chars().count());
        let caret = "^".repeat(printable(&marked).chars().count().max(1));
        writeln!(f, "{gutter} | {indent}{caret}")?;
        match &self.help {
            Some(help) => writeln!(f, "{gutter} = help: {}", printable(help)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "routes.toml".into(), text: text.into() }
    }

    #[test]
    fn errors_are_shown_with_their_line_and_a_caret() {
        let source = source("[server]\nlitsen = \"x\"\n");
        let shown = Diagnostic::new(&source, 9..15, "unknown key `litsen`".into(), Some("listen?".into()));
        assert_eq!(
            shown.to_string(),
            "error: unknown key `litsen`\n --> routes.toml:2:1\n  |\n2 | litsen = \"x\"\n  | ^^^^^^\n  = help: \
             listen?\n"
        );
    }

    #[test]
    fn columns_are_characters_and_spans_may_be_anywhere() {
        let source = source("é = \"😀x\"");
        let at = |span: Range<usize>| {
            let d = Diagnostic::new(&source, span, String::new(), None);
            (d.line, d.column, d.width)
        };
        assert_eq!(at(5..10), (1, 5, 2));
        assert_eq!(at(7..9), (1, 6, 1), "inside of a character");
        assert_eq!(at(900..901), (1, 9, 1));
        let empty =
            Diagnostic::new(&Source { name: "x".into(), text: String::new() }, 0..0, "m".into(), None);
        assert_eq!((empty.line, empty.column), (1, 1));
        assert!(empty.to_string().contains("^"));
    }

    #[test]
    fn a_file_cannot_drive_the_terminal() {
        let source = source("a = '\u{1b}[31m\u{202e}'\tb");
        let shown = Diagnostic::new(&source, 4..13, "bad \u{7}".into(), None).to_string();
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        assert!(shown.contains("\\u{1b}[31m\\u{202e}"));
        let caret_line = shown.lines().last().unwrap();
        assert!(caret_line.ends_with(&"^".repeat(19)), "{shown}");
    }
}
