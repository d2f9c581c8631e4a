//! A route: one old endpoint, as the file describes it, validated.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::events::EventRule;
use super::membership::Membership;
use super::origins::Origins;
use super::path::PathTemplate;
use crate::auth::settings::RouteAuth;
use crate::deprecation::Policy;
use crate::legacy::dialect::Dialect;
use crate::limits::rate::Rate;
use crate::limits::slots::{Scope, SlotLimit};
use crate::pusher::channel::{USER_CHANNEL, user_of};
use crate::template::{CharSet, Choice, Frame, Text};

/// `[[routes]]`: one old endpoint.
#[derive(Debug, PartialEq)]
pub struct Route {
    /// The route's name: the label of its metrics.
    pub name: Arc<str>,
    pub path: PathTemplate,
    /// The Pusher channel. With `{subscribe.x}` in it, it is chosen in band.
    pub channel: Text,
    /// Values that each in-band field may take; a field not listed may take any that is legal in a channel.
    pub subscribe_values: Vec<Listed>,
    /// What other values may contain; the path's are in its template.
    pub value_sets: ValueSets,
    /// Routes of other rules that may have channels in common with this one.
    pub shares: Vec<Arc<str>>,
    pub dialect: Arc<Dialect>,
    /// As whom clients are subscribed to presence channels, or to what is sent to their user. `None`: neither.
    pub membership: Option<Membership>,
    /// `None`: no authentication.
    pub auth: Option<RouteAuth>,
    /// Which events of the channel a client gets; `None`: all.
    pub filter: Option<Filter>,
    /// What clients may publish; the first rule that has the type applies.
    pub publish: Vec<PublishRule>,
    /// What is made of the channel's events; the first rule that matches applies.
    pub events: Vec<EventRule>,
    /// What of Pusher's own events clients get.
    pub pusher_events: PusherEvents,
    /// Largest data of a published event, bytes: `upstream.event_bytes`.
    pub event_bytes_max: usize,
    /// Names that clients' events must not have: those of the server's frames, in the dialects of all routes that may
    /// share the channel.
    pub reserved: Vec<String>,
    /// Every client frame is returned to its sender, byte for byte, and nothing is published.
    pub echo: bool,
    pub heartbeat: Heartbeat,
    pub limits: Limits,
    /// The end of this endpoint; `None`: not deprecated.
    pub deprecation: Option<Policy>,
    /// How refusals are sent.
    pub refusal: TellRefusal,
    /// What is sent to clients when events may have been missed.
    pub on_gap: OnGap,
    /// What is sent to clients when an event cannot be decrypted (default nothing).
    pub on_undecryptable: OnUndecryptable,
    /// Allowed `Origin`s; `None`: any. A request without `Origin` is not from a browser and passes.
    pub origins: Option<Origins>,
    /// Subprotocols, of which the first that a client offers is selected.
    pub subprotocols: Vec<String>,
}

/// An in-band field, and what its values may be.
pub type Listed = (String, Vec<Choice>);

/// What the values of placeholders may be, beside those of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueSets {
    /// The characters of the user's id; tokens of other users are not accepted. `None`: any.
    pub user: Option<CharSet>,
    /// The characters of in-band fields; one that is not here may have any.
    pub subscribe: Vec<(String, CharSet)>,
    /// Ids that the user must not have; tokens of these are not accepted.
    pub not_user: Vec<Choice>,
    /// What in-band fields must not be.
    pub not_subscribe: Vec<Listed>,
}

impl ValueSets {
    /// What an in-band field must not be.
    #[must_use]
    pub fn not_of_field(&self, field: &str) -> &[Choice] {
        self.not_subscribe.iter().find(|(name, _)| name == field).map_or(&[], |(_, not)| not)
    }

    /// The characters of an in-band field.
    #[must_use]
    pub fn of_field(&self, field: &str) -> Option<CharSet> {
        self.subscribe.iter().find(|(name, _)| name == field).map(|(_, set)| *set)
    }
}

