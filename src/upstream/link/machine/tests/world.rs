//! A link and a server as a pair of endpoints: a network with latency between them, that loses what is in a connection
//! when it breaks, and a clock that goes from one event to the next.

mod cache;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::at;
use super::hubs::{Hub, LOCAL, NUMBERED, Truth};
use super::pusher::{Answer, Failure, Pusher, Twice};
use crate::clock::tests::now;
use crate::exchange::{ConnId, LinkId};
use crate::pusher::channel;
use crate::pusher::close::Reconnect;
use crate::pusher::frame::ServerFrame;
use crate::upstream::delivery::{Delivery, Sent};
use crate::upstream::flights::SharedFlights;
use crate::upstream::link::machine::{Action, Command, Frame, Machine, Note};
use crate::upstream::lost::{End, LostCause};
use crate::upstream::refused::Refused;
use crate::upstream::settings::Times;

pub(super) const LINK: LinkId = LinkId(7);
pub(super) const HUBS: usize = 3;
pub(super) const CHANNELS: [&str; 8] =
    ["news", "orders", "private-chat", "private-agents", "a", "b", "cache-price", "private-cache-state"];
pub(super) const TIMES: Times = Times {
    connect_timeout: Duration::from_secs(10),
    subscribe_timeout: Duration::from_secs(10),
    pong_timeout: Duration::from_secs(15),
    linger: Duration::from_secs(1),
    check_interval: Some(Duration::from_secs(60)),
    reconnect_delay_max: Duration::from_secs(30),
};
/// What the server asks for; it ends a connection that pings later than this.
const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection that lasted so long was a good one.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// A server answers a request at most so long before it delivers.
const ANSWERS_EARLIER_MAX: Duration = Duration::from_millis(200);
/// The timer's calls within any second. A check may come every 20 ms, and each channel has its own times.
const WAKEUPS_PER_SECOND_MAX: usize = 60 + 4 * CHANNELS.len();

/// Something that happens at its time. What belongs to a connection has its number.
enum Happening {
    Greeted(u64),
    DialFailed(u64, End),
    ToPusher(u64, Frame),
    ToLink(u64, Answer),
    /// The server confirms a subscription late.
    Confirm(u64, Arc<str>),
    /// The link sees that the connection is broken.
    Broken(u64),
    /// The server delivers what a client published, but to this socket id.
    Deliver(Arc<Sent>, Option<String>),
    /// The publisher has the answer, if there is one.
    RequestEnds(u64, bool),
    /// The probe's event reaches the server.
    Probe(Arc<str>),
    Probed(Arc<str>, bool),
}

/// How things go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    /// Of a hundred attempts, subscriptions and requests, so many go wrong.
    pub(super) failures: u32,
}

