//! Whose connection a proxy says that it brings, and how much of what it sends says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pusher_bridge::server::announced::{Announced, BINARY_BYTES_MAX, Step, TEXT_BYTES_MAX, Want, step};

use super::input::Input;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A checksum is not one by chance.
const CRC32C: u8 = 3;

/// Reads what is wanted of `sent`, of which so much is there at a time. The verdict, and how much was read for it.
fn read(sent: &[u8], mut piece: impl FnMut() -> usize) -> (Step, usize) {
    let mut header = Vec::new();
    loop {
        let want = match step(&header) {
            Step::More(want) => want,
            verdict => return (verdict, header.len()),
        };
        assert!(want.bytes_max() > 0 && header.len() + want.bytes_max() <= BINARY_BYTES_MAX, "{want:?}");
        let left = &sent[header.len()..];
        let there = &left[..piece().clamp(1, left.len().max(1)).min(left.len())];
        if there.is_empty() {
            // How it is asked for depends on how it came, the bytes do not.
            return (Step::More(Want::Bytes(0)), header.len());
        }
        let mine = want.of(there);
        assert!((1..=want.bytes_max()).contains(&mine), "{want:?} of {there:?}");
        header.extend_from_slice(&there[..mine]);
    }
}

/// The header is all up to the length that it says, or to its line's end, and nothing of what follows; its client is
/// the one that is written there.
fn check(header: &[u8], announced: Announced) {
    let said = if let Some(rest) = header.strip_prefix(SIGNATURE) {
        assert_eq!(header.len(), 16 + usize::from(u16::from_be_bytes([rest[2], rest[3]])));
        let (addresses, port) = (&rest[4..], |at: usize| u16::from_be_bytes([rest[4 + at], rest[5 + at]]));
        match (rest[0] & 15, rest[1]) {
            (1, 0x11) => {
                let address: [u8; 4] = addresses[..4].try_into().unwrap();
                Announced::Client((Ipv4Addr::from(address), port(8)).into())
            }
            (1, 0x21) => {
                let address: [u8; 16] = addresses[..16].try_into().unwrap();
                Announced::Client((Ipv6Addr::from(address), port(32)).into())
            }
            (0, _) => Announced::Peer,
            _ => Announced::Unknown,
        }
    } else {
        assert!(header.len() <= TEXT_BYTES_MAX);
        assert_eq!(header.iter().position(|byte| *byte == b'\n'), Some(header.len() - 1));
        let line = std::str::from_utf8(header).unwrap().strip_suffix("\r\n").unwrap();
        match *line.split(' ').collect::<Vec<_>>() {
            ["PROXY", "TCP4" | "TCP6", client, _, port, _] => {
                let address: IpAddr = client.parse().unwrap();
                Announced::Client((address, port.parse().unwrap()).into())
            }
            ["PROXY", "UNKNOWN", ..] => Announced::Unknown,
            _ => panic!("{line:?} is taken"),
        }
    };
    assert_eq!(announced, said);
}

fn text(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let version = if client.is_ipv4() { 4 } else { 6 };
    let (from, to) = (client.ip(), server.ip());
    format!("PROXY TCP{version} {from} {to} {} {}\r\n", client.port(), server.port()).into_bytes()
}

fn binary(client: SocketAddr, server: SocketAddr, behind: &[u8]) -> Vec<u8> {
    let mut addresses = Vec::new();
    for side in [client, server] {
        match side.ip() {
            IpAddr::V4(v4) => addresses.extend(v4.octets()),
            IpAddr::V6(v6) => addresses.extend(v6.octets()),
        }
    }
    for side in [client, server] {
        addresses.extend(side.port().to_be_bytes());
    }
    let length = ((addresses.len() + behind.len()) as u16).to_be_bytes();
    let family = if client.is_ipv4() { 0x11 } else { 0x21 };
    [SIGNATURE, &[0x21, family], &length, &addresses, behind].concat()
}

fn end(input: &mut Input<'_>, is_v4: bool) -> SocketAddr {
    let mut bytes = [0; 16];
    bytes.fill_with(|| input.byte());
    let v4 = IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (if is_v4 { v4 } else { bytes.into() }, input.number() as u16).into()
}

/// A proxy's header, or any bytes in its place, and what follows it.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, is_v4) = (input.below(3), input.flag());
    let pieces = [0; 3].map(|_: usize| 1 + input.below(20));
    let announced = (kind < 2).then(|| {
        let [client, server] = [end(&mut input, is_v4), end(&mut input, is_v4)];
        if kind == 0 {
            return (client, text(client, server));
        }
        let mut behind = Vec::new();
        for _ in 0..input.below(4) {
            let kind = input.byte();
            behind.push(if kind == CRC32C { 0 } else { kind });
            let value = vec![input.byte(); input.below(256)];
            behind.extend((value.len() as u16).to_be_bytes());
            behind.extend(value);
        }
        (client, binary(client, server, &behind))
    });
    let mut sent = announced.as_ref().map_or_else(Vec::new, |(_, header)| header.clone());
    sent.extend_from_slice(input.bytes());

    let (verdict, length) = read(&sent, || usize::MAX);
    let mut turn = 0;
    let in_pieces = read(&sent, || {
        turn += 1;
        pieces[turn % pieces.len()]
    });
    // What is refused may be so at any byte of it.
    for other in [in_pieces, read(&sent, || 1)] {
        assert_eq!(other.0, verdict, "in pieces of {pieces:?}");
        assert!(other.1 == length || matches!(verdict, Step::Refused(_)));
    }
    if let Step::Done(announced) = verdict {
        check(&sent[..length], announced);
    }
    if let Some((client, header)) = announced {
        assert_eq!((verdict, length), (Step::Done(Announced::Client(client)), header.len()));
    }
}
