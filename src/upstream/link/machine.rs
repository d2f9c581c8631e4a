//! One link's decisions: when to connect, what to send to Pusher, what to tell the hubs. It takes inputs with the time
//! and gives actions; the driver (`link.rs`) carries them out.

mod actions;
mod cache;
mod deaf;
mod frames;
pub mod member;
mod moved;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::actions::{Action, Command, Frame, Note, Report};
use self::cache::CacheChannels;
use self::member::MemberSide;
use super::checks::Checks;
use super::client_events::{ClientEvents, Step};
use super::liveness::{self, Liveness};
use super::probe::{self, Probe};
use super::table::{LinkTable, Op};
use crate::clock::Now;
use crate::exchange::{ConnId, LinkId};
use crate::pusher::channel;
use crate::pusher::close::Reconnect;
use crate::pusher::encryption::{MasterKey, Undecryptable};
use crate::pusher::frame;
use crate::upstream::backoff::full_jitter;
use crate::upstream::delivery::{Delivery, Event, Sent};
use crate::upstream::flights::SharedFlights;
use crate::upstream::hubs::Hubs;
use crate::upstream::lost::{End, LostCause};
use crate::upstream::members::pool::FromLink;
use crate::upstream::refused::Refused;
use crate::upstream::settings::Times;

/// First ceiling of the reconnect delay; it doubles.
const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(500);
/// Least delay after a code of 4100-4199 (protocol page, "Error codes").
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one: the next failure starts from the first delay.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// So long a link waits at most for being called when it may dial. It is called, or ended: this is only so that it has a
/// deadline.
const ASKED_AT_MOST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Begins the name of a link's own channel; 16 hexadecimal digits follow.
const OWN_CHANNEL: &str = "private-pusher-bridge-";

/// How Pusher took a message of a client of this bridge.
#[derive(Clone, Copy, Debug)]
enum Accepted<'a> {
    /// By its API, as an event like any other.
    ByApi,
    /// As a client event, of this member where the channel has some.
    AsClientEvent(Option<&'a str>),
}

#[derive(Debug)]
enum Phase {
    /// The next attempt begins then.
    Waiting {
        until: Instant,
    },
    /// It asked whether it may dial.
    Asking {
        since: Instant,
    },
    /// An attempt is under way, which may take until then.
    Dialling {
        until: Instant,
    },
    Connected {
        since: Instant,
        live: Liveness,
    },
}

#[derive(Debug)]
pub struct Machine {
    id: LinkId,
    times: Times,
    phase: Phase,
    /// Connections in a row that failed or were short.
    attempt: u32,
    table: LinkTable,
    checks: Checks,
    probe: Probe,
    /// This link's own on this connection, for checks and the probe.
    own_channel: Arc<str>,
    cache: CacheChannels,
    /// Of a user's own link.
    member: Option<Box<MemberSide>>,
    flights: SharedFlights,
    /// Of encrypted channels.
    master_key: Option<MasterKey>,
    client_events: ClientEvents,
    rng: fastrand::Rng,
    /// Scratch space.
    ops: Vec<Op>,
}

impl Machine {
    /// A link that connects at once.
    #[must_use]
    pub fn new(id: LinkId, times: Times, flights: SharedFlights, rng: fastrand::Rng, now: Instant) -> Self {
        Self {
            id,
            times,
            phase: Phase::Waiting { until: now },
            attempt: 0,
            table: LinkTable::new(times.subscribe_timeout, times.linger),
            checks: Checks::new(times.check_interval, times.subscribe_timeout),
            probe: Probe::new(times.check_interval, times.pong_timeout),
            own_channel: "".into(),
            cache: CacheChannels::default(),
            member: None,
            flights,
            master_key: None,
            client_events: ClientEvents::default(),
            rng,
            ops: Vec::new(),
        }
    }

    /// The same, which decrypts what comes on encrypted channels.
    #[must_use]
    pub fn with_master_key(self, master_key: Option<MasterKey>) -> Self {
        Self { master_key, ..self }
    }

    /// The channels and the state of each.
    #[must_use]
    pub const fn table(&self) -> &LinkTable {
        &self.table
    }

    // ------------------------------------------------------------------------------------------ the connection

