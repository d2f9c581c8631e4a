//! The link's table before a server that answers as it likes, and a worker's table beside a plain list.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use pusher_bridge::exchange::{Interest, LinkId};
use pusher_bridge::fanout::table::{Table, Ticket};
use pusher_bridge::upstream::flights::Held;
use pusher_bridge::upstream::hubs::Hubs;
use pusher_bridge::upstream::link::table::{LinkTable, Op};
use pusher_bridge::upstream::refused::Refused;

use super::fixture::now;
use super::input::Input;

const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(1);
/// More than may be under way at once.
const CHANNELS: usize = 300;
const IN_FLIGHT_MAX: usize = 256;
/// Of these most happens to the same.
const FEW: usize = 6;
const STEPS_MAX: usize = 120;

static NAMES: LazyLock<Vec<Arc<str>>> =
    LazyLock::new(|| (0..CHANNELS).map(|n| format!("channel-{n}").into()).collect());

/// A byte picks the table.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() { link(&mut input) } else { fan_out(&mut input) }
}

// ------------------------------------------------------------------------------------------------- link

/// What Pusher knows of a channel on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Asked,
    Confirmed,
}

/// The link's table and the model beside it; a channel is its number, a set of hubs is bits.
struct Link {
    table: LinkTable,
    now: Instant,
    out: Vec<Op>,
    connected: bool,
    wanted: [Hubs; CHANNELS],
    pusher: [Option<Known>; CHANNELS],
    /// How many requests keep the channel from being subscribed.
    held: [usize; CHANNELS],
    /// Who was told that a channel is confirmed, and was not disappointed since.
    told: [Hubs; CHANNELS],
}

fn link(input: &mut Input<'_>) {
    let mut link = Link {
        table: LinkTable::new(SUBSCRIBE_TIMEOUT, LINGER),
        now: now().mono,
        out: Vec::new(),
        connected: false,
        wanted: [Hubs::default(); CHANNELS],
        pusher: [None; CHANNELS],
        held: [0; CHANNELS],
        told: [Hubs::default(); CHANNELS],
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        link.step(input);
    }
    link.end();
}

