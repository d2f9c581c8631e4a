//! A token becomes claims: which keys, which checks, and who may use a route.
//!
//! The algorithms come from the configuration: a token's header only chooses among them, and a key can only
//! be used with those of its own kind. The time is an argument.

mod claims;
mod identity;
mod jwks;
mod keys;
mod mint;
mod permits;
mod refused;
mod verifier;

pub use claims::Claims;
pub use identity::Identity;
pub use jwks::{FetchObserver, JWKS_BYTES_MAX, JWKS_TIMEOUT};
pub use keys::{AuthConfigError, JWKS_KEYS_MAX};
pub use mint::mint_hs256;
pub use permits::{Denied, permits};
pub use refused::Refused;
pub use verifier::{Verifier, Verify, check_key};

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

/// Whether `text` looks like a token: three parts of base64url (RFC 7515 §3.1), of which the signature may be empty.
/// Nothing else can be verified.
#[must_use]
pub fn looks_like_a_token(text: &str) -> bool {
    let mut parts = text.split('.');
    let base64url = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let needed = |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && base64url(part));
    needed(parts.next())
        && needed(parts.next())
        && parts.next().is_some_and(base64url)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod tests_support {
    use super::Claims;
    use crate::config::ClaimNames;

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
