//! Paths in, channels out: path templates, the router over them, and what a channel name may be.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::template::CharSet;

/// Longest channel name, in bytes, with its prefix (Pusher docs, "Channel naming conventions").
pub const CHANNEL_BYTES_MAX: usize = 164;
/// Longest value of a path that is in no channel's name, in bytes.
const VALUE_BYTES_MAX: usize = 256;
/// Longest event name, in bytes (Pusher's HTTP libraries refuse longer ones).
pub const EVENT_BYTES_MAX: usize = 200;
/// Most bytes of data in one event (Pusher docs, "HTTP API": 413 above 10 kB).
pub const DATA_BYTES_MAX: usize = 10_240;

/// Prefixes by which Pusher tells channel kinds apart.
pub(crate) const KIND_PREFIXES: [&str; 7] = [
    "private-encrypted-cache-",
    "private-encrypted-",
    "private-cache-",
    "private-",
    "presence-cache-",
    "presence-",
    "cache-",
];

/// What kind of channel a name selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Anyone may subscribe.
    Public,
    /// A subscription is signed.
    Private,
    /// A subscription is signed and names its member.
    Presence,
    /// Private, and its events are encrypted.
    Encrypted,
}

impl ChannelKind {
    /// The kind of `channel`.
    #[must_use]
    pub fn of(channel: &str) -> Self {
        if channel.starts_with("private-encrypted-") {
            Self::Encrypted
        } else if channel.starts_with("private-") {
            Self::Private
        } else if channel.starts_with("presence-") {
            Self::Presence
        } else {
            Self::Public
        }
    }
}

/// Whether Pusher keeps the last event of `channel` for new subscribers (Pusher docs, "Cache channels").
#[must_use]
pub fn is_cache(channel: &str) -> bool {
    ["cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"]
        .iter()
        .any(|prefix| channel.starts_with(prefix))
}

/// Whether `byte` may stand in a channel name (Pusher docs, "Channel naming conventions").
#[must_use]
pub const fn is_channel_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'=' | b'@' | b',' | b'.' | b';')
}

/// Why `name` is no channel name, if it is none.
///
/// # Errors
/// Empty, longer than [`CHANNEL_BYTES_MAX`], or a character Pusher does not allow.
pub fn check_channel(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the channel's name is empty".to_owned());
    }
    if name.len() > CHANNEL_BYTES_MAX {
        return Err(format!("the channel's name has {} bytes of at most {CHANNEL_BYTES_MAX}", name.len()));
    }
    match name.chars().find(|c| !(c.is_ascii() && is_channel_byte(*c as u8))) {
        Some(c) => Err(format!("{c:?} may not stand in a channel's name (letters, digits, `_-=@,.;` may)")),
        None => Ok(()),
    }
}

/// Whether a value put behind `literal_prefix` could make the name one of another kind: the kind prefix it
/// could complete.
#[must_use]
pub fn kind_a_value_could_select(literal_prefix: &str) -> Option<&'static str> {
    KIND_PREFIXES
        .into_iter()
        .rev()
        .find(|kind| kind.len() > literal_prefix.len() && kind.starts_with(literal_prefix))
}

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// A placeholder's name, and the characters that its values may have where the file says it.
    Value(String, Option<CharSet>),
}

/// A path template such as `/ws/content/{session_id}` or `/ws/{tenant:[a-z0-9]+}`: a placeholder is a whole
/// segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    source: String,
    /// A path that ends in `/` ends in an empty literal, and `/` is nothing but one.
    segments: Vec<Segment>,
    names: Vec<String>,
    /// Whether the `/` at its end may be there or not.
    either_slash: bool,
    /// Placeholders whose values need not be legal in a channel's name.
    free: Vec<String>,
}

/// What is wrong with a path template: a byte offset and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    /// Byte offset in the template.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

