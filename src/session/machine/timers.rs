//! The deadlines of one connection.

use std::time::{Duration, Instant};

use crate::clock::{Now, spread};
use crate::routes::route::{Heartbeat, HeartbeatKind};

/// While a token is judged, the deadline and the expiry stand still: that it waits, where its address guesses or for
/// keys, is not its client's doing. At most so long, all tokens of one deadline together.
pub const JUDGING_MAX: Duration = Duration::from_secs(10);

/// Each may be set; [`Timers::next`] is the earliest.
pub(super) struct Timers {
    /// The end of the current state: the auth deadline, a subscription's wait, a refusal's hold.
    pub(super) phase: Option<Instant>,
    /// The next heartbeat.
    pub(super) ping: Option<Instant>,
    /// When silence is judged. Moved only when it is due, so that a frame costs no timer.
    pub(super) silence: Option<Instant>,
    /// When a probed client must have answered.
    pub(super) probe: Option<Instant>,
    /// The token's expiry.
    pub(super) expiry: Option<Instant>,
    /// When this connection's turn comes in a shutdown.
    pub(super) drain: Option<Instant>,
    /// When its turn comes to be closed for what it may have missed.
    pub(super) gap: Option<Instant>,
    /// When the client was last heard.
    pub(super) heard: Instant,
    /// How long the deadline may yet stand still.
    pub(super) pause_left: Duration,
    rng: fastrand::Rng,
}

impl Timers {
    pub(super) fn new(now: Now, seed: u64) -> Self {
        Self {
            phase: None,
            ping: None,
            silence: None,
            probe: None,
            expiry: None,
            drain: None,
            gap: None,
            heard: now.mono,
            pause_left: JUDGING_MAX,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        [self.phase, self.ping, self.silence, self.probe, self.expiry, self.drain, self.gap]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn clear(&mut self) {
        self.phase = None;
        self.ping = None;
        self.silence = None;
        self.probe = None;
        self.expiry = None;
        self.drain = None;
        self.gap = None;
    }

    pub(super) fn start_heartbeat(&mut self, heartbeat: Heartbeat, now: Now) {
        if heartbeat.kind != HeartbeatKind::None {
            self.schedule_ping(heartbeat, now);
            self.silence = Some(now.mono + heartbeat.timeout);
        }
    }

    /// A token is being judged: the deadline and the expiry wait, as long as they may.
    pub(super) fn hold(&mut self) {
        self.phase = self.phase.map(|at| at + self.pause_left);
        self.expiry = self.expiry.map(|at| at + JUDGING_MAX);
    }

    /// It has been judged: the deadline goes on from where it stood, but for a token that was `wrong`, and the expiry is
    /// the old one again: whoever guesses gains no time by it. Gives how long the token waited, as far as that counts.
    pub(super) fn go_on(&mut self, since: Instant, wrong: bool, now: Now) -> Duration {
        let waited = now.mono.saturating_duration_since(since);
        let paused = if wrong { Duration::ZERO } else { waited.min(self.pause_left) };
        self.phase = self.phase.map(|at| at - (self.pause_left - paused));
        self.pause_left -= paused;
        self.expiry = self.expiry.map(|at| at - JUDGING_MAX);
        waited.min(JUDGING_MAX)
    }

    /// The interval ±10 %, so that clients that came together do not stay together.
    pub(super) fn schedule_ping(&mut self, heartbeat: Heartbeat, now: Now) {
        let factor = 0.9 + 0.2 * self.rng.f64();
        self.ping = Some(now.mono + heartbeat.every.mul_f64(factor));
    }

    /// Gives this connection its turn within `window`; one that it has already stays.
    pub(super) fn schedule_gap(&mut self, window: Duration, now: Now) {
        let after = spread(window, self.rng.f64());
        self.gap.get_or_insert(now.mono + after);
    }

    /// Sets the expiry from the token's `exp` in Unix seconds and the leeway.
    pub(super) fn expire_at(&mut self, unix_seconds: i64, leeway: Duration, now: Now) {
        let leeway_ms = i64::try_from(leeway.as_millis()).unwrap_or(i64::MAX);
        let end_ms = unix_seconds.saturating_mul(1000).saturating_add(leeway_ms);
        let left = Duration::from_millis(u64::try_from(end_ms.saturating_sub(now.unix_ms)).unwrap_or(0));
        // A token for the next century needs no timer, and must not overflow the clock.
        self.expiry = now.mono.checked_add(left);
    }
}

/// Whether the timer is set and has come.
pub(super) fn due(timer: Option<Instant>, now: Now) -> bool {
    timer.is_some_and(|at| at <= now.mono)
}
