//! Pure: what becomes of events while a link's connection is replaced. The old one serves until the new one is certain of
//! every channel (see [`merge`](crate::upstream::merge)): so each event goes on once, whichever brings it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::upstream::delivery::{Event, Kind, Sent};
use crate::upstream::flights::DELIVERY_TIME;
use crate::upstream::matching::{Digests, is_of};
use crate::upstream::merge::{Merge, Out, Times};

/// The connection that there was, and the one that comes.
pub const OLD: usize = 0;
pub const NEW: usize = 1;
/// See [`crate::upstream::standby::junction`]: how far one of two connections may be behind the other.
const SETTLE: Duration = Duration::from_secs(5);

/// How often it is looked at what is certain by now.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So long the new connection is waited for at most. Then it takes over all the same where nothing is missed by that: what is
/// in doubt still comes twice rather than never.
const DOUBT_MAX: Duration = Duration::from_secs(120);
/// So long others come at any time; then they wait, or there would be a new one for ever.
const OTHERS_WAIT_AFTER: Duration = Duration::from_secs(30);
/// So long they wait at most, which the new connection needs to be certain of all that it has. Then they come again.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(20);

/// Events for the hubs.
pub type Outs = Vec<Out<usize, Arc<Event>>>;

#[derive(Debug)]
pub struct Handover {
    times: Times,
    channels: HashMap<Arc<str>, Channel>,
    /// Requests that nobody told of, for they began before.
    untold: HashSet<u64>,
    /// What the new connection may bring is known from then on; `None`: those requests are under way.
    told_since: Option<Instant>,
    /// When the new one was asked for the channels.
    subscribed: Option<Instant>,
    flights: HashMap<u64, Flight>,
    /// Of client events: they count down, so that they are none of the publisher's.
    next_flight: u64,
    /// When the new connection was lost last.
    lost: Option<Instant>,
    /// When the old one was left, or a request ended last that it was excluded from.
    left: Option<Instant>,
    /// The new one is not waited for any more, since then.
    given_up: Option<Instant>,
    /// When it is looked at next what is certain.
    look: Instant,
    /// What it was when that was looked at last.
    may_lead: bool,
    /// Whether the new one had all channels then.
    has_all: bool,
    digests: Digests,
}

#[derive(Debug)]
struct Channel {
    merge: Merge<usize, Arc<Event>>,
    /// When the new connection was asked for it.
    asked: Instant,
}

#[derive(Debug)]
struct Flight {
    batch: Vec<Arc<Sent>>,
    excluded: Option<usize>,
    is_client_event: bool,
}

impl Handover {
    /// The old connection has these channels; these requests are under way. A subscription takes `confirm` at most.
    pub fn begin(
        channels: impl IntoIterator<Item = Arc<str>>,
        under_way: impl IntoIterator<Item = u64>,
        confirm: Duration,
        now: Instant,
    ) -> Self {
        let untold: HashSet<u64> = under_way.into_iter().collect();
        let mut handover = Self {
            times: Times { skew: DELIVERY_TIME, confirm, settle: SETTLE },
            channels: HashMap::new(),
            told_since: untold.is_empty().then_some(now),
            untold,
            subscribed: None,
            flights: HashMap::new(),
            next_flight: u64::MAX,
            lost: None,
            left: None,
            given_up: None,
            look: now,
            may_lead: false,
            has_all: false,
            digests: Digests::default(),
        };
        let mut outs = Vec::new();
        channels.into_iter().for_each(|channel| handover.old_has(&channel, now, &mut outs));
        handover
    }

    // ------------------------------------------------------------------------------------------ own messages

    /// A request with these messages is about to be sent, which excludes this connection.
    pub fn begun(&mut self, id: u64, batch: Vec<Arc<Sent>>, excluded: Option<usize>) {
        if self.untold.contains(&id) {
            return; // It began before: what it excludes is one of two others.
        }
        self.enter(id, Flight { batch, excluded, is_client_event: false });
    }

    /// A client event leaves over this connection.
    pub fn sending(&mut self, side: usize, sent: &Arc<Sent>) {
        if self.of_client_event(|other| Arc::ptr_eq(other, sent)).is_some() {
            return; // once more
        }
        self.next_flight -= 1;
        let flight = Flight { batch: vec![sent.clone()], excluded: Some(side), is_client_event: true };
        self.enter(self.next_flight, flight);
    }

