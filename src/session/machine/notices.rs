//! What others tell a connection: the link, the publisher, newcomers, and the server that shuts down.

use std::time::Duration;

use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::clock::{Now, spread};
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::routes::route::OnGap;

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

    /// Upstream events may have been missed. Closes are spread over `window`: everybody missed them at once, and who
    /// comes back asks for the state of things. Until then events go on.
    pub fn gap(&mut self, window: Duration, now: Now, out: &mut Vec<Action>) {
        match self.route.on_gap {
            _ if !self.is_live() => {}
            OnGap::Ignore => {}
            OnGap::Notify => self.error(ErrorCode::Gap, None, now, out),
            OnGap::Close if window.is_zero() => self.close(CloseReason::Gap, out),
            OnGap::Close => {
                let after = spread(window, self.rng.f64());
                // A turn that it has already stays.
                if !self.timers.is_set(Timer::Gap) {
                    self.timers.set(Timer::Gap, now.mono + after);
                }
            }
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
