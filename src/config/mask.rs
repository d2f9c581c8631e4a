//! What must not be shown of a configuration: secrets, and credentials and query values of URLs. For
//! the lines that errors quote, for `check`, and for `Debug`.

use std::fmt;
use std::ops::Range;

use crate::auth::settings::KeySource;
use crate::routes::route::PublishAction;
use crate::template::closest;

/// Keys whose values are secrets, as are those of keys that contain one of these or differ by a typing mistake.
const SECRETS: [&str; 10] = [
    "secret",
    "password",
    "pem",
    "jwks",
    "authorization",
    "cookie",
    "credential",
    "api_key",
    "api-key",
    "master_key",
];
/// How URLs begin, in keys that are not known to have one.
const SCHEMES: [&str; 4] = ["https:", "http:", "wss:", "ws:"];
/// Keys that contain one of [`SECRETS`] and say where it is.
const PLACES: [&str; 2] = ["_file", "_url"];

/// `url` as it may be shown: no credentials, and no values in its query but placeholders.
pub(crate) fn url(url: &str) -> String {
    masked_with(url, &url_secrets(url), "***")
}

/// A sentence of an error, each of its quotes (between backticks) as [`value`] shows it.
pub(super) fn sentence(text: &str) -> String {
    if text.matches('`').count() % 2 == 1 {
        // A quoted text contains a backtick, so what is quoted cannot be told.
        return text.split(' ').map(value).collect::<Vec<_>>().join(" ");
    }
    let quoted = |(index, part): (usize, &str)| if index % 2 == 1 { value(part) } else { part.to_owned() };
    text.split('`').enumerate().map(quoted).collect::<Vec<_>>().join("`")
}

/// A value that may be wrong, as it may be shown: without what would be credentials, values of a query or a fragment
/// if it were a URL, whether or not a scheme says so.
pub(super) fn value(text: &str) -> String {
    masked_with(text, &value_secrets(text), "***")
}

/// The text of a file with every character of a secret as `*`, so that lines and columns stay. It need not be valid
/// TOML.
pub(super) fn file(text: &str) -> String {
    let mut out = text.to_owned();
    for range in secrets(text).into_iter().rev() {
        let stars: String = out
            .get(range.clone())
            .unwrap_or("")
            .chars()
            .map(|c| if matches!(c, '\n' | '\r') { c } else { '*' })
            .collect();
        out.replace_range(range, &stars);
    }
    out
}

fn masked_with(text: &str, ranges: &[Range<usize>], mask: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for range in ranges {
        out.push_str(text.get(from..range.start).unwrap_or(""));
        out.push_str(mask);
        from = range.end;
    }
    out.push_str(text.get(from..).unwrap_or(""));
    out
}

/// Whether there are letters or digits outside of placeholders. A variable's name is not secret; its default may be.
fn may_be_secret(text: &str) -> bool {
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, behind) = rest.split_at(open);
        let Some((inside, after)) = behind.split_once('}') else { break };
        if inside.contains(":-") || before.chars().any(char::is_alphanumeric) {
            return true;
        }
        rest = after;
    }
    rest.chars().any(char::is_alphanumeric)
}

/// Where `text`, were it a URL, has credentials, values of a query and a fragment. Errs on hiding too much: the
/// text is shown because it is wrong.
fn value_secrets(text: &str) -> Vec<Range<usize>> {
    // A frame's template is not a URL, whatever it contains.
    if text.trim_start().starts_with("{\"") {
        return Vec::new();
    }
    let slashes = |at: usize| {
        at + text.get(at..).unwrap_or("").bytes().take_while(|b| matches!(b, b'/' | b'\\')).count()
    };
    let scheme = SCHEMES.iter().find(|scheme| {
        text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
            && slashes(scheme.len()) > scheme.len()
    });
    let begin = match (scheme, text.find("://")) {
        (Some(scheme), _) => slashes(scheme.len()),
        (None, Some(at))
            if text.bytes().take(at).all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b)) =>
        {
            at + 3
        }
        (None, _) => 0,
    };
    let mut found = Vec::new();
    let mut hide = |range: Range<usize>| {
        if text.get(range.clone()).is_some_and(may_be_secret) {
            found.push(range);
        }
    };
    let rest = text.get(begin..).unwrap_or("");
    if let Some(at) = rest.rfind('@') {
        hide(begin..begin + at);
    }
    let fragment = rest.find('#').map_or(text.len(), |at| begin + at);
    if let Some(query) = rest.find(['?', '&']).map(|at| begin + at + 1).filter(|query| *query < fragment) {
        let mut from = query;
        for pair in text.get(query..fragment).unwrap_or("").split(['&', ';']) {
            hide(pair.find('=').map_or(from, |at| from + at + 1)..from + pair.len());
            from += pair.len() + 1;
        }
    }
    hide((fragment + 1).min(text.len())..text.len());
    found.sort_by_key(|range| range.start);
    let mut apart: Vec<Range<usize>> = Vec::new();
    for range in found {
        match apart.last_mut().filter(|last| range.start < last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => apart.push(range),
        }
    }
    apart
}