impl Link {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(13) {
            0..=2 => self.want(channel(input), input.below(3)),
            3 | 4 => self.unwant(channel(input), input.below(3)),
            5 if input.below(8) == 0 => (0..CHANNELS).for_each(|channel| self.want(channel, 0)),
            5 => {}
            6 if self.connected => {
                assert_eq!(self.table.disconnected().channels, self.subscribed());
                self.connected = false;
                self.pusher = [None; CHANNELS];
                self.held = [0; CHANNELS];
                self.told = [Hubs::default(); CHANNELS];
            }
            6 => self.connect((0..input.below(4)).map(|_| channel(input)).collect()),
            12 => {
                let channel = channel(input);
                self.held[channel] = self.held[channel].saturating_sub(1);
                self.table.release(&[NAMES[channel].clone()], self.now);
            }
            7 | 8 => self.succeed(channel(input)),
            9 => {
                let channel = channel(input);
                if self.pusher[channel] == Some(Known::Asked) {
                    self.pusher[channel] = None;
                }
                self.table.failed(&NAMES[channel], Refused::Other, self.now, &mut self.out);
            }
            10 => {
                let text = input.pick(&["channel-1", "channel-12 is not allowed", ""]);
                let named = self.table.named_by(text);
                assert!(named.is_none_or(|name| self.pusher[number(&name)] == Some(Known::Asked)));
                self.table.blame((None, String::new()));
                while let Some((channel, _)) = self.table.blamed(self.now) {
                    assert_eq!(self.pusher[number(&channel)].take(), Some(Known::Asked));
                    self.table.failed(&channel, Refused::Other, self.now, &mut self.out);
                }
            }
            _ => {
                let until = self.now + Duration::from_millis(input.number() as u64 / 2);
                while let Some(at) = self.table.deadline().filter(|at| *at <= until) {
                    self.now = self.now.max(at);
                    self.timer();
                }
                self.now = until;
            }
        }
        self.settle();
    }

    fn want(&mut self, channel: usize, hub: usize) {
        let before = self.wanted[channel];
        self.wanted[channel] = before.with(Hubs::only(hub));
        if before != self.wanted[channel] {
            self.table.subscribe(&NAMES[channel], hub, self.now, &mut self.out);
        }
    }

    fn unwant(&mut self, channel: usize, hub: usize) {
        let before = self.wanted[channel];
        self.wanted[channel] = before.without(Hubs::only(hub));
        self.told[channel] = self.told[channel].without(Hubs::only(hub));
        if before != self.wanted[channel] {
            self.table.unsubscribe(&NAMES[channel], hub, self.now);
        }
    }

    fn connect(&mut self, held: Vec<usize>) {
        self.connected = true;
        held.iter().for_each(|channel| self.held[*channel] += 1);
        let by_requests = held.into_iter().map(|channel| NAMES[channel].clone()).collect();
        let held = Held { by_requests, ..Held::default() };
        self.table.connected(&held, self.now, &mut self.out);
    }

    fn succeed(&mut self, channel: usize) {
        if self.pusher[channel] == Some(Known::Asked) {
            self.pusher[channel] = Some(Known::Confirmed);
        }
        self.table.succeeded(&NAMES[channel], self.now, &mut self.out);
    }

    fn timer(&mut self) {
        self.table.timer(self.now, |_| false, &mut self.out);
        assert!(self.table.deadline().is_none_or(|at| at > self.now), "a timer that fires for ever");
        self.settle();
    }

    /// How many channels are subscribed and wanted.
    fn subscribed(&self) -> usize {
        let channels = self.pusher.iter().zip(&self.wanted);
        channels.filter(|(pusher, wanted)| **pusher == Some(Known::Confirmed) && !wanted.is_empty()).count()
    }

    fn settle(&mut self) {
        for op in std::mem::take(&mut self.out) {
            assert!(self.connected, "without a connection nothing can be done: {op:?}");
            match op {
                Op::Subscribe(channel) => {
                    assert_eq!(self.held[number(&channel)], 0, "{channel} is held");
                    let before = self.pusher[number(&channel)].replace(Known::Asked);
                    assert_eq!(before, None, "{channel} is subscribed already");
                }
                Op::Unsubscribe(channel) => self.pusher[number(&channel)] = None,
                Op::TellRefused { hubs, channel, .. } => {
                    assert!(hubs.without(self.wanted[number(&channel)]).is_empty());
                }
                Op::TellLive { hubs, channel, .. } => {
                    let channel = number(&channel);
                    assert!(
                        hubs.without(self.wanted[channel]).is_empty(),
                        "told to one that does not want it"
                    );
                    assert_eq!(self.pusher[channel], Some(Known::Confirmed));
                    self.told[channel] = self.told[channel].with(hubs);
                }
            }
        }
        let count = |wanted| self.pusher.iter().filter(|known| **known == Some(wanted)).count();
        assert!(count(Known::Asked) <= IN_FLIGHT_MAX, "too many subscriptions under way");
        let counts = self.table.counts();
        assert_eq!(counts.live, self.subscribed());
        assert_eq!(counts.lingering, count(Known::Confirmed) - self.subscribed());
        for (channel, name) in NAMES.iter().enumerate().take(FEW) {
            let hubs = self.wanted[channel];
            let receives = !hubs.is_empty() && self.pusher[channel] == Some(Known::Confirmed);
            let receivers = self.table.receivers(name).map(|(_, hubs)| hubs);
            assert_eq!(receivers, receives.then_some(hubs));
            assert_eq!(self.table.hubs(name), hubs);
        }
    }

    /// With a connection, a server that answers, and no request under way, all that is wanted is confirmed, whoever wants it
    /// knows, and what nobody wants goes.
    fn end(&mut self) {
        if !self.connected {
            self.connect(Vec::new());
            self.settle();
        }
        for (held, name) in std::mem::replace(&mut self.held, [0; CHANNELS]).into_iter().zip(&*NAMES) {
            (0..held).for_each(|_| self.table.release(std::slice::from_ref(name), self.now));
        }
        for _ in 0..CHANNELS * 4 {
            if let Some(channel) = self.pusher.iter().position(|s| *s == Some(Known::Asked)) {
                self.succeed(channel);
                self.settle();
            } else if let Some(at) = self.table.deadline() {
                self.now = self.now.max(at);
                self.timer();
            } else {
                break;
            }
        }
        let wanted = self.wanted.iter().filter(|hubs| !hubs.is_empty()).count();
        let counts = self.table.counts();
        assert_eq!((counts.pending, counts.live, counts.lingering), (0, wanted, 0));
        for channel in 0..CHANNELS {
            let confirmed = (!self.wanted[channel].is_empty()).then_some(Known::Confirmed);
            assert_eq!(self.pusher[channel], confirmed);
            assert_eq!(self.told[channel], self.wanted[channel], "somebody was not told");
        }
    }
}

fn number(name: &str) -> usize {
    name.strip_prefix("channel-").unwrap().parse().unwrap()
}

