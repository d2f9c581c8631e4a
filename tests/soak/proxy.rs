//! Between the bridge and Pusher. It knows both protocols, notes each event that it hands to the bridge and
//! each message that it takes from it, and does what the faults ask for.

use std::collections::HashMap;
use std::rc::Rc;

use hyper::Method;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::faults::{Dialling, HttpFault, LinkFault};
use crate::ledger::{ClientId, LinkId, Mark};
use crate::neighbours::SURELY_HEARD;
use crate::support::raw::TEXT;
use crate::wire::{Frame, Wire, server_frame, status};
use crate::world::World;

/// What Pusher's greeting is made to say: so soon after silence the bridge pings.
const ACTIVITY_TIMEOUT_S: u64 = 2;
/// How the channels begin on which a link finds out whether its connection still delivers.
const PROBES: &str = "private-pusher-bridge-";

pub async fn serve(world: Rc<World>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let world = world.clone();
        spawn_local(async move {
            let mut wire = Wire::new(stream);
            match next_head(&world, &mut wire).await {
                Some(head) if head.starts_with("GET /app/") => link(world, wire, head).await,
                Some(head) => http(world, wire, head).await,
                None => {}
            }
        });
    }
}

/// The next request; `None`: it does not come, or idle connections are to be closed.
pub async fn next_head(world: &World, wire: &mut Wire) -> Option<String> {
    tokio::select! {
        head = wire.head() => head.ok().flatten(),
        () = world.switches.idle_is_over() => None,
    }
}

// ----------------------------------------------------------------------------------------------- WebSockets

/// A frame of Pusher's protocol, either way.
#[derive(Deserialize)]
struct Pusher {
    event: String,
    channel: Option<String>,
    data: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Greeting {
    socket_id: String,
}

/// How a channel's subscription stands on one link.
#[derive(Default)]
struct Asked {
    subscribed: bool,
    unanswered: u32,
}

struct Link {
    world: Rc<World>,
    id: LinkId,
    bridge: Wire,
    pusher: Wire,
    channels: HashMap<String, Asked>,
    /// The next events are sent in fragments.
    fragmented: u32,
    /// The next event is cut in its middle.
    cut: bool,
}

async fn link(world: Rc<World>, mut bridge: Wire, head: String) {
    let dialling = world.switches.dialling();
    match dialling {
        Dialling::Works => {}
        Dialling::Refused => {
            let _ = bridge.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
            return;
        }
        // Until the bridge gives up.
        Dialling::Silent => {
            while bridge.more().await.is_ok_and(|more| more) {}
            return;
        }
    }
    let Ok(stream) = TcpStream::connect(world.upstream.get()).await else { return };
    let mut pusher = Wire::new(stream);
    if pusher.send(&head).await.is_err() {
        return;
    }
    let Ok(Some(answer)) = pusher.head().await else { return };
    if bridge.send(&answer).await.is_err() || status(&answer) != 101 {
        return;
    }
    let id = world.ledger.borrow_mut().link_begins();
    let (sender, faults) = mpsc::unbounded_channel();
    world.switches.add_link(id, sender);
    let mut link = Link { world, id, bridge, pusher, channels: HashMap::new(), fragmented: 0, cut: false };
    let reset = link.run(faults).await;
    link.world.switches.remove_link(id);
    link.world.ledger.borrow_mut().link_ends(id);
    if reset {
        link.bridge.reset();
    }
}

impl Link {
    /// Carries until one side ends. `true`: the bridge's is to be reset.
    async fn run(&mut self, mut faults: mpsc::UnboundedReceiver<LinkFault>) -> bool {
        loop {
            tokio::select! {
                fault = faults.recv() => match fault {
                    None | Some(LinkFault::End) => return false,
                    Some(LinkFault::Reset) => return true,
                    Some(LinkFault::CutInFrame) => self.cut = true,
                    Some(LinkFault::Fragment(count)) => self.fragmented = count,
                    Some(LinkFault::Inject(bytes)) => if self.bridge.send(bytes).await.is_err() { return false },
                    // What a stall holds back comes after it, if the bridge still waits for it.
                    Some(LinkFault::Stall(time)) => {
                        self.world.ledger.borrow_mut().neighbours.stalls(self.id);
                        sleep(time).await;
                    }
                },
                frame = self.bridge.frame() => {
                    let Ok(Some(frame)) = frame else { return false };
                    self.asked(&frame);
                    if self.pusher.send(&frame.raw).await.is_err() { return false }
                }
                frame = self.pusher.frame() => {
                    let Ok(Some(frame)) = frame else { return false };
                    if self.answered(frame).await.is_err() { return false }
                }
            }
        }
    }

