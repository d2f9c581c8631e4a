//! Secrets of the file: masked where the file is shown, and used without white space around them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where the file's secrets are: every `secret` and master key, `notify`'s token, a script's token, and the values of every `headers`
/// table. A mere variable is not a secret.
pub(super) fn spans(root: &DeTable<'_>, text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    walk(root, false, "", &mut found);
    found.retain(|span| text.get(span.clone()).is_some_and(|raw| !is_variable(raw)));
    found
}

fn walk(table: &DeTable<'_>, all: bool, within: &str, found: &mut Vec<Range<usize>>) {
    for (key, value) in table.iter() {
        let is_token = matches!((within, &**key.get_ref()), ("notify", "token") | ("token", "text"));
        let all = all || is_token;
        look(value, all, key.get_ref(), found);
    }
}

fn look(value: &Spanned<DeValue<'_>>, all: bool, key: &str, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(inner) => walk(inner, all || key == "headers", key, found),
        DeValue::Array(list) => list.iter().for_each(|item| look(item, all, key, found)),
        _ if all || matches!(key, "secret" | "encryption_master_key") => found.push(value.span()),
        _ => {}
    }
}

fn is_variable(raw: &str) -> bool {
    let inner = raw.trim_matches(['"', '\'']);
    inner
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// `text` with these stretches masked, every other byte in its place.
pub(super) fn mask(text: &str, secrets: &[Range<usize>]) -> String {
    let hidden = |at: usize| secrets.iter().any(|span| span.contains(&at));
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if hidden(at) && !matches!(c, '"' | '\'' | '\n' | '\r') {
            out.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}

/// Removes what editors, shells and `echo` put around a secret: white space, and a byte order mark.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_and_variables_are_none() {
        let text = r#"
secret = "s1"
encryption_master_key = "s5"
other = { secret = 's"2', name = "plain" }
keys = [{ secret = "${NAME}" }, { secret = "${NAME:-s3}" }]
[[publish]]
headers = { authorization = "Bearer s4", "x" = "${X}" }
"#;
        let tree = DeTable::parse(text).unwrap();
        let masked = mask(text, &spans(tree.get_ref(), text));
        assert_eq!(masked.len(), text.len());
        for secret in ["s1", "2'", "s3", "s4", "s5"] {
            assert!(text.contains(secret) && !masked.contains(secret), "{masked}");
        }
        for kept in ["${NAME}", "plain", "\"${X}\"", "authorization"] {
            assert!(masked.contains(kept), "{masked}");
        }
    }

    #[test]
    fn what_stands_around_a_secret_is_told_from_it() {
        for (text, secret) in
            [("s", "s"), ("s\n\n", "s"), ("\u{feff} s t\r\n", "s t"), ("\u{a0}s\t", "s"), (" \n", "")]
        {
            assert_eq!(trimmed(text), secret);
        }
    }
}
