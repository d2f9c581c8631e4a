//! A link: one connection to Pusher and one task, which owns the socket and the table of the channels carried
//! on it. It never waits for sessions; it waits for hubs only when their inboxes are full, which slows Pusher.

mod deaf;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Sink, SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::settings::Settings;
use crate::clock::Now;
use crate::exchange::ConnId;
use crate::pusher::channel;
use crate::pusher::channel::ChannelKind;
use crate::pusher::close::{self, Reconnect};
use crate::pusher::frame::{self, ServerFrame, data_json, is_pushers_own};
use crate::pusher::sign;
use crate::text::loggable;
use crate::upstream::api::Api;
use crate::upstream::backoff::full_jitter;
use crate::upstream::cached::Cached;
use crate::upstream::checks::Checks;
use crate::upstream::delivery::{Delivery, Event, Sent};
use crate::upstream::dial::{self, Established, Socket};
use crate::upstream::link_table::{HUBS_MAX, LinkTable, Op};
use crate::upstream::links::{Command, LinkEnd};
use crate::upstream::liveness::{Due, Liveness};
use crate::upstream::lost::LostCause;
use crate::upstream::metrics::{EventResult, LinkMetrics};
use crate::upstream::probe::{self, Probe};
use crate::upstream::undelivered::{Reason, Undelivered};

/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// First ceiling of the reconnect delay; it doubles.
const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(500);
/// Least delay after a code of 4100-4199 (protocol page, "Error codes").
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// A connection that stood this long was a good one: the next failure starts from the first delay.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Commands handled before what they ask for is done.
const COMMANDS_PER_TURN_MAX: usize = 256;
/// Begins the name of a link's own channel; 16 hexadecimal digits follow.
const OWN_CHANNEL: &str = "private-pusher-bridge-";

/// What a link needs.
pub struct Link {
    /// Its number among the shared ones.
    pub index: usize,
    /// Where and how to connect.
    pub upstream: Arc<Settings>,
    /// For `wss`.
    pub tls: Arc<rustls::ClientConfig>,
    /// For probes.
    pub api: Arc<Api>,
    /// From hubs and the publisher.
    pub end: LinkEnd,
    /// To the hubs, by their number.
    pub hubs: Vec<mpsc::Sender<Delivery>>,
    /// Events that no client got.
    pub undelivered: Arc<Undelivered>,
    /// Whether the link is connected.
    pub connected: watch::Sender<bool>,
    /// Counters.
    pub metrics: Arc<LinkMetrics>,
}

/// Why a connection ended.
struct End {
    cause: LostCause,
    code: Option<u16>,
    why: String,
}

impl End {
    fn new(cause: LostCause, why: impl Into<String>) -> Self {
        Self { cause, code: None, why: why.into() }
    }
}

/// The running link.
struct Actor {
    link: Link,
    table: LinkTable,
    counted: [usize; 3],
    ops: Vec<Op>,
    checks: Checks,
    probe: Probe,
    /// The probe's channel: this link's own on this connection.
    own_channel: Arc<str>,
    /// Whether a probe's event was accepted.
    probed: (mpsc::UnboundedSender<bool>, mpsc::UnboundedReceiver<bool>),
    /// Last events of cache channels, for hubs that come later.
    cached: Cached<Arc<str>, Arc<Event>>,
    /// Cache channels that are subscribed and have had no event since.
    awaiting_last: HashSet<Arc<str>>,
    /// Accepted by Pusher, to be delivered to this bridge's own clients.
    accepted: VecDeque<Arc<Sent>>,
    rng: fastrand::Rng,
}