    /// Pusher has greeted, with this socket id.
    pub fn connected(
        &mut self,
        socket_id: &str,
        activity_timeout: Option<Duration>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.begin_connection(activity_timeout, now);
        let mut held = self.flights.lock().connected(socket_id, now);
        self.member_connected(&mut held, now, out);
        self.table.connected(&held, now, &mut self.ops);
        self.carry_over(now, out);
    }

    /// It is judged by itself, whatever was known of the one before.
    fn begin_connection(&mut self, activity_timeout: Option<Duration>, now: Instant) {
        let live = Liveness::new(activity_timeout, self.times.pong_timeout, now);
        self.phase = Phase::Connected { since: now, live };
        self.own_channel = format!("{OWN_CHANNEL}{:016x}", self.rng.u64(..)).into();
        self.checks.connected(self.own_channel.clone(), now);
        if self.checks.shows_nothing() {
            self.begin_probe(now);
        }
    }

    /// Whether clients' events wait, which leave over this connection or are given up.
    #[must_use]
    pub fn has_client_events(&self) -> bool {
        !self.client_events.is_empty()
    }

    /// The connection, or the attempt, has ended.
    pub fn ended(&mut self, end: End, now: Instant, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Waiting { .. } | Phase::Asking { .. }) {
            return;
        }
        self.carry_over(now, out);
        out.push(Action::HangUp);
        if let Phase::Connected { since, .. } = self.phase {
            self.lost(out);
            if now.saturating_duration_since(since) >= STABLE_AFTER {
                self.attempt = 0;
            }
        }
        let delay = self.delay_after(&end);
        self.attempt = self.attempt.saturating_add(1);
        let is_terminated = self.member_lost(Some(&end), now, out);
        self.phase =
            if is_terminated { Phase::Asking { since: now } } else { Phase::Waiting { until: now + delay } };
        out.push(Action::Note(Note::Ended(end, delay)));
    }

    /// Nobody wants the link any more. It does nothing after this.
    pub fn close(&mut self, out: &mut Vec<Action>) {
        out.push(Action::HangUp);
        if matches!(self.phase, Phase::Connected { .. }) {
            self.lost(out);
        }
    }

    /// Whoever is subscribed may miss events.
    fn lost(&mut self, out: &mut Vec<Action>) {
        self.flights.lock().disconnected();
        let table = &self.table;
        self.cache.disconnected(|channel| table.hubs(channel).is_empty());
        self.checks.disconnected();
        self.probe.disconnected();
        self.client_events.disconnected();
        let lost = self.table.disconnected();
        if lost.channels > 0 {
            out.push(Action::Note(Note::Missing(lost.channels)));
        }
        if !lost.hubs.is_empty() {
            out.push(Action::Tell(lost.hubs, Delivery::Down(self.id)));
        }
    }

    fn delay_after(&mut self, end: &End) -> Duration {
        let max = self.times.reconnect_delay_max;
        let jittered = full_jitter(self.attempt, RECONNECT_DELAY_FIRST, max, &mut self.rng);
        match Reconnect::after(end.code) {
            // The second time in a row, "at once" has proven wrong.
            Reconnect::Immediately if self.attempt == 0 => Duration::ZERO,
            Reconnect::Immediately => jittered,
            Reconnect::Backoff if end.code.is_some() => BACKOFF_MIN + jittered,
            Reconnect::Backoff => jittered,
            // What was wrong may have been set right by hand meanwhile.
            Reconnect::NotUnchanged => max.mul_f64(0.5 + self.rng.f64() / 2.0),
        }
    }

    // ---------------------------------------------------------------------------------------------- the timers

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let phase = match &self.phase {
            Phase::Waiting { until } | Phase::Dialling { until } => *until,
            Phase::Asking { since } => *since + ASKED_AT_MOST,
            Phase::Connected { live, .. } => live.deadline(),
        };
        let member = self.member.as_ref().and_then(|member| member.deadline());
        let others = [
            self.table.deadline(),
            self.checks.deadline(),
            self.probe.deadline(),
            self.client_events.deadline(),
            member,
        ];
        others.into_iter().flatten().fold(phase, Instant::min)
    }

    /// The time has come that [`Self::deadline`] said.
    pub fn timer(&mut self, at: Now, out: &mut Vec<Action>) {
        let now = at.mono;
        match &mut self.phase {
            Phase::Waiting { until } if now >= *until && self.member.is_some() => {
                self.phase = Phase::Asking { since: now };
                out.push(Action::Report(Report::AsksToDial));
            }
            Phase::Waiting { until } if now >= *until => {
                self.phase = Phase::Dialling { until: now + self.times.connect_timeout };
                out.push(Action::Dial);
            }
            Phase::Dialling { until } if now >= *until => {
                self.ended(End::new(LostCause::ConnectTimeout, "no connection in time"), now, out);
            }
            Phase::Waiting { .. } | Phase::Asking { .. } | Phase::Dialling { .. } => {}
            Phase::Connected { live, .. } => match live.timer(now) {
                liveness::Due::Nothing => {}
                liveness::Due::Ping => {
                    self.client_events.pinged();
                    out.push(Action::Send(Frame::Ping));
                }
                liveness::Due::Dead => {
                    self.ended(End::new(LostCause::PongTimeout, "Pusher did not answer a ping"), now, out);
                }
            },
        }
        let client_events = &self.client_events;
        for channel in self.table.timer(now, |channel| client_events.has(channel), &mut self.ops) {
            let (why, text) = (Refused::Unanswered, None);
            out.push(Action::Note(Note::SubscriptionFailed { channel, why, text }));
        }
        self.settle_blame(now, out);
        self.check(now, out);
        self.member_timer(now, out);
        match self.probe.timer(now) {
            probe::Due::Nothing => {}
            probe::Due::Publish => out.push(Action::PublishProbe(self.own_channel.clone())),
            probe::Due::Deaf => {
                self.ended(
                    End::new(LostCause::Deaf, "Pusher accepts events and does not deliver them"),
                    now,
                    out,
                );
            }
        }
        self.carry_over(now, out);
        self.turn_of_client_events(at, out);
    }

    // ------------------------------------------------------------------------------- from hubs and the publisher

    /// A hub or the publisher says something.
    pub fn command(&mut self, command: Command, at: Now, out: &mut Vec<Action>) {
        let now = at.mono;
        if let Some(member) = &mut self.member {
            member.wake();
        }
        match command {
            Command::Subscribe(channel, hub) => {
                self.before_subscribing(&channel);
                self.table.subscribe(&channel, hub, now, &mut self.ops);
            }
            Command::Unsubscribe(channel, hub) => {
                self.table.unsubscribe(&channel, hub, now);
                if self.table.hubs(&channel).is_empty() && self.table.lingering(&channel).is_none() {
                    // Nothing keeps its last event up to date.
                    self.cache.unsubscribed(&channel, false);
                }
                if self.member.is_some() {
                    // Its pool has lingered: what comes next may be the same channel, anew.
                    self.timer(at, out);
                }
            }
            Command::Ended { flight, accepted } => {
                let released = self.flights.lock().end(flight, now);
                self.table.release(&released, now);
                for sent in accepted {
                    if !self.cache.was_shown(&sent) {
                        self.deliver_local(&sent, Accepted::ByApi, at, out);
                    }
                }
            }
            Command::Subscribers(subscribers) => self.table.count_subscribers(&subscribers),
            Command::ClientEvent(item) => self.client_events.push(*item),
            Command::Introduce { channel, data } => self.introduce(channel, data),
            Command::SignIn(data) => self.want_sign_in(data, now, out),
            Command::Dial => self.may_dial(now, out),
            Command::BeLazy(is_lazy) => self.be_lazy(is_lazy),
            // The flights have it.
            Command::Begun { .. } => {}
            Command::Reconnect => {
                self.ended(End::new(LostCause::Rotated, "to connect by the new key"), now, out);
            }
        }
        self.carry_over(now, out);
        self.turn_of_client_events(at, out);
    }

    /// Sends the client events whose turn it is.
    pub(super) fn turn_of_client_events(&mut self, at: Now, out: &mut Vec<Action>) {
        let (mut steps, table) = (Vec::new(), &self.table);
        self.client_events.turn(at.mono, |channel| table.is_live(channel), &mut steps);
        self.take_steps(steps, at, out);
    }

    pub(super) fn take_steps(&mut self, steps: Vec<Step>, at: Now, out: &mut Vec<Action>) {
        for step in steps {
            match step {
                Step::Send(sent) => {
                    if self.member.is_some() {
                        out.push(Action::TellPool(FromLink::Sending(sent.clone())));
                    }
                    out.push(Action::Send(Frame::ClientEvent(sent)));
                    out.push(Action::Send(Frame::Ping));
                }
                Step::Deliver(sent, sender) => {
                    self.deliver_local(&sent, Accepted::AsClientEvent(sender.as_deref()), at, out);
                }
                Step::Settle(event, fate) => {
                    if self.member.is_some() {
                        out.push(Action::TellPool(FromLink::Settled(event.sent.clone())));
                    }
                    out.push(Action::Settle(event, fate));
                }
            }
        }
    }

    /// Hands what Pusher accepted to the hubs. They know who is subscribed, and go on with it while the link is
    /// lost.
    fn deliver_local(&mut self, sent: &Sent, accepted: Accepted<'_>, now: Now, out: &mut Vec<Action>) {
        let hubs = self.table.hubs(&sent.channel);
        let (data, origin) = (|| frame::text_json(&sent.data), Some(sent.origin));
        let (sender, is_passing) = match accepted {
            Accepted::ByApi => (None, false),
            Accepted::AsClientEvent(sender) => (sender, true),
        };
        if hubs.is_empty() {
            if !is_passing {
                self.keep_for_later(&sent.channel, &sent.event, || Ok(data()), now, origin);
            }
            return;
        }
        if self.keeps_last(&sent.channel) && !is_passing {
            let is_subscribed = self.table.receivers(&sent.channel).is_some();
            self.cache.own_comes(&sent.channel, is_subscribed, now.mono);
        }
        out.push(Action::Note(Note::Local));
        let event = Event::new(self.id, sent.channel.clone(), &sent.event, &data(), now, origin);
        self.deliver(hubs, event.by_member(sender).passing(is_passing), out);
    }

    fn deliver(&mut self, hubs: Hubs, event: Event, out: &mut Vec<Action>) {
        event.expect_hubs(hubs.len());
        let event = Arc::new(event);
        if event.says_last() && self.keeps_last(&event.channel) {
            self.cache.keep(&event);
        }
        out.push(Action::Tell(hubs, Delivery::Event(event)));
    }

    /// Keeps what nobody gets as its channel's last event: whoever comes while the subscription lingers has it from here
    /// only.
    fn keep_for_later<'a>(
        &mut self,
        channel: &str,
        name: &str,
        data: impl FnOnce() -> Result<Cow<'a, str>, Undecryptable>,
        at: Now,
        origin: Option<ConnId>,
    ) {
        if self.keeps_last(channel)
            && let Some(channel) = self.table.lingering(channel)
        {
            self.cache.has_no_last(&channel);
            match data() {
                Ok(data) => {
                    self.cache.keep(&Arc::new(Event::new(self.id, channel, name, &data, at, origin)));
                }
                // An older one would be a wrong one.
                Err(_) => self.cache.unsubscribed(&channel, false),
            }
        }
    }

    /// Whether it keeps the channel's last event. Of a user's own link's channels the pool does.
    fn keeps_last(&self, channel: &str) -> bool {
        channel::is_cache(channel) && self.member.is_none()
    }

    /// Makes actions of what the table asks for.
    fn carry_over(&mut self, now: Instant, out: &mut Vec<Action>) {
        for op in self.ops.drain(..) {
            out.push(match op {
                Op::Subscribe(channel) => {
                    self.cache.subscribes(&channel);
                    let data = self.member.as_ref().and_then(|member| member.channel_data(&channel));
                    Action::Send(match data {
                        Some(data) => Frame::SubscribeAs(channel, data.clone()),
                        None => Frame::Subscribe(channel),
                    })
                }
                Op::Unsubscribe(channel) => {
                    // One whose subscription was not answered is wanted still.
                    let is_wanted = !self.table.hubs(&channel).is_empty();
                    self.cache.unsubscribed(&channel, is_wanted);
                    if let Some(member) = self.member.as_mut().filter(|_| !is_wanted) {
                        member.forget(&channel);
                    }
                    Action::Send(Frame::Unsubscribe(channel))
                }
                Op::TellLive { hubs, channel, gap } => {
                    let cached = self.cache.last(&channel, now);
                    Action::Tell(hubs, Delivery::Live { link: self.id, channel, gap, cached })
                }
                Op::TellRefused { hubs, channel, why } => {
                    Action::Tell(hubs, Delivery::Refused { link: self.id, channel, member: None, why })
                }
            });
        }
        if self.member.as_ref().is_some_and(|member| member.has_early_events()) {
            self.deliver_early(out);
        }
    }
}
