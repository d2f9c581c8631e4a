//! An old client, and what it heard.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::message::{Content, Frame, Place};
use crate::support::bridge::token;
use crate::support::{OldClient, patiently};

/// The order of what the test does and sees.
static TIME: AtomicU64 = AtomicU64::new(1);

/// A moment after all before.
pub fn tick() -> u64 {
    TIME.fetch_add(1, Ordering::SeqCst)
}

/// What a person heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub contents: BTreeMap<Content, usize>,
    /// The latest.
    pub fence: u64,
    /// When it knew that it is subscribed.
    pub confirmed: Option<u64>,
    pub refused: usize,
    /// Notices that something may be missing.
    pub gaps: usize,
    /// Its own messages that were not carried.
    pub told: BTreeMap<Content, usize>,
    pub pongs: u64,
    pub over: bool,
}

enum Command {
    Say(Vec<String>),
    Ping,
    Leave,
    Reset,
}

/// How a person leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Politely,
    /// Its connection breaks.
    ByReset,
}

pub struct Person {
    pub id: usize,
    heard: watch::Receiver<Heard>,
    commands: mpsc::UnboundedSender<Command>,
    place: Place,
    pings: u64,
}

impl Person {
    /// Connects, and says what it has to say at once, together with its token.
    pub async fn join(id: usize, bridge: SocketAddr, place: Place, room: &str, says: &[Content]) -> Self {
        let OldClient { socket, .. } = OldClient::connect(bridge, &place.path(room)).await;
        let (commands, coming) = mpsc::unbounded_channel();
        let (sender, heard) = watch::channel(Heard::default());
        tokio::spawn(live(socket, place, coming, sender));
        let person = Self { id, heard, commands, place, pings: 0 };
        let token = place.needs_token().then(|| person.token());
        person.command(Command::Say(token.into_iter().chain(says.iter().map(|it| it.frame())).collect()));
        person
    }

    fn token(&self) -> String {
        format!(r#"{{"type":"auth","token":"{}"}}"#, token(&self.id.to_string()))
    }

    fn command(&self, command: Command) {
        // Who is gone says nothing; that it is gone is seen otherwise.
        let _ = self.commands.send(command);
    }

    pub fn say(&self, content: Content) {
        self.command(Command::Say(vec![content.frame()]));
    }

    pub fn leave(&self, how: Leave) {
        self.command(match how {
            Leave::Politely => Command::Leave,
            Leave::ByReset => Command::Reset,
        });
    }

    pub fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    pub async fn until(&self, what: &str, holds: impl FnMut(&Heard) -> bool) {
        let mut heard = self.heard.clone();
        let what = format!("person {}: {what}", self.id);
        patiently(&what, heard.wait_for(holds)).await.unwrap();
    }

    /// Waits until it is subscribed where that is told; what is refused because Pusher is away is tried again.
    pub async fn confirmed(&self) {
        if !self.place.needs_token() {
            return;
        }
        for refused in 0..100 {
            self.until("an answer to its token", |heard| {
                heard.confirmed.is_some() || heard.refused > refused
            })
            .await;
            if self.heard.borrow().confirmed.is_some() {
                return;
            }
            self.command(Command::Say(vec![self.token()]));
        }
        panic!("it is never subscribed");
    }

    /// Waits until the bridge has read all that was said.
    pub async fn is_read(&mut self) {
        self.pings += 1;
        let pings = self.pings;
        self.command(Command::Ping);
        self.until("a pong", |heard| heard.pongs >= pings).await;
    }

    pub async fn over(&self) {
        self.until("its end", |heard| heard.over).await;
    }
}

async fn live(
    mut socket: WebSocketStream<TcpStream>,
    place: Place,
    mut commands: mpsc::UnboundedReceiver<Command>,
    heard: watch::Sender<Heard>,
) {
    let _ = lives(&mut socket, place, &mut commands, &heard).await;
    heard.send_modify(|heard| heard.over = true);
}

async fn lives(
    socket: &mut WebSocketStream<TcpStream>,
    place: Place,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    heard: &watch::Sender<Heard>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Say(frames)) => {
                    for frame in frames {
                        socket.feed(Message::text(frame)).await?;
                    }
                    socket.flush().await?;
                }
                Some(Command::Ping) => socket.send(Message::Ping(bytes::Bytes::new())).await?,
                Some(Command::Leave) | None => {
                    socket.close(None).await?;
                    while let Some(message) = socket.next().await {
                        hear(message?, place, heard);
                    }
                    return Ok(());
                }
                Some(Command::Reset) => {
                    socket.get_mut().set_zero_linger().unwrap();
                    return Ok(());
                }
            },
            message = socket.next() => match message {
                Some(message) => hear(message?, place, heard),
                None => return Ok(()),
            },
        }
    }
}

fn hear(message: Message, place: Place, heard: &watch::Sender<Heard>) {
    let frame = match message {
        Message::Text(text) => Frame::of(&text),
        Message::Pong(_) => return heard.send_modify(|heard| heard.pongs += 1),
        _ => return,
    };
    heard.send_modify(|heard| {
        // Where no answer tells it, the first event does.
        let is_event = matches!(frame, Frame::Content(_) | Frame::Fence(_));
        if matches!(frame, Frame::Confirmed) || is_event && !place.needs_token() {
            heard.confirmed.get_or_insert_with(tick);
        }
        match frame {
            Frame::Content(content) => *heard.contents.entry(content).or_default() += 1,
            Frame::Fence(n) => heard.fence = heard.fence.max(n),
            Frame::Refused(_) => heard.refused += 1,
            Frame::Gap => heard.gaps += 1,
            Frame::Told(content) => *heard.told.entry(content).or_default() += 1,
            Frame::Confirmed | Frame::Other => {}
        }
    });
}