impl Route {
    /// Whether the channel is chosen by in-band `subscribe` messages.
    #[must_use]
    pub fn channel_is_chosen(&self) -> bool {
        self.channel.subscribe_field().is_some()
    }

    /// Whether an in-band field may have this value.
    #[must_use]
    pub fn takes_in_band(&self, field: &str, value: &str) -> bool {
        if self.value_sets.not_of_field(field).iter().any(|not| not.fits(value)) {
            return false;
        }
        match self.subscribe_values.iter().find(|(name, _)| name == field) {
            Some((_, choices)) => choices.iter().any(|choice| choice.fits(value)),
            None => {
                let set = self.value_sets.of_field(field);
                set.map_or(!value.is_empty(), |set| set.fits(value))
            }
        }
    }

    /// The name by which the route's clients know `channel`: what they chose, or the name itself; a user's own channel
    /// without his id.
    #[must_use]
    pub fn alias<'a>(&self, channel: &'a str) -> &'a str {
        if self.channel_is_chosen() {
            self.channel.invert(channel).unwrap_or(channel)
        } else if user_of(channel).is_some() {
            USER_CHANNEL
        } else {
            channel
        }
    }

    /// Whether the filter's value is chosen by in-band `subscribe` messages.
    #[must_use]
    pub fn filter_is_chosen(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| f.equals.subscribe_field().is_some())
    }
}

/// A route's `pusher_events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PusherEvents {
    /// How many subscriptions the channel has, by the event `subscription_count`.
    pub subscription_count: bool,
    /// Whom of his watchlist a user's client sees come and go, by the event `watchlist_events`.
    pub watchlist: bool,
}

/// A route's `filter`: only events whose data has `field` equal to `equals`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Members from the data's root to the value.
    pub field: Vec<String>,
    /// The value: a string's text or a number's digits.
    pub equals: Text,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PublishRule {
    /// Client message types; `*` is any.
    pub types: TypeSet,
    pub action: PublishAction,
    /// Nothing is published to a channel that is known to have no subscriber (default false).
    pub skip_if_empty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeSet {
    /// Every type but the dialect's own.
    Any,
    Listed(Vec<String>),
}

/// What becomes of a client message.
#[derive(Clone)]
pub enum PublishAction {
    /// An event on the client's channel, or on another.
    Trigger {
        /// The event's name (default `client-{type}`).
        event: Text,
        /// The event's data; `None`: the message's `data` where the frame has nothing else to say, else the
        /// whole frame.
        data: Option<Frame>,
        /// Whether old clients on this bridge see the name as sent, not as published.
        relay_as_sent: bool,
        /// The channel, where it is not the client's own.
        elsewhere: Option<Elsewhere>,
        way: Way,
    },
    /// Nothing: it is counted, and its sender is not told.
    Drop,
    /// A POST to a backend.
    Post {
        /// The URL; values are percent-encoded into it.
        url: Text,
        body: Frame,
        /// Further headers.
        headers: Vec<(String, SecretString)>,
        /// Statuses that mean the backend did not process the message, so that it may be sent again.
        retry_on: Vec<u16>,
        /// Whether its answer goes back to the sender.
        replies: bool,
    },
}

/// How an event leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the HTTP API, as a backend's would.
    Api,
    /// Over the connection that carries its channel, as Pusher's own clients send theirs.
    ClientEvent,
}

/// A publish rule's `channel`: another than the route's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    pub channel: Text,
    /// As [`Route::reserved`], of the routes that may share that channel.
    pub reserved: Vec<String>,
}

