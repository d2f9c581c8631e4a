//! Client events of one link: shaped to what Pusher takes of one connection, each channel's in order, and none lost
//! without a word. Pusher answers none of them, and its error of one that came too fast does not say which. So a ping
//! goes behind each: servers answer in order, hence an error before that ping's pong is about this event, and a pong
//! without one accepts it. A channel's next event waits for that, so that one that is tried again overtakes nobody.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::upstream::delivery::Sent;
use crate::upstream::lane::{Ended, Item, Lane, Most};

/// Client events of one connection within a second, at most (Pusher docs, "Events").
pub const PER_SECOND_MAX: usize = 10;
/// The second as it is here: the network may bring closer together what was sent.
const WINDOW: Duration = Duration::from_millis(1050);
/// After an event that came too fast nothing is sent for so long.
const PAUSE: Duration = Duration::from_millis(1050);
/// So long without another one, and one more is sent in a window than before.
const RECOVERY: Duration = Duration::from_secs(10);
/// A server that answers other things and no ping would have refused an event by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// One at a time: another channel may not be ready.
const ONE: Most = Most { items: 1, bytes: usize::MAX };

/// What became of a client event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    /// Pusher refused it, with this text.
    Refused(String),
    /// Its time was over; it may have been accepted when a connection was lost.
    Expired {
        maybe_accepted: bool,
    },
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Sent again though it may have been accepted before.
    pub repeated: u64,
    /// Refused because it came too fast.
    pub rate_limited: u64,
}

/// Who is told what became of a client event.
pub trait Receipt: fmt::Debug + Send {
    fn settle(self: Box<Self>, fate: Fate, tries: Tries);
}

/// An event to be sent as a client's.
#[derive(Debug)]
pub struct ClientEvent {
    pub sent: Arc<Sent>,
    /// The `user_id` that other clients of this bridge see; on a presence channel.
    pub sender: Option<Arc<str>>,
    /// `None`: it was settled, and comes again because the server's word came late.
    receipt: Option<Box<dyn Receipt>>,
    tries: Tries,
    maybe_accepted: bool,
}

impl ClientEvent {
    /// A new one.
    #[must_use]
    pub fn new(sent: Arc<Sent>, sender: Option<Arc<str>>, receipt: Box<dyn Receipt>) -> Self {
        Self { sent, sender, receipt: Some(receipt), tries: Tries::default(), maybe_accepted: false }
    }

    /// The same, with another receipt made of its own.
    #[must_use]
    pub fn watched(mut self, by: impl FnOnce(Box<dyn Receipt>) -> Box<dyn Receipt>) -> Self {
        self.receipt = self.receipt.map(by);
        self
    }

    const fn settled(sent: Arc<Sent>) -> Self {
        let tries = Tries { repeated: 0, rate_limited: 0 };
        Self { sent, sender: None, receipt: None, tries, maybe_accepted: false }
    }

    /// Tells whoever wants to know.
    pub fn settle(self, fate: Fate) {
        if let Some(receipt) = self.receipt {
            receipt.settle(fate, self.tries);
        }
    }

    /// Whether its sender's neighbours are to get it.
    const fn is_new(&self) -> bool {
        self.receipt.is_some()
    }
}

type Waiting = Item<ClientEvent>;

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// None yet.
    Awaited,
    /// It came too fast, or before the server knew of the subscription: to be sent again then.
    Again(Instant),
    Refused(String),
}

/// An event that was sent.
struct UnderWay {
    item: Waiting,
    answer: Answer,
    /// Its ping is answered by then.
    until: Instant,
}

/// Why the server did not take an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooFast,
    /// The server does not know of the channel's subscription.
    NotSubscribed,
    ForGood,
}

impl Refusal {
    /// Of an error of the server's, if it is about client events.
    #[must_use]
    pub fn of(code: Option<u16>, message: &str) -> Option<Self> {
        /// What those say that have the code of events that come too fast (sockudo has it for all).
        const FOR_GOOD: [&str; 5] = ["enable", "only", "must", "invalid", "reserved"];
        let message = message.to_lowercase();
        let has = |word: &str| message.contains(word);
        let has_code = code == Some(4301);
        if !has_code && !has("client event") && !has("client-event") {
            None
        } else if has("not subscribed") {
            Some(Self::NotSubscribed)
        } else if has("rate") || (has_code && !FOR_GOOD.into_iter().any(has)) {
            Some(Self::TooFast)
        } else {
            Some(Self::ForGood)
        }
    }
}