impl Link {
    /// Keeps a connection until everybody who could send a command is gone.
    pub async fn run(self) {
        let table = LinkTable::new(self.upstream.subscribe_timeout, self.upstream.linger);
        let checks = Checks::new(self.upstream.check_interval, self.upstream.subscribe_timeout);
        let probe = Probe::new(self.upstream.check_interval, self.upstream.pong_timeout);
        let connected = self.metrics.connected.named(self.index);
        let mut actor = Actor {
            link: self,
            table,
            counted: [0; 3],
            ops: Vec::new(),
            checks,
            probe,
            own_channel: "".into(),
            probed: mpsc::unbounded_channel(),
            cached: Cached::default(),
            awaiting_last: HashSet::new(),
            accepted: VecDeque::new(),
            rng: fastrand::Rng::new(),
        };
        connected.set(0.0);
        let mut attempt = 0;
        let mut delay = Duration::ZERO;
        loop {
            let end = match actor.connect(delay).await {
                None => return,
                Some(Err(end)) => end,
                Some(Ok(established)) => {
                    connected.set(1.0);
                    actor.link.connected.send_replace(true);
                    let since = Instant::now();
                    let end = actor.serve(established).await;
                    connected.set(0.0);
                    actor.link.connected.send_replace(false);
                    actor.lost().await;
                    if since.elapsed() >= STABLE_AFTER {
                        attempt = 0;
                    }
                    match end {
                        None => return,
                        Some(end) => end,
                    }
                }
            };
            delay = actor.delay_after(&end, attempt);
            attempt += 1;
        }
    }
}

impl Actor {
    fn delay_after(&mut self, end: &End, attempt: u32) -> Duration {
        let max = self.link.upstream.reconnect_delay_max;
        let jittered = full_jitter(attempt, RECONNECT_DELAY_FIRST, max, &mut self.rng);
        let delay = match Reconnect::after(end.code) {
            // The second time in a row, "at once" has proven wrong.
            Reconnect::Immediately if attempt == 0 => Duration::ZERO,
            Reconnect::Immediately => jittered,
            Reconnect::Backoff if end.code.is_some() => BACKOFF_MIN + jittered,
            Reconnect::Backoff => jittered,
            // What was refused may have been set right by hand meanwhile.
            Reconnect::NotUnchanged => max.mul_f64(0.5 + self.rng.f64() / 2.0),
        };
        self.link.metrics.reconnects.get(end.cause).increment(1);
        let meaning = end.code.and_then(close::meaning);
        tracing::warn!(
            link = self.link.index,
            cause = end.cause.label(),
            code = end.code,
            meaning,
            why = end.why,
            retry_ms = delay.as_millis() as u64,
            "not connected to Pusher"
        );
        delay
    }

    /// Waits, then dials, while commands are handled. `None`: everybody is gone.
    async fn connect(&mut self, delay: Duration) -> Option<Result<Established, End>> {
        let (upstream, tls) = (self.link.upstream.clone(), self.link.tls.clone());
        let dialling = async move {
            tokio::time::sleep(delay).await;
            match timeout(upstream.connect_timeout, dial::dial(&upstream, tls)).await {
                Ok(Ok(established)) => Ok(established),
                Ok(Err(failed)) => Err(End { cause: failed.cause, code: failed.code, why: failed.why }),
                Err(_) => Err(End::new(LostCause::ConnectTimeout, "no connection in time")),
            }
        };
        tokio::pin!(dialling);
        loop {
            tokio::select! {
                command = self.link.end.commands.recv() => {
                    self.handle(command?);
                    self.deliver_accepted().await;
                }
                result = &mut dialling => return Some(result),
                () = wait_until(self.table.deadline()) => self.table_timer(),
            }
            // Not connected, the table asks for nothing to be sent and has nothing to tell.
            self.ops.clear();
            self.count();
        }
    }

