//! Pure: what waits in a lane, and whose turn it is. A channel's messages keep their order: at any time one request
//! has some of them, and they are its first. Channels do not wait for each other's retries, and users with messages
//! for different channels have turns.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// After so many failures in a row a channel's messages are sent by themselves, lest one of them that is never taken
/// keeps others from being.
const ALONE_FROM: u32 = 2;

/// An empty lane keeps room for so many channels.
const CHANNELS_KEPT: usize = 64;

/// A message, and what the lane needs to know of it.
#[derive(Debug)]
pub struct Item<J> {
    /// Whose order it keeps.
    pub channel: Arc<str>,
    /// Whose turn it takes.
    pub user: u64,
    /// When it is given up.
    pub deadline: Instant,
    pub bytes: usize,
    pub job: J,
}

/// How a request with some of a channel's messages ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer.
    Well,
    /// Without one that settles it; the channel's next request is made at this time.
    Badly(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the turn of its first message's user.
    InTurn,
    /// Waits for this time, or for a deadline that comes earlier.
    Parked(Instant),
    /// Its time has come to be tried again.
    Again,
    /// A request has its first messages.
    UnderWay,
}

struct Channel<J> {
    items: VecDeque<Item<J>>,
    place: Place,
    /// Changes with every change of place: whatever names an earlier one is out of date.
    ticket: u64,
    /// Requests in a row that ended badly.
    failures: u32,
}

/// Most of what one request takes.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub items: usize,
    /// Bytes, which the last message may exceed.
    pub bytes: usize,
}

/// A lane's messages, but for those that a request has.
pub struct Lane<J> {
    channels: HashMap<Arc<str>, Channel<J>>,
    /// Channels in turn, by their first message's user. Each user here is in `turns`, once.
    users: HashMap<u64, VecDeque<(Arc<str>, u64)>>,
    turns: VecDeque<u64>,
    parked: BTreeSet<(Instant, u64, Arc<str>)>,
    again: VecDeque<(Arc<str>, u64)>,
    late: Vec<Item<J>>,
    last_ticket: u64,
}

impl<J> Default for Lane<J> {
    fn default() -> Self {
        Self {
            channels: HashMap::new(),
            users: HashMap::new(),
            turns: VecDeque::new(),
            parked: BTreeSet::new(),
            again: VecDeque::new(),
            late: Vec::new(),
            last_ticket: 0,
        }
    }
}

