//! The rates of one connection. Each is made when first needed: an idle client carries none.

use std::time::{Duration, Instant};

use crate::config::{Limits, Rate};
use crate::limits::rate::RateGate;

#[derive(Default)]
pub(super) struct Gates {
    messages: Option<Box<RateGate>>,
    auth: Option<Box<RateGate>>,
    control: Option<Box<RateGate>>,
}

impl Gates {
    /// A client message.
    pub(super) fn message(&mut self, limits: &Limits, now: Instant) -> Result<(), Duration> {
        check(&mut self.messages, limits.messages, now)
    }

    /// An `auth` message.
    pub(super) fn auth(&mut self, limits: &Limits, now: Instant) -> Result<(), Duration> {
        check(&mut self.auth, limits.auth_attempts, now)
    }

    /// A pong, a control frame, or a message refused for its rate: free, up to a ceiling.
    pub(super) fn control(&mut self, limits: &Limits, now: Instant) -> Result<(), Duration> {
        check(&mut self.control, Some(limits.control_frames), now)
    }
}

fn check(gate: &mut Option<Box<RateGate>>, rate: Option<Rate>, now: Instant) -> Result<(), Duration> {
    match rate {
        None => Ok(()),
        Some(rate) => gate.get_or_insert_with(|| Box::new(RateGate::new(rate))).check(now),
    }
}
