//! The rates of one connection. Each is made when first needed: an idle client carries none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, Machine};
use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::limits::rate::{Rate, RateGate, SharedGate};
use crate::routes::route::Limits;

#[derive(Default)]
pub(super) struct Gates {
    messages: Option<Box<Messages>>,
    auth: Option<Box<RateGate>>,
    control: Option<Box<RateGate>>,
}

#[derive(Default)]
struct Messages {
    own: Option<RateGate>,
    /// All connections' of the user.
    users: Option<Arc<SharedGate>>,
}

impl Gates {
    /// The rates of `limits` hold from now on; who has one that is the same keeps what it has used of it. That of the user
    /// comes by [`Self::share`], if there is one.
    pub(super) fn follow(&mut self, before: &Limits, after: &Limits) {
        if let Some(messages) = &mut self.messages {
            messages.own = messages.own.take().filter(|_| before.messages == after.messages);
            messages.users = messages.users.take().filter(|_| after.messages_per_user.is_some());
        }
        self.auth = self.auth.take().filter(|_| before.auth_attempts == after.auth_attempts);
        self.control = self.control.take().filter(|_| before.control_frames == after.control_frames);
    }

    /// A client message: one of the connection's, and one of its user's.
    pub(super) fn message(&mut self, limits: &Limits, now: Instant) -> Result<(), Duration> {
        if limits.messages.is_none() && self.messages.is_none() {
            return Ok(());
        }
        let messages = self.messages.get_or_insert_default();
        if let Some(rate) = limits.messages {
            messages.own.get_or_insert_with(|| RateGate::new(rate)).check(now)?;
        }
        messages.users.as_ref().map_or(Ok(()), |gate| gate.check(now))
    }

    /// Messages take from the user's bucket as well from now on.
    pub(super) fn share(&mut self, gate: Arc<SharedGate>) {
        self.messages.get_or_insert_default().users = Some(gate);
    }

    pub(super) fn auth(&mut self, limits: &Limits, now: Instant) -> Result<(), Duration> {
        check(&mut self.auth, limits.auth_attempts, now)
    }

    /// A pong, a control frame, or a message above its rate: free, up to a ceiling.
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

impl Machine {
    /// Counts a message; above its rate the client is told, and above the ceiling closed.
    pub(super) fn allowed(&mut self, now: Now, out: &mut Vec<Action>) -> bool {
        let Err(wait) = self.gates.message(&self.route.limits, now.mono) else { return true };
        if self.gates.control(&self.route.limits, now.mono).is_err() {
            self.close(CloseReason::ControlFlood, out);
        } else {
            self.wait_error(ErrorCode::RateLimited, wait, now, out);
        }
        false
    }

    /// Counts a pong or control frame. Answers to pings of ours are free: how many there are is not up to the
    /// client, for others who want its slot have it probed.
    pub(super) fn flood_check(&mut self, now: Now, out: &mut Vec<Action>) {
        if !self.liveness.settle_ping() && self.gates.control(&self.route.limits, now.mono).is_err() {
            self.close(CloseReason::ControlFlood, out);
        }
    }
}
