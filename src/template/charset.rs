//! Which characters a placeholder's value may have.

use std::fmt;

/// A set of characters. Of those beyond ASCII it has all or none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CharSet {
    ascii: u128,
    beyond: bool,
}

impl CharSet {
    pub const ANY: Self = Self { ascii: u128::MAX, beyond: true };

    /// The ASCII characters that `has` is true of.
    pub fn of(has: impl Fn(u8) -> bool) -> Self {
        let ascii = (0..128_u8).filter(|b| has(*b)).fold(0, |set, b| set | 1_u128 << b);
        Self { ascii, beyond: false }
    }

    /// Reads a class as the file has it: `[a-z0-9_-]+`, single characters and ranges of printable ASCII, where a
    /// `-` that is first or last is itself.
    ///
    /// # Errors
    /// Anything else that a regular expression may have: an alternation, an escape, a negation, a count.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "`{text}` is not a set of characters: one class and a `+`, as in `[a-z0-9]+` or `[A-Za-z0-9_.-]+`"
            )
        };
        let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix("]+")).ok_or_else(form)?;
        if let Some(c) = inside.chars().find(|c| !c.is_ascii_graphic() || "[]{}\\/^".contains(*c)) {
            return Err(match c {
                '^' => "a set says what is allowed; `^`, what is not, is not understood".to_owned(),
                '/' => "a value is one segment of the path, which never has a `/`".to_owned(),
                c => format!("{c:?} cannot be one of a set's characters"),
            });
        }
        if inside.is_empty() {
            return Err(form());
        }
        let mut ascii = 0;
        let mut rest = inside.as_bytes();
        while let Some((&from, behind)) = rest.split_first() {
            let (to, behind) = match behind {
                [b'-', to, more @ ..] => (*to, more),
                _ => (from, behind),
            };
            if to < from {
                return Err(format!("the range `{}-{}` is empty", char::from(from), char::from(to)));
            }
            ascii = (from..=to).fold(ascii, |set, b| set | 1_u128 << b);
            rest = behind;
        }
        Ok(Self { ascii, beyond: false })
    }

    /// Whether `c` is in it.
    #[must_use]
    pub fn has(self, c: char) -> bool {
        u8::try_from(c).ok().filter(u8::is_ascii).map_or(self.beyond, |b| self.ascii >> b & 1 == 1)
    }

    /// Whether `value` has at least one character and no other than these.
    #[must_use]
    pub fn fits(self, value: &str) -> bool {
        !value.is_empty() && value.chars().all(|c| self.has(c))
    }

    /// What both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { ascii: self.ascii & other.ascii, beyond: self.beyond && other.beyond }
    }

    /// What either has.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { ascii: self.ascii | other.ascii, beyond: self.beyond || other.beyond }
    }

    /// Without `c`. Characters beyond ASCII are left as they are.
    #[must_use]
    pub fn without(self, c: char) -> Self {
        let bit = u8::try_from(c).ok().filter(u8::is_ascii).map_or(0, |b| 1_u128 << b);
        Self { ascii: self.ascii & !bit, beyond: self.beyond }
    }

    /// One of its characters, a letter or digit if it has any; `None`: it is empty.
    #[must_use]
    pub fn example(self) -> Option<char> {
        let ascii = || (0..128_u8).filter(|b| self.has(char::from(*b)));
        let nice =
            ascii().filter(u8::is_ascii_lowercase).chain(ascii().filter(u8::is_ascii_alphanumeric)).next();
        nice.or_else(|| ascii().next()).map(char::from).or(self.beyond.then_some('é'))
    }

    /// Whether `other` has every character of this.
    #[must_use]
    pub fn within(self, other: Self) -> bool {
        self.and(other) == self
    }
}

/// As [`CharSet::parse`] reads it, a `-` last.
impl fmt::Display for CharSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        let mut from = b'!';
        while from <= b'~' {
            let run = (from..=b'~').take_while(|b| *b != b'-' && self.has(char::from(*b))).count();
            match run {
                0 => {}
                1 | 2 => (from..).take(run).try_for_each(|b| write!(f, "{}", char::from(b)))?,
                _ => write!(
                    f,
                    "{}-{}",
                    char::from(from),
                    char::from(from + u8::try_from(run - 1).unwrap_or(0))
                )?,
            }
            from += u8::try_from(run).unwrap_or(0) + 1;
        }
        f.write_str(if self.has('-') { "-]+" } else { "]+" })
    }
}

impl fmt::Debug for CharSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CharSet({self}{})", if self.beyond { " and beyond ASCII" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_characters_and_ranges() {
        for (text, fits, not) in [
            ("[a-z0-9]+", "acme1", "acme-1"),
            ("[a-z-]+", "a-b", "A"),
            ("[-a]+", "-a", "b"),
            ("[a-c-]+", "-c", "d"),
            ("[A-F0-9:]+", "AA:BB", "aa"),
            ("[x]+", "xx", "xy"),
            ("[+.*]+", "+.*", "a"),
        ] {
            let set = CharSet::parse(text).unwrap();
            assert!(set.fits(fits) && !set.fits(not) && !set.fits("") && !set.fits("é"), "{text}");
            assert_eq!(CharSet::parse(&set.to_string()), Ok(set), "{text}: {set}");
        }
        for bad in [
            "", "[]+", "[a-z]", "[a-z]*", "a+", "[a-z]+x", "[^-]+", "[z-a]+", "[a/]+", "\\d+", "[\\d]+",
            "[é]+", "[a]+[b]+", "[ ]+", "[a-z]{3}",
        ] {
            assert!(CharSet::parse(bad).is_err(), "{bad}");
        }
    }
}
