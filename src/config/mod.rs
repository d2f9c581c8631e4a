//! The configuration, validated: types that cannot be wrong. `raw` is what the file says, `load` reads it,
//! `validate` turns the one into the other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use self::origins::Origins;
use self::proxies::Proxies;
use crate::deprecation::Policy;
use crate::legacy::dialect::Dialect;
use crate::routes::{PathTemplate, Router};
use crate::template::{CharSet, Frame, Text};

mod describe;
pub mod diagnostics;
mod host;
mod interpolate;
mod load;
mod mask;
pub mod origins;
mod problems;
pub mod proxies;
mod quotes;
mod raw;
mod scalars;
mod schema;
mod secrets;
mod validate;

pub use describe::describe;
pub use diagnostics::{Diagnostic, Source};
pub use interpolate::Missing;
pub use load::{Environment, Loaded, load};
pub use schema::json_schema;

/// Everything that the file, the environment and the flags say.
#[derive(Debug)]
pub struct Config {
    /// Listening and its limits.
    pub server: Server,
    /// The Pusher side.
    pub upstream: Upstream,
    /// Token verification; `None` when no route needs it.
    pub auth: Option<Auth>,
    /// The routes, in the file's order; a route's `index` is its place here.
    pub routes: Vec<Arc<Route>>,
    /// Finds a route's index for a path.
    pub router: Router,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// Where old clients connect.
    pub listen: SocketAddr,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
    /// Names by which the admin address may be asked to do something, in lower case; addresses and loopback's names
    /// always are.
    pub admin_hosts: Vec<String>,
    /// A path of `listen` that tells load balancers whether new clients are welcome; `None`: there is none.
    pub health_path: Option<String>,
    /// Threads that serve clients; at least 1. Default: the machine's cores.
    pub workers: usize,
    /// Peers whose forwarding header is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Which header names the client behind a trusted proxy.
    pub forwarded: ForwardedHeader,
    /// So many first bits of an IPv6 address are one client: 32 to 128 (default 64).
    pub ipv6_prefix: u8,
    /// Connections at once, all together (default 18,000). More are answered 503 with `Retry-After`.
    pub connections_max: usize,
    /// Bytes held for all clients together: parts of messages that are not complete, and frames that their
    /// readers have not taken, a frame for many once (default 128 MiB, least 1 MiB).
    pub buffered_bytes_max: usize,
    /// From accept to the request's last header byte (default 10 s).
    pub header_timeout: Duration,
    /// Bytes of one request's head (default 16 KiB, least 8 KiB).
    pub header_bytes_max: usize,
    /// Header fields of one request (default 64).
    pub headers_max: usize,
    /// On shutdown, closes are spread over this window (default 10 s).
    pub close_window: Duration,
    /// After this long a shutdown is over, done or not (default 25 s).
    pub grace: Duration,
}

/// Which header a trusted proxy writes the client's address into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
    /// None: the peer is the client.
    None,
}

/// `[upstream]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The app's credentials and where it is.
    pub app: App,
    /// Shared connections; a hash of the channel picks one (default 1).
    pub connections: usize,
    /// Dialling, TLS and `pusher:connection_established` together (default 10 s).
    pub connect_timeout: Duration,
    /// From `pusher:subscribe` to its success (default 10 s).
    pub subscribe_timeout: Duration,
    /// How long a ping to Pusher may stay unanswered (default 30 s, Pusher's own advice).
    pub pong_timeout: Duration,
    /// How long a channel without subscribers stays subscribed (default 1 s).
    pub linger: Duration,
    /// How often it is checked whether Pusher has forgotten a subscription, or the connection (default 5 min);
    /// `None`: never.
    pub check_interval: Option<Duration>,
    /// Longest delay between reconnects (default 30 s).
    pub reconnect_delay_max: Duration,
    /// Largest data of an event, bytes (default 10,240, the hosted service's).
    pub event_bytes_max: usize,
    /// Largest frame accepted from upstream, bytes (default 256 KiB, or what holds the largest event).
    pub frame_bytes_max: usize,
    /// Publishing by HTTP.
    pub publish: Publish,
    /// Forward proxies, as the environment names them; for backends and keys as well.
    pub proxies: Arc<Proxies>,
}