/// Something that [`ClientEvents`] gives.
#[derive(Debug)]
pub enum Step {
    /// Send this, and a ping.
    Send(Arc<Sent>),
    /// Give this to the sender's neighbours.
    Deliver(Arc<Sent>, Option<Arc<str>>),
    Settle(ClientEvent, Fate),
}

/// The client events of one link.
#[derive(Default)]
pub struct ClientEvents {
    lane: Lane<ClientEvent>,
    under_way: VecDeque<UnderWay>,
    /// Pings that are to be answered, in order; `true`: behind an event.
    pings: VecDeque<bool>,
    /// When the last events were sent, at most [`PER_SECOND_MAX`].
    sent_at: VecDeque<Instant>,
    /// Accepted a moment ago, as far as one could know.
    accepted: VecDeque<(Instant, Waiting)>,
    /// So many fewer in a window than Pusher takes.
    held_back: usize,
    /// When one more is sent.
    recovers_at: Option<Instant>,
    paused_until: Option<Instant>,
}

impl fmt::Debug for ClientEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEvents").field("under_way", &self.under_way.len()).finish_non_exhaustive()
    }
}

impl ClientEvents {
    /// Whether nothing waits for Pusher or its answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lane.is_empty() && self.under_way.is_empty()
    }

    /// Whether an event of this channel waits.
    #[must_use]
    pub fn has(&self, channel: &str) -> bool {
        self.lane.has(channel)
    }

    /// `false`: there is nothing that [`Self::turn`] could send.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.lane.may_be_ready()
    }

    pub fn push(&mut self, item: Waiting) {
        self.lane.push(item);
    }

    /// The channel is subscribed: what waited for that has its turn.
    pub fn subscribed(&mut self, channel: &str) {
        self.lane.release(channel);
    }

    /// Another ping was sent.
    pub fn pinged(&mut self) {
        self.pings.push_back(false);
    }

    /// Whether nothing waits for Pusher's answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Nothing is sent for a moment.
    pub fn pause(&mut self, now: Instant) {
        self.paused_until = self.paused_until.max(Some(now + PAUSE));
    }

    /// There is another connection, on which everything is subscribed; nothing was under way.
    pub fn moved(&mut self) {
        self.pings.clear();
        self.accepted.clear();
        self.paused_until = None;
    }

    /// The connection is lost. What was under way may have been accepted, and is sent again over the next one.
    pub fn disconnected(&mut self) {
        self.pings.clear();
        self.sent_at.clear();
        self.accepted.clear();
        self.paused_until = None;
        for UnderWay { mut item, answer, .. } in self.under_way.drain(..) {
            item.job.maybe_accepted |= answer == Answer::Awaited;
            let (channel, until) = (item.channel.clone(), item.deadline);
            self.lane.ended(&channel, vec![item], Ended::Badly(until));
        }
    }

    /// A ping is answered.
    pub fn pong(&mut self, now: Instant, out: &mut Vec<Step>) {
        if self.pings.pop_front() == Some(true)
            && let Some(first) = self.under_way.pop_front()
        {
            self.answered(first, now, out);
        }
    }

    fn answered(&mut self, UnderWay { item, answer, .. }: UnderWay, now: Instant, out: &mut Vec<Step>) {
        let channel = item.channel.clone();
        match answer {
            Answer::Again(at) => self.lane.ended(&channel, vec![item], Ended::Badly(at)),
            Answer::Refused(why) => {
                self.lane.ended(&channel, Vec::new(), Ended::Well);
                out.push(Step::Settle(item.job, Fate::Refused(why)));
            }
            Answer::Awaited => {
                self.lane.ended(&channel, Vec::new(), Ended::Well);
                let Item { user, deadline, bytes, job, .. } = item;
                let again = ClientEvent::settled(job.sent.clone());
                self.accepted.push_back((now, Item { channel, user, deadline, bytes, job: again }));
                if job.is_new() {
                    out.push(Step::Deliver(job.sent.clone(), job.sender.clone()));
                }
                out.push(Step::Settle(job, Fate::Accepted));
            }
        }
    }

    /// The server did not take an event: the first that is not answered yet, else the last of those that seemed to be
    /// accepted, for a server may be late with its word. `false`: there is none.
    pub fn refused(&mut self, refusal: Refusal, why: &str, now: Instant) -> bool {
        let at = match refusal {
            Refusal::TooFast => self.slow_down(now),
            Refusal::NotSubscribed | Refusal::ForGood => now + PAUSE,
        };
        let is_rate = refusal == Refusal::TooFast;
        if let Some(first) = self.under_way.iter_mut().find(|one| one.answer == Answer::Awaited) {
            first.item.job.tries.rate_limited += u64::from(is_rate);
            first.answer = match refusal {
                Refusal::ForGood => Answer::Refused(why.to_owned()),
                Refusal::TooFast | Refusal::NotSubscribed => Answer::Again(at),
            };
            return true;
        }
        self.forget_accepted(now);
        let Some((_, item)) = self.accepted.pop_back().filter(|_| is_rate) else { return false };
        self.lane.push_first(item, at);
        true
    }

    /// Fewer in a window from now on.
    fn slow_down(&mut self, now: Instant) -> Instant {
        // Of one burst several may be refused.
        if self.paused_until.is_none_or(|until| until <= now) {
            self.held_back += (PER_SECOND_MAX - self.held_back) / 2;
        }
        self.recovers_at = Some(now + RECOVERY);
        self.paused_until = Some(now + PAUSE);
        now + PAUSE
    }

    fn forget_accepted(&mut self, now: Instant) {
        while self.accepted.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.accepted.pop_front();
        }
    }

    /// Looks at what is due: gives what is to be sent over subscribed channels, and what is late.
    pub fn turn(&mut self, now: Instant, is_subscribed: impl Fn(&str) -> bool, out: &mut Vec<Step>) {
        self.lane.wake(now);
        self.forget_accepted(now);
        while self.sent_at.len() > PER_SECOND_MAX {
            self.sent_at.pop_front();
        }
        while self.under_way.front().is_some_and(|first| first.until <= now) {
            if let Some(at) = self.pings.iter().position(|behind_event| *behind_event) {
                self.pings.drain(..=at);
            }
            if let Some(first) = self.under_way.pop_front() {
                self.answered(first, now, out);
            }
        }
        if self.recovers_at.is_some_and(|at| at <= now) {
            self.held_back = self.held_back.saturating_sub(1);
            self.recovers_at = (self.held_back > 0).then(|| now + RECOVERY);
        }
        while self.free_at().is_none_or(|at| at <= now) {
            let mut taken = self.lane.take_again(ONE, now);
            if taken.is_empty() {
                taken = self.lane.take(ONE, now);
            }
            let Some(mut item) = taken.pop() else { break };
            if !is_subscribed(&item.channel) {
                // Until it is.
                let (channel, until) = (item.channel.clone(), item.deadline);
                self.lane.ended(&channel, vec![item], Ended::Badly(until));
                continue;
            }
            item.job.tries.repeated += u64::from(item.job.maybe_accepted);
            self.sent_at.push_back(now);
            self.pings.push_back(true);
            out.push(Step::Send(item.job.sent.clone()));
            self.under_way.push_back(UnderWay { item, answer: Answer::Awaited, until: now + ANSWER_TIMEOUT });
        }
        for item in self.lane.take_late() {
            let maybe_accepted = item.job.maybe_accepted;
            out.push(Step::Settle(item.job, Fate::Expired { maybe_accepted }));
        }
    }

    /// When the next one may be sent; `None`: now.
    fn free_at(&self) -> Option<Instant> {
        let in_window = PER_SECOND_MAX - self.held_back;
        let first = self.sent_at.len().checked_sub(in_window).and_then(|at| self.sent_at.get(at));
        self.paused_until.max(first.map(|at| *at + WINDOW))
    }

    /// When [`Self::turn`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let ready = if self.may_send() { self.free_at() } else { None };
        let answer = self.under_way.front().map(|first| first.until);
        [self.lane.next_wake(), ready, answer].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
