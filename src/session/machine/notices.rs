//! What others tell a connection: the link, the publisher, newcomers, and the server that shuts down.

use std::time::Duration;

use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::clock::{Now, spread};
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::routes::route::{OnGap, OnUndecryptable};

impl Machine {
    /// A message of this client could not be carried.
    pub fn publish_failed(&mut self, code: ErrorCode, message_type: &str, now: Now, out: &mut Vec<Action>) {
        if self.is_live() {
            let details = serde_json::json!({ "type": message_type }).to_string();
            self.error(code, Some(&details), now, out);
        }
    }

    /// A backend has answered a message of this client.
    pub fn reply(&self, message_type: &str, data: &str, now: Now, out: &mut Vec<Action>) {
        if self.is_live() {
            out.extend(self.route.dialect.render_reply(message_type, data, now).map(Action::Send));
        }
    }

    /// Upstream events may have been missed.
    pub fn gap(&mut self, window: Duration, now: Now, out: &mut Vec<Action>) {
        match self.route.on_gap {
            _ if !self.is_live() => {}
            OnGap::Ignore => {}
            OnGap::Notify => self.error(ErrorCode::Gap, None, now, out),
            OnGap::Close => self.close_in_turn(CloseReason::Gap, window, now, out),
        }
    }

    /// An event of one of its channels could not be decrypted.
    pub fn undecryptable(&mut self, window: Duration, now: Now, out: &mut Vec<Action>) {
        match self.route.on_undecryptable {
            _ if !self.is_live() => {}
            OnUndecryptable::Drop => {}
            OnUndecryptable::Notify => self.error(ErrorCode::Undecryptable, None, now, out),
            OnUndecryptable::Close => self.close_in_turn(CloseReason::Undecryptable, window, now, out),
        }
    }

    /// Closes are spread over `window`: everybody missed the same at once, and who comes back asks for the state of
    /// things. Until then events go on.
    pub(super) fn close_in_turn(
        &mut self,
        why: CloseReason,
        window: Duration,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        if window.is_zero() {
            return self.close(why, out);
        }
        let after = spread(window, self.rng.f64());
        // A turn that it has already stays.
        if !self.timers.is_set(Timer::Missed) {
            self.liveness.missed = why;
            self.timers.set(Timer::Missed, now.mono + after);
        }
    }

    /// Another connection took this connection's slot.
    pub fn replaced(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.state, State::Closed) {
            self.close(CloseReason::Replaced, out);
        }
    }

    /// A backend wants the user's connections closed.
    pub fn terminated(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.state, State::Closed) {
            self.close(CloseReason::Terminated, out);
        }
    }

    /// The server shuts down; this connection is to close `after` some time.
    pub fn drain(&mut self, after: Duration, now: Now) {
        if !matches!(self.state, State::Closed) {
            self.timers.set(Timer::Drain, now.mono + after);
        }
    }
}
