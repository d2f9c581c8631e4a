//! What a junction decides: two links carry the same channels, and each event goes on once. To the hubs it is one link,
//! to its links it is their only hub.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::exchange::LinkId;
use crate::pusher::frame;
use crate::upstream::delivery::{Delivery, Event, Kind, Sent};
use crate::upstream::flights::DELIVERY_TIME;
use crate::upstream::hubs::Hubs;
use crate::upstream::lane::Item;
use crate::upstream::link::client_events::ClientEvent;
use crate::upstream::link::machine::Command;
use crate::upstream::matching::{Digests, is_of};
use crate::upstream::merge::{Merge, Out, Times, Verdict};
use crate::upstream::standby::Result;

/// The first link and the second.
pub const SIDES: usize = 2;
/// The number of the junction as its links' only hub.
pub const HUB: usize = 0;
/// How far one of two connections may be behind the other at most. It goes by time: neither is asked whether it has
/// brought everything. While both bring what is published that is plenty. But a connection that is silent is given up
/// only when a ping is not answered, after minutes perhaps: if the other one was subscribed anew since, events from
/// between the silence and that subscription are missed, and nobody is told. What comes after it is delivered, at the
/// latest after this time, unless it equals another event of that time.
const SETTLE: Duration = Duration::from_secs(5);

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Act {
    /// Hand this to each of these hubs.
    Tell(Hubs, Delivery),
    /// Tell this side's link.
    Link(usize, Command),
    /// Count it.
    Count(Result),
    /// Events of so many channels may have been missed.
    Missing(usize),
    /// An event that nobody is subscribed to any more.
    Unwanted(Arc<Event>),
    /// An own message goes to the hubs.
    Local,
}

type Outs = Vec<Out<usize, Arc<Event>>>;

#[derive(Debug)]
pub struct Junction {
    id: LinkId,
    times: Times,
    linger: Duration,
    channels: HashMap<Arc<str>, Channel>,
    /// Channels that nobody wants, by when they are left.
    lingering: VecDeque<(Instant, Arc<str>)>,
    /// Channels whose merge may hold something.
    doubtful: Vec<Arc<str>>,
    flights: HashMap<u64, Flight>,
    /// Of client events: they count down, so that they are none of the publisher's.
    next_flight: u64,
    /// When each side's connection was lost last.
    lost: [Option<Instant>; SIDES],
    /// A side that is not asked for new channels just now, as it is about to be left.
    spared: Option<usize>,
    /// Those that it was not asked for.
    not_asked: BTreeSet<Arc<str>>,
    digests: Digests,
    outs: Outs,
}

#[derive(Debug)]
struct Channel {
    hubs: Hubs,
    merge: Merge<usize, Arc<Event>>,
    asked: Instant,
    /// Events may have been missed since it was last confirmed to the hubs.
    missed: bool,
    /// Whether it was ever confirmed.
    was_live: bool,
    refused: [bool; SIDES],
    /// The last event of a cache channel, or what says that it has none.
    last: Option<Arc<Event>>,
    lingers_until: Option<Instant>,
}

/// A request under way.
#[derive(Debug)]
struct Flight {
    batch: Vec<Arc<Sent>>,
    excluded: Option<usize>,
    /// Its number at each side; `None`: it is a client event.
    sides: Option<[u64; SIDES]>,
}

impl Junction {
    /// Without channels. `confirm` is how long a subscription may take, `linger` how long a channel is kept that nobody
    /// wants.
    #[must_use]
    pub fn new(id: LinkId, confirm: Duration, linger: Duration) -> Self {
        Self {
            id,
            times: Times { skew: DELIVERY_TIME, confirm, settle: SETTLE },
            linger,
            channels: HashMap::new(),
            lingering: VecDeque::new(),
            doubtful: Vec::new(),
            flights: HashMap::new(),
            next_flight: u64::MAX,
            lost: [None; SIDES],
            spared: None,
            not_asked: BTreeSet::new(),
            digests: Digests::default(),
            outs: Vec::new(),
        }
    }

