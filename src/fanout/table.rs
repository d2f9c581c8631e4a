//! The table of one worker: link → channel → routes → subscribers, those of a filtered channel by the filter's value.
//! Pure: `R` is a route, `S` a subscriber. An event costs what its receivers cost, however many others there are: one
//! that comes over several links costs on each what is subscribed through it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::exchange::{Interest, LinkId};
use crate::upstream::refused::Refused;

/// A subscription's place in the table; needed to end it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket<R> {
    link: LinkId,
    channel: Arc<str>,
    route: R,
    interest: Interest,
    seq: u64,
}

impl<R> Ticket<R> {
    /// The link that it is subscribed through.
    #[must_use]
    pub const fn link(&self) -> LinkId {
        self.link
    }

    #[must_use]
    pub const fn channel(&self) -> &Arc<str> {
        &self.channel
    }

    /// Its number, unique in the table.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

/// What a new subscription met.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached<R> {
    pub ticket: Ticket<R>,
    /// Whether the channel is confirmed already; else its `Waiting` comes from [`Table::live`].
    pub live: bool,
    /// Whether it is the first of its channel through its link here.
    pub first: bool,
    /// Why the channel's subscription was refused, if it is not confirmed since.
    pub refused: Option<Refused>,
}

/// One link's channels.
type Channels<R, S, W> = HashMap<Arc<str>, Channel<R, S, W>>;

#[derive(Debug)]
pub struct Table<R, S, W> {
    /// Never with a link that has no channels here.
    links: HashMap<LinkId, Channels<R, S, W>>,
    next_seq: u64,
}

/// The subscribers of one channel through one link.
#[derive(Debug)]
pub struct Channel<R, S, W> {
    live: bool,
    groups: Vec<Group<R, S>>,
    /// Who waits for the channel to be confirmed, by the ticket's number.
    waiting: Vec<(u64, W)>,
    /// Why its subscription was refused, for those that come later.
    refused: Option<Refused>,
    subscriptions: usize,
}

/// The subscribers of one route.
#[derive(Debug)]
struct Group<R, S> {
    route: R,
    all: Members<S>,
    by_value: HashMap<Box<str>, Members<S>>,
    held: Members<S>,
}

/// Subscribers in the order they came. Ending a subscription leaves a hole; when holes are the half, they are
/// closed: so both ends cost little, and a fan-out walks a plain list.
#[derive(Debug)]
struct Members<S> {
    list: Vec<(u64, Option<S>)>,
    holes: usize,
}

impl<S> Default for Members<S> {
    fn default() -> Self {
        Self { list: Vec::new(), holes: 0 }
    }
}

impl<S> Members<S> {
    /// In the order of the numbers. A new one is the largest; one that comes from another group may be any.
    fn insert(&mut self, seq: u64, subscriber: S) {
        if self.list.last().is_none_or(|(last, _)| *last < seq) {
            return self.list.push((seq, Some(subscriber)));
        }
        match self.list.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Err(at) => self.list.insert(at, (seq, Some(subscriber))),
            // It was here before, and has left a hole.
            Ok(at) => {
                if let Some((_, place)) = self.list.get_mut(at)
                    && place.replace(subscriber).is_none()
                {
                    self.holes -= 1;
                }
            }
        }
    }

    fn remove(&mut self, seq: u64) -> Option<S> {
        let at = self.list.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        let removed = self.list.get_mut(at)?.1.take()?;
        self.holes += 1;
        if self.holes * 2 > self.list.len() {
            self.list.retain(|(_, subscriber)| subscriber.is_some());
            self.list.shrink_to(self.list.len() * 2);
            self.holes = 0;
        }
        Some(removed)
    }

    fn is_empty(&self) -> bool {
        self.list.len() == self.holes
    }

    fn numbered(&self) -> impl Iterator<Item = (u64, &S)> {
        self.list.iter().filter_map(|(seq, subscriber)| Some((*seq, subscriber.as_ref()?)))
    }
}

impl<R, S, W> Default for Table<R, S, W> {
    fn default() -> Self {
        Self { links: HashMap::new(), next_seq: 0 }
    }
}

