//! Which events of ours come back. A client's message is published without a `socket_id`, so that Pusher
//! returns it in its place among all others; only its sender must not get it again. It is known by what it
//! says: identical messages are interchangeable, so counting them is enough, and no id needs to be put into
//! anybody's data.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::legacy::id::ConnId;

/// Messages expected back on one channel; the oldest is forgotten beyond it.
const PER_CHANNEL_MAX: usize = 1024;
/// All channels are looked through no oftener: there may be many, and clients that leave by the hundred.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What an arriving event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Not one of ours.
    Foreign,
    /// Ours: for everybody but this connection.
    Own(ConnId),
    /// A second copy of one of ours, made by a retry: for nobody.
    Duplicate,
}

/// The messages that are expected back.
#[derive(Debug)]
pub struct Echoes {
    channels: HashMap<Arc<str>, VecDeque<Echo>>,
    hasher: RandomState,
    kept: Duration,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Echo {
    id: u64,
    hash: u64,
    origin: ConnId,
    until: Instant,
    seen: bool,
    accepted: bool,
    /// Copies beyond the first that may come, one for each retry whose forerunner may have been accepted.
    extra: u32,
}

impl Echoes {
    /// Messages are expected for `kept` after their last attempt.
    #[must_use]
    pub fn new(kept: Duration) -> Self {
        Self { channels: HashMap::new(), hasher: RandomState::new(), kept, swept: None }
    }

    /// A message is about to be sent for the first time.
    pub fn expect(
        &mut self,
        id: u64,
        channel: &Arc<str>,
        event: &str,
        data: &str,
        origin: ConnId,
        now: Instant,
    ) {
        let hash = self.hasher.hash_one((event, data));
        let echoes = self.channels.entry(channel.clone()).or_default();
        forget(echoes, now);
        if echoes.len() >= PER_CHANNEL_MAX {
            echoes.pop_front();
        }
        echoes.push_back(Echo {
            id,
            hash,
            origin,
            until: now + self.kept,
            seen: false,
            accepted: false,
            extra: 0,
        });
    }

    /// The message is about to be sent again, because nobody knows whether it was accepted. `true`: it has
    /// come back already, so it was, and must not be sent again.
    pub fn repeat(&mut self, id: u64, channel: &str, now: Instant) -> bool {
        let kept = self.kept;
        let echo = self.channels.get_mut(channel).and_then(|list| list.iter_mut().find(|echo| echo.id == id));
        let Some(echo) = echo else { return false };
        echo.until = now + kept;
        if !echo.seen {
            echo.extra += 1;
        }
        echo.seen
    }

    /// Whether the message has come back.
    #[must_use]
    pub fn has_returned(&self, id: u64, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|list| list.iter().any(|echo| echo.id == id && echo.seen))
    }

    /// The message was accepted by Pusher.
    pub fn accepted(&mut self, id: u64, channel: &str) {
        let echo = self.channels.get_mut(channel).and_then(|list| list.iter_mut().find(|echo| echo.id == id));
        if let Some(echo) = echo {
            echo.accepted = true;
        }
    }

    /// The message was accepted while the channel was not subscribed: that copy does not come.
    pub fn accepted_unheard(&mut self, id: u64, channel: &str) {
        if let Some(echoes) = self.channels.get_mut(channel) {
            echoes.retain_mut(|echo| echo.id != id || echo.without_the_accepted());
            if echoes.is_empty() {
                self.channels.remove(channel);
            }
        }
    }

    /// The connection is lost. What was accepted before does not come any more; kept, it would be taken for
    /// the next message that says the same.
    pub fn lost(&mut self) {
        self.channels.retain(|_, echoes| {
            echoes.retain_mut(|echo| !echo.accepted || echo.without_the_accepted());
            !echoes.is_empty()
        });
    }

    /// The message will not be accepted any more.
    pub fn cancel(&mut self, id: u64, channel: &str) {
        if let Some(echoes) = self.channels.get_mut(channel) {
            echoes.retain(|echo| echo.id != id);
            if echoes.is_empty() {
                self.channels.remove(channel);
            }
        }
    }

    /// An event has come.
    pub fn arrive(&mut self, channel: &str, event: &str, data: &str, now: Instant) -> Arrival {
        let Some(echoes) = self.channels.get_mut(channel) else { return Arrival::Foreign };
        forget(echoes, now);
        let hash = self.hasher.hash_one((event, data));
        let mut arrival = Arrival::Foreign;
        if let Some(echo) = echoes.iter_mut().find(|echo| echo.hash == hash && !echo.seen) {
            echo.seen = true;
            arrival = Arrival::Own(echo.origin);
        } else if let Some(echo) = echoes.iter_mut().find(|echo| echo.hash == hash && echo.extra > 0) {
            echo.extra -= 1;
            arrival = Arrival::Duplicate;
        }
        if echoes.is_empty() {
            self.channels.remove(channel);
        }
        arrival
    }

