//! The count of a message's bytes beside tungstenite itself. By it the reader decides when tungstenite, and all
//! it holds, may be dropped: once too early, and a client's message is lost or read as another.

use std::io::{self, Read, Write};

use pusher_bridge::websocket::incoming::Incoming;
use pusher_bridge::websocket::pieces::PIECE_BYTES;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::input::Input;

const MESSAGE_BYTES_MAX: usize = 2000;
/// First bytes of frames: text, binary, continuation, close, ping and pong, whole and not, and illegal ones.
const FIRST: [u8; 12] = [0x81, 0x01, 0x82, 0x02, 0x80, 0x00, 0x89, 0x8A, 0x88, 0x09, 0xC1, 0x83];

/// Steps of frames and raw bytes, and where the bytes are cut on their way.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut cuts: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..60 {
        if input.is_empty() {
            break;
        }
        let mut bytes = match input.below(4) {
            0..=2 => frame(&mut input),
            _ => input.text().as_bytes().to_vec(),
        };
        // The cut stands within or behind.
        let kept = bytes.split_off(input.number() % (bytes.len() + 1));
        cuts.last_mut().unwrap().extend(bytes);
        if input.flag() {
            cuts.push(kept);
        } else {
            cuts.last_mut().unwrap().extend(kept);
        }
    }
    let whole = read(&[cuts.concat()], |_| false);
    let dropped = read(&cuts, |incoming| incoming.bytes() == 0);
    assert_eq!(dropped, whole, "{cuts:x?}");
}

/// A frame as a client may send it, masked or not, its length in more bytes than needed or not.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    let first = input.pick(&FIRST);
    let shape = input.byte();
    let length = match shape & 3 {
        0 | 1 => usize::from(input.byte()),
        2 => usize::from(input.byte()) & 3,
        _ => input.number() % 2200,
    };
    let masked = if shape >> 2 & 15 == 15 { 0 } else { 0x80 };
    let mut frame = vec![first];
    match (length, shape >> 6) {
        (0..=125, 0 | 1) => frame.push(masked | length as u8),
        (_, 0..=2) => {
            frame.push(masked | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(masked | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    let letter = [b'a' + (length % 26) as u8];
    let text: &[u8] = match shape >> 2 & 15 {
        12 => "\u{e9}\u{20ac}\u{1f600}".as_bytes(),
        13 => b"ok\xED\xA0\x80",
        14 => b"abcdefg\xFF",
        _ => &letter,
    };
    let mask = if masked == 0 { [0; 4] } else { [shape, !shape, 0x5A, length as u8] };
    if masked != 0 {
        frame.extend(mask);
    }
    frame.extend(text.iter().cycle().zip(mask.iter().cycle()).take(length).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The socket: reads what has come, counts it, and takes what tungstenite answers.
struct Wire {
    come: Vec<u8>,
    at: usize,
    incoming: Incoming,
    answered: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = buffer.len().min(self.come.len() - self.at);
        if part == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffer[..part].copy_from_slice(&self.come[self.at..][..part]);
        self.incoming.feed(&buffer[..part]);
        self.at += part;
        Ok(part)
    }
}

impl Write for Wire {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.answered.extend_from_slice(frame);
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what comes in `cuts`, with a new tungstenite wherever `drop` says that the old one may go. Gives the
/// messages, the answers, and the error at the end if there was one.
fn read(cuts: &[Vec<u8>], drop: fn(&Incoming) -> bool) -> (Vec<Message>, Vec<u8>, Option<String>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(256)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let new = |come: &[u8], answered| {
        let wire = Wire { come: come.to_vec(), at: 0, incoming: Incoming::default(), answered };
        WebSocket::from_raw_socket(wire, Role::Server, Some(config))
    };
    let mut socket = new(&[], Vec::new());
    let mut messages = Vec::new();
    let mut invalid = false;
    for cut in cuts {
        if drop(&socket.get_ref().incoming) {
            socket = new(cut, std::mem::take(&mut socket.get_mut().answered));
        } else {
            socket.get_mut().come.extend_from_slice(cut);
        }
        loop {
            match socket.read() {
                Ok(message) => {
                    assert!(!invalid || !message.is_text(), "{message:?} was said to be no UTF-8");
                    messages.push(message);
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    return (messages, socket.into_inner().answered, Some(error.to_string()));
                }
            }
        }
        let incoming = &socket.get_ref().incoming;
        // What has come, and the largest piece that was declared.
        assert!(incoming.held() <= incoming.bytes() + PIECE_BYTES);
        assert!(incoming.bytes() > 0 || !(incoming.is_flood() || incoming.is_invalid_text()));
        invalid = incoming.is_invalid_text();
    }
    (messages, socket.into_inner().answered, None)
}
