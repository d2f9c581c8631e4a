//! An old client by hand: bytes out, answers and frames in. It can be as wrong as it likes.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::patiently;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8A;

pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The values of a header, joined as a list.
    pub fn header(&self, name: &str) -> String {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        values.join(", ")
    }
}

/// A frame from the server: its first byte and its payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(pub u8, pub Vec<u8>);

impl Frame {
    pub fn text(self) -> String {
        assert_eq!(self.0, TEXT, "{self:?}");
        String::from_utf8(self.1).unwrap()
    }

    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text()).unwrap()
    }
}

/// A proper upgrade request, with headers replaced; `""` drops one, a name with `+` adds a further one.
pub fn upgrade(path: &str, changes: &[(&str, &str)]) -> String {
    request(&format!("GET {path} HTTP/1.1"), changes)
}

/// The same with another request line.
pub fn request(line: &str, changes: &[(&str, &str)]) -> String {
    let mut headers = vec![
        ("Host", "legacy.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in changes {
        if let Some(further) = name.strip_prefix('+') {
            headers.push((further, value));
            continue;
        }
        headers.retain(|(n, _)| n != name);
        if !value.is_empty() {
            headers.push((name, value));
        }
    }
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line}\r\n{headers}\r\n")
}

/// The head of a frame; `masked`: 0x80, or 0.
fn head(first: u8, masked: u8, length: usize) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        n @ 0..=125 => out.push(masked | n as u8),
        n @ 126..=0xFFFF => {
            out.push(masked | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(masked | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out
}

/// A server's frame.
pub fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [&head(first, 0, payload.len()), payload].concat()
}

/// A client's frame, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0xF4, 0x56, 0x78];
    let mut out = head(first, 0x80, payload.len());
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// An `auth` frame.
pub fn auth(token: &str) -> Vec<u8> {
    frame(TEXT, format!(r#"{{"type":"auth","token":"{token}"}}"#).as_bytes())
}

impl Raw {
    /// The other end of a connection that was accepted.
    pub const fn of(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// So many bytes, which there must be.
    pub async fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() < bytes {
            assert!(self.more().await, "ended within: {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..bytes).collect()
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// `None`: nobody listens any more.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).unwrap();
        Some(Self { stream, buffer: Vec::new() })
    }

    /// With a receive buffer that stays small. Much smaller, and the kernel drops packets that it has no room
    /// for, and waits for seconds before it sends them again.
    pub async fn connect_small(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(128 * 1024).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// From another loopback address.
    pub async fn connect_from(from: [u8; 4], address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::from(from), 0).into()).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// Connected and upgraded.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self::connect(address).await;
        raw.upgrade(path).await;
        raw
    }

    pub async fn upgrade(&mut self, path: &str) {
        self.send(upgrade(path, &[])).await;
        let answer = self.answer().await;
        assert_eq!(answer.status, 101, "{answer:?}");
    }

    pub async fn authenticate(&mut self, token: &str) {
        self.send(auth(token)).await;
        assert_eq!(self.frame().await.json()["type"], "auth_response");
    }

    /// Connected, upgraded and authenticated.
    pub async fn login(address: SocketAddr, path: &str, token: &str) -> Self {
        let mut raw = Self::open(address, path).await;
        raw.authenticate(token).await;
        raw
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        patiently("the bytes to be sent", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends as far as the server lets; whether it took all.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        patiently("the bytes to be sent", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Breaks the connection with a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Ends this side only.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Sends the request and gives the whole answer.
    pub async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
        let mut raw = Self::connect(address).await;
        raw.send(request).await;
        raw.answer().await
    }

    /// The head of the server's answer, as it came.
    pub async fn head(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            assert!(self.more().await, "ended within: {:?}", String::from_utf8_lossy(&self.buffer));
        };
        String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap()
    }

    /// The server's answer to a request; with its body, unless it is an upgrade.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        self.after(head).await
    }

    /// The answer whose head this is.
    pub async fn after(&mut self, head: String) -> Answer {
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").parse().unwrap_or(0);
        while self.buffer.len() < length {
            assert!(self.more().await, "the body is cut");
        }
        answer.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        answer
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.buffer) {
                self.buffer.drain(..length);
                return Some(frame);
            }
            if !self.more().await {
                assert!(self.buffer.is_empty(), "a frame was cut: {:?}", self.buffer);
                return None;
            }
        }
    }

    /// The next frame, which there must be.
    pub async fn frame(&mut self) -> Frame {
        self.next().await.expect("the stream ended")
    }

    /// The close frame's code, read before the end of the stream, which must follow; frames before it are
    /// skipped.
    pub async fn close_code(mut self) -> Option<u16> {
        let mut code = None;
        while let Some(Frame(first, payload)) = self.next().await {
            assert_eq!(code, None, "a frame after the close frame");
            if first == CLOSE {
                code = payload.get(..2).map(|two| u16::from_be_bytes([two[0], two[1]]));
            }
        }
        code
    }

    /// What comes until this has, or the stream ends.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            let seen = String::from_utf8_lossy(&self.buffer).into_owned();
            if seen.contains(end) || !self.more().await {
                self.buffer.clear();
                return seen;
            }
        }
    }

    /// Whether nothing has come.
    pub fn is_silent(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        self.buffer.is_empty() && read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Everything to the end of the stream, or its reset.
    pub async fn rest(mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads to the end of the stream, or its reset, and ends too.
    pub async fn ended(mut self) {
        while self.more().await {
            self.buffer.clear();
        }
    }

    /// Reads at most so many bytes and throws them away.
    pub async fn read_some(&mut self, bytes: usize) {
        let mut some = vec![0; bytes];
        let _ = patiently("bytes", self.stream.read(&mut some)).await;
    }

    async fn more(&mut self) -> bool {
        patiently("bytes", self.stream.read_buf(&mut self.buffer)).await.is_ok_and(|read| read > 0)
    }
}

fn parse(buffer: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    let (length, at) = match second {
        126 => (usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap())), 4),
        127 => (u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap()) as usize, 10),
        length => (usize::from(length), 2),
    };
    let payload = buffer.get(at..at + length)?;
    Some((Frame(first, payload.to_vec()), at + length))
}
