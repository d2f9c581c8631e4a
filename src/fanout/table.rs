//! The table of one worker: channel → routes → subscribers, those of a filtered channel by the filter's value.
//! Pure: `S` is a subscriber. An event costs what its receivers cost, however many others there are.

use std::collections::HashMap;
use std::sync::Arc;

use crate::exchange::Interest;

/// A subscription's place in the table; needed to end it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    channel: Arc<str>,
    route: usize,
    interest: Interest,
    seq: u64,
}

impl Ticket {
    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Arc<str> {
        &self.channel
    }
}

/// What a new subscription met.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its ticket.
    pub ticket: Ticket,
    /// Whether the channel stands upstream already; else its `Waiting` comes from [`Table::live`].
    pub live: bool,
    /// Whether it is the first of its channel here.
    pub first: bool,
}

/// The table.
#[derive(Debug)]
pub struct Table<S, W> {
    channels: HashMap<Arc<str>, Channel<S, W>>,
    next_seq: u64,
}

#[derive(Debug)]
struct Channel<S, W> {
    live: bool,
    groups: Vec<Group<S>>,
    /// Who waits for the channel to stand, by the ticket's number.
    waiting: Vec<(u64, W)>,
    subscriptions: usize,
}

/// The subscribers of one route.
#[derive(Debug)]
struct Group<S> {
    route: usize,
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

impl<S, W> Default for Table<S, W> {
    fn default() -> Self {
        Self { channels: HashMap::new(), next_seq: 0 }
    }
}

impl<S, W> Table<S, W> {
    /// Subscribes. `waiting` is given back by [`Self::live`] when the channel does not stand yet.
    pub fn attach(
        &mut self,
        channel: &str,
        route: usize,
        interest: Interest,
        subscriber: S,
        waiting: W,
    ) -> (Attached, Option<W>) {
        let name = match self.channels.get_key_value(channel) {
            Some((name, _)) => name.clone(),
            None => Arc::from(channel),
        };
        let entry = self.channels.entry(name.clone()).or_insert_with(|| Channel {
            live: false,
            groups: Vec::new(),
            waiting: Vec::new(),
            subscriptions: 0,
        });
        let seq = self.next_seq;
        self.next_seq += 1;
        entry.insert(route, &interest, seq, subscriber);
        entry.subscriptions += 1;
        let waiting = if entry.live {
            Some(waiting)
        } else {
            entry.waiting.push((seq, waiting));
            None
        };
        let attached = Attached {
            ticket: Ticket { channel: name, route, interest, seq },
            live: entry.live,
            first: entry.subscriptions == 1,
        };
        (attached, waiting)
    }

    /// Ends a subscription; `true` when it was the last of its channel here.
    pub fn detach(&mut self, ticket: &Ticket) -> bool {
        let Some(entry) = self.channels.get_mut(&ticket.channel) else { return false };
        let Some(at) = entry.groups.iter().position(|group| group.route == ticket.route) else {
            return false;
        };
        let Some(group) = entry.groups.get_mut(at) else { return false };
        let removed = group.members(&ticket.interest).remove(ticket.seq);
        group.forget_empty(&ticket.interest);
        if removed.is_none() {
            return false;
        }
        if group.is_empty() {
            entry.groups.swap_remove(at);
        }
        entry.waiting.retain(|(seq, _)| *seq != ticket.seq);
        entry.subscriptions -= 1;
        let last = entry.subscriptions == 0;
        if last {
            self.channels.remove(&ticket.channel);
        }
        last
    }

