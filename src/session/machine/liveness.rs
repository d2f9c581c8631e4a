//! Whether the client is alive: heartbeats, silence, and probes by those who want its slot.

use std::time::{Duration, Instant};

use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::routes::route::HeartbeatKind;

/// How many answers to pings may come late and yet be no flood; clients that answer none save up no more.
pub const PINGS_OWED_MAX: u8 = 16;

pub(super) struct Liveness {
    heard: Instant,
    /// Pings that it has yet to answer, [`PINGS_OWED_MAX`] at most.
    pings_owed: u8,
    /// Why it has a turn to be closed, if it has one: here it takes no room.
    pub(super) missed: CloseReason,
}

impl Liveness {
    pub(super) const fn new(opened: Instant) -> Self {
        Self { heard: opened, pings_owed: 0, missed: CloseReason::Gap }
    }

    /// Whether a frame may be the answer to a ping of ours; then it is.
    pub(super) const fn settle_ping(&mut self) -> bool {
        let owed = self.pings_owed > 0;
        self.pings_owed = self.pings_owed.saturating_sub(1);
        owed
    }

    fn owe_ping(&mut self) {
        self.pings_owed = (self.pings_owed + 1).min(PINGS_OWED_MAX);
    }
}

impl Machine {
    /// A sign of life that is no message: the client reads what had waited for it.
    pub fn heard(&mut self, now: Now) {
        self.liveness.heard = now.mono;
        self.timers.clear(Timer::Probe);
    }

    #[must_use]
    pub fn heard_within(&self, time: Duration, now: Now) -> bool {
        now.mono < self.liveness.heard + time
    }

    /// A WebSocket ping or pong. tungstenite answers the ping.
    pub fn control(&mut self, now: Now, out: &mut Vec<Action>) {
        self.heard(now);
        self.flood_check(now, out);
    }

    /// Somebody wants this connection's slot: it must show within `timeout` that it is alive.
    pub fn probe(&mut self, timeout: Duration, now: Now, out: &mut Vec<Action>) {
        if matches!(self.state, State::Closed) || self.timers.is_set(Timer::Probe) {
            return;
        }
        self.timers.set(Timer::Probe, now.mono + timeout);
        self.ping(true, now, out);
    }

    pub(super) fn probe_over(&mut self, out: &mut Vec<Action>) {
        // While frames wait unread, its answer may be among them.
        if self.wants_frames() {
            self.close(CloseReason::Replaced, out);
        }
    }

    pub(super) fn start_heartbeat(&mut self, now: Now) {
        if self.route.heartbeat.kind != HeartbeatKind::None {
            self.schedule_ping(now);
            self.timers.set(Timer::Silence, now.mono + self.route.heartbeat.timeout);
        }
    }

    /// The interval ±10 %, so that clients that came together do not stay together.
    fn schedule_ping(&mut self, now: Now) {
        let factor = 0.9 + 0.2 * self.rng.f64();
        self.timers.set(Timer::Ping, now.mono + self.route.heartbeat.every.mul_f64(factor));
    }

    pub(super) fn heartbeat(&mut self, now: Now, out: &mut Vec<Action>) {
        self.ping(false, now, out);
        self.schedule_ping(now);
    }

    pub(super) fn judge_silence(&mut self, now: Now, out: &mut Vec<Action>) {
        // While a token is verified the client's frames wait unread: that is no silence.
        let heard = if self.wants_frames() { self.liveness.heard } else { now.mono };
        let until = heard + self.route.heartbeat.timeout;
        if until <= now.mono {
            return self.close(CloseReason::Silent, out);
        }
        self.timers.set(Timer::Silence, until);
    }

    fn ping(&mut self, probe: bool, now: Now, out: &mut Vec<Action>) {
        let kind = self.route.heartbeat.kind;
        if kind.json()
            && let Some(ping) = self.route.dialect.render_ping(now)
        {
            out.push(Action::Send(ping));
            self.liveness.owe_ping();
        }
        // A probe must reach even a client that answers no JSON ping: its WebSocket library does.
        if kind.websocket() || probe {
            out.push(Action::WsPing);
            self.liveness.owe_ping();
        }
    }
}
