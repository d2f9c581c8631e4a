//! What `[auth]` says, and a route's `auth`.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::limits::rate::Rate;
use crate::template::Text;

/// `[auth]`
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The keys, tried in order among those whose algorithms have the token's.
    pub keys: Vec<AuthKey>,
    /// Clock difference forgiven for `exp` and `nbf` (default 10 s).
    pub leeway: Duration,
    pub claims: ClaimNames,
    /// Longest token in bytes (default 8 KiB).
    pub token_bytes_max: usize,
    /// Wrong tokens from one client address, over all its connections (default 20 a minute).
    pub failures_per_address: Rate,
}

/// `[[auth.keys]]`: algorithms of one family, and where the key is.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthKey {
    /// The algorithms this key may verify. All of one family (HMAC, RSA, EC or Ed).
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
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

impl PartialEq for KeySource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Secret(secret), Self::Secret(other)) => secret.expose_secret() == other.expose_secret(),
            (Self::Pem(text), Self::Pem(other)) | (Self::JwksText(text), Self::JwksText(other)) => {
                text == other
            }
            (
                Self::JwksUrl { url, refresh, refresh_min, max_age },
                Self::JwksUrl {
                    url: other,
                    refresh: other_refresh,
                    refresh_min: other_min,
                    max_age: other_max,
                },
            ) => (url, refresh, refresh_min, max_age) == (other, other_refresh, other_min, other_max),
            (Self::Secret(_) | Self::Pem(_) | Self::JwksText(_) | Self::JwksUrl { .. }, _) => false,
        }
    }
}

/// `auth.claims`. A name, or names with dots between for one within another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// The user's id (default `sub`).
    pub user: String,
    /// The user's role (default `role`).
    pub role: String,
    /// The permissions, an array or space-separated (default `permissions`).
    pub permissions: String,
}

/// A route's `auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAuth {
    /// All of these are needed.
    pub permissions: Vec<String>,
    /// All of these must hold.
    pub owns: Vec<Ownership>,
    /// From the connection's opening to an accepted token (default 30 s).
    pub deadline: Duration,
    /// Where a token may be besides the `auth` message, in order.
    pub also_from: Vec<TokenPlace>,
}

/// Ties a claim to the path: the claim (a value or a list of values) must contain the filled text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub claim: String,
    pub contains: Text,
}

/// Where in the upgrade request a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer …`
    Header,
    /// A query parameter of this name.
    Query(String),
    /// `Sec-WebSocket-Protocol: <name>, <token>`; the answer selects `<name>`.
    Subprotocol(String),
}
