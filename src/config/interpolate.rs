//! `${NAME}` from the environment, in every string of the parsed tree, so that spans stay those of the file.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A variable without a value and without a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The variable's name.
    pub name: String,
    /// The key that uses it, such as `upstream.app_id` or `auth.keys[0].secret`.
    pub key: String,
    /// The line in the file, from 1.
    pub line: usize,
}

/// The outcome of interpolating a whole tree.
#[derive(Default)]
pub(super) struct Outcome {
    /// Variable, key path and the span of the value that uses it.
    pub(super) missing: Vec<(String, String, Range<usize>)>,
    /// What is wrong with `${…}` itself.
    pub(super) errors: Vec<(Range<usize>, String)>,
    /// What came from the environment.
    pub(super) taken: Vec<Taken>,
}

/// The value of a variable that became a string, or a part of one.
pub(super) struct Taken {
    /// The string's place.
    pub(super) span: Range<usize>,
    pub(super) name: String,
    pub(super) value: String,
}

pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Replaces variables in every string below `table`, removes keys whose value became empty, and turns TOML's
/// dates into strings, which is how the schema sees them.
pub(super) fn table(table: &mut DeTable<'_>, env: Env<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    walk_table(table, env, "", &mut outcome);
    outcome
}

fn walk_table(table: &mut DeTable<'_>, env: Env<'_>, path: &str, outcome: &mut Outcome) {
    let mut unset = Vec::new();
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().to_string();
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if walk_value(value, env, &path, outcome) {
            unset.push(name);
        }
    }
    for name in unset {
        table.remove(name.as_str());
    }
}

fn walk_array(array: &mut DeArray<'_>, env: Env<'_>, path: &str, outcome: &mut Outcome) {
    for (index, value) in array.iter_mut().enumerate() {
        walk_value(value, env, &format!("{path}[{index}]"), outcome);
    }
}

/// Whether the value became empty, which means "unset".
fn walk_value(value: &mut Spanned<DeValue<'_>>, env: Env<'_>, path: &str, outcome: &mut Outcome) -> bool {
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(inner) => walk_table(inner, env, path, outcome),
        DeValue::Array(inner) => walk_array(inner, env, path, outcome),
        DeValue::Datetime(date) => {
            let text = date.to_string();
            *value.get_mut() = DeValue::String(text.into());
        }
        DeValue::String(text) if text.contains("${") => match string(text, env) {
            Ok(filled) => {
                let stands_in = !filled.missing.is_empty();
                for name in filled.missing {
                    outcome.missing.push((name, path.to_owned(), span.clone()));
                }
                let taken = filled.taken.into_iter();
                outcome.taken.extend(taken.map(|(name, value)| Taken { span: span.clone(), name, value }));
                let unset = filled.text.is_empty() && !stands_in;
                *text = filled.text.into();
                return unset;
            }
            Err(message) => outcome.errors.push((span, message)),
        },
        _ => {}
    }
    false
}

/// Whether `source` comes out empty: a variable without a value and without a default is not empty, it is missing.
pub(super) fn is_empty(source: &str, env: Env<'_>) -> bool {
    string(source, env).is_ok_and(|filled| filled.text.is_empty() && filled.missing.is_empty())
}

/// The variables that are named in `source`, of which all comes from variables.
pub(super) fn variables(source: &str) -> Vec<String> {
    let names = source.split("${").skip(1).filter_map(|rest| rest.split(['}', ':']).next());
    names.map(str::to_owned).collect()
}

struct Filled {
    text: String,
    missing: Vec<String>,
    /// Names and values.
    taken: Vec<(String, String)>,
}

/// A missing variable's own name stands in for its value, so that what depends on it can still be checked.
fn string(source: &str, env: Env<'_>) -> Result<Filled, String> {
    let mut out =
        Filled { text: String::with_capacity(source.len()), missing: Vec::new(), taken: Vec::new() };
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            out.text.push_str(escaped);
            out.text.push_str("${");
            rest = after;
            continue;
        }
        out.text.push_str(before);
        let Some((inside, behind)) = after.split_once('}') else {
            return Err("`${` without its `}`; a plain `${` is written `$${`".to_owned());
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let legal = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !legal {
            return Err(format!(
                "`${{{inside}}}` names no variable: a letter or `_`, then letters, digits, `_`"
            ));
        }
        // As in a shell, `:-` also replaces an empty value.
        match (env(name), default) {
            (Some(value), _) if !value.is_empty() => {
                out.text.push_str(&value);
                out.taken.push((name.to_owned(), value));
            }
            (_, Some(default)) => out.text.push_str(default),
            (Some(_), None) | (None, None) => {
                out.text.push_str(name);
                out.missing.push(name.to_owned());
            }
        }
        rest = behind;
    }
    out.text.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${A}\"\n".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (text, expected) in [
            ("x${A}y${A}", "x1y1"),
            ("${B:-d}", "d"),
            ("${B:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("${A:-d}", "1"),
            ("$${A}", "${A}"),
            ("$A {A} $", "$A {A} $"),
            ("${TRICKY}", "${A}\"\n"),
        ] {
            let filled = string(text, &env).unwrap();
            assert_eq!((filled.text.as_str(), filled.missing.len()), (expected, 0), "{text}");
        }
    }

    #[test]
    fn what_comes_out_empty_is_told_from_what_is_missing() {
        for (text, empty, variables) in [
            ("", true, &[][..]),
            ("${B:-}", true, &["B"]),
            ("${EMPTY:-}${B:-}", true, &["EMPTY", "B"]),
            ("${A:-}", false, &["A"]),
            ("${B:-}${A:-}", false, &["B", "A"]),
            ("${B:-x}", false, &["B"]),
            ("${B}", false, &["B"]),
            ("${B", false, &["B"]),
            (" ", false, &[]),
        ] {
            assert_eq!(
                (is_empty(text, &env), super::variables(text).as_slice()),
                (empty, &*strings(variables)),
                "{text}"
            );
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_wrong_refused() {
        let filled = string("${B}-${EMPTY}", &env).unwrap();
        assert_eq!(filled.missing, ["B", "EMPTY"]);
        for bad in ["${A", "${}", "${1}", "${a-b}", "${ A }"] {
            assert!(string(bad, &env).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[${}:A-]{0,12}|.*") {
            let _ = string(&text, &env);
        }
    }
}
