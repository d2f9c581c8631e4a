//! Who the client is when proxies stand between: the forwarding header is read from the right, and believed
//! only as far as each hop is a trusted proxy. What the client itself wrote on the left counts for nothing.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::config::ForwardedHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Hops looked at; a longer chain is not believed further.
const HOPS_MAX: usize = 32;

/// The client's address.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, kind: ForwardedHeader, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let peer = peer.to_canonical();
    let (name, parse): (_, fn(&str) -> Option<IpAddr>) = match kind {
        ForwardedHeader::None => return peer,
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, address),
        ForwardedHeader::Forwarded => (FORWARDED, forwarded_for),
    };
    let mut client = peer;
    let quotes = kind == ForwardedHeader::Forwarded;
    let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    let hops = values.iter().rev().flat_map(|value| elements_from_right(value, quotes));
    for hop in hops.take(HOPS_MAX) {
        if !is_trusted(client) {
            break;
        }
        // What cannot be read ends what can be believed.
        let Some(before) = parse(hop.trim()) else { break };
        client = before;
    }
    client
}

/// The elements of a list header, the last one first, split at commas, and where there are `quotes` at commas
/// outside of them. What the proxies wrote stands on the right: read from there, a quote that the client left
/// open, or bytes that are no text, cannot swallow it.
fn elements_from_right(value: &[u8], quotes: bool) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let element = match last_comma(text, quotes) {
            Some(at) => {
                rest = text.get(..at);
                text.get(at + 1..)?
            }
            None => {
                rest = None;
                text
            }
        };
        Some(std::str::from_utf8(element).unwrap_or(""))
    })
}

fn last_comma(text: &[u8], quotes: bool) -> Option<usize> {
    let mut quoted = false;
    let mut before = text;
    while let Some((byte, shorter)) = before.split_last() {
        before = shorter;
        match byte {
            b',' if !quoted => return Some(before.len()),
            // Within quotes one with a backslash before it is text, unless that is itself escaped.
            b'"' if quotes => {
                let backslashes = before.iter().rev().take_while(|b| **b == b'\\').count();
                quoted = !quoted || backslashes % 2 == 1;
            }
            _ => {}
        }
    }
    None
}

fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c => return c == separator && !quoted,
        }
        false
    })
    .collect()
}

/// The `for` of one element (RFC 7239 §4): an address, perhaps quoted, bracketed and with a port.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    split_unquoted(element, ';').into_iter().find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(())?;
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        address(value)
    })
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(peer: &str, kind: ForwardedHeader, values: &[&str]) -> String {
        let name = if kind == ForwardedHeader::Forwarded { FORWARDED } else { X_FORWARDED_FOR };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "::1/128"].iter().map(|n| n.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, kind, &trusted).to_string()
    }

    #[test]
    fn x_forwarded_for_is_believed_from_the_right_through_trusted_hops() {
        use ForwardedHeader::XForwardedFor as X;
        for (peer, values, expected) in [
            ("192.0.2.1", &["1.2.3.4"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4 , 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("10.0.0.1", &["[2001:db8::1]:99"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, junk"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, junk, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["\"6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6\\\", é, 1.2.3.4"], "1.2.3.4"),
        ] {
            assert_eq!(client(peer, X, values), expected, "{peer} {values:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_the_rfc_writes_it() {
        use ForwardedHeader::Forwarded as F;
        for (values, expected) in [
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"][..], "192.0.2.60"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=6.6.6.6, for=192.0.2.43"], "192.0.2.43"),
            (&["for=6.6.6.6", "proto=https; for=192.0.2.43"], "192.0.2.43"),
            (&["for=\"6.6.6.6, for=7.7.7.7\", for=10.0.0.3"], "10.0.0.3"),
            (&["for=_hidden"], "10.0.0.1"),
            (&["for=unknown, for=10.0.0.2"], "10.0.0.2"),
            (&["proto=http"], "10.0.0.1"),
            // A client leaves a quote open before what its proxy adds.
            (&["for=\"6.6.6.6\";x=\", for=1.2.3.4"], "1.2.3.4"),
            (&["for=6.6.6.6;x=\"\\, for=1.2.3.4;host=\"a\\\", for=6.6.6.6;b\\\\\""], "1.2.3.4"),
            (&["for=6.6.6.6;é, for=\"1.2.3.4\""], "1.2.3.4"),
        ] {
            assert_eq!(client("10.0.0.1", F, values), expected, "{values:?}");
        }
        assert_eq!(client("10.0.0.1", ForwardedHeader::None, &["1.2.3.4"]), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn an_untrusted_peer_is_itself_whatever_it_writes(value in "[ -~]{0,60}") {
            for kind in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                prop_assert_eq!(client("192.0.2.1", kind, &[&value]), "192.0.2.1");
            }
        }
    }
}
