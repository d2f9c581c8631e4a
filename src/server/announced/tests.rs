use proptest::prelude::*;

use super::*;

/// What comes of `bytes` when they arrive in these pieces, and how many were read.
fn read(bytes: &[u8], pieces: &[usize]) -> (Step, usize) {
    let (mut read, mut arrived) = (0, 0);
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(bytes.len().max(1)));
    loop {
        let step = step(&bytes[..read]);
        let Step::More(want) = step else { return (step, read) };
        assert!(want.bytes_max() > 0, "it would wait for nothing");
        if read == arrived {
            if arrived == bytes.len() {
                return (step, read);
            }
            arrived = (arrived + pieces.next().unwrap_or(1).max(1)).min(bytes.len());
        }
        let taken = want.of(&bytes[read..arrived]);
        assert!(taken > 0 && taken <= want.bytes_max());
        read += taken;
    }
}

fn whole(bytes: &[u8]) -> Step {
    let (step, read) = read(bytes, &[]);
    assert!(!matches!(step, Step::Done(_)) || read == bytes.len(), "{step:?}");
    step
}

fn binary_header(command: u8, family: u8, addresses: &[u8], behind: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len() + behind.len()).unwrap();
    [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length.to_be_bytes(), addresses, behind].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0, 80];

fn of(address: &str) -> Step {
    Step::Done(Announced::Client(address.parse().unwrap()))
}

#[test]
fn text_headers_are_taken_and_told_from_what_is_wrong() {
    let refused = Step::Refused;
    for (text, expected) in [
        ("PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\r\n", of("192.0.2.1:12345")),
        ("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", of("[2001:db8::1]:1")),
        ("PROXY UNKNOWN\r\n", Step::Done(Announced::Unknown)),
        ("PROXY UNKNOWN  \n", Step::Refused(Unannounced::Malformed)),
        ("PROXY UNKNOWN ffff:f...f:ffff x 65535 \r\n", Step::Done(Announced::Unknown)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\n", refused(Unannounced::Malformed)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\rx\r\n", refused(Unannounced::Malformed)),
        ("PROXY TCP4 2001:db8::1 192.0.2.2 12345 80\r\n", refused(Unannounced::Malformed)),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 99999 80\r\n", refused(Unannounced::Malformed)),
        ("PROXY UDP4 192.0.2.1 192.0.2.2 12345 80\r\n", refused(Unannounced::Malformed)),
        ("PROXY\r\n", refused(Unannounced::Malformed)),
        ("PROXY \u{fffd}\r\n", refused(Unannounced::Malformed)),
        ("proxy UNKNOWN\r\n", refused(Unannounced::Missing)),
        ("GET / HTTP/1.1\r\n\r\n", refused(Unannounced::Missing)),
        ("\r\n\r\nGET", refused(Unannounced::Missing)),
        ("PROXY TCP4 192.0.2.1", Step::More(Want::Line(TEXT_BYTES_MAX - 20))),
    ] {
        assert_eq!(whole(text.as_bytes()), expected, "{text:?}");
    }
    let long = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - "PROXY UNKNOWN \r\n".len()));
    assert_eq!(whole(long(TEXT_BYTES_MAX).as_bytes()), Step::Done(Announced::Unknown));
    assert_eq!(whole(long(TEXT_BYTES_MAX + 1).as_bytes()), refused(Unannounced::TooLong));
}

