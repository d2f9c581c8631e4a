//! The session's state machine: what one connection of an old client may do, and when. It takes inputs with the time
//! and gives actions; the driver (`session/mod.rs`) carries them out.

mod choices;
mod following;
mod gates;
mod liveness;
mod messages;
mod notices;
mod phases;
mod replies;
mod subscriptions;
mod timers;
mod tokens;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use self::gates::Gates;
use self::liveness::Liveness;
pub use self::liveness::PINGS_OWED_MAX;
use self::phases::State;
use self::subscriptions::Subscriptions;
use self::timers::TimerTable;
use self::tokens::Tokens;
pub use self::tokens::{JUDGING_MAX, Judgement, Outcome};
use crate::auth::{Identity, TokenResult};
use crate::clock::Now;
use crate::exchange::{Member, Subscribe, Via};
use crate::json::{self, Object};
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::limits::rate::SharedGate;
use crate::pusher::channel::{ChannelKind, user_of};
use crate::routes::channel::NoChannel;
use crate::routes::membership::Membership;
use crate::routes::path::PathValues;
use crate::routes::publish::Outgoing;
use crate::routes::route::Route;
use crate::template::Var;

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Action {
    Send(String),
    /// Send a text frame that tells this error.
    Error(ErrorCode, String),
    WsPing,
    /// Verify this token (without `Bearer `), then call [`Machine::judged`].
    Verify(String),
    /// Note an attempt to authenticate that ended before [`Action::Verify`].
    Unverified(TokenResult),
    /// Acquire the slots of this user and key, then call [`Machine::slots`].
    Acquire {
        user: Identity,
        /// The filled key of `limits.exclusive`, and the issuer where the user is part of it.
        exclusive: Option<Identity>,
    },
    Release,
    /// Subscribe; the outcome comes by [`Machine::subscribed`].
    Subscribe(Subscribe),
    /// End the subscription of this number.
    Unsubscribe(u32),
    /// Publish; a failure comes by [`Machine::publish_failed`].
    Publish {
        outgoing: Outgoing,
        /// The client's channel: the order's key.
        channel: String,
        /// The client message's type, for an error's details.
        message_type: String,
    },
    /// Close the connection. The machine answers nothing any more.
    Close(CloseReason),
}

/// What is left to do with a message that the machine has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    Consumed,
    /// Return it to the client, as it came.
    Echo,
}

/// What a connection is when it opens.
pub struct Opening {
    pub route: Arc<Route>,
    /// Its path as it came, without the query.
    pub endpoint: String,
    pub values: PathValues,
    /// A token that came with the upgrade request; empty when what is in its place is none.
    pub token: Option<String>,
    /// The upgrade was granted only to tell this refusal.
    pub refusal: Option<ErrorCode>,
    /// How long a subscription may take to be confirmed.
    pub subscribe_wait: Duration,
    /// Seeds the jitter of heartbeats.
    pub seed: u64,
}

pub struct Machine {
    route: Arc<Route>,
    endpoint: Box<str>,
    values: PathValues,
    state: State,
    user: Option<Identity>,
    /// Who it is to Pusher, on routes whose clients are not all one.
    member: Option<Arc<Member>>,
    tokens: Tokens,
    subscriptions: Subscriptions,
    liveness: Liveness,
    gates: Gates,
    timers: TimerTable,
    rng: fastrand::Rng,
}

impl Machine {
    /// A connection that has just been upgraded.
    pub fn open(opening: Opening, now: Now, out: &mut Vec<Action>) -> Self {
        let Opening { route, endpoint, values, token, refusal, subscribe_wait, seed } = opening;
        let mut machine = Self {
            route,
            endpoint: endpoint.into(),
            values,
            state: State::Unauthenticated,
            user: None,
            member: None,
            tokens: Tokens::default(),
            subscriptions: Subscriptions::new(subscribe_wait),
            liveness: Liveness::new(now.mono),
            gates: Gates::default(),
            timers: TimerTable::new(now.mono),
            rng: fastrand::Rng::with_seed(seed),
        };
        machine.member = machine.route.membership.as_ref().and_then(Membership::at_once);
        if let Some(code) = refusal {
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
            }
        }
        machine
    }

    /// Whether the driver may hand in the client's next frame. While it may not, it reads none.
    #[must_use]
    pub const fn wants_frames(&self) -> bool {
        matches!(self.state, State::Unauthenticated | State::Live | State::RefusalTold)
    }

    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, State::Live | State::Verifying { renewal: true, .. })
    }

    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.subject.as_str())
    }

    /// Who the authenticated user is, and by whose word.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.user.as_ref()
    }

    /// The rate of all messages of the connection's user, where the route has one. To be given with the slots.
    pub fn rate_user(&mut self, gate: Arc<SharedGate>) {
        self.gates.share(gate);
    }

    /// The filled key of `limits.exclusive` of a user who is in service.
    #[must_use]
    pub fn exclusive_key(&self) -> Option<Identity> {
        let user = self.user.as_ref()?;
        self.exclusive_of(&user.subject, user.issuer.as_ref())
    }

    /// The client's channel, with a chosen part from `object`.
    fn channel(&self, object: Option<&Object<'_>>) -> Result<String, NoChannel> {
        self.route.channel_with(|var| self.value_of(var, object))
    }

    /// Whose subscription of the channel is the client's.
    fn via(&self, channel: &str) -> Via {
        let of_member = || ChannelKind::of(channel) == ChannelKind::Presence || user_of(channel).is_some();
        self.member.as_ref().filter(|_| of_member()).map_or(Via::Shared, |member| Via::Member(member.clone()))
    }

    fn value_of<'a>(&'a self, var: &Var, object: Option<&Object<'a>>) -> Option<Cow<'a, str>> {
        match var {
            Var::Path(name) => self.values.get(name).map(Cow::Borrowed),
            Var::User => self.user().map(Cow::Borrowed),
            Var::Subscribe(field) => object?.at(field).and_then(json::scalar),
            Var::Type => None,
        }
    }
}