/// Where `text`, if there is a URL in it, has credentials and values of a query.
fn url_secrets(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let Some(begin) = text.find("://").map(|at| at + 3) else { return out };
    let rest = text.get(begin..).unwrap_or("");
    let authority = rest.get(..rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or("");
    if let Some(at) = authority.rfind('@') {
        out.push(begin..begin + at);
    } else if let Some(at) = rest.rfind('@').filter(|_| authority.contains(':')) {
        // A password with a `/` in it, which should have been encoded.
        let digits = authority.rsplit(':').next().unwrap_or("");
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            out.push(begin..begin + at);
        }
    }
    let Some(query) = rest.find(['?', '#']).map(|at| begin + at + 1) else { return out };
    let mut from = query;
    for pair in text.get(query..).unwrap_or("").split(['&', ';', '#']) {
        let value = pair.find('=').map_or(from, |at| from + at + 1)..from + pair.len();
        let shown = text.get(value.clone()).is_some_and(|value| {
            value.is_empty()
                || (value.starts_with('{') || value.starts_with("${"))
                    && value.ends_with('}')
                    && !value.contains(":-")
        });
        if !shown && out.last().is_none_or(|last| last.end <= value.start) {
            out.push(value);
        }
        from += pair.len() + 1;
    }
    out
}

/// Reads only as much TOML as it needs: which string belongs to which key.
fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut scan = Scan { text, at: 0, header: String::new(), key: String::new(), open: Vec::new() };
    while let Some(byte) = text.as_bytes().get(scan.at) {
        match byte {
            b'#' => scan.at = scan.end_of_line(),
            b'[' if scan.begins_line() => {
                let end = scan.end_of_line();
                scan.header =
                    text.get(scan.at..end).unwrap_or("").trim_matches(['[', ']', ' ', '\r']).to_owned();
                (scan.at, scan.key, scan.open) = (end, String::new(), Vec::new());
            }
            b'"' | b'\'' => {
                let (content, end) = scan.string(*byte);
                scan.at = end;
                let inside = text.get(content.clone()).unwrap_or("");
                let is_key = scan.is_key();
                if is_key {
                    scan.push_key(inside);
                }
                if !is_key && scan.is_secret() {
                    let named = inside.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
                    let variable = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                    if !named.is_some_and(variable) {
                        out.push(content);
                    }
                } else {
                    let start = content.start;
                    let begin = inside.trim_start().get(..7).unwrap_or("");
                    if ["bearer ", "basic "].iter().any(|kind| begin.to_ascii_lowercase().starts_with(kind)) {
                        out.push(content);
                    } else {
                        out.extend(value_secrets(inside).into_iter().map(|r| start + r.start..start + r.end));
                    }
                }
            }
            b'{' => {
                scan.open.push(scan.key.clone());
                scan.at += 1;
            }
            b'}' => {
                scan.key = scan.open.pop().unwrap_or_default();
                scan.at += 1;
            }
            byte if is_bare(*byte) => {
                let length = text.bytes().skip(scan.at).take_while(|b| is_bare(*b)).count();
                let word = text.get(scan.at..scan.at + length).unwrap_or("");
                let before = scan.at;
                scan.at += length;
                if scan.is_key() {
                    scan.push_key(word);
                } else {
                    // A number or a flag, or a string whose quotes were forgotten.
                    let rest = text.get(before..).unwrap_or("");
                    let stops = |c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}' | '"' | '\'');
                    let end = before + rest.find(stops).unwrap_or(rest.len());
                    if scan.is_secret() {
                        out.push(before..end);
                    } else {
                        let bare = text.get(before..end).unwrap_or("");
                        out.extend(value_secrets(bare).into_iter().map(|r| before + r.start..before + r.end));
                    }
                    scan.at = end;
                }
            }
            _ => scan.at += 1,
        }
    }
    out
}

const fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// `name`, or a typing mistake for it.
fn is_near(name: &str, meant: &str) -> bool {
    name == meant || closest(&name.to_ascii_lowercase(), std::iter::once(meant)).is_some()
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    /// The table that is open.
    header: String,
    /// The key that was read last, names with dots between.
    key: String,
    /// The keys of inline tables that are open.
    open: Vec<String>,
}

impl Scan<'_> {
    fn end_of_line(&self) -> usize {
        let rest = self.text.get(self.at..).unwrap_or("");
        self.at + rest.find('\n').unwrap_or(rest.len())
    }

    fn begins_line(&self) -> bool {
        let before = self.text.get(..self.at).unwrap_or("");
        before.rsplit('\n').next().is_some_and(|line| line.trim().is_empty()) && self.open.is_empty()
    }

    /// The content of the string that begins here, and where it ends. One that is not closed ends with its line.
    fn string(&self, quote: u8) -> (Range<usize>, usize) {
        let rest = self.text.get(self.at..).unwrap_or("");
        let one = char::from(quote).to_string();
        let (delimiter, lines) =
            if rest.starts_with(&one.repeat(3)) { (one.repeat(3), true) } else { (one, false) };
        let start = self.at + delimiter.len();
        let mut at = start;
        while let Some(behind) = self.text.get(at..).filter(|behind| !behind.is_empty()) {
            let step = behind.chars().next().map_or(1, char::len_utf8);
            if behind.starts_with(&delimiter) {
                return (start..at, at + delimiter.len());
            } else if !lines && behind.starts_with('\n') {
                break;
            } else if quote == b'"' && behind.starts_with('\\') {
                at += 1 + behind.get(1..).and_then(|b| b.chars().next()).map_or(0, char::len_utf8);
            } else {
                at += step;
            }
        }
        (start..at, at)
    }

    /// Whether what was just read is a key, or a part of one.
    fn is_key(&self) -> bool {
        let behind = self.text.get(self.at..).unwrap_or("").trim_start_matches([' ', '\t']);
        behind.starts_with('=') || behind.starts_with('.')
    }

    fn push_key(&mut self, name: &str) {
        let start = self.at.saturating_sub(name.len());
        let before = self.text.get(..start).unwrap_or("").trim_end_matches([' ', '\t', '"', '\'']);
        if before.ends_with('.') {
            self.key.push('.');
        } else {
            self.key.clear();
        }
        self.key.push_str(name);
    }

    fn is_secret(&self) -> bool {
        let within = |table: &str| {
            let names = |path: &str| path.split('.').any(|name| is_near(name.trim(), table));
            names(&self.header) || names(&self.key) || self.open.iter().any(|key| names(key))
        };
        if within("headers") {
            return true;
        }
        let name = self.key.rsplit('.').next().unwrap_or("").to_ascii_lowercase();
        if is_near(&name, "token") && within("notify") {
            return true;
        }
        let is_place = PLACES.iter().any(|place| name.ends_with(place));
        !is_place
            && (SECRETS.iter().any(|secret| name.contains(secret))
                || closest(&name, ["secret", "password"].into_iter()).is_some())
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret"),
            Self::Pem(_) => f.write_str("Pem"),
            Self::JwksText(_) => f.write_str("JwksText"),
            Self::JwksUrl { url, .. } => write!(f, "JwksUrl({})", self::url(url)),
        }
    }
}