#[test]
fn binary_headers_are_taken_and_told_from_what_is_wrong() {
    let refused = Step::Refused;
    let ipv6: Vec<u8> = [&[0x20, 1, 0xd, 0xb8][..], &[0; 28], &[0, 1, 0, 2]].concat();
    let ignored = [tlv(0x02, b"a.example"), tlv(0xEA, &[1; 300]), tlv(0x04, b"")].concat();
    for (header, expected) in [
        (binary_header(1, 0x11, &IPV4, &[]), of("192.0.2.1:12345")),
        (binary_header(1, 0x21, &ipv6, &ignored), of("[2001:db8::]:1")),
        (binary_header(0, 0, &[], &[]), Step::Done(Announced::Peer)),
        // What a check of its own has besides is nothing to go by.
        (binary_header(0, 0x11, &IPV4, &[]), Step::Done(Announced::Peer)),
        (binary_header(1, 0x31, &[0; 216], &[]), Step::Done(Announced::Unknown)),
        (binary_header(1, 0, &[], &[9; 7]), Step::Done(Announced::Unknown)),
        (binary_header(1, 0x12, &IPV4, &[]), refused(Unannounced::Protocol)),
        (binary_header(1, 0x32, &[0; 216], &[]), refused(Unannounced::Protocol)),
        (binary_header(2, 0x11, &IPV4, &[]), refused(Unannounced::Malformed)),
        (binary_header(1, 0x41, &IPV4, &[]), refused(Unannounced::Malformed)),
        (binary_header(1, 0x11, &IPV4[..11], &[]), refused(Unannounced::Malformed)),
        (binary_header(1, 0x11, &IPV4, &[1]), refused(Unannounced::Malformed)),
        (binary_header(1, 0x11, &IPV4, &[1, 0, 1]), refused(Unannounced::Malformed)),
        (binary_header(1, 0x11, &IPV4, &[9; 4069]), refused(Unannounced::TooLong)),
        (binary_header(1, 0x11, &IPV4, &tlv(0x30, &[0; 4065])), of("192.0.2.1:12345")),
    ] {
        assert_eq!(whole(&header), expected, "{header:?}");
    }
    let mut version = binary_header(1, 0x11, &IPV4, &[]);
    version[12] = 0x11;
    assert_eq!(whole(&version), refused(Unannounced::Malformed));
}

#[test]
fn a_checksum_that_is_there_is_looked_at() {
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c([0; 32].into_iter()), 0x8A91_36AA);
    assert_eq!(crc32c(0..32), 0x46DD_794E);
    let mut header = binary_header(1, 0x11, &IPV4, &[tlv(2, b"x"), tlv(CRC32C, &[0; 4])].concat());
    let at = header.len() - 4;
    let checksum = crc32c(header.iter().copied()).to_be_bytes();
    header[at..].copy_from_slice(&checksum);
    assert_eq!(whole(&header), of("192.0.2.1:12345"));
    for bit in 16 * 8..header.len() * 8 {
        let mut broken = header.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(whole(&broken), Step::Refused(Unannounced::Checksum | Unannounced::Malformed)) || {
                // Unless it is no checksum any more.
                bit / 8 == at - 3
            }
        );
    }
    let short = binary_header(1, 0x11, &IPV4, &tlv(CRC32C, &[0; 3]));
    assert_eq!(whole(&short), Step::Refused(Unannounced::Malformed));
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let ports = any::<(u16, u16)>();
    prop_oneof![
        (any::<[u8; 4]>(), ports).prop_map(|(ip, (one, other))| {
            format!("PROXY TCP4 {} 192.0.2.2 {one} {other}\r\n", std::net::Ipv4Addr::from(ip)).into_bytes()
        }),
        Just(b"PROXY UNKNOWN\r\n".to_vec()),
        (0..2_u8, any::<[u8; 12]>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(command, addresses, value)| binary_header(command, 0x11, &addresses, &tlv(0xE0, &value))
        ),
    ]
}

proptest! {
    #[test]
    fn it_comes_out_alike_however_it_arrives_and_takes_nothing_that_follows(
        header in header(),
        pieces in prop::collection::vec(1..20_usize, 0..40),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let expected = whole(&header);
        prop_assert!(matches!(expected, Step::Done(_)));
        let all = [&header[..], &behind].concat();
        prop_assert_eq!(read(&all, &pieces), (expected, header.len()));
        for cut in 0..header.len() {
            prop_assert!(matches!(whole(&header[..cut]), Step::More(_)), "{}", cut);
        }
    }

    #[test]
    fn no_bytes_do_harm_and_none_beyond_the_bound_are_read(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        prefix in prop_oneof![Just(&b"PROXY "[..]), Just(v2::PROTOCOL_PREFIX), Just(&b""[..])],
    ) {
        let (_, taken) = read(&[prefix, &bytes].concat(), &[]);
        prop_assert!(taken <= BINARY_BYTES_MAX);
    }
}
