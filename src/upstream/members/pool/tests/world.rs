//! The pool, a machine for each of its links, and the server, with a network between them that keeps each connection's
//! order and delays; and a clock that goes from one event to the next.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::{Hub, NUMBERED};
use super::server::{Answer, Sent, Server};
use crate::clock::Now;
use crate::clock::tests::now;
use crate::exchange::{ConnId, LinkId, Member, NamedBy};
use crate::limits::rate::Rate;
use crate::pusher::channel::ChannelKind;
use crate::pusher::frame::ServerFrame;
use crate::upstream::delivery::{self, Delivery};
use crate::upstream::flights::SharedFlights;
use crate::upstream::lane::Item;
use crate::upstream::link::client_events::{ClientEvent, Fate, Receipt, Tries};
use crate::upstream::link::machine::{Action as LinkAction, Command, Frame, Machine};
use crate::upstream::lost::{End, LostCause};
use crate::upstream::members::copies::Copies;
use crate::upstream::members::pool::{Action, FromLink, Note, Pool};
use crate::upstream::members::settings::{Observer, Settings};
use crate::upstream::settings::Times;

pub(super) const POOL: LinkId = LinkId(1000);
pub(super) const HUBS: usize = 2;
pub(super) const LINGER: Duration = Duration::from_secs(1);
const TIMES: Times = Times {
    connect_timeout: Duration::from_secs(10),
    subscribe_timeout: Duration::from_secs(10),
    pong_timeout: Duration::from_secs(30),
    linger: Duration::ZERO,
    check_interval: None,
    reconnect_delay_max: Duration::from_secs(5),
};

enum Happening {
    Greeted(u64),
    ToServer(u64, Frame),
    ToLink(u64, Answer),
    Broken(u64),
    /// A request's event reaches the server.
    Publish(Arc<str>, String),
    Ended(u64, bool),
}

struct Link {
    machine: Machine,
    /// The number of its connection, or attempt.
    connection: u64,
    connected: bool,
    /// What has come, and is not read yet.
    unread: Vec<Answer>,
    last_arrival: Instant,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Instant,
    began: Instant,
    pub(super) pool: Pool,
    links: BTreeMap<u64, Link>,
    pub(super) server: Server,
    pub(super) hubs: Vec<Hub>,
    copies: Copies,
    /// Channels of which no snapshot is wanted.
    known: HashSet<Arc<str>>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    numbers: u64,
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    /// When links dialled.
    pub(super) dials: Vec<Duration>,
    pub(super) notes: Vec<Note>,
    pub(super) published: u64,
    /// Those that clients of this bridge published.
    pub(super) own: HashSet<String>,
}