    fn asked(&mut self, frame: &Frame) {
        let pusher = serde_json::from_str::<Pusher>(frame.text()).ok();
        let channel = pusher.as_ref().and_then(|pusher| pusher.data.as_ref()?.get("channel")?.as_str());
        let subscribes = pusher.as_ref().is_some_and(|pusher| pusher.event == "pusher:subscribe");
        // The channel of its probes is on each link.
        let subscribed = channel.filter(|channel| subscribes && !channel.starts_with(PROBES));
        let heard = self.world.ledger.borrow_mut().neighbours.heard(self.id, subscribed, Instant::now());
        self.world.check(heard);
        let Some(channel) = channel else { return };
        let asked = self.channels.entry(channel.to_owned()).or_default();
        asked.subscribed = subscribes;
        asked.unanswered += u32::from(asked.subscribed);
    }

    async fn answered(&mut self, frame: Frame) -> std::io::Result<()> {
        let Ok(Pusher { event, channel, data }) = serde_json::from_str(frame.text()) else {
            return self.bridge.send(&frame.raw).await;
        };
        match (event.as_str(), channel) {
            ("pusher:connection_established", _) => {
                let data = data.as_ref().and_then(|data| data.as_str()).unwrap_or_default();
                match serde_json::from_str(data) {
                    Ok(Greeting { socket_id }) => {
                        let greeted = self.world.ledger.borrow_mut().neighbours.greeted(self.id, &socket_id);
                        self.world.check(greeted);
                    }
                    Err(error) => self.world.wrong(format!("from Pusher: {error}: {data}")),
                }
                let text = with_activity_timeout(frame.text());
                return self.bridge.send(server_frame(TEXT, text.as_bytes())).await;
            }
            ("pusher_internal:subscription_succeeded", Some(channel)) => {
                let asked = self.channels.entry(channel).or_default();
                asked.unanswered = asked.unanswered.saturating_sub(1);
            }
            ("probe", Some(channel)) if channel.starts_with(PROBES) => {}
            (event, Some(channel)) if !event.starts_with("pusher") => {
                let data = data.as_ref().and_then(|data| data.as_str()).unwrap_or_default();
                if self.cut {
                    self.bridge.send(&frame.raw[..frame.raw.len() / 2]).await?;
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
                self.carried(&channel, data);
                if self.fragmented > 0 {
                    self.fragmented -= 1;
                    return self.bridge.send(in_fragments(&frame.payload)).await;
                }
            }
            _ => {}
        }
        self.bridge.send(&frame.raw).await
    }

    fn carried(&mut self, channel: &str, data: &str) {
        let world = &self.world;
        let Some(mark) = world.recognise(data, "from Pusher") else { return };
        let Some(stream) = world.stream_of(channel, mark) else {
            return world.wrong(format!("from Pusher: {mark:?} on {channel}"));
        };
        let standing =
            self.channels.get(channel).is_some_and(|asked| asked.subscribed && asked.unanswered == 0);
        let mut ledger = world.ledger.borrow_mut();
        match mark {
            Mark::Event { .. } => ledger.carried(self.id, stream, mark, standing, Instant::now()),
            Mark::Message { from, n } => {
                world.check(ledger.neighbours.carried(self.id, (from, n), Instant::now()));
            }
        }
    }
}

/// The greeting with a shorter time.
fn with_activity_timeout(text: &str) -> String {
    let key = r#"activity_timeout\":"#;
    let Some(at) = text.find(key).map(|at| at + key.len()) else { return text.to_owned() };
    let rest = text[at..].trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{ACTIVITY_TIMEOUT_S}{rest}", &text[..at])
}

/// A text frame in three, with a ping between them (RFC 6455 §5.4).
fn in_fragments(payload: &[u8]) -> Vec<u8> {
    let (a, rest) = payload.split_at(payload.len() / 3);
    let (b, c) = rest.split_at(rest.len() / 2);
    [server_frame(0x01, a), server_frame(0x89, b"?"), server_frame(0x00, b), server_frame(0x80, c)].concat()
}

// ----------------------------------------------------------------------------------------------------- HTTP

#[derive(Deserialize)]
struct Batch {
    batch: Vec<Published>,
}

#[derive(Deserialize)]
struct Published {
    channel: String,
    name: String,
    data: String,
    socket_id: Option<String>,
}

/// A message in a request.
struct Sent {
    from: ClientId,
    n: u32,
    /// Which of the requests with it this is.
    attempt: usize,
}

async fn http(world: Rc<World>, mut wire: Wire, first: String) {
    let mut next = Some(first);
    loop {
        let head = match next.take() {
            Some(head) => head,
            None => match next_head(&world, &mut wire).await {
                Some(head) => head,
                None => return,
            },
        };
        let Ok(body) = wire.body(&head).await else { return };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        // What only asks, whether the credentials are right, has no messages.
        let asks = head.starts_with("GET ");
        let method = if asks { Method::GET } else { Method::POST };
        let messages = if asks { Vec::new() } else { understood(&world, &body) };
        let request = Publishing { messages, world: world.clone(), method, path, body };
        if !request.carry(&mut wire).await {
            return;
        }
    }
}

/// The messages of a request, each checked.
fn understood(world: &World, body: &[u8]) -> Vec<Sent> {
    let Ok(Batch { batch }) = serde_json::from_slice(body) else {
        world.wrong(format!("to Pusher: {:?}", String::from_utf8_lossy(body)));
        return Vec::new();
    };
    let mut messages = Vec::new();
    for Published { channel, name, data, socket_id } in batch {
        if channel.starts_with(PROBES) {
            world.count("bridge: probe");
            if (name.as_str(), data.as_str(), socket_id) != ("probe", "{}", None) {
                world.wrong(format!("to Pusher: {name} {data} on {channel}"));
            }
            continue;
        }
        let Some(mark @ Mark::Message { from, n }) = world.recognise(&data, "to Pusher") else { continue };
        let stream = world.stream_of(&channel, mark);
        let Some(stream) = stream.filter(|_| name == format!("client-m{n}")) else {
            world.wrong(format!("to Pusher: {mark:?} as {name} on {channel}"));
            continue;
        };
        world.check(world.outgoing.borrow_mut().attempt(from, n));
        let neighbours = &mut world.ledger.borrow_mut().neighbours;
        world.check(neighbours.attempt((from, n), stream, &channel, socket_id.as_deref(), Instant::now()));
        messages.push(Sent { from, n, attempt: neighbours.attempts((from, n)) });
    }
    messages
}

struct Publishing {
    world: Rc<World>,
    method: Method,
    path: String,
    body: bytes::Bytes,
    messages: Vec<Sent>,
}

impl Publishing {
    /// Answers the request, or not. Whether the connection lives on.
    async fn carry(self, wire: &mut Wire) -> bool {
        let received = Instant::now();
        match self.world.switches.next_http() {
            None => self.pass(wire, received).await,
            Some(HttpFault::Slow(time)) => {
                sleep(time).await;
                self.pass(wire, received).await
            }
            Some(HttpFault::Answer(status, headers)) => answer(wire, status, headers, "no").await,
            Some(HttpFault::TakeAndAnswer(status)) => {
                self.take().await;
                answer(wire, status, "", "no").await
            }
            Some(HttpFault::TakeAndCut) => {
                self.take().await;
                false
            }
            Some(HttpFault::Cut) => false,
            Some(HttpFault::Hold(time)) => {
                self.world.switches.held(1);
                for Sent { from, n, .. } in &self.messages {
                    self.world.outgoing.borrow_mut().held(*from, *n);
                }
                spawn_local(async move {
                    sleep(time).await;
                    self.take().await;
                    self.world.switches.held(-1);
                });
                // The bridge gives up.
                while wire.more().await.is_ok_and(|more| more) {}
                false
            }
        }
    }

