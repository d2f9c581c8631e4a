//! Which texts a template can come out as, and whether two can come out alike. A template is a sequence of literal
//! text, of values out of a set of characters, and of values out of a list: a finite automaton, so both questions
//! have exact answers.

use std::collections::{HashMap, VecDeque};

use super::{CharSet, Text, TextPart, Var};

/// What a placeholder's value can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// One or more of these characters.
    Of(CharSet),
    /// One of these texts. An empty text is never a value.
    Listed(Vec<String>),
}

/// All that a template can come out as.
///
/// A placeholder that is used twice counts as two: where its values differ, the pattern has texts that the
/// template has not. So [`Pattern::overlap`] and [`Pattern::ambiguity`] may see one too many, never one too few.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Per state its transitions; the first state begins, the last one ends.
    states: Vec<Vec<Edge>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    on: On,
    to: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    One(char),
    Any(CharSet),
}

impl On {
    /// A character that both take.
    fn and(self, other: Self) -> Option<char> {
        match (self, other) {
            (Self::One(a), Self::One(b)) => (a == b).then_some(a),
            (Self::One(c), Self::Any(set)) | (Self::Any(set), Self::One(c)) => set.has(c).then_some(c),
            (Self::Any(a), Self::Any(b)) => a.and(b).example(),
        }
    }
}

/// Nothing yet: the empty text.
impl Default for Pattern {
    fn default() -> Self {
        Self { states: vec![Vec::new()] }
    }
}

impl Pattern {
    /// The pattern of `text`, where `values` says what each placeholder can be.
    pub fn of(text: &Text, values: impl Fn(&Var) -> Values) -> Self {
        let mut pattern = Self::default();
        for part in &text.parts {
            match part {
                TextPart::Literal(literal) => pattern.push_literal(literal),
                TextPart::Var(var) => pattern.push(values(var)),
            }
        }
        pattern
    }

    /// Continues with this text.
    pub(crate) fn push_literal(&mut self, literal: &str) {
        if !literal.is_empty() {
            self.push_texts(std::iter::once(literal));
        }
    }

    /// Continues with a value.
    pub(crate) fn push(&mut self, values: Values) {
        match values {
            Values::Of(set) => self.push_set(set),
            Values::Listed(mut list) => {
                list.sort_unstable();
                list.dedup();
                self.push_texts(list.iter().map(String::as_str));
            }
        }
    }

    /// Continues with any text, or none.
    pub(crate) fn push_anything(&mut self) {
        let here = self.end();
        self.connect(here, On::Any(CharSet::ANY), here);
    }

    /// Continues with one of `texts`.
    fn push_texts<'a>(&mut self, texts: impl Iterator<Item = &'a str>) {
        let begin = self.end();
        let mut last = Vec::new();
        for text in texts {
            let mut at = begin;
            let mut characters = text.chars().peekable();
            while let Some(c) = characters.next() {
                if characters.peek().is_none() {
                    last.push((at, On::One(c)));
                    break;
                }
                let to = self.push_state();
                self.connect(at, On::One(c), to);
                at = to;
            }
        }
        let end = self.push_state();
        for (from, on) in last {
            self.connect(from, on, end);
        }
    }

    /// Continues with one or more of `set`.
    fn push_set(&mut self, set: CharSet) {
        let begin = self.end();
        let end = self.push_state();
        self.connect(begin, On::Any(set), end);
        self.connect(end, On::Any(set), end);
    }

    fn end(&self) -> usize {
        self.states.len().saturating_sub(1)
    }

    fn push_state(&mut self) -> usize {
        self.states.push(Vec::new());
        self.end()
    }

    fn connect(&mut self, from: usize, on: On, to: usize) {
        if let Some(state) = self.states.get_mut(from) {
            state.push(Edge { on, to });
        }
    }

    /// A text that both can come out as.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<String> {
        search(self, other, true)
    }

    /// A text that two different sets of values come out as.
    #[must_use]
    pub fn ambiguity(&self) -> Option<String> {
        search(self, self, false)
    }
}

/// Where a walk through two patterns at once is: in the one, in the other, and whether it counts already.
type Pair = (usize, usize, bool);