    /// The channel stands upstream: gives back who waited for it.
    pub fn live(&mut self, channel: &str) -> Vec<W> {
        let Some(entry) = self.channels.get_mut(channel) else { return Vec::new() };
        entry.live = true;
        std::mem::take(&mut entry.waiting).into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// No channel for which `affected` holds stands upstream any more.
    pub fn down(&mut self, affected: impl Fn(&str) -> bool) {
        for (name, entry) in &mut self.channels {
            if affected(name) {
                entry.live = false;
            }
        }
    }

    /// The routes that have subscribers on `channel`.
    pub fn routes(&self, channel: &str) -> impl Iterator<Item = usize> {
        let entry = self.channels.get(channel);
        entry.into_iter().flat_map(|entry| entry.groups.iter().map(|group| group.route))
    }

    /// Subscribers of the route that want every event, and those that want the ones with this value; only those
    /// whose subscription has been confirmed.
    pub fn receivers(&self, channel: &str, route: usize, value: Option<&str>) -> impl Iterator<Item = &S> {
        let found = self.channels.get(channel).and_then(|entry| {
            let group = entry.groups.iter().find(|group| group.route == route)?;
            Some((entry, group))
        });
        found.into_iter().flat_map(move |(entry, group)| {
            let by_value = value.and_then(|value| group.by_value.get(value));
            let members = group.all.numbered().chain(by_value.into_iter().flat_map(Members::numbered));
            members.filter_map(|(seq, subscriber)| entry.is_confirmed(seq).then_some(subscriber))
        })
    }

    /// Whose subscription has been confirmed, for notices: who still waits for the channel has missed nothing.
    pub fn confirmed(&self, channel: &str) -> impl Iterator<Item = &S> {
        self.channels.get(channel).into_iter().flat_map(|entry| {
            let members = entry.groups.iter().flat_map(|group| {
                group
                    .all
                    .numbered()
                    .chain(group.held.numbered())
                    .chain(group.by_value.values().flat_map(Members::numbered))
            });
            members.filter_map(|(seq, subscriber)| entry.is_confirmed(seq).then_some(subscriber))
        })
    }

    /// Whether `channel` has subscribers.
    #[must_use]
    pub fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    /// Channels with subscribers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether nobody is subscribed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }
}

impl<S, W> Channel<S, W> {
    /// Whether this subscription does not wait for the channel any more.
    fn is_confirmed(&self, seq: u64) -> bool {
        // `waiting` is in the order of its numbers.
        self.waiting.is_empty() || self.waiting.binary_search_by_key(&seq, |(seq, _)| *seq).is_err()
    }

    fn insert(&mut self, route: usize, interest: &Interest, seq: u64, subscriber: S) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.route == route) {
            return group.members(interest).insert(seq, subscriber);
        }
        let mut group =
            Group { route, all: Members::default(), by_value: HashMap::new(), held: Members::default() };
        group.members(interest).insert(seq, subscriber);
        self.groups.push(group);
    }
}

impl<S> Group<S> {
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

    type Plain = Table<u32, u32>;

    fn value(v: &str) -> Interest {
        Interest::Value(v.to_owned())
    }

    fn receivers(table: &Plain, channel: &str, route: usize, value: Option<&str>) -> Vec<u32> {
        table.receivers(channel, route, value).copied().collect()
    }

    #[test]
    fn first_and_last_are_told() {
        let mut table = Plain::default();
        let (a, waits) = table.attach("c", 0, Interest::All, 1, 1);
        assert!(a.first && !a.live && waits.is_none());
        let (b, _) = table.attach("c", 1, Interest::Hold, 2, 2);
        assert!(!b.first);
        assert_eq!(table.live("c"), [1, 2]);
        let (c, waits) = table.attach("c", 0, Interest::All, 3, 3);
        assert!(c.live);
        assert_eq!(waits, Some(3));
        assert!(!table.detach(&a.ticket));
        assert!(!table.detach(&a.ticket), "twice does nothing");
        let (d, _) = table.attach("c", 1, value("x"), 4, 4);
        assert!(!table.detach(&d.ticket) && !table.detach(&d.ticket));
        assert!(!table.detach(&b.ticket));
        assert_eq!(table.routes("c").collect::<Vec<_>>(), [0], "nothing is left of route 1");
        assert!(table.detach(&c.ticket));
        assert!(table.is_empty());
    }

    #[test]
    fn only_who_is_confirmed_receives() {
        let mut table = Plain::default();
        table.attach("c", 3, Interest::All, 1, 1);
        table.attach("c", 3, value("x"), 2, 2);
        assert_eq!(receivers(&table, "c", 3, Some("x")), [0_u32; 0]);
        table.live("c");
        assert_eq!(receivers(&table, "c", 3, Some("x")), [1, 2]);
        table.down(|_| true);
        table.attach("c", 3, Interest::All, 3, 3);
        assert_eq!(receivers(&table, "c", 3, Some("x")), [1, 2], "what this bridge publishes itself goes on");
    }

