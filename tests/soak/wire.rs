//! Bytes on sockets: WebSocket frames as they come, heads of HTTP, and clients from many addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A frame: its first byte, and its payload without a mask.
#[derive(Debug)]
pub struct Frame {
    pub first: u8,
    pub payload: Bytes,
    /// As it came.
    pub raw: Bytes,
}

impl Frame {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap_or("")
    }

    /// The code and reason of a close frame.
    pub fn close(&self) -> (u16, String) {
        match self.payload.split_first_chunk::<2>() {
            Some((code, reason)) => (u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned()),
            None => (1005, String::new()),
        }
    }
}

/// The first frame of `buffer`, taken off it; `None` while it is incomplete.
pub fn take_frame(buffer: &mut BytesMut) -> Option<Frame> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    let (length, at) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes(*buffer.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?) as usize, 10),
        length => (usize::from(length), 2),
    };
    let mask: Option<[u8; 4]> = match second & 0x80 {
        0 => None,
        _ => Some(*buffer.get(at..)?.first_chunk()?),
    };
    let start = at + mask.map_or(0, |mask| mask.len());
    if buffer.len() < start + length {
        return None;
    }
    let raw = buffer.split_to(start + length).freeze();
    let payload = match mask {
        None => raw.slice(start..),
        Some(mask) => raw[start..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect(),
    };
    Some(Frame { first, payload, raw })
}

/// A server's frame, not masked.
pub fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(n as u8),
        n @ 126..=0xFFFF => {
            out.push(126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(payload);
    out
}

/// A socket with what was read from it and not looked at yet.
pub struct Wire {
    pub stream: TcpStream,
    pub buffer: BytesMut,
    /// Bytes that came.
    pub read: u64,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), read: 0 }
    }

    /// From the loopback address that this number has. `small`: with a receive buffer that is soon full.
    pub async fn connect(to: SocketAddr, from: u16, small: bool) -> io::Result<Self> {
        let [high, low] = from.to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::from(Ipv4Addr::new(127, 1, high, low.max(1))), 0).into())?;
        if small {
            socket.set_recv_buffer_size(64 * 1024)?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// Reads more. `false`: the other side has ended. Cancel-safe.
    pub async fn more(&mut self) -> io::Result<bool> {
        let read = self.stream.read_buf(&mut self.buffer).await?;
        self.read += read as u64;
        Ok(read > 0)
    }

    /// The next frame; `None` at the end. Cancel-safe.
    pub async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer) {
                return Ok(Some(frame));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// The head of a request or an answer, with its empty line; `None` at the end. Cancel-safe.
    pub async fn head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.split_to(at + 4);
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// As many bytes as the head's `content-length` says.
    pub async fn body(&mut self, head: &str) -> io::Result<Bytes> {
        let length = header(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        while self.buffer.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Ends it by a reset.
    pub fn reset(self) {
        // It fails on a connection that is gone already.
        let _ = self.stream.set_zero_linger();
    }
}

/// A header's value in a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status in an answer's head.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
