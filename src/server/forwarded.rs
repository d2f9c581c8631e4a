//! Who the client is behind proxies: the forwarding header is read from the right, and believed
//! only as far as each hop is a trusted proxy. What the client itself wrote on the left counts for nothing.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::settings::Settings;
use crate::limits::address::ipv4_within;

/// Which header a trusted proxy writes the client's address into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
    /// None: the peer is the client.
    None,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Hops looked at; a longer chain is not believed further.
const HOPS_MAX: usize = 32;
/// Instead of bytes that are not text: no hop can be read in it, and it is not empty.
const UNREADABLE: &str = "?";
/// Networks of untrusted peers that are logged; further ones are not.
pub const NETWORKS_MAX: usize = 256;

/// What one hop says of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    /// It had this address.
    Address(IpAddr),
    /// It came over a Unix socket, so from the same machine.
    SameMachine,
    /// Hidden, unknown, or nothing that can be read.
    Unknown,
}

/// Whether an address, or the IPv4 address that is mapped into it, is one of `trusted`.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let ipv4 = ipv4_within(address);
    trusted.iter().any(|net| net.contains(&address) || net.contains(&ipv4))
}

/// The client's address.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, kind: ForwardedHeader, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let (name, parse): (_, fn(&str) -> Hop) = match kind {
        ForwardedHeader::None => return peer,
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, hop),
        ForwardedHeader::Forwarded => (FORWARDED, forwarded_for),
    };
    let mut client = peer;
    let quotes = kind == ForwardedHeader::Forwarded;
    let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    let hops = values.iter().rev().flat_map(|value| elements_from_right(value, quotes));
    for hop in hops.take(HOPS_MAX) {
        if !is_trusted(client, trusted) {
            break;
        }
        match parse(hop) {
            Hop::Address(before) => client = before,
            // Written by a machine that is trusted, of itself.
            Hop::SameMachine => {}
            // What cannot be read ends what can be believed.
            Hop::Unknown => break,
        }
    }
    client
}

/// The elements of a list header, the last one first, split at commas, and where there are `quotes` at commas
/// outside of them; empty ones are none (RFC 9110 §5.6.1.2). What the proxies wrote is on the right: read from
/// there, a quote that the client left open, or bytes that are no text, cannot swallow it.
fn elements_from_right(value: &[u8], quotes: bool) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    let elements = std::iter::from_fn(move || {
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
        Some(element.trim_ascii())
    });
    let elements = elements.filter(|element| !element.is_empty());
    elements.map(|element| std::str::from_utf8(element).unwrap_or(UNREADABLE))
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

/// The `for` of one element (RFC 7239 §4).
fn forwarded_for(element: &str) -> Hop {
    let value = split_unquoted(element, ';').into_iter().find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    });
    value.map_or(Hop::Unknown, hop)
}

/// A hop as proxies write it: an address, perhaps in quotes, in brackets, with a zone or a port; `unix:` and perhaps a
/// path, as nginx names the other end of a Unix socket; `unknown`, `_hidden` (RFC 7239 §6).
fn hop(text: &str) -> Hop {
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let plain = quoted.map(unescaped);
    let text = plain.as_deref().unwrap_or(text).trim();
    if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:")) {
        return Hop::SameMachine;
    }
    address(text).map_or(Hop::Unknown, |address| Hop::Address(address.to_canonical()))
}

/// A quoted string's text (RFC 9110 §5.6.4).
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        out.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    out
}

/// An address, perhaps with a zone or a port. The zone is its writer's own business.
fn address(text: &str) -> Option<IpAddr> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, behind) = rest.split_once(']')?;
            (inside, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
        }
        // More than one colon without brackets is an IPv6 address, and no port.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    if port.is_some_and(|port| !is_port(port)) {
        return None;
    }
    match host.split_once('%') {
        Some((address, zone)) if !zone.is_empty() => address.parse().ok().map(IpAddr::V6),
        _ => host.parse().ok(),
    }
}

