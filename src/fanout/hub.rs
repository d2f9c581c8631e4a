//! The hub of one worker thread: it owns the worker's table, and writes each event's frame, encoded once, to
//! every connection that wants it.

mod members;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use self::members::Joined;
use super::metrics::{LateJoiner, Metrics};
use super::table::{self, Channel, Table};
use super::view::{View, event_data, filter_value, is_by_client, render, view};
use crate::clock::Now;
use crate::exchange::{ConnId, Interest, LinkId, Member, MemberKey, Subscribe, Via};
use crate::legacy::dialect::EventData;
use crate::limits::budget::Budget;
use crate::pusher::channel::is_cache;
use crate::routes::events;
use crate::routes::generation::{Generation, Generations, RouteState};
use crate::routes::route::{OnUndecryptable, Route};
use crate::text::loggable;
use crate::upstream::cached::Cached;
use crate::upstream::delivery::{Delivery, Event, Kind, Shown};
use crate::upstream::links::{LinkHandle, Links};
use crate::upstream::members::Members;
use crate::upstream::metrics::EventResult;
use crate::upstream::occupancy::Occupancy;
use crate::upstream::refused::Refused;
use crate::upstream::undelivered::{Reason, Undelivered};
use crate::websocket::conn::{Conn, Notice};
use crate::websocket::outbox::{Opcode, Pushed, encode_frame};

/// Deliveries waiting for one hub; a link waits when it is full.
pub const INBOX_MAX: usize = 1024;
/// Deliveries taken at once: their frames go to each connection in one write.
const BURST_MAX: usize = 32;
/// Time for bursts before this thread's sessions have a turn. Not a number of bursts: while every session has much
/// to do, a row of trifles would take as many of their turns, and the events behind it wait.
const TURN: Duration = Duration::from_millis(2);

/// A subscription, and the link that it goes through: that lives as long as this.
#[derive(Debug)]
pub struct Ticket {
    /// `None`: a member's.
    link: Option<LinkHandle>,
    place: table::Ticket<Arc<RouteState>>,
}

impl Ticket {
    #[must_use]
    pub const fn channel(&self) -> &Arc<str> {
        self.place.channel()
    }
}

/// Somebody to be told that a subscription is confirmed.
#[derive(Debug)]
struct Waiting {
    conn: Arc<Conn>,
    route: Arc<RouteState>,
    id: u32,
    confirm: Option<Bytes>,
    /// On a cache channel: what its last event has to match.
    replay: Option<Interest>,
    /// As whom, and the number of the join.
    member: Option<(Arc<Member>, u64)>,
}

/// A route's subscribers are those of one edition of it: so they all see the same frame.
type ByRoute = Table<Arc<RouteState>, Arc<Conn>, Waiting>;

#[derive(Default)]
struct Known {
    table: ByRoute,
    /// Last events of cache channels, for clients that come later.
    cached: Cached<(LinkId, Arc<str>), Arc<Event>>,
    /// Who is subscribed as a member, by the tickets' numbers.
    members: HashMap<u64, (Arc<Member>, Arc<Conn>)>,
    joins: u64,
}

pub struct Hub {
    index: usize,
    generations: Arc<Generations>,
    undelivered: Arc<Undelivered>,
    links: Links,
    members: Members,
    metrics: Arc<Metrics>,
    /// Its frames count there.
    buffers: Arc<Budget>,
    /// `None`: no webhooks come.
    occupancy: Option<Arc<Occupancy>>,
    /// Locked by this worker's thread alone, so it is never contended.
    known: Mutex<Known>,
}

impl Hub {
    /// The hub number `index`.
    #[must_use]
    pub fn new(
        index: usize,
        generations: Arc<Generations>,
        undelivered: Arc<Undelivered>,
        links: Links,
        members: Members,
        metrics: Arc<Metrics>,
        buffers: Arc<Budget>,
    ) -> Self {
        Self {
            index,
            generations,
            undelivered,
            links,
            members,
            metrics,
            buffers,
            occupancy: None,
            known: Mutex::default(),
        }
    }

