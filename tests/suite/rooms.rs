//! The rooms of the house and the law between them: an import points down. Their order is the map in ARCHITECTURE.md;
//! what they import is read from the sources. Two rooms that import each other, and any longer circle, have an import
//! that points up: so there are none.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Crate, Files, Import};

/// Has the map.
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
/// Rooms that may import less than all that is below them.
const NARROW: &[(&str, &[&str])] =
    &[("sandbox", &["pusher", "http", "tls", "net", "metrics", "template", "json", "text", "clock"])];
/// What tests in any room may import: routes are made of TOML there.
const FOR_TESTS: &str = "config";
/// The library's root. It is below all rooms: everybody may use what it defines, and it imports none of them.
const ROOT: &str = "lib";
/// The program's root, a room.
const PROGRAM: &str = "main";
/// Where something points that cannot be read for sure.
const UNCLEAR: &str = "?";
const LIBRARY: &str = "pusher_bridge";

/// A crate's sources with its rooms: the file of its root, and what the root is called here.
const ROOTS: [(&str, &str); 2] = [("src/lib.rs", ROOT), ("src/main.rs", PROGRAM)];

struct Law<'a> {
    /// From the top floor to the ground.
    order: Vec<&'a str>,
    narrow: &'a [(&'a str, &'a [&'a str])],
}

impl Law<'_> {
    fn floor(&self, room: &str) -> Option<usize> {
        if room == ROOT { Some(self.order.len()) } else { self.order.iter().position(|known| *known == room) }
    }

    /// From which room to which.
    fn rooms<'i>(&self, import: &'i Import, root: &'i str) -> (&'i str, &'i str) {
        let from = import.from.first().map_or(root, String::as_str);
        let to = import.to.first().map(String::as_str).filter(|to| self.order.contains(to));
        (from, to.unwrap_or(ROOT))
    }

    /// What is wrong with an import, if anything.
    fn against(&self, import: &Import, root: &str) -> Option<String> {
        let (from, to) = self.rooms(import, root);
        if import.glob && import.to.is_empty() && from != PROGRAM {
            return Some("these are all rooms at once".to_owned());
        }
        if from == to || import.test && to == FOR_TESTS {
            return None;
        }
        if self.floor(from)? > self.floor(to)? {
            return Some(format!("{from} is below {to}, and imports point down"));
        }
        let narrow = self.narrow.iter().find(|(room, _)| *room == from);
        let outside = narrow.filter(|(_, allowed)| to != ROOT && !allowed.contains(&to));
        outside.map(|(_, allowed)| format!("{from} may import {} only", allowed.join(", ")))
    }

    /// Which room imports which, for more than tests.
    fn known(&self, files: &Files) -> BTreeSet<(String, String)> {
        let mut known = BTreeSet::new();
        for (file, root) in ROOTS.iter().filter(|(file, _)| files.contains_key(*file)) {
            for import in Crate::read(files, file, LIBRARY).imports.iter().filter(|import| !import.test) {
                let (from, to) = self.rooms(import, root);
                known.insert((from.to_owned(), to.to_owned()));
            }
        }
        known
    }

    /// What is against the law in these files, by rooms.
    fn findings(&self, files: &Files) -> BTreeMap<(String, String), Vec<String>> {
        let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (file, root) in ROOTS.iter().filter(|(file, _)| files.contains_key(*file)) {
            let krate = Crate::read(files, file, LIBRARY);
            for unclear in &krate.unclear {
                let from = unclear.from.first().map_or(*root, String::as_str);
                let place = format!("{}:{}: {}: spell it plainly", unclear.file, unclear.line, unclear.what);
                found.entry((from.to_owned(), UNCLEAR.to_owned())).or_default().push(place);
            }
            // By a name that a `use` has brought: that one is looked at.
            for import in krate.imports.iter().filter(|import| !import.by_name) {
                let Some(why) = self.against(import, root) else { continue };
                let (from, to) = self.rooms(import, root);
                let place = format!("{}:{}: `{}`: {why}", import.file, import.line, import.to.join("::"));
                found.entry((from.to_owned(), to.to_owned())).or_default().push(place);
            }
        }
        found
    }
}

