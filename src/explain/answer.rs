//! Pure: what is answered, for people and as JSON.

use serde::Serialize;

use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::server::refusal::{ExplainedRefusal, Refusal};

/// What becomes of a request, and of its connection.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The path that was asked for.
    pub path: String,
    pub target: Target,
    /// What the path gives to the route's placeholders.
    pub values: Vec<Value>,
    /// The channel; as the file has it where it is not known.
    pub channel: Option<String>,
    /// What was looked at, in order.
    pub checks: Vec<Check>,
    pub outcome: Outcome,
    /// Whether the client is in service after all that it sent.
    pub is_live: bool,
    /// What the client sent, and what came of each.
    pub steps: Vec<Step>,
    /// What it is subscribed to at the end.
    pub subscriptions: Vec<Subscription>,
    /// What becomes of the event, on each channel that the client is subscribed to.
    pub event: Vec<EventResult>,
    pub deprecation: Option<Deprecation>,
    pub client: Option<Client>,
    pub limits: Vec<Limit>,
}

impl Answer {
    /// Of a path that is no route's.
    pub(super) fn elsewhere(path: &str, target: Target) -> Self {
        Self {
            path: path.to_owned(),
            outcome: match target {
                Target::Health
                | Target::Endpoint { .. }
                | Target::Fallback { .. }
                | Target::Tunnel { .. }
                | Target::Route { .. } => Outcome::NotAWebSocket,
                Target::Off { .. } | Target::Nothing { .. } => Outcome::refused(&Refusal::UnknownPath.into()),
            },
            target,
            values: Vec::new(),
            channel: None,
            checks: Vec::new(),
            is_live: false,
            steps: Vec::new(),
            subscriptions: Vec::new(),
            event: Vec::new(),
            deprecation: None,
            client: None,
            limits: Vec::new(),
        }
    }

    /// All that came of what the client sent, in order.
    pub fn effects(&self) -> impl DoubleEndedIterator<Item = &Effect> {
        self.steps.iter().flat_map(|step| &step.effects)
    }
}

/// What a path is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Route {
        name: String,
        /// As the file has it.
        path: String,
        line: Option<usize>,
    },
    /// A route that an old server goes on serving.
    Tunnel {
        name: String,
        /// As the file has it.
        path: String,
        /// The old server.
        to: String,
        line: Option<usize>,
    },
    /// `server.health_path`
    Health,
    /// One of `[endpoints]`.
    Endpoint { what: &'static str, line: Option<usize> },
    /// What no route has is passed on.
    Fallback {
        to: String,
        /// The path of the rule that says so.
        rule: Option<String>,
        line: Option<usize>,
    },
    /// A route that is off.
    Off {
        route: String,
        /// None of these has a value.
        variables: Vec<String>,
    },
    Nothing {
        /// A route's path that is nearly this one.
        nearest: Option<String>,
    },
}

/// A placeholder's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Value {
    pub name: String,
    pub value: String,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub verdict: CheckResult,
    /// The key of the file that asks for it.
    pub key: String,
    /// What was found.
    pub found: String,
    /// The line of the key; `None`: the file has it not, and the default counts.
    pub line: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    Passed,
    Failed,
    /// What it takes to tell was not given.
    Open,
}

/// What becomes of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The connection is there.
    Upgraded,
    /// The old server is asked: it has the say.
    PassedOn,
    /// It is there only to be told this.
    ToldByFrame { code: &'static str },
    /// There is none.
    Refused {
        /// The metrics' label.
        reason: &'static str,
        status: Option<u16>,
        why: String,
    },
    /// It is for something else.
    NotAWebSocket,
}

impl Outcome {
    pub(super) fn refused(refused: &ExplainedRefusal) -> Self {
        let ExplainedRefusal { refusal, why } = refused;
        Self::Refused { reason: refusal.label(), status: refusal.status(), why: why.to_string() }
    }
}

/// Something that the client sent, and what came of it.
#[derive(Debug, Serialize)]
pub struct Step {
    /// `None`: it has connected.
    pub sent: Option<String>,
    pub effects: Vec<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The client is sent this.
    Frame {
        text: String,
    },
    /// The client is sent this frame, which tells an error.
    Error {
        code: &'static str,
        text: String,
    },
    /// What became of its token.
    Token {
        result: &'static str,
        why: Option<String>,
    },
    Subscribed(Subscription),
    Unsubscribed {
        channel: String,
    },
    Published(Box<Published>),
    /// The message goes back to the client as it came.
    Echoed {
        text: String,
    },
    Closed {
        reason: &'static str,
        code: Option<u16>,
        text: &'static str,
    },
}

impl Effect {
    pub(super) fn error(code: ErrorCode, text: String) -> Self {
        Self::Error { code: code.as_str(), text }
    }

    pub(super) fn closed(reason: CloseReason) -> Self {
        Self::Closed { reason: reason.label(), code: reason.code(), text: reason.text() }
    }

    /// What the client is sent.
    #[must_use]
    pub fn frame(&self) -> Option<&str> {
        match self {
            Self::Frame { text } | Self::Error { text, .. } | Self::Echoed { text } => Some(text),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscription {
    pub channel: String,
    pub events: Wanted,
    /// The member as whom, where that is not this bridge for all.
    pub member: Option<String>,
}

/// Which events a subscription is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    All,
    /// Those whose field has this value.
    With {
        field: String,
        value: String,
    },
    /// None, before the client chooses.
    None,
}

/// What leaves for Pusher or a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    pub what: Outgoing,
    /// The place of the rule among the route's.
    pub rule: Option<usize>,
    pub line: Option<usize>,
    /// What other clients of the route see.
    pub neighbours_see: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outgoing {
    /// By the HTTP API.
    Event {
        channel: String,
        event: String,
        data: String,
        /// It is not published where nobody is subscribed.
        skip_if_empty: bool,
    },
    /// Over the connection that carries the channel.
    ClientEvent {
        channel: String,
        event: String,
        data: String,
        /// By whose connection, where it is not everybody's.
        member: Option<String>,
    },
    /// To a backend.
    Post {
        url: String,
        body: String,
        /// Names only.
        headers: Vec<String>,
        /// Its answer goes back to the sender.
        replies: bool,
    },
    /// Nothing: it is counted.
    Nothing,
}

/// What becomes of an event on one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventResult {
    pub channel: String,
    /// Whether it counts as written by a client.
    pub by_client: bool,
    pub fate: Fate,
    /// The place of the rule among the route's `events`.
    pub rule: Option<usize>,
    pub line: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The client gets this.
    Frame { text: String },
    /// A rule drops it.
    Dropped,
    /// The filter leaves it to others.
    NotForClient {
        field: String,
        /// What the event has there.
        value: Option<String>,
    },
    /// An event by this name is Pusher's own, and no client gets it.
    PushersOwn,
}

/// How far along the route is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deprecation {
    pub phase: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub line: Option<usize>,
}

/// Who asks, as it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    pub address: String,
    /// What limits by address count it as.
    pub counts_as: String,
    /// Then its forwarding header would name the client.
    pub is_trusted_proxy: bool,
}

/// One of the route's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub key: &'static str,
    pub what: String,
    /// `None`: the file has it not, and this is the default.
    pub line: Option<usize>,
}
