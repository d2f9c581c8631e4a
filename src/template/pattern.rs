//! Which texts a template can come out as, and whether two can come out alike. A template is a sequence of literal
//! text, of values out of a set of characters, and of values out of a list, some of them excluded: a finite automaton, so
//! both questions have exact answers.

use std::collections::{HashMap, VecDeque};

use super::choice::Excluded;
use super::{CharSet, Text, TextPart, Values, Var};

/// All that a template can come out as.
///
/// A placeholder that is used twice counts as two: where its values differ, the pattern has texts that the
/// template has not; and what is excluded counts only where it is ASCII. So [`Pattern::overlap`] and [`Pattern::ambiguity`] may see one too many, never one too few.
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
                TextPart::Var(var) => pattern.push(&values(var)),
            }
        }
        pattern
    }

    /// Continues with this text.
    pub(crate) fn push_literal(&mut self, literal: &str) {
        for c in literal.chars() {
            let from = self.end();
            let to = self.push_state();
            self.connect(from, On::One(c), to);
        }
    }

    /// Continues with a value. Each has one way through the pattern.
    pub(crate) fn push(&mut self, values: &Values) {
        let begin = self.end();
        let mut last = Vec::new();
        for (choice, excluded) in values.distinct() {
            let mut at = begin;
            let mut characters = choice.begin().chars().peekable();
            while let Some(c) = characters.next() {
                if characters.peek().is_none() && choice.more().is_none() {
                    last.push((at, On::One(c)));
                    break;
                }
                let to = self.push_state();
                self.connect(at, On::One(c), to);
                at = to;
            }
            if let Some(set) = choice.more() {
                self.push_more(at, set, &excluded, &mut last);
            }
        }
        let end = self.push_state();
        for (from, on) in last {
            self.connect(from, on, end);
        }
    }

    /// One or more of `set` behind the state `from`, but for what is excluded; what leads to the end is put into `last`.
    fn push_more(&mut self, from: usize, set: CharSet, excluded: &[Excluded], last: &mut Vec<(usize, On)>) {
        let begun: Vec<(char, &[char], bool)> = excluded
            .iter()
            .filter_map(|not| {
                let (c, rest) = not.rest.split_first()?;
                set.has(*c).then_some((*c, rest, not.longer))
            })
            .collect();
        if excluded.iter().any(|not| not.rest.is_empty() && not.longer) {
            return;
        }
        let free = begun.iter().fold(set, |free, (c, ..)| free.without(*c));
        let beyond = self.push_state();
        self.connect(from, On::Any(free), beyond);
        self.connect(beyond, On::Any(set), beyond);
        last.extend([(from, On::Any(free)), (beyond, On::Any(set))]);
        for (index, (c, ..)) in begun.iter().enumerate() {
            if begun.iter().take(index).any(|(earlier, ..)| earlier == c) {
                continue;
            }
            let of_c = || begun.iter().filter(|(other, ..)| other == c);
            let next = self.push_state();
            self.connect(from, On::One(*c), next);
            if !of_c().any(|(_, rest, longer)| rest.is_empty() && !longer) {
                last.push((from, On::One(*c)));
            }
            let rest: Vec<Excluded> =
                of_c().map(|(_, rest, longer)| Excluded { rest: rest.to_vec(), longer: *longer }).collect();
            self.push_more(next, set, &rest, last);
        }
    }

    /// Continues with any text, or none.
    pub(crate) fn push_anything(&mut self) {
        let here = self.end();
        self.connect(here, On::Any(CharSet::ANY), here);
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
    use crate::template::Choice;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn choices(list: &str) -> Vec<Choice> {
        let set = CharSet::parse("[ab-]+").unwrap();
        list.split('|').map(|choice| Choice::parse(choice, set).unwrap()).collect()
    }

    /// A class as the file has it, or a list `=a|b*`; behind a `!` what is excluded.
    fn values(class: &str) -> Values {
        let (class, not) = class.split_once('!').unwrap_or((class, ""));
        let values = match class.strip_prefix('=') {
            Some(list) => Values::choices(&choices(list), CharSet::ANY),
            None => Values::of(CharSet::parse(class).unwrap()),
        };
        if not.is_empty() { values } else { values.except(&choices(not)) }
    }

    /// Whether it is a value, without the pattern.
    fn fits(class: &str, value: &str) -> bool {
        let (class, not) = class.split_once('!').unwrap_or((class, ""));
        let excluded = !not.is_empty() && choices(not).iter().any(|choice| choice.fits(value));
        !value.is_empty()
            && !excluded
            && match class.strip_prefix('=') {
                Some(list) => choices(list).iter().any(|choice| choice.fits(value)),
                None => CharSet::parse(class).unwrap().fits(value),
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
            ("c-{x}", "=a*|ab|a", "", false),
            ("c-{x}-{y}", "=a*|b", "=b|a-b", true),
            ("c-{x}-{y}", "=ab*|b", "[ab]+", false),
            ("c-{x}-{y}", "[ab-]+!*", WIDE, false),
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

    #[test]
    fn what_is_excluded_is_no_overlap() {
        for (not, other, overlap) in [
            ("ab", "agent-ab", None),
            ("ab", "agent-a", Some("agent-a")),
            ("a", "agent-ab", Some("agent-ab")),
            ("a*", "agent-ab", None),
            ("a*", "agent-a", Some("agent-a")),
            ("ab|b|-", "agent-{z}", Some("agent-a")),
            ("ab-*", "agent-ab-{z}", None),
            ("ab-*", "agent-ab{z}", Some("agent-aba")),
        ] {
            let class = format!("[ab-]+!{not}");
            let one = pattern("agent-{x}", [&class, "", ""]);
            let found = one.overlap(&pattern(other, ["", "", "[a-z0-9-]+"]));
            assert_eq!(found.as_deref(), overlap, "{not} {other}");
        }
    }

    // -------------------------------------------------------------------- against trying every value

    /// Values of up to three characters.
    fn all_values(class: &str) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..3 {
            let end = all.len();
            for index in from..end {
                for c in "ab-".chars() {
                    let longer = format!("{}{c}", all[index]);
                    all.push(longer);
                }
            }
            from = end;
        }
        all.into_iter().filter(|value| fits(class, value)).collect()
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
        let ends = (1..=text.len()).filter(|end| fits(class, &text[..*end]));
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
            "[a]+",
            "[ab]+",
            "[a-]+",
            "[ab-]+",
            "[b]+",
            "=a|b",
            "=a|a-b",
            "=-",
            "=ab|b|ba",
            "=a*|b",
            "=*",
            "[ab]+!a",
            "[ab-]+!ab|a|b-a",
            "[ab-]+!a*",
            "[a-]+!a-*|-a|-",
            "=a*!ab|a-*",
            "=a*|b|ab!b|aa*",
            "[ab]+!*|a",
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
