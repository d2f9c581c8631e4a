//! The contender that does the least: what the machine itself costs.
//!
//! Upgrades are accepted and first messages answered without a look at them. One subscription brings the
//! events; each is encoded once and written to every socket, one `write(2)` each. A client that cannot take
//! it is dropped. With several threads the sockets are divided over them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream as Blocking};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use serde_json::Value;

use crate::args::FloorArgs;
use crate::{Result, credentials, script, ws};

const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);
const UPSTREAM: Token = Token(usize::MAX - 2);
const EVENTS: usize = 1_024;
const SCRATCH_BYTES: usize = 64 << 10;
const BACKLOG: i32 = 4_096;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER: &str = r#"{"type":"auth_response","data":{"authenticated":true,"user_id":"1","role":"teacher","permissions":[]}}"#;
const TIMESTAMP: &str = "2025-01-21T10:00:00.000Z";

/// Runs until it is killed.
pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    // Listening only now says that the subscription stands.
    let upstream = Upstream::subscribe(args.upstream, &args.channel)?;
    let mut others = Vec::new();
    for _ in 1..args.threads.max(1) {
        let (sender, receiver) = channel();
        let mut shard = Shard::new()?;
        let waker = Arc::new(Waker::new(shard.poll.registry(), WAKER)?);
        std::thread::Builder::new().name("floor".into()).spawn(move || shard.follow(&receiver))?;
        others.push(Other { orders: sender, waker });
    }
    Main { shard: Shard::new()?, upstream, others, turn: 0 }.run(args.listen)
}

enum Order {
    Adopt(TcpStream),
    Write(Arc<[u8]>),
}

struct Other {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

impl Other {
    fn tell(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| "a thread has ended")?;
        Ok(self.waker.wake()?)
    }
}

/// The thread that also accepts and hears the upstream.
struct Main {
    shard: Shard,
    upstream: Upstream,
    others: Vec<Other>,
    turn: usize,
}

