//! An old client, by hand: it answers pings, checks every frame against the ledger, and can break in every way.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::ledger::{ClientId, Mark, OnGap, PATIENCE, StreamId, SubId};
use crate::messages::{Route, is_frame_of_message, message_data, message_type, number_of};
use crate::support::raw::{CLOSE, PING, PONG, TEXT, frame as client_frame, upgrade};
use crate::wire::{Frame, Wire, status};
use crate::world::World;

/// So much waits for a client that reads nothing, before there is no room for a close frame.
const UNREAD: u64 = 64 * 1024;
/// The reason of the close of a slow reader.
pub const TOO_SLOW: &str = "reading too slowly";
/// The leeway of 1 s, and time to read what was sent before.
const EXPIRY_PATIENCE: Duration = Duration::from_secs(5);

/// What a frame was, as far as scripts wait for it.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Done with.
    Nothing,
    AuthOk,
    Subscribed,
    /// An `auth_error`, or an error that is not about a message.
    Refused(String),
    /// The answer to the ping of this number.
    Pong(u32),
}

/// How a connection ended.
#[derive(Debug)]
pub enum Over {
    /// By a close frame.
    Closed(u16, String),
    /// Without one.
    Ended,
    Broken(#[allow(dead_code, reason = "shown")] io::Error),
    /// It was never upgraded.
    NotUpgraded(u16),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// A frame that tells an error.
#[derive(Deserialize)]
struct Told {
    data: ToldData,
}

#[derive(Deserialize)]
struct ToldData {
    error_code: String,
    #[serde(default)]
    details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(rename = "type")]
    message_type: Option<String>,
}

pub struct Client {
    pub world: Rc<World>,
    pub id: ClientId,
    pub wire: Wire,
    since: Instant,
    /// A close frame was sent.
    closing: bool,
    /// `None`: the echo route.
    route: Option<Route>,
    pub subs: Vec<SubId>,
    /// What the next confirmation will be for.
    pub asked: Option<StreamId>,
    /// Errors that are due, in order.
    pub due: VecDeque<&'static str>,
    /// Reasons for which the server may close.
    pub may_close: Vec<&'static str>,
    /// From so many bytes read on, it may have ended without a close frame.
    may_end_from: Option<u64>,
    /// When the token ends.
    pub expires: Option<Instant>,
    /// Frames that are to come back as they are: their first byte and payload.
    pub echoes: VecDeque<(u8, Vec<u8>)>,
    pings: u32,
    /// Pings under way, and how many messages had been sent before each.
    asking: VecDeque<(u32, u32)>,
    /// Subscriptions that are over once the ping of this number is answered.
    leaving: Vec<(u32, SubId)>,
}

impl Client {
    /// Connects and upgrades. `early`: bytes to send along with the request.
    pub async fn open(
        world: &Rc<World>,
        route: Option<Route>,
        path: &str,
        from: u16,
        early: &[u8],
    ) -> Result<Self, Over> {
        let wire = Wire::connect(world.bridge.get(), from, route == Some(Route::Firehose)).await?;
        let id = world.new_client();
        let mut client = Self {
            world: world.clone(),
            id,
            wire,
            since: Instant::now(),
            closing: false,
            route,
            subs: Vec::new(),
            asked: None,
            due: VecDeque::new(),
            may_close: Vec::new(),
            may_end_from: None,
            expires: None,
            echoes: VecDeque::new(),
            pings: 0,
            asking: VecDeque::new(),
            leaving: Vec::new(),
        };
        let request = [upgrade(path, &[("User-Agent", "soak")]).as_bytes(), early].concat();
        client.send_raw(&request).await?;
        let head = timeout(PATIENCE, client.wire.head()).await.map_err(|_| late())??;
        let head = head.ok_or(Over::Ended)?;
        match status(&head) {
            101 => {}
            status => return Err(Over::NotUpgraded(status)),
        }
        world.connections.set(world.connections.get() + 1);
        if matches!(route, Some(Route::Plugin | Route::Command)) {
            world.outgoing.borrow_mut().begin(id, route == Some(Route::Command));
        }
        Ok(client)
    }

    /// What this is about, for a message.
    pub fn who(&self) -> String {
        format!("client {} ({:?}, {:.1?} old)", self.id, self.route, self.since.elapsed())
    }