impl<J> Lane<J> {
    /// Whether nothing waits and no request is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.late.is_empty()
    }

    /// Failures in a row of a channel that is under way or waits.
    #[must_use]
    pub fn failures(&self, channel: &str) -> u32 {
        self.channels.get(channel).map_or(0, |channel| channel.failures)
    }

    pub fn push(&mut self, item: Item<J>) {
        let name = item.channel.clone();
        if let Some(channel) = self.channels.get_mut(&name) {
            channel.items.push_back(item);
            return;
        }
        let items = VecDeque::from([item]);
        self.channels.insert(name.clone(), Channel { items, place: Place::UnderWay, ticket: 0, failures: 0 });
        self.put(&name, Place::InTurn);
    }

    /// Whether the lane has messages of this channel, or a request has its last ones.
    #[must_use]
    pub fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    /// A message that was thought to be settled is its channel's first again, not before this time.
    pub fn push_first(&mut self, item: Item<J>, until: Instant) {
        let name = item.channel.clone();
        if let Some(channel) = self.channels.get_mut(&name) {
            channel.items.push_front(item);
            if channel.place == Place::UnderWay {
                return;
            }
        } else {
            let items = VecDeque::from([item]);
            let channel = Channel { items, place: Place::UnderWay, ticket: 0, failures: 0 };
            self.channels.insert(name.clone(), channel);
        }
        self.put(&name, Place::Parked(until));
    }

    /// What the channel waited for has come.
    pub fn release(&mut self, name: &str) {
        let Some((name, channel)) = self.channels.get_key_value(name) else { return };
        if matches!(channel.place, Place::Parked(_)) {
            let name = name.clone();
            self.put(&name, Place::Again);
        }
    }

    /// `false`: no request can be made now.
    #[must_use]
    pub fn may_be_ready(&self) -> bool {
        !self.turns.is_empty() || !self.again.is_empty()
    }

    /// The next request's messages, one of each user in turn, of channels that are well.
    pub fn take(&mut self, most: Most, now: Instant) -> Vec<Item<J>> {
        let mut taken: Vec<Item<J>> = Vec::new();
        let mut bytes = 0;
        while taken.len() < most.items && bytes < most.bytes.max(1) {
            let Some(name) = self.next_in_turn() else { break };
            let Some(item) = self.channels.get_mut(&name).and_then(|channel| channel.items.pop_front())
            else {
                continue;
            };
            if item.deadline <= now {
                self.late.push(item);
            } else {
                bytes += item.bytes;
                taken.push(item);
            }
            // Its next message is in the turn of whoever sent that one.
            self.put(&name, Place::InTurn);
        }
        self.under_way(&taken);
        taken
    }

    /// The messages of a request that tries again, of channels whose last one ended badly.
    pub fn take_again(&mut self, most: Most, now: Instant) -> Vec<Item<J>> {
        let mut taken: Vec<Item<J>> = Vec::new();
        let mut bytes = 0;
        let mut others = VecDeque::new();
        while let Some((name, ticket)) = self.again.pop_front() {
            let Some(channel) = self.channels.get_mut(&name).filter(|channel| channel.ticket == ticket)
            else {
                continue;
            };
            let alone = channel.failures >= ALONE_FROM;
            if alone && !taken.is_empty() {
                others.push_back((name, ticket));
                continue;
            }
            while taken.len() < most.items && bytes < most.bytes.max(1) {
                let Some(item) = channel.items.pop_front() else { break };
                if item.deadline <= now {
                    self.late.push(item);
                } else {
                    bytes += item.bytes;
                    taken.push(item);
                }
            }
            if taken.last().is_none_or(|item| item.channel != name) {
                // All of it was late.
                self.put(&name, Place::Again);
                continue;
            }
            if alone || taken.len() >= most.items || bytes >= most.bytes {
                break;
            }
        }
        others.append(&mut self.again);
        self.again = others;
        self.under_way(&taken);
        taken
    }

    /// A request ended: what it gives back is the channel's first again.
    pub fn ended(&mut self, name: &Arc<str>, back: Vec<Item<J>>, how: Ended) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        back.into_iter().rev().for_each(|item| channel.items.push_front(item));
        match how {
            Ended::Well => {
                channel.failures = 0;
                self.put(name, Place::InTurn);
            }
            Ended::Badly(until) => {
                channel.failures = channel.failures.saturating_add(1);
                self.put(name, Place::Parked(until));
            }
        }
    }

    /// Looks at what is parked: a deadline, or the time to try again, may have come.
    pub fn wake(&mut self, now: Instant) {
        while let Some((at, ticket, name)) = self.parked.pop_first() {
            if at > now {
                self.parked.insert((at, ticket, name));
                return;
            }
            let Some(channel) = self.channels.get_mut(&name).filter(|channel| channel.ticket == ticket)
            else {
                continue;
            };
            while channel.items.front().is_some_and(|item| item.deadline <= now) {
                self.late.extend(channel.items.pop_front());
            }
            match channel.place {
                Place::Parked(until) if until > now => self.put(&name, Place::Parked(until)),
                _ => self.put(&name, Place::Again),
            }
        }
    }

    /// When [`Self::wake`] is due.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.parked.first().map(|(at, ..)| *at)
    }

    /// The messages whose deadline has passed, as far as it was noticed.
    pub fn take_late(&mut self) -> Vec<Item<J>> {
        std::mem::take(&mut self.late)
    }

    fn next_in_turn(&mut self) -> Option<Arc<str>> {
        while let Some(user) = self.turns.pop_front() {
            let Some(list) = self.users.get_mut(&user) else { continue };
            let channels = &self.channels;
            let mut next = None;
            while let Some((name, ticket)) = list.pop_front() {
                if channels.get(&name).is_some_and(|channel| channel.ticket == ticket) {
                    next = Some(name);
                    break;
                }
            }
            if list.is_empty() {
                self.users.remove(&user);
            } else {
                self.turns.push_back(user);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Puts a channel where it waits next; one without messages is forgotten.
    fn put(&mut self, name: &Arc<str>, place: Place) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let Some(first) = channel.items.front() else {
            self.channels.remove(name);
            if self.channels.is_empty() {
                self.give_memory_back();
            }
            return;
        };
        self.last_ticket += 1;
        (channel.place, channel.ticket) = (place, self.last_ticket);
        let entry = (name.clone(), channel.ticket);
        match place {
            Place::InTurn => {
                let list = self.users.entry(first.user).or_default();
                if list.is_empty() {
                    self.turns.push_back(first.user);
                }
                list.push_back(entry);
            }
            Place::Parked(until) => {
                self.parked.insert((until.min(first.deadline), channel.ticket, name.clone()));
            }
            Place::Again => self.again.push_back(entry),
            Place::UnderWay => {}
        }
    }

    /// Marks the channels of a request's messages, also those that have no more.
    fn under_way(&mut self, taken: &[Item<J>]) {
        for item in taken {
            self.last_ticket += 1;
            let ticket = self.last_ticket;
            let channel = self.channels.entry(item.channel.clone()).or_insert_with(|| Channel {
                items: VecDeque::new(),
                place: Place::UnderWay,
                ticket,
                failures: 0,
            });
            (channel.place, channel.ticket) = (Place::UnderWay, ticket);
        }
    }

    /// After a flood. A few messages leave what they need for the next ones.
    fn give_memory_back(&mut self) {
        self.channels.shrink_to(CHANNELS_KEPT);
        self.users.shrink_to(CHANNELS_KEPT);
        self.turns.shrink_to(CHANNELS_KEPT);
        self.again.shrink_to(CHANNELS_KEPT);
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