/// Mostly one of a few, so that things happen to the same.
fn channel(input: &mut Input<'_>) -> usize {
    match input.byte() {
        n @ 0..=239 => usize::from(n) % FEW,
        n => usize::from(n) + 40,
    }
}

// ---------------------------------------------------------------------------------------------- fan-out

/// A link's channel.
type Place = (LinkId, Arc<str>);

struct Subscription {
    ticket: Ticket<usize>,
    number: u32,
    place: Place,
    route: usize,
    interest: Interest,
    waits: bool,
}

fn fan_out(input: &mut Input<'_>) {
    let mut table: Table<usize, u32, u32> = Table::default();
    let mut list: Vec<Subscription> = Vec::new();
    let mut live: BTreeSet<Place> = BTreeSet::new();
    let mut number = 0;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        // Two channels of one link, and one of another link with the same name.
        let (link, name) = [(0, 0), (0, 1), (1, 0)][input.below(3)];
        let place = (LinkId(link), NAMES[name].clone());
        let (link, channel) = &place;
        let here = |s: &Subscription| s.place == place;
        match input.below(8) {
            0..=3 => {
                let route = input.below(3);
                let interest = match input.below(5) {
                    0 | 1 => Interest::All,
                    2 => Interest::Hold,
                    value => Interest::Value(value.to_string()),
                };
                number += 1;
                let (attached, waits) = table.attach(*link, channel, route, interest.clone(), number, number);
                let confirmed = live.contains(&place);
                assert_eq!((attached.live, waits), (confirmed, confirmed.then_some(number)));
                assert_eq!(attached.first, !list.iter().any(here));
                let ticket = attached.ticket;
                list.push(Subscription {
                    ticket,
                    number,
                    place: place.clone(),
                    route,
                    interest,
                    waits: !confirmed,
                });
            }
            4 | 5 if !list.is_empty() => {
                let ended = list.remove(usize::from(input.byte()) % list.len());
                let last = !list.iter().any(|s| s.place == ended.place);
                assert_eq!(table.detach(&ended.ticket), last);
                assert!(!table.detach(&ended.ticket), "only once");
                if last {
                    live.remove(&ended.place);
                }
            }
            6 => {
                table.down(*link);
                live.retain(|(l, _)| l != link);
            }
            _ => {
                let mut expected = Vec::new();
                for waiting in list.iter_mut().filter(|s| here(s) && s.waits) {
                    waiting.waits = false;
                    expected.push(waiting.number);
                }
                assert_eq!(table.live(*link, channel), expected);
                if list.iter().any(here) {
                    live.insert(place.clone());
                }
            }
        }
        compare(&table, &list, &place);
    }
}

/// Everything about this channel, and which channels of its link there are.
fn compare(table: &Table<usize, u32, u32>, list: &[Subscription], place: &Place) {
    let of_link = list.iter().filter(|s| s.place.0 == place.0);
    let channels: BTreeSet<&Arc<str>> = of_link.map(|s| &s.place.1).collect();
    assert_eq!(table.channels(place.0).collect::<BTreeSet<_>>(), channels);
    assert_eq!(table.is_empty(), list.is_empty());
    let Some(channel) = table.channel(place.0, &place.1) else {
        return assert!(!channels.contains(&place.1));
    };
    let here: Vec<&Subscription> = list.iter().filter(|s| s.place == *place).collect();
    let mut routes: Vec<usize> = channel.audiences().map(|audience| *audience.route()).collect();
    routes.sort_unstable();
    let expected: BTreeSet<usize> = here.iter().map(|s| s.route).collect();
    assert_eq!(routes, expected.into_iter().collect::<Vec<_>>());
    let mut confirmed: Vec<u32> = channel.confirmed().copied().collect();
    confirmed.sort_unstable();
    assert_eq!(confirmed, here.iter().filter(|s| !s.waits).map(|s| s.number).collect::<Vec<_>>());
    for (route, value) in (0..3).flat_map(|route| [None, Some("3"), Some("9")].map(|value| (route, value))) {
        let audience = channel.audiences().find(|audience| *audience.route() == route);
        let receivers: Vec<u32> =
            audience.iter().flat_map(|audience| audience.receivers(value)).copied().collect();
        let mine = || here.iter().filter(|s| s.route == route && !s.waits);
        let of_all = mine().filter(|s| matches!(s.interest, Interest::All));
        let by_value =
            mine().filter(|s| matches!(&s.interest, Interest::Value(of) if Some(of.as_str()) == value));
        assert_eq!(receivers, of_all.chain(by_value).map(|s| s.number).collect::<Vec<_>>());
    }
}
