use super::*;
use crate::pusher::channel::{cut_kind_prefix, is_channel_byte};
use crate::template::{Allow, CharSet};
use proptest::prelude::*;

fn legal() -> CharSet {
    CharSet::of(is_channel_byte)
}

fn text(source: &str) -> Text {
    let allow = Allow { subscribe: true, user: true, message_type: false };
    Text::parse(source, &["a".to_owned(), "b".to_owned()], allow).unwrap()
}

fn listed(values: &[&str]) -> Vec<Listed> {
    if values.is_empty() {
        return Vec::new();
    }
    let choices = values.iter().map(|value| Choice::parse(value, legal()).unwrap()).collect();
    vec![("c".to_owned(), choices)]
}

/// Values in the order of a template's placeholders: `a`, `b`, the user, the field.
fn lookup<'a>(values: [&'a str; 4]) -> impl Fn(&Var) -> Option<Cow<'a, str>> {
    move |var| {
        let at = match var {
            Var::Path(name) if name == "a" => 0,
            Var::Path(_) => 1,
            Var::User => 2,
            Var::Subscribe(_) => 3,
            Var::Type => return None,
        };
        Some(values[at].into())
    }
}

#[test]
fn a_channel_has_the_kind_that_the_file_chose() {
    let kind = NoChannel::Kind;
    for (channel, list, values, expected) in [
        ("private-{a}", &[][..], ["x", "", "", ""], Ok("private-x")),
        ("private-{a}", &[], ["cache-x", "", "", ""], Err(kind("private-cache-"))),
        ("private-{a}", &[], ["a b", "", "", ""], Err(NoChannel::Illegal)),
        ("private-{a}{auth.user}", &[], ["enc", "", "rypted-x", ""], Err(kind("private-encrypted-"))),
        ("private-{a}{auth.user}", &[], ["enc", "", "rypted", ""], Ok("private-encrypted")),
        ("private-{auth.user}", &[], ["", "", "encrypted-x", ""], Err(kind("private-encrypted-"))),
        ("presence-{subscribe.c}", &[], ["", "", "", "cache-x"], Err(kind("presence-cache-"))),
        ("{subscribe.c}", &["files", "private-x"], ["", "", "", "files"], Ok("files")),
        ("{subscribe.c}", &["files", "private-x"], ["", "", "", "private-x"], Ok("private-x")),
        ("{subscribe.c}", &["private-*"], ["", "", "", "private-x"], Ok("private-x")),
        ("{subscribe.c}", &["private-*"], ["", "", "", "private-cache-x"], Err(kind("private-cache-"))),
        (
            "{subscribe.c}",
            &["private-*", "private-cache-*"],
            ["", "", "", "private-cache-x"],
            Ok("private-cache-x"),
        ),
        ("private-{subscribe.c}", &["*"], ["", "", "", "cache-x"], Err(kind("private-cache-"))),
        ("private-{subscribe.c}", &["*", "cache-x"], ["", "", "", "cache-x"], Ok("private-cache-x")),
        ("{subscribe.c}{a}", &["private-", "private-encrypted-"], ["x", "", "", "private-"], Ok("private-x")),
        (
            "{subscribe.c}{a}",
            &["private-", "private-encrypted-"],
            ["encrypted-x", "", "", "private-"],
            Err(kind("private-encrypted-")),
        ),
        ("{subscribe.c}-{a}", &["private"], ["cache-x", "", "", "private"], Err(kind("private-cache-"))),
    ] {
        let filled = fill(&text(channel), &listed(list), lookup(values));
        assert_eq!(filled, expected.map(str::to_owned), "{channel} {list:?} {values:?}");
    }
}

/// Literal text of every kind, and cut short of every kind, behind which values follow in a row.
fn template() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec![
        "x",
        "private-",
        "private-encrypted-",
        "private-cache-",
        "private-encrypted-cache-",
        "presence-",
        "presence-cache-",
        "cache-",
        "private-x-",
        "presence-c",
        "private-enc",
        "p",
        "",
    ]);
    let rest = prop::sample::select(vec![
        "{a}",
        "{a}{b}",
        "{b}-{a}",
        "{auth.user}",
        "{a}{auth.user}{b}",
        "{subscribe.c}",
        "{subscribe.c}{a}",
        "{a}{subscribe.c}",
        "{a}-encrypted-{b}",
        "",
    ]);
    (literal, rest)
        .prop_map(|(literal, rest)| format!("{literal}{rest}"))
        .prop_filter("empty", |t| !t.is_empty())
}

/// Pieces of prefixes, so that they often complete one.
fn value() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "encrypted",
        "cache",
        "private",
        "presence",
        "-",
        "enc",
        "rypted-",
        "ca",
        "che-",
        "x",
        "encrypted-",
        "cache-",
        "ate-",
        "c",
    ]);
    prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat())
}

fn list() -> impl Strategy<Value = Vec<&'static str>> {
    let choice = prop::sample::select(vec![
        "files",
        "x-*",
        "private-",
        "private-*",
        "private-encrypted-*",
        "cache-x",
        "presence-cache-*",
        "encrypted-*",
        "cache-*",
        "x",
    ]);
    prop::collection::vec(choice, 0..3)
}

proptest! {
    /// Of a template that a file may have, each name that is accepted has the kind of the template's beginning, or
    /// of a listed value there that the client did choose; and what is refused for its kind has another.
    #[test]
    fn no_value_chooses_the_kind(
        channel in template(), list in list(), values in [value(), value(), value(), value()],
    ) {
        let (channel, list) = (text(&channel), listed(&list));
        let open = |(begin, whole): &(String, bool)| !whole && cut_kind_prefix(begin).is_some();
        prop_assume!(!begins(&channel, &list).iter().any(open));
        let values = values.each_ref().map(String::as_str);
        let first = channel.vars().next();
        let chosen = |field: &str| list.iter().find(|(name, _)| name == field).map(|(_, choices)| choices);
        let choices = first.and_then(|first| match first {
            Var::Subscribe(field) => chosen(field),
            _ => None,
        });
        let begins: Vec<String> = match choices {
            Some(choices) => {
                let fitting = choices.iter().filter(|choice| choice.fits(values[3]));
                fitting.map(|choice| format!("{}{}", channel.literal_prefix(), choice.begin())).collect()
            }
            None => vec![channel.literal_prefix().to_owned()],
        };
        let kinds: Vec<&str> = begins.iter().map(|begin| kind_prefix(begin)).collect();
        match fill(&channel, &list, lookup(values)) {
            Ok(name) => {
                // A listed text may be cut short of a prefix that literal text behind it completes.
                let literal = begins.iter().any(|begin| cut_kind_prefix(begin).is_some());
                prop_assert!(literal || kinds.contains(&kind_prefix(&name)), "{} {name}", channel.source());
            }
            Err(NoChannel::Kind(kind)) => prop_assert!(!kinds.contains(&kind), "{} {kind}", channel.source()),
            Err(NoChannel::Illegal) => {}
        }
    }
}
