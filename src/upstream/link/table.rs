//! The channels of one link: which hubs want each, and the state of its subscription. It is told what happens, with
//! the time, and gives what to do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pace::{BURST_MAX, Pace};
use super::suspects::{Suspects, Why};
use crate::upstream::flights::{DELIVERY_TIME, Held};
use crate::upstream::hubs::Hubs;
use crate::upstream::refused::{self, Refused};

/// Subscriptions under way at once. More would only wait in the server's buffers, and ours.
const IN_FLIGHT_MAX: usize = BURST_MAX;
/// First delay before a failed subscription is tried again; it doubles.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
/// Longest such delay.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// Something for the link to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Send `pusher:subscribe`.
    Subscribe(Arc<str>),
    /// Send `pusher:unsubscribe`.
    Unsubscribe(Arc<str>),
    /// Tell these hubs that the channel is confirmed.
    TellLive {
        hubs: Hubs,
        channel: Arc<str>,
        /// Whether events may have been missed since it was confirmed last.
        gap: bool,
    },
    /// Tell these hubs that the channel is refused.
    TellRefused { hubs: Hubs, channel: Arc<str>, why: Refused },
}

/// What a lost connection means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// How many channels were subscribed and are wanted: there events may be missed.
    pub channels: usize,
    /// The hubs that want any channel.
    pub hubs: Hubs,
}

/// How many channels are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Wanted, not subscribed.
    pub pending: usize,
    /// Subscribed and wanted.
    pub live: usize,
    /// Subscribed, no more wanted.
    pub lingering: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be subscribed when its turn comes.
    Queued,
    /// A publishing request that does not exclude this connection is under way: its copy must not come.
    Held,
    Subscribing,
    Live,
    /// It failed, or was released a moment ago; tried again later.
    Retrying,
    /// It failed as it would again over this connection.
    Refused,
}

#[derive(Debug)]
struct Entry {
    /// Which hubs want it.
    hubs: Hubs,
    state: State,
    /// It was confirmed before the connection was lost.
    missed: bool,
    attempts: u32,
    /// How many are subscribed, as hubs said when the connection was lost: they come back first.
    subscribers: u64,
    /// The number of the subscription under way.
    asked: u64,
    /// Why it was refused over this connection, as its hubs were told.
    told: Option<Refused>,
    /// Subscriptions on this connection whose answer did not come in time, and may come yet.
    unanswered: u32,
    /// While nobody wants it: the timer after which it goes.
    linger: Option<TimerKey>,
    /// The timer of the subscription under way, or of the next attempt.
    attempt: Option<TimerKey>,
}

impl Entry {
    /// Its events are received, and somebody wants them.
    fn is_subscribed(&self) -> bool {
        !self.hubs.is_empty() && self.state == State::Live
    }
}

/// A timer's place: its time, and a number that makes it unique.
type TimerKey = (Instant, u64);

#[derive(Debug)]
enum Timer {
    Linger,
    SubscribeTimeout,
    Retry,
}

