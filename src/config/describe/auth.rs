//! `[auth]`, and a route's `auth`

use std::fmt::Write as _;

use super::{Lines, duration, mask, rate, urls};
use crate::auth::settings::{AuthKey, ClaimNames, KeySource, Ownership, RouteAuth, Settings, TokenPlace};

pub(super) fn tokens(out: &mut Lines, settings: &Settings) {
    let Settings { keys, leeway, claims, token_bytes_max, failures_per_address } = settings;
    let ClaimNames { user, role, permissions } = claims;
    for (index, key) in keys.iter().enumerate() {
        out.fact(if index == 0 { "tokens" } else { "" }, self::key(key));
    }
    out.more(format!(
        "claims: user {user}, role {role}, permissions {permissions}; {} of clock difference; {token_bytes_max} bytes a \
         token; wrong ones per address {}",
        duration(*leeway),
        rate(Some(*failures_per_address)),
    ));
}

fn key(key: &AuthKey) -> String {
    let AuthKey { algorithms, source, issuers, audiences } = key;
    let algorithms: Vec<String> = algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
    let mut text = format!("{} by ", algorithms.join(", "));
    match source {
        KeySource::Secret(_) => text.push_str("a secret"),
        KeySource::Pem(_) => text.push_str("a public key"),
        KeySource::JwksText(_) => text.push_str("a JWKS document"),
        KeySource::JwksUrl { url, refresh, refresh_min, max_age } => {
            let _ = write!(
                text,
                "{}, fetched every {} and at least {} apart, believed for {}",
                mask::url(url),
                duration(*refresh),
                duration(*refresh_min),
                duration(*max_age)
            );
        }
    }
    if !issuers.is_empty() {
        let _ = write!(text, "; of issuer {}", urls(issuers));
    }
    if !audiences.is_empty() {
        let _ = write!(text, "; for audience {}", urls(audiences));
    }
    text
}

pub(super) fn route(auth: Option<&RouteAuth>) -> String {
    let Some(RouteAuth { permissions, owns, deadline, also_from }) = auth else { return "none".to_owned() };
    let mut text = format!("a token within {}", duration(*deadline));
    if !permissions.is_empty() {
        let _ = write!(text, "; permissions {}", permissions.join(", "));
    }
    for Ownership { claim, contains } in owns {
        let _ = write!(text, "; {claim} must contain {}", contains.source());
    }
    for place in also_from {
        match place {
            TokenPlace::Header => text.push_str("; also from Authorization"),
            TokenPlace::Query(name) => _ = write!(text, "; also from ?{name}="),
            TokenPlace::Subprotocol(name) => _ = write!(text, "; also from the subprotocol {name}"),
        }
    }
    text
}