/// The shortest text that both take, if `differing` is false by two different ways.
fn search(a: &Pattern, b: &Pattern, differing: bool) -> Option<String> {
    let start = (0, 0, differing);
    let mut came_from: HashMap<Pair, Option<(Pair, char)>> = HashMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(pair @ (at_a, at_b, differs)) = queue.pop_front() {
        if at_a == a.end() && at_b == b.end() && differs {
            return Some(way_to(pair, &came_from));
        }
        for (index_a, edge_a) in a.states.get(at_a).into_iter().flatten().enumerate() {
            for (index_b, edge_b) in b.states.get(at_b).into_iter().flatten().enumerate() {
                let Some(c) = edge_a.on.and(edge_b.on) else { continue };
                let next = (edge_a.to, edge_b.to, differs || at_a != at_b || index_a != index_b);
                came_from.entry(next).or_insert_with(|| {
                    queue.push_back(next);
                    Some((pair, c))
                });
            }
        }
    }
    None
}

fn way_to(mut at: Pair, came_from: &HashMap<Pair, Option<(Pair, char)>>) -> String {
    let mut text = Vec::new();
    while let Some(Some((before, c))) = came_from.get(&at) {
        text.push(*c);
        at = *before;
    }
    text.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Allow;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn values(class: &str) -> Values {
        match class.strip_prefix('=') {
            Some(list) => Values::Listed(list.split('|').map(str::to_owned).collect()),
            None => Values::Of(CharSet::parse(class).unwrap()),
        }
    }

    /// A pattern from `a-{x}` and what `x`, `y` and `z` can be.
    fn pattern(source: &str, classes: [&str; 3]) -> Pattern {
        let names = ["x", "y", "z"].map(str::to_owned);
        let text = Text::parse(source, &names, Allow::default()).unwrap();
        Pattern::of(&text, |var| match var {
            Var::Path(name) => values(classes[names.iter().position(|n| n == name).unwrap()]),
            _ => unreachable!(),
        })
    }

    const WIDE: &str = "[a-z0-9-]+";
    const NARROW: &str = "[a-z0-9]+";

    #[test]
    fn two_values_need_text_that_tells_them_apart() {
        for (source, x, y, ambiguous) in [
            ("c-{x}-{y}", WIDE, WIDE, true),
            ("c-{x}{y}", NARROW, NARROW, true),
            ("c-{x}-{y}", NARROW, NARROW, false),
            // The first `-` ends x, whatever y has; and so with the last one.
            ("c-{x}-{y}", NARROW, WIDE, false),
            ("c-{x}-{y}", WIDE, NARROW, false),
            ("c-{x}.{y}", WIDE, WIDE, false),
            ("c-{x}--{y}", WIDE, WIDE, true),
            ("c-{x}-a-{y}", WIDE, WIDE, true),
            ("c-{x}{y}", "[0-9]+", "[a-z]+", false),
            ("c-{x}-{y}", "=a|a-b", "=c|b-c", true),
            ("c-{x}-{y}", "=a|b", WIDE, false),
            ("c-{x}{y}", "=a|ab", "=bc|c", true),
            ("c-{x}", "=a|b|a", "", false),
            ("c", "", "", false),
        ] {
            let found = pattern(source, [x, y, ""]).ambiguity();
            assert_eq!(found.is_some(), ambiguous, "{source} {x} {y}: {found:?}");
        }
        assert_eq!(pattern("{x}-{y}", [WIDE, WIDE, ""]).ambiguity().as_deref(), Some("a--a"));
    }

    #[test]
    fn templates_overlap_where_one_text_is_both() {
        for (one, other, overlap) in [
            ("doc-{x}", "doc-{x}-{y}", true),
            ("doc-{x}", "doc-public", true),
            ("doc-{z}", "doc-a-b", false),
            ("doc-{x}", "docs-{x}", false),
            ("doc-{x}", "{x}-public", true),
            ("a-{z}.b", "a-{x}", false),
            ("a", "a", true),
            ("a", "b", false),
        ] {
            let of = |source| pattern(source, [WIDE, WIDE, NARROW]);
            assert_eq!(of(one).overlap(&of(other)).is_some(), overlap, "{one} {other}");
            assert_eq!(of(other).overlap(&of(one)).is_some(), overlap, "{other} {one}");
        }
    }

    // -------------------------------------------------------------------- against trying every value

    /// Values of up to three characters.
    fn all_values(class: &str) -> Vec<String> {
        match values(class) {
            Values::Listed(list) => list.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
            Values::Of(set) => {
                let characters: Vec<char> = "ab-".chars().filter(|c| set.has(*c)).collect();
                let mut all = vec![String::new()];
                let mut from = 0;
                for _ in 0..3 {
                    let end = all.len();
                    for index in from..end {
                        for c in &characters {
                            let longer = format!("{}{c}", all[index]);
                            all.push(longer);
                        }
                    }
                    from = end;
                }
                all.split_off(1)
            }
        }
    }

    /// Every text that the template produces with short values, and from how many sets of them.
    fn all_texts(source: &str, classes: [&str; 3]) -> BTreeMap<String, usize> {
        let mut texts = vec![source.to_owned()];
        for (name, class) in ["{x}", "{y}", "{z}"].into_iter().zip(classes) {
            if source.contains(name) {
                let filled =
                    texts.iter().flat_map(|t| all_values(class).into_iter().map(|v| t.replace(name, &v)));
                texts = filled.collect();
            }
        }
        let mut counts = BTreeMap::new();
        texts.into_iter().for_each(|text| *counts.entry(text).or_default() += 1);
        counts
    }

    /// From how many sets of values the template produces `text`.
    fn readings(source: &str, classes: [&str; 2], text: &str) -> usize {
        let Some((literal, rest)) = source.split_once('{') else { return usize::from(source == text) };
        let Some(text) = text.strip_prefix(literal) else { return 0 };
        let (name, behind) = rest.split_at(2);
        let class = classes[usize::from(name == "y}")];
        let fits = |value: &str| match values(class) {
            Values::Of(set) => set.fits(value),
            Values::Listed(list) => list.iter().any(|listed| listed == value),
        };
        let ends = (1..=text.len()).filter(|end| fits(&text[..*end]));
        ends.map(|end| readings(behind, classes, &text[end..])).sum()
    }

    /// Each placeholder once, in order, with literals between.
    fn template() -> impl Strategy<Value = String> {
        let literal = || prop::sample::select(vec!["", "-", "a", "b-", "--", "a-b"]);
        (literal(), literal(), literal(), 0..3_usize)
            .prop_map(|(a, b, c, vars)| match vars {
                0 => format!("{a}{b}{c}"),
                1 => format!("{a}{{x}}{b}"),
                _ => format!("{a}{{x}}{b}{{y}}{c}"),
            })
            .prop_filter("a template is not empty", |source| !source.is_empty())
    }

    fn class() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "[a]+", "[ab]+", "[a-]+", "[ab-]+", "[b]+", "=a|b", "=a|a-b", "=-", "=ab|b|ba",
        ])
    }

    proptest! {
        #[test]
        fn ambiguity_is_what_trying_finds(source in template(), x in class(), y in class()) {
            let found = pattern(&source, [x, y, ""]).ambiguity();
            let tried = all_texts(&source, [x, y, ""]);
            let twice = tried.iter().find(|(_, count)| **count > 1).map(|(text, _)| text);
            match &found {
                None => prop_assert!(twice.is_none(), "{source} {x} {y}: {twice:?}"),
                Some(text) => prop_assert!(readings(&source, [x, y], text) > 1, "{source} {x} {y}: {text}"),
            }
        }

        #[test]
        fn overlap_is_what_trying_finds(
            (one, other) in (template(), template()),
            (x, y, u, v) in (class(), class(), class(), class()),
        ) {
            let found = pattern(&one, [x, y, ""]).overlap(&pattern(&other, [u, v, ""]));
            let (a, b) = (all_texts(&one, [x, y, ""]), all_texts(&other, [u, v, ""]));
            let both = a.keys().find(|text| b.contains_key(*text));
            match &found {
                None => prop_assert!(both.is_none(), "{one} {x} {y}, {other} {u} {v}: {both:?}"),
                Some(text) => prop_assert!(
                    readings(&one, [x, y], text) > 0 && readings(&other, [u, v], text) > 0,
                    "{one} {x} {y}, {other} {u} {v}: {text}"
                ),
            }
        }
    }
}