#[derive(Debug)]
pub struct LinkTable {
    channels: HashMap<Arc<str>, Entry>,
    queue: VecDeque<Arc<str>>,
    /// What must not be subscribed yet, and how many requests have to end first.
    held: HashMap<Arc<str>, usize>,
    /// Subscriptions under way.
    suspects: Suspects,
    pace: Pace,
    /// At most two for each channel.
    timers: BTreeMap<TimerKey, (Timer, Arc<str>)>,
    next_timer: u64,
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
            held: HashMap::new(),
            suspects: Suspects::default(),
            pace: Pace::default(),
            timers: BTreeMap::new(),
            next_timer: 0,
            connected: false,
            subscribe_timeout,
            linger,
            counts: Counts::default(),
        }
    }

    /// A hub has its first subscriber of `channel`.
    pub fn subscribe(&mut self, channel: &Arc<str>, hub: usize, now: Instant, out: &mut Vec<Op>) {
        let hub = Hubs::only(hub);
        if let Some(entry) = self.channels.get_mut(channel) {
            self.counts.leave(entry);
            entry.hubs = entry.hubs.with(hub);
            self.counts.enter(entry);
            if let Some(linger) = entry.linger.take() {
                self.timers.remove(&linger);
            }
            if entry.state == State::Live {
                out.push(Op::TellLive { hubs: hub, channel: channel.clone(), gap: false });
            } else if let Some(why) = entry.told {
                out.push(Op::TellRefused { hubs: hub, channel: channel.clone(), why });
            }
            return;
        }
        let entry = Entry {
            hubs: hub,
            state: State::Queued,
            missed: false,
            attempts: 0,
            subscribers: 0,
            asked: 0,
            told: None,
            unanswered: 0,
            linger: None,
            attempt: None,
        };
        self.counts.enter(&entry);
        self.channels.insert(channel.clone(), entry);
        // A connection begins with all channels there are: until then a queue would only grow.
        if self.connected {
            self.queue.push_back(channel.clone());
            self.pump(now, out);
        }
    }

    /// A hub's last subscriber of `channel` is gone.
    pub fn unsubscribe(&mut self, channel: &Arc<str>, hub: usize, now: Instant) {
        let Some(entry) = self.channels.get_mut(channel) else { return };
        self.counts.leave(entry);
        entry.hubs = entry.hubs.without(Hubs::only(hub));
        self.counts.enter(entry);
        if entry.hubs.is_empty() {
            self.set_linger(channel, now);
        }
    }

    /// The connection is established: everything is to be subscribed, but for what is held (see
    /// [`crate::upstream::flights`]): those channels wait for as many calls of [`Self::release`].
    pub fn connected(&mut self, held: &Held, now: Instant, out: &mut Vec<Op>) {
        self.connected = true;
        for channel in held.by_requests.iter().chain(&held.for_a_moment) {
            *self.held.entry(channel.clone()).or_default() += 1;
        }
        let mut queue: Vec<(u64, Arc<str>)> =
            self.channels.iter().map(|(name, entry)| (entry.subscribers, name.clone())).collect();
        // Where most miss events first, and in the same order on every run.
        queue.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        self.queue = queue.into_iter().map(|(_, name)| name).collect();
        self.pump(now, out);
        self.release(&held.for_a_moment, now);
    }

    /// A hub says how many are subscribed to its channels, after the connection was lost.
    pub fn count_subscribers(&mut self, subscribers: &[(Arc<str>, usize)]) {
        for (channel, count) in subscribers {
            if let Some(entry) = self.channels.get_mut(channel) {
                entry.subscribers += *count as u64;
            }
        }
    }

    /// A request that held these channels has ended.
    pub fn release(&mut self, channels: &[Arc<str>], now: Instant) {
        for channel in channels {
            let Some(requests) = self.held.get_mut(channel) else { continue };
            *requests -= 1;
            if *requests > 0 {
                continue;
            }
            self.held.remove(channel);
            if let Some(entry) = self.channels.get_mut(channel)
                && entry.state == State::Held
            {
                entry.state = State::Retrying;
                self.set_attempt(channel, now + DELIVERY_TIME, Timer::Retry);
            }
        }
    }

    /// `channel` is not to be subscribed before [`Self::admit`].
    pub fn hold(&mut self, channel: &Arc<str>) {
        self.held.entry(channel.clone()).or_insert(1);
    }

    /// `channel` may be subscribed, whatever held it.
    pub fn admit(&mut self, channel: &Arc<str>, now: Instant, out: &mut Vec<Op>) {
        self.held.remove(channel);
        if let Some(entry) = self.channels.get_mut(channel)
            && entry.state == State::Held
        {
            entry.state = State::Queued;
            self.queue.push_back(channel.clone());
            self.pump(now, out);
        }
    }

    pub fn disconnected(&mut self) -> Lost {
        self.connected = false;
        self.suspects = Suspects::default();
        self.pace = Pace::default();
        self.queue.clear();
        self.held.clear();
        self.timers.clear();
        let mut lost = Lost::default();
        self.channels.retain(|_, entry| !entry.hubs.is_empty());
        for entry in self.channels.values_mut() {
            lost.channels += usize::from(entry.state == State::Live);
            lost.hubs = lost.hubs.with(entry.hubs);
            entry.missed |= entry.state == State::Live;
            entry.state = State::Queued;
            entry.attempts = 0;
            entry.subscribers = 0;
            entry.told = None;
            entry.unanswered = 0;
            entry.linger = None;
            entry.attempt = None;
        }
        self.counts = Counts { pending: self.channels.len(), ..Counts::default() };
        lost
    }

    /// `pusher_internal:subscription_succeeded`
    pub fn succeeded(&mut self, channel: &str, now: Instant, out: &mut Vec<Op>) {
        let Some((name, entry)) = self
            .channels
            .get_key_value(channel)
            .map(|(name, _)| name.clone())
            .and_then(|name| self.channels.get_mut(channel).map(|entry| (name, entry)))
        else {
            // It was confirmed after everybody had given up.
            if self.connected {
                out.push(Op::Unsubscribe(Arc::from(channel)));
            }
            return;
        };
        // The error that was taken for its answer was about something else.
        let is_refused = entry.state == State::Refused && entry.unanswered == 0;
        if entry.state != State::Subscribing && !is_refused {
            let is_late = entry.unanswered > 0;
            entry.unanswered = entry.unanswered.saturating_sub(1);
            // The answer before was the late one, to a subscription that was ended meanwhile: this one is the next.
            if is_late && entry.is_subscribed() {
                out.push(Op::TellLive { hubs: entry.hubs, channel: name, gap: true });
            }
            return;
        }
        self.suspects.answered(entry.asked, now);
        self.counts.leave(entry);
        entry.state = State::Live;
        self.counts.enter(entry);
        entry.attempts = 0;
        entry.told = None;
        let gap = std::mem::take(&mut entry.missed);
        let hubs = entry.hubs;
        if let Some(timeout) = entry.attempt.take() {
            self.timers.remove(&timeout);
        }
        if hubs.is_empty() {
            self.set_linger(&name, now);
        } else {
            out.push(Op::TellLive { hubs, channel: name, gap });
        }
        self.pump(now, out);
    }

    /// The subscription of `channel` failed. Its hubs are told once over a connection, and when the reason changes.
    pub fn failed(&mut self, channel: &str, why: Refused, now: Instant, out: &mut Vec<Op>) {
        let Some((name, entry)) = self
            .channels
            .get_key_value(channel)
            .map(|(name, _)| name.clone())
            .and_then(|name| self.channels.get_mut(channel).map(|entry| (name, entry)))
        else {
            return;
        };
        if entry.state != State::Subscribing {
            return;
        }
        self.suspects.answered(entry.asked, now);
        if entry.told.replace(why) != Some(why) && !entry.hubs.is_empty() {
            out.push(Op::TellRefused { hubs: entry.hubs, channel: name.clone(), why });
        }
        if why.is_retried() {
            entry.state = State::Retrying;
            let delay = RETRY_DELAY_MIN.saturating_mul(1 << entry.attempts.min(6)).min(RETRY_DELAY_MAX);
            entry.attempts += 1;
            self.set_attempt(&name, now + delay, Timer::Retry);
        } else {
            entry.state = State::Refused;
            let is_unwanted = entry.hubs.is_empty();
            if let Some(timeout) = entry.attempt.take() {
                self.timers.remove(&timeout);
            }
            if is_unwanted {
                self.set_linger(&name, now);
            }
        }
        self.pump(now, out);
    }

    /// Which subscription under way an error means that has no channel but in its text (Pusher's errors carry no channel
    /// field).
    #[must_use]
    pub fn named_by(&self, message: &str) -> Option<Arc<str>> {
        let named = self.suspects.channels().filter(|name| refused::names(message, name));
        named.max_by_key(|name| name.len()).cloned()
    }

    /// An error came that is about one of the subscriptions under way and names none. `false`: there is none left that it
    /// could be about.
    pub fn blame(&mut self, error: Why) -> bool {
        self.suspects.blame(error)
    }

    /// A subscription that is known now to be the one that such an error is about. To be asked until there is none, and
    /// each to be given to [`Self::failed`].
    pub fn blamed(&mut self, now: Instant) -> Option<(Arc<str>, Why)> {
        self.suspects.blamed(now)
    }

    /// The time has come that [`Self::deadline`] said. Gives the channels whose subscription was not answered. Those that
    /// are `needed` linger on.
    pub fn timer(&mut self, now: Instant, needed: impl Fn(&str) -> bool, out: &mut Vec<Op>) -> Vec<Arc<str>> {
        let mut unanswered = Vec::new();
        if self.pace.is_due(now) {
            self.pump(now, out);
        }
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            let (timer, channel) = first.remove();
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            match timer {
                Timer::Linger => entry.linger = None,
                Timer::SubscribeTimeout | Timer::Retry => entry.attempt = None,
            }
            match (timer, entry.state) {
                (Timer::Linger, State::Live) if entry.hubs.is_empty() && needed(&channel) => {
                    self.set_linger(&channel, now);
                }
                // While a subscription is under way its answer must be awaited: a late success would be taken
                // for that of the next one.
                (
                    Timer::Linger,
                    State::Live | State::Queued | State::Held | State::Retrying | State::Refused,
                ) if entry.hubs.is_empty() => {
                    self.counts.leave(entry);
                    if entry.state == State::Live {
                        out.push(Op::Unsubscribe(channel.clone()));
                    }
                    if let Some(retry) = entry.attempt.take() {
                        self.timers.remove(&retry);
                    }
                    self.channels.remove(&channel);
                }
                (Timer::SubscribeTimeout, State::Subscribing) => {
                    // It may be confirmed yet, and nobody would know.
                    entry.unanswered += 1;
                    self.suspects.silent(entry.asked, now);
                    out.push(Op::Unsubscribe(channel.clone()));
                    self.failed(&channel, Refused::Unanswered, now, out);
                    unanswered.push(channel);
                }
                (Timer::Retry, State::Retrying) => {
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
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        [timer, self.pace.next()].into_iter().flatten().min()
    }

    /// The hubs that want `channel`, when it is subscribed, and its shared name.
    #[must_use]
    pub fn receivers(&self, channel: &str) -> Option<(Arc<str>, Hubs)> {
        let (name, entry) = self.channels.get_key_value(channel)?;
        entry.is_subscribed().then(|| (name.clone(), entry.hubs))
    }

    /// Whether `channel` is subscribed, wanted or not.
    #[must_use]
    pub fn is_live(&self, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|entry| entry.state == State::Live)
    }

    /// The shared name of `channel`, when it is subscribed and no more wanted.
    #[must_use]
    pub fn lingering(&self, channel: &str) -> Option<Arc<str>> {
        let (name, entry) = self.channels.get_key_value(channel)?;
        (entry.hubs.is_empty() && entry.state == State::Live).then(|| name.clone())
    }

    /// Whether any channel is subscribed and no more wanted, and yet needed.
    #[must_use]
    pub fn is_needed(&self, needed: impl Fn(&str) -> bool) -> bool {
        let lingers = |entry: &Entry| entry.hubs.is_empty() && entry.state == State::Live;
        self.counts.lingering > 0 && self.channels.iter().any(|(name, entry)| lingers(entry) && needed(name))
    }

    /// Another connection takes the place of the one that there is, with what is subscribed and wanted, and nothing else.
    pub fn moved(&mut self, out: &mut Vec<Op>) {
        if self.counts.lingering == 0 {
            return;
        }
        let (counts, timers) = (&mut self.counts, &mut self.timers);
        self.channels.retain(|channel, entry| {
            let stays = !entry.hubs.is_empty() || entry.state != State::Live;
            if !stays {
                counts.leave(entry);
                for timer in [entry.linger.take(), entry.attempt.take()].into_iter().flatten() {
                    timers.remove(&timer);
                }
                // It may be there yet: it was left a moment ago.
                out.push(Op::Unsubscribe(channel.clone()));
            }
            stays
        });
    }

    /// The hubs that want `channel`, whether it is subscribed or not: they have the receivers of what this
    /// bridge publishes itself.
    #[must_use]
    pub fn hubs(&self, channel: &str) -> Hubs {
        self.channels.get(channel).map_or(Hubs::default(), |entry| entry.hubs)
    }

    /// The channels that are subscribed and wanted.
    pub fn subscribed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.channels.iter().filter(|(_, entry)| entry.is_subscribed()).map(|(name, _)| name)
    }

    /// Whether a subscription is under way.
    #[must_use]
    pub fn is_subscribing(&self) -> bool {
        self.suspects.count() > 0
    }

    /// The server had forgotten `channel`, and has subscribed it again. `true`: somebody may have missed events.
    pub fn forgotten(&mut self, channel: &str, out: &mut Vec<Op>) -> bool {
        let Some((name, entry)) = self.channels.get_key_value(channel).filter(|(_, e)| e.is_subscribed())
        else {
            return false;
        };
        out.push(Op::TellLive { hubs: entry.hubs, channel: name.clone(), gap: true });
        true
    }

    /// How many channels are in which state.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Sends as many subscriptions as may be under way.
    fn pump(&mut self, now: Instant, out: &mut Vec<Op>) {
        while self.connected && self.suspects.count() < IN_FLIGHT_MAX {
            let Some(channel) = self.queue.pop_front() else { return };
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            if entry.state != State::Queued {
                continue;
            }
            if entry.hubs.is_empty() {
                self.counts.leave(entry);
                if let Some(linger) = entry.linger.take() {
                    self.timers.remove(&linger);
                }
                self.channels.remove(&channel);
                continue;
            }
            if self.held.contains_key(&channel) {
                entry.state = State::Held;
                continue;
            }
            if !self.pace.allows(now) {
                self.queue.push_front(channel);
                return;
            }
            entry.state = State::Subscribing;
            entry.asked = self.suspects.ask(channel.clone());
            self.set_attempt(&channel, now + self.subscribe_timeout, Timer::SubscribeTimeout);
            out.push(Op::Subscribe(channel));
        }
    }

    /// Sets the timer after which the channel goes, instead of an earlier one.
    fn set_linger(&mut self, channel: &Arc<str>, now: Instant) {
        let key = self.set_timer(now + self.linger, Timer::Linger, channel);
        let before = self.channels.get_mut(channel).and_then(|entry| entry.linger.replace(key));
        if let Some(before) = before {
            self.timers.remove(&before);
        }
    }

    /// Sets the timer of the channel's attempt, instead of an earlier one.
    fn set_attempt(&mut self, channel: &Arc<str>, at: Instant, timer: Timer) {
        let key = self.set_timer(at, timer, channel);
        let before = self.channels.get_mut(channel).and_then(|entry| entry.attempt.replace(key));
        if let Some(before) = before {
            self.timers.remove(&before);
        }
    }

    fn set_timer(&mut self, at: Instant, timer: Timer, channel: &Arc<str>) -> TimerKey {
        self.next_timer += 1;
        let key = (at, self.next_timer);
        self.timers.insert(key, (timer, channel.clone()));
        key
    }
}

impl Counts {
    fn slot(&mut self, entry: &Entry) -> &mut usize {
        match entry.state {
            State::Live if entry.hubs.is_empty() => &mut self.lingering,
            State::Live => &mut self.live,
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

#[cfg(test)]
mod tests;