    // ------------------------------------------------------------------------------- from hubs and the publisher

    /// A hub or the publisher says something.
    pub fn command(&mut self, command: Command, now: Now, acts: &mut Vec<Act>) {
        match command {
            Command::Subscribe(channel, hub) => self.subscribe(channel, Hubs::only(hub), now.mono, acts),
            Command::Unsubscribe(channel, hub) => self.unsubscribe(&channel, Hubs::only(hub), now.mono),
            Command::Begun { flight, sides, excluded, batch } => {
                self.begin(flight, Flight { batch, excluded, sides: Some(sides) });
            }
            Command::Ended { flight, accepted } => self.end(flight, !accepted.is_empty(), now, acts),
            Command::ClientEvent(item) => acts.push(Act::Link(HUB, Command::ClientEvent(item))),
            Command::Subscribers(subscribers) => {
                for side in 0..SIDES {
                    acts.push(Act::Link(side, Command::Subscribers(subscribers.clone())));
                }
            }
            // Of users' own links.
            Command::Introduce { .. }
            | Command::SignIn(_)
            | Command::Dial
            | Command::BeLazy(_)
            | Command::Reconnect => {}
        }
    }

    /// A client event leaves over this side: its copy comes over the other. Gives the number to say its end by.
    pub fn client_event(&mut self, side: usize, item: &Item<ClientEvent>) -> u64 {
        self.next_flight -= 1;
        let batch = vec![item.job.sent.clone()];
        self.begin(self.next_flight, Flight { batch, excluded: Some(side), sides: None });
        self.next_flight
    }

    /// It was refused or given up, or its delivery has come before.
    pub fn client_event_ended(&mut self, flight: u64, now: Now, acts: &mut Vec<Act>) {
        self.end(flight, false, now, acts);
    }

    fn subscribe(&mut self, channel: Arc<str>, hub: Hubs, now: Instant, acts: &mut Vec<Act>) {
        if let Some(entry) = self.channels.get_mut(&channel) {
            entry.hubs = entry.hubs.with(hub);
            entry.lingers_until = None;
            if entry.merge.is_live() {
                let cached = entry.last.clone();
                acts.push(Act::Tell(hub, Delivery::Live { link: self.id, channel, gap: false, cached }));
            }
            return;
        }
        let mut merge = Merge::new(self.times);
        for (id, flight) in &self.flights {
            self.digests.begin(&mut merge, &channel, *id, &flight.batch, flight.excluded);
        }
        for side in 0..SIDES {
            if self.spared == Some(side) {
                self.not_asked.insert(channel.clone());
            } else {
                acts.push(Act::Link(side, Command::Subscribe(channel.clone(), HUB)));
            }
        }
        let entry = Channel {
            hubs: hub,
            merge,
            asked: now,
            missed: false,
            was_live: false,
            refused: [false; SIDES],
            last: None,
            lingers_until: None,
        };
        self.channels.insert(channel, entry);
    }

