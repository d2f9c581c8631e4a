//! Whether subscriptions have gone deaf: a server may forget one while the connection looks healthy. What the server
//! does when a channel is subscribed twice is learned on a channel of the link's own. One that rejects that, as the
//! hosted service does, shows by not rejecting it that it had forgotten a subscription: there one channel at a time is
//! subscribed again, all of them once in an interval. With any other server no client's channel is subscribed twice,
//! and a [`super::probe`] on the link's own channel shows what can be shown.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least time between two checks, however many channels there are.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// What the server does when a channel is subscribed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twice {
    /// Not learned yet.
    Unknown,
    /// It answers with an error (hosted Pusher: "Existing subscription to channel …").
    Rejects,
    /// It confirms again (sockudo, soketi, Reverb), answers something else or nothing, or ends the connection.
    ShowsNothing,
}

#[derive(Debug)]
struct Pending {
    channel: Arc<str>,
    deadline: Instant,
}

/// The checks of one link.
#[derive(Debug)]
pub struct Checks {
    /// All channels are checked once in it; `None`: never.
    interval: Option<Duration>,
    answer_timeout: Duration,
    twice: Twice,
    /// The link's own channel on this connection.
    own: Arc<str>,
    own_is_subscribed: bool,
    next: Option<Instant>,
    /// What is still to be checked of this round.
    round: VecDeque<Arc<str>>,
    pause: Duration,
    pending: Option<Pending>,
}

/// What [`Checks::timer`] asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    Nothing,
    /// Subscribe this channel again, or for the first time if it is the link's own.
    Subscribe(Arc<str>),
    /// It is known now what the server does.
    Learned,
    /// The connection answers nothing any more.
    Dead,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answers no check.
    Unrelated,
    Subscribed,
    /// The channel had been forgotten: events may have been missed.
    Forgotten,
    /// Subscribe it once more.
    Again,
    /// It is known now what the server does.
    Learned,
}

impl Checks {
    /// Of a link without a connection.
    #[must_use]
    pub fn new(interval: Option<Duration>, answer_timeout: Duration) -> Self {
        Self {
            interval,
            answer_timeout,
            twice: Twice::Unknown,
            own: "".into(),
            own_is_subscribed: false,
            next: None,
            round: VecDeque::new(),
            pause: PAUSE_MIN,
            pending: None,
        }
    }

    /// A new connection is established, whose own channel is `own`. What the server does is remembered.
    pub fn connected(&mut self, own: Arc<str>, now: Instant) {
        self.own = own;
        self.own_is_subscribed = false;
        self.pending = None;
        self.round.clear();
        self.next =
            self.interval.filter(|_| self.twice != Twice::ShowsNothing).map(|interval| now + interval);
    }

    /// The connection is lost. One that ends over a second subscription is not asked for it again.
    pub fn disconnected(&mut self) {
        if self.pending.take().is_some_and(|pending| pending.channel == self.own) && self.own_is_subscribed {
            self.twice = Twice::ShowsNothing;
        }
        self.next = None;
    }

    /// Whether the server rejects a second subscription.
    #[must_use]
    pub fn rejects(&self) -> bool {
        self.twice == Twice::Rejects
    }

    /// Whether only a [`crate::upstream::probe`] shows that the connection delivers.
    #[must_use]
    pub fn shows_nothing(&self) -> bool {
        self.twice == Twice::ShowsNothing
    }

    /// Whether the link's own channel is subscribed.
    #[must_use]
    pub const fn own_is_subscribed(&self) -> bool {
        self.own_is_subscribed
    }

