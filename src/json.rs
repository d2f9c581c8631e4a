//! Looking into JSON without re-typing it: values stay the text they came as, every digit and escape.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object, in order, their values raw.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Parses `text` when it is one JSON object.
    ///
    /// # Errors
    /// Not JSON, or JSON of another kind.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The value of `name`, as JSON text. Of equal names the last one counts, as in every JavaScript client.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.get())
    }

    /// The value at `path`: the member of that very name, dots and all, else one within members whose names make
    /// up the path, the longest first: of `a.b.c` the member `c` of `a.b`, or `b.c` of `a`, or `c` of `b` of `a`.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&'a str> {
        self.get(path).or_else(|| {
            path.rmatch_indices('.').find_map(|(dot, _)| {
                let (outer, inner) = (self.get(path.get(..dot)?)?, path.get(dot + 1..)?);
                Object::parse(outer).ok()?.at(inner)
            })
        })
    }

    /// The value of `name`, unless there are several: of those, readers differ in which one counts.
    #[must_use]
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.0.iter().filter(|(n, _)| n == name);
        let (_, value) = values.next()?;
        values.next().is_none().then(|| value.get())
    }

    /// The value of `name` when it is a string.
    #[must_use]
    pub fn string(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(string)
    }

    /// How many members there are, equal names each for itself.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members, in order: names and values, as JSON text.
    pub fn members(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.get()))
    }

    /// The members' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A member's name, taken raw first: serde_json checks a name read as bytes for less than JSON asks.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(name(raw.get())))
    }
}

/// The text of a member's name. One with an unpaired surrogate escape, which JavaScript can write and UTF-8
/// cannot, is kept by a name like it, so that the members beside it are not lost.
fn name(json: &str) -> Cow<'_, str> {
    match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        _ => string(json).or_else(|| string_with_surrogates(json).map(Cow::Owned)).unwrap_or_default(),
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text of a JSON string; `None` for any other JSON.
#[must_use]
pub fn string(json: &str) -> Option<Cow<'_, str>> {
    if !json.starts_with('"') {
        return None;
    }
    serde_json::from_str::<Name<'_>>(json).ok().map(|name| name.0)
}

/// The text of a JSON string that has unpaired surrogate escapes, each left as the escape it was: within a
/// text that is JSON again it means the same. `None` for any other JSON.
#[must_use]
pub fn string_with_surrogates(json: &str) -> Option<String> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(escape_surrogates(bytes))
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let text = json.starts_with('"').then(|| (&mut deserializer).deserialize_bytes(Text).ok())??;
    deserializer.end().ok().map(|()| text)
}

/// serde_json gives a surrogate as the three bytes that UTF-8 would have for it, ED A0-BF 80-BF.
fn escape_surrogates(mut bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 6);
    while let Err(error) = std::str::from_utf8(bytes) {
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        out.push_str(&String::from_utf8_lossy(valid));
        let [0xED, high, low, rest @ ..] = rest else { break };
        let unit = 0xD000 | u32::from(high & 0x3F) << 6 | u32::from(low & 0x3F);
        // Behind a backslash of the text's own it is no JSON, and an escape would make some of it.
        if out.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            out.push(char::REPLACEMENT_CHARACTER);
        } else {
            out.push_str(&format!("\\u{unit:04x}"));
        }
        bytes = rest;
    }
    out.push_str(&String::from_utf8_lossy(bytes));
    out
}

/// What a filter or an ownership compares: a string's text, or a number's digits as they stand.
#[must_use]
pub fn scalar(json: &str) -> Option<Cow<'_, str>> {
    match json.as_bytes().first()? {
        b'"' => string(json),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(json)),
        _ => None,
    }
}

/// The value at `path` below the object `json`, as JSON text.
#[must_use]
pub fn at_path<'a>(json: &'a str, path: &[String]) -> Option<&'a str> {
    path.iter().try_fold(json, |json, name| Object::parse(json).ok()?.get(name))
}

/// The value at `path` below the object `json`, unless a member on the way stands there twice: readers differ in
/// which one counts.
#[must_use]
pub fn only_at_path<'a>(json: &'a str, path: &[String]) -> Option<&'a str> {
    path.iter().try_fold(json, |json, name| Object::parse(json).ok()?.only(name))
}