/// A Pusher app: its credentials and its addresses.
#[derive(Clone, Debug)]
pub struct App {
    /// The app's id, in HTTP paths.
    pub id: String,
    /// The app's key: public.
    pub key: String,
    /// The app's secret.
    pub secret: SecretString,
    /// Where the WebSocket is.
    pub ws: Endpoint,
    /// Where the HTTP API is.
    pub api: Endpoint,
    /// `Origin` of the WebSocket's handshake; `None`: no such header.
    pub origin: Option<String>,
    /// PEM file of certificates to trust beside the built-in authorities: of other authorities, or the server's own.
    pub ca_file: Option<PathBuf>,
}

/// Where one side of a Pusher app is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    /// `None` is the scheme's own.
    pub port: Option<u16>,
    /// `wss` and `https`, or `ws` and `http`.
    pub tls: bool,
    /// What stands before the path: empty, or `/` and more, without one at its end.
    pub path: String,
}

impl Endpoint {
    /// Host and port as a URL has them; an IPv6 address in brackets (RFC 3986 §3.2.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        self.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
    }

    /// The URL before `/app/…` or `/apps/…`, with the plain scheme or its variant over TLS.
    #[must_use]
    pub fn base(&self, plain: &str, over_tls: &str) -> String {
        let scheme = if self.tls { over_tls } else { plain };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// `[upstream.publish]`
#[derive(Clone, Debug)]
pub struct Publish {
    /// Requests in flight at once; a hash of the channel picks the lane, so each channel keeps its order
    /// (default 4).
    pub lanes: usize,
    /// Messages waiting in one lane (default 1,000).
    pub queue_messages_max: usize,
    /// Bytes waiting in one lane (default 4 MiB).
    pub queue_bytes_max: usize,
    /// Events in one request, at most Pusher's own 10 (default 10). 1: `/events` is used, not `/batch_events`.
    pub batch_max: usize,
    /// One request (default 5 s).
    pub timeout: Duration,
    /// A message's whole life in its lane, retries included (default 30 s).
    pub deadline: Duration,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// The keys, tried in order among those whose algorithms have the token's.
    pub keys: Vec<AuthKey>,
    /// Clock difference forgiven for `exp` and `nbf` (default 10 s).
    pub leeway: Duration,
    /// Claim names.
    pub claims: ClaimNames,
    /// Longest token in bytes (default 8 KiB).
    pub token_bytes_max: usize,
    /// Wrong tokens from one client address, over all its connections (default 20 a minute).
    pub failures_per_address: Rate,
}

/// `[[auth.keys]]`: algorithms of one family, and where the key is.
#[derive(Clone, Debug)]
pub struct AuthKey {
    /// The algorithms this key may verify. All of one family (HMAC, RSA, EC or Ed).
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// Where it comes from.
    pub source: KeySource,
    /// Whose tokens it may verify: their `iss`, which must be there; empty: not checked. Its own, or those of
    /// `[auth]`.
    pub issuers: Vec<Arc<str>>,
    /// For whom its tokens must be: one of their `aud`, which must be there; empty: not checked. Its own, or those
    /// of `[auth]`.
    pub audiences: Vec<String>,
}

/// Where a verification key comes from.
#[derive(Clone)]
pub enum KeySource {
    /// A shared secret (HS256, HS384, HS512).
    Secret(SecretString),
    /// A public key or certificate in PEM, already read.
    Pem(String),
    /// A JWKS document, already read.
    JwksText(String),
    /// A JWKS document to fetch and keep fresh.
    JwksUrl {
        /// `https:`, or `http:` to a loopback or cluster-internal host.
        url: String,
        /// How long a fetched document is fresh (default 1 h).
        refresh: Duration,
        /// The least time between two fetches, whatever asks for them (default 10 s).
        refresh_min: Duration,
        /// How long after the last good answer its keys are believed (default 24 h, or twice `refresh` where that
        /// is longer).
        max_age: Duration,
    },
}

/// `auth.claims`. A name, or names with dots between for one within another.
#[derive(Clone, Debug)]
pub struct ClaimNames {
    /// The user's id (default `sub`).
    pub user: String,
    /// The user's role (default `role`).
    pub role: String,
    /// The permissions, an array or space-separated (default `permissions`).
    pub permissions: String,
}

/// A token bucket: `burst` at once, refilled with `count` per `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Refilled per period; at least 1.
    pub count: u32,
    /// The period.
    pub per: Duration,
    /// The bucket's size; at least 1.
    pub burst: u32,
}

