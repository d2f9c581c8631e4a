//! The old API, as proxies have it behind them. It does next to nothing, in a thread for each connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Result, credentials, ws};

/// Its threads only read and write.
const STACK_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 64 << 10;
/// What a `GET` with this number of bytes at the end of its path is answered at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// It listens until this is dropped; its connections end when their clients leave.
pub(crate) struct OldApi {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl OldApi {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        std::thread::Builder::new().name("old-api".into()).spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                // An error shows at the client, who is not answered.
                let _ = thread.spawn(move || serve(stream));
            }
        })?;
        Ok(Self { address, over })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for OldApi {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // So that it looks; an error: it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

/// `GET /…/N` is answered with N bytes, `POST` with the number of bytes that came, an upgrade with an echo.
fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(READ_BYTES, stream);
    let body = vec![b'x'; ANSWER_BYTES_MAX];
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        if let Some(key) = ws::field(&head, "sec-websocket-key") {
            let accept = credentials::websocket_accept(key);
            write!(
                stream.get_mut(),
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )?;
            drop(body);
            return echo(stream);
        }
        let length: u64 = ws::field(&head, "content-length").map_or(Ok(0), str::parse)?;
        let received = std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink())?.to_string();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let answer = match path.rsplit('/').next().and_then(|bytes| bytes.parse().ok()) {
            Some(bytes) if head.starts_with("GET ") => body.get(..bytes).unwrap_or_default(),
            _ => received.as_bytes(),
        };
        let mut whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).into_bytes();
        whole.extend_from_slice(answer);
        stream.get_mut().write_all(&whole)?;
    }
}

fn echo(mut stream: BufReader<TcpStream>) -> Result<()> {
    let mut input = Vec::new();
    loop {
        while let Some(length) = ws::unmask(&mut input) {
            let frame = ws::parse(&input)?.ok_or("an unmasked frame that is not whole")?;
            stream.get_mut().write_all(&ws::unmasked(frame.opcode, frame.payload))?;
            input.drain(..length);
        }
        let more = stream.fill_buf()?;
        if more.is_empty() {
            return Ok(());
        }
        input.extend_from_slice(more);
        let taken = more.len();
        stream.consume(taken);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_answers_as_many_bytes_as_are_asked_for_counts_what_comes_and_echoes() {
        let api = OldApi::start().unwrap();
        let mut stream = BufReader::new(TcpStream::connect(api.address()).unwrap());
        let mut ask = |request: &str, bytes: usize| {
            stream.get_mut().write_all(request.as_bytes()).unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
            }
            let mut body = vec![0; bytes];
            stream.read_exact(&mut body).unwrap();
            (head, body)
        };
        let (head, body) = ask("GET /a/1024 HTTP/1.1\r\n\r\n", 1_024);
        assert_eq!((ws::field(&head, "content-length"), body), (Some("1024"), vec![b'x'; 1_024]));
        assert_eq!(ask("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 1).1, b"3");
        let (head, _) = ask(&ws::upgrade_request("h", "/ws/x", &[]), 0);
        ws::check_upgrade(head.as_bytes()).unwrap();
        let stream = stream.get_mut();
        stream.write_all(&ws::masked(ws::TEXT, b"hello")).unwrap();
        let mut echoed = [0; 7];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(ws::parse(&echoed).unwrap().unwrap().payload, b"hello");
    }
}
