use super::*;
use proptest::prelude::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}")
}

/// What is wrong with the first and the second request of `bytes`, which come in parts of `cut`.
fn read(bytes: &[u8], cut: usize) -> [Option<Wrong>; 2] {
    let mut strict = Strict::new(16 * 1024);
    bytes.chunks(cut).for_each(|part| strict.read(part));
    [strict.wrong(1), strict.wrong(2)]
}

#[test]
fn what_is_as_it_should_be_passes_however_it_is_cut() {
    for first in [
        GET.to_owned(),
        format!("\r\n{GET}"),
        "GET http://H/a?b=c HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a HTTP/1.0\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: [::1]:80\r\nX: a\tb \u{e9} \r\nY:\r\nConnection: keep-alive, TE, x-mine\r\n\r\n"
            .to_owned(),
        post("Content-Length: 5\r\n", "GET /"),
        post("Content-Length: 0\r\n", ""),
        post("Transfer-Encoding: Chunked\r\n", "5\r\nGET /\r\n00aF;x=\"y\"\r\n")
            + &"z".repeat(0xaf)
            + "\r\n0\r\n\r\n",
        post("transfer-encoding:chunked\r\n", "0\r\nX-Sum: 1\r\nY: 2\r\n\r\n"),
    ] {
        let two = format!("{first}{GET}").into_bytes();
        for cut in [1, 2, 3, 7, two.len()] {
            assert_eq!(read(&two, cut), [None, None], "in parts of {cut}: {first:?}");
        }
    }
}