/// Digits, or a name that hides them (RFC 7239 §6); perhaps no digit (RFC 3986 §3.2.3).
fn is_port(text: &str) -> bool {
    let hidden = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(hidden),
        None => text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Networks whose peers wrote a forwarding header without being trusted. Each is logged once, for it may be a proxy that
/// was forgotten; so many at most, for whoever connects can write one.
#[derive(Debug, Default)]
pub struct UntrustedForwarders(Mutex<HashSet<IpNet>>);

impl UntrustedForwarders {
    /// The peer's network (IPv4 /24, or as clients are counted), if `headers` have a forwarding header, nobody believes
    /// it, and none of this network was logged before.
    pub fn first_of(&self, peer: IpAddr, headers: &HeaderMap, server: &Settings) -> Option<IpNet> {
        let peer = peer.to_canonical();
        let written = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED);
        if !written || server.forwarded == ForwardedHeader::None || is_trusted(peer, &server.trusted_proxies)
        {
            return None;
        }
        let network = match peer {
            IpAddr::V4(v4) => Ipv4Net::new(v4, 24).ok().map(IpNet::V4),
            IpAddr::V6(v6) => Ipv6Net::new(v6, server.ipv6_prefix).ok().map(IpNet::V6),
        }?;
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (told.len() < NETWORKS_MAX && told.insert(network.trunc())).then_some(network.trunc())
    }
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
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, unix:"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4, unix:/run/proxy.sock, UNIX:, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["unix:"], "10.0.0.1"),
            ("192.0.2.1", &["1.2.3.4, unix:"], "192.0.2.1"),
            ("10.0.0.1", &["\"1.2.3.4\""], "1.2.3.4"),
            ("10.0.0.1", &["\"[2001:db8::1]:99\""], "2001:db8::1"),
            ("10.0.0.1", &["6.6.6.6, fe80::1%eth0"], "fe80::1"),
            ("10.0.0.1", &["[fe80::1%25eth0]:99"], "fe80::1"),
            ("10.0.0.1", &["[fe80::1%1]"], "fe80::1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4%eth0"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4:"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, [2001:db8::1]:"], "2001:db8::1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4:123456"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4:x"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4,"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4, ,10.0.0.1"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6,,1.2.3.4 ,\t, 10.0.0.2, ,"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4", ""], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4", " , ,", "10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &[",", " "], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, \"\""], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, \u{a0}"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 64:ff9b::a00:1"], "1.2.3.4"),
            ("64:ff9b::a00:1", &["6.6.6.6, 1.2.3.4, ::ffff:10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 64:ff9b::102:304"], "64:ff9b::102:304"),
            ("64:ff9b::102:304", &["6.6.6.6"], "64:ff9b::102:304"),
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
            (&["for=6.6.6.6, for=_hidden:_port"], "10.0.0.1"),
            (&["for=\"_hidden\", for=10.0.0.2"], "10.0.0.2"),
            (&["for=\"192.0.2.43:_port\""], "192.0.2.43"),
            (&["for=192.0.2.43, for=unix:"], "192.0.2.43"),
            (&["for=192.0.2.43, for=\"unix:/run/p.sock\";proto=http, for=10.0.0.2"], "192.0.2.43"),
            (&["for=\"[fe80::1%eth0]:80\""], "fe80::1"),
            (&["for=\"\\[2001:db8::1\\]\""], "2001:db8::1"),
            (&["for=unknown, for=10.0.0.2"], "10.0.0.2"),
            (&["proto=http"], "10.0.0.1"),
            (&["for=1.2.3.4,"], "1.2.3.4"),
            (&["for=1.2.3.4, , for=10.0.0.2", ""], "1.2.3.4"),
            (&["for=\"1.2.3.4:\""], "1.2.3.4"),
            (&["for=1.2.3.4, proto=http"], "10.0.0.1"),
            (&["for=1.2.3.4, for="], "10.0.0.1"),
            (&["for=1.2.3.4, ;"], "10.0.0.1"),
            // A client leaves a quote open before what its proxy adds.
            (&["for=\"6.6.6.6\";x=\", for=1.2.3.4"], "1.2.3.4"),
            (&["for=6.6.6.6;x=\"\\, for=1.2.3.4;host=\"a\\\", for=6.6.6.6;b\\\\\""], "1.2.3.4"),
            (&["for=6.6.6.6;é, for=\"1.2.3.4\""], "1.2.3.4"),
        ] {
            assert_eq!(client("10.0.0.1", F, values), expected, "{values:?}");
        }
        assert_eq!(client("10.0.0.1", ForwardedHeader::None, &["1.2.3.4"]), "10.0.0.1");
    }

    #[test]
    fn a_forgotten_proxy_is_told_of_once_per_network() {
        let text = "[upstream]\napp_id = \"1\"\nkey = \"k\"\nsecret = \"s\"\ncluster = \"eu\"\n\
                    [server]\ntrusted_proxies = [\"10.0.0.0/8\"]\nipv6_prefix = 56\n\
                    [dialects.d.out]\nevent = \"{data}\"\nerror = \"{code}\"\n\
                    [[routes]]\nname = \"r\"\npath = \"/r\"\nchannel = \"c\"\ndialect = \"d\"\n";
        let source = crate::config::Source { name: "r".into(), text: text.into() };
        let mut server = crate::config::load(&source, &|_| None).unwrap().config.server;
        let told = UntrustedForwarders::default();
        let first = |told: &UntrustedForwarders, server: &Settings, peer: &str, header: &HeaderName| {
            let headers = HeaderMap::from_iter([(header.clone(), HeaderValue::from_static("1.2.3.4"))]);
            told.first_of(peer.parse().unwrap(), &headers, server).map(|network| network.to_string())
        };
        assert_eq!(first(&told, &server, "10.0.0.1", &X_FORWARDED_FOR), None, "it is believed");
        assert_eq!(first(&told, &server, "64:ff9b::a00:1", &X_FORWARDED_FOR), None, "so is its IPv4 address");
        assert_eq!(first(&told, &server, "192.0.2.1", &hyper::header::HOST), None, "nothing is forwarded");
        assert_eq!(first(&told, &server, "192.0.2.1", &X_FORWARDED_FOR).as_deref(), Some("192.0.2.0/24"));
        assert_eq!(first(&told, &server, "::ffff:192.0.2.9", &FORWARDED), None, "once");
        assert_eq!(first(&told, &server, "2001:db8:0:1::1", &FORWARDED).as_deref(), Some("2001:db8::/56"));
        assert_eq!(first(&told, &server, "2001:db8:0:2::1", &FORWARDED), None, "once");
        for n in 0..=255 {
            let _ = first(&told, &server, &format!("198.18.{n}.1"), &FORWARDED);
        }
        assert_eq!(first(&told, &server, "203.0.113.1", &FORWARDED), None, "there is an end to it");
        server.forwarded = ForwardedHeader::None;
        assert_eq!(
            first(&UntrustedForwarders::default(), &server, "192.0.2.1", &FORWARDED),
            None,
            "said to be none"
        );
    }

    proptest! {
        #[test]
        fn any_hop_is_read_without_panic(text in "[a-f0-9:.%\\[\\]\"\\\\_ =;,unix]{0,24}|.*") {
            let _ = (hop(&text), forwarded_for(&text));
        }

        #[test]
        fn an_untrusted_peer_is_itself_whatever_it_writes(value in "[ -~]{0,60}") {
            for kind in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                prop_assert_eq!(client("192.0.2.1", kind, &[&value]), "192.0.2.1");
            }
        }
    }
}