impl PartialEq for PublishAction {
    fn eq(&self, other: &Self) -> bool {
        let same = |headers: &[(String, SecretString)], others: &[(String, SecretString)]| {
            headers.len() == others.len()
                && headers.iter().zip(others).all(|((name, value), (other_name, other_value))| {
                    name == other_name && value.expose_secret() == other_value.expose_secret()
                })
        };
        match (self, other) {
            (
                Self::Trigger { event, data, relay_as_sent, elsewhere, way },
                Self::Trigger {
                    event: other_event,
                    data: other_data,
                    relay_as_sent: other_relay,
                    elsewhere: other_elsewhere,
                    way: other_way,
                },
            ) => {
                (event, data, relay_as_sent, elsewhere, way)
                    == (other_event, other_data, other_relay, other_elsewhere, other_way)
            }
            (Self::Drop, Self::Drop) => true,
            (
                Self::Post { url, body, headers, retry_on, replies },
                Self::Post {
                    url: other_url,
                    body: other_body,
                    headers: other_headers,
                    retry_on: other_retry,
                    replies: other_replies,
                },
            ) => {
                (url, body, retry_on, replies) == (other_url, other_body, other_retry, other_replies)
                    && same(headers, other_headers)
            }
            (Self::Trigger { .. } | Self::Drop | Self::Post { .. }, _) => false,
        }
    }
}

/// A route's `heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub kind: HeartbeatKind,
    /// The interval, jittered by ±10 % (default 30 s).
    pub every: Duration,
    /// Silence after which the connection is closed (default 75 s).
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatKind {
    /// The dialect's `ping` frame.
    Json,
    /// A WebSocket ping (RFC 6455 §5.5.2).
    WebSocket,
    Both,
    /// None; silence closes nothing.
    None,
}

impl HeartbeatKind {
    /// Whether the dialect's `ping` is sent.
    #[must_use]
    pub const fn json(self) -> bool {
        matches!(self, Self::Json | Self::Both)
    }

    /// Whether WebSocket pings are sent.
    #[must_use]
    pub const fn websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::Both)
    }
}

/// A route's `limits`. A rate of `None` is "unlimited".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Per user, over all routes of the same group; acquired at authentication (default none).
    pub connections_per_user: Option<SlotLimit>,
    /// Per client address, over all routes of the same group; acquired at the upgrade (default none).
    pub connections_per_address: Option<usize>,
    /// Per filled key; acquired at authentication.
    pub exclusive: Option<Exclusive>,
    /// What `connections_per_…` is counted over.
    pub scope: Scope,
    /// Client messages per connection, pongs excepted.
    pub messages: Option<Rate>,
    /// The same per user, over all routes of the same group that have the same rate (default none).
    pub messages_per_user: Option<Rate>,
    /// `auth` messages per connection.
    pub auth_attempts: Option<Rate>,
    /// Pongs and control frames per connection; above, the connection is closed (default 600 a minute).
    pub control_frames: Rate,
    /// Largest client message in bytes; above 1009 (default 64 KiB).
    pub message_bytes_max: usize,
    /// Deepest nesting of a client message (default 64).
    pub depth_max: usize,
    /// In-band subscriptions of one connection (default 100).
    pub subscriptions_max: usize,
    /// Frames waiting for a slow reader (default 1,024).
    pub outbox_frames_max: usize,
    /// Bytes waiting for a slow reader (default 1 MiB).
    pub outbox_bytes_max: usize,
}

/// `limits.exclusive`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusive {
    /// What is counted.
    pub key: Text,
    pub slots: SlotLimit,
}

/// How refusals are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TellRefusal {
    /// By HTTP status, before the upgrade.
    Http,
    /// By an error frame and, after `hold`, a close: a browser cannot read an HTTP refusal, and a client that
    /// is closed at once comes back at once.
    Frame {
        /// How long the connection is kept before the close (default 30 s).
        hold: Duration,
    },
}

/// What is sent to clients when upstream events may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing: counted and logged only.
    Ignore,
    /// An error frame with the code `EVENTS_MAY_BE_MISSING`.
    Notify,
    /// Closed with 1001, so that the client reconnects and fetches its state.
    Close,
}

/// What is sent to clients when an event of their encrypted channel cannot be decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUndecryptable {
    /// Nothing: counted and logged only.
    Drop,
    /// An error frame with the code `EVENT_NOT_DECRYPTED`.
    Notify,
    /// Closed with 1001, so that the client reconnects and fetches its state.
    Close,
}
