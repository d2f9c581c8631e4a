//! What `[[routes]]`, `[groups.NAME]` and `[defaults]` say.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    AfterSunset, Bool, Exclusive, HeartbeatKind, List, Mode, Num, OnGap, OnUndecryptable, Presence,
    PusherEvent, Rate, RateOrNone, Refusal, Relay, Reply, Slash, Slots, Str, Via,
};
use crate::config::scalars::{At, Number};
use crate::config::schema as s;

type ByPlaceholder = BTreeMap<At<String>, At<Vec<At<String>>>>;

/// A route's bounds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Of a route with mode = "tunnel" at once; more are answered 503 (default none).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) connections: Num,
    /// Per user, over all routes of the same group (default none).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) connections_per_user: Slots,
    /// Per client address, over all routes of the same group (default none).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) connections_per_address: Num,
    /// A slot per filled key (default none).
    pub(in crate::config) exclusive: Option<Exclusive>,
    /// Client messages per connection, pongs excepted (default 100 a minute).
    pub(in crate::config) messages: RateOrNone,
    /// Client messages per user, over all routes of the same group (default none).
    pub(in crate::config) messages_per_user: RateOrNone,
    /// auth messages per connection (default 5 a minute).
    pub(in crate::config) auth_attempts: RateOrNone,
    /// Pongs and control frames per connection; above, it is closed (default 600 a minute).
    pub(in crate::config) control_frames: Option<At<Rate>>,
    /// Largest client message in bytes (default 65536; with mode = "tunnel" none).
    #[schemars(extend("minimum" = 1, "maximum" = 67_108_864))]
    pub(in crate::config) message_bytes: Num,
    /// Deepest nesting of a client message (default 64).
    #[schemars(extend("minimum" = 1, "maximum" = 127))]
    pub(in crate::config) depth: Num,
    /// In-band subscriptions of one connection (default 100).
    #[schemars(extend("minimum" = 1, "maximum" = 10000))]
    pub(in crate::config) subscriptions: Num,
    /// Frames waiting for a slow reader (default 1024).
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(in crate::config) outbox_frames: Num,
    /// Bytes waiting for a slow reader (default 1048576).
    #[schemars(extend("minimum" = 16384, "maximum" = 1_073_741_824))]
    pub(in crate::config) outbox_bytes: Num,
}

/// Who may connect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RouteAuth {
    /// Whether a token is needed (default false).
    pub(in crate::config) required: Bool,
    /// All of these are needed.
    #[schemars(extend("items" = {"type": "string", "minLength": 1}))]
    pub(in crate::config) permissions: List,
    /// All of these must hold.
    pub(in crate::config) owns: Option<Vec<At<Owns>>>,
    /// From the connection's opening to an accepted token (default 30s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) deadline: Str,
    /// Where a token may stand beside the auth message: header, query:NAME, subprotocol:NAME.
    #[schemars(extend("items" = s::pattern(s::TOKEN_PLACE)))]
    pub(in crate::config) also_from: List,
}

/// Ties a claim to the path: the claim (a value or a list) must contain the filled text.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["claim", "contains"]))]
pub(in crate::config) struct Owns {
    /// The claim's name; a.b is b within a.
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(in crate::config) claim: Str,
    /// What it must contain, with {placeholders} of the path.
    #[schemars(extend("pattern" = s::TEXT))]
    pub(in crate::config) contains: Str,
}

/// Only events whose data has `field` equal to `equals`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["field", "equals"]))]
pub(in crate::config) struct Filter {
    /// The member of the event's data; a.b is b within a.
    #[schemars(extend("pattern" = s::FIELD))]
    pub(in crate::config) field: Str,
    /// Its value, with {placeholders} of the path, {subscribe.NAME} or {auth.user}.
    #[schemars(extend("pattern" = s::TEXT_SUBSCRIBE))]
    pub(in crate::config) equals: Str,
}

