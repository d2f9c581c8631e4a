//! A token becomes claims: which keys, which checks, and who may use a route.
//!
//! The algorithms come from the configuration: a token's header only chooses among them, and a key can only
//! be used with those of its own kind. The time is an argument.

mod claims;
mod jwks;
mod keys;
mod mint;
mod permits;
mod refused;
mod verifier;

pub use claims::Claims;
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
