//! What the file says, key by key. The comments become the schema's descriptions. Everything is optional
//! here; what is needed, and what goes together, is said by `validate` with the place in the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

mod app_key;
mod endpoints;
mod fallback;
mod route;
mod server;
mod tests;

pub(super) use app_key::OtherKey;
pub(super) use endpoints::{EndpointLimits, Endpoints, Notify};
pub(super) use fallback::{Fallback, FallbackLimits, FallbackRule};
pub(super) use route::{Deprecation, Events, Filter, Heartbeat, Limits, Publish, Route, Shared};
pub(super) use server::{Server, ServerLimits, Shutdown, Tls};
pub(super) use tests::{Test, TestPublish};

use super::scalars::{At, Either, Flag, Number, Unlimited, choice};
use super::schema as s;

type Str = Option<At<String>>;
type Num = Option<At<Number>>;
type Bool = Option<At<Flag>>;
type List = Option<Vec<At<String>>>;
type OneOrMany = Option<At<Either<String, Vec<String>>>>;
type RateOrNone = Option<At<Either<Unlimited, Rate>>>;
type Slots = Option<At<Either<Number, SlotLimit>>>;

choice! {
    /// `server.forwarded_header`
    ForwardedHeader { XForwardedFor = "x-forwarded-for", Forwarded = "forwarded", None = "none" }
}
choice! {
    /// `server.proxy_protocol`
    ProxyProtocol { Off = "off", Required = "required" }
}
choice! {
    /// `heartbeat.kind`
    HeartbeatKind { Json = "json", WebSocket = "websocket", Both = "both", None = "none" }
}
choice! {
    /// `on_conflict`
    OnConflict { Probe = "probe", Refuse = "refuse", Replace = "replace" }
}
choice! {
    /// `refusal`
    Refusal { Http = "http", Frame = "frame" }
}
choice! {
    /// `mode`
    Mode { Relay = "relay", Tunnel = "tunnel" }
}
choice! {
    /// `slash`
    Slash { Exact = "exact", Either = "either" }
}
choice! {
    /// `in.binary`
    Binary { Refuse = "refuse", Json = "json" }
}
choice! {
    /// `on_gap`
    OnGap { Ignore = "ignore", Notify = "notify", Close = "close" }
}
choice! {
    /// `on_undecryptable`
    OnUndecryptable { Drop = "drop", Notify = "notify", Close = "close" }
}
choice! {
    /// `presence`
    Presence { EachUser = "each_user", Observe = "observe" }
}
choice! {
    /// `deprecation.after_sunset`
    AfterSunset { Serve = "serve", Refuse = "refuse" }
}
choice! {
    /// `publish.relay`
    Relay { AsPublished = "as_published", AsSent = "as_sent" }
}
choice! {
    /// `publish.via`
    Via { Api = "api", ClientEvent = "client_event", Drop = "drop" }
}
choice! {
    /// `pusher_events`
    PusherEvent { SubscriptionCount = "subscription_count", Watchlist = "watchlist" }
}
choice! {
    /// `publish.reply`
    Reply { None = "none", Json = "json" }
}
choice! {
    /// An algorithm of RFC 7518 or RFC 8037; there is no `none`.
    Algorithm {
        HS256 = "HS256", HS384 = "HS384", HS512 = "HS512", ES256 = "ES256", ES384 = "ES384", RS256 = "RS256",
        RS384 = "RS384", RS512 = "RS512", PS256 = "PS256", PS384 = "PS384", PS512 = "PS512", EdDSA = "EdDSA",
    }
}

/// The file, apart from `defaults`, `groups` and `routes`, which are merged first.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    pub(super) server: Option<Server>,
    pub(super) upstream: Option<At<Upstream>>,
    pub(super) auth: Option<At<Auth>>,
    pub(super) dialects: Option<BTreeMap<At<String>, At<Dialect>>>,
    pub(super) endpoints: Option<Endpoints>,
    pub(super) fallback: Option<At<Fallback>>,
    pub(super) tests: Option<Vec<At<Test>>>,
}