pub(super) fn member(id: &str) -> Arc<Member> {
    let (user_id, info) = (id.into(), format!(r#"{{"name":"{id}"}}"#));
    Arc::new(Member { named_by: NamedBy::Token(None), user_id, info: Some(info.into()), user_data: None })
}

/// This bridge itself, of the same name as a user may have.
pub(super) fn observer() -> Arc<Member> {
    Arc::new(Member { named_by: NamedBy::Bridge, ..(*member("observer")).clone() })
}

pub(super) fn user(id: &str) -> Arc<Member> {
    let user_data = format!(r#"{{"id":"{id}"}}"#);
    Arc::new(Member { user_data: Some(user_data.into()), ..(*member(id)).clone() })
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, 100, Rate { count: 1000, per: Duration::from_secs(1), burst: 1000 })
    }

    pub(super) fn with(seed: u64, links_max: usize, dials: Rate) -> Self {
        let now = now().mono;
        let observer = Observer { user_id: "observer".into(), user_info: "{}".into() };
        let settings = Settings { links_max, dials, observer };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now,
            began: now,
            pool: Pool::new(POOL, settings, LINGER, TIMES.subscribe_timeout),
            links: BTreeMap::new(),
            server: Server::default(),
            hubs: (0..HUBS).map(|_| Hub::default()).collect(),
            copies: Copies::default(),
            known: HashSet::new(),
            agenda: BTreeMap::new(),
            numbers: 0,
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(30),
            dials: Vec::new(),
            notes: Vec::new(),
            published: 0,
            own: HashSet::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn at(&self) -> Now {
        Now { mono: self.now, unix_ms: 0 }
    }

    // ------------------------------------------------------------------------------------------------ the clock

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let link = self.links.iter().map(|(source, link)| (link.machine.deadline(), *source)).min();
            let pool = self.pool.deadline();
            let next = [event, link.map(|(at, _)| at), pool].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if pool == Some(next) {
                let (now, mut out) = (self.at(), Vec::new());
                self.pool.timer(now, &mut out);
                self.carry_out(out);
                assert!(self.pool.deadline() > Some(self.now) || self.pool.deadline().is_none(), "a storm");
            } else if let Some((at, source)) = link.filter(|(at, _)| *at == next) {
                let at_now = self.at();
                self.with_link(source, |machine, _, out| machine.timer(at_now, out));
                let after = self.links.get(&source).map(|link| link.machine.deadline());
                assert!(after.is_none_or(|after| after > at), "a timer that fires for ever");
                self.read(source);
            } else if let Some((_, happening)) = self.agenda.pop_first() {
                self.happen(happening);
            }
        }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        let number = self.number();
        self.agenda.insert((self.now + after, number), happening);
    }

    fn delay(&mut self) -> Duration {
        self.latency + self.jitter.mul_f64(self.rng.f64())
    }

    fn source_of(&self, connection: u64) -> Option<u64> {
        self.links.iter().find(|(_, link)| link.connection == connection).map(|(source, _)| *source)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Greeted(connection) => {
                let Some(source) = self.source_of(connection) else { return };
                self.server.connect(connection);
                self.links.get_mut(&source).unwrap().connected = true;
                self.with_link(source, |machine, now, out| {
                    machine.connected("1.2", Some(Duration::from_secs(120)), now, out);
                });
            }
            Happening::ToServer(connection, frame) => {
                let sent = self.server.receive(connection, &frame);
                self.carry(sent);
            }
            Happening::ToLink(connection, answer) => {
                let Some(source) = self.source_of(connection) else { return };
                self.links.get_mut(&source).unwrap().unread.push(answer);
                self.read(source);
            }
            Happening::Broken(connection) => {
                let Some(source) = self.source_of(connection) else { return };
                let end = End::new(LostCause::Broken, "reset");
                self.with_link(source, |machine, now, out| machine.ended(end, now, out));
            }
            Happening::Publish(channel, data) => {
                let sent = self.server.publish(&channel, NUMBERED, &data);
                self.carry(sent);
            }
            Happening::Ended(flight, is_accepted) => {
                let (now, mut out) = (self.at(), Vec::new());
                self.pool.ended(flight, is_accepted, now, &mut out);
                self.carry_out(out);
            }
        }
    }

    /// Sends what the server says, each connection's in order.
    fn carry(&mut self, sent: Sent) {
        for (connection, answer) in sent {
            let Some(source) = self.source_of(connection) else { continue };
            let arrival = self.now + self.delay();
            let link = self.links.get_mut(&source).unwrap();
            link.last_arrival = arrival.max(link.last_arrival);
            let after = link.last_arrival - self.now;
            self.later(after, Happening::ToLink(connection, answer));
        }
    }

    // ------------------------------------------------------------------------------------------------- the links

    fn read(&mut self, source: u64) {
        let Some(link) = self.links.get_mut(&source).filter(|link| link.machine.reads()) else { return };
        let unread = std::mem::take(&mut link.unread);
        let messages = unread.len();
        for answer in unread {
            match answer {
                Answer::Frame(text) => self.frame(source, &text),
                Answer::Close(code) => {
                    let end = End::closed(Some(code), "closed".to_owned());
                    self.with_link(source, |machine, now, out| machine.ended(end, now, out));
                }
            }
        }
        if messages > 0
            && let Some(link) = self.links.get_mut(&source)
        {
            link.machine.has_read(messages, true, self.now);
        }
    }

    /// As the driver does.
    fn frame(&mut self, source: u64, text: &str) {
        let now = self.at();
        let Some(link) = self.links.get_mut(&source) else { return };
        let mut out = Vec::new();
        let is_copy =
            self.copies.event(text.as_bytes()).is_some_and(|known| link.machine.copied(known, &mut out));
        if !is_copy {
            let frame = ServerFrame::decode(text).unwrap();
            if let ServerFrame::SubscriptionSucceeded { channel, data: Some(data) } = &frame
                && ChannelKind::of(channel) == ChannelKind::Presence
                && !self.known.contains(&**channel)
            {
                let (channel, data) = (Arc::from(&**channel), Box::from(*data));
                out.push(LinkAction::TellPool(FromLink::Snapshot { channel, data }));
            }
            let before = out.len();
            link.machine.frame(frame, now, &mut out);
            if let [LinkAction::Tell(_, Delivery::Event(event))] = &out[before..] {
                self.copies.keep(text, event);
            }
        }
        self.carry_out_of(source, out);
    }

    fn with_link(&mut self, source: u64, input: impl FnOnce(&mut Machine, Instant, &mut Vec<LinkAction>)) {
        let Some(link) = self.links.get_mut(&source) else { return };
        let mut out = Vec::new();
        input(&mut link.machine, self.now, &mut out);
        self.carry_out_of(source, out);
    }

    fn carry_out_of(&mut self, source: u64, actions: Vec<LinkAction>) {
        for action in actions {
            match action {
                LinkAction::Dial => {
                    self.dials.push(self.now - self.began);
                    let (connection, delay) = (self.number(), self.delay());
                    let link = self.links.get_mut(&source).unwrap();
                    link.connection = connection;
                    link.last_arrival = self.now;
                    self.later(delay, Happening::Greeted(connection));
                }
                LinkAction::HangUp => self.hang_up(source),
                LinkAction::Send(frame) => {
                    let connection = self.links[&source].connection;
                    let delay = self.latency;
                    self.later(delay, Happening::ToServer(connection, frame));
                }
                LinkAction::Settle(event, fate) => event.settle(fate),
                LinkAction::Deliver(_) => panic!("only drivers do that"),
                LinkAction::PublishProbe(_) => panic!("a user's link does not probe"),
                LinkAction::Tell(_, delivery) => self.tell_pool(source, FromLink::Told(delivery)),
                LinkAction::TellPool(what) => self.tell_pool(source, what),
                LinkAction::Report(report) => self.tell_pool(source, FromLink::Report(report)),
                LinkAction::Note(_) => {}
            }
        }
    }

    fn hang_up(&mut self, source: u64) {
        let Some(link) = self.links.get_mut(&source) else { return };
        let connection = std::mem::take(&mut link.connection);
        link.connected = false;
        link.unread.clear();
        let sent = self.server.disconnect(connection);
        self.carry(sent);
    }

    fn tell_pool(&mut self, source: u64, what: FromLink) {
        let (now, mut out) = (self.at(), Vec::new());
        self.pool.from_link(source, what, now, &mut out);
        self.carry_out(out);
    }

    // -------------------------------------------------------------------------------------------------- the pool

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Open(source) => {
                    let rng = fastrand::Rng::with_seed(self.rng.u64(..));
                    let machine =
                        Machine::new(LinkId(source), TIMES, SharedFlights::default(), rng, self.now)
                            .of_member();
                    let (connection, connected, unread, last_arrival) = (0, false, Vec::new(), self.now);
                    self.links.insert(source, Link { machine, connection, connected, unread, last_arrival });
                }
                Action::Close(source) => {
                    self.hang_up(source);
                    self.links.remove(&source);
                }
                Action::Command(source, command) => self.command(source, command),
                Action::Tell(hubs, delivery) => hubs.for_each(|hub| self.hubs[hub].told(&delivery)),
                Action::WantSnapshots(channel, true) => drop(self.known.remove(&channel)),
                Action::WantSnapshots(channel, false) => drop(self.known.insert(channel)),
                Action::NotSent(item) => item.job.settle(Fate::Expired { maybe_accepted: false }),
                Action::Note(note) => self.notes.push(note),
            }
        }
    }

    fn command(&mut self, source: u64, command: Command) {
        let at = self.at();
        self.with_link(source, |machine, _, out| machine.command(command, at, out));
    }

    pub(super) fn join(&mut self, hub: usize, channel: &str, member: &Arc<Member>) -> u64 {
        let channel = Arc::from(channel);
        let join = self.hubs[hub].join(&channel, &member.key());
        let (now, mut out) = (self.at(), Vec::new());
        self.pool.join(&channel, member, (hub, join), now, &mut out);
        self.carry_out(out);
        join
    }

    pub(super) fn leave(&mut self, hub: usize, join: u64) {
        let client = self.hubs[hub].clients.remove(&join).unwrap();
        let (now, mut out) = (self.at(), Vec::new());
        self.pool.leave(&client.channel, &client.key, hub, now, &mut out);
        self.carry_out(out);
    }

    // ------------------------------------------------------------------------------------------------- from outside

    /// A backend publishes an event that is like no other.
    pub(super) fn publish(&mut self, channel: &str) {
        self.published += 1;
        let (channel, data): (Arc<str>, _) = (channel.into(), self.published.to_string());
        self.hubs.iter_mut().for_each(|hub| hub.published(&channel, &data));
        let sent = self.server.publish(&channel, NUMBERED, &data);
        self.carry(sent);
    }

    /// A backend publishes this.
    pub(super) fn publish_equal(&mut self, channel: &str, name: &str, data: &str) {
        let sent = self.server.publish(&channel.into(), name, data);
        self.carry(sent);
    }

    /// A client of this bridge publishes, by the API.
    pub(super) fn request(&mut self, channel: &str, answers: bool) {
        self.published += 1;
        let (channel, data, flight): (Arc<str>, _, _) =
            (channel.into(), self.published.to_string(), self.number());
        self.hubs.iter_mut().for_each(|hub| hub.published(&channel, &data));
        self.own.insert(data.clone());
        let (event, origin) = (NUMBERED.to_owned(), ConnId(1));
        let sent = delivery::Sent { channel: channel.clone(), event, data: data.clone(), origin };
        let now = self.at();
        self.pool.begin(flight, &[Arc::new(sent)], now);
        let (there, back) = (self.delay(), self.delay().mul_f64(2.0 * self.rng.f64()));
        self.later(there, Happening::Publish(channel, data));
        self.later(there + back, Happening::Ended(flight, answers));
    }

    /// A client of this bridge publishes, over its user's own link.
    pub(super) fn client_event(&mut self, channel: &str, member: &Arc<Member>, data: &str) {
        #[derive(Debug)]
        struct Ignored;
        impl Receipt for Ignored {
            fn settle(self: Box<Self>, _: Fate, _: Tries) {}
        }
        let (channel, event): (Arc<str>, _) = (channel.into(), "client-typing".to_owned());
        let sent = Arc::new(delivery::Sent {
            channel: channel.clone(),
            event,
            data: data.to_owned(),
            origin: ConnId(1),
        });
        let job = ClientEvent::new(sent, Some(member.user_id.clone()), Box::new(Ignored));
        let deadline = self.now + Duration::from_secs(30);
        let mut out = Vec::new();
        self.pool.client_event(&member.key(), Item { user: 0, deadline, channel, bytes: 100, job }, &mut out);
        self.carry_out(out);
    }

    /// The sources whose links are on the channel.
    pub(super) fn on(&self, channel: &str) -> Vec<u64> {
        let on = |link: &&u64| self.server.is_subscribed(self.links[*link].connection, channel);
        self.links.keys().filter(on).copied().collect()
    }

    /// The connection of this link breaks, and what is under way is lost.
    pub(super) fn cut(&mut self, source: u64) {
        let connection = self.links[&source].connection;
        self.agenda.retain(|_, happening| {
            !matches!(happening, Happening::ToLink(n, _) | Happening::ToServer(n, _) if *n == connection)
        });
        let sent = self.server.disconnect(connection);
        self.carry(sent);
        let delay = self.latency;
        self.later(delay, Happening::Broken(connection));
    }

    pub(super) fn sources(&self) -> Vec<u64> {
        self.links.keys().copied().collect()
    }

    pub(super) fn watchlist(&mut self, source: u64, data: &str) {
        let sent = self.server.watchlist(self.links[&source].connection, data);
        self.carry(sent);
    }

    pub(super) fn terminate(&mut self, user: &str) -> usize {
        let (ended, sent) = self.server.terminate(user);
        self.carry(sent);
        ended.len()
    }
}
