//! The session's state machine: what one connection of an old client may do, and when. It takes inputs with
//! the time and gives actions; the driver (`session.rs`) carries them out.

mod gates;
mod inputs;
mod timers;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use self::gates::Gates;
pub use self::timers::JUDGING_MAX;
pub use self::tokens::Outcome;

use self::timers::Timers;
use crate::auth::{Claims, Identity};
use crate::clock::Now;
use crate::exchange::{Interest, Subscribe};
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::limits::rate::SharedGate;
use crate::routes::path::PathValues;
use crate::routes::publish::Outgoing;
use crate::routes::route::{Refusal, Route};

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Send a text frame.
    Send(String),
    /// Send a text frame that tells this error.
    Error(ErrorCode, String),
    /// Return a client's message to it, as it came.
    Echo,
    /// Send a WebSocket ping.
    WsPing,
    /// Verify this token (without `Bearer `), then call [`Machine::verified`] or [`Machine::unjudged`].
    Verify(String),
    /// Take the slots of this user and key, then call [`Machine::slots`].
    Acquire {
        /// The user.
        user: Identity,
        /// The filled key of `limits.exclusive`, and the issuer where the user is part of it.
        exclusive: Option<Identity>,
    },
    /// Give the slots back.
    Release,
    /// Subscribe; the outcome comes by [`Machine::subscribed`].
    Subscribe(Subscribe),
    /// End the subscription of this number.
    Unsubscribe(u32),
    /// Publish; a failure comes by [`Machine::publish_failed`].
    Publish {
        /// What.
        outgoing: Outgoing,
        /// The client's channel: the order's key.
        channel: String,
        /// The client message's type, for an error's details.
        message_type: String,
    },
    /// Close the connection. The machine answers nothing any more.
    Close(CloseReason),
}

/// What a connection is when it opens.
pub struct Opening {
    /// Its route.
    pub route: Arc<Route>,
    /// Its path as it came, without the query.
    pub endpoint: String,
    /// The path's values.
    pub values: PathValues,
    /// A token that came with the upgrade request; empty when what stands in its place is none.
    pub token: Option<String>,
    /// The upgrade was granted only to tell this refusal.
    pub refused: Option<ErrorCode>,
    /// How long a subscription may take to stand.
    pub subscribe_wait: Duration,
    /// Seeds the jitter of heartbeats.
    pub seed: u64,
}

/// One connection's state.
pub struct Machine {
    route: Arc<Route>,
    endpoint: String,
    values: PathValues,
    state: State,
    user: Option<Identity>,
    /// In-band subscriptions.
    chosen: Vec<Chosen>,
    next_id: u32,
    gates: Gates,
    timers: Timers,
    subscribe_wait: Duration,
    too_many_wrong_tokens: bool,
    /// Pings that the client has yet to answer, [`PINGS_OWED_MAX`] at most.
    pings_owed: u8,
}

enum State {
    /// Waiting for a token.
    Unauthenticated,
    /// A token is being verified. `renewal`: the connection is live and stays so.
    Verifying { renewal: bool, since: std::time::Instant },
    /// The token is good; slots are being taken.
    Acquiring(Box<Claims>),
    /// Slots are taken; the channel's subscription is awaited.
    Subscribing,
    /// In service.
    Live,
    /// Told a refusal, kept a while, then closed.
    Refused,
    /// Over.
    Closed,
}

/// One in-band subscription.
struct Chosen {
    id: u32,
    channel: String,
    value: Option<String>,
    /// Until when it must stand; `None`: it does.
    awaited_until: Option<std::time::Instant>,
}

/// So many pings may be answered late and yet be no flood; clients that answer none save up no more.
pub const PINGS_OWED_MAX: u8 = 16;

/// The number of the subscription that the path alone determines.
const FIXED: u32 = 0;

impl Machine {
    /// A connection that has just been upgraded.
    pub fn open(opening: Opening, now: Now, out: &mut Vec<Action>) -> Self {
        let Opening { route, endpoint, values, token, refused, subscribe_wait, seed } = opening;
        let timers = Timers::new(now, seed);
        let mut machine = Self {
            gates: Gates::default(),
            route,
            endpoint,
            values,
            state: State::Unauthenticated,
            user: None,
            chosen: Vec::new(),
            next_id: FIXED + 1,
            timers,
            subscribe_wait,
            too_many_wrong_tokens: false,
            pings_owed: 0,
        };
        if let Some(code) = refused {
            machine.refuse(code, now, out);
        } else if machine.route.auth.is_some() {
            machine.await_token(now);
            if let Some(token) = token {
                machine.auth(Some(&token), now, out);
            }
        } else {
            machine.go_live(now);
            if !machine.route.channel_is_chosen() {
                machine.subscribe_fixed(None, now, out);
                if matches!(out.last(), Some(Action::Subscribe(_))) {
                    machine.timers.phase = Some(now.mono + subscribe_wait);
                }
            }
        }
        machine
    }

