//! The hub of one worker thread: it owns the worker's table, and writes each event's frame, encoded once, to
//! every connection that wants it.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::cached::Cached;
use super::table::{Table, Ticket};
use super::undelivered::{Reason, Undelivered};
use crate::clock::Now;
use crate::exchange::ConnId;
use crate::exchange::{Interest, Subscribe};
use crate::json;
use crate::legacy::dialect::EventData;
use crate::limits::budget::Budget;
use crate::metrics::Metrics;
use crate::pusher::channel::is_cache;
use crate::routes::publish::{ClientEvents, relayed_name};
use crate::routes::route::Route;
use crate::text::loggable;
use crate::upstream::links::Links;
use crate::websocket::conn::{Conn, Notice};
use crate::websocket::outbox::{Opcode, Pushed, encode_frame};

/// Deliveries waiting for one hub; a link waits when it is full.
pub const INBOX_MAX: usize = 1024;
/// Deliveries taken at once: their frames go to each connection in one write.
const BURST_MAX: usize = 32;
/// Time for bursts before this thread's sessions have a turn. Not a number of bursts: while every session has much
/// to do, a row of trifles would take as many of their turns, and the events behind it wait.
const TURN: Duration = Duration::from_millis(2);

/// An event from Pusher, decoded once and shared by all hubs.
#[derive(Debug)]
pub struct Event {
    /// The channel.
    pub channel: Arc<str>,
    /// The event's name.
    pub name: Box<str>,
    /// Its data, JSON text as it came.
    pub data: Box<str>,
    /// When its frame had been read.
    pub received: Instant,
    /// The connection of this bridge that published it, and must not get it back.
    pub origin: Option<ConnId>,
    /// What becomes of it, by the routes' index.
    shown: Box<[Shown]>,
    /// Hubs that have yet to hand it out.
    awaited: AtomicU32,
}

/// An event on one route.
#[derive(Debug, Default)]
struct Shown {
    /// Its frame, rendered when first needed: so it has receivers.
    frame: OnceLock<Bytes>,
    /// Why there are none in a hub that has subscribers: a [`Reason`], or 0.
    missed: AtomicU8,
}

/// What a link tells a hub, in order.
#[derive(Debug)]
pub enum Delivery {
    /// An event.
    Event(Arc<Event>),
    /// The channel's subscription stands; `gap`: it had stood before, and events may have been missed.
    Live {
        /// The channel.
        channel: Arc<str>,
        /// Whether events may have been missed.
        gap: bool,
        /// The last event of a cache channel.
        cached: Option<Arc<Event>>,
    },
    /// The link's connection is lost, and with it all its channels.
    Down {
        /// Which link.
        link: usize,
    },
}

/// Somebody to be told that a subscription stands.
#[derive(Debug)]
struct Waiting {
    conn: Arc<Conn>,
    route: usize,
    id: u32,
    confirm: Option<Bytes>,
    /// On a cache channel: what its last event has to match.
    replay: Option<Interest>,
}

/// What a hub knows.
#[derive(Default)]
struct Known {
    table: Table<Arc<Conn>, Waiting>,
    /// Last events of cache channels, for clients that come later.
    cached: Cached<Arc<Event>>,
}

/// One worker's hub.
pub struct Hub {
    index: usize,
    routes: Arc<[Arc<Route>]>,
    undelivered: Arc<Undelivered>,
    links: Links,
    metrics: Arc<Metrics>,
    /// Its frames count there.
    buffers: Arc<Budget>,
    client_events: ClientEvents,
    /// Locked by this worker's thread alone, so it is never contended.
    known: Mutex<Known>,
}

impl Event {
    /// An event for hubs with this number of routes.
    #[must_use]
    pub fn new(
        channel: Arc<str>,
        name: &str,
        data: &str,
        received: Instant,
        origin: Option<ConnId>,
        routes: usize,
    ) -> Self {
        let shown = (0..routes).map(|_| Shown::default()).collect();
        Self {
            channel,
            name: name.into(),
            data: data.into(),
            received,
            origin,
            shown,
            awaited: AtomicU32::new(0),
        }
    }

    /// So many hubs are to hand it out; to be said before they are told.
    pub fn expect_hubs(&self, hubs: u32) {
        self.awaited.store(hubs, Ordering::Relaxed);
    }

    /// What it takes: its names and data, and each frame that is made of them, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.channel.len() + self.name.len() + 2 * self.data.len()
    }
}

