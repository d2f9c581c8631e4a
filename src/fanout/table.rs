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
    /// `seq` is larger than every earlier one.
    fn insert(&mut self, seq: u64, subscriber: S) {
        self.list.push((seq, Some(subscriber)));
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
    /// `false`: it is not there any more.
    fn remove(&mut self, ticket: &Ticket<R>) -> bool {
        let Some(at) = self.groups.iter().position(|group| group.route == ticket.route) else {
            return false;
        };
        let Some(group) = self.groups.get_mut(at) else { return false };
        let removed = group.members(&ticket.interest).remove(ticket.seq);
        group.forget_empty(&ticket.interest);
        if removed.is_none() {
            return false;
        }
        if group.is_empty() {
            self.groups.swap_remove(at);
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Plain = Table<usize, u32, u32>;

    const A: LinkId = LinkId(0);
    const B: LinkId = LinkId(1);

    fn value(v: &str) -> Interest {
        Interest::Value(v.to_owned())
    }

    fn receivers(table: &Plain, channel: &str, route: usize, value: Option<&str>) -> Vec<u32> {
        of_route(table.channel(A, channel), route, value)
    }

    fn of_route(channel: Option<&Channel<usize, u32, u32>>, route: usize, value: Option<&str>) -> Vec<u32> {
        let audiences = channel.into_iter().flat_map(Channel::audiences);
        let of_route = audiences.filter(|audience| *audience.route() == route);
        of_route.flat_map(|audience| audience.receivers(value)).copied().collect()
    }

    #[test]
    fn first_and_last_are_told() {
        let mut table = Plain::default();
        let (a, waits) = table.attach(A, "c", 0, Interest::All, 1, 1);
        assert!(a.first && !a.live && waits.is_none());
        let (b, _) = table.attach(A, "c", 1, Interest::Hold, 2, 2);
        assert!(!b.first);
        assert_eq!(table.live(A, "c"), [1, 2]);
        let (c, waits) = table.attach(A, "c", 0, Interest::All, 3, 3);
        assert!(c.live);
        assert_eq!(waits, Some(3));
        assert!(!table.detach(&a.ticket));
        assert!(!table.detach(&a.ticket), "twice does nothing");
        let (d, _) = table.attach(A, "c", 1, value("x"), 4, 4);
        assert!(!table.detach(&d.ticket) && !table.detach(&d.ticket));
        assert!(!table.detach(&b.ticket));
        assert_eq!(
            table.channel(A, "c").unwrap().audiences().map(|a| *a.route()).collect::<Vec<_>>(),
            [0],
            "nothing is left of route 1"
        );
        assert!(table.detach(&c.ticket));
        assert!(table.is_empty());
    }

    #[test]
    fn only_who_is_confirmed_receives() {
        let mut table = Plain::default();
        table.attach(A, "c", 3, Interest::All, 1, 1);
        table.attach(A, "c", 3, value("x"), 2, 2);
        assert_eq!(receivers(&table, "c", 3, Some("x")), [0_u32; 0]);
        table.live(A, "c");
        assert_eq!(receivers(&table, "c", 3, Some("x")), [1, 2]);
        table.down(A);
        table.attach(A, "c", 3, Interest::All, 3, 3);
        assert_eq!(receivers(&table, "c", 3, Some("x")), [1, 2], "what this bridge publishes itself goes on");
    }

    #[test]
    fn filters_separate_neighbours() {
        let mut table = Plain::default();
        table.attach(A, "agents", 0, value("a"), 1, 0);
        table.attach(A, "agents", 0, value("b"), 2, 0);
        table.attach(A, "agents", 0, Interest::Hold, 3, 0);
        table.attach(A, "agents", 1, Interest::All, 4, 0);
        table.live(A, "agents");
        assert_eq!(receivers(&table, "agents", 0, Some("a")), [1]);
        assert_eq!(receivers(&table, "agents", 0, Some("b")), [2]);
        assert_eq!(receivers(&table, "agents", 0, Some("c")), [0_u32; 0]);
        assert_eq!(receivers(&table, "agents", 0, None), [0_u32; 0]);
        assert_eq!(receivers(&table, "agents", 1, Some("a")), [4]);
    }

    #[test]
    fn who_left_while_waiting_is_not_told() {
        let mut table = Plain::default();
        let (a, _) = table.attach(A, "c", 0, Interest::All, 1, 1);
        table.attach(A, "c", 0, Interest::All, 2, 2);
        table.detach(&a.ticket);
        assert_eq!(table.live(A, "c"), [2]);
        table.down(A);
        let (c, _) = table.attach(A, "c", 0, Interest::All, 3, 3);
        assert!(!c.live);
        assert_eq!(table.channel(A, "c").unwrap().confirmed().collect::<Vec<_>>(), [&2]);
        assert_eq!(table.live(A, "c"), [3], "who was confirmed before is not confirmed again");
    }

    #[test]
    fn some_of_those_who_wait_are_confirmed_by_themselves() {
        let mut table = Plain::default();
        for subscriber in 1..=4 {
            table.attach(A, "c", 0, Interest::All, subscriber, subscriber);
        }
        assert_eq!(table.confirm(A, "c", |waiting| waiting % 2 == 0), [2, 4]);
        assert_eq!(receivers(&table, "c", 0, None), [2, 4]);
        let (later, waits) = table.attach(A, "c", 0, Interest::All, 5, 5);
        assert!(!later.live && waits.is_none(), "the channel is not confirmed to whoever comes");
        assert_eq!(table.confirm(A, "c", |_| true), [1, 3, 5]);
        assert_eq!(table.confirm(A, "c", |_| true), [0_u32; 0]);
        assert_eq!(table.confirm(B, "c", |_| true), [0_u32; 0]);
    }

    #[test]
    fn each_link_has_its_own_subscribers_of_the_same_channel() {
        const LINKS: u64 = 100;
        let mut table = Plain::default();
        let tickets: Vec<Ticket<usize>> = (0..LINKS)
            .map(|n| {
                let (attached, _) = table.attach(LinkId(n), "c", 0, Interest::All, n as u32, 0);
                assert!(attached.first && attached.ticket.link() == LinkId(n));
                attached.ticket
            })
            .collect();
        for n in 0..LINKS {
            assert_eq!(table.live(LinkId(n), "c"), [0]);
        }
        table.down(LinkId(7));
        for n in 0..LINKS {
            assert_eq!(of_route(table.channel(LinkId(n), "c"), 0, None), [n as u32]);
            assert_eq!(table.attach(LinkId(n), "c", 0, Interest::Hold, 0, 0).0.live, n != 7);
        }
        assert_eq!(tickets.iter().filter(|ticket| table.detach(ticket)).count(), 0);
        assert_eq!(table.links.len(), LINKS as usize);
    }

    /// Two channels of one link, and one of the other with the same name.
    const PLACES: [(LinkId, &str); 3] = [(A, "c"), (A, "d"), (B, "c")];

    proptest! {
        /// Against a plain list of subscriptions, with whether each is confirmed.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((0_u8..6, 0_u8..3, 0_u8..2, 0_u8..4, any::<u8>()), 0..120)) {
            let mut table = Plain::default();
            let mut model: Vec<(Ticket<usize>, u32, bool)> = Vec::new();
            let mut live = [false; 3];
            for (i, (action, place, route, interest, pick)) in steps.into_iter().enumerate() {
                let place = usize::from(place);
                let (link, name) = PLACES[place];
                let is_here = |t: &Ticket<usize>| (t.link, &*t.channel) == (link, name);
                match action {
                    0 if !model.is_empty() => {
                        let (ticket, ..) = model.remove(usize::from(pick) % model.len());
                        let last = table.detach(&ticket);
                        let same = |t: &Ticket<usize>| (t.link, &t.channel) == (ticket.link, &ticket.channel);
                        prop_assert_eq!(last, !model.iter().any(|(t, ..)| same(t)));
                        if last {
                            let at = PLACES.iter().position(|p| *p == (ticket.link, &*ticket.channel));
                            live[at.unwrap()] = false;
                        }
                    }
                    4 => {
                        let told = table.live(link, name).len();
                        let (mut waited, mut any) = (0, false);
                        for (_, _, confirmed) in model.iter_mut().filter(|(t, ..)| is_here(t)) {
                            any = true;
                            waited += usize::from(!std::mem::replace(confirmed, true));
                        }
                        prop_assert_eq!(told, waited);
                        live[place] = any;
                    }
                    5 => {
                        table.down(link);
                        for (at, _) in PLACES.iter().enumerate().filter(|(_, (l, _))| *l == link) {
                            live[at] = false;
                        }
                    }
                    _ => {
                        let interest = match interest {
                            0 => Interest::All,
                            1 => Interest::Hold,
                            v => value(&v.to_string()),
                        };
                        let (attached, _) = table.attach(link, name, route.into(), interest, i as u32, 0);
                        prop_assert_eq!(attached.first, !model.iter().any(|(t, ..)| is_here(t)));
                        prop_assert_eq!(attached.live, live[place]);
                        model.push((attached.ticket, i as u32, attached.live));
                    }
                }
                for (link, name) in PLACES {
                    let channel = table.channel(link, name);
                    let mut channels: Vec<&str> = table.channels(link).map(|c| &**c).collect();
                    channels.sort_unstable();
                    channels.dedup();
                    prop_assert_eq!(channel.is_some(), channels.contains(&name));
                    prop_assert_eq!(channel.is_some(), model.iter().any(|(t, ..)| (t.link, &*t.channel) == (link, name)));
                    for route in 0..2 {
                        for wanted in [None, Some("2"), Some("3")] {
                            let mut got = of_route(channel, route, wanted);
                            let mut expected: Vec<u32> = model.iter()
                                .filter(|(t, _, confirmed)| *confirmed && (t.link, &*t.channel) == (link, name) && t.route == route && match &t.interest {
                                    Interest::All => true,
                                    Interest::Hold => false,
                                    Interest::Value(v) => Some(v.as_str()) == wanted,
                                })
                                .map(|(_, s, _)| *s).collect();
                            got.sort_unstable();
                            expected.sort_unstable();
                            prop_assert_eq!(got, expected);
                        }
                    }
                }
            }
        }
    }
}