impl PathTemplate {
    /// Parses `source`.
    ///
    /// # Errors
    /// No leading `/`, an empty segment, a character that a path cannot hold plainly, a placeholder that is
    /// only a part of its segment, or one name twice.
    pub fn parse(source: &str) -> Result<Self, PathError> {
        let fail = |at: usize, message: String| Err(PathError { at, message });
        let Some(rest) = source.strip_prefix('/') else {
            return fail(0, "a path starts with `/`".to_owned());
        };
        let mut segments = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut at = 1;
        let last = rest.split('/').count();
        for (n, text) in rest.split('/').enumerate() {
            let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
            if text.is_empty() && n + 1 == last {
                segments.push(Segment::Literal(String::new()));
            } else if text.is_empty() {
                return fail(at, "an empty segment: two `/` in a row".to_owned());
            } else if let Some(inner) = inner {
                let (name, set) = match inner.split_once(':') {
                    None => (inner, None),
                    Some((name, class)) => match CharSet::parse(class) {
                        Ok(set) => (name, Some(set)),
                        Err(message) => return fail(at, message),
                    },
                };
                let legal = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if !legal {
                    return fail(
                        at,
                        format!("`{{{name}}}` is no placeholder: a letter or `_`, then letters, digits, `_`"),
                    );
                }
                if names.iter().any(|n| n == name) {
                    return fail(at, format!("`{{{name}}}` stands twice in this path"));
                }
                names.push(name.to_owned());
                segments.push(Segment::Value(name.to_owned(), set));
            } else if let Some(offset) = text.find(['{', '}']) {
                return fail(at + offset, "a placeholder must be a whole segment of the path".to_owned());
            } else if let Some(offset) =
                text.find(|c: char| !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:@".contains(c))
            {
                return fail(at + offset, "this character cannot stand in a path (RFC 3986 §3.3)".to_owned());
            } else if matches!(text, "." | "..") {
                return fail(at, "`.` and `..` are resolved away before a server sees them".to_owned());
            } else {
                segments.push(Segment::Literal(text.to_owned()));
            }
            at += text.len() + 1;
        }
        Ok(Self { source: source.to_owned(), segments, names, either_slash: false, free: Vec::new() })
    }

    /// The template as it was written; also the `url.path` of logs.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The placeholders' names, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The characters that values of `name` may have, where the file says it.
    #[must_use]
    pub fn set_of(&self, name: &str) -> Option<CharSet> {
        self.segments.iter().find_map(|segment| match segment {
            Segment::Value(named, set) if named == name => *set,
            _ => None,
        })
    }

    /// Says what values of `name` may have; `false`: there is no such placeholder.
    #[must_use]
    pub fn restrict(&mut self, name: &str, to: CharSet) -> bool {
        let found = self.segments.iter_mut().find_map(|segment| match segment {
            Segment::Value(named, set) if named == name => Some(set),
            _ => None,
        });
        found.map(|set| *set = Some(to)).is_some()
    }

    /// Says whose values are in no channel's name: they may have any character but control characters.
    #[must_use]
    pub fn with_free_values(mut self, free: Vec<String>) -> Self {
        self.free = free;
        self
    }

    /// Whether a path that has, or lacks, the `/` at the end of this one is the same.
    #[must_use]
    pub const fn with_either_slash(mut self, either: bool) -> Self {
        self.either_slash = either;
        self
    }

    /// Whether it is.
    #[must_use]
    pub const fn has_either_slash(&self) -> bool {
        self.either_slash
    }

    /// Its segments with the `/` at the end and without, as far as it may be there or not.
    fn forms(&self) -> Vec<Vec<&Segment>> {
        const END: &Segment = &Segment::Literal(String::new());
        let mut forms = vec![self.segments.iter().collect::<Vec<_>>()];
        if self.either_slash {
            let mut other: Vec<&Segment> = self.segments.iter().collect();
            if other.last() != Some(&END) {
                other.push(END);
                forms.push(other);
            } else if other.len() > 1 {
                other.pop();
                forms.push(other);
            }
        }
        forms
    }

    /// Whether one path could match both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let others = other.forms();
        self.forms().iter().any(|form| others.iter().any(|other| Self::forms_overlap(form, other)))
    }