/// `[[routes]]`: one old endpoint.
#[derive(Debug)]
pub struct Route {
    /// Place in [`Config::routes`].
    pub index: usize,
    /// The route's name: the label of its metrics.
    pub name: Arc<str>,
    /// The path.
    pub path: PathTemplate,
    /// The Pusher channel. With `{subscribe.x}` in it, it is chosen in band.
    pub channel: Text,
    /// Values that each in-band field may take; a field not listed may take any that is legal in a channel.
    pub subscribe_values: Vec<(String, Vec<String>)>,
    /// What other values may contain; the path's are in its template.
    pub value_sets: ValueSets,
    /// Routes of other rules that may have channels in common with this one.
    pub shares: Vec<Arc<str>>,
    /// How frames look.
    pub dialect: Arc<Dialect>,
    /// `None`: no authentication.
    pub auth: Option<RouteAuth>,
    /// Which events of the channel a client gets; `None`: all.
    pub filter: Option<Filter>,
    /// What clients may publish; the first rule that has the type is taken.
    pub publish: Vec<PublishRule>,
    /// Largest data of a published event, bytes: `upstream.event_bytes`.
    pub event_bytes_max: usize,
    /// Names that clients' events must not have: those of the server's frames, in the dialects of all routes that may
    /// share the channel.
    pub reserved: Vec<String>,
    /// Every client frame is returned to its sender, byte for byte, and nothing is published.
    pub echo: bool,
    /// Keep-alive.
    pub heartbeat: Heartbeat,
    /// Bounds.
    pub limits: Limits,
    /// The end of this endpoint; `None`: not deprecated.
    pub deprecation: Option<Policy>,
    /// How a refusal is told.
    pub refusal: Refusal,
    /// What a client is told when events may have been missed.
    pub on_gap: OnGap,
    /// Allowed `Origin`s; `None`: any. A request without `Origin` is no browser's and passes.
    pub origins: Option<Origins>,
    /// Subprotocols, of which the first that a client offers is selected.
    pub subprotocols: Vec<String>,
}

/// The characters that the values of placeholders may have, beside those of the path.
#[derive(Clone, Debug, Default)]
pub struct ValueSets {
    /// Of the user's id; a token of another user is refused. `None`: any.
    pub user: Option<CharSet>,
    /// Of in-band fields; one that is not here may have any.
    pub subscribe: Vec<(String, CharSet)>,
}

impl ValueSets {
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

    /// The name by which the route's clients know `channel`: what they chose, or the name itself.
    #[must_use]
    pub fn alias<'a>(&self, channel: &'a str) -> &'a str {
        if self.channel_is_chosen() { self.channel.invert(channel).unwrap_or(channel) } else { channel }
    }

    /// Whether the filter's value is chosen by in-band `subscribe` messages.
    #[must_use]
    pub fn filter_is_chosen(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| f.equals.subscribe_field().is_some())
    }
}

/// A route's `auth`.
#[derive(Clone, Debug)]
pub struct RouteAuth {
    /// All of these are needed.
    pub permissions: Vec<String>,
    /// All of these must hold.
    pub owns: Vec<Ownership>,
    /// From the connection's opening to an accepted token (default 30 s).
    pub deadline: Duration,
    /// Where a token may stand beside the `auth` message, in order.
    pub also_from: Vec<TokenPlace>,
}

/// Ties a claim to the path: the claim (a value or a list of values) must contain the filled text.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// The claim's name.
    pub claim: String,
    /// What it must contain.
    pub contains: Text,
}

