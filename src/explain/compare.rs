//! Pure: where two texts of JSON differ. Members may come in any order, and numbers are compared by their digits.

use crate::json::{self, Object};

/// Most differences that are told.
const DIFFERENCES_MAX: usize = 10;

/// Where `found` is not as `expected`; empty: it is. What is not JSON is compared as it is.
#[must_use]
pub(super) fn differences(expected: &str, found: &str) -> Vec<String> {
    let mut out = Vec::new();
    if json::is_json(expected) && json::is_json(found) {
        compare("", expected.trim(), found.trim(), &mut out);
    } else if expected != found {
        out.push("the texts differ".to_owned());
    }
    out.truncate(DIFFERENCES_MAX);
    out
}

fn compare(at: &str, expected: &str, found: &str, out: &mut Vec<String>) {
    if out.len() >= DIFFERENCES_MAX || expected == found {
        return;
    }
    let here = if at.is_empty() { "the whole" } else { at };
    match (Object::parse(expected), Object::parse(found)) {
        (Ok(expected), Ok(found)) => return objects(at, &expected, &found, out),
        (Err(_), Err(_)) => {}
        _ => return out.push(format!("{here}: one is an object")),
    }
    match (json::elements(expected), json::elements(found)) {
        (Some(expected), Some(found)) => {
            if expected.len() != found.len() {
                out.push(format!("{here}: {} elements expected, {} found", expected.len(), found.len()));
            }
            for (index, (expected, found)) in expected.into_iter().zip(found).enumerate() {
                compare(&format!("{at}[{index}]"), expected, found, out);
            }
        }
        _ => {
            let same = json::string(expected).is_some() && json::string(expected) == json::string(found);
            if !same {
                out.push(format!("{here}: {expected} expected, {found} found"));
            }
        }
    }
}

fn objects(at: &str, expected: &Object<'_>, found: &Object<'_>, out: &mut Vec<String>) {
    let path = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    for (name, value) in expected.members() {
        match found.get(name) {
            Some(found) => compare(&path(name), value, found, out),
            None => out.push(format!("{} is missing", path(name))),
        }
    }
    for name in found.names().filter(|name| expected.get(name).is_none()) {
        out.push(format!("{} is not expected", path(name)));
    }
    if expected.len() != found.len() && out.is_empty() {
        out.push(format!("{}: a member is there twice", if at.is_empty() { "the whole" } else { at }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn differences_are_told_where_they_are() {
        for (expected, found, told) in [
            (r#"{"a":1,"b":[1,{"c":"x"}]}"#, r#" { "b" : [1, {"c":"\u0078"}], "a" : 1 }"#, &[][..]),
            (r#"{"a":1.50}"#, r#"{"a":1.5}"#, &["a: 1.50 expected, 1.5 found"]),
            (r#"{"a":{"b":[1,2]}}"#, r#"{"a":{"b":[1,3]}}"#, &["a.b[1]: 2 expected, 3 found"]),
            (r#"{"a":1}"#, r#"{"b":1}"#, &["a is missing", "b is not expected"]),
            ("[1]", "[1,2]", &["the whole: 1 elements expected, 2 found"]),
            (r#"{"a":1}"#, r#"{"a":1,"a":1}"#, &["the whole: a member is there twice"]),
            ("{}", "[]", &["the whole: one is an object"]),
            ("1", "\"1\"", &["the whole: 1 expected, \"1\" found"]),
            ("as it is", "as it is", &[]),
            ("as it is", "as it was", &["the texts differ"]),
        ] {
            assert_eq!(differences(expected, found), told, "{expected} {found}");
        }
    }

    proptest! {
        #[test]
        fn only_equal_json_has_no_differences(a in "[\\[\\]{}\",:1a .]{0,12}", b in "[\\[\\]{}\",:1a .]{0,12}") {
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
            prop_assert!(differences(&a, &a).is_empty());
            if let (Some(first), Some(second)) = (value(&a), value(&b)) {
                prop_assert!(!differences(&a, &b).is_empty() || first == second);
            }
        }
    }
}