impl fmt::Debug for PublishAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trigger { event, .. } => write!(f, "Trigger({})", event.source()),
            Self::Drop => f.write_str("Drop"),
            Self::Post { url, .. } => write!(f, "Post({})", self::url(url.source())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_shown_without_what_they_hide() {
        for (text, shown) in [
            ("https://a/b", "https://a/b"),
            ("https://u:p@a/b", "https://***@a/b"),
            ("https://u:p/q@a/b", "https://***@a/b"),
            ("https://token@a", "https://***@a"),
            ("http://a:80/@b", "http://a:80/@b"),
            ("https://a/?key=s3cret", "https://a/?key=***"),
            ("https://a/?key=s3cret&id={id}&x", "https://a/?key=***&id={id}&***"),
            ("https://a/?s3cret", "https://a/?***"),
            ("https://a/?k=${KEY}&l=${KEY:-s3cret}#s3cret", "https://a/?k=${KEY}&l=***#***"),
            ("https://a/#s3cret", "https://a/#***"),
            ("plain", "plain"),
        ] {
            assert_eq!(url(text), shown, "{text}");
        }
    }

    #[test]
    fn wrong_values_are_shown_without_what_a_url_would_hide() {
        for (text, shown) in [
            ("https://u:p@h", "https://***@h"),
            ("http:/u:p@h/", "http:/***@h/"),
            ("HTTPS:u:p@h", "***@h"),
            ("u:p@h:1", "***@h:1"),
            ("p@h", "***@h"),
            ("https://u:1/p@h", "https://***@h"),
            ("https:\\\\u:p@h", "https:\\\\***@h"),
            ("h/j?token=p", "h/j?token=***"),
            ("h/j?p", "h/j?***"),
            ("h/j&token=p", "h/j&token=***"),
            ("h/#p?q=p", "h/#***"),
            ("#p", "#***"),
            ("h?x=a@b&k=p", "***&k=***"),
            ("h?k={id}&l=${KEY}&m=${KEY:-p}", "h?k={id}&l=${KEY}&m=***"),
            ("{auth.user}@x", "{auth.user}@x"),
            ("plain/{id}", "plain/{id}"),
            ("_-=@,.;", "_-=@,.;"),
        ] {
            assert_eq!(value(text), shown, "{text}");
        }
        assert_eq!(sentence("`u:p@h` is not `{id}`"), "`***@h` is not `{id}`");
        assert_eq!(sentence("`u:p@`h` is none"), "***@`h` is none");
    }

    #[test]
    fn a_file_is_shown_without_its_secrets() {
        for text in [
            "secret = \"s3cret\"",
            "secret = 's3cret",
            "secret=\"a\\\"s3cret\" # x",
            "\"secret\" = \"s3cret\"",
            "secrt = \"s3cret\"",
            "client_secret = 's3cret'",
            "upstream.secret = \"s3cret\"",
            "secret = \"\"\"\ns3cret\n\"\"\"",
            "secret = \"${X:-s3cret}\"",
            "keys = [{ algorithms = [\"HS256\"], secret = \"s3cret\" }]",
            "headers = { authorization = \"Bearer s3cret\" }",
            "headers = { \"x\" = 's3cret', y = \"s3cret\" }",
            "headers.authorization = \"s3cret\"",
            "[routes.publish.headers]\nauthorization = \"s3cret\"",
            "post = \"https://u:s3cret@a/x\"",
            "post = \"https://a/x?key=s3cret\"",
            "jwks_url = \"https://a/x?s3cret\"",
            "post = \"http:/u:s3cret@h/\"",
            "post = \"u:s3cret@h\"",
            "post = \"h/j?token=s3cret\"",
            "post = \"https://h/#s3cret\"",
            "post = https://u:s3cret@h/",
            "secret = s3cret",
            "header = { authorization = 'Bearer s3cret' }",
            "haeders = { x = 's3cret' }",
            "[routes.publish.header]\nx = \"s3cret\"",
            "authorization = \"s3cret\"",
            "x = \"Bearer s3cret\"",
            "jwks = '{\"keys\":[{\"k\":\"s3cret\"}]}'",
        ] {
            let shown = file(text);
            assert!(!shown.contains("s3cret"), "{text}: {shown}");
            assert_eq!(shown.chars().count(), text.chars().count(), "{text}");
        }
        for text in [
            "secret = \"${PUSHER_SECRET}\"",
            "secret_file = \"/run/secrets/x\"",
            "listen = \"127.0.0.1:1",
            "headers = { a = \"\" }\nlisten = \"x\"",
            "[a.headers]\n[b]\nlisten = \"x\"",
            "post = \"https://a/{id}?type={type}\"",
            "workers = 0 # of 2",
            "event = '{\"type\":\"a?b#c@d\"}'",
            "# secret = \"s3cret\"",
        ] {
            assert_eq!(file(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_lines(text in "(secret|=|\"|'|\\\\|\n|\\{|\\}|\\[|é|://|@|\\?|&){0,20}|.*") {
            let shown = file(&text);
            prop_assert_eq!(shown.chars().count(), text.chars().count());
            prop_assert_eq!(shown.lines().count(), text.lines().count());
            let _ = url(&text);
        }
    }
}
