//! `[auth]` and its keys

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::{POSITIVE, member_or, rate, unknown};
use crate::auth::check_key;
use crate::auth::settings::{AuthKey, ClaimNames, KeySource, Settings};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::{At, Either};
use crate::limits::rate::Rate;
use crate::net::host;

const LEEWAY: Duration = Duration::from_secs(10);
/// "No more than a few minutes" (RFC 7519 §4.1.4): every token lives that much longer.
const LEEWAY_MAX: Duration = Duration::from_secs(600);
const TOKEN_BYTES: usize = 8 * 1024;
const FAILURES: Rate = Rate { count: 20, per: Duration::from_secs(60), burst: 20 };
const REFRESH: Duration = Duration::from_secs(3600);
const REFRESH_LEAST: Duration = Duration::from_secs(10);
const JWKS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

pub(super) fn auth(problems: &mut Problems<'_>, raw: &raw::Auth) -> Settings {
    let no_claims = raw::Claims::default();
    let claims = raw.claims.as_ref().unwrap_or(&no_claims);
    let common = Common {
        issuers: issuers(problems, raw.issuer.as_ref()),
        audiences: names(problems, raw.audience.as_ref()),
    };
    Settings {
        keys: raw.keys.iter().flatten().filter_map(|key| self::key(problems, key, &common)).collect(),
        leeway: problems.duration_up_to(raw.leeway.as_ref(), LEEWAY_MAX, LEEWAY),
        claims: ClaimNames {
            user: member_or(problems, claims.user.as_ref(), "sub"),
            role: member_or(problems, claims.role.as_ref(), "role"),
            permissions: member_or(problems, claims.permissions.as_ref(), "permissions"),
        },
        token_bytes_max: problems.number(raw.token_bytes.as_ref(), 64..=65_536, TOKEN_BYTES),
        failures_per_address: raw
            .failures_per_address
            .as_ref()
            .map_or(FAILURES, |raw| rate(problems, raw, FAILURES)),
    }
}

/// What `[auth]` says for keys that do not say it themselves.
struct Common {
    issuers: Vec<Arc<str>>,
    audiences: Vec<String>,
}

fn issuers(problems: &mut Problems<'_>, raw: Option<&At<Either<String, Vec<String>>>>) -> Vec<Arc<str>> {
    names(problems, raw).into_iter().map(Arc::from).collect()
}

fn names(problems: &mut Problems<'_>, raw: Option<&At<Either<String, Vec<String>>>>) -> Vec<String> {
    let Some(raw) = raw else { return Vec::new() };
    let names: Vec<String> = match raw.get() {
        Either::Short(one) => vec![one.clone()],
        Either::Long(many) => many.clone(),
    };
    // An empty list would check nothing, by accident.
    if names.is_empty() || names.iter().any(String::is_empty) {
        problems.at(raw.span(), "must not be empty; leave the key out where nothing is to be checked");
    }
    if names.iter().any(|name| name.trim() != name) {
        problems.at(raw.span(), "has white space around it, and would be compared with it");
    }
    names
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Hmac,
    Rsa,
    Ec,
    Ed,
}

fn algorithm(raw: raw::Algorithm) -> (Algorithm, Family) {
    use raw::Algorithm as R;
    match raw {
        R::HS256 => (Algorithm::HS256, Family::Hmac),
        R::HS384 => (Algorithm::HS384, Family::Hmac),
        R::HS512 => (Algorithm::HS512, Family::Hmac),
        R::ES256 => (Algorithm::ES256, Family::Ec),
        R::ES384 => (Algorithm::ES384, Family::Ec),
        R::RS256 => (Algorithm::RS256, Family::Rsa),
        R::RS384 => (Algorithm::RS384, Family::Rsa),
        R::RS512 => (Algorithm::RS512, Family::Rsa),
        R::PS256 => (Algorithm::PS256, Family::Rsa),
        R::PS384 => (Algorithm::PS384, Family::Rsa),
        R::PS512 => (Algorithm::PS512, Family::Rsa),
        R::EdDSA => (Algorithm::EdDSA, Family::Ed),
    }
}

fn key(problems: &mut Problems<'_>, at: &At<raw::AuthKey>, common: &Common) -> Option<AuthKey> {
    let (raw, before) = (at.get(), problems.len());
    let mut family = None;
    let mut algorithms = Vec::new();
    for named in raw.algorithms.iter().flatten() {
        let Some(known) = raw::Algorithm::of(named.get()) else {
            let message = format!("unknown value `{}`", named.get());
            unknown(problems, named.span(), message, named.get(), raw::Algorithm::WORDS);
            continue;
        };
        let (algorithm, its_family) = self::algorithm(known);
        if *family.get_or_insert(its_family) != its_family {
            problems.with_help(
                named.span(),
                "the algorithms of one key must be of one family",
                "a secret that also verifies RS256 is the key confusion attack; write a second [[auth.keys]]",
            );
        }
        algorithms.push(algorithm);
    }
    let source = source(problems, at);
    if raw.algorithms.as_ref().is_none_or(Vec::is_empty) {
        problems.with_help(at.span(), "a key needs `algorithms`", "for example algorithms = [\"HS256\"]");
    }
    let own_issuers = raw.issuer.as_ref().map(|own| issuers(problems, Some(own)));
    let own_audiences = raw.audience.as_ref().map(|own| names(problems, Some(own)));
    let ((source, place), family) = (source?, family?);
    match (&source, family) {
        (KeySource::Secret(_), Family::Hmac) => {}
        (KeySource::Secret(_), _) => {
            problems.at(
                place.span(),
                "a secret verifies HS256, HS384 and HS512 only; these algorithms need a public key",
            );
        }
        (_, Family::Hmac) => {
            problems
                .at(place.span(), "HS256, HS384 and HS512 need `secret` or `secret_file`, not a public key");
        }
        _ => {}
    }
    let key = AuthKey {
        algorithms,
        source,
        issuers: own_issuers.unwrap_or_else(|| common.issuers.clone()),
        audiences: own_audiences.unwrap_or_else(|| common.audiences.clone()),
    };
    // Last, by the code that will use it: what loads can serve.
    if problems.len() == before
        && !problems.stands_in(&place.span())
        && let Err(message) = check_key(&key)
    {
        problems.at(place.span(), message);
    }
    Some(key)
}

