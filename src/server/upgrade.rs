//! Whether a request is a proper WebSocket upgrade (RFC 6455 §4.2.1), stricter than hyper, or the extended CONNECT that is
//! the same in HTTP/2 (RFC 8441), and what it offers.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hyper::ext::Protocol;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Version};

/// Base64 (RFC 4648 §4) without its padding. The last digit has bits that belong to no byte. Keys that are written
/// into clients, among them one of RFC 6455's own (§4.1), have some of them set; the bytes are the same.
const NONCE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);
/// What a `Sec-WebSocket-Key` decodes to (RFC 6455 §4.2.1).
const NONCE_BYTES: usize = 16;

/// Why a request is not upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUpgradable {
    /// It asks for no WebSocket, or for a version other than 13: 426.
    UpgradeRequired(&'static str),
    /// It asks for one, but is malformed: 400.
    Malformed(&'static str),
}

/// How a WebSocket is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake<'a> {
    /// By an upgrade with this `Sec-WebSocket-Key`.
    Upgrade(&'a [u8]),
    /// By an extended CONNECT, which has no key (RFC 8441 §5).
    Connect,
}

/// Checks the request.
///
/// # Errors
/// What is missing or wrong.
pub fn check(request: &Parts) -> Result<Handshake<'_>, NotUpgradable> {
    if request.version == Version::HTTP_2 {
        check_connect(request).map(|()| Handshake::Connect)
    } else {
        check_upgrade(request).map(Handshake::Upgrade)
    }
}

fn check_upgrade(request: &Parts) -> Result<&[u8], NotUpgradable> {
    use NotUpgradable::{Malformed, UpgradeRequired};
    let headers = &request.headers;
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(UpgradeRequired("this endpoint speaks WebSocket only"));
    }
    if request.version != Version::HTTP_11 {
        return Err(Malformed("a WebSocket upgrade needs HTTP/1.1"));
    }
    if request.method != Method::GET {
        return Err(Malformed("a WebSocket upgrade is a GET"));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(Malformed("`Connection` does not name `upgrade`"));
    }
    if !one(headers, &HOST).is_some_and(is_host) {
        return Err(Malformed("`Host` must be there once, and be a host"));
    }
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Malformed("a WebSocket upgrade has no body"));
    }
    check_version(headers)?;
    one(headers, &SEC_WEBSOCKET_KEY)
        .filter(|key| is_nonce(key))
        .ok_or(Malformed("`Sec-WebSocket-Key` must be there once, and be 16 bytes in base64"))
}

/// RFC 8441 §4 and §5. That `:scheme` and `:path` are there is hyper's to see.
fn check_connect(request: &Parts) -> Result<(), NotUpgradable> {
    use NotUpgradable::{Malformed, UpgradeRequired};
    let protocol = request.extensions.get::<Protocol>().map(Protocol::as_str);
    if request.method != Method::CONNECT || protocol != Some("websocket") {
        return Err(UpgradeRequired(
            "this endpoint speaks WebSocket only: over HTTP/2 by an extended CONNECT",
        ));
    }
    if !request.uri.authority().is_some_and(|authority| is_host(authority.as_str().as_bytes())) {
        return Err(Malformed("`:authority` must be a host"));
    }
    if request.headers.contains_key(CONTENT_LENGTH) {
        return Err(Malformed("a WebSocket has no `Content-Length`"));
    }
    check_version(&request.headers)
}

fn check_version(headers: &HeaderMap) -> Result<(), NotUpgradable> {
    match one(headers, &SEC_WEBSOCKET_VERSION) {
        Some(b"13") => Ok(()),
        _ => Err(NotUpgradable::UpgradeRequired("this endpoint speaks WebSocket version 13")),
    }
}

/// Makes a request of HTTP/2 one that HTTP/1 can carry on: an extended CONNECT an upgrade (RFC 8441 §5.1), and a cookie in
/// pieces one field (RFC 9113 §8.2.3).
///
/// # Errors
/// It is a CONNECT that asks for no protocol.
pub fn for_http1(request: &mut Parts, nonce: [u8; NONCE_BYTES]) -> Result<(), NotUpgradable> {
    let headers = &mut request.headers;
    if request.method == Method::CONNECT {
        let protocol = request.extensions.remove::<Protocol>();
        let protocol = protocol.and_then(|protocol| HeaderValue::from_str(protocol.as_str()).ok());
        let protocol = protocol.ok_or(NotUpgradable::Malformed("a CONNECT needs a `:protocol`"))?;
        if protocol == "websocket"
            && let Ok(key) = HeaderValue::from_str(&STANDARD.encode(nonce))
        {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.method = Method::GET;
        request.version = Version::HTTP_11;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, cookie);
    }
    Ok(())
}

/// Sixteen bytes, with their padding or none: the number of digits tells as much.
fn is_nonce(key: &[u8]) -> bool {
    let digits = key.strip_suffix(b"==").unwrap_or(key);
    NONCE.decode(digits).is_ok_and(|nonce| nonce.len() == NONCE_BYTES)
}

/// The only value of a header; `None` when there is none, or several.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let only = values.next()?;
    values.next().is_none().then_some(only.as_bytes())
}

pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// A host and perhaps a port (RFC 9110 §7.2), checked only as far as junk requires.
fn is_host(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    const GOOD: &[(&str, &str)] = &[
        ("host", "example.com:8009"),
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().uri("/ws?token=a%20b&x=1");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    /// The good headers, with one replaced, or dropped when the value is empty, or added.
    fn with(name: &str, value: &str) -> Parts {
        let mut headers: Vec<_> = GOOD.iter().copied().filter(|(n, _)| *n != name).collect();
        if !value.is_empty() {
            headers.push((name, value));
        }
        parts(&headers)
    }

    #[test]
    fn only_proper_upgrades_pass() {
        assert_eq!(check(&parts(GOOD)), Ok(Handshake::Upgrade(b"dGhlIHNhbXBsZSBub25jZQ==")));
        assert!(check(&with("upgrade", "WebSocket")).is_ok());
        for (name, value) in [
            ("upgrade", ""),
            ("upgrade", "h2c"),
            ("sec-websocket-version", ""),
            ("sec-websocket-version", "8"),
        ] {
            assert!(
                matches!(check(&with(name, value)), Err(NotUpgradable::UpgradeRequired(_))),
                "{name} {value}"
            );
        }
        for (name, value) in [
            ("connection", ""),
            ("connection", "close"),
            ("host", ""),
            ("host", "a b"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("sec-websocket-key", ""),
            ("sec-websocket-key", "c2hvcnQ="),
            ("sec-websocket-key", "not base64!!!!!!!!!!!!!="),
        ] {
            assert!(matches!(check(&with(name, value)), Err(NotUpgradable::Malformed(_))), "{name} {value}");
        }
        for name in ["host", "sec-websocket-key"] {
            let mut twice = GOOD.to_vec();
            twice.push(*GOOD.iter().find(|(n, _)| *n == name).unwrap());
            assert!(matches!(check(&parts(&twice)), Err(NotUpgradable::Malformed(_))), "{name} twice");
        }
        let mut old = parts(GOOD);
        old.version = Version::HTTP_10;
        assert!(matches!(check(&old), Err(NotUpgradable::Malformed(_))));
        let mut post = parts(GOOD);
        post.method = Method::POST;
        assert!(matches!(check(&post), Err(NotUpgradable::Malformed(_))));
    }

    #[test]
    fn a_key_is_sixteen_bytes_whatever_is_left_of_its_last_digit_and_padding() {
        for digit in ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']) {
            for padding in ["==", ""] {
                let key = format!("AQIDBAUGBwgJCgsMDQ4PE{digit}{padding}");
                assert_eq!(check(&with("sec-websocket-key", &key)), Ok(Handshake::Upgrade(key.as_bytes())));
            }
        }
        for (key, why) in [
            ("AQIDBAUGBwgJCgsMDQ4PEC=", "half of the padding"),
            ("AQIDBAUGBwgJCgsMDQ4PEC===", "too much padding"),
            ("AQIDBAUGBwgJCgsMDQ4=", "14 bytes"),
            ("AQIDBAUGBwgJCgsMDQ4P", "15 bytes"),
            ("AQIDBAUGBwgJCgsMDQ4PEBE=", "17 bytes"),
            ("AQIDBAUGBwgJCgsMDQ4PEBES", "18 bytes"),
            ("AQIDBAUGBwgJCgsMDQ4P_C==", "another alphabet"),
            ("AQIDBAUGBwgJCgsMDQ4P_C", "another alphabet without padding"),
            ("AQIDBAUGBwgJ CgsMDQ4PEC==", "a space within"),
            ("=QIDBAUGBwgJCgsMDQ4PEC==", "padding at the front"),
            ("==", "nothing"),
        ] {
            assert!(
                matches!(check(&with("sec-websocket-key", key)), Err(NotUpgradable::Malformed(_))),
                "{why}: {key}"
            );
        }
    }

    #[test]
    fn over_http2_a_websocket_is_an_extended_connect() {
        let connect = |change: fn(&mut Parts)| {
            let request = Request::connect("https://example.com/ws").header("sec-websocket-version", "13");
            let mut parts = request.version(Version::HTTP_2).body(()).unwrap().into_parts().0;
            parts.extensions.insert(Protocol::from_static("websocket"));
            change(&mut parts);
            check(&parts).map(|_| ())
        };
        assert_eq!(connect(|_| ()), Ok(()));
        let upgrades: [fn(&mut Parts); 4] = [
            |parts| parts.method = Method::GET,
            |parts| _ = parts.extensions.insert(Protocol::from_static("connect-udp")),
            |parts| _ = parts.extensions.remove::<Protocol>(),
            |parts| _ = parts.headers.insert(SEC_WEBSOCKET_VERSION, "8".parse().unwrap()),
        ];
        for change in upgrades {
            assert!(matches!(connect(change), Err(NotUpgradable::UpgradeRequired(_))));
        }
        let malformed: [fn(&mut Parts); 2] = [
            |parts| parts.uri = "/ws".parse().unwrap(),
            |parts| _ = parts.headers.insert(CONTENT_LENGTH, "5".parse().unwrap()),
        ];
        for change in malformed {
            assert!(matches!(connect(change), Err(NotUpgradable::Malformed(_))));
        }
        let mut upgrade = parts(GOOD);
        upgrade.version = Version::HTTP_2;
        assert!(matches!(check(&upgrade), Err(NotUpgradable::UpgradeRequired(_))), "of HTTP/1");
    }
}