#[test]
fn what_a_smuggler_likes_is_wrong_and_so_is_all_that_follows() {
    let with = |field: &str| format!("GET /a HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
    let chunks = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
    for (what, request) in [
        ("both lengths", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("both, the other way", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "12345")),
        ("two equal lengths", post("Content-Length: 5\r\nContent-Length: 5\r\n", "12345")),
        ("a list of lengths", post("Content-Length: 5, 5\r\n", "12345")),
        ("a sign", post("Content-Length: +5\r\n", "12345")),
        ("a negative length", post("Content-Length: -5\r\n", "12345")),
        ("hex", post("Content-Length: 0x5\r\n", "12345")),
        ("no length", post("Content-Length:\r\n", "")),
        ("a fraction", post("Content-Length: 5.0\r\n", "12345")),
        ("an endless length", post("Content-Length: 99999999999999999999999\r\n", "12345")),
        ("two codings", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("two codings of one", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        ("twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("another coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("gzip", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("quotes", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        ("a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        ("chunks of HTTP/1.0", "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("obs-fold", with("X: a\r\n b")),
        ("obs-fold with a tab", with("X: a\r\n\tb")),
        ("obs-fold at once", "GET /a HTTP/1.1\r\n Host: h\r\n\r\n".to_owned()),
        ("bare LF", with("X: a\nY: b")),
        ("bare LF everywhere", "GET /a HTTP/1.1\nHost: h\n\n".to_owned()),
        ("bare LF at the end", "GET /a HTTP/1.1\r\nHost: h\r\n\n".to_owned()),
        ("bare CR", with("X: a\rY: b")),
        ("NUL", with("X: a\0b")),
        ("space before the colon", with("Content-Length : 5")),
        ("a name with a high byte", with("X\u{e9}: 5")),
        ("a name with a space", with("X Y: 5")),
        ("no name", with(": 5")),
        ("no colon", with("X")),
        ("two hosts", with("Host: other")),
        ("no host", "GET /a HTTP/1.1\r\n\r\n".to_owned()),
        ("an empty host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n".to_owned()),
        ("a host with a path", "GET /a HTTP/1.1\r\nHost: h/x\r\n\r\n".to_owned()),
        ("a host with a user", "GET /a HTTP/1.1\r\nHost: a@h\r\n\r\n".to_owned()),
        ("a list of hosts", "GET /a HTTP/1.1\r\nHost: h, g\r\n\r\n".to_owned()),
        ("Connection: Content-Length", with("Connection: Content-Length")),
        ("Connection: Host", with("Connection: close, hOST")),
        ("Connection: X-Forwarded-For", with("Connection: x-forwarded-for,close")),
        ("Connection: Authorization", with("Connection: authorization")),
        ("another target", line("GET http://g/a HTTP/1.1")),
        ("another port", line("GET http://h:81/a HTTP/1.1")),
        ("a target with a user", line("GET http://u@h/a HTTP/1.1")),
        ("another scheme", line("GET file://h/a HTTP/1.1")),
        ("CONNECT", line("CONNECT h:80 HTTP/1.1")),
        ("CONNECT of a path", line("CONNECT http://h/ HTTP/1.1")),
        ("a target without a slash", line("GET a HTTP/1.1")),
        ("* for GET", line("GET * HTTP/1.1")),
        ("a fragment", line("GET /a#b HTTP/1.1")),
        ("two spaces", line("GET  /a HTTP/1.1")),
        ("a space in the target", line("GET /a b HTTP/1.1")),
        ("a space at the end", line("GET /a HTTP/1.1 ")),
        ("a tab", line("GET\t/a\tHTTP/1.1")),
        ("a space at the front", line(" GET /a HTTP/1.1")),
        ("a high byte in the target", line("GET /\u{e9} HTTP/1.1")),
        ("HTTP/0.9", "GET /a\r\n\r\n".to_owned()),
        ("another version", line("GET /a HTTP/1.2")),
        ("HTTP/2", line("GET /a HTTP/2.0")),
        ("two empty lines", format!("\r\n\r\n{GET}")),
        ("a large extension", chunks(&format!("1;{}\r\nz\r\n0\r\n\r\n", "x".repeat(2000)))),
        ("many extensions", chunks(&(format!("1;{}\r\nz\r\n", "x".repeat(100)).repeat(20) + "0\r\n\r\n"))),
        ("a size without digits", chunks("\r\n\r\n")),
        ("a sized with 0x", chunks("0x1\r\nz\r\n0\r\n\r\n")),
        ("a size with a sign", chunks("+1\r\nz\r\n0\r\n\r\n")),
        ("a size with a space", chunks("1 \r\nz\r\n0\r\n\r\n")),
        ("a size of many digits", chunks("00000000000000001\r\nz\r\n0\r\n\r\n")),
        ("a size with a bare LF", chunks("1\nz\r\n0\r\n\r\n")),
        ("an extension with a bare LF", chunks("1;x\nz\r\n0\r\n\r\n")),
        ("a bare CR behind the size", chunks("1\rz\r\n0\r\n\r\n")),
        ("a chunk that is longer", chunks("1\r\nzz\r\n0\r\n\r\n")),
        ("a bare LF behind a chunk", chunks("1\r\nz\n0\r\n\r\n")),
        ("a length behind the body", chunks("0\r\nContent-Length: 5\r\n\r\n")),
        ("a host behind the body", chunks("0\r\nHost: g\r\n\r\n")),
        ("a folded trailer", chunks("0\r\nX: a\r\n b\r\n\r\n")),
        ("large trailers", chunks(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000)))),
    ] {
        let two = format!("{request}{GET}").into_bytes();
        for cut in [1, 5, two.len()] {
            let [first, second] = read(&two, cut);
            assert!(first.is_some() && second.is_some(), "{what}, in parts of {cut}: {request:?}");
        }
    }
}

#[test]
fn what_is_wrong_later_does_not_concern_what_was_right_before() {
    let bad = post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "");
    let two = format!("{GET}{bad}").into_bytes();
    let [first, second] = read(&two, two.len());
    assert_eq!(first, None);
    assert!(second.is_some());
}

#[test]
fn nothing_is_looked_at_behind_an_upgrade() {
    let upgrade = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut strict = Strict::new(1024);
    strict.read(&[upgrade.as_bytes(), &[0x81, 0x00, b'\n', 0]].concat());
    assert_eq!(strict.wrong(1), None);
    assert!(matches!(strict.state, State::Over));
}

/// A head that does not end is in hyper's buffer, and need not be here, too.
#[test]
fn of_a_large_part_of_a_head_little_is_kept_and_what_is_wrong_in_it_is_found() {
    let begin = "POST /a HTTP/1.1\r\nX: y\r\nHost: h\r\nContent-Length: 3\r\nY: z\r\nZ: ";
    for cut in [1, 100, 5000] {
        let mut strict = Strict::new(16 * 1024);
        let part = format!("{begin}{}", "z".repeat(9000));
        part.as_bytes().chunks(cut).for_each(|bytes| strict.read(bytes));
        let State::Head(kept) = &strict.state else { panic!("{:?}", strict.state) };
        assert!(kept.capacity() <= 2 * COLLECTED_BYTES, "{} bytes", kept.capacity());
        strict.read(format!("\r\n\r\nabc{GET}").as_bytes());
        assert_eq!([strict.wrong(1), strict.wrong(2)], [None, None]);
        assert_eq!(strict.heads, 2);
    }
    let z = "z".repeat(2000);
    for wrong in [
        format!("{begin}{z}\n{z}\r\n\r\nabc"),
        format!("{begin}{z}\r{z}\r\n\r\nabc"),
        format!("{begin}{z}\r\n {z}\r\n\r\nabc"),
        format!("{begin}{z}\r\nContent-Length: 3\r\nX: {z}\r\n\r\nabc"),
        format!("{begin}{z}\r\nHost : h\r\nX: {z}\r\n\r\nabc"),
    ] {
        for cut in [1, 3, 700] {
            assert!(read(wrong.as_bytes(), cut)[0].is_some(), "in parts of {cut}: {wrong:?}");
        }
    }
}

#[test]
fn who_reads_no_more_than_there_is_room_for_lets_no_head_become_too_large() {
    const MAX: usize = 100;
    let head = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - 27));
    let large = post("Content-Length: 300\r\n", &"b".repeat(300));
    let chunked = post("Transfer-Encoding: chunked\r\n", &format!("12c\r\n{}\r\n0\r\n\r\n", "c".repeat(300)));
    for before in ["", GET, &large, &chunked, &format!("{large}{chunked}{GET}")] {
        for (length, fits) in [(MAX, true), (MAX + 1, false), (3 * MAX, false)] {
            let stream = format!("{before}{}{GET}", head(length)).into_bytes();
            let mut strict = Strict::new(MAX);
            let mut rest = &stream[..];
            while !rest.is_empty() && strict.room() > 0 {
                let (part, behind) = rest.split_at(strict.room().min(rest.len()));
                strict.read(part);
                rest = behind;
            }
            assert_eq!(strict.room() > 0, fits, "{length} behind {before:?}");
            assert_eq!((strict.wrong, strict.is_within_a_head()), (None, !fits));
        }
    }
}

#[test]
fn where_no_more_is_looked_at_heads_have_their_limit_all_the_same() {
    let mut strict = Strict::new(2_000);
    let broken = format!("GET /a HTTP/1.1\r\nHost: h\r\nX: b\nY: {}", "y".repeat(1_500));
    strict.read(broken.as_bytes());
    assert!(strict.is_over() && strict.room() < 600, "{}", strict.room());
    strict.read(&vec![b'y'; strict.room()]);
    assert_eq!(strict.room(), 0);
    strict.found(1);
    assert_eq!(strict.room(), 2_000, "it was no head's");
    // hyper finds an end where there is none: each head by itself is small enough.
    let mut strict = Strict::new(100);
    for request in 1..10 {
        strict.read(b"GET /a HTTP/1.1\nHost: h\n\n");
        assert!(strict.wrong(request).is_some());
        strict.found(request);
        assert!(!strict.is_within_a_head());
        assert_eq!(strict.room(), 100);
    }
}

#[test]
fn much_of_a_body_is_read_at_once_and_nothing_behind_it() {
    let mut strict = Strict::new(100);
    strict.read(post("Content-Length: 65540\r\n", "").as_bytes());
    assert_eq!(strict.room(), BODY_READ_BYTES);
    strict.read(&[b'a'; 65_500]);
    assert_eq!(strict.room(), 40);
    strict.read(&[b'a'; 40]);
    assert_eq!(strict.room(), 100);
}

proptest! {
    /// What one gets does not depend on how the network cuts it, and no bytes are more than it can take.
    #[test]
    fn cuts_do_not_matter(
        parts in proptest::collection::vec(prop_oneof![
            Just(GET.to_owned()),
            Just(post("Content-Length: 3\r\n", "abc")),
            Just(post("Transfer-Encoding: chunked\r\n", "2\r\nab\r\n0\r\n\r\n")),
            "[ -~\r\n]{0,40}",
        ], 0..5),
        cut in 1_usize..60,
    ) {
        let bytes = parts.concat().into_bytes();
        let whole = read(&bytes, bytes.len().max(1));
        prop_assert_eq!(read(&bytes, cut), whole);
    }
}
