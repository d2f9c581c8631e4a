//! Pure: the fields of a request and of its answer, as they are passed on.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, Entry, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::{Method, StatusCode, Version};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Of one connection, whether `Connection` names them or not (RFC 9110 §7.6.1).
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];
/// What only a proxy that is trusted may say of the client.
static OF_PROXIES: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];
/// Another HTTP inside of the connection: what is asked there would be seen by nobody.
const H2C: &str = "h2c";

/// What is known of a request beside its fields.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub version: Version,
    /// Whose connection it is.
    pub peer: IpAddr,
    /// Whether that is a trusted proxy.
    pub is_trusted: bool,
    /// Which field such a proxy names its client in: that it continues, and the other it makes anew.
    pub believes_forwarded: bool,
    pub believes_x_forwarded_for: bool,
    /// The client, as far as proxies are believed.
    pub client: IpAddr,
    /// `http` or `https`, of the connection.
    pub scheme: &'static str,
    /// The host of an absolute target.
    pub authority: Option<&'a str>,
    pub has_body: bool,
}

/// Makes a request's fields those that are passed on. Whether it asks for an upgrade, and is passed on as such.
pub fn request(headers: &mut HeaderMap, asked: &Asked<'_>) -> bool {
    let takes_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    let upgrade = upgrade(headers, asked);
    remove_hop_by_hop(headers);
    let mut connection = Vec::new();
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        connection.push("TE");
    }
    let upgrades = upgrade.is_some();
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        connection.push("Upgrade");
    }
    if let Ok(options) = HeaderValue::from_str(&connection.join(", "))
        && !connection.is_empty()
    {
        headers.insert(CONNECTION, options);
    }
    if let Some(authority) = asked.authority.and_then(|host| HeaderValue::from_str(host).ok()) {
        headers.insert(HOST, authority);
    }
    forward(headers, asked);
    add_via(headers, asked.version);
    upgrades
}

/// Counts a server that an OPTIONS or a TRACE passes (RFC 9110 §7.6.2). `false`: this one is to be the last.
pub fn may_go_further(method: &Method, headers: &mut HeaderMap) -> bool {
    if !matches!(*method, Method::OPTIONS | Method::TRACE) {
        return true;
    }
    let mut values = headers.get_all(MAX_FORWARDS).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return true };
    let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    let Some(digits) = value.to_str().ok().filter(|_| is_number) else { return true };
    // More than that many are as many.
    let Some(left) = digits.parse::<u32>().unwrap_or(u32::MAX).checked_sub(1) else { return false };
    headers.insert(MAX_FORWARDS, HeaderValue::from(left));
    true
}

/// What the client wants to speak instead of HTTP, if that is passed on.
fn upgrade(headers: &HeaderMap, asked: &Asked<'_>) -> Option<HeaderValue> {
    let names_it = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut values = headers.get_all(UPGRADE).iter();
    let (protocol, None) = (values.next()?, values.next()) else { return None };
    let is_h2c = tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(H2C));
    let passes = names_it && asked.version == Version::HTTP_11 && !asked.has_body && !is_h2c;
    passes.then(|| protocol.clone())
}

/// Makes an answer's fields those that are passed on. `upgrades`: it is the 101.
pub fn answer(headers: &mut HeaderMap, version: Version, upgrades: bool) {
    let protocol = headers.get(UPGRADE).cloned().filter(|_| upgrades);
    remove_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    add_via(headers, version);
}