/// What clients may publish; the first rule that has the type is taken.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["types"], "oneOf" = s::publish_forms(), "allOf" = s::event_rules()))]
pub(in crate::config) struct Publish {
    /// Client message types; "*" is any.
    #[schemars(extend("minItems" = 1, "anyOf" = s::publish_types()))]
    pub(in crate::config) types: List,
    /// api: as an event, by the HTTP API. client_event: as one that a client sends, over the link. drop: nowhere, and the
    /// sender is not told. (default api)
    pub(in crate::config) via: Option<At<Via>>,
    /// The event's channel, where it is not the route's, with {placeholders} as there.
    #[schemars(extend("allOf" = s::channel()))]
    pub(in crate::config) channel: Str,
    /// The event's name (default client-{type}).
    #[schemars(extend("pattern" = s::EVENT, "not" = s::plain(r"^pusher(_internal)?:")))]
    pub(in crate::config) event: Str,
    /// The event's data: {data}, {frame}, {type}, {user}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::BODY)))]
    pub(in crate::config) data: Str,
    /// Whether old clients on this bridge see the name as published or as sent (default as_published).
    pub(in crate::config) relay: Option<At<Relay>>,
    /// Whether nothing is published to a channel that webhooks say has no subscriber (default false).
    pub(in crate::config) skip_if_empty: Bool,
    /// A backend to POST to, in place of an event.
    #[schemars(extend("pattern" = s::POST_URL))]
    pub(in crate::config) post: Str,
    /// The body: {data}, {frame}, {type}, {user}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::BODY)))]
    pub(in crate::config) body: Str,
    /// Whether the backend's answer, JSON, goes back to the sender: none or json (default none).
    pub(in crate::config) reply: Option<At<Reply>>,
    /// Statuses by which the backend says that it did not take the message: it is sent again (default none).
    #[schemars(extend("uniqueItems" = true, "items" = s::status()))]
    pub(in crate::config) retry_on: Option<Vec<At<Number>>>,
    /// Further headers.
    #[schemars(with = "Option<s::Headers>")]
    pub(in crate::config) headers: Option<BTreeMap<At<String>, At<String>>>,
}

/// What clients get of the channel's events; the first rule that matches an event's name is taken.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["match"], "oneOf" = s::event_forms()))]
pub(in crate::config) struct Events {
    /// The name that the event was published by; a * is any text, or none.
    #[serde(rename = "match")]
    #[schemars(extend("pattern" = s::EVENT_NAME))]
    pub(in crate::config) names: Str,
    /// Its name for clients; a * is what the other one stands for.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = s::EVENT_NAME, "not" = s::plain(r"^pusher(_internal)?:")))]
    pub(in crate::config) name: Str,
    /// Its data for clients: {data}, {event}, {channel}, {sender}, {now}.
    #[schemars(extend("allOf" = s::frame(crate::legacy::dialect::Frames::RESHAPED)))]
    pub(in crate::config) data: Str,
    /// Whether clients do not get it.
    pub(in crate::config) drop: Bool,
}

/// Keep-alive.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Heartbeat {
    /// json: the dialect's ping. websocket: a WebSocket ping. (default websocket)
    pub(in crate::config) kind: Option<At<HeartbeatKind>>,
    /// The interval (default 30s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) every: Str,
    /// Silence after which the connection is closed (default 75s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) timeout: Str,
}

/// The end of an endpoint.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Deprecation {
    /// Since when it is deprecated, RFC 3339.
    #[schemars(extend("pattern" = s::DATE))]
    pub(in crate::config) deprecated_at: Str,
    /// When it ends, RFC 3339.
    #[schemars(extend("pattern" = s::DATE))]
    pub(in crate::config) sunset_at: Str,
    /// serve, or refuse with 410 Gone (default serve).
    pub(in crate::config) after_sunset: Option<At<AfterSunset>>,
    /// About the deprecation.
    #[schemars(extend("pattern" = s::LINK))]
    pub(in crate::config) documentation: Str,
    /// About the sunset.
    #[schemars(extend("pattern" = s::LINK))]
    pub(in crate::config) sunset_policy: Str,
    /// What replaces it.
    #[schemars(extend("pattern" = s::LINK))]
    pub(in crate::config) successor: Str,
}

