//! A link's driver: one connection to Pusher and one task, which carries out what its machine decides. It never waits
//! for sessions; it waits for hubs only when their inboxes are full, which slows Pusher.

pub mod checks;
pub mod client_events;
pub mod handover;
pub mod liveness;
pub mod machine;
pub mod pace;
pub mod probe;
pub mod suspects;
pub mod table;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::machine::{Action, Frame, Machine, Note};
use self::table::Counts;
use super::api::{Api, Outcome};
use super::connection::{Connection, Message, Received};
use super::credentials::Credentials;
use super::delivery::{Delivery, Sent};
use super::dial::{Established, dial};
use super::hubs::Hubs;
use super::links::LinkEnd;
use super::lost::End;
use super::members::pool::FromLink;
use super::members::source::Source;
use super::metrics::{EventResult, LinkMetrics};
use super::moving::{self, Leaving, Move, Moving, Order, order};
use super::settings::{App, Settings};
use super::undelivered::{Reason, Undelivered};
use crate::clock::Now;
use crate::exchange::{ConnId, LinkId};
use crate::metrics::Gauge;
use crate::pusher::channel::ChannelKind;
use crate::pusher::frame::ServerFrame;
use crate::pusher::{close, frame, sign};
use crate::text::loggable;

/// Commands handled before what they ask for is done.
const COMMANDS_PER_TURN_MAX: usize = 256;
/// Messages of a user's own link that are read in one turn.
const MESSAGES_PER_TURN_MAX: usize = 64;

/// What all links need.
pub struct Shared {
    /// Where and how to connect.
    pub settings: Arc<Settings>,
    /// For `wss`.
    pub tls: Arc<rustls::ClientConfig>,
    /// For probes.
    pub api: Arc<Api>,
    /// To the hubs, by their number.
    pub hubs: Vec<mpsc::Sender<Delivery>>,
    /// Events that no client got.
    pub undelivered: Arc<Undelivered>,
    pub metrics: Arc<LinkMetrics>,
    /// Told of what may be their fault.
    pub credentials: Credentials,
}

/// Where a link shows whether it is connected.
pub struct Status {
    /// Whether the link is connected.
    pub connected: watch::Sender<bool>,
    /// The same, for the metrics.
    pub gauge: Gauge,
}

enum Shown {
    /// Of a link that clients share.
    Shared(Status),
    /// Of a user's own: how many of those are.
    Member { gauge: Gauge, is_counted: bool },
    /// Of the one that takes a shared link's place.
    Spare,
}

impl Shown {
    fn show(&mut self, is_connected: bool) {
        match self {
            Self::Shared(Status { connected, gauge }) => {
                gauge.set(f64::from(u8::from(is_connected)));
                connected.send_replace(is_connected);
            }
            Self::Member { gauge, is_counted } => {
                if is_connected && !*is_counted {
                    gauge.increment(1.0);
                } else if !is_connected && *is_counted {
                    gauge.decrement(1.0);
                }
                *is_counted = is_connected;
            }
            Self::Spare => {}
        }
    }
}

/// A running link.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) shared: Arc<Shared>,
    /// Of a user's own link: what comes is told to the pool, and not to hubs.
    pub(super) source: Option<Source>,
    pub(super) machine: Machine,
    /// What it wants done.
    pub(super) actions: Vec<Action>,
    pub(super) line: Line,
    /// Whether a probe's event, on this channel, was accepted.
    probes: mpsc::UnboundedSender<(Arc<str>, bool)>,
    gauges: Gauges,
    /// While its connection is replaced.
    pub(super) moving: Option<Box<Moving>>,
    /// What comes behind that.
    pub(super) next: Option<Box<Move>>,
    /// Of one of two that carry the same: it is to connect by other credentials.
    pub(super) leaving: Option<Box<Leaving>>,
}

/// The way to Pusher.
#[derive(Default)]
pub struct Line {
    pub(super) dialling: Option<Dialling>,
    pub(super) connection: Option<Connection>,
    pub(super) socket_id: String,
    pub(super) activity_timeout: Option<Duration>,
    /// Whether frames wait to be written.
    unflushed: bool,
    /// Why the connection can be written to no more.
    broken: Option<End>,
}

