//! A token becomes claims: which keys, which checks, and who may use a route.
//!
//! The algorithms come from the configuration: a token's header only chooses among them, and a key can only
//! be used with those of its own kind. The time is an argument.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

mod claims;
mod identity;
mod judge;
mod jwks;
mod keys;
pub mod metrics;
mod mint;
mod permits;
pub mod settings;
mod token_error;
mod verifier;

pub use claims::{Claims, accepted};
pub use identity::Identity;
pub use judge::Judge;
pub use jwks::{JWKS_BYTES_MAX, JWKS_TIMEOUT};
pub use keys::{AuthConfigError, JWKS_KEYS_MAX};
pub use mint::{completed_claims, mint_hs256};
pub use permits::{Denied, contained, has_permission, has_permissions, owns};
pub use token_error::{TokenError, TokenResult};
pub use verifier::{Verifier, Verify, check_key, unverified};

/// The token in what a client sent: without surrounding spaces and without a leading `Bearer ` in any case.
#[must_use]
pub fn strip_bearer(text: &str) -> &str {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        _ => text,
    }
}

/// The same, where there is one: `Bearer` alone, and nothing, is none.
#[must_use]
pub fn token_in(text: &str) -> Option<&str> {
    Some(strip_bearer(text)).filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case("bearer"))
}

/// Whether `text` looks like a token: three parts of base64url, of which the signature may be empty, and the first is a
/// JSON object (RFC 7515 §3.1, §4). Nothing else can be verified: `wamp.2.json`, `1.2.3` and opaque sessions are not.
#[must_use]
pub fn looks_like_a_token(text: &str) -> bool {
    let mut parts = text.split('.');
    let base64url = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let needed = |part: &&str| !part.is_empty() && base64url(part);
    let Some(header) = parts.next() else { return false };
    parts.next().as_ref().is_some_and(needed)
        && parts.next().is_some_and(base64url)
        && parts.next().is_none()
        && URL_SAFE_NO_PAD.decode(header).is_ok_and(|header| is_json_object(&header))
}

fn is_json_object(text: &[u8]) -> bool {
    /// Whose members nobody asks for.
    #[derive(serde::Deserialize)]
    struct Object {}
    // An array would pass for a struct without members.
    text.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<Object>(text).is_ok()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod tests_support {
    use super::Claims;
    use crate::auth::settings::ClaimNames;

    /// Claims as a verified token gives them; `more` is a JSON object of further claims.
    pub(crate) fn claims(user: &str, permissions: &[&str], expires_at_unix: i64, more: &str) -> Claims {
        let mut all: serde_json::Value = serde_json::from_str(more).unwrap();
        all["sub"] = user.into();
        all["role"] = "teacher".into();
        all["permissions"] = permissions.into();
        all["exp"] = expires_at_unix.into();
        let names = ClaimNames { user: "sub".into(), role: "role".into(), permissions: "permissions".into() };
        Claims::parse(all.to_string(), &names).unwrap()
    }
}
