//! What errors may quote of a file's values: what came from the environment is shown as the variable's name.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::interpolate::Taken;
use super::mask;

/// Shorter values are hidden only where nothing else is quoted: they cannot be secrets.
const SECRET_CHARS_LEAST: usize = 4;

/// Values that must not be quoted verbatim.
#[derive(Default)]
pub(super) struct Quotes {
    taken: Vec<Taken>,
    /// Values with something to hide, and how each is shown.
    values: Vec<(String, String)>,
}

impl Quotes {
    /// Of a tree whose variables are filled in.
    pub(super) fn of(root: &DeTable<'_>, taken: Vec<Taken>) -> Self {
        let mut quotes = Self { taken, values: Vec::new() };
        root.iter().for_each(|(_, value)| quotes.look(value));
        // The longest first: what is within another must not cut it.
        quotes.taken.sort_by_key(|taken| std::cmp::Reverse(taken.value.len()));
        quotes.values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        quotes
    }

    fn look(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(inner) => inner.iter().for_each(|(_, value)| self.look(value)),
            DeValue::Array(list) => list.iter().for_each(|item| self.look(item)),
            DeValue::String(text) => {
                let shown = mask::value(text);
                if shown != **text {
                    self.values.push((text.to_string(), shown));
                }
            }
            _ => {}
        }
    }

    /// A sentence about the value at `span`, or a part of it.
    pub(super) fn shown(&self, span: &Range<usize>, sentence: &str) -> String {
        let mut out = sentence.to_owned();
        for taken in &self.taken {
            let name = format!("${{{}}}", taken.name);
            let own = taken.span.start < span.end && span.start < taken.span.end;
            if own {
                out = out.replace(&format!("`{}`", taken.value), &format!("`{name}`"));
                out = parts(&out, &taken.value, &name);
            }
            if taken.value.chars().count() >= SECRET_CHARS_LEAST {
                out = out.replace(&taken.value, &name);
            }
        }
        for (value, shown) in &self.values {
            out = out.replace(value, shown);
        }
        mask::sentence(&out)
    }
}

/// `sentence` with `name` for each quote that is a part of `value`.
fn parts(sentence: &str, value: &str, name: &str) -> String {
    let shown = |(index, part)| {
        let part: &str = part;
        let hidden = index % 2 == 1 && part.chars().count() >= SECRET_CHARS_LEAST && value.contains(part);
        if hidden { name } else { part }
    };
    sentence.split('`').enumerate().map(shown).collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_a_variable_is_shown_as_its_name() {
        let taken = |span: Range<usize>, value: &str| Taken { span, name: "S".into(), value: value.into() };
        let quotes = Quotes::of(&DeTable::new(), vec![taken(4..9, "s3cret{x1234}"), taken(4..9, "1")]);
        for (sentence, shown) in [
            ("`s3cret{x1234}` is not a valid address", "`${S}` is not a valid address"),
            ("there is no `{x1234}`", "there is no `${S}`"),
            ("`a-s3cret{x1234}` is none", "`a-${S}` is none"),
            ("`1` is not a valid duration, one of 1", "`${S}` is not a valid duration, one of 1"),
            ("nothing is quoted", "nothing is quoted"),
        ] {
            assert_eq!(quotes.shown(&(4..9), sentence), shown);
        }
        assert_eq!(quotes.shown(&(20..21), "as `s3cret{x1234}` on line 1"), "as `${S}` on line 1");
        assert_eq!(quotes.shown(&(20..21), "`1` is not a valid duration"), "`1` is not a valid duration");
    }

    #[test]
    fn a_value_is_masked_outside_of_quotes_too() {
        let tree = DeTable::parse("a = \"u:s3`c ret@h\"").unwrap();
        let quotes = Quotes::of(tree.get_ref(), Vec::new());
        assert_eq!(quotes.shown(&(0..1), "host u:s3`c ret@h is none"), "host ***@h is none");
    }
}