impl<R: Clone + PartialEq, S, W> Table<R, S, W> {
    /// Subscribes to the link's channel. `waiting` is given back by [`Self::live`] when that is not confirmed yet.
    pub fn attach(
        &mut self,
        link: LinkId,
        channel: &str,
        route: R,
        interest: Interest,
        subscriber: S,
        waiting: W,
    ) -> (Attached<R>, Option<W>) {
        let channels = self.links.entry(link).or_default();
        let name = match channels.get_key_value(channel) {
            Some((name, _)) => name.clone(),
            None => Arc::from(channel),
        };
        let entry = channels.entry(name.clone()).or_insert_with(|| Channel {
            live: false,
            groups: Vec::new(),
            waiting: Vec::new(),
            refused: None,
            subscriptions: 0,
        });
        let seq = self.next_seq;
        self.next_seq += 1;
        entry.insert(&route, &interest, seq, subscriber);
        entry.subscriptions += 1;
        let waiting = if entry.live {
            Some(waiting)
        } else {
            entry.waiting.push((seq, waiting));
            None
        };
        let attached = Attached {
            ticket: Ticket { link, channel: name, route, interest, seq },
            live: entry.live,
            first: entry.subscriptions == 1,
            refused: entry.refused,
        };
        (attached, waiting)
    }

    /// Ends a subscription; `true` when it was the last of its channel through its link here.
    pub fn detach(&mut self, ticket: &Ticket<R>) -> bool {
        let Some(channels) = self.links.get_mut(&ticket.link) else { return false };
        let Some(entry) = channels.get_mut(&ticket.channel) else { return false };
        if !entry.remove(ticket) {
            return false;
        }
        let last = entry.subscriptions == 0;
        if last {
            channels.remove(&ticket.channel);
            if channels.is_empty() {
                self.links.remove(&ticket.link);
            }
        }
        last
    }

    /// The subscription is one of `route` from now on, and keeps its number: the channel's other subscribers notice
    /// nothing. If it waits for the channel, `waiting` is told. `false`: there is no such subscription.
    pub fn move_to(&mut self, ticket: &mut Ticket<R>, route: R, waiting: impl FnOnce(&mut W)) -> bool {
        let channels = self.links.get_mut(&ticket.link);
        let Some(entry) = channels.and_then(|channels| channels.get_mut(&ticket.channel)) else {
            return false;
        };
        let Some(subscriber) = entry.take(ticket) else { return false };
        ticket.route = route;
        entry.insert(&ticket.route, &ticket.interest, ticket.seq, subscriber);
        if let Ok(at) = entry.waiting.binary_search_by_key(&ticket.seq, |(seq, _)| *seq)
            && let Some((_, told)) = entry.waiting.get_mut(at)
        {
            waiting(told);
        }
        true
    }

    /// The link's channel is confirmed: gives back who waited for it.
    pub fn live(&mut self, link: LinkId, channel: &str) -> Vec<W> {
        let entry = self.links.get_mut(&link).and_then(|channels| channels.get_mut(channel));
        let Some(entry) = entry else { return Vec::new() };
        entry.live = true;
        entry.refused = None;
        std::mem::take(&mut entry.waiting).into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// These of those who wait for the channel are confirmed, and nobody else; gives them back, in the order they came.
    pub fn confirm(&mut self, link: LinkId, channel: &str, mut these: impl FnMut(&W) -> bool) -> Vec<W> {
        let entry = self.links.get_mut(&link).and_then(|channels| channels.get_mut(channel));
        let Some(entry) = entry else { return Vec::new() };
        entry.waiting.extract_if(.., |(_, waiting)| these(waiting)).map(|(_, waiting)| waiting).collect()
    }

    /// The link is lost, and with it all its channels.
    pub fn down(&mut self, link: LinkId) {
        for entry in self.links.get_mut(&link).into_iter().flat_map(HashMap::values_mut) {
            entry.live = false;
            entry.refused = None;
        }
    }

    /// The link's channel is refused: who comes later learns it.
    pub fn refuse(&mut self, link: LinkId, channel: &str, why: Refused) {
        if let Some(entry) = self.links.get_mut(&link).and_then(|channels| channels.get_mut(channel)) {
            entry.refused = Some(why);
        }
    }

    /// The subscribers of the link's channel, if there are any.
    #[must_use]
    pub fn channel(&self, link: LinkId, channel: &str) -> Option<&Channel<R, S, W>> {
        self.links.get(&link)?.get(channel)
    }

    /// How many subscriptions each of the link's channels has.
    #[must_use]
    pub fn subscribers(&self, link: LinkId) -> Vec<(Arc<str>, usize)> {
        let channels = self.links.get(&link).into_iter().flatten();
        channels.map(|(name, channel)| (name.clone(), channel.subscriptions)).collect()
    }

    /// The link's channels that have subscribers.
    pub fn channels(&self, link: LinkId) -> impl Iterator<Item = &Arc<str>> {
        self.links.get(&link).into_iter().flat_map(HashMap::keys)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

/// The subscribers of one channel that are one route's.
#[derive(Debug)]
pub struct Audience<'a, R, S, W> {
    channel: &'a Channel<R, S, W>,
    group: &'a Group<R, S>,
}

impl<'a, R, S, W> Audience<'a, R, S, W> {
    #[must_use]
    pub const fn route(&self) -> &'a R {
        &self.group.route
    }

    /// Those that want every event, and those that want the ones with this value; only those whose subscription has
    /// been confirmed.
    pub fn receivers(&self, value: Option<&str>) -> impl Iterator<Item = &'a S> + use<'a, R, S, W> {
        let Self { channel, group } = *self;
        let by_value = value.and_then(|value| group.by_value.get(value));
        let members = group.all.numbered().chain(by_value.into_iter().flat_map(Members::numbered));
        members.filter_map(|(seq, subscriber)| channel.is_confirmed(seq).then_some(subscriber))
    }
}

impl<'a, R, S, W> Audience<'a, R, S, W> {
    /// All whose subscription has been confirmed, whatever they want.
    pub fn confirmed(&self) -> impl Iterator<Item = &'a S> + use<'a, R, S, W> {
        let Self { channel, group } = *self;
        let by_value = group.by_value.values().flat_map(Members::numbered);
        let members = group.all.numbered().chain(group.held.numbered()).chain(by_value);
        members.filter_map(|(seq, subscriber)| channel.is_confirmed(seq).then_some(subscriber))
    }
}

impl<R, S, W> Channel<R, S, W> {
    /// The subscribers, by route.
    pub fn audiences(&self) -> impl Iterator<Item = Audience<'_, R, S, W>> {
        self.groups.iter().map(|group| Audience { channel: self, group })
    }

