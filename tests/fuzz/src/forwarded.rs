//! Who the client is behind proxies, whatever the client itself has written into the header.

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use pusher_bridge::server::forwarded::ForwardedHeader;
use pusher_bridge::server::forwarded::client_address;

use super::input::Input;

/// Of these the first four are trusted.
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.255.0.2",
    "2001:db8:1::1",
    "::1",
    "192.0.2.1",
    "2001:db8:2::2",
    "203.0.113.7",
    "8.8.8.8",
];

/// How a proxy writes an address.
fn written(address: IpAddr, kind: ForwardedHeader, style: usize) -> String {
    let port = style & 1 == 1;
    let host = match address {
        IpAddr::V6(v6) if port || kind == ForwardedHeader::Forwarded => format!("[{v6}]"),
        address => address.to_string(),
    };
    let host = if port { format!("{host}:4711") } else { host };
    if kind != ForwardedHeader::Forwarded {
        return host;
    }
    let quoted = if host.contains([':', '[']) { format!("\"{host}\"") } else { host };
    match style >> 1 & 3 {
        0 => format!("for={quoted}"),
        1 => format!("proto=https; For={quoted} ;by=_me"),
        2 => format!("host=\"a\\\", for=6.6.6.6;x=\\\\\";for={quoted}"),
        _ => format!("for={quoted};host=\"x, for=6.6.6.6\""),
    }
}

/// The client writes a header; each proxy adds the address it was reached from, to the same line or a new one.
/// Up to the first address that is not trusted, nothing the client wrote may matter.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind =
        input.pick(&[ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded, ForwardedHeader::None]);
    let trusted: Vec<IpNet> =
        ["10.0.0.0/8", "2001:db8:1::/48", "::1/128"].iter().map(|net| net.parse().unwrap()).collect();
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let name = match kind {
        ForwardedHeader::Forwarded => "forwarded",
        ForwardedHeader::XForwardedFor | ForwardedHeader::None => "x-forwarded-for",
    };
    let chain: Vec<(IpAddr, usize)> =
        (0..=input.below(4)).map(|_| (input.pick(&ADDRESSES).parse().unwrap(), input.below(16))).collect();
    let mut lines: Vec<Vec<u8>> = input.rest().split('\n').map(|line| line.as_bytes().to_vec()).collect();
    let alone = lines.iter().all(Vec::is_empty);
    // The first of the chain is the client as the first proxy saw it, the last is who reached this server.
    let (peer, proxied) = chain.split_last().unwrap();
    for (address, style) in proxied {
        let element = written(*address, kind, *style);
        match lines.last_mut() {
            Some(line) if style & 8 == 0 && !line.is_empty() => {
                line.extend_from_slice(format!(", {element}").as_bytes())
            }
            _ => lines.push(element.into_bytes()),
        }
    }
    let mut headers = HeaderMap::new();
    for line in lines {
        // hyper refuses what cannot be a header's value before anybody looks at it.
        let Ok(value) = HeaderValue::from_bytes(&line) else { return };
        headers.append(HeaderName::from_static(name), value);
    }
    let seen = client_address(peer.0, &headers, kind, &trusted);
    let expected = match kind {
        ForwardedHeader::None => Some(peer.0),
        _ => chain.iter().rev().map(|(address, _)| *address).find(|address| !is_trusted(*address)),
    };
    match expected {
        Some(expected) => assert_eq!(seen, expected, "{headers:?}"),
        // All are trusted, the client too: then what it wrote is believed, whatever it is.
        None if alone => assert_eq!(seen, chain[0].0, "{headers:?}"),
        None => {}
    }
}
