//! Pure: whom a token speaks for.

use std::sync::Arc;

/// A user: who says so, and by what name. One subject of two issuers is two users.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The token's `iss`, where the key that verified it is bound to issuers; else `None`.
    pub issuer: Option<Arc<str>>,
    /// The user's id within it.
    pub subject: String,
}