/// The rooms in the first column of the table under "The map", from top to bottom and left to right. `session/` is a
/// room, `session/machine/` a part of one.
fn order(document: &str) -> Vec<&str> {
    let (_, map) = document.split_once("\n## The map\n").expect("a map");
    let rows = map.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names
        .map(|name| name.trim_end_matches('/').trim_end_matches(".rs"))
        .filter(|name| !name.contains('/'))
        .collect()
}

/// What is drawn below that table: the rooms on each line, and beside them the ways through the house (`a → b → c`).
fn picture<'a>(document: &'a str, order: &[&str]) -> (Vec<Vec<&'a str>>, Vec<Vec<&'a str>>) {
    let (_, map) = document.split_once("\n## The map\n").expect("a map");
    let section = map.split("\n## ").next().unwrap_or_default();
    let words = |text: &'a str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
    };
    let (mut drawn, mut ways) = (Vec::new(), Vec::new());
    for line in section.lines().filter(|line| line.starts_with("    ")) {
        // A way is told behind what it is the way of.
        let told = ["  an ", "  a "].iter().filter_map(|label| line.find(label)).min();
        let (left, right) = line.split_at(told.filter(|_| line.contains('→')).unwrap_or(line.len()));
        drawn.push(words(left).filter(|word| order.contains(word)).collect());
        if !right.is_empty() {
            ways.push(
                right
                    .split('→')
                    .enumerate()
                    .filter_map(
                        |(at, part)| if at == 0 { words(part).next_back() } else { words(part).next() },
                    )
                    .collect(),
            );
        }
    }
    (drawn, ways)
}

/// What is wrong with a picture: a room drawn above one that the map has above it, and a way between rooms that know
/// nothing of each other.
fn misdrawn(document: &str, order: &[&str], known: &BTreeSet<(String, String)>) -> Vec<String> {
    let (drawn, ways) = picture(document, order);
    let floor = |room: &str| order.iter().position(|known| *known == room);
    let mut wrong = Vec::new();
    for (at, line) in drawn.iter().enumerate() {
        for (above, below) in
            drawn[..at].iter().flatten().flat_map(|above| line.iter().map(move |below| (above, below)))
        {
            if floor(above) > floor(below) {
                wrong.push(format!("{above} is drawn above {below}, and the map has it below"));
            }
        }
    }
    for (from, to) in ways.iter().flat_map(|way| way.windows(2)).map(|step| (step[0], step[1])) {
        let imports = |a: &str, b: &str| known.contains(&(a.to_owned(), b.to_owned()));
        if !imports(from, to) && !imports(to, from) {
            wrong.push(format!("{from} → {to}: neither imports the other"));
        }
    }
    wrong
}

/// What is wrong with a map of these files.
fn mistakes(order: &[&str], files: &Files) -> Vec<String> {
    let library = Crate::read(files, "src/lib.rs", LIBRARY);
    let rooms: BTreeSet<&str> =
        library.modules.keys().filter(|place| place.len() == 1).map(|place| &*place[0]).collect();
    let all = rooms.iter().copied().chain([PROGRAM]);
    let missing = all.filter(|room| !order.contains(room)).map(|room| format!("{room} is not in the map"));
    let gone = order.iter().filter(|room| !rooms.contains(*room) && **room != PROGRAM);
    let gone = gone.map(|room| format!("{room} is in the map, and not declared in src/lib.rs"));
    let twice = order.iter().enumerate().filter(|(at, room)| order[..*at].contains(room));
    missing.chain(gone).chain(twice.map(|(_, room)| format!("{room} is in the map twice"))).collect()
}

