//! The channels of one link: which workers want each, and how its subscription stands. Pure: it is told what
//! happens, with the time, and gives what to do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Subscriptions under way at once. More would only wait in the server's buffers, and ours.
const IN_FLIGHT_MAX: usize = 256;
/// First delay before a refused subscription is tried again; it doubles.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
/// Longest such delay.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);
/// Workers are numbered below this.
pub const HUBS_MAX: usize = 64;

/// Something for the link to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Send `pusher:subscribe`.
    Subscribe(Arc<str>),
    /// Send `pusher:unsubscribe`.
    Unsubscribe(Arc<str>),
    /// Tell this hub that the channel stands.
    TellLive {
        /// Which hub.
        hub: usize,
        /// The channel.
        channel: Arc<str>,
        /// Whether events may have been missed since it stood last.
        gap: bool,
    },
}

/// How many channels are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Wanted, not standing.
    pub pending: usize,
    /// Standing and wanted.
    pub live: usize,
    /// Standing, no more wanted.
    pub lingering: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be subscribed when its turn comes.
    Queued,
    Subscribing,
    Live,
    /// Refused; tried again later.
    Refused,
}

#[derive(Debug)]
struct Entry {
    /// Which hubs want it: bit n for hub n.
    hubs: u64,
    state: State,
    /// It stood before, and does not now.
    missed: bool,
    attempts: u32,
    /// Nobody wants it: when it may go.
    lingers_until: Instant,
    /// Tells this entry's timers from those of its past.
    generation: u64,
}

#[derive(Debug)]
enum Timer {
    Linger,
    SubscribeTimeout,
    Retry,
}

/// The table.
#[derive(Debug)]
pub struct LinkTable {
    channels: HashMap<Arc<str>, Entry>,
    queue: VecDeque<Arc<str>>,
    in_flight: usize,
    timers: BTreeMap<(Instant, u64), (Timer, Arc<str>, u64)>,
    next: u64,
    connected: bool,
    subscribe_timeout: Duration,
    linger: Duration,
    counts: Counts,
}

impl LinkTable {
    /// An empty table of a link that is not connected.
    #[must_use]
    pub fn new(subscribe_timeout: Duration, linger: Duration) -> Self {
        Self {
            channels: HashMap::new(),
            queue: VecDeque::new(),
            in_flight: 0,
            timers: BTreeMap::new(),
            next: 0,
            connected: false,
            subscribe_timeout,
            linger,
            counts: Counts::default(),
        }
    }

    /// A hub has its first subscriber of `channel`.
    pub fn want(&mut self, channel: &Arc<str>, hub: usize, now: Instant, out: &mut Vec<Op>) {
        let bit = hub_bit(hub);
        if let Some(entry) = self.channels.get_mut(channel) {
            self.counts.leave(entry);
            entry.hubs |= bit;
            self.counts.enter(entry);
            if entry.state == State::Live {
                out.push(Op::TellLive { hub, channel: channel.clone(), gap: false });
            }
            return;
        }
        let generation = self.number();
        let entry = Entry {
            hubs: bit,
            state: State::Queued,
            missed: false,
            attempts: 0,
            lingers_until: now,
            generation,
        };
        self.counts.enter(&entry);
        self.channels.insert(channel.clone(), entry);
        self.queue.push_back(channel.clone());
        self.pump(now, out);
    }