    fn forms_overlap(form: &[&Segment], other: &[&Segment]) -> bool {
        form.len() == other.len()
            && form.iter().zip(other).all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                (Segment::Literal(text), Segment::Value(_, set))
                | (Segment::Value(_, set), Segment::Literal(text)) => {
                    // No value is empty.
                    set.unwrap_or(CharSet::ANY).fits(text)
                }
                (Segment::Value(_, a), Segment::Value(_, b)) => {
                    let any = CharSet::ANY;
                    a.unwrap_or(any).and(b.unwrap_or(any)).example().is_some()
                }
            })
    }

    /// The values of `path` (as it came, percent-encoded) under this template; `None` when it does not match.
    fn match_path(&self, path: &str) -> Option<Result<PathValues, String>> {
        let mut rest = path.strip_prefix('/')?;
        let mut added = None;
        if self.either_slash {
            let slash = matches!(self.segments.last(), Some(Segment::Literal(text)) if text.is_empty());
            match rest.strip_suffix('/') {
                Some(without) if !slash => rest = without,
                None if slash && !rest.is_empty() => added = Some(""),
                _ => {}
            }
        }
        let mut values = Vec::with_capacity(self.names.len());
        let mut bad = None;
        let mut parts = rest.split('/').chain(added);
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(literal) if literal == part => {}
                Segment::Literal(_) => return None,
                Segment::Value(name, set) => match decode_value(part, self.free.contains(name)) {
                    Ok(value) if set.is_some_and(|set| !set.fits(&value)) => {
                        bad.get_or_insert(format!(
                            "`{name}` in the path has a character that it may not have"
                        ));
                    }
                    Ok(value) => values.push((name.clone(), value)),
                    Err(error) => {
                        bad.get_or_insert(format!("`{name}` in the path: {error}"));
                    }
                },
            }
        }
        if parts.next().is_some() {
            return None;
        }
        Some(bad.map_or(Ok(PathValues(values)), Err))
    }
}

/// A path value, percent-decoded; unless it is `free`, it must be legal within a channel name.
fn decode_value(part: &str, free: bool) -> Result<String, String> {
    let value: Cow<'_, str> = percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| "it is not UTF-8 once percent-decoded".to_owned())?;
    if !free {
        check_channel(&value).map_err(|error| error.replace("the channel's name", "the value"))?;
    } else if value.is_empty() {
        return Err("it is empty".to_owned());
    } else if value.len() > VALUE_BYTES_MAX {
        return Err(format!("it has {} bytes of at most {VALUE_BYTES_MAX}", value.len()));
    } else if value.chars().any(char::is_control) {
        return Err("it has a control character".to_owned());
    }
    Ok(value.into_owned())
}

/// The values a path gave to its template's placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathValues(Vec<(String, String)>);

impl PathValues {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What the router says of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    /// The template at this index, with these values.
    Route(usize, PathValues),
    /// The template at this index, but a value is not acceptable, for this reason.
    BadValue(usize, String),
    /// None.
    Nothing,
}

/// Finds the template for a path. Templates never overlap (the configuration is refused otherwise), so the
/// order does not matter.
#[derive(Clone, Debug, Default)]
pub struct Router(Vec<PathTemplate>);

impl Router {
    /// A router over `templates`; a match names the index in this list.
    #[must_use]
    pub fn new(templates: Vec<PathTemplate>) -> Self {
        Self(templates)
    }