/// routes.toml of pusher-bridge: which old WebSocket endpoint is carried to which Pusher channel, and how.
/// In every string, ${NAME} is replaced from the environment, ${NAME:-x} falls back to x, $${ is a plain ${.
#[derive(JsonSchema)]
#[allow(dead_code)]
#[schemars(deny_unknown_fields, rename = "routes.toml")]
#[schemars(extend("required" = ["upstream", "routes"]))]
pub(super) struct File {
    /// Listening, and the limits of it.
    server: Option<Server>,
    /// The Pusher side.
    upstream: Option<Upstream>,
    /// How tokens are verified.
    auth: Option<Auth>,
    /// Families of old clients, by name.
    #[schemars(extend("propertyNames" = s::name()))]
    dialects: Option<BTreeMap<String, Dialect>>,
    /// What new clients and publishers may ask for.
    endpoints: Option<Endpoints>,
    /// Where requests go that no route takes.
    fallback: Option<Fallback>,
    /// What all routes share.
    defaults: Option<Shared>,
    /// What the routes of a group share, by the group's name.
    #[schemars(extend("propertyNames" = s::name()))]
    groups: Option<BTreeMap<String, Shared>>,
    /// The old endpoints.
    #[schemars(extend("minItems" = 1))]
    routes: Option<Vec<Route>>,
    /// What must become of requests, messages and events: `pusher-bridge test` looks whether it does.
    tests: Option<Vec<Test>>,
}

/// The Pusher side.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["app_id", "key"], "oneOf" = s::one_of(&["secret", "secret_file"])))]
#[schemars(extend("anyOf" = s::upstream_places(), "not" = s::both(s::MASTER_KEYS)))]
pub(super) struct Upstream {
    /// The app's id.
    #[schemars(extend("pattern" = s::ID))]
    pub(super) app_id: Str,
    /// The app's key.
    #[schemars(extend("pattern" = s::ID))]
    pub(super) key: Str,
    /// The app's secret.
    #[schemars(extend("minLength" = 1))]
    pub(super) secret: Str,
    /// A file with the app's secret.
    #[schemars(extend("minLength" = 1))]
    pub(super) secret_file: Str,
    /// Other keys of the same app, at most 8: while one takes another's place, webhooks by either are taken.
    #[schemars(extend("maxItems" = 8))]
    pub(super) other_keys: Option<Vec<At<OtherKey>>>,
    /// The master key of encrypted channels: base64 of 32 bytes (default none).
    #[schemars(extend("pattern" = s::MASTER_KEY))]
    pub(super) encryption_master_key: Str,
    /// A file with the master key of encrypted channels (default none).
    pub(super) encryption_master_key_file: Str,
    /// The cluster of the hosted service: mt1, eu, ap1 and so on.
    #[schemars(extend("pattern" = s::CLUSTER))]
    pub(super) cluster: Str,
    /// The host of a self-hosted, Pusher-compatible server, in place of the cluster.
    #[schemars(extend("pattern" = s::HOST))]
    pub(super) host: Str,
    /// Its port (default: the scheme's).
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub(super) port: Num,
    /// wss and https, or ws and http (default true).
    pub(super) tls: Bool,
    /// What a proxy puts before the server's paths: "/pusher" (default nothing).
    #[schemars(extend("pattern" = s::PREFIX))]
    pub(super) path: Str,
    /// The WebSocket's host, where it is not `host`.
    #[schemars(extend("pattern" = s::HOST))]
    pub(super) ws_host: Str,
    /// The WebSocket's port, where it is not `port`.
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub(super) ws_port: Num,
    /// wss or ws, where it is not as `tls` says.
    pub(super) ws_tls: Bool,
    /// What stands before the WebSocket's path, where it is not `path`.
    #[schemars(extend("pattern" = s::PREFIX))]
    pub(super) ws_path: Str,
    /// The HTTP API's host, where it is not `host`.
    #[schemars(extend("pattern" = s::HOST))]
    pub(super) api_host: Str,
    /// The HTTP API's port, where it is not `port`.
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub(super) api_port: Num,
    /// https or http, where it is not as `tls` says.
    pub(super) api_tls: Bool,
    /// What stands before the HTTP API's paths, where it is not `path`.
    #[schemars(extend("pattern" = s::PREFIX))]
    pub(super) api_path: Str,
    /// The Origin header of the WebSocket's handshake, for servers that ask for one (default none).
    #[schemars(extend("pattern" = s::OWN_ORIGIN))]
    pub(super) origin: Str,
    /// PEM file of certificates to trust beside the built-in authorities: of authorities, or the server's own.
    pub(super) ca_file: Str,
    /// Shared connections (default 1).
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub(super) connections: Num,
    /// A second connection beside each shared one, subscribed to the same channels: whichever brings an event first wins,
    /// and when one is lost nothing is missed. Twice the connections and deliveries at Pusher (default false).
    pub(super) standby: Bool,
    /// Dialling, TLS and the first frame together (default 10s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) connect_timeout: Str,
    /// From a subscription to its confirmation (default 10s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) subscribe_timeout: Str,
    /// How long a ping to Pusher may stay unanswered (default 30s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) pong_timeout: Str,
    /// How long a channel without subscribers stays subscribed (default 1s).
    #[schemars(extend("pattern" = s::DURATION_OR_ZERO))]
    pub(super) linger: Str,
    /// How often it is checked whether the server has forgotten a subscription, or the connection (default 5m; 0s: never).
    #[schemars(extend("pattern" = s::DURATION_OR_ZERO))]
    pub(super) check_interval: Str,
    /// Longest delay between reconnects (default 30s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) reconnect_delay_max: Str,
    /// Users on presence and user channels at once; each has a connection to Pusher of its own, which counts in its plan
    /// (default 500).
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub(super) members_max: Num,
    /// How quickly users' connections are dialled, all together (default 50 a second).
    pub(super) member_dials: Option<At<Rate>>,
    /// As which member the bridge watches presence channels, on routes whose users are none.
    pub(super) observer: Option<At<Observer>>,
    /// Largest data of an event, bytes; a dedicated or self-hosted server may take more (default 10240).
    #[schemars(extend("minimum" = 1024, "maximum" = 8_388_608))]
    pub(super) event_bytes: Num,
    /// Largest frame accepted from upstream, bytes; six times event_bytes and 4096 at least (default 262144).
    #[schemars(extend("minimum" = 10_240, "maximum" = 67_108_864))]
    pub(super) frame_bytes: Num,
    /// Publishing by HTTP.
    pub(super) publish: Option<UpstreamPublish>,
}