    /// Whether a check's answer is awaited.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.pending {
            Some(pending) => Some(pending.deadline),
            None => self.next,
        }
    }

    /// The time has come that [`Self::deadline`] said. `subscribed` gives the channels that can be checked, for a new
    /// round, and `is_subscribed` says whether one still can.
    pub fn timer<I: IntoIterator<Item = Arc<str>>>(
        &mut self,
        now: Instant,
        subscribed: impl FnOnce() -> I,
        is_subscribed: impl Fn(&str) -> bool,
    ) -> Check {
        if self.deadline().is_none_or(|at| at > now) {
            return Check::Nothing;
        }
        match self.pending.take() {
            Some(pending) if pending.channel != self.own => return Check::Dead,
            Some(_) => {
                self.stop();
                return if self.own_is_subscribed { Check::Learned } else { Check::Nothing };
            }
            None => {}
        }
        let (Some(interval), Twice::Rejects) = (self.interval, self.twice) else {
            self.next = None;
            self.ask(self.own.clone(), now);
            return Check::Subscribe(self.own.clone());
        };
        if self.round.is_empty() {
            self.round.extend(subscribed());
            // In the same order on every run.
            self.round.make_contiguous().sort_unstable();
            let channels = u32::try_from(self.round.len()).unwrap_or(u32::MAX).max(1);
            self.pause = (interval / channels).max(PAUSE_MIN);
        }
        self.next = Some(now + self.pause);
        while let Some(channel) = self.round.pop_front() {
            if is_subscribed(&channel) {
                self.ask(channel.clone(), now);
                return Check::Subscribe(channel);
            }
        }
        Check::Nothing
    }

    pub fn confirmed(&mut self, channel: &str, now: Instant) -> Answer {
        let Some(pending) = self.pending.take_if(|pending| *pending.channel == *channel) else {
            return Answer::Unrelated;
        };
        if pending.channel != self.own {
            return Answer::Forgotten;
        }
        if std::mem::replace(&mut self.own_is_subscribed, true) {
            self.stop();
            return Answer::Learned;
        }
        self.ask(pending.channel, now);
        Answer::Again
    }

    /// A subscription was rejected because the channel is subscribed already.
    pub fn exists(&mut self, channel: &str, now: Instant) -> Answer {
        let Some(pending) = self.pending.take_if(|pending| *pending.channel == *channel) else {
            return Answer::Unrelated;
        };
        if pending.channel != self.own {
            return Answer::Subscribed;
        }
        self.twice = Twice::Rejects;
        self.next = self.interval.map(|interval| now + interval);
        Answer::Learned
    }

    /// An error came that may answer a check; `others` says whether it may as well answer a subscription.
    pub fn failed(&mut self, message: &str, others: bool) -> Answer {
        let answers = |pending: &Pending| message.contains(&*pending.channel) || !others;
        if !self.pending.as_ref().is_some_and(answers) {
            return Answer::Unrelated;
        }
        self.stop();
        if self.own_is_subscribed { Answer::Learned } else { Answer::Subscribed }
    }

    fn ask(&mut self, channel: Arc<str>, now: Instant) {
        self.pending = Some(Pending { channel, deadline: now + self.answer_timeout });
    }

    fn stop(&mut self) {
        self.twice = Twice::ShowsNothing;
        self.pending = None;
        self.next = None;
        self.round.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    const INTERVAL: Duration = Duration::from_secs(300);
    const TIMEOUT: Duration = Duration::from_secs(10);

    struct Bench {
        checks: Checks,
        now: Instant,
        channels: Vec<Arc<str>>,
    }

    impl Bench {
        fn new(channels: &[&str]) -> Self {
            let mut checks = Checks::new(Some(INTERVAL), TIMEOUT);
            let now = now().mono;
            checks.connected("own".into(), now);
            Self { checks, now, channels: channels.iter().map(|name| Arc::from(*name)).collect() }
        }

        /// Of a server that is known to reject a second subscription.
        fn rejecting(channels: &[&str]) -> Self {
            let mut b = Self::new(channels);
            assert_eq!(b.next(), subscribe("own"));
            assert_eq!(b.confirmed("own"), Answer::Again);
            assert_eq!(b.exists("own"), Answer::Learned);
            assert!(b.checks.rejects());
            b
        }

        /// Goes to the next deadline.
        fn next(&mut self) -> Check {
            self.now = self.checks.deadline().unwrap();
            let channels = self.channels.clone();
            self.checks.timer(self.now, || channels.clone(), |name| channels.iter().any(|c| **c == *name))
        }

        fn confirmed(&mut self, channel: &str) -> Answer {
            self.checks.confirmed(channel, self.now)
        }

        fn exists(&mut self, channel: &str) -> Answer {
            self.checks.exists(channel, self.now)
        }
    }

    fn subscribe(channel: &str) -> Check {
        Check::Subscribe(channel.into())
    }

    #[test]
    fn each_channel_has_its_turn_once_in_an_interval() {
        let mut b = Bench::rejecting(&["a", "b", "c"]);
        let begin = b.now;
        assert_eq!(b.next(), subscribe("a"));
        assert_eq!(b.now, begin + INTERVAL);
        assert_eq!(b.exists("a"), Answer::Subscribed);
        b.channels.remove(1);
        assert_eq!(b.next(), subscribe("c"), "b is not subscribed any more");
        assert_eq!(b.now, begin + INTERVAL + INTERVAL / 3);
        assert_eq!(b.exists("c"), Answer::Subscribed);
        assert_eq!(b.next(), subscribe("a"));
        let mut none = Bench::rejecting(&[]);
        let begin = none.now;
        assert_eq!((none.next(), none.next()), (Check::Nothing, Check::Nothing));
        assert_eq!(none.now, begin + 2 * INTERVAL);
        assert_eq!(Checks::new(None, TIMEOUT).deadline(), None);
    }

    #[test]
    fn where_a_second_subscription_is_rejected_one_that_is_not_tells_that_it_was_forgotten() {
        let mut b = Bench::rejecting(&["a"]);
        b.next();
        assert_eq!(b.confirmed("b"), Answer::Unrelated);
        assert_eq!([b.confirmed("a"), b.confirmed("a")], [Answer::Forgotten, Answer::Unrelated]);
        b.checks.disconnected();
        b.checks.connected("next".into(), b.now);
        assert_eq!(b.next(), subscribe("a"), "the next connection is to the same server");
        assert_eq!(b.confirmed("a"), Answer::Forgotten);
    }

    #[test]
    fn a_server_that_used_to_answer_and_does_not_is_dead() {
        let mut b = Bench::rejecting(&["a"]);
        b.next();
        let asked = b.now;
        assert_eq!(b.next(), Check::Dead);
        assert_eq!(b.now, asked + TIMEOUT);
    }

    #[test]
    fn where_it_shows_nothing_no_clients_channel_is_subscribed_twice() {
        let confirms = |b: &mut Bench| assert_eq!(b.confirmed("own"), Answer::Learned);
        let is_silent = |b: &mut Bench| assert_eq!(b.next(), Check::Learned);
        let says_otherwise = |b: &mut Bench| {
            assert_eq!(
                b.checks.failed("Who are you?", true),
                Answer::Unrelated,
                "a subscription may be meant"
            );
            assert_eq!(b.checks.failed("already: own", true), Answer::Learned);
        };
        let ends = |b: &mut Bench| b.checks.disconnected();
        for answer in [&confirms as &dyn Fn(&mut Bench), &is_silent, &says_otherwise, &ends] {
            let mut b = Bench::new(&["a"]);
            assert_eq!(b.next(), subscribe("own"));
            assert_eq!(b.confirmed("own"), Answer::Again);
            answer(&mut b);
            assert!(b.checks.shows_nothing());
            assert_eq!(b.checks.deadline(), None);
            b.checks.connected("next".into(), b.now);
            assert_eq!(b.checks.deadline(), None);
        }
    }

    #[test]
    fn a_server_without_private_channels_is_left_alone() {
        let mut b = Bench::new(&["a"]);
        b.next();
        assert_eq!(b.checks.failed("no private channels", false), Answer::Subscribed);
        assert_eq!(b.checks.deadline(), None);
        let mut b = Bench::new(&["a"]);
        b.next();
        assert_eq!((b.next(), b.checks.deadline()), (Check::Nothing, None));
    }
}