impl Main {
    fn run(mut self, listen: SocketAddr) -> Result<()> {
        let mut listener = listener(listen)?;
        let registry = self.shard.poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        registry.register(&mut self.upstream.socket, UPSTREAM, Interest::READABLE)?;
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.shard.poll.poll(&mut events, None)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(&listener)?,
                    UPSTREAM => self.hear()?,
                    token => self.shard.serve(token),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        while let Ok((socket, _)) = listener.accept() {
            let shards = self.others.len() + 1;
            self.turn = (self.turn + 1) % shards;
            match self.others.get(self.turn) {
                Some(other) => other.tell(Order::Adopt(socket))?,
                None => self.shard.adopt(socket)?,
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        for frame in self.upstream.read(&mut self.shard.scratch)? {
            if !self.others.is_empty() {
                let shared: Arc<[u8]> = frame.as_slice().into();
                for other in &self.others {
                    other.tell(Order::Write(Arc::clone(&shared)))?;
                }
            }
            self.shard.write_all(&frame);
        }
        Ok(())
    }
}

fn listener(address: SocketAddr) -> Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// The clients of one thread.
struct Shard {
    poll: Poll,
    clients: Vec<Option<Client>>,
    scratch: Vec<u8>,
}

struct Client {
    socket: TcpStream,
    phase: Phase,
    head: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    FirstMessage,
    Listening,
}

impl Shard {
    fn new() -> Result<Self> {
        Ok(Self { poll: Poll::new()?, clients: Vec::new(), scratch: vec![0; SCRATCH_BYTES] })
    }

    /// A thread of its own that does as the main one says.
    fn follow(&mut self, orders: &Receiver<Order>) {
        let mut events = Events::with_capacity(EVENTS);
        while self.poll.poll(&mut events, None).is_ok() {
            for event in &events {
                if event.token() == WAKER {
                    while let Ok(order) = orders.try_recv() {
                        match order {
                            // An error: the client is dropped.
                            Order::Adopt(socket) => drop(self.adopt(socket)),
                            Order::Write(frame) => self.write_all(&frame),
                        }
                    }
                } else {
                    self.serve(event.token());
                }
            }
        }
    }

    fn adopt(&mut self, mut socket: TcpStream) -> Result<()> {
        socket.set_nodelay(true)?;
        let token = Token(self.clients.len());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        self.clients.push(Some(Client { socket, phase: Phase::Head, head: Vec::new() }));
        Ok(())
    }

    fn serve(&mut self, token: Token) {
        let Some(slot) = self.clients.get_mut(token.0) else { return };
        if let Some(client) = slot
            && client.read(&mut self.scratch).is_err()
        {
            *slot = None;
        }
    }

    fn write_all(&mut self, frame: &[u8]) {
        for slot in &mut self.clients {
            let Some(client) = slot else { continue };
            if client.phase != Phase::Listening {
                continue;
            }
            if !matches!(client.socket.write(frame), Ok(written) if written == frame.len()) {
                *slot = None;
            }
        }
    }
}

impl Client {
    fn read(&mut self, scratch: &mut [u8]) -> Result<()> {
        let length = match self.socket.read(scratch) {
            Ok(0) => return Err("closed".into()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match self.phase {
            Phase::Head => {
                self.head.extend_from_slice(scratch.get(..length).unwrap_or_default());
                if ws::head_end(&self.head).is_some() {
                    self.upgrade()?;
                }
            }
            Phase::FirstMessage => {
                self.socket.write_all(&ws::unmasked(ws::TEXT, ANSWER.as_bytes()))?;
                self.phase = Phase::Listening;
            }
            Phase::Listening => {}
        }
        Ok(())
    }

    fn upgrade(&mut self) -> Result<()> {
        let head = String::from_utf8(std::mem::take(&mut self.head))?;
        let key = ws::field(&head, "sec-websocket-key").unwrap_or_default();
        let accept = credentials::websocket_accept(key);
        self.socket.write_all(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        self.phase = Phase::FirstMessage;
        Ok(())
    }
}

/// The one subscription.
struct Upstream {
    socket: TcpStream,
    input: Vec<u8>,
}

impl Upstream {
    fn subscribe(address: SocketAddr, channel: &str) -> Result<Self> {
        let mut socket = Blocking::connect(address)?;
        socket.set_read_timeout(Some(UPSTREAM_TIMEOUT))?;
        socket.write_all(ws::upgrade_request("127.0.0.1", &script::pusher_path(), &[]).as_bytes())?;
        let mut input = Vec::new();
        let end = loop {
            if let Some(end) = ws::head_end(&input) {
                break end;
            }
            fill(&mut socket, &mut input)?;
        };
        ws::check_upgrade(input.get(..end).unwrap_or_default())?;
        input.drain(..end);
        let established = next(&mut socket, &mut input)?;
        let data: Value = serde_json::from_str(established["data"].as_str().unwrap_or_default())?;
        let socket_id = data["socket_id"].as_str().ok_or("no socket_id")?;
        socket.write_all(&script::subscription(channel, socket_id))?;
        let answer = next(&mut socket, &mut input)?;
        if answer["event"] != "pusher_internal:subscription_succeeded" {
            return Err(format!("subscription refused: {answer}").into());
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket: TcpStream::from_std(socket), input })
    }

    /// The frames for the clients of what has come.
    fn read(&mut self, scratch: &mut [u8]) -> Result<Vec<Vec<u8>>> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err("the upstream closed".into()),
                Ok(length) => self.input.extend_from_slice(scratch.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut frames = Vec::new();
        let mut used = 0;
        while let Some(frame) = ws::parse(self.input.get(used..).unwrap_or_default())? {
            used += frame.length;
            match frame.opcode {
                ws::TEXT => {
                    let event: Value = serde_json::from_slice(frame.payload)?;
                    let name = event["event"].as_str().unwrap_or_default();
                    let data = event["data"].as_str().unwrap_or("null");
                    if name == "pusher:ping" {
                        self.socket
                            .write_all(&ws::masked(ws::TEXT, br#"{"event":"pusher:pong","data":{}}"#))?;
                        continue;
                    }
                    let envelope = format!(r#"{{"type":"{name}","data":{data},"timestamp":"{TIMESTAMP}"}}"#);
                    frames.push(ws::unmasked(ws::TEXT, envelope.as_bytes()));
                }
                ws::PING => self.socket.write_all(&ws::masked(ws::PONG, frame.payload))?,
                opcode => return Err(format!("the upstream sent opcode {opcode}").into()),
            }
        }
        self.input.drain(..used);
        Ok(frames)
    }
}

fn fill(socket: &mut Blocking, input: &mut Vec<u8>) -> Result<()> {
    let mut chunk = [0; 4_096];
    match socket.read(&mut chunk)? {
        0 => Err("the upstream closed".into()),
        length => {
            input.extend_from_slice(chunk.get(..length).unwrap_or_default());
            Ok(())
        }
    }
}

fn next(socket: &mut Blocking, input: &mut Vec<u8>) -> Result<Value> {
    loop {
        if let Some(frame) = ws::parse(input)? {
            let value = serde_json::from_slice(frame.payload)?;
            let length = frame.length;
            input.drain(..length);
            return Ok(value);
        }
        fill(socket, input)?;
    }
}