    /// Forgets what is overdue on every channel. May be called as often as there is occasion.
    pub fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.channels.retain(|_, echoes| {
            forget(echoes, now);
            !echoes.is_empty()
        });
    }
}

impl Echo {
    /// The copy that was accepted came before, or comes never. Whether one of an attempt without an answer may
    /// come still: a request can be carried out long after it was given up.
    fn without_the_accepted(&mut self) -> bool {
        if !self.seen {
            // The next copy is the first, for everybody but its sender.
            let Some(rest) = self.extra.checked_sub(1) else { return false };
            self.extra = rest;
            return true;
        }
        self.extra > 0
    }
}

/// What was seen stays until its time is over: a retry may be under way that asks for it.
fn forget(echoes: &mut VecDeque<Echo>, now: Instant) {
    echoes.retain(|echo| echo.until > now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::dialect::tests::now;

    const KEPT: Duration = Duration::from_secs(10);
    const A: ConnId = ConnId(1);
    const B: ConnId = ConnId(2);

    #[test]
    fn own_messages_are_known_by_what_they_say() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        assert_eq!(echoes.arrive("c", "e", "2", at), Arrival::Foreign);
        assert_eq!(echoes.arrive("c", "f", "1", at), Arrival::Foreign);
        assert_eq!(echoes.arrive("d", "e", "1", at), Arrival::Foreign);
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(A));
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Foreign, "somebody else said the same");
    }

    #[test]
    fn equal_messages_are_returned_to_neither_more_than_once() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        echoes.expect(2, &channel, "e", "1", B, at);
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(A));
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(B));
    }

    #[test]
    fn a_retrys_second_copy_is_for_nobody() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        assert!(!echoes.repeat(1, "c", at) && !echoes.has_returned(1, "c"));
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(A));
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Duplicate);
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Foreign);
    }

    #[test]
    fn what_came_back_is_not_sent_again() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(A));
        assert!(echoes.repeat(1, "c", at) && echoes.has_returned(1, "c"));
    }

    #[test]
    fn what_was_accepted_before_a_loss_is_not_expected_after_it() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        echoes.accepted(1, "c");
        echoes.expect(2, &channel, "e", "1", B, at);
        echoes.lost();
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(B), "one under way may come yet");
        assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Foreign);
    }

    #[test]
    fn a_late_copy_of_what_was_accepted_before_a_loss_is_known_after_it() {
        for (seen_before, expected) in
            [(true, [Arrival::Duplicate, Arrival::Foreign]), (false, [Arrival::Own(A), Arrival::Foreign])]
        {
            let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
            echoes.expect(1, &channel, "e", "1", A, at);
            assert!(!echoes.repeat(1, "c", at));
            echoes.accepted(1, "c");
            if seen_before {
                assert_eq!(echoes.arrive("c", "e", "1", at), Arrival::Own(A));
            }
            echoes.lost();
            assert_eq!([(); 2].map(|()| echoes.arrive("c", "e", "1", at)), expected);
        }
    }

    #[test]
    fn what_is_accepted_unheard_leaves_only_its_late_copies() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        echoes.accepted_unheard(1, "c");
        assert!(echoes.channels.is_empty());
        echoes.expect(2, &channel, "e", "2", A, at);
        assert!(!echoes.repeat(2, "c", at));
        echoes.accepted_unheard(2, "c");
        assert_eq!(echoes.arrive("c", "e", "2", at), Arrival::Own(A));
        assert_eq!(echoes.arrive("c", "e", "2", at), Arrival::Foreign);
    }

    #[test]
    fn what_never_comes_is_forgotten() {
        let (mut echoes, channel, at) = (Echoes::new(KEPT), Arc::from("c"), now().mono);
        echoes.expect(1, &channel, "e", "1", A, at);
        echoes.expect(2, &channel, "e", "2", A, at);
        echoes.cancel(2, "c");
        assert_eq!(echoes.arrive("c", "e", "2", at), Arrival::Foreign);
        assert_eq!(echoes.arrive("c", "e", "1", at + KEPT), Arrival::Foreign);
        echoes.sweep(at + KEPT);
        assert!(echoes.channels.is_empty());
    }
}