    /// Carries traffic until the connection ends. `None`: everybody is gone.
    async fn serve(&mut self, established: Established) -> Option<End> {
        let Established { mut socket, socket_id, activity_timeout } = established;
        tracing::info!(link = self.link.index, socket_id, "connected to Pusher");
        let now = Instant::now().into_std();
        let mut live = Liveness::new(activity_timeout, self.link.upstream.pong_timeout, now);
        self.own_channel = format!("{OWN_CHANNEL}{:016x}", self.rng.u64(..)).into();
        self.checks.connected(self.own_channel.clone(), now);
        if self.checks.shows_nothing() {
            self.begin_probe();
        }
        let held = self.link.end.flights.lock().connected(&socket_id, now);
        self.table.connected(&held, now, &mut self.ops);
        let mut commands = Vec::new();
        loop {
            if let Err(end) = self.carry_out(&mut socket, &socket_id).await {
                return Some(end);
            }
            self.deliver_accepted().await;
            self.count();
            tokio::select! {
                biased;
                // Many commands at once, or events would wait for each turn of those who subscribe and unsubscribe
                // without end.
                taken = self.link.end.commands.recv_many(&mut commands, COMMANDS_PER_TURN_MAX) => {
                    if taken == 0 {
                        let _ = timeout(WRITE_TIMEOUT, socket.close(None)).await;
                        return None;
                    }
                    commands.drain(..).for_each(|command| self.handle(command));
                }
                () = wait_until(self.table.deadline()) => self.table_timer(),
                () = sleep_until(live.deadline().into()) => match live.timer(Instant::now().into_std()) {
                    Due::Nothing => {}
                    Due::Dead => return Some(End::new(LostCause::PongTimeout, "Pusher did not answer a ping")),
                    Due::Ping => {
                        if let Err(end) = write(&mut socket, frame::PING).await {
                            return Some(end);
                        }
                    }
                },
                () = wait_until(self.checks.deadline()) => {
                    if let Err(end) = self.check() {
                        return Some(end);
                    }
                }
                () = wait_until(self.probe.deadline()) => match self.probe.timer(Instant::now().into_std()) {
                    probe::Due::Nothing => {}
                    probe::Due::Publish => self.publish_probe(),
                    probe::Due::Deaf => {
                        return Some(End::new(LostCause::Deaf, "Pusher accepts events and does not deliver them"));
                    }
                },
                Some(accepted) = self.probed.1.recv() => {
                    self.probe.published(accepted, Instant::now().into_std());
                }
                message = socket.next() => {
                    live.heard();
                    if let Err(end) = self.message(message, &mut socket, Instant::now()).await {
                        return Some(end);
                    }
                }
            }
        }
    }

    fn handle(&mut self, command: Command) {
        let now = Instant::now().into_std();
        match command {
            Command::Subscribe(channel, hub) => self.table.want(&channel, hub, now, &mut self.ops),
            Command::Unsubscribe(channel, hub) => self.table.unwant(&channel, hub, now),
            Command::Ended { flight, accepted } => {
                self.accepted.extend(accepted);
                let released = self.link.end.flights.lock().end(flight, now);
                self.table.release(&released, now);
            }
        }
    }

    fn table_timer(&mut self) {
        let now = Instant::now().into_std();
        for channel in self.table.timer(now, &mut self.ops) {
            self.link.metrics.subscription_failures.increment(1);
            tracing::warn!(channel = &*channel, "Pusher did not answer a subscription in time");
        }
    }

    /// Hands what Pusher accepted to the hubs. They know who is subscribed, and go on with it while the link is
    /// lost.
    async fn deliver_accepted(&mut self) {
        while let Some(sent) = self.accepted.pop_front() {
            let hubs = self.table.hubs(&sent.channel);
            if hubs == 0 {
                continue;
            }
            if !self.awaiting_last.is_empty() && self.table.receivers(&sent.channel).is_some() {
                // It would have come before: what comes now is somebody's.
                self.awaiting_last.remove(&sent.channel);
            }
            self.link.metrics.local_events.increment(1);
            let data = frame::text_json(&sent.data);
            let received = Instant::now().into_std();
            let event = self.new_event(sent.channel.clone(), &sent.event, &data, received, Some(sent.origin));
            self.deliver(hubs, event).await;
        }
    }

    fn new_event(
        &mut self,
        channel: Arc<str>,
        name: &str,
        data: &str,
        received: std::time::Instant,
        origin: Option<ConnId>,
    ) -> Arc<Event> {
        let event = Arc::new(Event::new(self.link.end.id, channel, name, data, received, origin));
        if channel::is_cache(&event.channel) {
            self.cached.keep(event.channel.clone(), event.clone(), event.bytes(), received);
        }
        event
    }

    async fn deliver(&self, hubs: u64, event: Arc<Event>) {
        event.expect_hubs(hubs.count_ones());
        for hub in (0..HUBS_MAX).filter(|hub| hubs & (1 << hub) != 0) {
            self.tell(hub, Delivery::Event(event.clone())).await;
        }
    }