    async fn pass(&self, wire: &mut Wire, received: Instant) -> bool {
        let Some((status, body)) = self.take().await else { return false };
        if (200..300).contains(&status) {
            let surely = received.elapsed() < SURELY_HEARD;
            for Sent { from, n, .. } in &self.messages {
                self.world.outgoing.borrow_mut().accepted(*from, *n, surely);
                self.world.ledger.borrow_mut().neighbours.answered((*from, *n), surely, Instant::now());
            }
        }
        answer(wire, status, "", &body).await
    }

    /// Hands it to Pusher.
    async fn take(&self) -> Option<(u16, String)> {
        for Sent { from, n, attempt } in &self.messages {
            self.world.outgoing.borrow_mut().taken(*from, *n);
            self.world.ledger.borrow_mut().neighbours.taking((*from, *n), *attempt);
        }
        let response =
            self.world.ask_upstream(self.method.clone(), &self.path, self.body.clone()).await.ok()?;
        for Sent { from, n, attempt } in &self.messages {
            self.world.ledger.borrow_mut().neighbours.took((*from, *n), *attempt, Instant::now());
        }
        Some((response.status.as_u16(), String::from_utf8_lossy(&response.body).into_owned()))
    }
}

/// Sends an answer. Whether that worked.
pub async fn answer(wire: &mut Wire, status: u16, headers: &str, body: &str) -> bool {
    let length = body.len();
    wire.send(format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}")).await.is_ok()
}
