//! An upstream that takes every subscription and every trigger, and answers triggers after a fixed time.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use serde_json::{Value, json};

use crate::event::Id;
use crate::{Result, credentials, ws};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const SCRATCH_BYTES: usize = 64 << 10;

pub(crate) struct Stub {
    address: SocketAddr,
    counts: Arc<Counts>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    published: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Stub {
    pub(crate) fn start(answer_after: Duration) -> Result<Self> {
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let counts = Arc::new(Counts::default());
        let server = Server {
            poll,
            listener,
            answer_after,
            counts: Arc::clone(&counts),
            peers: Vec::new(),
            due: VecDeque::new(),
            sequences: HashMap::new(),
            scratch: vec![0; SCRATCH_BYTES],
        };
        let thread = std::thread::Builder::new().name("upstream".into()).spawn(move || server.run())?;
        Ok(Self { address, counts, waker, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Events published so far.
    ///
    /// # Errors
    /// One of them was out of order, doubled or lost, or not understood.
    pub(crate) fn published(&self) -> Result<u64> {
        match &*self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(self.counts.published.load(Ordering::Acquire)),
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Release);
        // An error: the thread has ended.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    answer_after: Duration,
    counts: Arc<Counts>,
    peers: Vec<Option<Peer>>,
    /// Answers owed, in the order in which they fall due.
    due: VecDeque<(Instant, usize)>,
    /// The last sequence of each stream.
    sequences: HashMap<u32, u32>,
    scratch: Vec<u8>,
}

struct Peer {
    socket: TcpStream,
    input: Vec<u8>,
    upgraded: bool,
}

impl Server {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.counts.stop.load(Ordering::Acquire) {
            let timeout = self.due.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    self.fail(&format!("poll: {error}"));
                    return;
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    Token(peer) => self.serve(peer),
                }
            }
            self.answer();
        }
    }

    fn accept(&mut self) {
        while let Ok((mut socket, _)) = self.listener.accept() {
            let token = Token(self.peers.len());
            // An error shows as a peer that is never heard.
            let _ = socket.set_nodelay(true);
            let _ = self.poll.registry().register(&mut socket, token, Interest::READABLE);
            self.peers.push(Some(Peer { socket, input: Vec::new(), upgraded: false }));
        }
    }

    fn serve(&mut self, number: usize) {
        let Some(mut peer) = self.peers.get_mut(number).and_then(Option::take) else { return };
        match self.read(number, &mut peer) {
            Ok(true) => {
                if let Some(slot) = self.peers.get_mut(number) {
                    *slot = Some(peer);
                }
            }
            Ok(false) => {}
            Err(failure) => self.fail(&failure.to_string()),
        }
    }

    /// `false`: the peer has gone.
    fn read(&mut self, number: usize, peer: &mut Peer) -> Result<bool> {
        loop {
            match peer.socket.read(&mut self.scratch) {
                Ok(0) => return Ok(false),
                Ok(length) => peer.input.extend_from_slice(self.scratch.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        while if peer.upgraded { peer.frame()? } else { self.request(number, peer)? } {}
        Ok(true)
    }

    /// `false`: there is no whole request.
    fn request(&mut self, number: usize, peer: &mut Peer) -> Result<bool> {
        let Some(end) = ws::head_end(&peer.input) else { return Ok(false) };
        let head = String::from_utf8_lossy(peer.input.get(..end).unwrap_or_default()).into_owned();
        if let Some(key) = ws::field(&head, "sec-websocket-key") {
            peer.input.drain(..end);
            peer.upgrade(key)?;
            return Ok(true);
        }
        let length: usize = ws::field(&head, "content-length").map_or(Ok(0), str::parse)?;
        let Some(body) = peer.input.get(end..end + length) else { return Ok(false) };
        if head.starts_with("POST ") {
            self.count(&serde_json::from_slice(body)?)?;
        }
        peer.input.drain(..end + length);
        self.due.push_back((Instant::now() + self.answer_after, number));
        Ok(true)
    }

    fn count(&mut self, body: &Value) -> Result<()> {
        let events = body["batch"].as_array().map_or(std::slice::from_ref(body), Vec::as_slice);
        for event in events {
            let data = event["data"].as_str().unwrap_or_default();
            let id = Id::find(data.as_bytes()).ok_or_else(|| format!("published something else: {event}"))?;
            let last = self.sequences.insert(id.stream, id.sequence).unwrap_or(0);
            if id.sequence != last + 1 {
                return Err(format!("message {} of client {} after {last}", id.sequence, id.stream).into());
            }
            self.counts.published.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    fn answer(&mut self) {
        const ANSWER: &[u8] =
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        while let Some((_, number)) = self.due.pop_front_if(|(due, _)| *due <= Instant::now()) {
            if let Some(Some(peer)) = self.peers.get_mut(number) {
                // An error: it has gone.
                let _ = peer.socket.write_all(ANSWER);
            }
        }
    }

    fn fail(&self, failure: &str) {
        let mut known = self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| format!("the stub upstream: {failure}"));
    }
}

impl Peer {
    fn upgrade(&mut self, key: &str) -> Result<()> {
        let accept = credentials::websocket_accept(key);
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.socket.write_all(head.as_bytes())?;
        self.upgraded = true;
        let data = json!({"socket_id": "1.1", "activity_timeout": 120}).to_string();
        self.send(&json!({"event": "pusher:connection_established", "data": data}))
    }

    /// `false`: there is no whole frame.
    fn frame(&mut self) -> Result<bool> {
        let Some(length) = ws::unmask(&mut self.input) else { return Ok(false) };
        let frame = ws::parse(&self.input)?.ok_or("an unmasked frame that is not whole")?;
        let message: Value =
            if frame.opcode == ws::TEXT { serde_json::from_slice(frame.payload)? } else { Value::Null };
        self.input.drain(..length);
        match message["event"].as_str() {
            Some("pusher:subscribe") => {
                let channel = &message["data"]["channel"];
                self.send(&json!({"event": "pusher_internal:subscription_succeeded", "channel": channel, "data": "{}"}))?;
            }
            Some("pusher:ping") => self.send(&json!({"event": "pusher:pong", "data": {}}))?,
            _ => {}
        }
        Ok(true)
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        Ok(self.socket.write_all(&ws::unmasked(ws::TEXT, message.to_string().as_bytes()))?)
    }
}