    /// Does what the table asks for.
    async fn carry_out(&mut self, socket: &mut Socket, socket_id: &str) -> Result<(), End> {
        let mut fed = false;
        for op in std::mem::take(&mut self.ops) {
            match op {
                Op::Subscribe(channel) => {
                    let app = &self.link.upstream.app;
                    let auth = (ChannelKind::of(&channel) != ChannelKind::Public)
                        .then(|| sign::channel_auth(&app.key, &app.secret, socket_id, &channel, None));
                    feed(socket, frame::subscribe(&channel, auth.as_deref(), None)).await?;
                    fed = true;
                }
                Op::Unsubscribe(channel) => {
                    self.cached.forget(&*channel);
                    self.awaiting_last.remove(&channel);
                    feed(socket, frame::unsubscribe(&channel)).await?;
                    fed = true;
                }
                Op::TellLive { hub, channel, gap } => {
                    let cached = self.cached.get(&*channel, std::time::Instant::from(Instant::now()));
                    let link = self.link.end.id;
                    self.tell(hub, Delivery::Live { link, channel, gap, cached }).await;
                }
            }
        }
        if fed { within(SinkExt::flush(socket)).await } else { Ok(()) }
    }

    async fn tell(&self, hub: usize, delivery: Delivery) {
        if let Some(hub) = self.link.hubs.get(hub) {
            // A hub that has ended has no clients any more.
            let _ = hub.send(delivery).await;
        }
    }