    fn unsubscribe(&mut self, channel: &Arc<str>, hub: Hubs, now: Instant) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        entry.hubs = entry.hubs.without(hub);
        if entry.hubs.is_empty() {
            let until = now + self.linger;
            entry.lingers_until = Some(until);
            self.lingering.push_back((until, channel.clone()));
        }
    }

    fn begin(&mut self, id: u64, flight: Flight) {
        let mut begun: Vec<&Arc<str>> = Vec::new();
        for sent in &flight.batch {
            if begun.contains(&&sent.channel) {
                continue;
            }
            begun.push(&sent.channel);
            if let Some(entry) = self.channels.get_mut(&sent.channel) {
                self.digests.begin(&mut entry.merge, &sent.channel, id, &flight.batch, flight.excluded);
            }
        }
        self.flights.insert(id, flight);
    }

    fn end(&mut self, id: u64, accepted: bool, now: Now, acts: &mut Vec<Act>) {
        let Some(flight) = self.flights.remove(&id) else { return };
        for (side, flight) in flight.sides.into_iter().flatten().enumerate() {
            acts.push(Act::Link(side, Command::Ended { flight, accepted: Vec::new() }));
        }
        let mut channels: Vec<&Arc<str>> = flight.batch.iter().map(|sent| &sent.channel).collect();
        channels.sort_unstable();
        channels.dedup();
        for channel in channels {
            let Some(entry) = self.channels.get_mut(channel) else { continue };
            let mut outs = std::mem::take(&mut self.outs);
            if accepted {
                let messages = flight.batch.iter().filter(|sent| sent.channel == *channel);
                let events = messages.map(|sent| {
                    let data = frame::text_json(&sent.data);
                    Arc::new(Event::new(self.id, channel.clone(), &sent.event, &data, now, Some(sent.origin)))
                });
                entry.merge.accepted(id, events, now.mono, &mut outs);
            } else {
                entry.merge.failed(id, now.mono, &mut outs);
            }
            entry.hand_out(&mut outs, acts);
            self.outs = outs;
        }
    }

    // ---------------------------------------------------------------------------------------------- from the links

    /// A side's link says something; `other` is whether the other one is connected.
    pub fn delivery(
        &mut self,
        side: usize,
        delivery: Delivery,
        other: bool,
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        if matches!(delivery, Delivery::Down(_) | Delivery::Refused { .. }) && self.spared != Some(side) {
            // The other one does not carry what is new.
            self.spare(None, acts);
        }
        match delivery {
            Delivery::Event(event) => self.event(side, event, now, acts),
            Delivery::Live { channel, gap, cached, .. } => self.live(side, &channel, gap, cached, now, acts),
            Delivery::Down(_) => self.down(side, now, acts),
            Delivery::Refused { channel, member, why, .. } => {
                let Some(entry) = self.channels.get_mut(&channel) else { return };
                if let Some(refused) = entry.refused.get_mut(side) {
                    *refused = true;
                }
                // As long as the other one may carry it, it is not.
                if !entry.merge.is_live() && (!other || entry.refused == [true; SIDES]) {
                    let refused = Delivery::Refused { link: self.id, channel, member, why };
                    acts.push(Act::Tell(entry.hubs, refused));
                }
            }
            Delivery::Undecryptable { channel, .. } => {
                let Some(entry) = self.channels.get(&channel) else { return };
                // Both get it: told once.
                if side == HUB || !entry.merge.has(HUB) {
                    acts.push(Act::Tell(entry.hubs, Delivery::Undecryptable { link: self.id, channel }));
                }
            }
            // Of links of members.
            Delivery::Joined { .. } | Delivery::Terminated { .. } => {}
        }
    }

    fn live(
        &mut self,
        side: usize,
        channel: &Arc<str>,
        gap: bool,
        cached: Option<Arc<Event>>,
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        let mut outs = std::mem::take(&mut self.outs);
        // Confirmed again without having been lost: the server had forgotten it.
        if gap && entry.merge.has(side) {
            entry.missed |= entry.merge.lost(side, now, &mut outs);
        }
        let was_live = entry.merge.is_live();
        // No earlier than it was wanted, and the connection before was lost; nor does it take longer.
        let lost = self.lost.get(side).copied().flatten();
        let asked =
            [lost, Some(entry.asked), now.checked_sub(self.times.confirm)].into_iter().flatten().max();
        entry.merge.confirmed(side, asked.unwrap_or(now), now, &mut outs);
        entry.refused = [false; SIDES];
        if !was_live {
            let gap = std::mem::take(&mut entry.missed) && entry.was_live;
            entry.was_live = true;
            entry.last = entry.last.take().or(cached);
            let (channel, cached) = (channel.clone(), entry.last.clone());
            if gap {
                acts.push(Act::Missing(1));
            }
            acts.push(Act::Tell(entry.hubs, Delivery::Live { link: self.id, channel, gap, cached }));
        } else if std::mem::take(&mut entry.missed) {
            acts.push(Act::Missing(1));
            let (channel, cached) = (channel.clone(), entry.last.clone());
            acts.push(Act::Tell(entry.hubs, Delivery::Live { link: self.id, channel, gap: true, cached }));
        }
        entry.hand_out(&mut outs, acts);
        self.outs = outs;
        if !self.doubtful.contains(channel) {
            self.doubtful.push(channel.clone());
        }
    }

    fn event(&mut self, side: usize, event: Arc<Event>, now: Instant, acts: &mut Vec<Act>) {
        let Some(entry) = self.channels.get_mut(&event.channel) else { return };
        if event.kind == Kind::CacheMiss {
            // The other one was told, or has had the last event.
            let has_last = entry.last.as_ref().is_some_and(|last| last.kind != Kind::CacheMiss);
            if !has_last && !entry.merge.has(1 - side.min(1)) {
                // For hubs that come later.
                entry.last = Some(event.clone());
                acts.push(entry.tell(event));
            }
            return;
        }
        if event.origin.is_some() {
            return self.own_client_event(side, &event, now, acts);
        }
        let digest = self.digests.of(&event);
        let mut outs = std::mem::take(&mut self.outs);
        let verdict = if event.is_replay {
            entry.merge.offer_last(side, digest, event, now, &mut outs)
        } else {
            entry.merge.offer(side, digest, event, now, &mut outs)
        };
        match verdict {
            Verdict::Copy => acts.push(Act::Count(Result::Copy)),
            Verdict::Held | Verdict::Early => acts.push(Act::Count(Result::Held)),
            Verdict::First | Verdict::Doubtful => {}
        }
        entry.hand_out(&mut outs, acts);
        self.outs = outs;
    }

    /// A client event was accepted: it goes to the clients of this bridge, and its copy over the other side does not.
    fn own_client_event(&mut self, side: usize, event: &Arc<Event>, now: Instant, acts: &mut Vec<Act>) {
        let of = |flight: &Flight| {
            flight.sides.is_none()
                && flight.excluded == Some(side)
                && flight.batch.iter().any(|sent| is_of(event, sent))
        };
        // The first of several that are equal.
        let id = self.flights.iter().filter(|(_, flight)| of(flight)).map(|(id, _)| *id).max();
        let Some(entry) = self.channels.get_mut(&event.channel) else { return };
        let mut outs = std::mem::take(&mut self.outs);
        if let Some(id) = id {
            self.flights.remove(&id);
            entry.merge.accepted(id, [event.clone()], now, &mut outs);
        } else {
            outs.push(Out { event: event.clone(), source: None, doubtful: false });
        }
        entry.hand_out(&mut outs, acts);
        self.outs = outs;
    }

    fn down(&mut self, side: usize, now: Instant, acts: &mut Vec<Act>) {
        if let Some(lost) = self.lost.get_mut(side) {
            *lost = Some(now);
        }
        let (mut hubs, mut outs) = (Hubs::default(), std::mem::take(&mut self.outs));
        let (mut gone, mut gaps) = (0, Vec::new());
        for (channel, entry) in &mut self.channels {
            hubs = hubs.with(entry.hubs);
            let had = entry.merge.has(side);
            let missed = entry.merge.lost(side, now, &mut outs);
            entry.hand_out(&mut outs, acts);
            if missed && entry.merge.is_live() {
                // The other one has it, and it is not certain since when.
                gaps.push((entry.hubs, channel.clone(), entry.last.clone()));
            }
            entry.missed |= missed && !entry.merge.is_live();
            gone += usize::from(had && !entry.merge.is_live() && !entry.hubs.is_empty());
        }
        self.outs = outs;
        if !gaps.is_empty() {
            acts.push(Act::Missing(gaps.len()));
        }
        for (hubs, channel, cached) in gaps {
            acts.push(Act::Tell(hubs, Delivery::Live { link: self.id, channel, gap: true, cached }));
        }
        if gone > 0 && self.channels.values().all(|entry| !entry.merge.is_live()) {
            acts.push(Act::Tell(hubs, Delivery::Down(self.id)));
        }
    }

    /// Whether the other side is certain of each channel that this one has: if that is left, nothing is missed and nothing
    /// comes twice. With `twice_at_most` something may come twice.
    #[must_use]
    pub fn may_leave(&self, side: usize, twice_at_most: bool) -> bool {
        let other = 1 - side.min(1);
        self.channels.values().map(|entry| &entry.merge).all(|merge| {
            !merge.has(side) || merge.is_certain(other) || (twice_at_most && merge.is_whole(other))
        })
    }

    /// From now on this side is not asked for new channels, so that the other becomes certain of all that it has; `None`: both
    /// are, and what one of them was not asked for it is.
    pub fn spare(&mut self, side: Option<usize>, acts: &mut Vec<Act>) {
        if self.spared == side {
            return;
        }
        let before = std::mem::replace(&mut self.spared, side);
        for channel in std::mem::take(&mut self.not_asked) {
            if let Some(before) = before.filter(|_| self.channels.contains_key(&channel)) {
                acts.push(Act::Link(before, Command::Subscribe(channel, HUB)));
            }
        }
    }

    // ---------------------------------------------------------------------------------------------- the timers

    /// How many channels are not certain at both sides.
    pub fn doubtful(&mut self) -> usize {
        let channels = &self.channels;
        // Events settle it, too.
        self.doubtful.retain(|channel| channels.get(channel).is_some_and(|entry| entry.merge.is_in_doubt()));
        self.doubtful.len()
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let merges = self.doubtful.iter().filter_map(|channel| self.channels.get(channel)?.merge.deadline());
        self.lingering.front().map(|(until, _)| *until).into_iter().chain(merges).min()
    }

    /// The time has come that [`Self::deadline`] said.
    pub fn timer(&mut self, now: Instant, acts: &mut Vec<Act>) {
        while let Some((until, channel)) = self.lingering.pop_front_if(|(until, _)| *until <= now) {
            if self.channels.get(&channel).is_some_and(|entry| entry.lingers_until == Some(until)) {
                self.channels.remove(&channel);
                for side in 0..SIDES {
                    acts.push(Act::Link(side, Command::Unsubscribe(channel.clone(), HUB)));
                }
            }
        }
        let (channels, mut outs) = (&mut self.channels, std::mem::take(&mut self.outs));
        self.doubtful.retain(|channel| {
            let Some(entry) = channels.get_mut(channel) else { return false };
            entry.merge.settle(now, &mut outs);
            entry.hand_out(&mut outs, acts);
            entry.merge.is_in_doubt()
        });
        self.outs = outs;
    }
}

impl Channel {
    /// Hands the events to the hubs.
    fn hand_out(&mut self, outs: &mut Outs, acts: &mut Vec<Act>) {
        acts.extend((0..self.merge.take_let_go()).map(|_| Act::Count(Result::LetGo)));
        for Out { event, source, doubtful } in outs.drain(..) {
            acts.push(match source {
                None => Act::Local,
                Some(_) if doubtful => Act::Count(Result::Doubtful),
                Some(HUB) => Act::Count(Result::First),
                Some(_) => Act::Count(Result::Second),
            });
            if event.says_last() {
                self.last = Some(event.clone());
            }
            acts.push(self.tell(event));
        }
    }

    fn tell(&self, event: Arc<Event>) -> Act {
        if self.hubs.is_empty() {
            return Act::Unwanted(event);
        }
        event.expect_hubs(self.hubs.len());
        Act::Tell(self.hubs, Delivery::Event(event))
    }
}

#[cfg(test)]
mod tests;