type Dialling = Pin<Box<dyn Future<Output = Result<Established, End>> + Send>>;

/// Keeps a connection as long as anybody has a handle.
pub async fn run(shared: Arc<Shared>, end: LinkEnd, status: Status) {
    keep(shared, end, Shown::Shared(status), None).await;
}

/// The same, of a link that is one user's own; `gauge` counts those that are connected.
pub async fn run_member(shared: Arc<Shared>, end: LinkEnd, gauge: Gauge, source: Source) {
    keep(shared, end, Shown::Member { gauge, is_counted: false }, Some(source)).await;
}

/// The same, of the one that takes a shared link's place.
pub(super) async fn run_spare(shared: Arc<Shared>, end: LinkEnd) {
    keep(shared, end, Shown::Spare, None).await;
}

async fn keep(shared: Arc<Shared>, end: LinkEnd, status: Shown, source: Option<Source>) {
    let LinkEnd { id, mut commands, flights, second: _, orders } = end;
    // Without one it is never ready.
    let mut orders = orders;
    let (probes, mut probed) = mpsc::unbounded_channel();
    let machine = Machine::new(id, shared.settings.times, flights, fastrand::Rng::new(), now())
        .with_master_key(shared.settings.app.encryption_master_key.clone());
    let mut link = Link {
        id,
        machine: if source.is_some() { machine.of_member() } else { machine },
        source,
        actions: Vec::new(),
        line: Line::default(),
        probes,
        gauges: Gauges { status, counts: Counts::default(), metrics: shared.metrics.clone() },
        moving: None,
        next: None,
        leaving: None,
        shared,
    };
    link.gauges.connected(false);
    let (mut batch, mut is_wanted) = (Vec::new(), true);
    let sleep = tokio::time::sleep_until(link.machine.deadline().into());
    tokio::pin!(sleep);
    loop {
        link.carry_out().await;
        // What was accepted of clients leaves first.
        if !is_wanted && !link.has_client_events() {
            return link.close().await;
        }
        link.gauges.count(link.machine.table().counts());
        link.go_on_leaving();
        link.go_on_moving();
        if !link.actions.is_empty() {
            continue;
        }
        let deadline = link.deadline().into();
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        tokio::select! {
            biased;
            // Many commands at once, or events would wait for each turn of those who subscribe and unsubscribe
            // without end.
            taken = commands.recv_many(&mut batch, COMMANDS_PER_TURN_MAX), if is_wanted => {
                is_wanted = taken > 0;
                let now = Now::read();
                for command in batch.drain(..) {
                    link.command(command, now);
                }
            }
            () = &mut sleep, if !link.is_yielding() => link.timer(),
            Some((channel, accepted)) = probed.recv() => link.machine.probed(&channel, accepted, now()),
            dialled = dialled(&mut link.line.dialling) => link.dialled(dialled),
            Some(order) = order(&mut orders) => match order {
                Order::Move(to) => link.is_to_move(to),
                Order::Reconnect(to, left) => link.is_to_reconnect(to, left),
                // Whatever else it was to do its taker does.
                Order::Yield(taker) => {
                    if link.yield_to(taker) {
                        return;
                    }
                }
            },
            stirred = moving::stirred(&mut link.moving) => link.stirred(stirred),
            message = message(&mut link.line.connection), if link.machine.reads() => link.receive(message),
        }
    }
}

/// The end of the attempt, if there is one.
async fn dialled(dialling: &mut Option<Dialling>) -> Result<Established, End> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}

/// What comes over the connection, if there is one.
async fn message(connection: &mut Option<Connection>) -> Message {
    match connection {
        Some(connection) => connection.message().await,
        None => std::future::pending().await,
    }
}

