//! Hosts and ports as keys have them: `upstream.host`, and the authority of every URL. What passes here can be
//! looked up, dialled, and named in TLS and in a `Host` header.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest name (RFC 1035 §2.3.4), without the dot that may end it.
const NAME_BYTES_MAX: usize = 253;
/// Longest label (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// `HOST` or `HOST:PORT`, as a URL has them (RFC 3986 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub(crate) host: &'a str,
    /// 1 to 65535.
    pub(crate) port: Option<u16>,
}

/// Checks a host alone: a name, an IPv4 address, or an IPv6 address with or without brackets.
///
/// # Errors
/// What is wrong, without the text itself: it may hold credentials.
pub(crate) fn check_host(text: &str) -> Result<(), String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if inner.unwrap_or(text).contains(':') || text.starts_with('[') {
        return match inner.unwrap_or(text).parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => {
                Err("this is not a valid IPv6 address, and nothing else has a `:` or brackets".to_owned())
            }
        };
    }
    check_name(text)
}

/// A name of letters, digits, `-` and `_` (RFC 1123 §2.1; `_` stands in the names of containers), or an IPv4
/// address. What ends in a number is an address and nothing else (WHATWG URL, "ends in a number"): resolvers
/// read `1.2.3` and `0x7f000001` as addresses of their own making.
fn check_name(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err("the host is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("the host has {} bytes of at most {NAME_BYTES_MAX}", name.len()));
    }
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return Err(format!("each part of a host between dots has 1 to {LABEL_BYTES_MAX} characters"));
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(
                "a host is letters, digits, `-`, `_` and `.` (another script in its `xn--` form)".to_owned()
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part of a host begins or ends with `-`".to_owned());
        }
        last = label;
    }
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if number && text.parse::<Ipv4Addr>().is_err() {
        return Err("a host that ends in a number must be an IPv4 address: four numbers up to 255".to_owned());
    }
    Ok(())
}

/// Takes `HOST[:PORT]` apart and checks both.
///
/// # Errors
/// What is wrong, without the text itself: it may hold credentials.
pub(crate) fn authority(text: &str) -> Result<Authority<'_>, String> {
    if text.contains('@') {
        return Err("credentials have no place before the host".to_owned());
    }
    let (host, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err("what follows an IPv6 address is `:` and a port".to_owned()),
        Some(digits) => Some(self::port(digits)?),
    };
    check_host(host)?;
    Ok(Authority { host, port })
}

/// Checks what follows the authority of a URL that is requested: a path and a query of RFC 3986's characters.
///
/// # Errors
/// The byte offset of what cannot stand there, and a sentence.
pub(crate) fn check_target(text: &str) -> Result<(), (usize, &'static str)> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'#' => return Err((at, "what follows `#` is never sent")),
            b'%' => {
                let digits =
                    text.get(at + 1..at + 3).is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                if !digits {
                    return Err((at, "`%` begins two hexadecimal digits; a `%` itself is `%25`"));
                }
                bytes.nth(1);
            }
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte) => {}
            _ => return Err((at, "this is not allowed in a URL (RFC 3986); percent-encode it")),
        }
    }
    Ok(())
}

fn port(digits: &str) -> Result<u16, String> {
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten();
    number.filter(|port| *port != 0).ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_can_be_looked_up() {
        let long = format!("{}.example.com", "a".repeat(63));
        for good in [
            "localhost",
            "api-eu.pusher.com",
            "example.com.",
            "soketi_1",
            "10.0.0.1",
            "::1",
            "[::1]",
            "[::ffff:10.0.0.1]",
            "3com.example",
            "xn--bcher-kva.example",
            &long,
        ] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        let (long_label, long_name) = ("a".repeat(64), "a.".repeat(127) + "a");
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a:b:c",
            "a:1",
            "[::",
            "::]",
            "[::1",
            "[]",
            "[a]",
            "[10.0.0.1]",
            "[::1%eth0]",
            "-a",
            "a-",
            "a-.b",
            "a b",
            "a/b",
            "a?b",
            "u@a",
            "bücher.example",
            "*.example.com",
            "256.1.1.1",
            "1.2.3",
            "1",
            "0x7f000001",
            "127.0.0.1.",
            "a.1",
            &long_label,
            &long_name,
        ] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (text, host, port) in [
            ("a", "a", None),
            ("a:1", "a", Some(1)),
            ("a:065535", "a", Some(65535)),
            ("10.0.0.1:80", "10.0.0.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[::1]:443", "[::1]", Some(443)),
        ] {
            assert_eq!(authority(text), Ok(Authority { host, port }), "{text}");
        }
        for bad in [
            "", ":80", "a:", "a:0", "a:65536", "a:99999", "a:+1", "a:b", "a:b:c", "::1", "[::1]80", "[::",
            "a:1:2",
        ] {
            assert!(authority(bad).is_err(), "{bad}");
        }
        let error = authority("user:s3cret@host").unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_target_is_a_path_and_a_query() {
        for good in ["", "/", "/a/b?c=d&e=%2F", "?a", "/a:b@c;d=e/~-._!$'()*+,"] {
            assert_eq!(check_target(good), Ok(()), "{good}");
        }
        for (bad, at) in [
            ("/a<b>", 2),
            ("/a b", 2),
            ("/\"", 1),
            ("/é", 1),
            ("/#x", 1),
            ("/%", 1),
            ("/%4", 1),
            ("/%zz", 1),
            ("/\\", 1),
            ("/a|b^", 2),
            ("/\u{7f}", 1),
        ] {
            assert_eq!(check_target(bad).unwrap_err().0, at, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_passes_is_plain(text in "[a:.@\\[\\]0-9-]{0,12}|.*") {
            if let Ok(Authority { host, .. }) = authority(&text) {
                let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
                prop_assert!(!host.is_empty() && host.bytes().all(legal));
                let uri = format!("http://{text}/").parse::<hyper::Uri>().unwrap();
                prop_assert_eq!(uri.host(), Some(host));
            }
        }

        #[test]
        fn what_passes_can_be_requested(target in "[/?][ -~é]{0,12}") {
            if check_target(&target).is_ok() {
                let uri = format!("http://a{target}").parse::<hyper::Uri>().unwrap();
                prop_assert!(uri.path_and_query().unwrap().as_str().ends_with(&target));
            }
        }
    }
}