    /// Whose subscription has been confirmed, for notices: who still waits for the channel has missed nothing.
    pub fn confirmed(&self) -> impl Iterator<Item = &S> {
        self.audiences().flat_map(|audience| audience.confirmed())
    }

    /// Who waits for it to be confirmed.
    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.waiting.iter().map(|(_, waiting)| waiting)
    }

    /// Whether this subscription does not wait for the channel any more.
    fn is_confirmed(&self, seq: u64) -> bool {
        // `waiting` is in the order of its numbers.
        self.waiting.is_empty() || self.waiting.binary_search_by_key(&seq, |(seq, _)| *seq).is_err()
    }
}

impl<R: Clone + PartialEq, S, W> Channel<R, S, W> {
    /// The subscriber, taken from its group; `None`: it is not there any more.
    fn take(&mut self, ticket: &Ticket<R>) -> Option<S> {
        let at = self.groups.iter().position(|group| group.route == ticket.route)?;
        let group = self.groups.get_mut(at)?;
        let taken = group.members(&ticket.interest).remove(ticket.seq);
        group.forget_empty(&ticket.interest);
        if taken.is_some() && group.is_empty() {
            self.groups.swap_remove(at);
        }
        taken
    }

    /// `false`: it is not there any more.
    fn remove(&mut self, ticket: &Ticket<R>) -> bool {
        if self.take(ticket).is_none() {
            return false;
        }
        self.waiting.retain(|(seq, _)| *seq != ticket.seq);
        self.subscriptions -= 1;
        true
    }

    fn insert(&mut self, route: &R, interest: &Interest, seq: u64, subscriber: S) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.route == *route) {
            return group.members(interest).insert(seq, subscriber);
        }
        let (all, by_value, held) = Default::default();
        let mut group = Group { route: route.clone(), all, by_value, held };
        group.members(interest).insert(seq, subscriber);
        self.groups.push(group);
    }
}

impl<R, S> Group<R, S> {
    fn members(&mut self, interest: &Interest) -> &mut Members<S> {
        match interest {
            Interest::All => &mut self.all,
            Interest::Hold => &mut self.held,
            Interest::Value(value) => self.by_value.entry(value.as_str().into()).or_default(),
        }
    }

    fn forget_empty(&mut self, interest: &Interest) {
        if let Interest::Value(value) = interest
            && self.by_value.get(value.as_str()).is_some_and(Members::is_empty)
        {
            self.by_value.remove(value.as_str());
        }
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.held.is_empty() && self.by_value.is_empty()
    }
}

#[cfg(test)]
mod tests;