/// A client's request.
struct Request {
    flight: u64,
    sent: Arc<Sent>,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Instant,
    pub(super) machine: Machine,
    pub(super) pusher: Pusher,
    pub(super) weather: Weather,
    pub(super) hubs: Vec<Hub>,
    pub(super) channels: Vec<Arc<str>>,
    pub(super) published: BTreeMap<Arc<str>, u64>,
    flights: SharedFlights,
    agenda: BTreeMap<(Instant, u64), Happening>,
    happenings: u64,
    /// The link's connection, or attempt; the next one has another number.
    connection: u64,
    connected: Option<Instant>,
    /// Nothing goes through any more, and nobody knows.
    black_hole: bool,
    /// Nothing arrives before.
    stalled_until: Instant,
    last_arrivals: [Instant; 2],
    last_ping: Option<Instant>,
    /// When the link said that it would dial.
    dials_at: Option<Instant>,
    /// Connections in a row that failed or were short.
    streak: u32,
    requests: BTreeMap<u64, Request>,
    request_count: u64,
    /// The server has forgotten a channel, or was late with an answer.
    may_be_lost: bool,
    /// Cache channels of which the link was given an event since it let them go.
    cached: BTreeSet<Arc<str>>,
    /// A hub is just subscribing.
    joins: bool,
    wakeups: (u64, usize),
    began: Instant,
    pub(super) seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub(super) fn new(seed: u64, twice: Twice, weather: Weather) -> Self {
        let now = now().mono;
        let flights = SharedFlights::default();
        let channels: Vec<Arc<str>> = CHANNELS.iter().map(|name| Arc::from(*name)).collect();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now,
            machine: Machine::new(LINK, TIMES, flights.clone(), fastrand::Rng::with_seed(seed), now),
            pusher: Pusher::new(twice),
            weather,
            hubs: (0..HUBS).map(|_| Hub::default()).collect(),
            published: channels.iter().map(|channel| (channel.clone(), 0)).collect(),
            channels,
            flights,
            agenda: BTreeMap::new(),
            happenings: 0,
            connection: 0,
            connected: None,
            black_hole: false,
            stalled_until: now,
            last_arrivals: [now; 2],
            last_ping: None,
            dials_at: Some(now),
            streak: 0,
            requests: BTreeMap::new(),
            request_count: 0,
            may_be_lost: false,
            cached: BTreeSet::new(),
            joins: false,
            wakeups: (0, 0),
            began: now,
            seen: BTreeMap::new(),
        }
    }

    fn goes_wrong(&mut self) -> bool {
        self.rng.u32(..100) < self.weather.failures
    }

    pub(super) fn channel(&mut self) -> Arc<str> {
        self.channels[self.rng.usize(..self.channels.len())].clone()
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    // ------------------------------------------------------------------------------------------------ the clock

    /// Lets happen what happens in this time.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.agenda.first_key_value().map_or(end, |((at, _), _)| *at).min(end);
            let timer = self.machine.deadline();
            if timer <= next {
                self.now = self.now.max(timer);
                self.wake();
            } else if let Some(first) = self.agenda.first_entry().filter(|_| next < end) {
                self.now = self.now.max(next);
                let happening = first.remove();
                self.happen(happening);
            } else {
                self.now = end;
                return;
            }
        }
    }

    fn wake(&mut self) {
        let second = (self.now - self.began).as_secs();
        if self.wakeups.0 != second {
            self.wakeups = (second, 0);
        }
        self.wakeups.1 += 1;
        assert!(self.wakeups.1 <= WAKEUPS_PER_SECOND_MAX, "a storm of timers");
        self.act(|machine, now, out| machine.timer(at(now), out));
        assert!(self.machine.deadline() > self.now, "a timer that fires for ever");
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.happenings += 1;
        self.agenda.insert((self.now + after, self.happenings), happening);
    }

    fn latency(&mut self) -> Duration {
        self.weather.latency + self.weather.jitter.mul_f64(self.rng.f64())
    }

    /// Sends something over the connection, behind what was sent before.
    fn carry(&mut self, direction: usize, happening: Happening) {
        if self.black_hole {
            return;
        }
        let latency = self.latency();
        let arrival = (self.now + latency).max(self.last_arrivals[direction]).max(self.stalled_until);
        self.last_arrivals[direction] = arrival;
        self.later(arrival - self.now, happening);
    }

    // --------------------------------------------------------------------------------------------------- events

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Greeted(of) if of == self.connection => {
                let socket_id = self.pusher.connect();
                self.connected = Some(self.now);
                self.last_ping = Some(self.now);
                self.act(|machine, now, out| machine.connected(&socket_id, Some(ACTIVITY_TIMEOUT), now, out));
            }
            Happening::DialFailed(of, end) if of == self.connection => self.end(end),
            Happening::Broken(of) if of == self.connection => self.end(End::new(LostCause::Broken, "reset")),
            Happening::ToPusher(of, frame) if of == self.connection => {
                let failure = self.goes_wrong().then(|| Failure::ALL[self.rng.usize(..Failure::ALL.len())]);
                // The link's own channel is not what this is about, nor one that the server has forgotten: where
                // that fails, the link takes it that checks show nothing.
                let is_own = |channel: &Arc<str>| !self.channels.contains(channel);
                let spared = |channel| is_own(channel) || self.pusher.forgotten.contains(channel);
                let failure = failure.filter(|_| !matches!(&frame, Frame::Subscribe(c) if spared(c)));
                if let (Some(Failure::Delay), Frame::Subscribe(channel)) = (failure, &frame) {
                    // Just before it is given up, and after.
                    let delay = TIMES.subscribe_timeout.mul_f64(0.8 + 0.4 * self.rng.f64());
                    self.later(delay, Happening::Confirm(of, channel.clone()));
                }
                for answer in self.pusher.receive(&frame, failure) {
                    self.answer(answer);
                }
            }
            Happening::Confirm(of, channel) if of == self.connection => {
                let answers = self.pusher.confirm_delayed(&channel);
                answers.into_iter().for_each(|answer| self.answer(answer));
            }
            Happening::ToLink(of, answer) if of == self.connection => self.arrive(answer),
            Happening::Deliver(sent, excluded) => {
                let answer = self.pusher.publish(&sent.channel, &sent.event, &sent.data, excluded.as_deref());
                answer.into_iter().for_each(|answer| self.answer(answer));
            }
            Happening::RequestEnds(number, accepted) => {
                let Request { flight, sent } = self.requests.remove(&number).unwrap();
                let channel = sent.channel.clone();
                let accepted: Vec<_> = accepted.then_some(sent).into_iter().collect();
                let owed = if accepted.is_empty() { 0 } else { HUBS };
                if owed > 0 {
                    self.cached.insert(channel.clone());
                }
                self.command(Command::Ended { flight, accepted });
                for hub in self.hubs.iter().take(owed).filter(|hub| hub.wants(&channel)) {
                    assert!(hub.has_local(&channel, number), "a hub did not get local event {number}");
                }
                self.saw("a local event");
            }
            Happening::Probe(channel) => {
                let accepted = !self.goes_wrong();
                if accepted && let Some(answer) = self.pusher.publish(&channel, "probe", "{}", None) {
                    self.answer(answer);
                }
                let latency = self.latency();
                self.later(latency, Happening::Probed(channel, accepted));
            }
            Happening::Probed(channel, accepted) => {
                self.saw("a probe");
                self.act(|machine, now, _| machine.probed(&channel, accepted, now));
            }
            // Of a connection that is gone.
            Happening::Greeted(_)
            | Happening::DialFailed(..)
            | Happening::Broken(_)
            | Happening::ToPusher(..)
            | Happening::Confirm(..)
            | Happening::ToLink(..) => {}
        }
    }

    fn answer(&mut self, answer: Answer) {
        self.carry(0, Happening::ToLink(self.connection, answer));
    }

    fn arrive(&mut self, answer: Answer) {
        match answer {
            Answer::Frame(text) => {
                let frame = ServerFrame::decode(&text).unwrap();
                let is_ping = frame == ServerFrame::Ping;
                if let ServerFrame::Event { channel, .. } = &frame {
                    self.cached.insert((&**channel).into());
                }
                let actions = self.act(|machine, now, out| machine.frame(frame, at(now), out));
                assert!(!is_ping || actions.contains(&Frame::Pong), "a ping without a pong");
            }
            Answer::Close(code) => self.end(End::closed(code, String::new())),
        }
    }

    fn end(&mut self, end: End) {
        self.act(|machine, now, out| machine.ended(end, now, out));
    }

    pub(super) fn command(&mut self, command: Command) {
        self.act(|machine, now, out| machine.command(command, at(now), out));
    }

    // ------------------------------------------------------------------------------------------ what the link does

    /// Gives the machine an input, and carries out what it wants done. Gives the frames that it sends.
    fn act(&mut self, input: impl FnOnce(&mut Machine, Instant, &mut Vec<Action>)) -> Vec<Frame> {
        let mut out = Vec::new();
        let mut frames = Vec::new();
        input(&mut self.machine, self.now, &mut out);
        for action in out {
            match action {
                Action::Dial => self.dial(),
                Action::Deliver(_) => panic!("only drivers do that"),
                Action::HangUp => {
                    self.connection += 1;
                    self.black_hole = false;
                    self.stalled_until = self.now;
                    self.last_arrivals = [self.now; 2];
                    self.last_ping = None;
                    let hubs = &self.hubs;
                    self.cached.retain(|channel| hubs.iter().any(|hub| hub.wants(channel)));
                    // The server learns of it before it gets another one.
                    self.pusher.disconnect();
                }
                Action::Send(frame) => {
                    assert!(self.connected.is_some(), "{frame:?} without a connection");
                    if frame == Frame::Ping {
                        self.pinged();
                    }
                    if let Frame::Unsubscribe(channel) = &frame
                        && !self.hubs.iter().any(|hub| hub.wants(channel))
                    {
                        self.cached.remove(channel);
                    }
                    frames.push(frame.clone());
                    self.carry(1, Happening::ToPusher(self.connection, frame));
                }
                Action::TellPool(_) | Action::Report(_) => panic!("it is not of a pool"),
                Action::PublishProbe(channel) => {
                    let latency = self.latency();
                    self.later(latency, Happening::Probe(channel));
                }
                Action::Tell(hubs, delivery) => {
                    self.check_cached(&delivery);
                    if let Delivery::Refused { channel, why, .. } = &delivery
                        && *why != Refused::Unanswered
                    {
                        assert!(self.pusher.refused.contains(channel), "{channel} was not refused");
                        self.saw("a refusal");
                    }
                    let truth = Truth { published: &self.published, may_be_lost: self.may_be_lost };
                    hubs.for_each(|hub| self.hubs[hub].told(&delivery, LINK, &truth));
                }
                Action::Settle(..) => unreachable!("nobody sends client events"),
                Action::Note(note) => self.note(note),
            }
        }
        let silent_for = self.last_ping.map_or(Duration::ZERO, |at| self.now - at);
        assert!(silent_for <= ACTIVITY_TIMEOUT, "no ping for {silent_for:?}");
        frames
    }

    fn pinged(&mut self) {
        self.last_ping = Some(self.now);
        self.saw("a ping");
    }

    fn dial(&mut self) {
        assert_eq!(self.dials_at.take(), Some(self.now), "it dials when it said it would");
        let latency = self.latency();
        let of = self.connection;
        if !self.goes_wrong() {
            return self.later(3 * latency, Happening::Greeted(of));
        }
        let codes = [None, Some(4001), Some(4100), Some(4200), Some(4201), Some(4301), Some(1000)];
        match self.rng.usize(..codes.len() + 1) {
            // Nothing comes of it, ever.
            0 => {}
            n => {
                let end = End { cause: LostCause::Rejected, code: codes[n - 1], why: String::new() };
                self.later(latency, Happening::DialFailed(of, end));
            }
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Ended(end, delay) => {
                let lasted = self.connected.take().map(|since| self.now - since);
                if lasted.is_some_and(|lasted| lasted >= STABLE_AFTER) {
                    self.streak = 0;
                }
                let max = TIMES.reconnect_delay_max;
                let doubled = Duration::from_millis(500).saturating_mul(1 << self.streak.min(20)).min(max);
                let allowed = match (Reconnect::after(end.code), end.code) {
                    (Reconnect::Immediately, _) if self.streak == 0 => Duration::ZERO..=Duration::ZERO,
                    (Reconnect::Backoff, Some(_)) => {
                        Duration::from_secs(1)..=Duration::from_secs(1) + doubled
                    }
                    (Reconnect::Immediately | Reconnect::Backoff, _) => Duration::ZERO..=doubled,
                    (Reconnect::NotUnchanged, _) => max / 2..=max,
                };
                assert!(allowed.contains(&delay), "{delay:?} after {end:?}, number {}", self.streak);
                self.streak += 1;
                self.dials_at = Some(self.now + delay);
                self.saw(end.cause.label());
            }
            Note::Forgotten(channel) => {
                assert!(self.may_be_lost, "{channel} was not forgotten");
                self.saw("a forgotten subscription");
            }
            Note::SubscriptionFailed { text: Some(text), .. } => {
                assert!(!text.starts_with("No current subscription"), "it answers an unsubscription");
                self.saw("a failed subscription");
            }
            Note::SubscriptionFailed { text: None, .. } => {
                self.may_be_lost = true;
                self.saw("a subscription without an answer");
            }
            Note::HadAlready => self.saw("an event of a cache channel that was there"),
            Note::Unwanted { .. } => self.saw("an event that nobody wants"),
            Note::Missing(_) => self.saw("a gap"),
            Note::Local | Note::Error(..) | Note::ClientEventRefused(_) => {}
            Note::WithoutChannel | Note::Undecryptable { .. } => unreachable!(),
        }
    }

    // ------------------------------------------------------------------------------------------- what others do

    pub(super) fn subscribe(&mut self, hub: usize, channel: &Arc<str>) {
        if !self.hubs[hub].wants(channel) {
            self.hubs[hub].subscribe(channel);
            self.joins = true;
            self.command(Command::Subscribe(channel.clone(), hub));
            self.joins = false;
        }
    }

    pub(super) fn unsubscribe(&mut self, hub: usize, channel: &Arc<str>) {
        if self.hubs[hub].wants(channel) && !self.is_fixed(channel) {
            self.hubs[hub].unsubscribe(channel);
            self.command(Command::Unsubscribe(channel.clone(), hub));
        }
    }

    /// A stranger publishes.
    pub(super) fn publish(&mut self, channel: &Arc<str>) {
        if self.is_fixed(channel) {
            return;
        }
        let number = self.published.get_mut(channel).unwrap();
        *number += 1;
        let data = number.to_string();
        if let Some(answer) = self.pusher.publish(channel, NUMBERED, &data, None) {
            self.answer(answer);
        }
    }

    /// A client of the bridge publishes; a channel has one request under way.
    pub(super) fn request(&mut self, channel: &Arc<str>) {
        let is_cache = channel::is_cache(channel);
        // What a cache channel's last event is would depend on the order of its publishers.
        if self.is_requested(channel) || (is_cache && self.is_under_way(channel)) {
            return;
        }
        self.request_count += 1;
        let number = self.request_count;
        let (flight, excluded) = self.flights.lock().begin(vec![channel.clone()]);
        let (event, data) = (LOCAL.to_owned(), number.to_string());
        let sent = Arc::new(Sent { channel: channel.clone(), event, data, origin: ConnId(1) });
        if is_cache {
            self.flights.lock().carries(flight, vec![sent.clone()]);
        }
        let excluded = excluded.map(|id| id.to_string());
        self.requests.insert(number, Request { flight, sent: sent.clone() });
        let (there, back) = (self.latency(), self.latency());
        if !self.goes_wrong() {
            // A cache channel's event is its last one before the request is answered.
            let earlier_max = if is_cache { Duration::ZERO } else { ANSWERS_EARLIER_MAX };
            let answers_earlier = earlier_max.mul_f64(self.rng.f64());
            self.later(there + answers_earlier, Happening::Deliver(sent, excluded));
            return self.later(there + back, Happening::RequestEnds(number, true));
        }
        // It never reaches the server, or its answer is lost.
        // No link would know what a cache channel's last event is then.
        if self.rng.bool() && !is_cache {
            self.later(there, Happening::Deliver(sent, excluded));
        }
        self.later(there + back + Duration::from_secs(5), Happening::RequestEnds(number, false));
    }

    /// The server pings.
    pub(super) fn ping(&mut self) {
        if self.pusher.socket_id.is_some() {
            self.answer(Answer::Frame(crate::pusher::frame::PING.to_owned()));
        }
    }

    pub(super) fn cut(&mut self) {
        self.pusher.disconnect();
        let of = self.connection;
        let latency = self.latency();
        // What is under way is lost.
        self.black_hole = true;
        self.agenda.retain(|_, happening| {
            !matches!(happening, Happening::ToLink(n, _) | Happening::ToPusher(n, _) if *n == of)
        });
        self.later(latency, Happening::Broken(of));
    }

    pub(super) fn swallow(&mut self) {
        self.black_hole = true;
    }

    pub(super) fn stall(&mut self, time: Duration) {
        self.stalled_until = self.now + time;
    }

    pub(super) fn close(&mut self, code: Option<u16>, with_error: bool) {
        if self.pusher.socket_id.is_none() {
            return;
        }
        if with_error {
            self.answer(Answer::Frame(crate::pusher::frame::error(code, "go")));
        }
        self.answer(Answer::Close(code));
        self.pusher.disconnect();
    }

    pub(super) fn forget(&mut self, channel: &Arc<str>) {
        if self.is_fixed(channel) {
            return;
        }
        self.may_be_lost = true;
        self.pusher.forget(channel);
    }

    pub(super) fn forget_all(&mut self) {
        if self.channels.iter().any(|channel| self.is_fixed(channel)) {
            return;
        }
        self.may_be_lost = true;
        self.pusher.forget_all();
    }

    pub(super) fn truth(&self) -> Truth<'_> {
        Truth { published: &self.published, may_be_lost: self.may_be_lost }
    }

    /// No request is under way, as the link's own book says.
    pub(super) fn has_no_requests(&self) -> bool {
        let mut flights = self.flights.lock();
        self.requests.is_empty()
            && flights.connected("", self.now + Duration::from_secs(1)) == Default::default()
    }
}