/// The elements of a JSON array, as JSON text; `None` for any other JSON.
#[must_use]
pub fn elements(json: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// Whether `text` is one JSON value and nothing else.
#[must_use]
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Whether arrays and objects in `text` are nested more than `max` deep.
#[must_use]
pub fn deeper_than(text: &str, max: usize) -> bool {
    // Most texts have fewer brackets altogether; counting them is ten times as fast as following them.
    let opening = text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    opening > max && depth(text) > max
}

/// The deepest nesting of arrays and objects in `text`: 0 for a scalar. Counts brackets outside of strings,
/// so it may run before anything parses.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_keep_their_text() {
        let object =
            Object::parse(r#"{"a": 1.50e+3 ,"b":"\u00e9\ud83d\ude00","a":[ 1 ],"\u0063":null}"#).unwrap();
        assert_eq!(object.get("a"), Some("[ 1 ]"), "the last of equal names counts");
        assert_eq!(object.get("b"), Some(r#""\u00e9\ud83d\ude00""#));
        assert_eq!(object.string("b").as_deref(), Some("é😀"));
        assert_eq!(object.get("c"), Some("null"));
        assert_eq!(object.string("c"), None);
        assert_eq!(object.get("d"), None);
        assert!(Object::parse("[1]").is_err());
        assert!(Object::parse("{} x").is_err());
    }

    #[test]
    fn what_is_no_json_is_no_object() {
        for text in
            ["{\"a\nb\":1}", "{\"a\\n\u{0}\":1}", "{\"a\":\"\u{1f}\"}", r#"{"\x":1}"#, "{a:1}", r#"{"a":1,}"#]
        {
            assert!(Object::parse(text).is_err() && !is_json(text), "{text:?}");
        }
        let names = r#"{"":0,"a\\\"b":1,"\u006e\n":2,"\ud83d\ude00":3}"#;
        let object = Object::parse(names).unwrap();
        assert_eq!(object.names().collect::<Vec<_>>(), ["", "a\\\"b", "n\n", "😀"]);
    }

    #[test]
    fn unpaired_surrogates_hide_nothing() {
        let object = Object::parse(r#"{"\ud800":1,"a":2,"b":"\udfff"}"#).unwrap();
        assert_eq!(object.get("a"), Some("2"));
        assert_eq!((object.get("b"), object.string("b")), (Some(r#""\udfff""#), None));
        for (json, expected) in [
            (r#""{\"a\":\"é\ud800x\uDFFF\"}""#, Some(r#"{"a":"é\ud800x\udfff"}"#)),
            (r#""\ud83d\ude00\ud83d""#, Some("😀\\ud83d")),
            (r#""\"\\\\\ud800\"""#, Some(r#""\\\ud800""#)),
            (r#""\"\\\ud800\"""#, Some("\"\\\u{fffd}\"")),
            (r#""plain""#, Some("plain")),
            (r#""a" "b""#, None),
            ("7", None),
        ] {
            assert_eq!(string_with_surrogates(json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn scalars_compare_as_text() {
        for (json, expected) in [
            (r#""agent_7""#, Some("agent_7")),
            ("7", Some("7")),
            ("-0.10", Some("-0.10")),
            ("12345678901234567890", Some("12345678901234567890")),
            ("true", None),
            ("null", None),
            ("{}", None),
            (r#""\ud800""#, None),
            ("", None),
        ] {
            assert_eq!(scalar(json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn paths_lead_into_objects() {
        let path = |s: &str| s.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(at_path(r#"{"a":{"b":"x"}}"#, &path("a.b")), Some("\"x\""));
        assert_eq!(at_path(r#"{"a":{"b":"x"}}"#, &path("a.c")), None);
        assert_eq!(at_path(r#"{"a":1}"#, &path("a.b")), None);
        assert_eq!(only_at_path(r#"{"a":{"b":"x"},"c":1,"c":2}"#, &path("a.b")), Some("\"x\""));
        for twice in [r#"{"a":{"b":1,"b":2}}"#, r#"{"a":{"b":1},"a":{"b":1}}"#, r#"{"a":{"b":1,"\u0062":2}}"#]
        {
            assert!(at_path(twice, &path("a.b")).is_some() && only_at_path(twice, &path("a.b")).is_none());
        }
        assert_eq!(elements("[1, [2],\"x\"]"), Some(vec!["1", "[2]", "\"x\""]));
        assert_eq!(elements("{}"), None);
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (text, expected) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[{"b":1}]}"#, 3),
            (r#""[[[""#, 0),
            (r#"["\"[[",[]]"#, 2),
            ("[[[[", 4),
            ("]]", 0),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
        assert_eq!(depth(&"[".repeat(100_000)), 100_000);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            let _ = Object::parse(&text);
            let _ = (scalar(&text), depth(&text), is_json(&text));
        }

        #[test]
        fn the_quick_look_at_depth_agrees_with_the_long_one(text in r#"[\[\]{}"\\a]{0,40}"#, max in 0_usize..8) {
            prop_assert_eq!(deeper_than(&text, max), depth(&text) > max);
        }
    }
}