/// Files that no module declares are not compiled, so the law would not hold there.
fn undeclared(files: &Files) -> Vec<String> {
    let roots = ROOTS.iter().filter(|(file, _)| files.contains_key(*file));
    let declared: BTreeSet<String> = roots
        .flat_map(|(file, _)| {
            Crate::read(files, file, LIBRARY).modules.into_values().map(|module| module.file)
        })
        .collect();
    files.keys().filter(|file| !declared.contains(*file)).cloned().collect()
}

#[test]
fn imports_point_down() {
    let law = Law { order: order(ARCHITECTURE), narrow: NARROW };
    let found = law.findings(&super::imports::files("src"));
    let wrong: Vec<String> = found.into_values().flatten().collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_map_has_every_room_once() {
    let files = super::imports::files("src");
    let wrong = mistakes(&order(ARCHITECTURE), &files);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(undeclared(&files), [""; 0], "no `mod` declares these");
}

#[test]
fn the_picture_is_of_this_house() {
    let law = Law { order: order(ARCHITECTURE), narrow: NARROW };
    let (drawn, ways) = picture(ARCHITECTURE, &law.order);
    assert!(drawn.concat().len() > 10 && ways.len() == 3, "{drawn:?}, {ways:?}");
    let wrong = misdrawn(ARCHITECTURE, &law.order, &law.known(&super::imports::files("src")));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

// ------------------------------------------------------------------------------------ the test, tested

const MAP: &str = "
# A house

| room | in another table |
|---|---|
| `nothing` | |

## The map

| room | what lives there |
|---|---|
| `main.rs`, `app/` | `wiring` |
| `config/` | |
| `side/` | may import `ground` only |
| `high/`, `high/part/` | |
| `low/` | |
| `ground.rs` | |

`more` text
";

/// What the law says of a house whose room `low` (or another) has this text; `file:line from to`.
fn judged(changed: &[(&str, &str)]) -> Vec<String> {
    let mut files: Files = [
        ("src/main.rs", "fn main() { pusher_bridge::app::run() }"),
        (
            "src/lib.rs",
            "pub mod app; mod config; mod side; pub mod high; mod low; mod ground; pub const NAME: u8 = 1;",
        ),
        ("src/app.rs", "use crate::{config::load, high, low::{self, Low}, ground::*};\npub fn run() {}"),
        ("src/config/mod.rs", "use crate::high::part::Part; pub fn load() {}"),
        ("src/side.rs", "use crate::ground::Ground;"),
        ("src/high/mod.rs", "pub mod part;\nuse part::Part;\npub use super::low::Low;\nstruct High;"),
        ("src/high/part.rs", "use super::{High, super::ground};\npub struct Part(crate::low::Low);"),
        ("src/low/mod.rs", "mod inner;\npub struct Low;"),
        ("src/low/inner.rs", "use super::Low;"),
        ("src/ground.rs", "pub struct Ground([u8; crate::NAME as usize]);"),
    ]
    .map(|(file, text)| (file.to_owned(), text.to_owned()))
    .into();
    files.extend(changed.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())));
    let law = Law { order: order(MAP), narrow: &[("side", &["ground"])] };
    assert_eq!(mistakes(&law.order, &files), [""; 0]);
    let found = law.findings(&files).into_iter();
    let short = found.flat_map(|((from, to), places)| {
        places.into_iter().map(move |place| format!("{} {from} {to}", place.split(": ").next().unwrap()))
    });
    short.collect()
}

#[test]
fn the_map_is_read_in_its_order() {
    assert_eq!(order(MAP), ["main", "app", "config", "side", "high", "low", "ground"]);
    let files: Files = [("src/lib.rs".to_owned(), "mod a {} mod b {}".to_owned())].into();
    assert_eq!(mistakes(&["main", "a", "b"], &files), [""; 0]);
    let wrong = mistakes(&["a", "c", "a"], &files);
    let told = ["b is not", "main is not", "c is in the map, and not", "a is in the map twice"];
    assert!(wrong.len() == told.len() && wrong.iter().zip(told).all(|(a, b)| a.starts_with(b)), "{wrong:?}");
}