/// Where in the upgrade request a token may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer …`
    Header,
    /// A query parameter of this name.
    Query(String),
    /// `Sec-WebSocket-Protocol: <name>, <token>`; the answer selects `<name>`.
    Subprotocol(String),
}

/// A route's `filter`: only events whose data has `field` equal to `equals`.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Members from the data's root to the value.
    pub field: Vec<String>,
    /// The value: a string's text or a number's digits.
    pub equals: Text,
}

/// One of a route's `publish` rules.
#[derive(Clone, Debug)]
pub struct PublishRule {
    /// Client message types; `*` is any.
    pub types: TypeSet,
    /// What becomes of them.
    pub action: PublishAction,
}

/// A set of message types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeSet {
    /// Every type but the dialect's own.
    Any,
    /// These.
    Listed(Vec<String>),
}

/// What becomes of a client message.
#[derive(Clone)]
pub enum PublishAction {
    /// An event on the client's channel.
    Trigger {
        /// The event's name (default `client-{type}`).
        event: Text,
        /// The event's data; `None`: the message's `data` where the frame has nothing else to say, else the
        /// whole frame.
        data: Option<Frame>,
        /// Whether old clients on this bridge see the name as sent, not as published.
        relay_as_sent: bool,
    },
    /// A POST to a backend.
    Post {
        /// The URL; values are percent-encoded into it.
        url: Text,
        /// The body.
        body: Frame,
        /// Further headers.
        headers: Vec<(String, SecretString)>,
        /// Statuses by which the backend says that it did not take the message, and may be asked again.
        retry_on: Vec<u16>,
    },
}

/// A route's `heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// In which form.
    pub kind: HeartbeatKind,
    /// The interval, jittered by ±10 % (default 30 s).
    pub every: Duration,
    /// Silence after which the connection is closed (default 75 s).
    pub timeout: Duration,
}

/// The form of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatKind {
    /// The dialect's `ping` frame.
    Json,
    /// A WebSocket ping (RFC 6455 §5.5.2).
    WebSocket,
    /// Both.
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
#[derive(Clone, Debug)]
pub struct Limits {
    /// Per user, over all routes of the same group; taken at authentication (default none).
    pub connections_per_user: Option<SlotLimit>,
    /// Per client address, over all routes of the same group; taken at the upgrade (default none).
    pub connections_per_address: Option<usize>,
    /// Per filled key; taken at authentication.
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

/// What slots are counted over. It reads as the name; a group and a route of one name are two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All routes of the group of this name.
    Group(Arc<str>),
    /// The route of this name, which has no group.
    Route(Arc<str>),
}

impl std::ops::Deref for Scope {
    type Target = str;

    fn deref(&self) -> &str {
        let (Self::Group(name) | Self::Route(name)) = self;
        name
    }
}

/// How many may hold a slot, and what a conflict does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimit {
    /// How many at once; at least 1.
    pub max: usize,
    /// What happens when all are taken.
    pub on_conflict: OnConflict,
    /// How long a probed holder has to answer (default 5 s).
    pub probe_timeout: Duration,
}

/// `limits.exclusive`
#[derive(Clone, Debug)]
pub struct Exclusive {
    /// What is counted.
    pub key: Text,
    /// How many.
    pub slots: SlotLimit,
}

/// What happens when all slots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The holders are pinged at once; one that does not answer is replaced, else the newcomer is refused.
    Probe,
    /// The newcomer is refused.
    Refuse,
    /// The oldest holder is closed.
    Replace,
}

/// How a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By HTTP status, before the upgrade.
    Http,
    /// By an error frame and, after `hold`, a close: a browser cannot read an HTTP refusal, and a client that
    /// is closed at once comes back at once.
    Frame {
        /// How long the connection is kept before the close (default 30 s).
        hold: Duration,
    },
}

/// What a client is told when upstream events may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing: counted and logged only.
    Ignore,
    /// An error frame with the code `EVENTS_MAY_BE_MISSING`.
    Notify,
    /// Closed with 1001, so that the client connects anew and fetches its state.
    Close,
}