    /// A hub's last subscriber of `channel` is gone.
    pub fn unwant(&mut self, channel: &Arc<str>, hub: usize, now: Instant) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        self.counts.leave(entry);
        entry.hubs &= !hub_bit(hub);
        self.counts.enter(entry);
        if entry.hubs == 0 {
            entry.lingers_until = now + self.linger;
            let (until, generation) = (entry.lingers_until, entry.generation);
            self.set_timer(until, Timer::Linger, channel, generation);
        }
    }

    /// The connection is established: everything is to be subscribed.
    pub fn connected(&mut self, now: Instant, out: &mut Vec<Op>) {
        self.connected = true;
        self.queue = self.channels.keys().cloned().collect();
        self.pump(now, out);
    }

    /// The connection is lost. Gives the number of channels that stood and are wanted: the gap.
    pub fn disconnected(&mut self) -> usize {
        self.connected = false;
        self.in_flight = 0;
        self.queue.clear();
        self.timers.clear();
        let mut missed = 0;
        self.channels.retain(|_, entry| entry.hubs != 0);
        for entry in self.channels.values_mut() {
            missed += usize::from(entry.state == State::Live);
            entry.missed |= entry.state == State::Live;
            entry.state = State::Queued;
            entry.attempts = 0;
        }
        self.counts = Counts { pending: self.channels.len(), ..Counts::default() };
        missed
    }

    /// `pusher_internal:subscription_succeeded`
    pub fn succeeded(&mut self, channel: &str, now: Instant, out: &mut Vec<Op>) {
        let Some((name, entry)) = self
            .channels
            .get_key_value(channel)
            .map(|(name, _)| name.clone())
            .and_then(|name| self.channels.get_mut(channel).map(|entry| (name, entry)))
        else {
            // It came to stand after everybody had given up.
            if self.connected {
                out.push(Op::Unsubscribe(Arc::from(channel)));
            }
            return;
        };
        if entry.state != State::Subscribing {
            return;
        }
        self.counts.leave(entry);
        entry.state = State::Live;
        self.counts.enter(entry);
        entry.attempts = 0;
        let gap = std::mem::take(&mut entry.missed);
        entry.lingers_until = now + self.linger;
        let (hubs, until, generation) = (entry.hubs, entry.lingers_until, entry.generation);
        for hub in (0..HUBS_MAX).filter(|hub| hubs & hub_bit(*hub) != 0) {
            out.push(Op::TellLive { hub, channel: name.clone(), gap });
        }
        if hubs == 0 {
            self.set_timer(until, Timer::Linger, &name, generation);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.pump(now, out);
    }

    /// The subscription of `channel` was refused.
    pub fn refused(&mut self, channel: &str, now: Instant, out: &mut Vec<Op>) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        if entry.state != State::Subscribing {
            return;
        }
        entry.state = State::Refused;
        let delay = RETRY_DELAY_MIN.saturating_mul(1 << entry.attempts.min(6)).min(RETRY_DELAY_MAX);
        entry.attempts += 1;
        let generation = entry.generation;
        let name: Arc<str> = Arc::from(channel);
        self.set_timer(now + delay, Timer::Retry, &name, generation);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.pump(now, out);
    }

    /// Which subscription under way an error without a channel means: the one its text names, else the only
    /// one there is (Pusher's errors carry no channel field).
    #[must_use]
    pub fn blame(&self, message: &str) -> Option<Arc<str>> {
        let mut under_way = self.channels.iter().filter(|(_, entry)| entry.state == State::Subscribing);
        let named = under_way
            .clone()
            .filter(|(name, _)| message.contains(&***name))
            .max_by_key(|(name, _)| name.len());
        if let Some((name, _)) = named {
            return Some(name.clone());
        }
        match (under_way.next(), under_way.next()) {
            (Some((name, _)), None) => Some(name.clone()),
            _ => None,
        }
    }

    /// The time has come that [`Self::deadline`] said. Gives the channels whose subscription was not answered.
    pub fn timer(&mut self, now: Instant, out: &mut Vec<Op>) -> Vec<Arc<str>> {
        let mut unanswered = Vec::new();
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            let (timer, channel, generation) = first.remove();
            let Some(entry) = self.channels.get_mut(&channel).filter(|entry| entry.generation == generation)
            else {
                continue;
            };
            match (timer, entry.state) {
                // While a subscription is under way its answer must be awaited: a late success would be taken
                // for that of the next one.
                (Timer::Linger, State::Live | State::Queued | State::Refused)
                    if entry.hubs == 0 && entry.lingers_until <= now =>
                {
                    self.counts.leave(entry);
                    if entry.state == State::Live {
                        out.push(Op::Unsubscribe(channel.clone()));
                    }
                    self.channels.remove(&channel);
                }
                (Timer::SubscribeTimeout, State::Subscribing) => {
                    // It may yet come to stand, and nobody would know.
                    out.push(Op::Unsubscribe(channel.clone()));
                    self.refused(&channel, now, out);
                    unanswered.push(channel);
                }
                (Timer::Retry, State::Refused) => {
                    entry.state = State::Queued;
                    self.queue.push_back(channel);
                    self.pump(now, out);
                }
                _ => {}
            }
        }
        unanswered
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// The hubs that want `channel`, when it stands, and its shared name.
    #[must_use]
    pub fn receivers(&self, channel: &str) -> Option<(Arc<str>, u64)> {
        let (name, entry) = self.channels.get_key_value(channel)?;
        (entry.hubs != 0).then(|| (name.clone(), entry.hubs))
    }

    /// Whether `channel` stands, or may: its subscription has been sent, and the answer may wait to be read.
    #[must_use]
    pub fn is_asked_for(&self, channel: &str) -> bool {
        let entry = self.channels.get(channel);
        entry.is_some_and(|entry| matches!(entry.state, State::Live | State::Subscribing))
    }

    /// How many channels are in which state.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Sends as many subscriptions as may be under way.
    fn pump(&mut self, now: Instant, out: &mut Vec<Op>) {
        while self.connected && self.in_flight < IN_FLIGHT_MAX {
            let Some(channel) = self.queue.pop_front() else { return };
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            if entry.state != State::Queued {
                continue;
            }
            if entry.hubs == 0 {
                self.counts.leave(entry);
                self.channels.remove(&channel);
                continue;
            }
            entry.state = State::Subscribing;
            let generation = entry.generation;
            self.in_flight += 1;
            self.set_timer(now + self.subscribe_timeout, Timer::SubscribeTimeout, &channel, generation);
            out.push(Op::Subscribe(channel));
        }
    }

    fn set_timer(&mut self, at: Instant, timer: Timer, channel: &Arc<str>, generation: u64) {
        let number = self.number();
        self.timers.insert((at, number), (timer, channel.clone(), generation));
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Counts {
    fn slot(&mut self, entry: &Entry) -> &mut usize {
        match (entry.state, entry.hubs) {
            (State::Live, 0) => &mut self.lingering,
            (State::Live, _) => &mut self.live,
            _ => &mut self.pending,
        }
    }

    fn enter(&mut self, entry: &Entry) {
        *self.slot(entry) += 1;
    }

    fn leave(&mut self, entry: &Entry) {
        let slot = self.slot(entry);
        *slot = slot.saturating_sub(1);
    }
}

const fn hub_bit(hub: usize) -> u64 {
    1 << (hub % HUBS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::dialect::tests::now;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const LINGER: Duration = Duration::from_secs(1);

    struct Bench {
        table: LinkTable,
        now: Instant,
        out: Vec<Op>,
    }

    impl Bench {
        fn new() -> Self {
            Self { table: LinkTable::new(TIMEOUT, LINGER), now: now().mono, out: Vec::new() }
        }

        fn connected() -> Self {
            let mut bench = Self::new();
            bench.table.connected(bench.now, &mut bench.out);
            bench
        }

        fn want(&mut self, channel: &str, hub: usize) -> Vec<Op> {
            self.table.want(&Arc::from(channel), hub, self.now, &mut self.out);
            std::mem::take(&mut self.out)
        }

        fn unwant(&mut self, channel: &str, hub: usize) {
            self.table.unwant(&Arc::from(channel), hub, self.now);
        }

        fn succeeded(&mut self, channel: &str) -> Vec<Op> {
            self.table.succeeded(channel, self.now, &mut self.out);
            std::mem::take(&mut self.out)
        }

        fn after(&mut self, time: Duration) -> Vec<Op> {
            self.now += time;
            self.table.timer(self.now, &mut self.out);
            std::mem::take(&mut self.out)
        }
    }

    fn subscribe(channel: &str) -> Op {
        Op::Subscribe(channel.into())
    }

    fn live(hub: usize, channel: &str, gap: bool) -> Op {
        Op::TellLive { hub, channel: channel.into(), gap }
    }

    #[test]
    fn the_first_subscribes_and_all_are_told() {
        let mut b = Bench::connected();
        assert_eq!(b.want("c", 0), [subscribe("c")]);
        assert_eq!(b.want("c", 1), []);
        assert_eq!(b.succeeded("c"), [live(0, "c", false), live(1, "c", false)]);
        assert_eq!(b.want("c", 2), [live(2, "c", false)]);
        assert_eq!(b.succeeded("c"), [], "a second success is nobody's");
        assert_eq!(b.table.receivers("c"), Some(("c".into(), 0b111)));
        assert_eq!(b.table.counts(), Counts { pending: 0, live: 1, lingering: 0 });
    }

    #[test]
    fn the_last_unsubscribes_after_a_linger_unless_somebody_comes() {
        let mut b = Bench::connected();
        b.want("c", 0);
        b.succeeded("c");
        b.unwant("c", 0);
        assert_eq!(b.table.counts(), Counts { pending: 0, live: 0, lingering: 1 });
        assert_eq!(b.after(LINGER / 2), []);
        assert_eq!(b.want("c", 0), [live(0, "c", false)]);
        assert_eq!(b.after(LINGER), []);
        b.unwant("c", 0);
        assert_eq!(b.after(LINGER), [Op::Unsubscribe("c".into())]);
        assert_eq!(b.table.receivers("c"), None);
        assert_eq!(b.table.counts(), Counts::default());
        assert_eq!(b.want("c", 0), [subscribe("c")]);
    }

    #[test]
    fn each_leaving_lingers_in_full() {
        let mut b = Bench::connected();
        b.want("c", 0);
        b.succeeded("c");
        b.unwant("c", 0);
        b.after(LINGER / 2);
        b.want("c", 0);
        b.unwant("c", 0);
        assert_eq!(b.after(LINGER / 2), [], "the first leaving's time is over, not the second's");
        assert_eq!(b.after(LINGER / 2), [Op::Unsubscribe("c".into())]);
    }

    #[test]
    fn what_stands_after_everybody_gave_up_is_ended() {
        let mut b = Bench::connected();
        assert_eq!(b.succeeded("c"), [Op::Unsubscribe("c".into())]);
        b.table.disconnected();
        assert_eq!(b.succeeded("c"), []);
    }

    #[test]
    fn a_subscription_under_way_is_not_given_up_before_its_answer() {
        let mut b = Bench::connected();
        b.want("c", 0);
        b.unwant("c", 0);
        assert_eq!(b.after(LINGER), []);
        assert_eq!(b.succeeded("c"), []);
        assert_eq!(b.after(LINGER), [Op::Unsubscribe("c".into())]);
    }

    #[test]
    fn after_a_loss_everything_is_subscribed_anew_and_the_gap_is_told() {
        let mut b = Bench::connected();
        b.want("stood", 0);
        b.succeeded("stood");
        b.want("pending", 1);
        b.want("left", 0);
        b.succeeded("left");
        b.unwant("left", 0);
        assert_eq!(b.table.disconnected(), 1);
        assert_eq!(b.table.receivers("left"), None);
        assert_eq!(b.want("new", 0), [], "nothing is sent while there is no connection");
        b.table.connected(b.now, &mut b.out);
        let asked: HashSet<Arc<str>> = b
            .out
            .drain(..)
            .map(|op| match op {
                Op::Subscribe(channel) => channel,
                op => panic!("{op:?}"),
            })
            .collect();
        assert_eq!(asked, HashSet::from(["stood".into(), "pending".into(), "new".into()]));
        assert_eq!(b.succeeded("stood"), [live(0, "stood", true)]);
        assert_eq!(b.succeeded("pending"), [live(1, "pending", false)]);
    }

    #[test]
    fn refusals_are_tried_again_ever_more_slowly() {
        let mut b = Bench::connected();
        b.want("c", 0);
        for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
            b.table.refused("c", b.now, &mut b.out);
            assert_eq!(b.after(Duration::from_millis(delay * 1000 - 1)), [], "{delay}");
            assert_eq!(b.after(Duration::from_millis(1)), [subscribe("c")]);
        }
        b.now += TIMEOUT;
        assert_eq!(b.table.timer(b.now, &mut b.out), [Arc::from("c")], "no answer is a refusal");
    }

    #[test]
    fn an_error_without_a_channel_finds_its_subscription() {
        let mut b = Bench::connected();
        b.want("private-a", 0);
        assert_eq!(b.table.blame("Invalid signature"), Some("private-a".into()), "the only one");
        b.want("private-ab", 0);
        assert_eq!(b.table.blame("Invalid signature"), None);
        assert_eq!(b.table.blame("Auth info required to subscribe to private-ab"), Some("private-ab".into()));
        b.succeeded("private-ab");
        assert_eq!(b.table.blame("Auth info required to subscribe to private-ab"), Some("private-a".into()));
    }

    #[test]
    fn no_more_are_under_way_than_allowed() {
        let mut b = Bench::new();
        for i in 0..IN_FLIGHT_MAX + 10 {
            b.want(&format!("c{i}"), 0);
        }
        b.table.connected(b.now, &mut b.out);
        assert_eq!(b.out.len(), IN_FLIGHT_MAX);
        let Some(Op::Subscribe(first)) = b.out.first() else { panic!() };
        let first = first.clone();
        b.out.clear();
        assert_eq!(b.succeeded(&first).len(), 2, "told, and the next one sent");
    }

    proptest! {
        /// Whatever happens, the counts agree with the channels, and a channel is subscribed at most once.
        #[test]
        fn counts_agree(steps in proptest::collection::vec((0_u8..8, 0_u8..4, 0_usize..3), 0..150)) {
            let mut b = Bench::new();
            let (mut connected, mut sent) = (false, HashSet::<Arc<str>>::new());
            for (step, channel, hub) in steps {
                let name = format!("c{channel}");
                match step {
                    0 | 1 => b.table.want(&Arc::from(name.as_str()), hub, b.now, &mut b.out),
                    2 => b.unwant(&name, hub),
                    3 if sent.contains(name.as_str()) => b.table.succeeded(&name, b.now, &mut b.out),
                    4 => {
                        let asked = b.table.channels.get(name.as_str());
                        if asked.is_some_and(|entry| entry.state == State::Subscribing) {
                            sent.remove(name.as_str());
                        }
                        b.table.refused(&name, b.now, &mut b.out);
                    }
                    5 if connected => {
                        b.table.disconnected();
                        sent.clear();
                        connected = false;
                    }
                    5 => {
                        b.table.connected(b.now, &mut b.out);
                        connected = true;
                    }
                    _ => {
                        b.now += Duration::from_millis(700);
                        b.table.timer(b.now, &mut b.out);
                    }
                }
                for op in b.out.drain(..) {
                    prop_assert!(connected || matches!(op, Op::TellLive { .. }), "sent while not connected");
                    match op {
                        Op::Subscribe(channel) => prop_assert!(sent.insert(channel)),
                        Op::Unsubscribe(channel) => prop_assert!(sent.remove(&channel)),
                        Op::TellLive { .. } => {}
                    }
                }
                let mut counts = Counts::default();
                for entry in b.table.channels.values() {
                    counts.enter(entry);
                }
                prop_assert_eq!(b.table.counts(), counts);
            }
        }
    }
}