/// A route's own keys, and those that it may share with its group and all others.
macro_rules! route_keys {
    ($(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(extend("not" = s::publish_on_echo()))]
        $(#[$meta])*
        pub(in crate::config) struct $name {
            $($own)*
            /// The name of the dialect.
            #[schemars(extend("pattern" = s::NAME))]
            pub(in crate::config) dialect: Str,
            /// Who may connect.
            pub(in crate::config) auth: Option<RouteAuth>,
            /// Which events a client gets (default all).
            pub(in crate::config) filter: Option<Filter>,
            /// What clients may publish (default nothing).
            pub(in crate::config) publish: Option<Vec<At<Publish>>>,
            /// What clients get of the channel's events (default all, as they are).
            pub(in crate::config) events: Option<Vec<At<Events>>>,
            /// Which of Pusher's own events clients get: subscription_count, watchlist (default none).
            #[schemars(extend("uniqueItems" = true))]
            pub(in crate::config) pusher_events: Option<Vec<At<PusherEvent>>>,
            /// Every client frame is returned to its sender, byte for byte (default false).
            pub(in crate::config) echo: Bool,
            /// Keep-alive.
            pub(in crate::config) heartbeat: Option<Heartbeat>,
            /// Bounds.
            pub(in crate::config) limits: Option<Limits>,
            /// The end of this endpoint.
            pub(in crate::config) deprecation: Option<Deprecation>,
            /// How a refusal is told: by HTTP status, or by an error frame (default http).
            pub(in crate::config) refusal: Option<At<Refusal>>,
            /// With refusal = "frame": how long the connection is kept before the close (default 30s).
            #[schemars(extend("pattern" = s::DURATION_OR_ZERO))]
            pub(in crate::config) refusal_hold: Str,
            /// What a client is told when events may have been missed (default ignore).
            pub(in crate::config) on_gap: Option<At<OnGap>>,
            /// What a client is told when an event cannot be decrypted: drop is nothing (default drop).
            pub(in crate::config) on_undecryptable: Option<At<OnUndecryptable>>,
            /// Whether a path that differs by the `/` at its end is another one: exact or either (default exact).
            pub(in crate::config) slash: Option<At<Slash>>,
            /// Subprotocols, of which the first that a client offers is told to it (default the dialect's).
            #[schemars(extend("uniqueItems" = true, "items" = s::pattern(s::SUBPROTOCOL)))]
            pub(in crate::config) subprotocols: List,
            /// Allowed origins; an empty list is none (default any).
            #[schemars(extend("items" = s::pattern(s::ORIGIN)))]
            pub(in crate::config) origins: List,
            /// Values that each field of an in-band subscribe message may take; a `*` at the end is one or more
            /// characters (default any legal one).
            #[schemars(with = "Option<s::SubscribeValues>")]
            pub(in crate::config) subscribe: Option<ByPlaceholder>,
        }
    };
}

route_keys! {
    /// What several routes share.
    #[allow(dead_code)] // Deserialized for its mistakes only; what is merged are the tables.
    Shared {}
}
route_keys! {
    /// One old endpoint.
    #[schemars(extend("required" = ["name", "path"]))]
    #[schemars(extend("if" = s::is_tunnel(), "then" = s::tunnel(), "else" = s::relay()))]
    Route {
        /// The route's name, the label of its metrics.
        #[schemars(extend("pattern" = s::NAME))]
        pub(in crate::config) name: Str,
        /// The group whose keys it shares.
        #[schemars(extend("pattern" = s::NAME))]
        pub(in crate::config) group: Str,
        /// A text, as a rule ${NAME:-}: the route exists only when it is not empty.
        #[allow(dead_code)] // Looked at before variables are filled in (`enabled.rs`).
        pub(in crate::config) enabled_with: Str,
        /// The path; {name} is a whole segment, {name:[a-z0-9]+} one of these characters.
        #[schemars(extend("pattern" = s::PATH, "not" = s::plain(r"/\.{1,2}(/|$)")))]
        pub(in crate::config) path: Str,
        /// What serves it. relay: Pusher. tunnel: the old server, to which all passes as it is. (default relay)
        pub(in crate::config) mode: Option<At<Mode>>,
        /// With mode = "tunnel": the old server, http://HOST[:PORT] or https://HOST[:PORT]. Without it, what [fallback] has
        /// for the path.
        #[schemars(extend("pattern" = s::UPSTREAM_OR_NONE))]
        pub(in crate::config) to: Str,
        /// The Pusher channel, with {placeholders} of the path, {subscribe.NAME} or {auth.user}; or #server-to-user: what
        /// backends send to the client's user.
        #[schemars(extend("anyOf" = s::route_channel()))]
        pub(in crate::config) channel: Str,
        /// Who the members of a `presence-` channel are, and needed there. each_user: every user is one, by a connection to
        /// Pusher of his own. observe: this bridge is one, and its clients are none.
        pub(in crate::config) presence: Option<At<Presence>>,
        /// What is told of a user, JSON with {claim.NAME} and {auth.user}; a claim that is not there is null. Without it
        /// nothing is told.
        #[schemars(extend("allOf" = s::user_info()))]
        pub(in crate::config) user_info: Str,
        /// The claim with the ids of the users whose coming and going a user is told; a.b is b within a.
        #[schemars(extend("pattern" = s::MEMBER))]
        pub(in crate::config) watchlist: Str,
        /// What values of placeholders may contain, as in `[a-z0-9]+`: of the path's, `auth.user`, `subscribe.NAME`.
        #[schemars(with = "Option<s::ValueSets>")]
        pub(in crate::config) values: Option<BTreeMap<At<String>, At<String>>>,
        /// Values that placeholders must not have; a `*` at the end is one or more characters: of the path's,
        /// `auth.user`, `subscribe.NAME` (default none).
        #[schemars(with = "Option<s::ExcludedValues>")]
        pub(in crate::config) exclude: Option<ByPlaceholder>,
        /// Routes of other rules that may have channels in common with this one (default none).
        #[schemars(extend("items" = s::pattern(s::NAME)))]
        pub(in crate::config) shares: List,
    }
}