fn receive(
    received: Received<'_>,
    link: LinkId,
    machine: &mut Machine,
    metrics: &LinkMetrics,
    actions: &mut Vec<Action>,
) {
    match received {
        Received::Frame(frame) => machine.frame(frame, Now::read(), actions),
        Received::Unreadable(text, error) => {
            machine.heard();
            metrics.event(EventResult::Malformed);
            // The error quotes the frame.
            let (error, frame) = (loggable(&error.to_string()), loggable(text));
            tracing::warn!(link = link.0, error, frame, "a frame from Pusher makes no sense");
        }
        Received::Binary => {
            machine.heard();
            metrics.event(EventResult::Malformed);
        }
        Received::Control => machine.heard(),
        Received::Ended(ended) => machine.ended(ended.into(), now(), actions),
    }
}

impl Link {
    /// Takes what came, and of a user's own link what else is there: it is seldom alone.
    fn receive(&mut self, message: Message) {
        if self.source.is_none() {
            return self.received(message);
        }
        let (mut next, mut taken) = (Some(message), 0);
        while let Some(message) = next.take() {
            self.member_received(message);
            taken += 1 + self.skip_copies(MESSAGES_PER_TURN_MAX.saturating_sub(taken + 1));
            let Some(connection) = &mut self.line.connection else { return };
            if taken < MESSAGES_PER_TURN_MAX && !connection.is_drained() {
                next = connection.message().now_or_never();
            }
        }
        self.machine.has_read(taken, taken < MESSAGES_PER_TURN_MAX, now());
        if let Some(connection) = &mut self.line.connection {
            connection.forget_text();
            if !self.machine.reads() {
                connection.rest();
            }
        }
    }

    fn member_received(&mut self, message: Message) {
        let (Some(source), Some(connection)) = (&self.source, &self.line.connection) else { return };
        let known = matches!(message, Message::Text)
            .then(|| source.common.copies().event(connection.text().as_bytes()))
            .flatten();
        if known.is_some_and(|event| self.machine.copied(event, &mut self.actions)) {
            return;
        }
        let before = self.actions.len();
        let understood = connection.understand(message);
        if let Received::Frame(ServerFrame::SubscriptionSucceeded { channel, data: Some(data) }) = &understood
            && ChannelKind::of(channel) == ChannelKind::Presence
            && source.common.wants_snapshot(channel)
        {
            let (channel, data) = (Arc::from(&**channel), Box::from(*data));
            self.actions.push(Action::TellPool(FromLink::Snapshot { channel, data }));
        }
        receive(understood, self.id, &mut self.machine, &self.shared.metrics, &mut self.actions);
        let added = self.actions.get(before..).unwrap_or_default();
        if let [Action::Tell(_, Delivery::Event(event))] = added {
            source.common.copies().keep(connection.text(), event);
        }
    }

    /// Takes what comes next and is the copy of something, without a closer look at it. How many it were.
    fn skip_copies(&mut self, most: usize) -> usize {
        let (Some(source), Some(connection)) = (&self.source, &mut self.line.connection) else { return 0 };
        let copies = source.common.copies();
        let mut skipped = 0;
        while skipped < most
            && let Some(known) = connection.peek().and_then(|text| copies.event(text))
            && self.machine.copied(known, &mut self.actions)
        {
            connection.skip();
            skipped += 1;
        }
        skipped
    }

    fn received(&mut self, message: Message) {
        if let Some(connection) = &self.line.connection {
            let received = connection.understand(message);
            receive(received, self.id, &mut self.machine, &self.shared.metrics, &mut self.actions);
        }
    }

    fn dialled(&mut self, dialled: Result<Established, End>) {
        self.line.dialling = None;
        match dialled {
            Ok(Established { connection, socket_id, activity_timeout }) => {
                tracing::info!(link = self.id.0, socket_id, "connected to Pusher");
                self.machine.connected(&socket_id, activity_timeout, now(), &mut self.actions);
                self.line.connection = Some(connection);
                self.line.socket_id = socket_id;
                self.line.activity_timeout = activity_timeout;
                self.gauges.connected(true);
                self.shared.credentials.connected();
            }
            Err(end) => self.machine.ended(end, now(), &mut self.actions),
        }
    }

    async fn close(&mut self) {
        if let Some(connection) = self.line.connection.take() {
            connection.close().await;
        }
        self.machine.close(&mut self.actions);
        self.carry_out().await;
    }

