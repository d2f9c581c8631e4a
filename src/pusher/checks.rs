//! Whether subscriptions have gone deaf: a server may forget one while the connection looks healthy. One channel at a
//! time is subscribed again, all of them once in an interval. That mends what was forgotten; and a server that refuses
//! to subscribe a channel twice, as the hosted service does, shows by not refusing that it had forgotten it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least time between two checks, however many channels there are.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// What the server does when a channel is subscribed twice. Learned from what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twice {
    /// Not seen yet.
    Unknown,
    /// It answers with an error (hosted Pusher: "Existing subscription to channel …").
    Refuses,
    /// It confirms again (sockudo, soketi, Reverb): then a check mends, and shows nothing.
    Confirms,
    /// It does something else. No more checks on this connection.
    Unusable,
}

#[derive(Debug)]
struct Asked {
    channel: Arc<str>,
    deadline: Instant,
    /// It was confirmed a moment ago, and asked for once more to see what that means.
    again: bool,
}

/// The checks of one link.
#[derive(Debug)]
pub struct Checks {
    /// All channels are checked once in it; `None`: never.
    interval: Option<Duration>,
    answer_timeout: Duration,
    twice: Twice,
    next: Option<Instant>,
    /// What is still to be checked of this round.
    round: VecDeque<Arc<str>>,
    pause: Duration,
    asked: Option<Asked>,
}

/// What [`Checks::timer`] asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    Nothing,
    /// Subscribe this channel again.
    Subscribe(Arc<str>),
    /// The connection answers nothing any more.
    Dead,
}

/// What an answer says of a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was not asked for by a check.
    NotAsked,
    /// It is subscribed, as far as can be told.
    Subscribed,
    /// It had been forgotten: events may have been missed.
    Forgotten,
    /// Subscribe it once more.
    AskAgain,
}

impl Checks {
    /// Of a link without a connection.
    #[must_use]
    pub fn new(interval: Option<Duration>, answer_timeout: Duration) -> Self {
        Self {
            interval,
            answer_timeout,
            twice: Twice::Unknown,
            next: None,
            round: VecDeque::new(),
            pause: PAUSE_MIN,
            asked: None,
        }
    }

    /// A new connection is established. What the server does with a second subscription is remembered.
    pub fn connected(&mut self, now: Instant) {
        if self.twice == Twice::Unusable {
            self.twice = Twice::Unknown;
        }
        self.asked = None;
        self.round.clear();
        self.next = self.interval.map(|interval| now + interval);
    }

