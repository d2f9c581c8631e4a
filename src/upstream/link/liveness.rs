//! When a link pings, and when it gives its connection up.

use std::time::{Duration, Instant};

/// Time after which the link pings, if Pusher names no shorter one (protocol page, "Ping and pong").
const ACTIVITY_TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// When the connection must be pinged, and what has been heard. Pings do not wait for silence: servers that count only
/// what a client sends take a busy link that is silent itself for a dead one.
#[derive(Debug)]
pub struct Liveness {
    activity_timeout: Duration,
    pong_timeout: Duration,
    ping_due: Instant,
    /// When the ping was sent that nothing has followed yet.
    unanswered: Option<Instant>,
}

/// What [`Liveness::timer`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Send `pusher:ping`.
    Ping,
    /// Nothing came in time after a ping.
    Dead,
}

impl Liveness {
    /// Of a connection that was established now. `activity_timeout` is what the server wants.
    #[must_use]
    pub fn new(activity_timeout: Option<Duration>, pong_timeout: Duration, now: Instant) -> Self {
        let activity_timeout = activity_timeout.unwrap_or(ACTIVITY_TIMEOUT_MAX).min(ACTIVITY_TIMEOUT_MAX);
        Self { activity_timeout, pong_timeout, ping_due: now + activity_timeout, unanswered: None }
    }

    /// Something was received, whatever it is (protocol page: any message shows that the connection lives).
    pub fn heard(&mut self) {
        self.unanswered = None;
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        match self.unanswered {
            Some(at) => self.ping_due.min(at + self.pong_timeout),
            None => self.ping_due,
        }
    }

    /// The time has come that [`Self::deadline`] said.
    pub fn timer(&mut self, now: Instant) -> Due {
        if self.unanswered.is_some_and(|at| now >= at + self.pong_timeout) {
            return Due::Dead;
        }
        if now < self.ping_due {
            return Due::Nothing;
        }
        self.ping_due = now + self.activity_timeout;
        self.unanswered.get_or_insert(now);
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pings_come_in_time_whatever_arrives() {
        let begin = now().mono;
        let mut live = Liveness::new(Some(30 * SECOND), 10 * SECOND, begin);
        let mut pings = Vec::new();
        for second in 0..100 {
            live.heard();
            if live.timer(begin + second * SECOND) == Due::Ping {
                pings.push(second);
            }
        }
        assert_eq!(pings, [30, 60, 90]);
    }

    #[test]
    fn silence_after_a_ping_is_the_end_and_any_frame_is_an_answer() {
        let begin = now().mono;
        let mut live = Liveness::new(Some(30 * SECOND), 10 * SECOND, begin);
        assert_eq!(live.deadline(), begin + 30 * SECOND);
        assert_eq!(live.timer(begin + 29 * SECOND), Due::Nothing);
        assert_eq!(live.timer(begin + 30 * SECOND), Due::Ping);
        assert_eq!(live.deadline(), begin + 40 * SECOND);
        live.heard();
        assert_eq!(live.deadline(), begin + 60 * SECOND);
        assert_eq!(live.timer(begin + 60 * SECOND), Due::Ping);
        assert_eq!(live.timer(begin + 69 * SECOND), Due::Nothing);
        assert_eq!(live.timer(begin + 70 * SECOND), Due::Dead);
    }

    #[test]
    fn a_patience_longer_than_the_pause_is_not_extended_by_further_pings() {
        let begin = now().mono;
        let mut live = Liveness::new(Some(SECOND), 5 * SECOND, begin);
        let dues: Vec<Due> = (1..=6).map(|second| live.timer(begin + second * SECOND)).collect();
        assert_eq!(dues, [Due::Ping, Due::Ping, Due::Ping, Due::Ping, Due::Ping, Due::Dead]);
    }

    #[test]
    fn the_server_may_ask_for_earlier_pings_only() {
        let begin = now().mono;
        for (asked, due) in [(None, 120), (Some(30), 30), (Some(7200), 120)] {
            let live = Liveness::new(asked.map(|s| s * SECOND), 10 * SECOND, begin);
            assert_eq!(live.deadline(), begin + due * SECOND, "{asked:?}");
        }
    }
}