#[test]
fn imports_that_point_down_are_fine() {
    assert_eq!(judged(&[]), [""; 0]);
    for low in [
        "mod inner; pub struct Low; use crate::ground::Ground;",
        "mod inner; pub struct Low; // use crate::high::High;",
        "mod inner; pub struct Low; /// See [`crate::high::High`].\nstruct Documented;",
        "mod inner; pub struct Low; pub(in crate::low) struct Mine; const TEXT: &str = \"crate::high::High\";",
        "mod inner; pub struct Low; #[cfg(test)] mod tests { use crate::config::load; }",
        "mod inner; pub struct Low; #[cfg(all(test, unix))] fn f() { crate::config::load() }",
        "mod inner; pub struct Low; mod high { pub struct Own; } use high::Own; type A = high::Own;",
        "mod inner; pub struct Low; fn f() { let _ = (::high::x(), other::crate_::high::x()); }",
    ] {
        assert_eq!(judged(&[("src/low/mod.rs", low)]), [""; 0], "{low}");
    }
    let tests = ("src/low/inner.rs", "use crate::config::load;");
    assert_eq!(judged(&[("src/low/mod.rs", "#[cfg(test)]\nmod inner;\npub struct Low;"), tests]), [""; 0]);
}

#[test]
fn imports_that_point_up_are_found_wherever_they_are() {
    for (inner, line) in [
        ("use crate::high::High;", 1),
        ("use crate::high;", 1),
        ("use crate::{ground::Ground,\n    high::{self, part::Part}};", 2),
        ("use crate::{ground, {high as upstairs}};", 1),
        ("use crate::high::{self as upstairs};", 1),
        ("use super::super::high::High as Other;", 1),
        ("use super::super::{ground,\nhigh::*};", 2),
        ("use self::super::super::high;", 1),
        ("pub use crate::high::part;", 1),
        ("fn f() {\n    crate::high::f();\n}", 2),
        ("fn f() {\n    use crate::high::f;\n}", 2),
        ("struct S {\n    field: Option<Box<crate::high::High>>,\n}", 2),
        ("impl crate::high::Trait for u8 {}", 1),
        ("impl<T> A for B<T> where T:\ncrate::high::Trait {}", 2),
        ("fn f(x: &dyn crate::high::Trait) -> impl Fn(crate::high::A) { x }", 1),
        ("fn f() { match x { crate::high::A { .. } => {}, _ => {} } }", 1),
        ("fn f() { <crate::high::A as Default>::default() }", 1),
        ("fn f() { a::<crate::high::A>() }", 1),
        ("fn f() {\n\n    println!(\"{}\", crate::high::N);\n}", 3),
        ("fn f() { vec![Some(vec![super::super::high::N])] }", 1),
        ("macro_rules! m {\n    () => { $crate::high::f() };\n}", 2),
        ("macro_rules! m {\n    () => { use $crate::{ground, low::Low, high::{self, A}}; };\n}", 2),
        ("crate::high::m!();", 1),
        ("#[crate::high::attribute]\nfn f() {}", 1),
        ("#[derive(crate::high::Derive)]\nstruct S;", 1),
        ("struct S {\n    #[serde(default, with = \"crate::high::part\")]\n    field: u8,\n}", 2),
        ("mod nested {\n    use super::super::super::high::A;\n}", 2),
        ("mod nested { mod deep { fn f() {\n    crate::high::f() } } }", 2),
        ("#[cfg(not(test))]\nuse crate::high::f;", 2),
        ("#[cfg(any(test, unix))]\nmod m { use crate::high::f; }", 2),
        ("#[cfg(test)]\nmod tests { use crate::high::f; }", 2),
        ("impl S { #[cfg(test)] fn f() { crate::high::f() } }", 1),
        ("use pusher_bridge::high;", 1),
        ("fn f() { m!(::pusher_bridge::high::f()) }", 1),
        ("m! {\n    field: crate::high::High,\n}", 2),
        ("m! { struct S(pub (crate::high::High)); }", 1),
        ("fn f() { m!(self::super::super::high::N) }", 1),
        ("macro_rules! m {\n    ($m:ident) => { crate::high::$m() };\n}", 2),
        ("struct S {\n    #[serde(with = \"self::super::super::high\")]\n    field: u8,\n}", 2),
        ("struct S {\n    #[serde(with = \"Option::<crate::high::High>\")]\n    field: u8,\n}", 2),
        ("use crate::r#high::High;", 1),
        ("fn f() { crate::r#high::f() }", 1),
        ("fn f() { m!(crate::r#high::f()) }", 1),
        ("#[serde(with = r\"crate::r#high\")]\nstruct S;", 1),
    ] {
        let mut found = judged(&[("src/low/inner.rs", inner)]);
        found.dedup();
        assert_eq!(found, [format!("src/low/inner.rs:{line} low high")], "{inner}");
    }
}