    /// Matches a request's path, as it came.
    #[must_use]
    pub fn find(&self, path: &str) -> Matched {
        let mut bad = Matched::Nothing;
        for (index, template) in self.0.iter().enumerate() {
            match template.match_path(path) {
                Some(Ok(values)) => return Matched::Route(index, values),
                // What one may not have, another may: `/{id:[0-9]+}` and `/{name:[a-z]+}`.
                Some(Err(reason)) if bad == Matched::Nothing => bad = Matched::BadValue(index, reason),
                _ => {}
            }
        }
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn router(templates: &[&str]) -> Router {
        Router::new(templates.iter().map(|t| PathTemplate::parse(t).unwrap()).collect())
    }

    #[test]
    fn paths_find_their_route_and_values() {
        let router = router(&["/ws", "/ws/roblox", "/ws/content/{id}", "/a/{x}/b/{y}"]);
        let values = |pairs: &[(&str, &str)]| {
            PathValues(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
        };
        let cases = [
            ("/ws", Matched::Route(0, values(&[]))),
            ("/ws/roblox", Matched::Route(1, values(&[]))),
            ("/ws/content/gen_1", Matched::Route(2, values(&[("id", "gen_1")]))),
            ("/ws/content/a%2Db", Matched::Route(2, values(&[("id", "a-b")]))),
            ("/a/1/b/2", Matched::Route(3, values(&[("x", "1"), ("y", "2")]))),
            ("/", Matched::Nothing),
            ("", Matched::Nothing),
            ("ws", Matched::Nothing),
            ("/ws/", Matched::Nothing),
            ("/ws/content", Matched::Nothing),
            ("/ws/content/a/b", Matched::Nothing),
            ("/WS/roblox", Matched::Nothing),
        ];
        for (path, expected) in cases {
            assert_eq!(router.find(path), expected, "{path}");
        }
    }

    #[test]
    fn values_that_no_channel_can_hold_are_refused() {
        let router = router(&["/ws/content/{id}"]);
        for bad in ["", "a%2Fb", "a%00", "%FF", "a b", "%23x", "a:b", "%C3%A9", "a%", &"x".repeat(165)] {
            let found = router.find(&format!("/ws/content/{bad}"));
            assert!(matches!(found, Matched::BadValue(0, _)), "{bad}: {found:?}");
        }
    }

    #[test]
    fn a_slash_at_the_end_is_another_path_or_the_same() {
        let router = |either: bool| {
            let templates = ["/", "/ws", "/old/", "/x/{id}", "/y/{id}/"];
            let parse = |t: &&str| PathTemplate::parse(t).unwrap().with_either_slash(either);
            Router::new(templates.iter().map(parse).collect())
        };
        for (path, exact, either) in [
            ("/", Some(0), Some(0)),
            ("/ws", Some(1), Some(1)),
            ("/ws/", None, Some(1)),
            ("/ws//", None, None),
            ("//ws", None, None),
            ("//", None, None),
            ("/old/", Some(2), Some(2)),
            ("/old", None, Some(2)),
            ("/x/1", Some(3), Some(3)),
            ("/x/1/", None, Some(3)),
            ("/x/1%2F", None, None),
            ("/y/1/", Some(4), Some(4)),
            ("/y/1", None, Some(4)),
            ("/y", None, None),
        ] {
            let found = |either: bool| match router(either).find(path) {
                Matched::Route(index, _) => Some(index),
                _ => None,
            };
            assert_eq!((found(false), found(true)), (exact, either), "{path}");
        }
        let t = |s: &str, either| PathTemplate::parse(s).unwrap().with_either_slash(either);
        for (a, b) in [("/ws", "/ws/"), ("/x/{a}/", "/x/{b}")] {
            assert!(!t(a, false).overlaps(&t(b, false)) && t(a, true).overlaps(&t(b, false)), "{a} {b}");
            assert!(t(a, false).overlaps(&t(b, true)) && t(a, true).overlaps(&t(b, true)), "{a} {b}");
        }
        assert!(!t("/", true).overlaps(&t("/ws", true)));
        assert!(!t("/ws", true).overlaps(&t("/ws/{a}", true)));
    }

    #[test]
    fn a_free_value_has_any_character_but_control_characters() {
        let template = PathTemplate::parse("/{mac}/{room}").unwrap().with_free_values(vec!["mac".into()]);
        let router = Router::new(vec![template]);
        for (path, mac) in [
            ("/AA:BB:CC/r", Some("AA:BB:CC")),
            ("/AA%3ABB/r", Some("AA:BB")),
            ("/caf%C3%A9%20%2F/r", Some("caf\u{e9} /")),
            ("//r", None),
            ("/%00/r", None),
            ("/%C2%85/r", None),
            ("/%FF/r", None),
            ("/AA:BB/r:1", None),
        ] {
            match (router.find(path), mac) {
                (Matched::Route(0, values), Some(mac)) => assert_eq!(values.get("mac"), Some(mac)),
                (Matched::BadValue(0, _), None) => {}
                other => panic!("{path}: {other:?}"),
            }
        }
        let long = |n: usize| router.find(&format!("/{}/r", "x".repeat(n)));
        assert!(matches!(long(256), Matched::Route(..)) && matches!(long(257), Matched::BadValue(..)));
    }

    #[test]
    fn a_value_has_the_characters_that_it_may_have() {
        let router = router(&["/{tenant:[a-z0-9]+}/{doc}", "/{n:[0-9-]+}", "/{name:[a-z]+}"]);
        assert!(matches!(router.find("/acme/corp-plan"), Matched::Route(0, _)));
        assert!(matches!(router.find("/acme%2Dcorp/plan"), Matched::BadValue(0, _)));
        assert!(matches!(router.find("/acme-corp/plan"), Matched::BadValue(0, _)));
        assert!(matches!(router.find("/1-2"), Matched::Route(1, _)));
        assert!(matches!(router.find("/ab"), Matched::Route(2, _)));
        assert!(matches!(router.find("/A"), Matched::BadValue(1, _)));
    }

    #[test]
    fn bad_templates_say_where() {
        for (bad, at) in [
            ("ws", 0),
            ("", 0),
            ("//", 1),
            ("/ws//x", 4),
            ("/ws/x//", 6),
            ("/ws/a{b}", 5),
            ("/ws/{}", 4),
            ("/ws/{1a}", 4),
            ("/{a}/{a}", 5),
            ("/ws/a b", 5),
            ("/a/..", 3),
            ("/a/{x:}", 3),
            ("/a/{x:[a-z]*}", 3),
            ("/a/{:[a-z]+}", 3),
        ] {
            assert_eq!(PathTemplate::parse(bad).unwrap_err().at, at, "{bad}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_exact() {
        let t = |s: &str| PathTemplate::parse(s).unwrap();
        for (a, b, overlap) in [
            ("/ws/{a}", "/ws/native", true),
            ("/ws/{a}", "/ws/{b}", true),
            ("/{a}/x", "/ws/{b}", true),
            ("/ws/a", "/ws/b", false),
            ("/ws", "/ws/{b}", false),
            ("/{a}/x", "/{b}/y", false),
            ("/", "/", true),
            ("/", "/ws", false),
            ("/ws", "/ws/", false),
            ("/ws/", "/ws/{a}", false),
            ("/ws/{a}/", "/ws/{a}", false),
            ("/", "/{a}", false),
            ("/{a:[0-9]+}", "/{b:[a-z]+}", false),
            ("/{a:[0-9]+}", "/{b:[0a]+}", true),
            ("/{a:[0-9]+}", "/{b}", true),
            ("/{a:[0-9]+}", "/native", false),
            ("/{a:[a-z]+}", "/native", true),
        ] {
            assert_eq!(t(a).overlaps(&t(b)), overlap, "{a} {b}");
            assert_eq!(t(b).overlaps(&t(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn values_cannot_change_the_kind() {
        for (prefix, selects) in [
            ("", true),
            ("p", true),
            ("private", true),
            ("private-", true),
            ("private-c", true),
            ("presence-", true),
            ("cach", true),
            ("private-plugin-", false),
            ("content-generation-", false),
            ("private-encrypted-cache-", false),
            ("x", false),
        ] {
            assert_eq!(kind_a_value_could_select(prefix).is_some(), selects, "{prefix:?}");
        }
    }

    proptest! {
        #[test]
        fn a_value_behind_a_checked_prefix_keeps_the_kind(prefix in "[a-z-]{0,20}", value in "[a-z-]{0,30}") {
            if kind_a_value_could_select(&prefix).is_none() {
                let name = format!("{prefix}{value}");
                prop_assert_eq!(ChannelKind::of(&name), ChannelKind::of(&prefix));
            }
        }

        #[test]
        fn any_path_is_matched_without_panic(path in ".*") {
            let _ = router(&["/ws/{a}", "/{b}"]).find(&path);
            let _ = PathTemplate::parse(&path);
        }

        #[test]
        fn accepted_values_are_legal_in_channels(part in "[ -~]{0,40}") {
            if let Matched::Route(_, values) = router(&["/ws/{a}"]).find(&format!("/ws/{part}")) {
                prop_assert!(check_channel(values.get("a").unwrap()).is_ok());
            }
        }
    }
}