/// What is wrong with the head of an answer, which hyper may take all the same: the client might read it in another way.
#[must_use]
pub fn wrong_answer(
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    asked_upgrade: bool,
) -> Option<&'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_number = |value: &HeaderValue| {
        !value.is_empty() && value.len() < 20 && value.as_bytes().iter().all(u8::is_ascii_digit)
    };
    let (length, more) = (lengths.next(), lengths.next());
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (coding, more_codings) = (codings.next(), codings.next());
    if more.is_some() || length.is_some_and(|length| !is_number(length)) {
        return Some("its `Content-Length` is not one number");
    }
    if more_codings.is_some()
        || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Some("its `Transfer-Encoding` is not `chunked`, once");
    }
    if length.is_some() && coding.is_some() {
        return Some("it has a `Content-Length` and a `Transfer-Encoding`");
    }
    if coding.is_some() && version != Version::HTTP_11 {
        return Some("HTTP/1.0 has no `Transfer-Encoding`");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS && !asked_upgrade {
        return Some("it switches protocols, and nobody has asked for that");
    }
    None
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in &named {
        headers.remove(name);
    }
    remove(headers, &HOP_BY_HOP);
}

/// Most requests have none of them: that is found by looking at the few names there are.
fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    let there: Vec<HeaderName> = headers.keys().filter(|name| names.contains(name)).cloned().collect();
    for name in &there {
        headers.remove(name);
    }
}

/// Who the client is, and what it asked for (RFC 7239 and what came before it). A trusted proxy's word is continued, of
/// everybody else nothing is passed on.
fn forward(headers: &mut HeaderMap, asked: &Asked<'_>) {
    let host = headers.get(HOST).cloned();
    if !asked.is_trusted {
        remove(headers, &OF_PROXIES);
    }
    let peer = asked.peer.to_canonical();
    let continued = asked.is_trusted && asked.believes_x_forwarded_for;
    let before = if continued { joined(headers, &X_FORWARDED_FOR) } else { String::new() };
    // A chain that is not believed begins anew with who is.
    let last = if continued { peer } else { asked.client };
    set(headers, X_FORWARDED_FOR, before, &last.to_string());
    if !asked.is_trusted || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(asked.scheme));
    }
    if !asked.is_trusted || !headers.contains_key(X_FORWARDED_HOST) {
        match &host {
            Some(host) => _ = headers.insert(X_FORWARDED_HOST, host.clone()),
            None => _ = headers.remove(X_FORWARDED_HOST),
        }
    }
    let continued = asked.is_trusted && asked.believes_forwarded;
    let before = if continued { joined(headers, &FORWARDED) } else { String::new() };
    let last = if continued { peer } else { asked.client };
    let mut element = String::with_capacity(80);
    let _ = match last {
        IpAddr::V4(v4) => write!(element, "for={v4}"),
        IpAddr::V6(v6) => write!(element, "for=\"[{v6}]\""),
    };
    if let Some(host) = host.as_ref().and_then(|host| host.to_str().ok()) {
        let is_token = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if is_token {
            let _ = write!(element, ";host={host}");
        } else if !host.contains(['"', '\\']) {
            let _ = write!(element, ";host=\"{host}\"");
        }
    }
    let _ = write!(element, ";proto={}", asked.scheme);
    set(headers, FORWARDED, before, &element);
}

/// A list's values as one, in their order.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values.filter(|value| !value.trim().is_empty()).collect::<Vec<_>>().join(", ")
}

/// Adds `own` to what was there before.
fn set(headers: &mut HeaderMap, name: HeaderName, mut before: String, own: &str) {
    if !before.is_empty() {
        before.push_str(", ");
    }
    before.push_str(own);
    // Bytes that were no text were replaced by some that are.
    match HeaderValue::from_maybe_shared(Bytes::from(before)) {
        Ok(value) => _ = headers.insert(name, value),
        Err(_) => _ = headers.remove(name),
    }
}

/// Says who passes it on (RFC 9110 §7.6.3).
fn add_via(headers: &mut HeaderMap, version: Version) {
    let own = match version {
        Version::HTTP_10 => "1.0 pusher-bridge",
        Version::HTTP_2 => "2.0 pusher-bridge",
        _ => "1.1 pusher-bridge",
    };
    match headers.entry(VIA) {
        Entry::Vacant(entry) => _ = entry.insert(HeaderValue::from_static(own)),
        Entry::Occupied(_) => {
            let before = joined(headers, &VIA);
            set(headers, VIA, before, own);
        }
    }
}

/// The elements of a list.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests;
