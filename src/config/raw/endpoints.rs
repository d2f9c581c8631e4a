//! What `[endpoints]` says.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{List, Num, RateOrNone, Str};
use crate::config::scalars::At;
use crate::config::schema as s;

/// What new clients and publishers may ask for, at the address where old clients connect. Each is on when it is here.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Endpoints {
    /// Paths where new clients have channels authorized (default none).
    #[schemars(extend("uniqueItems" = true, "items" = s::endpoint_path()))]
    pub(in crate::config) channel_auth: List,
    /// A path where new clients have their sign-in authorized; "" is none (default none).
    #[schemars(extend("pattern" = s::ENDPOINT_PATH, "not" = s::plain(r"/\.{1,2}(/|$)")))]
    pub(in crate::config) user_auth: Str,
    /// A path for Pusher's webhooks; "" is none (default none).
    #[schemars(extend("pattern" = s::ENDPOINT_PATH, "not" = s::plain(r"/\.{1,2}(/|$)")))]
    pub(in crate::config) webhooks: Str,
    /// Where backends publish.
    pub(in crate::config) notify: Option<At<Notify>>,
    /// Origins whose pages may ask from elsewhere (default none).
    #[schemars(extend("items" = s::pattern(s::ORIGIN)))]
    pub(in crate::config) origins: List,
    /// Routes whose channels are authorized although they filter them: new clients get all events (default none).
    #[schemars(extend("uniqueItems" = true, "items" = s::pattern(s::NAME)))]
    pub(in crate::config) filtered: List,
    /// What is told of who signs in, where no route has the channel #server-to-user: JSON with {claim.NAME}.
    #[schemars(extend("allOf" = s::user_info()))]
    pub(in crate::config) user_info: Str,
    /// The claim with the ids of those whom such a user watches.
    #[schemars(extend("pattern" = s::MEMBER))]
    pub(in crate::config) watchlist: Str,
    /// Bounds.
    pub(in crate::config) limits: Option<EndpointLimits>,
}

/// Where backends publish.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["path"], "not" = s::both(&["token", "token_file"])))]
pub(in crate::config) struct Notify {
    /// The path.
    #[schemars(extend("pattern" = s::HEALTH_PATH, "not" = s::plain(r"/\.{1,2}(/|$)")))]
    pub(in crate::config) path: Str,
    /// What backends send as `Authorization: Bearer`; without, or with "", there is no such endpoint.
    pub(in crate::config) token: Str,
    /// A file with this token.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) token_file: Str,
}

/// `[endpoints.limits]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct EndpointLimits {
    /// Largest body of a request, bytes; six times upstream.event_bytes and 4096 at least (default 262144).
    #[schemars(extend("minimum" = 10_240, "maximum" = 67_108_864))]
    pub(in crate::config) body_bytes: Num,
    /// Bytes of bodies held at once, for all requests together; body_bytes at least (default 16777216).
    #[schemars(extend("minimum" = 10_240, "maximum" = 1_099_511_627_776_u64))]
    pub(in crate::config) bodies_bytes: Num,
    /// From a request's head to the last byte of its body, at most 8s (default 3s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) body_timeout: Str,
    /// How long a channel is believed to be empty after a webhook said so (default 1h).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) vacated_max_age: Str,
    /// Requests of one address without a right token or signature (default 600 a minute).
    pub(in crate::config) unproven_per_address: RateOrNone,
    /// Requests of one user (default 600 a minute).
    pub(in crate::config) requests_per_user: RateOrNone,
}
