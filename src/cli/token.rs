//! `token`: tokens for development made, and any judged or looked into.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret as _;

use super::judge::Judge;
use super::{Failure, MintArgs, TokenCommand, VerifyArgs, block_on, load, moment, print, process_env};
use crate::auth::settings::{AuthKey, KeySource, Settings};
use crate::auth::{accepted, completed_claims, mint_hs256, strip_bearer, unverified};
use crate::clock::Now;
use crate::config::Loaded;
use crate::json::Object;
use crate::text::printable;

/// Most bytes of a token that is read from standard input.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// Longest time for which a token is made.
const EXPIRES_MAX: Duration = Duration::from_secs(366 * 86_400);

pub(super) fn run(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Mint(args) => mint(args),
        TokenCommand::Verify(args) => verify(args),
        TokenCommand::Inspect { token } => inspect(&given(token)?),
    }
}

/// The token of an argument, or of standard input; without `Bearer`.
fn given(token: &str) -> Result<String, Failure> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(Failure::runtime)?;
    }
    Ok(strip_bearer(&text).to_owned())
}

// --------------------------------------------------------------------------------------------------- mint

fn mint(args: &MintArgs) -> Result<(), Failure> {
    let loaded = load(&args.config.config, &process_env)?;
    let (settings, key, secret) = key(&loaded)?;
    let now = Now::read();
    let claims = claims(args, settings, key, now)?;
    let token = mint_hs256(secret.as_bytes(), &claims);
    if let Err(why) = accepted(settings, &claims, now) {
        return Err(Failure::runtime(format!("serving would not accept this token: {why}")));
    }
    if token.len() > settings.token_bytes_max {
        return Err(Failure::runtime("the token would be longer than auth.token_bytes_max"));
    }
    print(&format!("{token}\n"))
}

/// The first key that can sign: a secret for HS256.
fn key(loaded: &Loaded) -> Result<(&Settings, &AuthKey, &str), Failure> {
    let refuse = || {
        Failure::runtime(
            "there is no HS256 secret among auth.keys, and only such a key can sign: other tokens are their issuer's to make",
        )
    };
    let settings = loaded.config.auth.as_ref().ok_or_else(refuse)?;
    let signs = |key: &&AuthKey| key.algorithms.contains(&Algorithm::HS256);
    let mut secrets = settings.keys.iter().filter(signs).filter_map(|key| match &key.source {
        KeySource::Secret(secret) => Some((key, secret.expose_secret())),
        _ => None,
    });
    let (key, secret) = secrets.next().ok_or_else(refuse)?;
    let place = settings.keys.iter().position(|known| std::ptr::eq(known, key)).unwrap_or_default();
    let within = format!("auth.keys[{place}].");
    if let Some(missing) = loaded.missing.iter().find(|missing| missing.key.starts_with(&within)) {
        return Err(Failure::config(format!(
            "error: no token can be made: {} is not set ({}, line {})\n",
            missing.name, missing.key, missing.line
        )));
    }
    Ok((settings, key, secret))
}

/// The claims as JSON: what the flags say, what `--claims` says, and what any token has.
fn claims(args: &MintArgs, settings: &Settings, key: &AuthKey, now: Now) -> Result<String, Failure> {
    let more = args.claims.as_deref().unwrap_or("{}");
    let object = Object::parse(more).map_err(|_| Failure::usage("`--claims` must be a JSON object"))?;
    let names = &settings.claims;
    let permissions = serde_json::Value::from(args.permission.clone());
    let flags = [
        (&names.user, args.user.clone().map(serde_json::Value::from)),
        (&names.role, args.role.clone().map(serde_json::Value::from)),
        (&names.permissions, (!args.permission.is_empty()).then_some(permissions)),
    ];
    let mut json = String::from("{");
    for (name, value) in flags {
        let Some(value) = value else { continue };
        if object.get(name).is_some() {
            return Err(Failure::usage(format!("`--claims` has `{name}` too")));
        }
        // A claim of that very name comes first, dots and all.
        let _ = write!(json, "{}:{value},", serde_json::Value::from(name.as_str()));
    }
    for (name, value) in object.members() {
        let _ = write!(json, "{}:{value},", serde_json::Value::from(name));
    }
    let json = json.trim_end_matches(',').to_owned() + "}";
    let expires = now.plus(expires(&args.expires)?).unix_seconds();
    let issuer = key.issuers.first().map(|issuer| &**issuer);
    Ok(completed_claims(&json, expires, issuer, key.audiences.first().map(String::as_str)))
}

fn expires(text: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::usage("`--expires` is a time as in the file: 30s, 5m, 1h or 7d, at most 366d");
    crate::config::duration(text).filter(|time| !time.is_zero() && *time <= EXPIRES_MAX).ok_or_else(wrong)
}

// ------------------------------------------------------------------------------------------------- verify

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let loaded = load(&args.config.config, &process_env)?;
    let (token, now) = (given(&args.token)?, moment(args.at.as_deref())?);
    if loaded.config.auth.is_none() {
        return Err(Failure::runtime("there is no [auth]: no route judges tokens"));
    }
    let verdict = block_on(async {
        let mut judge = Judge::new(&loaded)?;
        judge.with(now, |verdict| verdict(&token)).await
    })?;
    match verdict {
        Ok(claims) => {
            let left = claims.expires_at_unix.saturating_sub(now.unix_seconds());
            let mut out = format!("accepted\n  user         {}\n", printable(&claims.user));
            for (label, value) in [("issuer", claims.issuer.as_deref()), ("role", claims.role.as_deref())] {
                if let Some(value) = value {
                    let _ = writeln!(out, "  {label:<13}{}", printable(value));
                }
            }
            let _ = writeln!(out, "  key          auth.keys[{}]", claims.key);
            let _ = writeln!(out, "  permissions  {}", printable(&claims.permissions_json));
            let _ = writeln!(out, "  expires      {} ({left} s from then)", date(claims.expires_at_unix));
            print(&out)
        }
        Err(why) => {
            print(&format!(
                "refused\n  result       {}\n  why          {}\n",
                why.result().label(),
                printable(&why.to_string())
            ))?;
            Err(Failure { message: String::new(), code: super::EXIT_FAILURE })
        }
    }
}

// ------------------------------------------------------------------------------------------------ inspect

fn inspect(token: &str) -> Result<(), Failure> {
    let Some((header, payload)) = unverified(token) else {
        return Err(Failure::runtime(
            "this is not a token: three parts of base64url with a `.` between, of JSON",
        ));
    };
    let mut out = String::from("NOT VERIFIED: anybody can write this\n");
    let _ = writeln!(out, "  header       {}", printable(&header));
    let _ = writeln!(out, "  claims       {}", printable(&payload));
    if let Ok(object) = Object::parse(&payload) {
        for name in ["iat", "nbf", "exp"] {
            if let Some(at) = object.get(name).and_then(|text| text.parse::<f64>().ok()) {
                #[allow(clippy::cast_possible_truncation)] // It saturates.
                let _ = writeln!(out, "  {name:<13}{}", date(at as i64));
            }
        }
    }
    print(&out)
}

fn date(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map_or_else(|_| unix_seconds.to_string(), |at| at.to_string())
}
