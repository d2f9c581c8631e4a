//! Whether a connection still delivers, where subscribing again shows nothing (see [`super::checks`]): the link is
//! subscribed to a channel of its own, and when no event at all has come for a while it publishes one there. A server
//! that accepts it and does not deliver it has forgotten the connection.

use std::time::{Duration, Instant};

/// The probe of one link.
#[derive(Debug)]
pub struct Probe {
    /// A silence this long is looked into; `None`: never.
    interval: Option<Duration>,
    /// From the acceptance of the event to its arrival.
    arrival_timeout: Duration,
    state: State,
    /// An event has come since the last look.
    heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not subscribed to the channel, nor to be.
    Off,
    Subscribing,
    Idle {
        next: Instant,
    },
    Publishing,
    Awaiting {
        until: Instant,
    },
}

/// What [`Probe::timer`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Publish an event on the channel.
    Publish,
    /// The connection delivers nothing any more.
    Deaf,
}

impl Probe {
    /// Of a link without a connection.
    #[must_use]
    pub const fn new(interval: Option<Duration>, arrival_timeout: Duration) -> Self {
        Self { interval, arrival_timeout, state: State::Off, heard: false }
    }

    pub fn disconnected(&mut self) {
        self.state = State::Off;
    }

    /// The server is one that needs it. `true`: the channel is to be subscribed now.
    pub fn begin(&mut self) -> bool {
        let begins = self.interval.is_some() && self.state == State::Off;
        if begins {
            self.state = State::Subscribing;
        }
        begins
    }

    pub fn subscribed(&mut self, now: Instant) {
        if self.state == State::Subscribing {
            self.rest(now);
        }
    }

    /// An event of any other channel has come.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// The channel's event has come.
    pub fn arrived(&mut self, now: Instant) {
        if matches!(self.state, State::Publishing | State::Awaiting { .. }) {
            self.rest(now);
        }
    }

    /// The event was accepted, or not. What was not says nothing of the connection.
    pub fn published(&mut self, accepted: bool, now: Instant) {
        match self.state {
            State::Publishing if accepted => {
                self.state = State::Awaiting { until: now + self.arrival_timeout };
            }
            State::Publishing => self.rest(now),
            _ => {}
        }
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Idle { next } => Some(next),
            State::Awaiting { until } => Some(until),
            State::Off | State::Subscribing | State::Publishing => None,
        }
    }

    /// The time has come that [`Self::deadline`] said.
    pub fn timer(&mut self, now: Instant) -> Due {
        match self.state {
            State::Awaiting { until } if now >= until => Due::Deaf,
            State::Idle { next } if now >= next => {
                if std::mem::take(&mut self.heard) {
                    self.rest(now);
                    return Due::Nothing;
                }
                self.state = State::Publishing;
                Due::Publish
            }
            _ => Due::Nothing,
        }
    }

    fn rest(&mut self, now: Instant) {
        if let Some(interval) = self.interval {
            self.state = State::Idle { next: now + interval };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    const INTERVAL: Duration = Duration::from_secs(300);
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn subscribed() -> (Probe, Instant) {
        let (mut probe, now) = (Probe::new(Some(INTERVAL), TIMEOUT), now().mono);
        assert!(probe.begin() && !probe.begin());
        assert_eq!(probe.deadline(), None);
        probe.subscribed(now);
        (probe, now)
    }

    #[test]
    fn a_silent_link_publishes_and_what_does_not_arrive_is_the_end() {
        let (mut probe, now) = subscribed();
        let at = now + INTERVAL;
        assert_eq!((probe.deadline(), probe.timer(at)), (Some(at), Due::Publish));
        probe.published(true, at);
        assert_eq!(probe.timer(at), Due::Nothing);
        probe.arrived(at);
        let at = at + INTERVAL;
        assert_eq!((probe.deadline(), probe.timer(at)), (Some(at), Due::Publish));
        probe.published(true, at);
        assert_eq!(probe.deadline(), Some(at + TIMEOUT));
        assert_eq!(probe.timer(at + TIMEOUT), Due::Deaf);
    }

    #[test]
    fn a_link_that_gets_events_publishes_nothing() {
        let (mut probe, now) = subscribed();
        probe.heard();
        assert_eq!(probe.timer(now + INTERVAL), Due::Nothing);
        assert_eq!(probe.timer(now + 2 * INTERVAL), Due::Publish, "none since");
    }

    #[test]
    fn an_arrival_may_come_before_the_answer_and_a_failure_says_nothing() {
        let (mut probe, now) = subscribed();
        let at = now + INTERVAL;
        probe.timer(at);
        probe.arrived(at);
        probe.published(true, at);
        assert_eq!(probe.deadline(), Some(at + INTERVAL));
        probe.timer(at + INTERVAL);
        probe.published(false, at + INTERVAL);
        assert_eq!(probe.deadline(), Some(at + 2 * INTERVAL));
    }

    #[test]
    fn it_begins_anew_with_each_connection_and_not_where_it_is_off() {
        let (mut probe, _) = subscribed();
        probe.disconnected();
        assert_eq!(probe.deadline(), None);
        assert!(probe.begin());
        assert!(!Probe::new(None, TIMEOUT).begin());
    }
}