    /// Does what the machine wants done.
    async fn carry_out(&mut self) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.act(action).await;
            }
            self.line.flush().await;
            if let Some(end) = self.line.broken.take() {
                self.machine.ended(end, now(), &mut self.actions);
            }
            // What was added meanwhile is next.
            if self.actions.is_empty() {
                self.actions = actions;
            }
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Tell(hubs, delivery) if self.moving.is_some() => self.tell_once(hubs, delivery).await,
            Action::Tell(hubs, delivery) if self.source.is_none() => self.tell(hubs, delivery).await,
            Action::Deliver(event) => self.deliver(event).await,
            Action::Tell(_, delivery) => self.tell_pool(FromLink::Told(delivery)).await,
            Action::TellPool(what) => self.tell_pool(what).await,
            Action::Report(report) => self.tell_pool(FromLink::Report(report)).await,
            Action::Send(frame) => {
                self.note_sent(&frame);
                self.line.feed(frame, &self.shared.settings.app).await;
            }
            Action::Settle(event, fate) => {
                self.note_settled(&event.sent).await;
                event.settle(fate);
            }
            Action::Note(note) => self.note(note),
            Action::Dial => {
                if let Some(now) = self.source.as_ref().and_then(|source| source.common.shared()) {
                    self.shared = now;
                }
                let (settings, tls) = (self.shared.settings.clone(), self.shared.tls.clone());
                let is_member = self.source.is_some();
                self.line.dialling = Some(Box::pin(async move { dial(&settings, tls, is_member).await }));
            }
            Action::HangUp => {
                self.line = Line::default();
                self.gauges.connected(false);
                self.give_up_moving();
            }
            Action::PublishProbe(channel) => self.publish_probe(channel),
        }
    }

    pub(super) async fn tell(&mut self, hubs: Hubs, delivery: Delivery) {
        for hub in hubs.filter_map(|hub| self.shared.hubs.get(hub)) {
            // A hub that has ended has no clients any more.
            if let Err(TrySendError::Full(delivery)) = hub.try_send(delivery.clone()) {
                self.line.flush().await;
                let _ = hub.send(delivery).await;
            }
        }
    }

    async fn tell_pool(&mut self, what: FromLink) {
        let Some(source) = &self.source else { return };
        if let Some(what) = source.tell_at_once(what) {
            self.line.flush().await;
            source.tell(what).await;
        }
    }

    fn publish_probe(&self, channel: Arc<str>) {
        let (api, timeout) = (self.shared.api.clone(), self.shared.settings.publish.timeout);
        let probes = self.probes.clone();
        tokio::spawn(async move {
            let (event, data) = ("probe".to_owned(), "{}".to_owned());
            let sent = Sent { channel: channel.clone(), event, data, origin: ConnId(0) };
            let outcome = api.trigger(&[Arc::new(sent)], |_| None, timeout).await;
            let _ = probes.send((channel, matches!(outcome, Outcome::Accepted)));
        });
    }

    pub(super) fn note(&self, note: Note) {
        if self.source.is_some() && matches!(note, Note::Missing(_) | Note::Unwanted { .. }) {
            // Other links carry the channel too: what is missed, and what nobody gets, the pool knows.
            return;
        }
        let (link, metrics) = (self.id.0, &self.shared.metrics);
        match note {
            Note::Local => metrics.local_events.increment(1),
            Note::HadAlready => metrics.event(EventResult::HadAlready),
            Note::WithoutChannel => metrics.event(EventResult::NoChannel),
            Note::Unwanted { channel, event } => {
                metrics.event(EventResult::Undelivered(Reason::NoSubscriber));
                self.shared.undelivered.note_unwanted(&channel, &event, Now::read());
            }
            Note::Undecryptable { channel, event, why } => {
                metrics.event(EventResult::Undecryptable);
                metrics.undecryptable.get(why).increment(1);
                let (channel, event) = (loggable(&channel), loggable(&event));
                tracing::warn!(link, channel, event, why = why.label(), "an event cannot be decrypted");
            }
            // The junction knows.
            Note::Missing(channels) if self.shared.settings.standby => {
                tracing::info!(link, channels, "the other connection carries the channels alone");
            }
            Note::Missing(channels) => {
                metrics.gaps.increment(channels as u64);
                tracing::warn!(link, channels, "events may be missed until the channels are confirmed again");
            }
            Note::Forgotten(channel) => {
                if !self.shared.settings.standby {
                    metrics.gaps.increment(1);
                }
                let channel = loggable(&channel);
                tracing::warn!(
                    link,
                    channel,
                    "Pusher had forgotten a subscription: events may have been missed"
                );
            }
            Note::SubscriptionFailed { channel, why: reason, text } => {
                metrics.subscription_failures.get(reason).increment(1);
                self.shared.credentials.refused(reason);
                let (channel, reason) = (loggable(&channel), reason.label());
                match text {
                    Some(why) => {
                        tracing::warn!(
                            link,
                            channel,
                            reason,
                            why = loggable(&why),
                            "Pusher refused a subscription"
                        );
                    }
                    None => tracing::warn!(link, channel, "Pusher did not answer a subscription in time"),
                }
            }
            Note::ClientEventRefused(why) => {
                tracing::warn!(link, why = loggable(&why), "Pusher did not take a client event");
            }
            Note::Error(code, why) => {
                tracing::warn!(link, code, why = loggable(&why), "Pusher reports an error");
            }
            Note::Ended(end, retry) => {
                self.shared.credentials.ended(&end);
                let End { cause, code, why } = end;
                metrics.reconnects.get(cause).increment(1);
                tracing::warn!(
                    link,
                    cause = cause.label(),
                    code,
                    meaning = code.and_then(close::meaning),
                    why,
                    retry_ms = retry.as_millis() as u64,
                    "not connected to Pusher"
                );
            }
        }
    }
}

