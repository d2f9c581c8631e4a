//! What attackers have in common: many sockets from many addresses, and bytes that break rules.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::stream::Stream;
use crate::support::raw::{CLOSE, auth, upgrade};

/// Attackers that are connecting at once: beyond the kernel's queue of connections not yet accepted, it would
/// make them wait by seconds.
const CONNECTING_MAX: usize = 512;

/// Of what a server sends to its end, so much is kept.
const KEPT_MAX: usize = 256 * 1024;

/// The loopback address number `n` of all that attackers have.
pub fn address(n: usize) -> Ipv4Addr {
    let [_, b, c, d] = u32::try_from(n + 1).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 10 + b, c, d)
}

/// A socket that resets the connection when it is dropped, so that no port is kept waiting afterwards.
pub async fn connect(from: Ipv4Addr, to: SocketAddr) -> Stream {
    try_connect(from, to).await.unwrap()
}

/// The same, where the server may end the connection before it is of use.
pub async fn try_connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<Stream> {
    Stream::over(tcp(from, to).await, to).await
}

/// The same without TLS, whatever the listener speaks.
pub async fn bare(from: Ipv4Addr, to: SocketAddr) -> Stream {
    Stream::bare(tcp(from, to).await)
}

async fn tcp(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_zero_linger().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Upgraded. What the server sent behind its answer is left unread.
pub async fn open(from: Ipv4Addr, to: SocketAddr, path: &str) -> Stream {
    upgraded(connect(from, to).await, path).await
}

/// Upgrades a connection.
pub async fn upgraded(mut stream: Stream, path: &str) -> Stream {
    stream.write_all(upgrade(path, &[]).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Upgraded and authenticated; the answer is read to its end.
pub async fn login(from: Ipv4Addr, to: SocketAddr, path: &str, token: &str) -> Stream {
    let mut stream = open(from, to, path).await;
    stream.write_all(&auth(token)).await.unwrap();
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..2], [0x81, 126], "an answer of more than 125 bytes");
    let mut answer = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
    stream.read_exact(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("auth_response"), "{answer}");
    stream
}

/// `count` attackers, each by `attack(n)`; gives what came of each. They connect a few at a time: `attack` gets
/// the turnstile for that.
pub async fn swarm<T, F>(count: usize, attack: impl Fn(usize, Turnstile) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let turnstile = Turnstile(Arc::new(Semaphore::new(CONNECTING_MAX)));
    let running: Vec<_> = (0..count).map(|n| tokio::spawn(attack(n, turnstile.clone()))).collect();
    let mut outcomes = Vec::with_capacity(count);
    for one in running {
        outcomes.push(one.await.unwrap());
    }
    outcomes
}

/// Lets a few connect at a time.
#[derive(Clone)]
pub struct Turnstile(Arc<Semaphore>);

impl Turnstile {
    pub async fn pass<T>(&self, connecting: impl Future<Output = T>) -> T {
        let _turn = self.0.acquire().await.unwrap();
        connecting.await
    }
}

/// Reads to the end, and gives everything if it is not much.
pub async fn read_to_end(stream: &mut Stream) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if kept.len() < KEPT_MAX {
            kept.extend_from_slice(&buffer[..read]);
        }
    }
    kept
}

/// The status of an answer; 0: there was none.
pub fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    status.unwrap_or(0)
}

/// The server's frames, whole ones only: the first byte and the payload of each.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (second, rest) {
            (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            (127, rest) if rest.len() >= 8 => {
                (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..])
            }
            (length, rest) => (usize::from(*length), rest),
        };
        if rest.len() < length {
            break;
        }
        found.push((*first, &rest[..length]));
        bytes = &rest[length..];
    }
    found
}

/// The code of the close frame that these frames end with.
pub fn close_code(bytes: &[u8]) -> Option<u16> {
    match frames(bytes).last() {
        Some((CLOSE, payload)) => payload.get(..2).map(|two| u16::from_be_bytes([two[0], two[1]])),
        _ => None,
    }
}

/// How often each outcome was had, for messages of failed assertions and for asserting itself.
pub fn tally<T: Ord>(outcomes: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome).or_default() += 1;
    }
    counts
}

/// Sends these bytes again and again, until the time is over or the server takes no more; how often it did.
pub async fn send_again(stream: &mut Stream, bytes: &[u8], for_how_long: Duration) -> usize {
    let end = Instant::now() + for_how_long;
    let mut times = 0;
    while Instant::now() < end {
        match tokio::time::timeout_at(end.into(), stream.write_all(bytes)).await {
            Ok(Ok(())) => times += 1,
            _ => break,
        }
    }
    times
}
