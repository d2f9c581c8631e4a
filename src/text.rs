//! Text from outside, made fit to be shown.

/// As much of a text from outside as a log gets.
const LOGGED_CHARS_MAX: usize = 200;

/// Text from outside, short and without control characters, as a log may have it.
#[must_use]
pub fn loggable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LOGGED_CHARS_MAX).collect()
}

/// `text` without anything that a terminal would obey: control characters and bidirectional overrides are
/// shown as escapes, a tab as a space.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let obeyed = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\t' => out.push(' '),
            c if obeyed => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}