    /// Whether the driver may hand in the client's next frame. While it may not, it reads none.
    #[must_use]
    pub const fn wants_frames(&self) -> bool {
        matches!(self.state, State::Unauthenticated | State::Live | State::Refused)
    }

    /// Whether the client is in service.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, State::Live | State::Verifying { renewal: true, .. })
    }

    /// Whether the client has been heard in this time.
    #[must_use]
    pub fn heard_within(&self, time: Duration, now: Now) -> bool {
        now.mono < self.timers.heard + time
    }

    /// The authenticated user.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.subject.as_str())
    }

    /// Who the authenticated user is, and by whose word.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.user.as_ref()
    }

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<std::time::Instant> {
        let awaited = self.chosen.iter().filter_map(|chosen| chosen.awaited_until).min();
        [self.timers.next(), awaited].into_iter().flatten().min()
    }

    /// The rate of all messages of the connection's user, where the route has one. To be given with the slots.
    pub fn rate_user(&mut self, gate: Arc<SharedGate>) {
        self.gates.share(gate);
    }

    fn await_token(&mut self, now: Now) {
        self.state = State::Unauthenticated;
        self.timers.phase = self.route.auth.as_ref().map(|auth| now.mono + auth.deadline);
        self.timers.pause_left = JUDGING_MAX;
    }

    fn go_live(&mut self, now: Now) {
        self.state = State::Live;
        self.timers.phase = None;
        self.timers.start_heartbeat(self.route.heartbeat, now);
    }

    fn refuse(&mut self, code: ErrorCode, now: Now, out: &mut Vec<Action>) {
        // On an echo route too, which says nothing else of its own.
        out.push(Action::Error(code, self.route.dialect.render_error(code, code.message(), "{}", now)));
        self.state = State::Refused;
        let hold = match self.route.refusal {
            Refusal::Frame { hold } => hold,
            Refusal::Http => Duration::ZERO,
        };
        self.timers.phase = Some(now.mono + hold);
    }

    fn close(&mut self, reason: CloseReason, out: &mut Vec<Action>) {
        self.state = State::Closed;
        self.timers.clear();
        self.chosen.clear();
        out.push(Action::Close(reason));
    }

    /// Subscribes to the channel that the path determines.
    fn subscribe_fixed(&mut self, confirm: Option<String>, now: Now, out: &mut Vec<Action>) {
        let Some(channel) = self.channel(None) else {
            return self.error(ErrorCode::InvalidField, None, now, out);
        };
        let interest = match &self.route.filter {
            None => Interest::All,
            Some(_) if self.route.filter_is_chosen() => Interest::Hold,
            Some(filter) => match filter.equals.fill(|var| self.value_of(var, None)) {
                Some(value) => Interest::Value(value),
                None => Interest::Hold,
            },
        };
        out.push(Action::Subscribe(Subscribe { id: FIXED, channel, interest, confirm }));
    }

    /// Tells the client an error; `details` is a JSON object.
    fn error(&self, code: ErrorCode, details: Option<&str>, now: Now, out: &mut Vec<Action>) {
        if self.route.echo {
            return;
        }
        let own;
        let details = match (details, code) {
            (Some(details), _) => details,
            (None, ErrorCode::AuthRequired) => {
                own = self.auth_required_details();
                &own
            }
            (None, _) => "{}",
        };
        out.push(Action::Error(code, self.route.dialect.render_error(code, code.message(), details, now)));
    }

    fn auth_error(&self, code: ErrorCode, wait: Option<Duration>, now: Now, out: &mut Vec<Action>) {
        let (message, details) = match wait {
            Some(wait) => with_wait(code, wait),
            None => (code.message().to_owned(), "{}".to_owned()),
        };
        out.push(Action::Error(code, self.route.dialect.render_auth_error(code, &message, &details, now)));
    }

    /// A limit was exceeded: the client is told how long to wait.
    fn rate_error(&self, code: ErrorCode, wait: Duration, now: Now, out: &mut Vec<Action>) {
        let (message, details) = with_wait(code, wait);
        out.push(Action::Error(code, self.route.dialect.render_error(code, &message, &details, now)));
    }

    fn auth_required_details(&self) -> String {
        let permissions = self.route.auth.as_ref().map_or(&[][..], |auth| auth.permissions.as_slice());
        serde_json::json!({ "endpoint": self.endpoint, "required_permissions": permissions }).to_string()
    }
}

/// A message and details that tell the time to wait, in whole milliseconds, rounded up.
fn with_wait(code: ErrorCode, wait: Duration) -> (String, String) {
    let ms = wait.as_nanos().div_ceil(1_000_000);
    (format!("{}: wait {ms} ms", code.message()), format!("{{\"retry_after_ms\":{ms}}}"))
}
