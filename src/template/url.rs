//! Values in a URL: encoded, and in the path, kept within their segment.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::{CharSet, Text, TextPart, Values, Var};

/// What a URL's path segment may contain without percent-encoding (RFC 3986 §2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How often a value may be percent-encoded in itself: proxies and servers decode once or twice.
const ENCODINGS_MAX: usize = 3;

impl Text {
    /// Fills a URL in, its values percent-encoded. `None` when `lookup` has no value for a variable, or when one in
    /// the path would leave its segment.
    ///
    /// No encoding keeps a value there: many a server or proxy decodes a path before it splits or routes by it, so
    /// `%2F`, `%5C`, `%3F` and `%23` are to them what they stand for, and `%2E%2E` leads out of the path to all
    /// (WHATWG URL, "double-dot path segment"). In the query nothing needs more than its encoding.
    pub fn fill_url<'a>(&self, lookup: impl Fn(&Var) -> Option<Cow<'a, str>>) -> Option<String> {
        let mut out = String::with_capacity(self.source().len() + 16);
        let mut in_query = false;
        let mut in_path = Vec::new();
        for part in &self.parts {
            match part {
                TextPart::Literal(text) => {
                    in_query |= text.contains('?');
                    out.push_str(text);
                }
                TextPart::Var(var) => {
                    let value = lookup(var)?;
                    if !in_query {
                        if !stays_in_segment(&value) {
                            return None;
                        }
                        in_path.push(out.len());
                    }
                    out.extend(utf8_percent_encode(&value, ENCODED));
                }
            }
        }
        // Together with its neighbours a value may become what it is not alone: `.{type}`, `{a}{b}` of dots.
        let whole = in_path.into_iter().all(|at| stays_in_segment(&decoded(segment_at(&out, at))));
        whole.then_some(out)
    }
}

/// The segment of a URL's path that byte `at` is in.
fn segment_at(url: &str, at: usize) -> &str {
    let (before, behind) = url.split_at_checked(at).unwrap_or((url, ""));
    let begin = before.rfind('/').map_or(0, |slash| slash + 1);
    let length = behind.find(['/', '?']).unwrap_or(behind.len());
    url.get(begin..at + length).unwrap_or("")
}

fn decoded(segment: &str) -> Cow<'_, str> {
    percent_decode(segment.as_bytes()).decode_utf8_lossy()
}

/// Whether servers that decode it, be it more than once, still find one segment.
fn stays_in_segment(value: &str) -> bool {
    let mut text = Cow::Borrowed(value.as_bytes());
    for _ in 0..=ENCODINGS_MAX {
        let splits = |b: &u8| matches!(b, b'/' | b'\\' | b'?' | b'#') || b.is_ascii_control();
        // What follows a `;` is a parameter to some servers, which drop it first: `..;x` is `..` to them.
        let name = text.split(|b| *b == b';').next().unwrap_or_default();
        if text.is_empty() || text.iter().any(splits) || matches!(name, b"." | b"..") {
            return false;
        }
        let once: Vec<u8> = percent_decode(&text).collect();
        if *once == *text {
            return true;
        }
        text = Cow::Owned(once);
    }
    false
}

/// What `values` look like in a URL.
pub fn in_url(values: Values) -> Values {
    let plain = CharSet::of(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let percent = CharSet::of(|b| b == b'%');
    values.map(encoded, |set| if set.within(plain) { set } else { plain.or(percent) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Allow;
    use proptest::prelude::*;

    fn fill(url: &str, message_type: &str, user: &str) -> Option<String> {
        let allow = Allow { user: true, message_type: true, subscribe: false };
        Text::parse(url, &[], allow).unwrap().fill_url(|var| match var {
            Var::Type => Some(message_type.into()),
            Var::User => Some(user.into()),
            _ => None,
        })
    }

    #[test]
    fn values_are_encoded() {
        for (value, encoded) in [
            ("run", "run"),
            ("a b", "a%20b"),
            ("é", "%C3%A9"),
            ("auth0|1", "auth0%7C1"),
            ("a@b.c", "a%40b.c"),
            ("100%", "100%25"),
            ("%zz", "%25zz"),
            ("...", "..."),
            (".a", ".a"),
            ("a;b=c&d", "a%3Bb%3Dc%26d"),
        ] {
            assert_eq!(
                fill("http://h/x/{type}/y", value, ""),
                Some(format!("http://h/x/{encoded}/y")),
                "{value}"
            );
        }
    }

    #[test]
    fn in_the_path_a_value_stays_in_its_segment() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a\\b",
            "..\\..",
            "../admin",
            "%2F",
            "a%2fb",
            "%5c",
            "%2e%2e",
            "%2e",
            ".%2e",
            "%252f",
            "%25252e%25252e",
            "%252525252e",
            "a?b",
            "a#b",
            "%3F",
            "%23",
            "a\0",
            "%00",
            "a\n",
            "..;",
            ".;x",
            "..%3bx",
            "\u{7f}",
        ] {
            for url in ["http://h/x/{type}/y", "http://h/{type}", "http://h/x-{type}?q=1"] {
                let kept = url.contains("x-")
                    && matches!(bad, "" | "." | ".." | "%2e%2e" | "%2e" | ".%2e" | "..;" | ".;x" | "..%3bx");
                assert!(kept || fill(url, bad, "").is_none(), "{url} {bad:?}");
            }
            assert_eq!(fill("http://h/users/{auth.user}", "", bad), None, "{bad:?}");
        }
    }

    #[test]
    fn values_together_are_no_way_out() {
        assert_eq!(fill("http://h/a/.{type}/b", ".", ""), None);
        assert_eq!(fill("http://h/a/{type}{auth.user}", ".", "."), None);
        assert_eq!(fill("http://h/a/{type}2f", "x%", ""), None);
        assert!(fill("http://h/a/{type}{auth.user}", "x", "y.").is_some());
        assert!(fill("http://h/group%2Fproject/../{type}", "x", "").is_some(), "the file's own");
    }

    #[test]
    fn in_the_query_everything_is_a_value() {
        for (value, encoded) in
            [("a/b", "a%2Fb"), ("..", ".."), ("", ""), ("a&b=c#d", "a%26b%3Dc%23d"), ("%2F", "%252F")]
        {
            assert_eq!(
                fill("http://h/x?q={type}&z", value, ""),
                Some(format!("http://h/x?q={encoded}&z")),
                "{value}"
            );
        }
    }

    #[test]
    fn a_value_encoded_in_itself_again_and_again_costs_little() {
        let deep = format!("%{}41", "25".repeat(30_000));
        assert_eq!(fill("http://h/{type}", &deep, ""), None);
    }

    proptest! {
        #[test]
        fn however_often_it_is_decoded_the_path_has_its_segments(
            value in "[a.%/25fFcCeE;?#\\\\]{0,10}|.{0,6}",
            user in "[a.%/25fFeE;]{0,6}",
        ) {
            if let Some(url) = fill("http://h/x/{type}{auth.user}/{type}/z", &value, &user) {
                let mut path = url.strip_prefix("http://h").unwrap().as_bytes().to_vec();
                for _ in 0..12 {
                    let segments: Vec<&[u8]> = path.split(|b| matches!(b, b'/' | b'\\' | b'?' | b'#')).collect();
                    prop_assert_eq!(segments.len(), 5, "{:?}", String::from_utf8_lossy(&path));
                    prop_assert!(segments[1..].iter().all(|s| !matches!(*s, b"" | b"." | b"..")));
                    path = percent_decode(&path).collect();
                }
            }
        }
    }
}