    #[test]
    fn filters_separate_neighbours() {
        let mut table = Plain::default();
        table.attach("agents", 0, value("a"), 1, 0);
        table.attach("agents", 0, value("b"), 2, 0);
        table.attach("agents", 0, Interest::Hold, 3, 0);
        table.attach("agents", 1, Interest::All, 4, 0);
        table.live("agents");
        assert_eq!(receivers(&table, "agents", 0, Some("a")), [1]);
        assert_eq!(receivers(&table, "agents", 0, Some("b")), [2]);
        assert_eq!(receivers(&table, "agents", 0, Some("c")), [0_u32; 0]);
        assert_eq!(receivers(&table, "agents", 0, None), [0_u32; 0]);
        assert_eq!(receivers(&table, "agents", 1, Some("a")), [4]);
    }

    #[test]
    fn who_left_while_waiting_is_not_told() {
        let mut table = Plain::default();
        let (a, _) = table.attach("c", 0, Interest::All, 1, 1);
        table.attach("c", 0, Interest::All, 2, 2);
        table.detach(&a.ticket);
        assert_eq!(table.live("c"), [2]);
        table.down(|channel| channel == "c");
        let (c, _) = table.attach("c", 0, Interest::All, 3, 3);
        assert!(!c.live);
        assert_eq!(table.confirmed("c").collect::<Vec<_>>(), [&2]);
        assert_eq!(table.live("c"), [3], "who was confirmed before is not confirmed again");
    }

    proptest! {
        /// Against a plain list of subscriptions, with whether each is confirmed.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((0_u8..6, 0_u8..3, 0_u8..2, 0_u8..4, any::<u8>()), 0..120)) {
            let mut table = Plain::default();
            let mut model: Vec<(Ticket, u32, bool)> = Vec::new();
            let mut live = [false; 3];
            for (i, (action, channel, route, interest, pick)) in steps.into_iter().enumerate() {
                let name = format!("c{channel}");
                match action {
                    0 if !model.is_empty() => {
                        let (ticket, ..) = model.remove(usize::from(pick) % model.len());
                        let last = table.detach(&ticket);
                        prop_assert_eq!(last, !model.iter().any(|(t, ..)| t.channel == ticket.channel));
                        if last {
                            let number: usize = ticket.channel[1..].parse().unwrap();
                            live[number] = false;
                        }
                    }
                    4 => {
                        let told = table.live(&name).len();
                        let of_channel = model.iter_mut().filter(|(t, ..)| *t.channel == *name);
                        let (mut waited, mut any) = (0, false);
                        for (_, _, confirmed) in of_channel {
                            any = true;
                            waited += usize::from(!std::mem::replace(confirmed, true));
                        }
                        prop_assert_eq!(told, waited);
                        live[usize::from(channel)] = any;
                    }
                    5 => {
                        table.down(|channel| channel == name);
                        live[usize::from(channel)] = false;
                    }
                    _ => {
                        let interest = match interest {
                            0 => Interest::All,
                            1 => Interest::Hold,
                            v => value(&v.to_string()),
                        };
                        let (attached, _) = table.attach(&name, route.into(), interest, i as u32, 0);
                        prop_assert_eq!(attached.first, !model.iter().any(|(t, ..)| *t.channel == *name));
                        prop_assert_eq!(attached.live, live[usize::from(channel)]);
                        model.push((attached.ticket, i as u32, attached.live));
                    }
                }
                for channel in ["c0", "c1", "c2"] {
                    for route in 0..2 {
                        for wanted in [None, Some("2"), Some("3")] {
                            let mut got = receivers(&table, channel, route, wanted);
                            let mut expected: Vec<u32> = model.iter()
                                .filter(|(t, _, confirmed)| *confirmed && *t.channel == *channel && t.route == route && match &t.interest {
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
