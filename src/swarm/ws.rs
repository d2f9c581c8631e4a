//! Pure: RFC 6455 as a client that loads a server needs it: no extensions, and the same key and mask every time.

use super::end::End;

/// What is wrong with bytes that came.
type Result<T> = std::result::Result<T, String>;

/// The example key of RFC 6455 §1.3, and the answer to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// Any mask does: it defends proxies, and there is none.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// With the mask.
const HEADER_BYTES_MAX: usize = 14;
/// Largest message that is taken. What is longer ends the connection.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

pub struct Frame<'a> {
    pub opcode: u8,
    /// No more of this message follows.
    pub is_last: bool,
    pub payload: &'a [u8],
    /// Header and payload together, bytes.
    pub length: usize,
}

/// The first frame of `buffer`, sent by a server; `None` while it is incomplete.
pub fn parse(buffer: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = buffer else { return Ok(None) };
    if first & 0x70 != 0 || second & MASKED != 0 {
        return Err(format!("a frame starts {first:#04x} {second:#04x}: extended or masked"));
    }
    let (payload_bytes, header_bytes) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 2),
    };
    let length = match usize::try_from(payload_bytes) {
        Ok(bytes @ ..=MESSAGE_BYTES_MAX) => header_bytes + bytes,
        _ => return Err(format!("a frame of {payload_bytes} bytes, of at most {MESSAGE_BYTES_MAX}")),
    };
    let Some(payload) = buffer.get(header_bytes..length) else { return Ok(None) };
    Ok(Some(Frame { opcode: first & 0x0f, is_last: first & FIN != 0, payload, length }))
}

/// A client's frame, masked.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + HEADER_BYTES_MAX);
    mask_into(&mut frame, opcode, payload);
    frame
}

/// The same, behind what `frames` has.
pub fn mask_into(frames: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    header(frames, opcode, MASKED, payload.len());
    frames.extend_from_slice(&MASK);
    frames.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A server's frame.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + HEADER_BYTES_MAX);
    header(&mut frame, opcode, 0, payload.len());
    frame.extend_from_slice(payload);
    frame
}

fn header(header: &mut Vec<u8>, opcode: u8, masked: u8, payload_bytes: usize) {
    header.push(FIN | opcode);
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(short @ 0..=125), _) => header.push(masked | short),
        (_, Ok(length)) => {
            header.push(masked | 126);
            header.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            header.push(masked | 127);
            header.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// Makes the first frame of `buffer`, sent by a client, one that [`parse`] takes, and says how long it is then;
/// `None` while it is incomplete.
pub fn unmask(buffer: &mut Vec<u8>) -> Option<usize> {
    let header_bytes = match buffer.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let mask: [u8; 4] = *buffer.get(header_bytes..)?.first_chunk()?;
    let mut unmasked = buffer.get(..header_bytes)?.to_vec();
    *unmasked.get_mut(1)? &= !MASKED;
    let rest = buffer.get(header_bytes + mask.len()..)?;
    unmasked.extend_from_slice(rest);
    let length = parse(&unmasked).ok()??.length;
    for (byte, mask) in unmasked.get_mut(header_bytes..length)?.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    *buffer = unmasked;
    Some(length)
}

/// A client's request. `fields`: further ones, each with its end of line; one called like one of these replaces it.
pub fn upgrade_request(host: &str, path: &str, fields: &[(String, String)]) -> String {
    let usual = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        ("User-Agent", "old-client/1.0"),
    ];
    let stays = |name: &str| !fields.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let usual = usual.into_iter().filter(|(name, _)| stays(name));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let further = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in usual.chain(further) {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request + "\r\n"
}

/// Where the head that `buffer` starts with ends; `None` while it is incomplete.
pub fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a header field of a complete head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Checks a server's answer to [`upgrade_request`].
///
/// # Errors
/// It is another than the upgrade.
pub fn check_upgrade(head: &[u8]) -> std::result::Result<(), End> {
    let head = String::from_utf8_lossy(head);
    let status =
        head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    match status {
        Some(101) if field(&head, "sec-websocket-accept") == Some(ACCEPT) => Ok(()),
        Some(101) => Err(End::Misspoken("the upgrade has a wrong Sec-WebSocket-Accept".to_owned())),
        Some(status) => Err(End::Refused(status)),
        None => Err(End::Misspoken("the answer is not HTTP/1.1".to_owned())),
    }
}

/// A client's close frame.
pub fn close(code: u16) -> Vec<u8> {
    masked(CLOSE, &code.to_be_bytes())
}

/// What a server's close frame says.
pub fn closed(payload: &[u8]) -> End {
    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
    End::Closed { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_form_survive() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let frame = unmasked(TEXT, &vec![b'x'; length]);
            assert!(parse(&frame[..frame.len() - 1]).unwrap().is_none(), "{length}: complete too early");
            let parsed = parse(&frame).unwrap().unwrap();
            assert_eq!((parsed.opcode, parsed.payload.len(), parsed.length), (TEXT, length, frame.len()));
        }
    }

    #[test]
    fn a_masked_frame_is_the_rfcs() {
        // RFC 6455 §5.7: "Hello", masked.
        let expected = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(masked(TEXT, b"Hello"), expected);
    }

    #[test]
    fn a_masked_frame_is_unmasked_in_place_and_the_next_left_alone() {
        let text = "x".repeat(300);
        let next = masked(PING, b"next");
        let mut buffer = [masked(TEXT, text.as_bytes()), next.clone()].concat();
        let length = unmask(&mut buffer).unwrap();
        assert_eq!(parse(&buffer).unwrap().unwrap().payload, text.as_bytes());
        assert_eq!(buffer.split_off(length), next);
        let mut half = masked(TEXT, b"half");
        half.pop();
        assert_eq!(unmask(&mut half), None);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(parse(&[0xc1, 0x00]).is_err(), "an extension's");
        assert!(parse(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err(), "too large");
        assert!(parse(&[0x81, 0x85, 0, 0, 0, 0]).is_err(), "masked");
        assert_eq!(check_upgrade(b"HTTP/1.1 403 Forbidden\r\n\r\n"), Err(End::Refused(403)));
        for head in
            [&b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: no\r\n\r\n"[..], b"SSH-2.0\r\n\r\n", b"HTTP/1."]
        {
            assert!(matches!(check_upgrade(head), Err(End::Misspoken(_))));
        }
        assert_eq!(closed(b"\x03\xe9bye"), End::Closed { code: 1001, reason: "bye".to_owned() });
        assert_eq!(closed(b""), End::Closed { code: 1005, reason: String::new() });
    }

    #[test]
    fn a_field_replaces_the_usual_one_of_its_name() {
        let fields = [("user-agent", "mine"), ("Origin", "https://a.example")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = upgrade_request("h:1", "/p", &fields);
        assert_eq!(
            request,
            format!(
                "GET /p HTTP/1.1\r\nHost: h:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nuser-agent: mine\r\n\
                 Origin: https://a.example\r\n\r\n"
            )
        );
    }
}
