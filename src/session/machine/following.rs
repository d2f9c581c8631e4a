//! What a connection makes of it that the routes have changed while it is there.

use std::sync::Arc;
use std::time::Duration;

use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::routes::route::Route;

impl Machine {
    /// The next version of its route, which changes nothing that it cannot take over, holds from now on.
    pub fn follow(&mut self, route: Arc<Route>, now: Now) {
        let before = std::mem::replace(&mut self.route, route);
        self.gates.follow(&before.limits, &self.route.limits);
        if before.heartbeat != self.route.heartbeat && self.is_live() {
            self.timers.clear(Timer::Ping);
            self.timers.clear(Timer::Silence);
            self.start_heartbeat(now);
        }
    }

    /// Its route is gone, or has changed in what it cannot take over: it has a turn to be closed within `window`.
    pub fn left_behind(&mut self, window: Duration, now: Now, out: &mut Vec<Action>) {
        if !matches!(self.state, State::Closed) {
            self.close_in_turn(CloseReason::RouteChanged, window, now, out);
        }
    }

    /// Its route is in force, as it may not have been before.
    pub fn in_force(&mut self) {
        if self.liveness.missed == CloseReason::RouteChanged {
            self.timers.clear(Timer::Missed);
        }
    }
}