    async fn message(
        &mut self,
        message: Option<Result<Message, WsError>>,
        socket: &mut Socket,
        at: Instant,
    ) -> Result<(), End> {
        match message {
            Some(Ok(Message::Text(text))) => self.frame(&text, socket, at).await,
            Some(Ok(Message::Close(close))) => {
                let code = close.as_ref().map(|close| close.code.into());
                let why = close.map(|close| close.reason.to_string()).unwrap_or_default();
                Err(End { cause: LostCause::of_close(code), code, why: loggable(&why) })
            }
            Some(Ok(Message::Binary(_))) => {
                self.link.metrics.event(EventResult::Malformed);
                Ok(())
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(End::new(LostCause::Broken, error.to_string())),
            None => Err(End::new(LostCause::Broken, "the connection ended")),
        }
    }

    async fn frame(&mut self, text: &str, socket: &mut Socket, at: Instant) -> Result<(), End> {
        match ServerFrame::decode(text) {
            Ok(ServerFrame::Event { event, channel, data, .. }) => {
                self.event(&event, &channel, data, at).await;
            }
            Ok(ServerFrame::Ping) => write(socket, frame::PONG).await?,
            Ok(ServerFrame::SubscriptionSucceeded { channel, .. }) => {
                let answer = self.checks.confirmed(&channel, at.into_std());
                if self.checked(&channel, answer) {
                } else if *channel == *self.own_channel {
                    self.probe.subscribed(at.into_std());
                } else {
                    self.subscribed(&channel, at);
                }
            }
            Ok(ServerFrame::SubscriptionError { channel, message, .. }) => {
                self.refused(&channel, &message, at);
            }
            Ok(ServerFrame::Error { code, message }) => return self.error(code, &message, at),
            Ok(ServerFrame::Other { channel: Some(channel), event, .. }) if event == "pusher:cache_miss" => {
                self.awaiting_last.remove(&*channel);
            }
            Ok(ServerFrame::Other { channel: None, event, .. }) if !is_pushers_own(&event) => {
                self.link.metrics.event(EventResult::NoChannel);
            }
            Ok(_) => {}
            Err(error) => {
                self.link.metrics.event(EventResult::Malformed);
                // The error quotes the frame.
                let error = loggable(&error.to_string());
                let frame = loggable(text);
                tracing::warn!(link = self.link.index, error, frame, "a frame from Pusher makes no sense");
            }
        }
        Ok(())
    }

    /// An error is about the connection when its code is a close code (soketi and sockudo send one before they
    /// close); else it is about a subscription, which it does not name.
    fn error(&mut self, code: Option<u16>, message: &str, at: Instant) -> Result<(), End> {
        let about_subscription = matches!(code, None | Some(4009 | 4301 | 4302));
        if !about_subscription && code.is_some_and(|code| code >= 4000) {
            return Err(End { cause: LostCause::of_close(code), code, why: loggable(message) });
        }
        // Pusher says so when it is subscribed already: then it stands.
        if let Some(channel) = message.strip_prefix("Existing subscription to channel ") {
            let answer = self.checks.exists(channel, at.into_std());
            if !self.checked(channel, answer) {
                self.subscribed(channel, at);
            }
            return Ok(());
        }
        // Answers an unsubscription, so no subscription is to blame.
        if message.starts_with("No current subscription") {
            return Ok(());
        }
        let answer = self.checks.refused(message, self.table.is_subscribing());
        if self.checked("", answer) {
            return Ok(());
        }
        match self.table.blame(message) {
            Some(channel) => self.refused(&channel, message, at),
            None => tracing::warn!(
                link = self.link.index,
                code,
                why = loggable(message),
                "Pusher reports an error"
            ),
        }
        Ok(())
    }

    fn subscribed(&mut self, channel: &str, at: Instant) {
        if channel::is_cache(channel) {
            self.awaiting_last.insert(channel.into());
        }
        self.table.succeeded(channel, at.into_std(), &mut self.ops);
    }

    /// Whether an event is the last one of a cache channel, sent to a new subscription of this link, though its clients
    /// have it already: from before the connection was lost, or because one of them wrote it.
    fn is_had_already(&mut self, event: &str, channel: &str, data: &str, at: Instant) -> bool {
        !self.awaiting_last.is_empty()
            && self.awaiting_last.remove(channel)
            && (self.cached.get(channel, at.into_std()))
                .is_some_and(|last| *last.name == *event && *last.data == *data)
    }

    fn refused(&mut self, channel: &str, message: &str, at: Instant) {
        self.link.metrics.subscription_failures.increment(1);
        tracing::warn!(channel = loggable(channel), why = loggable(message), "Pusher refused a subscription");
        self.table.refused(channel, at.into_std(), &mut self.ops);
    }

    async fn event(&mut self, event: &str, channel: &str, data: Option<&str>, at: Instant) {
        let Some((channel, hubs)) = self.table.receivers(channel) else {
            if *channel == *self.own_channel {
                self.probe.arrived(at.into_std());
            } else {
                self.link.metrics.event(EventResult::Undelivered(Reason::NoSubscriber));
                self.link.undelivered.note_unwanted(channel, event, Now::read());
            }
            return;
        };
        self.probe.heard();
        let data = data_json(data);
        if self.is_had_already(event, &channel, &data, at) {
            return self.link.metrics.event(EventResult::HadAlready);
        }
        let event = self.new_event(channel, event, &data, at.into_std(), None);
        self.deliver(hubs, event).await;
    }

    /// The connection is lost: whoever is subscribed may miss events.
    async fn lost(&mut self) {
        self.link.end.flights.lock().disconnected();
        self.awaiting_last.clear();
        let table = &self.table;
        self.cached.forget_all(|channel| table.hubs(channel) == 0);
        self.checks.disconnected();
        self.probe.disconnected();
        let missed = self.table.disconnected();
        self.ops.clear();
        self.count();
        if missed > 0 {
            self.link.metrics.gaps.increment(missed as u64);
            tracing::warn!(
                link = self.link.index,
                channels = missed,
                "events may be missed until the channels stand again"
            );
        }
        for hub in 0..self.link.hubs.len() {
            self.tell(hub, Delivery::Down(self.link.end.id)).await;
        }
    }

    fn count(&mut self) {
        let counts = self.table.counts();
        let counted = [counts.pending, counts.live, counts.lingering];
        if counted != self.counted {
            self.link.metrics.move_subscriptions(self.counted, counted);
            self.counted = counted;
        }
    }
}

async fn wait_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn write(socket: &mut Socket, text: &str) -> Result<(), End> {
    within(socket.send(Message::text(text))).await
}

async fn feed(socket: &mut Socket, text: String) -> Result<(), End> {
    within(socket.feed(Message::text(text))).await
}

async fn within<S: Future<Output = Result<(), <Socket as Sink<Message>>::Error>>>(
    writing: S,
) -> Result<(), End> {
    match timeout(WRITE_TIMEOUT, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::new(LostCause::Broken, error.to_string())),
        Err(_) => Err(End::new(LostCause::WriteTimeout, "Pusher did not read in time")),
    }
}