    // ------------------------------------------------------------------------------------------------ sending

    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Over> {
        Ok(timeout(PATIENCE, self.wire.send(bytes)).await.map_err(|_| late())??)
    }

    pub async fn send(&mut self, text: &str) -> Result<(), Over> {
        self.send_raw(&client_frame(TEXT, text.as_bytes())).await
    }

    /// Answers a server that may have ended already: what it sent before is still to be read. After a close
    /// frame nothing is sent (RFC 6455 §5.5.1).
    async fn reply(&mut self, bytes: &[u8]) {
        if !self.closing {
            let _ = self.send_raw(bytes).await;
        }
    }

    /// Sends numbered messages in one write.
    pub async fn publish(&mut self, count: u32) -> Result<(), Over> {
        let mut bytes = Vec::new();
        let own = self.subs.first().expect("who publishes is subscribed");
        for _ in 0..count {
            let n = self.world.outgoing.borrow_mut().send(self.id);
            let mut ledger = self.world.ledger.borrow_mut();
            let stream = ledger.stream_of(*own);
            ledger.neighbours.sent((self.id, n), stream, Instant::now());
            let text = format!(r#"{{"type":"{}","data":{}}}"#, message_type(n), message_data(self.id, n));
            bytes.extend(client_frame(TEXT, text.as_bytes()));
        }
        self.send_raw(&bytes).await
    }

    /// Sends what is refused with this code.
    pub async fn send_bad(&mut self, first: u8, payload: &[u8], code: &'static str) -> Result<(), Over> {
        self.due.push_back(code);
        self.send_raw(&client_frame(first, payload)).await
    }

    /// A WebSocket ping: its answer shows that everything before it was read. Gives its number.
    pub async fn ping(&mut self) -> Result<u32, Over> {
        self.pings += 1;
        let sent = self.world.outgoing.borrow().count(self.id);
        self.asking.push_back((self.pings, sent));
        self.send_raw(&client_frame(PING, self.pings.to_string().as_bytes())).await?;
        Ok(self.pings)
    }

    /// Ends an in-band subscription.
    pub async fn unsubscribe(&mut self, sub: SubId, text: &str) -> Result<(), Over> {
        if self.leaving.iter().any(|(_, leaving)| *leaving == sub) {
            return Ok(());
        }
        self.world.ledger.borrow_mut().release(sub);
        self.send(text).await?;
        let ping = self.ping().await?;
        self.leaving.push((ping, sub));
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------- listening

    /// Listens for a while. A refusal is not due now.
    pub async fn listen(&mut self, time: Duration) -> Result<(), Over> {
        let until = Instant::now() + time;
        while let Ok(frame) = timeout_at(until, self.wire.frame()).await {
            if let Heard::Refused(code) = self.heard(frame?).await? {
                self.refused(&code);
            }
        }
        Ok(())
    }

    /// Listens until an answer comes, which must come. `None`: it does not, which is noted.
    pub async fn answer(&mut self, wanted: impl Fn(&Heard) -> bool) -> Result<Option<Heard>, Over> {
        let until = Instant::now() + PATIENCE;
        while let Ok(frame) = timeout_at(until, self.wire.frame()).await {
            let heard = self.heard(frame?).await?;
            if wanted(&heard) {
                return Ok(Some(heard));
            }
            if let Heard::Refused(code) = heard {
                self.refused(&code);
            }
        }
        self.world.wrong(format!("{}: an answer does not come", self.who()));
        Ok(None)
    }

    fn refused(&self, code: &str) {
        let expired = code == "INVALID_TOKEN" && self.may_close.contains(&"token expired");
        if !expired {
            self.world.wrong(format!("{}: {code}, and nothing was wrong", self.who()));
        }
    }

    /// Whether the end of the ledger's patience has come for this client: a close is answered, and over.
    async fn heard(&mut self, frame: Option<Frame>) -> Result<Heard, Over> {
        let Some(frame) = frame else { return Err(Over::Ended) };
        match frame.first {
            CLOSE => {
                let (code, reason) = frame.close();
                self.reply(&client_frame(CLOSE, &frame.payload)).await;
                return Err(Over::Closed(code, reason));
            }
            PING => self.reply(&client_frame(PONG, &frame.payload)).await,
            PONG => return Ok(self.pong(&frame)),
            _ if self.route.is_none() => self.echoed(&frame),
            TEXT => return self.text(frame.text()).await,
            first => self.world.wrong(format!("{}: a frame that starts with {first:#x}", self.who())),
        }
        Ok(Heard::Nothing)
    }

    fn pong(&mut self, frame: &Frame) -> Heard {
        let number = frame.text().parse().unwrap_or(0);
        match self.asking.pop_front() {
            Some((ping, sent)) if ping == number => self.world.outgoing.borrow_mut().read(self.id, sent),
            other => self.world.wrong(format!("{}: pong {number} for ping {other:?}", self.who())),
        }
        let over = self.leaving.extract_if(.., |(ping, _)| *ping <= number).collect::<Vec<_>>();
        for (_, sub) in over {
            self.subs.retain(|other| *other != sub);
            self.world.check(self.world.ledger.borrow_mut().end(sub, Instant::now()));
        }
        Heard::Pong(number)
    }

    fn echoed(&mut self, frame: &Frame) {
        let expected = self.echoes.pop_front();
        if expected
            .as_ref()
            .is_none_or(|(first, payload)| *first != frame.first || **payload != *frame.payload)
        {
            self.world.wrong(format!("{}: {frame:?} is no echo of {expected:?}", self.who()));
        }
        self.world.echoed.set(self.world.echoed.get() + 1);
    }

    async fn text(&mut self, text: &str) -> Result<Heard, Over> {
        let Some(kind) = text.strip_prefix(r#"{"type":""#).and_then(|rest| rest.split('"').next()) else {
            self.world.wrong(format!("{}: not understood: {text}", self.who()));
            return Ok(Heard::Nothing);
        };
        match kind {
            "ping" => {
                let pong = br#"{"type":"pong","timestamp":"2025-01-21T10:00:00Z"}"#;
                self.reply(&client_frame(TEXT, pong)).await;
                Ok(Heard::Nothing)
            }
            "auth_response" => {
                self.confirmed();
                Ok(Heard::AuthOk)
            }
            "subscribed" => {
                self.confirmed();
                Ok(Heard::Subscribed)
            }
            "auth_error" | "error" => Ok(self.told(text)),
            _ => {
                self.event(text);
                Ok(Heard::Nothing)
            }
        }
    }

    fn confirmed(&mut self) {
        if let Some(stream) = self.asked.take() {
            self.subscribed(stream, true);
        }
    }

    /// From now on events of `stream` are due.
    pub fn subscribed(&mut self, stream: StreamId, confirmed: bool) {
        let on_gap = self.world.streams[stream as usize].route.on_gap();
        let mut ledger = self.world.ledger.borrow_mut();
        self.subs.push(ledger.subscribe(self.id, stream, on_gap, confirmed, Instant::now()));
    }

    fn told(&mut self, text: &str) -> Heard {
        let Ok(Told { data: ToldData { error_code, details } }) = serde_json::from_str(text) else {
            self.world.wrong(format!("{}: not understood: {text}", self.who()));
            return Heard::Nothing;
        };
        let message = details.message_type.as_deref().and_then(number_of);
        match (error_code.as_str(), message) {
            ("UPSTREAM_UNAVAILABLE" | "UPSTREAM_REFUSED" | "QUEUE_FULL", Some(n)) => {
                self.world.check(self.world.outgoing.borrow_mut().told(self.id, n));
            }
            ("EVENTS_MAY_BE_MISSING", _) => self.gap_told(),
            (code, _) if self.due.front() == Some(&code) => {
                self.due.pop_front();
            }
            _ => return Heard::Refused(error_code),
        }
        Heard::Nothing
    }

    fn gap_told(&self) {
        if self.route.is_none_or(|route| route.on_gap() != OnGap::Notify) {
            self.world.wrong(format!("{}: told of a gap, and did not want to be", self.who()));
        }
        for sub in &self.subs {
            self.world.check(self.world.ledger.borrow_mut().gap_told(*sub, Instant::now()));
        }
    }

    fn event(&self, text: &str) {
        let world = &self.world;
        let Some(mark) = crate::messages::mark_of(text) else {
            return world.wrong(format!("{}: not understood: {text}", self.who()));
        };
        let same = match mark {
            Mark::Event { stream, n } => {
                world.streams.get(stream as usize).is_some_and(|stream| stream.is_frame_of(n, text))
            }
            Mark::Message { from, n } => is_frame_of_message(from, n, text),
        };
        if !same {
            return world.wrong(format!("{}: altered: {text}", self.who()));
        }
        if self.expires.is_some_and(|at| at + EXPIRY_PATIENCE < Instant::now()) {
            world.wrong(format!("{}: {mark:?} after its token had expired", self.who()));
        }
        let mut ledger = world.ledger.borrow_mut();
        let sub = self.subs.iter().find(|sub| {
            let stream = ledger.stream_of(**sub);
            match mark {
                Mark::Event { stream: of, .. } => of == stream,
                Mark::Message { .. } => world.streams[stream as usize].route == Route::Plugin,
            }
        });
        match sub {
            Some(sub) => world.check(ledger.received(*sub, mark, Instant::now())),
            None => world.wrong(format!("{}: {mark:?} is not for it", self.who())),
        }
    }

    // ------------------------------------------------------------------------------------------------- ending

    /// Closes as one should, and reads to the end.
    pub async fn close(&mut self) -> Result<(), Over> {
        let sent = self.world.outgoing.borrow().count(self.id);
        self.send_raw(&client_frame(CLOSE, &1000_u16.to_be_bytes())).await?;
        self.closing = true;
        match self.read_to_end().await? {
            Some((1000, _)) => {
                self.world.outgoing.borrow_mut().read(self.id, sent);
                Ok(())
            }
            Some((code, reason)) => Err(Over::Closed(code, reason)),
            None => Err(Over::Ended),
        }
    }

    /// Ends this side only; the other follows, without a close frame.
    pub async fn finish(&mut self) -> Result<(), Over> {
        self.wire.stream.shutdown().await?;
        match self.read_to_end().await {
            Ok(None) | Err(Over::Broken(_)) => Ok(()),
            Ok(Some((code, reason))) => Err(Over::Closed(code, reason)),
            Err(over) => Err(over),
        }
    }

    /// Reads to the end of the stream, which must come; gives the close frame's code and reason.
    pub async fn read_to_end(&mut self) -> Result<Option<(u16, String)>, Over> {
        let until = Instant::now() + PATIENCE;
        let mut closed = None;
        loop {
            let Ok(frame) = timeout_at(until, self.wire.frame()).await else { return Err(late().into()) };
            match frame {
                Ok(None) => return Ok(closed),
                Ok(Some(_)) if closed.is_some() => {
                    self.world.wrong(format!("{}: a frame after the close frame", self.who()));
                }
                // After the close frames the server may well reset.
                Err(_) if closed.is_some() => return Ok(closed),
                Err(error) => return Err(error.into()),
                Ok(frame) => match self.heard(frame).await {
                    Ok(_) => {}
                    Err(Over::Closed(code, reason)) => closed = Some((code, reason)),
                    Err(over) => return Err(over),
                },
            }
        }
    }

    /// It has read nothing for long: where much was sent to it, it was closed without a word.
    pub fn was_deaf(&mut self) {
        self.may_end_from = Some(self.wire.read + UNREAD);
    }

    /// From now on nothing is owed to this client.
    pub fn release(&self) {
        let mut ledger = self.world.ledger.borrow_mut();
        self.subs.iter().for_each(|sub| ledger.release(*sub));
    }

    /// Whether the connection could end like this. A slow reader's answers to pings, sent when it reads again,
    /// may meet a server that is gone, and reset what it had not read yet.
    pub fn may_end(&self, over: &Over) -> bool {
        match over {
            Over::Closed(_, reason) => self.may_close.contains(&reason.as_str()),
            Over::Broken(_) => self.may_close.contains(&TOO_SLOW),
            Over::Ended => self.may_end_from.is_some_and(|bytes| self.wire.read >= bytes),
            Over::NotUpgraded(_) => false,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let now = Instant::now();
        for sub in std::mem::take(&mut self.subs) {
            let ended = self.world.ledger.borrow_mut().end(sub, now);
            self.world.check(ended);
        }
        self.world.outgoing.borrow_mut().gone(self.id);
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nothing happens")
}