/// `[upstream.publish]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamPublish {
    /// Requests in flight at once; each channel stays in one lane (default 4).
    #[schemars(extend("minimum" = 1, "maximum" = 256))]
    pub(super) lanes: Num,
    /// Messages waiting in one lane (default 1000).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(super) queue_messages: Num,
    /// Bytes waiting in one lane (default 4194304).
    #[schemars(extend("minimum" = 16384, "maximum" = 1_073_741_824))]
    pub(super) queue_bytes: Num,
    /// Events in one request; Pusher takes at most 10 (default 10). With 1, /events is used, not /batch_events.
    #[schemars(extend("minimum" = 1, "maximum" = 10))]
    pub(super) batch: Num,
    /// One request (default 5s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) timeout: Str,
    /// A message's whole life, retries included (default 30s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) deadline: Str,
}

/// The member that the bridge is, for users who only watch.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Observer {
    /// Its id (default pusher-bridge).
    #[schemars(extend("minLength" = 1, "maxLength" = 128))]
    pub(super) user_id: Str,
    /// What other members are told of it: JSON (default {}).
    #[schemars(extend("minLength" = 1, "maxLength" = 1024))]
    pub(super) user_info: Str,
}

/// How tokens are verified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    /// Clock difference forgiven for exp and nbf (default 10s).
    #[schemars(extend("pattern" = s::DURATION_OR_ZERO))]
    pub(super) leeway: Str,
    /// Accepted `iss`, one or a list, of keys that have none of their own (default: not checked).
    #[schemars(extend("minItems" = 1, "minLength" = 1))]
    pub(super) issuer: OneOrMany,
    /// Accepted `aud`, one or a list, of keys that have none of their own (default: not checked).
    #[schemars(extend("minItems" = 1, "minLength" = 1))]
    pub(super) audience: OneOrMany,
    /// Claim names.
    pub(super) claims: Option<Claims>,
    /// Longest token in bytes (default 8192).
    #[schemars(extend("minimum" = 64, "maximum" = 65536))]
    pub(super) token_bytes: Num,
    /// Wrong tokens from one client address, over all its connections (default 20 a minute).
    pub(super) failures_per_address: Option<At<Rate>>,
    /// The keys, tried in order among those whose algorithms have the token's.
    pub(super) keys: Option<Vec<At<AuthKey>>>,
}

