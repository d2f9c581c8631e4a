//! Handles to links: by them hubs say which channels they want, and the publisher what is under way and what was
//! accepted.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::delivery::Sent;
use super::flights::SharedFlights;
use super::lane::Item;
use super::link::client_events::ClientEvent;
use super::link::machine::Command;
use super::members::{self, Members};
use super::moving::Order;
use crate::exchange::{LinkId, Member};
use crate::pusher::channel::is_cache;

/// One link's handle. As long as there is one, the link lives.
#[derive(Clone, Debug)]
pub struct LinkHandle(Arc<Entrance>);

#[derive(Debug)]
struct Entrance {
    id: LinkId,
    /// Subscribers that come and go make two each, as often as `limits.messages` lets them; a publishing request makes
    /// one. A link takes them at once, but for a write to Pusher that is stuck, which has a timeout, and a hub that is
    /// busy. So the queue has no bound of its own: hubs must never wait for links.
    commands: mpsc::UnboundedSender<Command>,
    /// Of the link and the publisher, which share a thread: so it is never contended.
    flights: SharedFlights,
    /// Of a link with a standby: the second one's.
    standby: Option<Standby>,
    /// Of a shared link: where it is to go. Seldom any.
    orders: Option<mpsc::UnboundedSender<Order>>,
}

#[derive(Debug, Default)]
struct Standby {
    flights: SharedFlights,
    next_flight: AtomicU64,
}

/// What a link receives.
#[derive(Debug)]
pub struct LinkEnd {
    pub id: LinkId,
    /// From hubs and the publisher.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// See [`super::flights`].
    pub flights: SharedFlights,
    /// Of the second link, where there is a standby.
    pub second: Option<SharedFlights>,
    /// Of a shared link.
    pub orders: Option<mpsc::UnboundedReceiver<Order>>,
}

impl LinkHandle {
    /// The handle of a new link, and what the link needs of it.
    #[must_use]
    pub fn open() -> (Self, LinkEnd) {
        Self::with(next_id(), SharedFlights::default(), None, true)
    }

    /// The same, of a user's own link.
    #[must_use]
    pub fn open_member() -> (Self, LinkEnd) {
        Self::with(next_id(), SharedFlights::default(), None, false)
    }

    /// The same, of a link with a standby.
    #[must_use]
    pub fn open_with_standby() -> (Self, LinkEnd) {
        Self::with(next_id(), SharedFlights::default(), Some(Standby::default()), true)
    }

    /// The same, of one of the two that are this link to the hubs.
    #[must_use]
    pub fn of(id: LinkId, flights: SharedFlights) -> (Self, LinkEnd) {
        Self::with(id, flights, None, true)
    }

    fn with(
        id: LinkId,
        flights: SharedFlights,
        standby: Option<Standby>,
        is_shared: bool,
    ) -> (Self, LinkEnd) {
        let (sender, commands) = mpsc::unbounded_channel();
        let (order, orders) = is_shared.then(mpsc::unbounded_channel).unzip();
        let second = standby.as_ref().map(|standby| standby.flights.clone());
        let entrance = Entrance { id, commands: sender, flights: flights.clone(), standby, orders: order };
        (Self(Arc::new(entrance)), LinkEnd { id, commands, flights, second, orders })
    }

    #[must_use]
    pub fn id(&self) -> LinkId {
        self.0.id
    }

    /// The hub has its first subscriber of `channel`.
    pub fn subscribe(&self, channel: &Arc<str>, hub: usize) {
        self.tell(Command::Subscribe(channel.clone(), hub));
    }

    /// The hub's last subscriber of `channel` is gone.
    pub fn unsubscribe(&self, channel: &Arc<str>, hub: usize) {
        self.tell(Command::Unsubscribe(channel.clone(), hub));
    }

    /// The connection was lost: so many are subscribed to these channels in one hub.
    pub fn subscribers(&self, subscribers: Vec<(Arc<str>, usize)>) {
        self.tell(Command::Subscribers(subscribers));
    }

    /// Sends a client's event over this link's connection, in its channel's order, shaped to what Pusher takes; its
    /// sender is told what becomes of it. Whoever calls this bounds how many wait.
    pub fn client_event(&self, event: Item<ClientEvent>) {
        self.tell(Command::ClientEvent(Box::new(event)));
    }

    /// A request with these messages is about to be sent. Gives its number, and the socket that is excluded.
    fn begin(&self, batch: &[Arc<Sent>]) -> (u64, Option<Arc<str>>) {
        let channels = || batch.iter().map(|sent| sent.channel.clone()).collect();
        let (flight, socket_id) = self.0.flights.lock().begin(channels());
        let Some(standby) = &self.0.standby else {
            let cached: Vec<_> = batch.iter().filter(|sent| is_cache(&sent.channel)).cloned().collect();
            if !cached.is_empty() {
                self.0.flights.lock().carries(flight, cached);
            }
            let side = self.0.flights.lock().side();
            if let Some(side) = side {
                let excluded = socket_id.is_some().then_some(side);
                self.tell(Command::Begun { flight, sides: [flight; 2], excluded, batch: batch.to_vec() });
            }
            return (flight, socket_id);
        };
        let (second, its_socket_id) = standby.flights.lock().begin(channels());
        let sides = [flight, second];
        let excluded = [&socket_id, &its_socket_id].iter().position(|id| id.is_some());
        let flight = standby.next_flight.fetch_add(1, Ordering::Relaxed);
        self.tell(Command::Begun { flight, sides, excluded, batch: batch.to_vec() });
        (flight, socket_id.or(its_socket_id))
    }

