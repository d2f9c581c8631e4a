//! What a value may be: texts, begun texts, and neither of those that are excluded.

use std::fmt;

use super::CharSet;

/// A text, or a text with one or more characters behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    text: String,
    more: Option<CharSet>,
}

impl Choice {
    /// This text and no other.
    pub fn exact(text: impl Into<String>) -> Self {
        Self { text: text.into(), more: None }
    }

    /// As a list in the file has it: `log-*` is `log-` and one or more characters of `set` behind it.
    ///
    /// # Errors
    /// The offset of a `*` that is not at the end.
    pub fn parse(source: &str, set: CharSet) -> Result<Self, usize> {
        let open = source.strip_suffix('*');
        let text = open.unwrap_or(source);
        match text.find('*') {
            Some(at) => Err(at),
            None => Ok(Self { text: text.to_owned(), more: open.map(|_| set) }),
        }
    }

    /// What all its texts begin with.
    #[must_use]
    pub fn begin(&self) -> &str {
        &self.text
    }

    /// The characters that may follow, one or more; `None`: none may.
    #[must_use]
    pub const fn more(&self) -> Option<CharSet> {
        self.more
    }

    #[must_use]
    pub fn fits(&self, value: &str) -> bool {
        match self.more {
            None => value == self.text,
            Some(set) => value.strip_prefix(self.text.as_str()).is_some_and(|rest| set.fits(rest)),
        }
    }

    /// Whether each text of `other` is one of this.
    fn covers(&self, other: &Self) -> bool {
        match (self.more, other.more) {
            (_, None) => self.fits(&other.text),
            (None, Some(_)) => false,
            (Some(set), Some(others)) => {
                let rest = other.text.strip_prefix(self.text.as_str());
                rest.is_some_and(|rest| others.within(set) && (rest.is_empty() || set.fits(rest)))
            }
        }
    }
}

/// As [`Choice::parse`] reads it.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.more.is_some() { "*" } else { "" })
    }
}

/// All that a placeholder's value can be. An empty text is never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    choices: Vec<Choice>,
    not: Vec<Choice>,
}

impl Values {
    /// One or more of these characters.
    #[must_use]
    pub fn of(set: CharSet) -> Self {
        Self { choices: vec![Choice { text: String::new(), more: Some(set) }], not: Vec::new() }
    }

    /// One of these texts.
    pub fn listed<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self { choices: texts.into_iter().map(Choice::exact).collect(), not: Vec::new() }
    }

    /// One of these, whose characters are of `set` as well.
    #[must_use]
    pub fn choices(choices: &[Choice], set: CharSet) -> Self {
        let choices = choices.iter().cloned();
        let choices = choices.map(|c| Choice { more: c.more.map(|more| more.and(set)), ..c }).collect();
        Self { choices, not: Vec::new() }
    }

    /// The same without these.
    #[must_use]
    pub fn except(mut self, not: &[Choice]) -> Self {
        self.not.extend_from_slice(not);
        self
    }

    /// The same, each text changed and each set of characters. What was excluded may come out as another text.
    #[must_use]
    pub(super) fn map(self, text: impl Fn(&str) -> String, set: impl Fn(CharSet) -> CharSet) -> Self {
        let allowed =
            |choice: &&Choice| choice.more.is_some() || !self.not.iter().any(|not| not.covers(choice));
        let choices = self.choices.iter().filter(allowed);
        let choices = choices.map(|choice| Choice { text: text(&choice.text), more: choice.more.map(&set) });
        Self { choices: choices.collect(), not: Vec::new() }
    }

    /// What is left of its choices, none of which another covers: each with what is excluded of it. Of that the texts
    /// with characters beyond ASCII are left out.
    pub(super) fn distinct(&self) -> impl Iterator<Item = (&Choice, Vec<Excluded>)> {
        let first = |at: usize, choice: &Choice| {
            let covered = |(other_at, other): (usize, &Choice)| {
                other_at != at && other.covers(choice) && !(choice.covers(other) && at < other_at)
            };
            !self.choices.iter().enumerate().any(covered)
        };
        let choices = self.choices.iter().enumerate().filter(move |(at, choice)| first(*at, choice));
        choices.map(|(_, choice)| choice).filter(|choice| !self.not.iter().any(|not| not.covers(choice))).map(
            |choice| {
                let within = self.not.iter().filter(|not| not.text.is_ascii());
                let within = within.filter_map(|not| {
                    let rest = not.text.strip_prefix(choice.text.as_str())?.chars().collect();
                    Some(Excluded { rest, longer: not.more.is_some() })
                });
                (choice, within.collect())
            },
        )
    }
}

/// What must not stand behind a choice's text.
#[derive(Clone, Debug)]
pub(super) struct Excluded {
    pub(super) rest: Vec<char>,
    /// Nothing that begins with it and goes on, rather than it alone.
    pub(super) longer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(source: &str) -> Choice {
        Choice::parse(source, CharSet::parse("[a-z-]+").unwrap()).unwrap()
    }

    #[test]
    fn a_star_at_the_end_is_one_character_or_more() {
        for (source, fits, not) in [
            ("files", &["files"][..], &["", "file", "files-", "files*", "*"][..]),
            ("log-*", &["log-a", "log--", "log-abc"], &["log-", "log", "xlog-a", "log-A", "log-*", "log-1"]),
            ("*", &["a", "abc"], &["", "A", "*"]),
            ("", &[""], &["a"]),
        ] {
            let choice = choice(source);
            assert!(fits.iter().all(|value| choice.fits(value)), "{source}");
            assert!(not.iter().all(|value| !choice.fits(value)), "{source}");
            assert_eq!(choice.to_string(), source);
        }
        let any = CharSet::ANY;
        assert_eq!((Choice::parse("a*b", any), Choice::parse("**", any)), (Err(1), Err(0)));
    }

    #[test]
    fn what_one_covers_counts_once() {
        for (choices, left) in [
            (&["a", "b", "a"][..], "a,b"),
            (&["log-*", "log-a", "log-a-*", "log-", "log-*"], "log-*,log-"),
            (&["a*", "*", "A"], "*,A"),
        ] {
            let choices: Vec<Choice> = choices.iter().map(|c| choice(c)).collect();
            let values = Values::choices(&choices, CharSet::ANY);
            let kept: Vec<String> = values.distinct().map(|(choice, _)| choice.to_string()).collect();
            assert_eq!(kept.join(","), left, "{choices:?}");
        }
        let values = Values::choices(&[choice("a"), choice("log-*")], CharSet::ANY);
        let excluded = values.except(&[choice("a"), choice("l*"), choice("x")]);
        assert_eq!(excluded.distinct().count(), 0);
    }
}
