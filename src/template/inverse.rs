//! Which values of its placeholders make a template a given text.

use super::{Text, TextPart, Var};

/// Values that are tried for one template and one text, at most. Templates whose values could be told in more than one
/// way are refused in the file, so hardly any need more than a few.
pub const TRIES_MAX: u32 = 4096;

/// A placeholder and its value.
pub type Bound<'a> = (&'a Var, &'a str);

impl Text {
    /// Shows `visit` every choice of values that makes this template `filled`, until it says `true`; gives whether it
    /// did. `fits` says what a placeholder can be; what `known` has a value for is that and nothing else, and is not
    /// shown. A placeholder that stands here twice has one value.
    ///
    /// Beyond [`TRIES_MAX`] nothing more is tried: then a choice may be missing, and there is never one too many.
    pub fn invert_all<'a>(
        &'a self,
        filled: &'a str,
        known: &dyn Fn(&Var) -> Option<&'a str>,
        fits: &dyn Fn(&Var, &str) -> bool,
        visit: &mut dyn FnMut(&[Bound<'a>]) -> bool,
    ) -> bool {
        Search { known, fits, visit, bound: Vec::new(), tries: 0 }.from(&self.parts, filled)
    }
}

struct Search<'s, 'a> {
    known: &'s dyn Fn(&Var) -> Option<&'a str>,
    fits: &'s dyn Fn(&Var, &str) -> bool,
    visit: &'s mut dyn FnMut(&[Bound<'a>]) -> bool,
    bound: Vec<Bound<'a>>,
    tries: u32,
}

impl<'a> Search<'_, 'a> {
    fn from(&mut self, parts: &'a [TextPart], rest: &'a str) -> bool {
        let Some((part, behind)) = parts.split_first() else {
            return rest.is_empty() && (self.visit)(&self.bound);
        };
        let var = match part {
            TextPart::Literal(literal) => {
                return rest.strip_prefix(literal.as_str()).is_some_and(|rest| self.from(behind, rest));
            }
            TextPart::Var(var) => var,
        };
        let earlier = self.bound.iter().find(|(bound, _)| *bound == var).map(|(_, value)| *value);
        if let Some(value) = earlier.or_else(|| (self.known)(var)) {
            return rest.strip_prefix(value).is_some_and(|rest| self.from(behind, rest));
        }
        match behind.first() {
            None => self.with(var, rest, behind, ""),
            // Its value ends where the literal behind it begins, if not at the first such place, then at another.
            Some(TextPart::Literal(literal)) => {
                let ends: Vec<usize> = overlapping(rest, literal).collect();
                ends.into_iter().any(|end| self.cut(var, rest, end, behind))
            }
            Some(TextPart::Var(_)) => {
                let ends: Vec<usize> = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).collect();
                ends.into_iter().any(|end| self.cut(var, rest, end, behind))
            }
        }
    }

    fn cut(&mut self, var: &'a Var, rest: &'a str, end: usize, behind: &'a [TextPart]) -> bool {
        rest.split_at_checked(end).is_some_and(|(value, rest)| self.with(var, value, behind, rest))
    }

    fn with(&mut self, var: &'a Var, value: &'a str, behind: &'a [TextPart], rest: &'a str) -> bool {
        self.tries += 1;
        // No value is empty.
        if self.tries > TRIES_MAX || value.is_empty() || !(self.fits)(var, value) {
            return false;
        }
        self.bound.push((var, value));
        let found = self.from(behind, rest);
        self.bound.pop();
        found
    }
}