    /// Whether the server confirms a second subscription like the first: then only a [`super::probe`] shows that the
    /// connection delivers nothing.
    #[must_use]
    pub fn confirms(&self) -> bool {
        self.twice == Twice::Confirms
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.asked {
            Some(asked) => Some(asked.deadline),
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
        if self.asked.take().is_some() {
            if matches!(self.twice, Twice::Refuses | Twice::Confirms) {
                return Check::Dead;
            }
            self.stop();
            return Check::Nothing;
        }
        let Some(interval) = self.interval else { return Check::Nothing };
        if self.round.is_empty() {
            self.round.extend(subscribed());
            let channels = u32::try_from(self.round.len()).unwrap_or(u32::MAX).max(1);
            self.pause = (interval / channels).max(PAUSE_MIN);
        }
        self.next = Some(now + self.pause);
        while let Some(channel) = self.round.pop_front() {
            if is_subscribed(&channel) {
                self.ask(channel.clone(), false, now);
                return Check::Subscribe(channel);
            }
        }
        Check::Nothing
    }

    /// A subscription was confirmed.
    pub fn confirmed(&mut self, channel: &str, now: Instant) -> Answer {
        let Some(asked) = self.asked.take_if(|asked| *asked.channel == *channel) else {
            return Answer::NotAsked;
        };
        match (asked.again, self.twice) {
            (false, Twice::Unknown) => {
                self.ask(asked.channel, true, now);
                Answer::AskAgain
            }
            (false, Twice::Refuses) => Answer::Forgotten,
            _ => {
                self.twice = Twice::Confirms;
                Answer::Subscribed
            }
        }
    }

    /// A subscription was refused because the channel is subscribed already.
    pub fn exists(&mut self, channel: &str) -> Answer {
        let Some(asked) = self.asked.take_if(|asked| *asked.channel == *channel) else {
            return Answer::NotAsked;
        };
        self.twice = Twice::Refuses;
        // The first time it was not refused.
        if asked.again { Answer::Forgotten } else { Answer::Subscribed }
    }

    /// An error came that names no channel, or `channel`. `true`: it answers a check, and there are no more on this
    /// connection; `others` says whether it may as well answer a subscription.
    pub fn refused(&mut self, message: &str, others: bool) -> bool {
        let answers = |asked: &Asked| message.contains(&*asked.channel) || !others;
        let ours = self.asked.as_ref().is_some_and(answers);
        if ours {
            self.stop();
        }
        ours
    }

    fn ask(&mut self, channel: Arc<str>, again: bool, now: Instant) {
        self.asked = Some(Asked { channel, deadline: now + self.answer_timeout, again });
    }

    fn stop(&mut self) {
        self.twice = Twice::Unusable;
        self.asked = None;
        self.next = None;
        self.round.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::dialect::tests::now;

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
            checks.connected(now);
            Self { checks, now, channels: channels.iter().map(|name| Arc::from(*name)).collect() }
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
    }

    fn subscribe(channel: &str) -> Check {
        Check::Subscribe(channel.into())
    }

    #[test]
    fn each_channel_has_its_turn_once_in_an_interval() {
        let mut b = Bench::new(&["a", "b", "c"]);
        let begin = b.now;
        assert_eq!(b.next(), subscribe("a"));
        assert_eq!(b.now, begin + INTERVAL);
        assert_eq!(b.checks.exists("a"), Answer::Subscribed);
        b.channels.remove(1);
        assert_eq!(b.next(), subscribe("c"), "b is not subscribed any more");
        assert_eq!(b.now, begin + INTERVAL + INTERVAL / 3);
        assert_eq!(b.checks.exists("c"), Answer::Subscribed);
        assert_eq!(b.next(), subscribe("a"));
        let mut none = Bench::new(&[]);
        let begin = none.now;
        assert_eq!((none.next(), none.next()), (Check::Nothing, Check::Nothing));
        assert_eq!(none.now, begin + 2 * INTERVAL);
        assert_eq!(Checks::new(None, TIMEOUT).deadline(), None);
    }

    #[test]
    fn where_a_second_subscription_is_refused_one_that_is_not_tells_that_it_was_forgotten() {
        let mut b = Bench::new(&["a"]);
        b.next();
        // Nothing is known of the server yet: it is asked once more.
        assert_eq!(b.confirmed("a"), Answer::AskAgain);
        assert_eq!(b.checks.exists("a"), Answer::Forgotten);
        b.next();
        assert_eq!(b.checks.exists("a"), Answer::Subscribed);
        b.next();
        assert_eq!(b.confirmed("a"), Answer::Forgotten);
        assert_eq!(b.confirmed("a"), Answer::NotAsked);
        b.checks.connected(b.now);
        b.next();
        assert_eq!(b.confirmed("a"), Answer::Forgotten, "the next connection is to the same server");
    }

    #[test]
    fn where_it_is_confirmed_again_nothing_is_told_by_that() {
        let mut b = Bench::new(&["a"]);
        b.next();
        assert_eq!(b.confirmed("b"), Answer::NotAsked);
        assert_eq!([b.confirmed("a"), b.confirmed("a")], [Answer::AskAgain, Answer::Subscribed]);
        b.next();
        assert_eq!([b.confirmed("a"), b.confirmed("a")], [Answer::Subscribed, Answer::NotAsked]);
    }

    #[test]
    fn a_server_that_used_to_answer_and_does_not_is_dead() {
        let mut b = Bench::new(&["a"]);
        b.next();
        b.checks.exists("a");
        b.next();
        let asked = b.now;
        assert_eq!(b.next(), Check::Dead);
        assert_eq!(b.now, asked + TIMEOUT);
    }

    #[test]
    fn a_server_that_has_no_use_for_checks_is_left_alone() {
        let mut b = Bench::new(&["c1"]);
        b.next();
        assert_eq!(b.next(), Check::Nothing, "not answered");
        assert_eq!(b.checks.deadline(), None);
        b.checks.connected(b.now);
        b.next();
        assert!(!b.checks.refused("Who are you?", true), "a subscription may be meant");
        assert!(b.checks.refused("Who are you?", false));
        assert_eq!(b.checks.deadline(), None);
        b.checks.connected(b.now);
        b.next();
        assert!(b.checks.refused("twice: c1", true));
        assert!(!b.checks.refused("twice: c1", true));
    }
}