#[test]
fn what_cannot_be_read_for_sure_is_to_be_spelled_plainly() {
    for (inner, line) in [
        ("use crate as root;\nfn f() { root::high::f() }", 1),
        ("use crate as root;\nmod child { fn f() { super::root::high::f() } }", 1),
        ("\npub use crate::{self as all};", 2),
        ("use super::super as up;", 1),
        ("use self::super::super as up;", 1),
        ("use pusher_bridge as me;", 1),
        ("extern crate self as me;\nfn f() { me::high::f() }", 1),
        ("extern crate pusher_bridge;", 1),
        ("#[macro_export]\nmacro_rules! m { () => {} }", 1),
        ("#[macro_use]\nmod nested { macro_rules! m { () => {} } }", 1),
        ("macro_rules! m { () => {\n    #[macro_export] macro_rules! n { () => {} }\n} }", 2),
        ("#[cfg_attr(unix, macro_use)]\nmod nested {}", 1),
        ("include!(\"x.inc\");", 1),
        ("fn f() {\n    m!(std::include!(\"x.inc\"));\n}", 2),
        ("macro_rules! m {\n    ($m:ident) => { $crate::$m::f() };\n}", 2),
        ("macro_rules! m {\n    ($m:ident) => { use crate::{ground, $m}; };\n}", 2),
        ("macro_rules! m {\n    ($m:ident) => { self::$m::high::f() };\n}", 2),
        ("macro_rules! m { ($m:ident) => { $m::high::f() } }\nfn f() { m!(crate) }", 2),
    ] {
        let found = judged(&[("src/low/inner.rs", inner)]);
        assert_eq!(found.first(), Some(&format!("src/low/inner.rs:{line} low ?")), "{inner}: {found:?}");
    }
    for plain in [
        "use super as low;",
        "m! { pub(crate) struct S(pub(super) u8); }",
        "use self::nested as n; mod nested {}",
        "const T: &str = include_str!(\"t\");",
    ] {
        assert_eq!(judged(&[("src/low/inner.rs", plain)]), [""; 0], "{plain}");
    }
    let elsewhere = [("src/app.rs", "use crate as root;\npub fn run() { root::low::f() }")];
    assert_eq!(judged(&elsewhere), ["src/app.rs:1 app ?"]);
}