fn source<'r>(problems: &mut Problems<'_>, at: &'r At<raw::AuthKey>) -> Option<(KeySource, &'r At<String>)> {
    let raw = at.get();
    let all = [
        ("secret", &raw.secret),
        ("secret_file", &raw.secret_file),
        ("pem", &raw.pem),
        ("pem_file", &raw.pem_file),
        ("jwks", &raw.jwks),
        ("jwks_file", &raw.jwks_file),
        ("jwks_url", &raw.jwks_url),
    ];
    let given: Vec<(&str, &At<String>)> =
        all.iter().filter_map(|(name, value)| value.as_ref().map(|value| (*name, value))).collect();
    let (name, value) = match given.as_slice() {
        [] => {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            problems.at(at.span(), format!("a key needs one of `{}`", names.join("`, `")));
            return None;
        }
        [one] => *one,
        [(first, _), (second, place), ..] => {
            problems.at(place.span(), format!("`{first}` and `{second}` are both set: leave one out"));
            return None;
        }
    };
    if name != "jwks_url"
        && let Some(place) = raw.refresh.as_ref().or(raw.refresh_min.as_ref()).or(raw.jwks_max_age.as_ref())
    {
        problems.at(place.span(), "`refresh`, `refresh_min` and `jwks_max_age` go with `jwks_url`");
    }
    let value = problems.text(Some(value))?;
    let source = read(problems, name, value, raw)?;
    Some((source, value))
}

fn read(
    problems: &mut Problems<'_>,
    name: &str,
    value: &At<String>,
    raw: &raw::AuthKey,
) -> Option<KeySource> {
    if name == "jwks_url" {
        return jwks_url(problems, value, raw);
    }
    if name == "secret" {
        return Some(KeySource::Secret(problems.secret(value)));
    }
    if name == "secret_file" {
        return Some(KeySource::Secret(problems.secret_file(value)?));
    }
    let text = if name.ends_with("_file") { problems.file(value)? } else { value.get().clone() };
    match name.trim_end_matches("_file") {
        "pem" => {
            if !text.contains("-----BEGIN ") || text.contains("PRIVATE KEY-----") {
                problems.at(
                    value.span(),
                    "this is not a public key or certificate in PEM (`-----BEGIN PUBLIC KEY-----`)",
                );
            }
            Some(KeySource::Pem(text))
        }
        _ => {
            if let Err(error) = serde_json::from_str::<jsonwebtoken::jwk::JwkSet>(&text) {
                problems.at(value.span(), format!("this is not a JWKS document: {}", told(&error)));
            }
            Some(KeySource::JwksText(text))
        }
    }
}

/// serde's error without what it found, which is a key or a part of one.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if ["invalid ", "unknown ", "duplicate "].iter().any(|quotes| text.starts_with(quotes)) {
        return format!("a value of a wrong kind at line {} column {}", error.line(), error.column());
    }
    text
}

fn jwks_url(problems: &mut Problems<'_>, value: &At<String>, raw: &raw::AuthKey) -> Option<KeySource> {
    let url = value.get();
    let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => {
            problems.at(value.span(), "a URL starts with `https://`");
            return None;
        }
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match host::authority(authority) {
        Err(why) => problems.at(value.span(), format!("the JWKS URL is not one: {why}")),
        Ok(authority) if !tls && !is_internal(authority.host) => problems.with_help(
            value.span(),
            "keys fetched by plain http can be replaced on the way",
            "use https; http is for loopback and for names inside of a cluster (keys, keys.auth.svc)",
        ),
        Ok(_) => {
            if let Err((_, why)) = host::check_target(target) {
                problems.at(value.span(), format!("the JWKS URL is not one: {why}"));
            }
        }
    }
    let kept = raw.jwks_max_age.as_ref().map(|raw| problems.duration(Some(raw), POSITIVE, JWKS_MAX_AGE));
    // Fetched again while they are still valid.
    let refresh = kept.map_or(REFRESH, |kept| REFRESH.min(kept / 2).max(POSITIVE));
    let refresh = problems.duration(raw.refresh.as_ref(), POSITIVE, refresh);
    let max_age = kept.unwrap_or(JWKS_MAX_AGE.max(refresh * 2));
    if max_age < refresh
        && let Some(place) = raw.jwks_max_age.as_ref()
    {
        problems.with_help(
            place.span(),
            "`jwks_max_age` must not be shorter than `refresh`",
            "or keys are given up before they are asked for again",
        );
    }
    let refresh_min = problems.duration(raw.refresh_min.as_ref(), POSITIVE, REFRESH_LEAST.min(refresh));
    if refresh_min > refresh
        && let Some(place) = raw.refresh_min.as_ref().or(raw.refresh.as_ref())
    {
        problems.at(place.span(), "`refresh_min` must not be longer than `refresh`");
    }
    Some(KeySource::JwksUrl { url: url.clone(), refresh, refresh_min, max_age })
}

/// Loopback, or a name that only resolves inside of a cluster or a host.
fn is_internal(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.is_loopback();
    }
    !host.contains('.')
        || [".svc", ".svc.cluster.local", ".local", ".internal", ".localhost"]
            .iter()
            .any(|s| host.ends_with(s))
}