    /// With what is known of channels' subscribers, who is here included.
    #[must_use]
    pub fn with_occupancy(self, occupancy: Option<Arc<Occupancy>>) -> Self {
        Self { occupancy, ..self }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes a connection, through the link that carries the channel for everybody or as a member. When the channel
    /// is confirmed already, the confirming frame is sent here and `true` returned; else both happen later, by a notice.
    pub fn attach(&self, route: &Arc<RouteState>, subscribe: Subscribe, conn: &Arc<Conn>) -> (Ticket, bool) {
        match &subscribe.via {
            Via::Shared => self.attach_through(self.links.of(&subscribe.channel), route, subscribe, conn),
            Via::Member(member) => {
                let member = member.clone();
                (self.attach_member(&member, route, subscribe, conn), false)
            }
        }
    }

    /// Who is to be told of a subscription's confirmation.
    fn waiting(
        &self,
        route: &Arc<RouteState>,
        subscribe: Subscribe,
        conn: &Arc<Conn>,
    ) -> (String, Interest, Waiting) {
        let Subscribe { id, channel, interest, via: _, confirm } = subscribe;
        let confirm = confirm.map(|text| self.buffers.frame(encode_frame(Opcode::Text, text.as_bytes())));
        let replay = is_cache(&channel).then(|| interest.clone());
        let waiting = Waiting { conn: conn.clone(), route: route.clone(), id, confirm, replay, member: None };
        (channel, interest, waiting)
    }

    fn attach_through(
        &self,
        link: &LinkHandle,
        route: &Arc<RouteState>,
        subscribe: Subscribe,
        conn: &Arc<Conn>,
    ) -> (Ticket, bool) {
        let id = subscribe.id;
        let (channel, interest, waiting) = self.waiting(route, subscribe, conn);
        let mut known = self.known();
        let (attached, confirmed) =
            known.table.attach(link.id(), &channel, route.clone(), interest, conn.clone(), waiting);
        tracing::debug!(
            route = &*route.name,
            conn = conn.id().0,
            channel = &**attached.ticket.channel(),
            live = attached.live,
            "subscribed"
        );
        if attached.first {
            self.wanted(attached.ticket.channel());
            link.subscribe(attached.ticket.channel(), self.index);
        }
        if let Some(waiting) = confirmed {
            let last = waiting.replay.as_ref().and_then(|interest| {
                self.last_frame(known.last(link.id(), attached.ticket.channel()), interest, route, conn.id())
            });
            greet([waiting.confirm, last], route, conn);
        }
        if let Some(why) = attached.refused {
            conn.notify(refused(Some(id), attached.ticket.channel(), why));
        }
        (Ticket { link: Some(link.clone()), place: attached.ticket }, attached.live)
    }

    pub fn detach(&self, ticket: &Ticket) {
        let Ticket { link, place } = ticket;
        tracing::debug!(channel = &**place.channel(), "unsubscribed");
        let mut known = self.known();
        let last = known.table.detach(place);
        let Some(link) = link else {
            if let Some((member, _)) = known.members.remove(&place.seq()) {
                self.unwanted(place.channel());
                self.members.leave(place.channel(), member.key(), self.index);
            }
            return;
        };
        if last {
            known.cached.forget(&(link.id(), place.channel().clone()));
            self.unwanted(place.channel());
            link.unsubscribe(place.channel(), self.index);
        }
    }

    /// The subscription is one of this edition of its route from now on. No event comes in between: it is rendered for the
    /// one or the other.
    pub fn move_to(&self, ticket: &mut Ticket, route: &Arc<RouteState>) {
        let told = |waiting: &mut Waiting| waiting.route = route.clone();
        self.known().table.move_to(&mut ticket.place, route.clone(), told);
    }

    fn wanted(&self, channel: &Arc<str>) {
        self.occupancy.iter().for_each(|occupancy| occupancy.wanted(channel));
    }

    fn unwanted(&self, channel: &str) {
        self.occupancy.iter().for_each(|occupancy| occupancy.unwanted(channel));
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
        let generation = self.generations.current();
        let mut known = self.known();
        for delivery in burst.drain(..) {
            match delivery {
                Delivery::Event(event) => {
                    self.fan_out(&known, &event, &generation, (!alone).then_some(&mut corked));
                    self.metrics.delivery_delay(event.received.mono);
                    if event.handed_out() {
                        self.settle(&event);
                    }
                    if event.says_last() && event.link != self.members.id() {
                        known.keep(event);
                    }
                }
                Delivery::Live { link, channel, gap, cached } => {
                    if let Some(event) = cached {
                        known.keep(event);
                    }
                    self.live(&mut known, link, &channel, gap);
                }
                Delivery::Joined { link, channel, member, join, members, count, cached } => {
                    let members = members.as_deref().map(|members| (count, members));
                    let joined = Joined { link, channel: &channel, member: &member, join, members };
                    self.joined(&mut known, &joined, cached.as_ref());
                }
                Delivery::Undecryptable { link, channel } => known.undecryptable(link, &channel),
                Delivery::Terminated { link, member } => self.terminated(&known, link, &member),
                Delivery::Refused { link, channel, member, why } => {
                    if member.is_none() {
                        known.table.refuse(link, &channel, why);
                    }
                    known.tell_refused(link, &channel, member.as_ref(), why);
                }
                Delivery::Down(link) => {
                    known.down(link);
                    // Where most miss events the link subscribes first.
                    if let Some(handle) = self.links.get(link) {
                        handle.subscribers(known.table.subscribers(link));
                    }
                }
            }
        }
        drop(known);
        for conn in corked {
            conn.flush();
        }
    }

    fn live(&self, known: &mut Known, link: LinkId, channel: &Arc<str>, gap: bool) {
        tracing::debug!(
            channel = &**channel,
            gap,
            worker = self.index,
            "the channel's subscription is confirmed"
        );
        if gap {
            let confirmed = known.table.channel(link, channel).into_iter().flat_map(Channel::confirmed);
            for conn in confirmed {
                conn.notify(Notice::Gap);
            }
        }
        if link == self.members.id() {
            // Each of its subscriptions is a member's, and confirmed by itself.
            return;
        }
        for Waiting { conn, route, id, confirm, replay, member: _ } in known.table.live(link, channel) {
            let last = replay.and_then(|interest| {
                self.last_frame(known.last(link, channel), &interest, &route, conn.id())
            });
            greet([confirm, last], &route, &conn);
            conn.notify(Notice::Subscribed(id));
        }
    }

    /// The last event of a cache channel for a new subscriber, as Pusher has it for one of its own.
    fn last_frame(
        &self,
        last: Option<Arc<Event>>,
        interest: &Interest,
        route: &RouteState,
        conn: ConnId,
    ) -> Option<Bytes> {
        let Some(event) = last else {
            self.metrics.late_joiner(LateJoiner::Unknown);
            return None;
        };
        if event.kind == Kind::CacheMiss {
            self.metrics.late_joiner(LateJoiner::CacheMiss);
            return match interest {
                Interest::All | Interest::Value(_) => self.frame_of(route, &event),
                Interest::Hold => None,
            };
        }
        if events::drops(route, &event.name) {
            self.metrics.late_joiner(LateJoiner::NotFor);
            self.note_dropped(route, event.shown(route.edition()));
            return None;
        }
        let data =
            event_data(route, &event, is_by_client(&event, self.generations.current().client_events()));
        let wanted = match interest {
            Interest::All => true,
            Interest::Hold => false,
            Interest::Value(value) => filter_value(route, &data).as_deref() == Some(value),
        };
        if !wanted || event.origin == Some(conn) {
            self.metrics.late_joiner(LateJoiner::NotFor);
            return None;
        }
        self.metrics.late_joiner(LateJoiner::Event);
        let frame = &event.shown(route.edition()).frame;
        Some(frame.get_or_init(|| self.render(route, &event, &data)).clone())
    }

    /// Hands the event to its receivers. With `corked`, frames are only queued, and each connection that then
    /// needs a flush is noted once.
    fn fan_out(
        &self,
        known: &Known,
        event: &Event,
        generation: &Generation,
        mut corked: Option<&mut Vec<Arc<Conn>>>,
    ) {
        let Some(channel) = known.table.channel(event.link, &event.channel) else { return };
        if event.kind != Kind::Channel {
            return self.tell(known, channel, event, corked);
        }
        let by_client = is_by_client(event, generation.client_events());
        for audience in channel.audiences() {
            let route = audience.route();
            let shown = event.shown(route.edition());
            let Some(View { data, value }) = view(route, event, by_client) else {
                self.note_dropped(route, shown);
                continue;
            };
            let mut frames = 0;
            let mut length = 0;
            for conn in audience.receivers(value.as_deref()) {
                if event.origin == Some(conn.id()) {
                    continue;
                }
                let frame = shown.frame.get_or_init(|| self.render(route, event, &data));
                length = frame.len();
                frames += usize::from(give(conn, frame, corked.as_deref_mut()));
            }
            route.traffic.sent(frames, length);
            if length == 0 {
                shown.note_missed(Reason::of(value.as_deref(), &event.data));
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
        if event.origin.is_some() || event.kind != Kind::Channel {
            return;
        }
        let mut nearest = Reason::NoSubscriber;
        for (route, reason) in event.missed() {
            nearest = nearest.max(reason);
            self.undelivered.note(route, &event.channel, &event.name, reason, Now::read());
        }
        if event.is_delivered() {
            return self.metrics.events.get(EventResult::Delivered).increment(1);
        }
        if nearest == Reason::NoSubscriber && event.is_dropped() {
            return self.metrics.events.get(EventResult::Dropped).increment(1);
        }
        self.metrics.events.get(EventResult::Undelivered(nearest)).increment(1);
        if nearest == Reason::NoSubscriber {
            self.undelivered.note_unwanted(&event.channel, &event.name, Now::read());
        }
    }

    /// A rule of the route keeps the event from its clients.
    fn note_dropped(&self, route: &RouteState, shown: &Shown) {
        if shown.note_dropped() {
            self.metrics.dropped(route.id(), &route.name).increment(1);
        }
    }

    fn render(&self, route: &Route, event: &Event, data: &EventData<'_>) -> Bytes {
        let text = render(route, event, data);
        self.buffers.frame(encode_frame(Opcode::Text, text.as_bytes()))
    }
}

/// What a new subscriber hears first: several frames leave in one write.
fn greet<const N: usize>(frames: [Option<Bytes>; N], route: &RouteState, conn: &Conn) {
    let mut frames = frames.into_iter().flatten().peekable();
    let mut flush_due = false;
    while let Some(frame) = frames.next() {
        let length = frame.len();
        // One that is alone, as most are, is not queued first.
        let pushed = if flush_due || frames.peek().is_some() {
            let (pushed, due) = conn.queue(frame);
            flush_due |= due;
            pushed
        } else {
            conn.push(frame)
        };
        if pushed.is_accepted() {
            route.traffic.sent(1, length);
        }
    }
    if flush_due {
        conn.flush();
    }
}

/// Gives the frame to the connection, or only queues it, and notes the connection when it then needs a flush. Whether it
/// is accepted.
fn give(conn: &Arc<Conn>, frame: &Bytes, corked: Option<&mut Vec<Arc<Conn>>>) -> bool {
    let pushed = match corked {
        None => conn.push(frame.clone()),
        Some(corked) => {
            let (pushed, needs_flush) = conn.queue(frame.clone());
            if needs_flush {
                corked.push(conn.clone());
            }
            pushed
        }
    };
    matches!(pushed, Pushed::Written | Pushed::Queued)
}

impl Known {
    /// An event could not be decrypted. Clients of filtered routes are told as well: what it was is not known.
    fn undecryptable(&mut self, link: LinkId, channel: &Arc<str>) {
        // It is its channel's last one now.
        self.cached.forget(&(link, channel.clone()));
        let audiences = self.table.channel(link, channel).into_iter().flat_map(Channel::audiences);
        for audience in audiences {
            if audience.route().on_undecryptable != OnUndecryptable::Drop {
                audience.confirmed().for_each(|conn| _ = conn.notify(Notice::Undecryptable));
            }
        }
    }

    fn keep(&mut self, event: Arc<Event>) {
        if self.table.channel(event.link, &event.channel).is_some() {
            let (bytes, received) = (event.bytes(), event.received.mono);
            self.cached.keep((event.link, event.channel.clone()), event, bytes, received);
        }
    }

    /// The channel's last event, where it is kept.
    fn last(&self, link: LinkId, channel: &Arc<str>) -> Option<Arc<Event>> {
        self.cached.last(&(link, channel.clone()), Now::read().mono)
    }

    /// Tells the channel's subscribers, or those as this member, and nobody else, that it is refused: who waits for it by
    /// the number of what waits, and who had it confirmed before once.
    fn tell_refused(&self, link: LinkId, channel: &Arc<str>, member: Option<&MemberKey>, why: Refused) {
        let Some(entry) = self.table.channel(link, channel) else { return };
        let is_meant = |who: &Arc<Member>| member.is_none_or(|key| who.has_key(key));
        for Waiting { conn, id, member: who, .. } in entry.waiting() {
            if who.as_ref().map_or(member.is_none(), |(who, _)| is_meant(who)) {
                conn.notify(refused(Some(*id), channel, why));
            }
        }
        let of_member: HashSet<ConnId> = match member {
            None => HashSet::new(),
            Some(_) => {
                self.members.values().filter(|(who, _)| is_meant(who)).map(|(_, conn)| conn.id()).collect()
            }
        };
        let mut told = HashSet::new();
        for conn in entry.confirmed() {
            if (member.is_none() || of_member.contains(&conn.id())) && told.insert(conn.id()) {
                conn.notify(refused(None, channel, why));
            }
        }
    }

    fn down(&mut self, link: LinkId) {
        self.table.down(link);
        for channel in self.table.channels(link).filter(|channel| is_cache(channel)) {
            self.cached.forget(&(link, channel.clone()));
        }
    }
}

fn refused(id: Option<u32>, channel: &Arc<str>, why: Refused) -> Notice {
    Notice::Refused { id, channel: channel.clone(), code: why.code(), is_retried: why.is_retried() }
}

#[cfg(test)]
mod tests;