#[test]
fn code_for_tests_may_import_the_configuration_and_the_rest_may_not() {
    for (inner, found) in [
        ("#[cfg(test)] use crate::config::load;", ""),
        ("#[cfg(test)] mod tests { fn f() { crate::config::load() } }", ""),
        ("impl S { #[cfg(test)] fn f() { crate::config::load() } }", ""),
        ("struct S { #[cfg(test)] field: crate::config::Part }", ""),
        ("use crate::config::load;", "src/low/inner.rs:1 low config"),
        ("#[cfg(any(test, unix))] use crate::config::load;", "src/low/inner.rs:1 low config"),
        ("#[cfg(not(test))] use crate::config::load;", "src/low/inner.rs:1 low config"),
        ("#[cfg(test)] mod tests {}\nuse crate::config::load;", "src/low/inner.rs:2 low config"),
        ("#[cfg(test)] use crate::app::run;", "src/low/inner.rs:1 low app"),
    ] {
        assert_eq!(judged(&[("src/low/inner.rs", inner)]).concat(), found, "{inner}");
    }
}

#[test]
fn the_root_narrow_rooms_and_files_elsewhere_are_held_to_it_too() {
    let library =
        "pub mod app; mod config; mod side; pub mod high; mod low; mod ground; pub const NAME: u8 = 1;\n";
    for (file, text, found) in [
        ("src/lib.rs", format!("{library}pub use config::load;"), "src/lib.rs:2 lib config"),
        ("src/lib.rs", format!("{library}fn f() {{ crate::high::f() }}"), "src/lib.rs:2 lib high"),
        ("src/low/inner.rs", "use crate::*;".to_owned(), "src/low/inner.rs:1 low lib"),
        ("src/low/mod.rs", "use super::*; mod inner; struct Low;".to_owned(), "src/low/mod.rs:1 low lib"),
        ("src/side.rs", "use crate::low::Low;".to_owned(), "src/side.rs:1 side low"),
        ("src/side.rs", "use crate::NAME;".to_owned(), ""),
        ("src/high/mod.rs", "pub mod part; use crate::app;".to_owned(), "src/high/mod.rs:1 high app"),
    ] {
        assert_eq!(judged(&[(file, &text)]).concat(), found, "{file}: {text}");
    }
    let elsewhere =
        [("src/low/mod.rs", "#[path = \"other.rs\"]\nmod inner;"), ("src/low/other.rs", "use crate::high;")];
    assert_eq!(judged(&elsewhere), ["src/low/other.rs:1 low high"]);
    let files: Files = [("src/lib.rs", "mod a;"), ("src/a.rs", "mod b {}"), ("src/b.rs", "")]
        .map(|(a, b)| (a.into(), b.into()))
        .into();
    assert_eq!(undeclared(&files), ["src/b.rs"]);
}

#[test]
fn a_picture_that_is_wrong_is_seen() {
    let order = ["high", "middle", "side", "low"];
    let known = [("high", "middle"), ("middle", "low")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let told = |drawing: &str| {
        let document =
            format!("\n## The map\n\nTo high → low in text.\n\n{drawing}\n\n## More\n\n    low above high\n");
        misdrawn(&document, &order, &known)
    };
    let drawing = "     high       a way      middle → high\n   middle · side    an event  low → middle → high\n     └ low";
    assert_eq!(told(drawing), [""; 0]);
    assert_eq!(told("    low\n    high"), ["low is drawn above high, and the map has it below"]);
    assert_eq!(told("    high  a way  low → high → middle"), ["low → high: neither imports the other"]);
    assert_eq!(told("    high  an event  high → nowhere"), ["high → nowhere: neither imports the other"]);
}

/// One line of each: where, what and why.
#[test]
fn a_finding_says_where_what_and_why() {
    let order = vec!["high", "low"];
    let law = Law { order, narrow: &[] };
    let files: Files = [
        ("src/lib.rs", "mod high; mod low;"),
        ("src/high.rs", "use crate::low::Low;"),
        ("src/low.rs", "\nuse crate::high::High;"),
    ]
    .map(|(a, b)| (a.into(), b.into()))
    .into();
    let found: Vec<String> = law.findings(&files).into_values().flatten().collect();
    assert_eq!(found, ["src/low.rs:2: `high::High`: low is below high, and imports point down"]);
}
