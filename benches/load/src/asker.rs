//! HTTP requests over many connections that are kept, one at a time on each.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::{Result, script, socket, ws};

const EVENTS: usize = 1_024;
const SCRATCH_BYTES: usize = 16 << 10;

/// What a server answered.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// As many clients as there are connections, from as many addresses as the other clients come from.
pub(crate) struct Askers {
    poll: Poll,
    target: SocketAddr,
    connections: Vec<Connection>,
    /// Each connection waits for the one before it.
    in_turns: bool,
    scratch: Vec<u8>,
}

#[derive(Default)]
struct Connection {
    /// `None`: opened for the next request.
    socket: Option<TcpStream>,
    /// The request that is under way, by its number.
    asked: Option<usize>,
    /// What of it the socket has not taken yet.
    output: Vec<u8>,
    /// An incomplete answer.
    input: Vec<u8>,
}

impl Askers {
    pub(crate) fn new(target: SocketAddr, connections: u32) -> Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            target,
            connections: (0..connections).map(|_| Connection::default()).collect(),
            in_turns: false,
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Makes all requests, as many at once as there are connections, and has each answer checked; how long it took.
    ///
    /// # Errors
    /// A connection was lost, an answer was not as `check` wants it, or they took longer than `timeout`.
    pub(crate) fn ask(
        &mut self,
        requests: &[Vec<u8>],
        timeout: Duration,
        check: impl Fn(usize, &Answer<'_>) -> Result<()>,
    ) -> Result<Duration> {
        let start = Instant::now();
        let mut next = 0;
        let at_first = if self.in_turns { 1 } else { self.connections.len() };
        for number in 0..at_first {
            self.begin(number, requests, &mut next)?;
        }
        let mut events = Events::with_capacity(EVENTS);
        let mut answered = 0;
        while answered < requests.len() {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(format!("only {answered} of {} answers", requests.len()).into());
            }
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                let Token(number) = event.token();
                let Some(connection) = self.connections.get_mut(number) else { continue };
                connection.flush()?;
                if connection.read(&mut self.scratch, &check)? {
                    answered += 1;
                    self.begin(number + usize::from(self.in_turns), requests, &mut next)?;
                }
            }
        }
        Ok(start.elapsed())
    }

    /// The same, each connection asking once, when the one before it has its answer.
    pub(crate) fn ask_in_turns(
        &mut self,
        requests: &[Vec<u8>],
        timeout: Duration,
        check: impl Fn(usize, &Answer<'_>) -> Result<()>,
    ) -> Result<Duration> {
        self.in_turns = true;
        let taken = self.ask(requests, timeout, check);
        self.in_turns = false;
        taken
    }

    /// Makes the next request, if there is one.
    fn begin(&mut self, number: usize, requests: &[Vec<u8>], next: &mut usize) -> Result<()> {
        let Some(connection) = self.connections.get_mut(number) else { return Ok(()) };
        let Some(request) = requests.get(*next) else { return Ok(()) };
        connection.asked = Some(*next);
        *next += 1;
        connection.output.extend_from_slice(request);
        if connection.socket.is_none() {
            let mut socket = socket::connect(Some(script::source(number).into()), self.target)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(number), interest)?;
            connection.socket = Some(socket);
        }
        connection.flush()
    }
}

impl Connection {
    fn flush(&mut self) -> Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while !self.output.is_empty() {
            match socket.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                // It is still being made, or full.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there; `true`: the request is answered.
    fn read(&mut self, scratch: &mut [u8], check: impl Fn(usize, &Answer<'_>) -> Result<()>) -> Result<bool> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        loop {
            match socket.read(scratch) {
                // Between two requests either side may leave.
                Ok(0) if self.asked.is_none() => self.socket = None,
                Ok(0) => return Err("the connection was closed instead of an answer".into()),
                Ok(length) => {
                    self.input.extend_from_slice(scratch.get(..length).unwrap_or_default());
                    if length == scratch.len() {
                        continue;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            return self.answered(check);
        }
    }

    fn answered(&mut self, check: impl Fn(usize, &Answer<'_>) -> Result<()>) -> Result<bool> {
        let Some(end) = ws::head_end(&self.input) else { return Ok(false) };
        let (head, rest) = self.input.split_at(end);
        let head = std::str::from_utf8(head)?;
        let length: usize = ws::field(head, "content-length").ok_or("no Content-Length")?.parse()?;
        if rest.len() < length {
            return Ok(false);
        }
        let asked = self.asked.take().ok_or("an answer that nobody asked for")?;
        let status = head.get(9..12).ok_or("no status")?.parse()?;
        let body = rest.get(..length).filter(|body| body.len() == rest.len()).ok_or("two answers")?;
        check(asked, &Answer { status, body })?;
        if ws::field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.socket = None;
        }
        self.input.clear();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// Answers each request's line, every second time as the connection's last.
    fn serve(listener: &TcpListener, connections: usize) {
        for _ in 0..connections {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for number in 0..2 {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                stream.read_line(&mut String::new()).unwrap();
                let line = line.trim();
                let connection = if number == 1 { "close" } else { "keep-alive" };
                let head = format!("HTTP/1.1 200 OK\r\nConnection: {connection}\r\nContent-Length: ");
                let answer = format!("{head}{}\r\n\r\n{line}", line.len());
                let (first, second) = answer.split_at(answer.len() / 2);
                stream.get_mut().write_all(first.as_bytes()).unwrap();
                stream.get_mut().write_all(second.as_bytes()).unwrap();
            }
        }
    }

    #[test]
    fn every_request_is_answered_once_over_connections_that_are_kept_while_they_may() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || serve(&listener, 5));
        let requests: Vec<Vec<u8>> =
            (0..10).map(|number| format!("GET /{number}\r\n\r\n").into_bytes()).collect();
        let mut askers = Askers::new(target, 1).unwrap();
        let check = |number: usize, answer: &Answer<'_>| {
            assert_eq!((answer.status, answer.body), (200, format!("GET /{number}").as_bytes()));
            Ok(())
        };
        askers.ask(&requests, TIMEOUT, check).unwrap();
        server.join().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(Askers::new(gone, 1).unwrap().ask(&requests, TIMEOUT, check).is_err(), "nobody listens");
    }
}