impl Line {
    async fn feed(&mut self, frame: Frame, app: &App) {
        let Some(connection) = &mut self.connection else { return };
        let text = match frame {
            Frame::Ping => Utf8Bytes::from_static(frame::PING),
            Frame::Pong => Utf8Bytes::from_static(frame::PONG),
            Frame::ClientEvent(sent) => frame::event(&sent.event, &sent.channel, &sent.data, None).into(),
            Frame::Unsubscribe(channel) => frame::unsubscribe(&channel).into(),
            Frame::SubscribeAs(channel, data) => {
                let (key, secret, id) = (&app.key, &app.secret, &self.socket_id);
                let auth = sign::channel_auth(key, secret, id, &channel, Some(&data));
                frame::subscribe(&channel, Some(&auth), Some(&data)).into()
            }
            Frame::SignIn(data) => {
                let auth = sign::user_auth(&app.key, &app.secret, &self.socket_id, &data);
                frame::signin(&auth, &data).into()
            }
            Frame::Subscribe(channel) => {
                let auth = (ChannelKind::of(&channel) != ChannelKind::Public)
                    .then(|| sign::channel_auth(&app.key, &app.secret, &self.socket_id, &channel, None));
                frame::subscribe(&channel, auth.as_deref(), None).into()
            }
        };
        let fed = connection.feed(text).await;
        self.unflushed = true;
        self.written(fed);
    }

    async fn flush(&mut self) {
        if let Some(connection) = &mut self.connection
            && std::mem::take(&mut self.unflushed)
        {
            let flushed = connection.flush().await;
            self.written(flushed);
        }
    }

    fn written(&mut self, written: Result<(), End>) {
        if let Err(end) = written {
            self.connection = None;
            self.broken = Some(end);
        }
    }
}

/// A link's part in the gauges, which it takes back when it ends.
struct Gauges {
    status: Shown,
    counts: Counts,
    metrics: Arc<LinkMetrics>,
}

impl Gauges {
    fn connected(&mut self, connected: bool) {
        self.status.show(connected);
    }

    fn count(&mut self, counts: Counts) {
        if counts != self.counts {
            let of = |counts: Counts| [counts.pending, counts.live, counts.lingering];
            self.metrics.move_subscriptions(of(self.counts), of(counts));
            self.counts = counts;
        }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.connected(false);
        self.count(Counts::default());
    }
}

#[allow(clippy::disallowed_methods, reason = "a driver: by tokio's clock, which tests can pause")]
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