    fn enter(&mut self, id: u64, flight: Flight) {
        let mut names: Vec<&Arc<str>> = flight.batch.iter().map(|sent| &sent.channel).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            if let Some(channel) = self.channels.get_mut(name) {
                self.digests.begin(&mut channel.merge, name, id, &flight.batch, flight.excluded);
            }
        }
        self.flights.insert(id, flight);
    }

    /// The first of several that are equal.
    fn of_client_event(&self, is: impl Fn(&Arc<Sent>) -> bool) -> Option<u64> {
        let its = |flight: &Flight| flight.is_client_event && flight.batch.iter().any(&is);
        self.flights.iter().filter(|(_, flight)| its(flight)).map(|(id, _)| *id).max()
    }

    /// The request has ended; `accepted` are those of its messages that are to be delivered.
    pub fn ended(&mut self, id: u64, accepted: &[Arc<Event>], now: Instant, outs: &mut Outs) {
        self.untold.remove(&id);
        if self.untold.is_empty() {
            self.told_since.get_or_insert(now);
        }
        let Some(flight) = self.flights.remove(&id) else {
            // The new connection subscribes after it, and gets no copy.
            return outs.extend(accepted.iter().map(of_own));
        };
        if flight.excluded != Some(NEW) {
            self.left = self.left.map(|left| left.max(now));
        }
        let mut names: Vec<&Arc<str>> = flight.batch.iter().map(|sent| &sent.channel).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let events: Vec<_> = accepted.iter().filter(|event| event.channel == *name).cloned().collect();
            let count = flight.batch.iter().filter(|sent| sent.channel == *name).count();
            match self.channels.get_mut(name) {
                Some(channel) if events.len() == count => channel.merge.accepted(id, events, now, outs),
                // One of them came as its channel's last event before.
                Some(channel) => {
                    channel.merge.failed(id, now, outs);
                    outs.extend(events.iter().map(of_own));
                }
                None => outs.extend(events.iter().map(of_own)),
            }
        }
    }

    /// A client event was accepted.
    pub fn own(&mut self, event: &Arc<Event>, now: Instant, outs: &mut Outs) {
        match self.of_client_event(|sent| is_of(event, sent)) {
            Some(id) => self.ended(id, std::slice::from_ref(event), now, outs),
            None => outs.push(of_own(event)),
        }
    }

    /// A client event is settled: refused or given up, or its delivery has come before.
    pub fn settled(&mut self, sent: &Arc<Sent>, now: Instant, outs: &mut Outs) {
        if let Some(id) = self.of_client_event(|other| Arc::ptr_eq(other, sent)) {
            self.ended(id, &[], now, outs);
        }
    }

    // --------------------------------------------------------------------------------------- the connections

    /// The connection that the hubs hear has this channel.
    pub fn old_has(&mut self, name: &Arc<str>, now: Instant, outs: &mut Outs) {
        let side = self.side();
        self.may_lead = false;
        let (times, digests, flights) = (self.times, &self.digests, &self.flights);
        let channel = self.channels.entry(name.clone()).or_insert_with(|| {
            let mut merge = Merge::new(times);
            for (id, flight) in flights {
                digests.begin(&mut merge, name, *id, &flight.batch, flight.excluded);
            }
            Channel { merge, asked: now }
        });
        // Once more: the server had forgotten it.
        channel.merge.confirmed(side, now.checked_sub(times.confirm).unwrap_or(now), now, outs);
    }

    /// Whether the channel is one that both are to have.
    #[must_use]
    pub fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    /// The channel is left, or not subscribed any more.
    pub fn left(&mut self, channel: &str) {
        self.channels.remove(channel);
    }

    /// The channels that the new connection is to be asked for now; none before it is known what it may bring.
    pub fn subscribe(&mut self, now: Instant) -> Vec<Arc<str>> {
        let is_time = self.told_since.is_some_and(|at| now >= at + DELIVERY_TIME);
        if self.subscribed.is_some() || self.given_up.is_some() || !is_time {
            return Vec::new();
        }
        self.subscribed = Some(now);
        for channel in self.channels.values_mut() {
            channel.asked = now;
        }
        self.channels.keys().cloned().collect()
    }

    /// Whether channels that come now are asked for at once.
    #[must_use]
    pub const fn is_subscribing(&self) -> bool {
        self.subscribed.is_some()
    }

    /// Whether channels that the old one has not wait for a while. They do not for a new one that lacks any itself: nobody
    /// knows when it will have it.
    #[must_use]
    pub fn have_others_wait(&self, now: Instant) -> bool {
        let Some(since) = self.subscribed.filter(|_| self.is_undecided() && self.has_all) else {
            return false;
        };
        let turn = (OTHERS_WAIT_AFTER + OTHERS_WAIT_MAX).as_secs();
        let elapsed = now.saturating_duration_since(since).as_secs();
        elapsed.checked_rem(turn).is_some_and(|elapsed| elapsed >= OTHERS_WAIT_AFTER.as_secs())
    }

    const fn is_undecided(&self) -> bool {
        self.left.is_none() && self.given_up.is_none()
    }

    /// The new connection has this channel; `gap`: once more.
    pub fn new_has(&mut self, name: &str, gap: bool, now: Instant, outs: &mut Outs) {
        let (lost, times) = (self.lost, self.times);
        let Some(channel) = self.channels.get_mut(name) else { return };
        self.may_lead = false;
        if gap && channel.merge.has(NEW) {
            channel.merge.lost(NEW, now, outs);
        }
        let asked = [lost, Some(channel.asked), now.checked_sub(times.confirm)].into_iter().flatten().max();
        channel.merge.confirmed(NEW, asked.unwrap_or(now), now, outs);
    }

    /// The new connection is lost.
    pub fn new_is_down(&mut self, now: Instant, outs: &mut Outs) {
        (self.lost, self.may_lead, self.has_all) = (Some(now), false, false);
        for channel in self.channels.values_mut() {
            channel.merge.lost(NEW, now, outs);
        }
    }

    /// Whether the old connection can be left: the new one is certain of all its channels.
    #[must_use]
    pub const fn may_move(&self) -> bool {
        self.is_undecided() && self.may_lead
    }

    /// It could not be left. That is looked at again in a while.
    pub const fn does_not_move(&mut self) {
        self.may_lead = false;
    }

    /// The new connection is not waited for any more. What it brought the old one brings as well: it is known for a while.
    pub fn gives_up(&mut self, now: Instant, outs: &mut Outs) {
        self.new_is_down(now, outs);
        self.given_up.get_or_insert(now);
    }

    fn look(&mut self, now: Instant) {
        self.look = now + LOOK_EVERY;
        let is_late = self.subscribed.is_some_and(|at| now >= at + DOUBT_MAX);
        self.has_all = self.channels.values().all(|channel| channel.merge.has(NEW));
        self.may_lead = self.subscribed.is_some()
            && self
                .channels
                .values()
                .all(|channel| channel.merge.is_certain(NEW) || (is_late && channel.merge.is_whole(NEW)));
    }

    /// The old connection is left.
    pub fn moves(&mut self, now: Instant, outs: &mut Outs) {
        self.left = Some(now);
        for channel in self.channels.values_mut() {
            channel.merge.lost(OLD, now, outs);
        }
    }

    /// The connection that the hubs hear.
    #[must_use]
    pub const fn side(&self) -> usize {
        if self.left.is_some() { NEW } else { OLD }
    }

    /// Whether there is one connection as before: what it brings needs no second look.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.left.or(self.given_up).is_some_and(|alone| now >= alone + SETTLE) && !self.awaits_requests()
    }

    /// Whether a request is under way that does not exclude the connection that the hubs hear.
    fn awaits_requests(&self) -> bool {
        self.flights.values().any(|flight| flight.excluded != Some(self.side()))
    }

    /// What a connection brings.
    pub fn event(&mut self, side: usize, event: Arc<Event>, now: Instant, outs: &mut Outs) {
        let is_heard = side == self.side();
        let Some(channel) = self.channels.get_mut(&event.channel).filter(|_| event.kind != Kind::CacheMiss)
        else {
            if is_heard {
                outs.push(Out { event, source: Some(side), doubtful: false });
            }
            return;
        };
        let digest = self.digests.of(&event);
        if event.is_replay {
            channel.merge.offer_last(side, digest, event, now, outs);
        } else {
            channel.merge.offer(side, digest, event, now, outs);
        }
    }

    // ---------------------------------------------------------------------------------------------- the time

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Instant {
        let begin = self.told_since.filter(|_| self.subscribed.is_none()).map(|at| at + DELIVERY_TIME);
        // A request's end is told.
        let end = self.left.or(self.given_up).filter(|_| !self.awaits_requests()).map(|alone| alone + SETTLE);
        begin.into_iter().chain(end).filter(|at| *at > now).fold(self.look, Instant::min)
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Instant, outs: &mut Outs) {
        if now < self.look {
            return;
        }
        for channel in self.channels.values_mut() {
            if channel.merge.deadline().is_some_and(|at| at <= now) {
                channel.merge.settle(now, outs);
            }
        }
        self.look(now);
    }
}

fn of_own(event: &Arc<Event>) -> Out<usize, Arc<Event>> {
    Out { event: event.clone(), source: None, doubtful: false }
}

#[cfg(test)]
mod tests;
