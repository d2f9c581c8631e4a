//! RFC 6455, as much as two ends that know each other need: no fragments, no extensions.

use crate::Result;

/// The example key of RFC 6455 §1.3, and the answer to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// Any mask does: it defends proxies, and there is none.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// No frame here is as large; a length above it means that the stream is not understood.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Header and payload together, bytes.
    pub(crate) length: usize,
}

/// The first frame of `buffer`, sent by a server; `None` while it is incomplete.
pub(crate) fn parse(buffer: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = buffer else { return Ok(None) };
    if first & 0xf0 != FIN || second & MASKED != 0 {
        return Err(format!("frame starts {first:#04x} {second:#04x}: fragmented, extended or masked").into());
    }
    let (payload_bytes, header_bytes) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 2),
    };
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(format!("frame of {payload_bytes} bytes").into());
    }
    let length = header_bytes + usize::try_from(payload_bytes)?;
    let Some(payload) = buffer.get(header_bytes..length) else { return Ok(None) };
    Ok(Some(Frame { opcode: first & 0x0f, payload, length }))
}

/// A client's frame, masked.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, MASKED, payload.len());
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A server's frame.
pub(crate) fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, 0, payload.len());
    frame.extend_from_slice(payload);
    frame
}

fn header(opcode: u8, masked: u8, payload_bytes: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(payload_bytes + 14);
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
    header
}

/// Makes the first frame of `buffer`, sent by a client, one that [`parse`] takes, and says how long it is then;
/// `None` while it is incomplete.
pub(crate) fn unmask(buffer: &mut Vec<u8>) -> Option<usize> {
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

/// A client's request.
pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nUser-Agent: old-client/1.0\r\n\r\n"
    )
}

/// Where the head that `buffer` starts with ends; `None` while it is incomplete.
pub(crate) fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a header field of a complete head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Checks a server's answer to [`upgrade_request`].
pub(crate) fn check_upgrade(head: &[u8]) -> Result<()> {
    let head = std::str::from_utf8(head)?;
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101 ") {
        return Err(format!("upgrade refused: {status}").into());
    }
    if field(head, "sec-websocket-accept") != Some(ACCEPT) {
        return Err("upgrade answered with a wrong Sec-WebSocket-Accept".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
        assert!(parse(&[0x01, 0x00]).is_err(), "a fragment");
        assert!(parse(&[0x81, 0x85, 0, 0, 0, 0]).is_err(), "masked");
        assert!(check_upgrade(b"HTTP/1.1 403 Forbidden\r\n\r\n").is_err());
        assert!(check_upgrade(b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: no\r\n\r\n").is_err());
    }
}
