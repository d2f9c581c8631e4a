//! What `[[tests]]` says.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Bool, List, Str};
use crate::config::scalars::At;
use crate::config::schema as s;

/// What must become of a request, of a message or of an event. Serving knows nothing of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["name", "url"], "allOf" = s::test_forms()))]
pub(in crate::config) struct Test {
    /// What it shows; no other test has this name.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) name: Str,
    /// What a client asks for: a path with its query, or ws://HOST/PATH.
    #[schemars(extend("pattern" = s::TEST_URL))]
    pub(in crate::config) url: Str,
    /// What its token says, as if one of the keys had signed it; exp, iss and aud are added where they are left out. Left
    /// out: it has no token.
    #[schemars(with = "Option<s::Claims>")]
    pub(in crate::config) claims: Option<At<toml::Table>>,
    /// The page that it is of.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) origin: Str,
    /// When, RFC 3339. Left out: when it is run.
    #[schemars(extend("pattern" = s::DATE))]
    pub(in crate::config) at: Str,
    /// What the client sends before.
    pub(in crate::config) send: List,
    /// What the client sends.
    pub(in crate::config) message: Str,
    /// An event of its channel.
    pub(in crate::config) event: Option<At<TestEvent>>,
    /// The route that is to be asked.
    #[schemars(extend("pattern" = s::NAME))]
    pub(in crate::config) route: Str,
    /// A channel that the client is to be subscribed to.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) channel: Str,
    /// A frame that the client is to get; {now} in it is the time.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) frame: Str,
    /// What the message is to become.
    pub(in crate::config) publish: Option<At<TestPublish>>,
    /// How it is to be refused: a reason as in metrics, or an error's code.
    pub(in crate::config) refusal: Str,
    /// The old server that is to get it, as the route's `to` or the fallback has it.
    #[schemars(extend("pattern" = s::UPSTREAM))]
    pub(in crate::config) tunnel: Str,
    /// Whether nothing is to come of it: no frame, and nothing published.
    pub(in crate::config) nothing: Bool,
}

/// An event of the client's channel.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(in crate::config) struct TestEvent {
    /// Its name.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) name: Str,
    /// Its data, as its publisher writes them. Left out: {}.
    pub(in crate::config) data: Str,
}

/// What a message is to become. What is left out may be anything.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(in crate::config) struct TestPublish {
    /// The event's channel.
    pub(in crate::config) channel: Str,
    /// The event's name.
    pub(in crate::config) event: Str,
    /// The event's data; {now} in it is the time.
    pub(in crate::config) data: Str,
    /// The backend's URL.
    pub(in crate::config) post: Str,
    /// The body; {now} in it is the time.
    pub(in crate::config) body: Str,
}
