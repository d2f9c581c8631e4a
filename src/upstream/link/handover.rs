//! Pure: what becomes of events while a link's connection is replaced. The old one serves until the new one is certain of
//! every channel (see [`merge`](crate::upstream::merge)): so each event goes on once, whichever brings it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pusher::frame;
use crate::upstream::delivery::{Event, Kind, Sent};
use crate::upstream::flights::DELIVERY_TIME;
use crate::upstream::merge::{Merge, Out, Times};

/// The connection that there was, and the one that comes.
pub const OLD: usize = 0;
pub const NEW: usize = 1;
/// See [`crate::upstream::standby::junction`]: how far one of two connections may be behind the other.
const SETTLE: Duration = Duration::from_secs(5);

/// From the new connection's confirmation of a channel until it has brought all that it may bring in doubt, on a channel that
/// the old one had before.
const CERTAIN_AFTER: Duration = Duration::from_secs(11);
/// The same on a channel that both were asked for at once.
const CERTAIN_AT_ONCE_AFTER: Duration = Duration::from_secs(7);
/// So long after the new connection was asked for the first channels, others wait: or there would be a new one for ever.
const OTHERS_WAIT_AFTER: Duration = Duration::from_secs(30);

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
    put_off: Option<Instant>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Channel {
    merge: Merge<usize, Arc<Event>>,
    /// When the new connection was asked for it.
    asked: Instant,
    /// Both were asked for it at once.
    is_of_both: bool,
    /// When the new one brings all that the old one does.
    certain_at: Option<Instant>,
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
            put_off: None,
            hasher: RandomState::new(),
        };
        let mut outs = Vec::new();
        channels.into_iter().for_each(|channel| handover.old_has(&channel, now, &mut outs));
        handover
    }

    // ------------------------------------------------------------------------------------------ own messages

    /// A request with these messages is about to be sent, which excludes this connection.
    pub fn begun(&mut self, id: u64, batch: Vec<Arc<Sent>>, excluded: Option<usize>) {
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
        for (name, channel) in &mut self.channels {
            begin_in(&mut channel.merge, name, id, &flight, &self.hasher);
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
        let id = self.of_client_event(|sent| {
            sent.channel == event.channel
                && *sent.event == *event.name
                && Some(sent.origin) == event.origin
                && *frame::text_json(&sent.data) == *event.data
        });
        match id {
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
        let (times, hasher, flights) = (self.times, &self.hasher, &self.flights);
        let channel = self.channels.entry(name.clone()).or_insert_with(|| {
            let mut merge = Merge::new(times);
            for (id, flight) in flights {
                begin_in(&mut merge, name, *id, flight, hasher);
            }
            Channel { merge, asked: now, is_of_both: true, certain_at: None }
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
        if self.subscribed.is_some() || !is_time {
            return Vec::new();
        }
        self.subscribed = Some(now);
        for channel in self.channels.values_mut() {
            (channel.asked, channel.is_of_both) = (now, false);
        }
        self.channels.keys().cloned().collect()
    }

    /// Whether channels that come now are asked for at once.
    #[must_use]
    pub const fn is_subscribing(&self) -> bool {
        self.subscribed.is_some()
    }

    /// Whether channels that the old one has not wait until it is left.
    #[must_use]
    pub fn have_others_wait(&self, now: Instant) -> bool {
        self.left.is_none() && self.subscribed.is_some_and(|at| now >= at + OTHERS_WAIT_AFTER)
    }

    /// The new connection has this channel; `gap`: once more.
    pub fn new_has(&mut self, name: &str, gap: bool, now: Instant, outs: &mut Outs) {
        let lost = self.lost;
        let times = self.times;
        let Some(channel) = self.channels.get_mut(name) else { return };
        if gap && channel.merge.has(NEW) {
            channel.merge.lost(NEW, now, outs);
        }
        let asked = [lost, Some(channel.asked), now.checked_sub(times.confirm)].into_iter().flatten().max();
        channel.merge.confirmed(NEW, asked.unwrap_or(now), now, outs);
        let after = if channel.is_of_both { CERTAIN_AT_ONCE_AFTER } else { CERTAIN_AFTER };
        channel.certain_at = Some(now + after);
    }

    /// The new connection is lost.
    pub fn new_is_down(&mut self, now: Instant, outs: &mut Outs) {
        self.lost = Some(now);
        for channel in self.channels.values_mut() {
            channel.merge.lost(NEW, now, outs);
            channel.certain_at = None;
        }
    }

    /// Whether the new connection brings all that comes from now on, as far as the old one has it.
    #[must_use]
    pub fn is_certain(&self, now: Instant) -> bool {
        let is_certain = |channel: &Channel| channel.certain_at.is_some_and(|at| now >= at);
        let is_time = self.put_off.is_none_or(|until| now >= until);
        self.left.is_none() && is_time && self.subscribed.is_some() && self.channels.values().all(is_certain)
    }

    /// What is in doubt stays so, for it is about to be decided, or not any more.
    pub fn keep_held(&mut self, keeps: bool) {
        self.channels.values_mut().for_each(|channel| channel.merge.keep_held(keeps));
    }

    /// Whether the old one has brought all that the new one has, of which nothing was taken for this time.
    #[must_use]
    pub fn may_move(&self, lag: Duration, now: Instant) -> bool {
        self.channels.values().all(|channel| channel.merge.may_lead(NEW, lag, now))
    }

    /// It is not looked at again before this whether the old one can be left.
    pub const fn put_off(&mut self, until: Instant) {
        self.put_off = Some(until);
    }

    /// The old connection is left.
    pub fn moves(&mut self, now: Instant, outs: &mut Outs) {
        self.left = Some(now);
        for channel in self.channels.values_mut() {
            channel.merge.leads(NEW);
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
        self.left.is_some_and(|left| now >= left + SETTLE)
            && self.flights.values().all(|flight| flight.excluded == Some(NEW))
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
        let digest = digest(&self.hasher, &event.name, &event.data);
        if event.is_replay {
            channel.merge.offer_last(side, digest, event, now, outs);
        } else {
            channel.merge.offer(side, digest, event, now, outs);
        }
    }

    // ---------------------------------------------------------------------------------------------- the time

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let merges = self.channels.values().filter_map(|channel| channel.merge.deadline());
        let begin = self.told_since.filter(|_| self.subscribed.is_none()).map(|at| at + DELIVERY_TIME);
        // A request's end is told.
        let waits = || self.flights.values().any(|flight| flight.excluded != Some(NEW));
        let end = self.left.filter(|_| !waits()).map(|left| left + SETTLE);
        let certain = self.channels.values().filter_map(|channel| channel.certain_at).max();
        let certain = certain.max(self.put_off).filter(|_| self.left.is_none());
        let of_steps = begin.into_iter().chain(end).chain(certain).filter(|at| *at > now);
        merges.chain(of_steps).min()
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Instant, outs: &mut Outs) {
        for channel in self.channels.values_mut() {
            if channel.merge.deadline().is_some_and(|at| at <= now) {
                channel.merge.settle(now, outs);
            }
        }
    }
}

fn of_own(event: &Arc<Event>) -> Out<usize, Arc<Event>> {
    Out { event: event.clone(), source: None, doubtful: false }
}

/// The request's messages on the channel.
fn begin_in(
    merge: &mut Merge<usize, Arc<Event>>,
    channel: &Arc<str>,
    id: u64,
    flight: &Flight,
    hasher: &RandomState,
) {
    let messages = flight.batch.iter().filter(|sent| sent.channel == *channel);
    let digests: Vec<u64> =
        messages.map(|sent| digest(hasher, &sent.event, &frame::text_json(&sent.data))).collect();
    if !digests.is_empty() {
        merge.begin(id, digests, flight.excluded);
    }
}

/// By a key of this process's own, so that nobody can make two that are equal.
fn digest(hasher: &RandomState, name: &str, data: &str) -> u64 {
    hasher.hash_one((name, data))
}

#[cfg(test)]
mod tests;
