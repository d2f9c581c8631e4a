//! What each person of a room should have got in a phase, and what it got.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use crate::message::Content;
use crate::person::Heard;

/// Something that was said in a room.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub at: u64,
    /// A person, or a server.
    pub by: Option<usize>,
    pub content: Content,
    /// Whether it must be carried, or told.
    pub sure: bool,
}

/// A person in a phase: what it had heard before, and what it has at the end.
#[derive(Clone, Debug)]
pub struct Presence {
    pub id: usize,
    pub before: Heard,
    pub after: Heard,
    /// It left, or began to.
    pub left: bool,
}

impl Presence {
    fn got(&self, content: Content) -> usize {
        let count = |heard: &Heard| heard.contents.get(&content).copied().unwrap_or(0);
        count(&self.after) - count(&self.before)
    }

    fn told(&self, content: Content) -> usize {
        let count = |heard: &Heard| heard.told.get(&content).copied().unwrap_or(0);
        count(&self.after) - count(&self.before)
    }

    fn gaps(&self) -> usize {
        self.after.gaps - self.before.gaps
    }
}

/// What one person got of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub content: Content,
    pub person: usize,
    pub own: usize,
    pub others: usize,
    pub server: usize,
    /// Answers of the API that were lost, each of which allows one copy more.
    pub unanswered: usize,
    /// Of the others' and the server's, those that it must have got.
    pub least: usize,
    pub got: usize,
    note: String,
}

impl Line {
    pub fn most(&self) -> usize {
        // What only it said is its own, how often it comes.
        if self.others + self.server == 0 { 0 } else { self.others + self.server + self.unanswered }
    }

    fn is_right(&self) -> bool {
        (self.least..=self.most()).contains(&self.got)
    }

    /// Copies beyond what was said.
    pub fn extra(&self) -> usize {
        self.got.saturating_sub(self.others + self.server)
    }
}

/// The account of a room's phase.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub lines: Vec<Line>,
}

impl Account {
    /// `unanswered`: how many answers were lost, by content.
    pub fn of(said: &[Said], people: &[Presence], unanswered: &BTreeMap<Content, usize>) -> Self {
        let contents: BTreeSet<Content> = said
            .iter()
            .map(|said| said.content)
            .chain(people.iter().flat_map(|person| person.after.contents.keys().copied()))
            .collect();
        let mut lines = Vec::new();
        for content in contents {
            let those: Vec<&Said> = said.iter().filter(|said| said.content == content).collect();
            for person in people {
                let by = |it: &&&Said| it.by == Some(person.id);
                let own = those.iter().filter(by).count();
                let server = those.iter().filter(|said| said.by.is_none()).count();
                let told: usize = people
                    .iter()
                    .filter(|other| other.id != person.id)
                    .map(|other| other.told(content))
                    .sum();
                let since = person.before.confirmed.or(person.after.confirmed);
                let must =
                    those.iter().filter(|said| said.sure && since.is_some_and(|since| said.at > since));
                let must = must.filter(|said| said.by != Some(person.id)).count();
                let excused = person.left || person.gaps() > 0;
                lines.push(Line {
                    content,
                    person: person.id,
                    own,
                    others: those.len() - own - server,
                    server,
                    unanswered: unanswered.get(&content).copied().unwrap_or(0),
                    least: if excused { 0 } else { must.saturating_sub(told) },
                    got: person.got(content),
                    note: [
                        (person.left, "left".to_owned()),
                        (person.before.confirmed.is_none(), "came".to_owned()),
                        (person.gaps() > 0, "a gap".to_owned()),
                        (person.told(content) > 0, format!("told {}", person.told(content))),
                    ]
                    .into_iter()
                    .filter_map(|(is, note)| is.then_some(note))
                    .collect::<Vec<_>>()
                    .join(", "),
                });
            }
        }
        lines.retain(|line| line.own + line.others + line.server + line.got > 0);
        Self { lines }
    }

    pub fn is_right(&self) -> bool {
        self.lines.iter().all(Line::is_right)
    }

    /// How many copies more than messages there were, at least.
    pub fn extra(&self) -> usize {
        let mut extra: BTreeMap<Content, usize> = BTreeMap::new();
        for line in &self.lines {
            let most = extra.entry(line.content).or_default();
            *most = line.extra().max(*most);
        }
        extra.values().sum()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = format!(
            "  {:<12} {:>7} {:>5} {:>7} {:>7} {:>10} {:>6} {:>6} {:>5}\n",
            "message", "person", "own", "others", "server", "unanswered", "least", "most", "got"
        );
        for line in &self.lines {
            let mark = if line.is_right() { "" } else { "  <-- wrong" };
            let note = if line.note.is_empty() { String::new() } else { format!("  ({})", line.note) };
            let content = format!("{:?}", line.content);
            let _ = writeln!(
                out,
                "  {content:<12} {:>7} {:>5} {:>7} {:>7} {:>10} {:>6} {:>6} {:>5}{mark}{note}",
                line.person,
                line.own,
                line.others,
                line.server,
                line.unanswered,
                line.least,
                line.most(),
                line.got
            );
        }
        f.write_str(&out)
    }
}

#[test]
fn the_account_itself_sees_what_it_must() {
    use crate::message::TYPING;
    let said = |at, by| Said { at, by, content: TYPING, sure: true };
    let person = |id, got, confirmed| Presence {
        id,
        before: Heard { confirmed, ..Heard::default() },
        after: Heard {
            confirmed: confirmed.or(Some(12)),
            contents: [(TYPING, got)].into(),
            ..Heard::default()
        },
        left: false,
    };
    // Two of one, one of another, one of a server.
    let all = [said(10, Some(1)), said(11, Some(1)), said(13, Some(2)), said(14, None)];
    let right = |people: &[Presence], unanswered| {
        Account::of(&all, people, &[(TYPING, unanswered)].into()).is_right()
    };
    for (got, expected) in [(1, false), (2, true), (3, false)] {
        assert_eq!(right(&[person(1, got, Some(1))], 0), expected);
    }
    assert!(right(&[person(1, 3, Some(1))], 1) && !right(&[person(1, 4, Some(1))], 1));
    for (got, expected) in [(1, false), (2, true), (3, true), (4, true), (5, false)] {
        assert_eq!(right(&[person(3, got, None)], 0), expected, "who came in between got {got}");
    }
    let mut gap = person(3, 0, Some(1));
    gap.after.gaps = 1;
    assert!(right(&[gap], 0));
    let mut told = person(2, 3, Some(1));
    told.after.told = [(TYPING, 1)].into();
    assert!(right(&[told, person(1, 1, Some(1))], 0));
    let own = Account::of(&[said(10, Some(1))], &[person(1, 1, Some(1))], &[(TYPING, 3)].into());
    assert!(!own.is_right(), "what only it said is its own\n{own}");
}