/// Claim names; a.b is b within a.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Claims {
    /// The user's id (default sub).
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(super) user: Str,
    /// The user's role (default role).
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(super) role: Str,
    /// The permissions, an array or space-separated (default permissions).
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(super) permissions: Str,
}

/// A key, and the algorithms that it may verify.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["algorithms"], "oneOf" = s::one_of(s::KEY_SOURCES), "allOf" = s::key_rules()))]
pub(super) struct AuthKey {
    /// Algorithms of one family: HS*, RS* and PS*, ES*, or EdDSA.
    #[schemars(extend("minItems" = 1, "anyOf" = s::algorithm_families()))]
    #[schemars(with = "Option<Vec<Algorithm>>")]
    pub(super) algorithms: List,
    /// A shared secret, for HS*.
    #[schemars(extend("minLength" = 1))]
    pub(super) secret: Str,
    /// A file with a shared secret.
    pub(super) secret_file: Str,
    /// A public key or certificate in PEM.
    #[schemars(extend("pattern" = s::PEM, "not" = s::plain("PRIVATE KEY-----")))]
    pub(super) pem: Str,
    /// A file with a public key or certificate in PEM.
    pub(super) pem_file: Str,
    /// A JWKS document (RFC 7517).
    #[schemars(extend("minLength" = 1))]
    pub(super) jwks: Str,
    /// A file with a JWKS document.
    pub(super) jwks_file: Str,
    /// Where a JWKS document is fetched; https, or http to a loopback or cluster-internal host.
    #[schemars(extend("pattern" = s::JWKS_URL))]
    pub(super) jwks_url: Str,
    /// How long a fetched document is fresh (default 1h).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) refresh: Str,
    /// The least time between two fetches (default 10s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) refresh_min: Str,
    /// How long after the last good answer its keys are believed (default 24h).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) jwks_max_age: Str,
    /// Whose tokens this key may verify: their `iss`, one or a list (default: that of [auth]).
    #[schemars(extend("minItems" = 1, "minLength" = 1))]
    pub(super) issuer: OneOrMany,
    /// For whom its tokens must be: their `aud`, one or a list (default: that of [auth]).
    #[schemars(extend("minItems" = 1, "minLength" = 1))]
    pub(super) audience: OneOrMany,
}

/// One family of old clients: what its control messages are called and what its frames look like.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["out"]))]
pub(super) struct Dialect {
    /// What clients send.
    #[serde(rename = "in")]
    pub(super) incoming: Option<DialectIn>,
    /// What clients are sent.
    pub(super) out: Option<At<DialectOut>>,
    /// Subprotocols that these clients may be told, unless a route says others (default none).
    #[schemars(extend("uniqueItems" = true, "items" = s::pattern(s::SUBPROTOCOL)))]
    pub(super) subprotocols: List,
    /// Error codes that go by other names here.
    #[schemars(with = "Option<s::ErrorCodes>")]
    pub(super) error_codes: Option<BTreeMap<At<String>, At<String>>>,
}