/// Where `pattern` is in `text`, also where it overlaps itself.
fn overlapping<'t>(text: &'t str, pattern: &'t str) -> impl Iterator<Item = usize> + 't {
    text.char_indices().map(|(at, _)| at).filter(move |at| text.get(*at..).unwrap_or("").starts_with(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{Allow, CharSet};
    use proptest::prelude::*;

    fn text(source: &str) -> Text {
        let names = ["x", "y", "z"].map(str::to_owned);
        Text::parse(source, &names, Allow { user: true, ..Allow::default() }).unwrap()
    }

    /// `x=1 y=2` of each choice, where values are of `class`.
    fn choices(source: &str, filled: &str, class: &str) -> Vec<String> {
        let (text, class) = (text(source), CharSet::parse(class).unwrap());
        let mut found = Vec::new();
        text.invert_all(
            filled,
            &|var| (*var == Var::User).then_some("ann"),
            &|_, value| class.fits(value),
            &mut |bound| {
                let shown = bound.iter().map(|(var, value)| match var {
                    Var::Path(name) => format!("{name}={value}"),
                    _ => unreachable!("the user is known"),
                });
                found.push(shown.collect::<Vec<_>>().join(" "));
                false
            },
        );
        found
    }

    #[test]
    fn every_choice_of_values_is_found() {
        for (source, filled, expected) in [
            ("a", "a", &[""][..]),
            ("a", "b", &[]),
            ("a-{x}", "a-1", &["x=1"]),
            ("a-{x}", "a-", &[]),
            ("a-{x}", "a", &[]),
            ("{x}-z", "1-z", &["x=1"]),
            ("{x}-z", "-z-z", &["x=-z"]),
            ("a-{x}-{y}", "a-1-2", &["x=1 y=2"]),
            ("a-{x}-{y}", "a-1-2-3", &["x=1 y=2-3", "x=1-2 y=3"]),
            ("{x}--{y}", "a---b", &["x=a y=-b", "x=a- y=b"]),
            ("{x}{y}", "abc", &["x=a y=bc", "x=ab y=c"]),
            ("{x}-{x}", "1-1", &["x=1"]),
            ("{x}-{x}", "1-2", &[]),
            ("{x}-{x}", "a-b-a-b", &["x=a-b"]),
            ("u-{auth.user}", "u-ann", &[""]),
            ("u-{auth.user}", "u-bob", &[]),
            ("{auth.user}-{x}", "ann-1", &["x=1"]),
            ("{x}-{auth.user}", "ann-ann", &["x=ann"]),
            ("a-{x}", "a-é", &[]),
        ] {
            assert_eq!(choices(source, filled, "[a-z0-9-]+"), expected, "{source} {filled}");
        }
    }

    #[test]
    fn the_search_has_an_end() {
        let source = "{x}-{y}-{z}-b";
        let filled = "-".repeat(160);
        let (text, tried) = (text(source), std::cell::Cell::new(0_u32));
        let fits = |_: &Var, _: &str| {
            tried.set(tried.get() + 1);
            true
        };
        assert!(!text.invert_all(&filled, &|_| None, &fits, &mut |_| true));
        assert!(tried.get() <= TRIES_MAX && tried.get() > TRIES_MAX / 2, "{}", tried.get());
    }

    proptest! {
        #[test]
        fn what_was_filled_in_is_among_the_choices_and_each_choice_fills_it(
            source in "[ab-]{0,2}(\\{x\\})?[a-]{0,2}(\\{y\\})?[b-]{0,2}(\\{x\\})?",
            x in "[ab-]{1,4}",
            y in "[ab-]{1,4}",
        ) {
            let text = text(&source);
            let value = |var: &Var| match var {
                Var::Path(name) if name == "x" => x.as_str(),
                _ => y.as_str(),
            };
            let filled = text.fill(|var| Some(value(var).into())).unwrap();
            let mut found = false;
            text.invert_all(&filled, &|_| None, &|_, _| true, &mut |bound| {
                let of = |var: &Var| bound.iter().find(|(bound, _)| *bound == var).unwrap().1;
                assert_eq!(text.fill(|var| Some(of(var).into())).as_deref(), Some(filled.as_str()));
                found |= text.vars().all(|var| of(var) == value(var));
                false
            });
            prop_assert!(found, "{source} {x} {y}");
        }
    }
}
