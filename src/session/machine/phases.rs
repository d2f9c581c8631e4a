//! The states of a connection, and the ways from one to the next.

use std::time::{Duration, Instant};

use super::timers::Timer;
use super::{Action, Machine};
use crate::auth::Claims;
use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::routes::route::TellRefusal;

pub(super) enum State {
    Unauthenticated,
    /// A token is being verified. `renewal`: the connection is live and stays so.
    Verifying {
        renewal: bool,
        since: Instant,
    },
    /// The token is good; slots are being acquired.
    Acquiring(Box<Claims>),
    /// The slots are held; the fixed subscription is not confirmed yet.
    Subscribing,
    Live,
    /// Told a refusal, kept a while, then closed.
    RefusalTold,
    Closed,
}

impl Machine {
    pub(super) fn await_token(&mut self, now: Now) {
        self.state = State::Unauthenticated;
        self.timers.put(Timer::Phase, self.route.auth.as_ref().map(|auth| now.mono + auth.deadline));
        self.tokens.allow_pause();
    }

    pub(super) fn go_live(&mut self, now: Now) {
        self.state = State::Live;
        self.timers.clear(Timer::Phase);
        self.start_heartbeat(now);
    }

    pub(super) fn refuse(&mut self, code: ErrorCode, now: Now, out: &mut Vec<Action>) {
        // On an echo route too, which says nothing else of its own.
        out.push(Action::Error(code, self.route.dialect.render_error(code, code.message(), "{}", now)));
        self.state = State::RefusalTold;
        let hold = match self.route.refusal {
            TellRefusal::Frame { hold } => hold,
            TellRefusal::Http => Duration::ZERO,
        };
        self.timers.set(Timer::Phase, now.mono + hold);
    }

    pub(super) fn close(&mut self, reason: CloseReason, out: &mut Vec<Action>) {
        self.state = State::Closed;
        self.timers.clear_all();
        self.subscriptions.clear();
        out.push(Action::Close(reason));
    }

    /// The state has lasted as long as it may.
    pub(super) fn phase_over(&mut self, now: Now, out: &mut Vec<Action>) {
        match self.state {
            State::Unauthenticated | State::Verifying { renewal: false, .. } => {
                self.close(self.tokens.why_late(), out);
            }
            State::Subscribing => self.give_up_subscribing(ErrorCode::UpstreamUnavailable, now, out),
            State::RefusalTold => self.close(CloseReason::Refused, out),
            State::Live => self.tell_unsubscribed(now, out),
            _ => {}
        }
    }
}