/// The control messages of a dialect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DialectIn {
    /// The field that tells messages apart; a.b is b within a (default type).
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(super) type_field: Str,
    /// The message that carries a token.
    pub(super) auth: Option<At<AuthMessage>>,
    /// The message that chooses a channel or a filter's value.
    pub(super) subscribe: Option<At<Message>>,
    /// Its opposite.
    pub(super) unsubscribe: Option<At<Message>>,
    /// An answer to our ping.
    pub(super) pong: Option<At<Message>>,
    /// A ping of the client's own.
    pub(super) ping: Option<At<Message>>,
    /// Plain texts that only keep the connection open, and the text each is answered by; "" is no answer.
    #[schemars(with = "Option<s::Keepalives>")]
    pub(super) keepalives: Option<BTreeMap<At<String>, At<String>>>,
    /// refuse: binary messages are answered by an error. json: they are read as text ones. (default refuse)
    pub(super) binary: Option<At<Binary>>,
}

/// A control message.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["type"]))]
pub(super) struct Message {
    /// Its type.
    #[serde(rename = "type")]
    #[schemars(extend("minLength" = 1))]
    pub(super) message_type: Str,
}

/// The message that carries a token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["type"]))]
pub(super) struct AuthMessage {
    /// Its type.
    #[serde(rename = "type")]
    #[schemars(extend("minLength" = 1))]
    pub(super) message_type: Str,
    /// The field with the token; a.b is b within a (default token).
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(super) token: Str,
}

/// The frames of a dialect: JSON with {placeholders}.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["event", "error"]))]
pub(super) struct DialectOut {
    /// An event of a channel: {event}, {channel}, {data}, {sender} (the member who sent it, or null), {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::EVENT)))]
    pub(super) event: Str,
    /// A token was accepted: {user}, {role}, {permissions}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::AUTH_OK)))]
    pub(super) auth_ok: Str,
    /// A token was refused: {code}, {message}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::AUTH_ERROR)))]
    pub(super) auth_error: Str,
    /// Any other refusal: {code}, {message}, {details}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::ERROR)))]
    pub(super) error: Str,
    /// Heartbeat: {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::PING)))]
    pub(super) ping: Str,
    /// Answer to a client's own ping: {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::PING)))]
    pub(super) pong: Str,
    /// A backend's answer, of a rule with reply = "json": {data}, {type}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::REPLY)))]
    pub(super) reply: Str,
    /// An in-band subscription is confirmed: {channel}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::SUBSCRIBED)))]
    pub(super) subscribed: Str,
    /// An in-band subscription is over, or was none: {channel}, {now}. Left out: nothing is sent.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::SUBSCRIBED)))]
    pub(super) unsubscribed: Str,
    /// Who is on a presence channel, once it is subscribed: {count}, {members} (an array of {"id","info"}), {channel},
    /// {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::MEMBERS)))]
    pub(super) members: Str,
    /// A member has come: {member_id}, {info}, {channel}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::MEMBER)))]
    pub(super) member_added: Str,
    /// A member has left: {member_id}, {info} (what was told of him), {channel}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::MEMBER)))]
    pub(super) member_removed: Str,
    /// A cache channel has no last event: {channel}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::SUBSCRIBED)))]
    pub(super) cache_miss: Str,
}

/// A token bucket: `burst` at once, refilled with `count` per `per`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["count", "per"]))]
pub(super) struct Rate {
    /// Refilled per period.
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000_000))]
    pub(super) count: Num,
    /// The period.
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) per: Str,
    /// How many may come at once (default: count).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000_000))]
    pub(super) burst: Num,
}

/// How many may hold a slot, and what a conflict does.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["max"]))]
pub(super) struct SlotLimit {
    /// How many at once.
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(super) max: Num,
    /// probe: the holders are pinged, one that does not answer is replaced. refuse: the newcomer is refused.
    /// replace: the oldest holder is closed. (default probe)
    pub(super) on_conflict: Option<At<OnConflict>>,
    /// How long a probed holder has to answer (default 5s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) probe_timeout: Str,
}

/// A slot per filled key.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["key"]))]
pub(super) struct Exclusive {
    /// What is counted, with {placeholders} of the path or {auth.user}.
    #[schemars(extend("pattern" = s::TEXT))]
    pub(super) key: Str,
    /// How many at once (default 1).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(super) max: Num,
    /// probe, refuse or replace (default probe).
    pub(super) on_conflict: Option<At<OnConflict>>,
    /// How long a probed holder has to answer (default 5s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(super) probe_timeout: Str,
}