impl Hub {
    /// The hub number `index`.
    #[must_use]
    pub fn new(
        index: usize,
        undelivered: Arc<Undelivered>,
        links: Links,
        metrics: Arc<Metrics>,
        buffers: Arc<Budget>,
    ) -> Self {
        let routes = undelivered.routes().clone();
        let client_events = ClientEvents::of(routes.iter().map(AsRef::as_ref));
        Self { index, routes, undelivered, links, metrics, buffers, client_events, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes a connection. When the channel stands already, the confirming frame is sent here and `true`
    /// returned; else both happen when it comes to stand, by a notice.
    pub fn attach(&self, route: usize, subscribe: Subscribe, conn: &Arc<Conn>) -> (Ticket, bool) {
        let Subscribe { id, channel, interest, confirm } = subscribe;
        let confirm = confirm.map(|text| self.buffers.frame(encode_frame(Opcode::Text, text.as_bytes())));
        let replay = is_cache(&channel).then(|| interest.clone());
        let waiting = Waiting { conn: conn.clone(), route, id, confirm, replay };
        let mut known = self.known();
        let (attached, stands) = known.table.attach(&channel, route, interest, conn.clone(), waiting);
        tracing::debug!(
            route = self.routes.get(route).map(|route| &*route.name),
            conn = conn.id().0,
            channel = &**attached.ticket.channel(),
            live = attached.live,
            "subscribed"
        );
        if attached.first {
            self.links.want(attached.ticket.channel(), self.index);
        }
        if let Some(waiting) = stands {
            self.confirm(waiting.confirm, route, conn);
            self.replay(&known.cached, &channel, waiting.replay.as_ref(), route, conn);
        }
        (attached.ticket, attached.live)
    }

    /// Ends a subscription.
    pub fn detach(&self, ticket: &Ticket) {
        tracing::debug!(channel = &**ticket.channel(), "unsubscribed");
        let mut known = self.known();
        if known.table.detach(ticket) {
            known.cached.forget(ticket.channel());
            self.links.unwant(ticket.channel(), self.index);
        }
    }

    /// Carries deliveries until every link is gone.
    pub async fn run(self: Arc<Self>, mut inbox: mpsc::Receiver<Delivery>) {
        let mut burst = Vec::with_capacity(BURST_MAX);
        let mut turn = tokio::time::Instant::now();
        while inbox.recv_many(&mut burst, BURST_MAX).await > 0 {
            self.carry(&mut burst);
            if turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                turn = tokio::time::Instant::now();
            }
        }
    }

    fn carry(&self, burst: &mut Vec<Delivery>) {
        let alone = burst.len() == 1;
        let mut corked = Vec::new();
        let mut known = self.known();
        for delivery in burst.drain(..) {
            match delivery {
                Delivery::Event(event) => {
                    self.fan_out(&known.table, &event, (!alone).then_some(&mut corked));
                    self.metrics.delivery_delay(event.received);
                    if event.awaited.fetch_sub(1, Ordering::AcqRel) == 1 {
                        self.settle(&event);
                    }
                    if is_cache(&event.channel) {
                        known.keep(event);
                    }
                }
                Delivery::Live { channel, gap, cached } => {
                    if let Some(event) = cached {
                        known.keep(event);
                    }
                    self.live(&mut known, &channel, gap);
                }
                Delivery::Down { link } => {
                    let lost = |channel: &str| self.links.index_of(channel) == link;
                    known.table.down(lost);
                    known.cached.forget_all(lost);
                }
            }
        }
        drop(known);
        for conn in corked {
            conn.flush();
        }
    }

    fn live(&self, known: &mut Known, channel: &str, gap: bool) {
        tracing::debug!(channel, gap, worker = self.index, "the channel's subscription is confirmed");
        if gap {
            for conn in known.table.confirmed(channel) {
                conn.notify(Notice::Gap);
            }
        }
        for Waiting { conn, route, id, confirm, replay } in known.table.live(channel) {
            self.confirm(confirm, route, &conn);
            self.replay(&known.cached, channel, replay.as_ref(), route, &conn);
            conn.notify(Notice::Subscribed(id));
        }
    }

    fn confirm(&self, frame: Option<Bytes>, route: usize, conn: &Conn) {
        if let Some(frame) = frame {
            let length = frame.len();
            if conn.push(frame).is_accepted() {
                self.metrics.count_out(route, 1, length);
            }
        }
    }

    /// Sends the last event of a cache channel to a new subscriber, as Pusher does to one of its own.
    fn replay(
        &self,
        cached: &Cached<Arc<Event>>,
        channel: &str,
        interest: Option<&Interest>,
        index: usize,
        conn: &Conn,
    ) {
        let Some(interest) = interest else { return };
        let Some(event) = cached.get(channel, Now::read().mono) else { return };
        let Some(route) = self.routes.get(index) else { return };
        let data = event_data(route, &event, self.is_by_client(&event));
        let wanted = match interest {
            Interest::All => true,
            Interest::Hold => false,
            Interest::Value(value) => filter_value(route, &data).as_deref() == Some(value),
        };
        let frame = event
            .shown
            .get(index)
            .map(|shown| &shown.frame)
            .filter(|_| wanted && event.origin != Some(conn.id()));
        self.confirm(frame.map(|frame| frame.get_or_init(|| self.render(route, &data)).clone()), index, conn);
    }

    /// Hands the event to its receivers. With `corked`, frames are only queued, and each connection that then
    /// needs a flush is noted once.
    fn fan_out(
        &self,
        table: &Table<Arc<Conn>, Waiting>,
        event: &Event,
        mut corked: Option<&mut Vec<Arc<Conn>>>,
    ) {
        let by_client = self.is_by_client(event);
        for index in table.routes(&event.channel) {
            let (Some(route), Some(shown)) = (self.routes.get(index), event.shown.get(index)) else {
                continue;
            };
            let data = event_data(route, event, by_client);
            let value = filter_value(route, &data);
            let mut frames = 0;
            let mut length = 0;
            for conn in table.receivers(&event.channel, index, value.as_deref()) {
                if event.origin == Some(conn.id()) {
                    continue;
                }
                let frame = shown.frame.get_or_init(|| self.render(route, &data));
                length = frame.len();
                let pushed = match corked.as_deref_mut() {
                    None => conn.push(frame.clone()),
                    Some(corked) => {
                        let (pushed, needs_flush) = conn.queue(frame.clone());
                        if needs_flush {
                            corked.push(conn.clone());
                        }
                        pushed
                    }
                };
                frames += usize::from(matches!(pushed, Pushed::Written | Pushed::Queued));
            }
            self.metrics.count_out(index, frames, length);
            if length == 0 {
                let reason = Reason::of(value.as_deref(), &event.data);
                shown.missed.store(reason as u8, Ordering::Relaxed);
            }
            tracing::debug!(
                route = &*route.name,
                channel = loggable(&event.channel),
                event = loggable(&event.name),
                worker = self.index,
                receivers = frames,
                "handed out"
            );
        }
    }

    /// The last hub has handed the event out: whom it reached is known. A client's message that only its sender could
    /// get has not gone astray.
    fn settle(&self, event: &Event) {
        if event.origin.is_some() {
            return;
        }
        let mut delivered = false;
        let mut nearest = Reason::NoSubscriber;
        for (route, shown) in event.shown.iter().enumerate() {
            if shown.frame.get().is_some() {
                delivered = true;
                continue;
            }
            let missed = usize::from(shown.missed.load(Ordering::Relaxed));
            if let Some(reason) = Reason::ALL.get(missed).filter(|reason| **reason != Reason::NoSubscriber) {
                nearest = nearest.max(*reason);
                self.undelivered.note(route, &event.channel, &event.name, *reason, Now::read());
            }
        }
        if delivered {
            return self.metrics.upstream_delivered();
        }
        self.metrics.upstream_undelivered(nearest);
        if nearest == Reason::NoSubscriber {
            self.undelivered.note_unwanted(&event.channel, &event.name, Now::read());
        }
    }

    /// Whether a client wrote the event, here or elsewhere.
    fn is_by_client(&self, event: &Event) -> bool {
        event.origin.is_some() || self.client_events.has(&event.channel, &event.name)
    }

    fn render(&self, route: &Route, data: &EventData<'_>) -> Bytes {
        let text = route.dialect.out.event.render(data, Now::read());
        self.buffers.frame(encode_frame(Opcode::Text, text.as_bytes()))
    }
}

impl Known {
    fn keep(&mut self, event: Arc<Event>) {
        if self.table.has(&event.channel) {
            self.cached.keep(&event.channel.clone(), event.clone(), event.bytes(), event.received);
        }
    }
}

/// The event as the route's clients know it.
fn event_data<'a>(route: &'a Route, event: &'a Event, by_client: bool) -> EventData<'a> {
    EventData {
        event: relayed_name(route, &event.name),
        channel: route.alias(&event.channel),
        json: &event.data,
        by_client,
    }
}

/// What the route's filter compares.
fn filter_value<'a>(route: &Route, data: &EventData<'a>) -> Option<Cow<'a, str>> {
    let filter = route.filter.as_ref()?;
    json::at_path(route.dialect.out.event.payload(data), &filter.field).and_then(json::scalar)
}