    /// Where the link is to go, or a connection that it gives away.
    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.0.orders {
            let _ = orders.send(order);
        }
    }

    pub(super) fn tell(&self, command: Command) {
        // Only a link that has been aborted receives nothing.
        let _ = self.0.commands.send(command);
    }
}

/// The number of a new link, or of what hubs take for one.
pub(super) fn next_id() -> LinkId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    LinkId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The links that all clients share: each channel has its own one.
#[derive(Clone, Debug)]
pub struct Links {
    first: LinkHandle,
    others: Arc<[LinkHandle]>,
    /// For what users' own links carry.
    members: Option<Members>,
}

impl Links {
    /// Handles of `count` links, and the end of each.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<LinkEnd>) {
        Self::opened(count, LinkHandle::open)
    }

    /// The same, each with a standby.
    #[must_use]
    pub fn with_standby(count: usize) -> (Self, Vec<LinkEnd>) {
        Self::opened(count, LinkHandle::open_with_standby)
    }

    fn opened(count: usize, open: fn() -> (LinkHandle, LinkEnd)) -> (Self, Vec<LinkEnd>) {
        let (first, end) = open();
        let (others, mut ends): (Vec<_>, Vec<_>) = (1..count).map(|_| open()).unzip();
        ends.insert(0, end);
        (Self { first, others: others.into(), members: None }, ends)
    }

    /// The same, and the pool of users' own links.
    #[must_use]
    pub fn with_members(self, members: Members) -> Self {
        Self { members: Some(members), ..self }
    }

    /// The one with this number, if it is one of them.
    #[must_use]
    pub fn get(&self, id: LinkId) -> Option<&LinkHandle> {
        self.all().find(|link| link.id() == id)
    }

    /// All of them, in their order.
    pub fn all(&self) -> impl Iterator<Item = &LinkHandle> {
        std::iter::once(&self.first).chain(&*self.others)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// The number of the link that carries `channel`, from 0: the same on every run.
    #[must_use]
    pub fn place_of(&self, channel: &str) -> usize {
        stable_hash(channel) % self.count()
    }

    /// Which link carries `channel`.
    #[must_use]
    pub fn of(&self, channel: &str) -> &LinkHandle {
        let at = self.place_of(channel);
        at.checked_sub(1).and_then(|at| self.others.get(at)).unwrap_or(&self.first)
    }

    /// Sends a client's event over the connection that carries its channel for it: the member's own, where it is one.
    pub fn client_event(&self, member: Option<&Member>, event: Item<ClientEvent>) {
        match (member, &self.members) {
            (Some(member), Some(members)) => members.client_event(member.key(), event),
            _ => self.of(&event.channel).client_event(event),
        }
    }

    /// A request with these messages is about to be sent.
    ///
    /// Each event excludes one socket, that of its channel's shared link. Those of channels that users' own links carry
    /// exclude none: the pool knows the copies.
    #[must_use]
    pub fn begin(&self, batch: &[Arc<Sent>]) -> UnderWay {
        let mut parts: Vec<Part> = Vec::new();
        let mut of_members = Vec::new();
        for sent in batch {
            if self.members.is_some() && Members::carry(&sent.channel) {
                of_members.push(sent.clone());
                continue;
            }
            let link = self.of(&sent.channel);
            match parts.iter_mut().find(|part| part.link.id() == link.id()) {
                Some(part) => part.batch.push(sent.clone()),
                None => {
                    let link = link.clone();
                    parts.push(Part { link, flight: 0, socket_id: None, batch: vec![sent.clone()] });
                }
            }
        }
        for part in &mut parts {
            (part.flight, part.socket_id) = part.link.begin(&part.batch);
        }
        let members = self.members.as_ref().filter(|_| !of_members.is_empty());
        let members = members.map(|members| members.begin(of_members));
        UnderWay { links: self.clone(), parts, members }
    }
}

/// A publishing request under way. When it is dropped its links learn that it has ended.
#[derive(Debug)]
pub struct UnderWay {
    links: Links,
    parts: Vec<Part>,
    members: Option<members::UnderWay>,
}

/// The messages of one link's channels.
#[derive(Debug)]
struct Part {
    link: LinkHandle,
    flight: u64,
    socket_id: Option<Arc<str>>,
    batch: Vec<Arc<Sent>>,
}

impl UnderWay {
    /// The connection that must not get an event of `channel`, because this bridge delivers it.
    #[must_use]
    pub fn socket_id(&self, channel: &str) -> Option<&str> {
        if self.members.is_some() && Members::carry(channel) {
            return None;
        }
        let link = self.links.of(channel).id();
        self.parts.iter().find(|part| part.link.id() == link)?.socket_id.as_deref()
    }

    /// Pusher accepted all of it.
    pub fn accepted(mut self) {
        if let Some(members) = self.members.take() {
            members.accepted();
        }
        for Part { link, flight, batch, .. } in self.parts.drain(..) {
            link.tell(Command::Ended { flight, accepted: batch });
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for Part { link, flight, .. } in self.parts.drain(..) {
            link.tell(Command::Ended { flight, accepted: Vec::new() });
        }
    }
}

/// A hash that is the same on every run, so that a channel's link and lane can be told from its name.
#[must_use]
pub fn stable_hash(text: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as usize
}
